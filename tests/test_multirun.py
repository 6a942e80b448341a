"""A multirun from its beginning to its end, and taken up again: its cells, its name, its table.

The launcher is the tests' own: it leaves the golden cell's record for each job, or another fate.
Everything else is real: the agenda, the folders, the store.
"""

import contextlib
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, make_cell, make_config
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from greenlab import config as configuration
from greenlab import record, resume, run
from greenlab import sweep as sweeps
from greenlab.config import Config, Mlflow
from greenlab.errors import ConfigError, OutputError
from greenlab.grid import Combination
from greenlab.metrics import metrics
from greenlab.multirun import Launch, Multirun
from greenlab.record import Claim, Failure, Record
from greenlab.run import Place
from greenlab.tracking import Store, open_store

GOLDEN = record.read_record(ROOT / "tests" / "golden")
assert GOLDEN.environment is not None
HERE = Place(machine=GOLDEN.environment.machine, commit=GOLDEN.environment.commit)
SIZES = ("16", "32", "64")


class Lab:
    """A folder with a store, in which sweeps of three batch sizes begin."""

    def __init__(self, workplace: Path) -> None:
        self.folder = workplace
        self.mlflow = Mlflow(tracking_uri=f"sqlite:///{workplace / 'mlflow.db'}")
        self.store = open_store(self.mlflow)
        self.num_begun = 0
        self.inner = ""
        """What `hydra.sweep.subdir` puts before the last part of a cell's folder."""
        self.home: run.Home | None = None
        """Where cells are launched from, if a cluster runs them."""
        self.launched: list[list[str]] = []
        self.fate: Callable[[list[str]], Failure | None] = lambda overrides: None

    def begin(self, *overrides: str, place: Place = HERE, store: bool = True) -> Multirun:
        jobs = [[f"batch_size={size}"] for size in SIZES]
        return self.begin_grid(jobs, *overrides, place=place, store=store)

    def begin_grid(
        self,
        jobs: Sequence[list[str]],
        *overrides: str,
        place: Place = HERE,
        store: bool = True,
    ) -> Multirun:
        self.num_begun += 1
        grid = [
            Combination(
                overrides=job,
                config=replace(make_config(*job, *overrides), mlflow=self.mlflow),
            )
            for job in jobs
        ]
        self.rules = grid[0].config
        self.hydra = OmegaConf.create(
            {
                "hydra": {
                    "sweep": {"dir": str(self.folder / "multirun" / str(self.num_begun))},
                    "overrides": {"hydra": [], "task": ["batch_size=16,32,64"]},
                }
            }
        )
        known = self.store if store else None
        self.begun = resume.begin(self.hydra, grid, known, place, self.home)
        return self.begun

    def launch(self, jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        return [self._run(list(job), number) for number, job in enumerate(jobs, start=first)]

    def dying_after(self, num_cells: int) -> Launch:
        def launch(jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
            if len(self.launched) == num_cells:
                raise KeyboardInterrupt
            return self.launch(jobs, first)

        return launch

    def _run(self, overrides: list[str], number: int) -> JobReturn:
        self.launched.append(overrides)
        folder = Path(self.hydra.hydra.sweep.dir) / f"{self.inner}cell-{number}"
        folder.mkdir(parents=True)
        ticket = self.begun.tickets[number]
        chosen = dict(override.split("=") for override in overrides)
        settings = replace(make_config(*overrides), mlflow=self.mlflow)
        cell = make_cell(
            settings,
            choices=GOLDEN.cell.choices | chosen,
            sweep=ticket.sweep,
            position=ticket.position,
            num_cells=ticket.num_cells,
            attempt=ticket.attempt,
            repetition=int(chosen.get("repetition", 1)),
        )
        failure = self.fate(overrides)
        kept: dict[str, Any] = {"measurement": None, "failure": failure} if failure else {}
        status: record.Status = "FAILED" if failure else "FINISHED"
        record.write_cell(folder, cell)
        record.write_record(folder, replace(GOLDEN, cell=cell, status=status, **kept))
        run.land(folder, settings)
        hydra_cfg: DictConfig = OmegaConf.create(
            {"hydra": {"runtime": {"output_dir": str(folder)}}}
        )
        return JobReturn(hydra_cfg=hydra_cfg, status=JobStatus.COMPLETED, _return_value=0.0)

    def cells(self, **tags: str) -> list[Any]:
        wanted = {"greenlab.kind": "cell"} | {f"greenlab.{key}": tags[key] for key in tags}
        found = self.store.client.search_runs([self.store.experiment_id])
        return [one for one in found if wanted.items() <= one.data.tags.items()]


@pytest.fixture
def lab(workplace: Path) -> Lab:
    return Lab(workplace)


def test_every_cell_is_measured_as_often_as_asked_and_the_sweep_is_complete(lab: Lab) -> None:
    sweep = lab.begin("repetitions=2")
    sweep.measure(lab.launch, 1)

    assert sweep.end("FINISHED")
    assert sorted(lab.launched) == sorted(
        [f"batch_size={size}", *more] for size in SIZES for more in ([], ["repetition=2"])
    )
    assert len({one.data.tags["greenlab.signature"] for one in lab.cells(sweep=sweep.name)}) == 6


def test_a_resumed_sweep_measures_what_is_missing_under_its_own_name(lab: Lab) -> None:
    first = lab.begin("repetitions=2")
    with pytest.raises(KeyboardInterrupt):
        first.measure(lab.dying_after(4), 1)
    seen = list(lab.launched)
    again = lab.begin("repetitions=2", "resume=true")
    again.measure(lab.launch, 1)

    assert again.end("FINISHED")
    assert again.name == first.name
    assert again.folder == first.folder
    assert len(lab.launched) == 6
    assert all(job not in seen for job in lab.launched[4:])
    assert len(lab.cells(sweep=first.name)) == 6


def test_a_resumed_sweep_keeps_its_order(lab: Lab) -> None:
    whole = lab.begin("order_seed=5", "repetitions=3")
    order = [whole._agenda.position(task) for task in whole._agenda.take(None)]
    again = lab.begin("resume=true", "repetitions=3")

    assert again._run.order_seed == 5
    assert [again._agenda.position(task) for task in again._agenda.take(None)] == order
    assert again._agenda.num_tasks == 9


@pytest.mark.slow
def test_nothing_is_measured_twice_when_all_is_done(lab: Lab) -> None:
    lab.begin().measure(lab.launch, None)
    again = lab.begin("resume=true")
    again.measure(lab.launch, None)

    assert len(lab.launched) == len(SIZES)
    assert again.end("FINISHED")


@pytest.mark.slow
def test_a_named_sweep_counts_its_own_cells_alone(lab: Lab) -> None:
    lab.begin().measure(lab.launch, None)
    second = lab.begin()
    again = lab.begin(f"resume={second.name}")
    again.measure(lab.launch, None)

    assert again.name == second.name
    assert len(lab.cells(sweep=second.name)) == len(SIZES)


def test_a_sweep_that_may_be_alive_on_another_host_is_left_alone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("platform.node", lambda: "another-host")
        alive = lab.begin()

    assert lab.begin("resume=true").name != alive.name
    assert lab.store.is_running(alive._run.run_id)
    assert lab.begin(f"resume={alive.name}").name == alive.name


@pytest.mark.slow
def test_a_damaged_record_does_not_take_the_end_table_with_it(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    sweep = lab.begin()
    sweep.measure(lab.launch, None)
    [folder, *_] = record.cell_folders(sweep.folder)
    (folder / "record.json").write_text("{")
    sweep.end("FINISHED")

    assert "left out of the table" in caplog.text
    assert not lab.store.is_running(sweep._run.run_id)


def test_a_sweep_that_is_not_known_is_refused_and_the_newest_are_named(lab: Lab) -> None:
    known = lab.begin()
    with pytest.raises(ConfigError, match=rf"resume=nope.*{known.name}"):
        lab.begin("resume=nope")


@pytest.mark.slow
def test_cells_of_another_machine_are_pointed_out_or_refused(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.begin().measure(lab.launch, None)
    elsewhere = Place(machine="elsewhere", commit=HERE.commit)
    with caplog.at_level(logging.WARNING):
        lab.begin("resume=true", place=elsewhere)

    assert f"machine {HERE.machine}" in caplog.text
    with pytest.raises(ConfigError, match=r"resume\.strict.*elsewhere"):
        lab.begin("resume=true", "resume.strict=true", place=elsewhere)


@pytest.mark.slow
def test_two_sweeps_of_the_same_second_have_folders_of_their_own(lab: Lab) -> None:
    first = lab.begin()
    lab.num_begun = 0  # the second is given the same name, and had to wait for the first
    second = lab.begin()
    second.measure(lab.launch, None)

    assert second.folder == first.folder.with_name("1-2")
    assert record.cell_folders(first.folder) == []
    assert len(record.cell_folders(second.folder)) == len(SIZES)
    assert lab.hydra.hydra.overrides.hydra == [f"hydra.sweep.dir='{second.folder}'"]


def test_a_folder_that_the_user_named_and_another_run_has_is_refused(lab: Lab) -> None:
    taken = lab.begin().folder
    config = OmegaConf.create(
        {
            "hydra": {
                "sweep": {"dir": str(taken)},
                "overrides": {"hydra": [f"hydra.sweep.dir={taken}"]},
            }
        }
    )
    with pytest.raises(OutputError, match=r"hydra\.sweep\.dir=.* holds the results of another run"):
        run.claim_folder(config, "hydra.sweep.dir")


@pytest.mark.slow
def test_a_refused_resume_leaves_no_sweep_running(lab: Lab) -> None:
    done = lab.begin()
    done.measure(lab.launch, None)
    done.end("FINISHED")
    with pytest.raises(ConfigError, match=r"resume\.strict"):
        lab.begin("resume=true", "resume.strict=true", place=Place(machine="other", commit="0"))

    found = lab.store.client.search_runs(
        [lab.store.experiment_id], "tags.`greenlab.kind` = 'sweep'"
    )
    assert [one.info.status for one in found] == ["FINISHED"]


@pytest.mark.slow
def test_cells_of_other_grids_do_not_matter_to_a_resume(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    lab.begin_grid([["batch_size=8"]]).measure(lab.launch, None)  # on the golden cell's machine
    elsewhere = Place(machine="elsewhere", commit="of another day")
    with caplog.at_level(logging.WARNING):
        fresh = lab.begin("resume=true", "resume.strict=true", place=elsewhere)
    fresh.measure(lab.launch, None)

    assert "elsewhere" not in caplog.text
    assert len(lab.cells(sweep=fresh.name)) == len(SIZES)
    assert record.read_claim(fresh.folder / run.CLAIM_FILE) == Claim()


def test_what_a_dead_sweep_left_behind_is_landed_and_closed(lab: Lab) -> None:
    dead = lab.begin()
    folder = dead.folder / "cell-0"  # it died while this one was measured
    folder.mkdir(parents=True)
    record.write_cell(folder, make_cell(make_config("batch_size=16"), sweep=dead.name))
    again = lab.begin("resume=true")
    again.measure(lab.launch, None)

    [killed] = [one for one in lab.cells(sweep=dead.name) if one.info.status == "KILLED"]
    assert killed.data.tags["greenlab.failure"].startswith("killed")
    assert len(lab.launched) == len(SIZES)


@pytest.mark.slow
def test_a_lost_cell_is_tried_again_and_both_tries_are_kept(lab: Lab) -> None:
    tries: list[str] = []

    def fate(overrides: list[str]) -> Failure | None:
        tries.extend(overrides)
        return Failure(kind="killed", message="") if tries.count("batch_size=32") == 1 else None

    lab.fate = fate
    sweep = lab.begin("retries=1", "order=sequential")
    sweep.measure(lab.launch, 1)

    assert sweep.end("FINISHED")
    assert tries == ["batch_size=16", "batch_size=32", "batch_size=32", "batch_size=64"]
    statuses = [(one.info.status, one.data.tags.get("greenlab.attempt")) for one in lab.cells()]
    assert sorted(statuses, key=str) == [
        ("FAILED", None), ("FINISHED", "2"), ("FINISHED", None), ("FINISHED", None)
    ]  # fmt: skip


def test_a_sweep_with_a_failed_cell_is_not_complete(lab: Lab) -> None:
    lab.fate = lambda overrides: (
        Failure(kind="oom", message="too big") if overrides == ["batch_size=64"] else None
    )
    sweep = lab.begin()
    sweep.measure(lab.launch, 1)

    assert not sweep.end("FINISHED")
    [own] = lab.store.client.search_runs(
        [lab.store.experiment_id], "tags.`greenlab.kind` = 'sweep'"
    )
    assert own.info.status == "FAILED"
    assert own.data.metrics["cells/finished"] == 2


def test_a_cell_that_could_not_even_be_written_has_failed(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    def launch(jobs: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        [returned] = lab.launch(jobs, first)
        shutil.rmtree(returned.hydra_cfg.hydra.runtime.output_dir)
        returned.status, returned._return_value = JobStatus.FAILED, OSError(28, "No space left")
        return [returned]

    sweep = lab.begin("max_failures=2")
    sweep.measure(launch, 1)

    assert len(lab.launched) == 2
    assert "No space left" in caplog.text
    assert "stopped: 2 cells have failed, and max_failures=2 allows no more" in caplog.text


def test_a_cell_whose_folder_another_one_has_is_not_done(lab: Lab) -> None:
    first: list[JobReturn] = []

    # As with hydra.sweep.subdir=lenet: all cells are given the folder of the first.
    def launch(jobs: Sequence[Sequence[str]], number: int) -> list[JobReturn]:
        if not first:
            first.extend(lab.launch(jobs, number))
            return first
        refusal = OutputError("it holds the results of another cell")
        refused = JobReturn(hydra_cfg=first[0].hydra_cfg, status=JobStatus.FAILED)
        refused._return_value = refusal
        return [refused]

    sweep = lab.begin()
    sweep.measure(launch, 1)

    assert not sweep.end("FINISHED")
    [own] = lab.store.client.search_runs(
        [lab.store.experiment_id], "tags.`greenlab.kind` = 'sweep'"
    )
    assert own.data.metrics["cells/finished"] == 1


@pytest.mark.slow
def test_repetitions_given_by_hand_are_rows_of_one_cell(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = lab.begin_grid([["batch_size=16", f"repetition={number}"] for number in (1, 2)])
    sweep.measure(lab.launch, 1)

    assert sweep.end("FINISHED")
    printed = capsys.readouterr().out
    assert "2 of 2 cells finished" in printed
    assert "no row" not in printed


@pytest.mark.slow
def test_a_sweep_that_began_without_a_store_is_in_it_at_the_end(lab: Lab) -> None:
    sweep = lab.begin(store=False)
    sweep.measure(lab.launch, None)

    assert sweep.end("FINISHED")
    assert [one.name for one in lab.store.sweeps()] == [sweep.name]


def test_what_could_not_be_logged_lands_when_the_store_is_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: Store, folder: Path) -> str:
        raise ConnectionError("the server is away")

    sweep = lab.begin()
    with monkeypatch.context() as away:
        away.setattr(Store, "land", down)
        sweep.measure(lab.launch, None)
    assert run.count_unsynced(sweep.folder) == len(SIZES)
    assert lab.cells() == []

    assert sweep.end("FINISHED")
    assert run.count_unsynced(sweep.folder) == 0
    assert len(lab.cells(sweep=sweep.name)) == len(SIZES)


@pytest.mark.slow
def test_a_landing_that_the_user_stopped_is_completed_at_the_end(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Store, run_id: str, tags: dict[str, str]) -> None:
        raise KeyboardInterrupt

    sweep = lab.begin()
    with monkeypatch.context() as ctrl_c:
        ctrl_c.setattr(Store, "_tag", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweep.measure(lab.launch, 1)
    assert [one.info.status for one in lab.cells()] == ["RUNNING"]

    sweep.end("KILLED")
    assert [one.info.status for one in lab.cells()] == ["FINISHED"]


@pytest.mark.slow
def test_a_sweep_that_is_stopped_at_its_end_table_is_closed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: Store, *told: object) -> None:
        raise KeyboardInterrupt

    begun = lab.begin()
    begun.measure(lab.launch, None)
    sweeps.open_sweep = begun
    with monkeypatch.context() as ctrl_c:
        ctrl_c.setattr(Store, "land_sweep", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweeps.end("FINISHED")
    sweeps.end("KILLED")  # as __main__ does

    [own] = lab.store.client.search_runs(
        [lab.store.experiment_id], "tags.`greenlab.kind` = 'sweep'"
    )
    assert own.info.status == "KILLED"
    assert sweeps.open_sweep is None


@pytest.mark.slow
def test_a_cell_that_another_process_logs_is_waited_for(lab: Lab) -> None:
    sweep = lab.begin()
    sweep.measure(lab.launch, 1)
    [folder, *_] = record.cell_folders(sweep.folder)
    landing = threading.Thread(target=run.land, args=(folder, lab.rules))
    with run.hold(folder):  # as python -m greenlab.sync does
        landing.start()
        landing.join(0.5)
        assert landing.is_alive()
    landing.join(30)

    assert not landing.is_alive()
    assert len(lab.cells()) == len(SIZES)


@pytest.mark.slow
def test_cells_whose_option_names_have_a_slash_are_cells_like_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(self: Store, folder: Path) -> str:
        raise ConnectionError("the server is away")

    lab.inner = "own/"  # model=own/tiny
    first = lab.begin()
    with monkeypatch.context() as away:
        away.setattr(Store, "land", down)
        with pytest.raises(KeyboardInterrupt):
            first.measure(lab.dying_after(2), 1)
    assert run.count_unsynced(first.folder) == 2
    again = lab.begin("resume=true")
    again.measure(lab.launch, 1)

    assert again.end("FINISHED")
    assert len(lab.cells(sweep=first.name)) == len(lab.launched) == len(SIZES)
    assert "no row" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("subdir", "is_refused"),
    [
        ("${hydra.job.num}", False),
        ("cell-${hydra:job.num}", False),
        ("${hydra.job.override_dirname}", True),  # a second try would have the folder of the first
        ("cell", True),
    ],
)
def test_cells_that_may_run_again_need_folders_of_their_own(subdir: str, is_refused: bool) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"subdir": subdir}}})
    grid = [Combination(overrides=[], config=make_config("retries=1"))]
    with pytest.raises(ConfigError, match=r"job\.num") if is_refused else contextlib.nullcontext():
        sweeps._check_grid(config, grid)


# ------------------------------------------------------------------------------------- signatures


def settings(*overrides: str) -> Config:
    return make_config(*overrides)


@pytest.mark.slow
def test_how_a_sweep_goes_about_it_does_not_change_what_a_cell_is() -> None:
    plain = configuration.signature(settings())
    for same in (
        "order=sequential",
        "repetitions=5",
        "retries=2",
        "timeout_s=9",
        "carbon.pue=2",
        "lock.wait=false",
        "resume=true",
        "mlflow.required=false",
    ):
        assert configuration.signature(settings(same)) == plain, same
    for other in ("repetition=2", "seed=1", "idle.settle_max_s=0", "hardware.power_limit_w=99"):
        assert configuration.signature(settings(other)) != plain, other


def test_repetitions_are_the_same_cell() -> None:
    plain, second = settings(), settings("repetition=2")

    def cell_of(one: Config) -> str:
        return configuration.cell_signature(configuration.to_dict(one))

    assert cell_of(plain) == cell_of(second)
    assert cell_of(plain) != cell_of(settings("seed=1"))


def test_a_record_of_its_failure_alone_has_no_joules() -> None:
    lost = Record(
        status="FAILED",
        cell=make_cell(make_config()),
        ended_at_s=0,
        failure=Failure(kind="error", message=""),
    )

    assert metrics(lost) == {}
