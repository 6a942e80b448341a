"""Sweeps whose cells run on other machines: which goes where, and what is made of what comes back.

The cluster is one that this file plays, of machines by name; tests/cluster has real ones.
"""

import getpass
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_cell, make_config
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from test_multirun import GOLDEN, HERE, Lab

from greenlab import config, landing, launchers, node, record, run, sweep
from greenlab.config import Config
from greenlab.errors import ConfigError, GreenlabError, NodeRefusedError
from greenlab.launchers import Job
from greenlab.multirun import Multirun

NOWHERE = run.Place(machine="", commit=HERE.commit)
"""What the launching machine says of itself, where it does not measure."""


class PlayedCluster:
    """Runs cells one after another, on machines that are names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[tuple[str, str]] = []
        self.cancelled: list[int] = []
        self.fate: Callable[[Job], BaseException | None] = lambda job: None
        self.is_shared = True
        self.lands = True

    def check(self, machines: Sequence[str]) -> None:
        """There is nothing to refuse."""

    def run_cells(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, JobReturn]]:
        left = list(jobs)
        try:
            while left:
                yield left[0], self._run(left.pop(0))
        finally:
            self.cancelled += [job.number for job in left]

    def _run(self, job: Job) -> JobReturn:
        name = job.machine or "n1"
        self.ran.append((name, " ".join(job.overrides)))
        place = job.ticket.folder if self.is_shared else self.folder / name
        folder = place / f"cell-{job.number}"
        folder.mkdir(parents=True)
        settings = replace(make_config(*job.overrides), mlflow=self.settings.mlflow)
        chosen = dict(override.split("=") for override in job.overrides)
        cell = make_cell(
            settings,
            choices=GOLDEN.cell.choices | chosen,
            sweep=job.ticket.sweep,
            position=job.ticket.position,
            num_cells=job.ticket.num_cells,
            attempt=job.ticket.attempt,
            repetition=settings.repetition,
            node=name,
            allocation=f"played {job.number}",
        )
        error = self.fate(job)
        if not isinstance(error, NodeRefusedError):
            record.write_cell(folder, cell)
        if error is not None:
            return launchers.failed(job, error)
        measured = replace(GOLDEN, cell=cell)
        record.write_record(folder, measured)
        assert job.ticket.home is not None
        if self.lands:
            run.land(folder, settings)
        else:
            (folder / run.UNSYNCED_FILE).touch()
        there = job.ticket.folder / folder.name  # its name on the machine that has it
        hydra_cfg = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(there)}}})
        return JobReturn(hydra_cfg=hydra_cfg, status=JobStatus.COMPLETED, _return_value=measured)  # type: ignore[arg-type]

    settings: Config


@pytest.fixture
def lab(workplace: Path) -> Lab:
    return Lab(workplace)


@pytest.fixture
def cluster(tmp_path: Path) -> PlayedCluster:
    return PlayedCluster(tmp_path / "disks")


SIZES = ("16", "32", "64")


def begin(lab: Lab, cluster: PlayedCluster, *overrides: str) -> Multirun:
    """A sweep of three batch sizes."""
    home = run.Home(working_directory=Path.cwd(), tracking_uri="", lands=False, checks=[])
    lab.home = home
    begun = lab.begin(*overrides, place=NOWHERE)
    cluster.settings = lab.rules
    return begun


def test_the_machine_that_the_first_cell_is_given_runs_them_all(
    lab: Lab, cluster: PlayedCluster
) -> None:
    begun = begin(lab, cluster, "repetitions=2")
    batches: list[int] = []
    real = cluster.run_cells

    def run_cells(jobs: Sequence[Job]) -> Iterator[tuple[Job, JobReturn]]:
        batches.append(len(jobs))
        assert {job.machine for job in jobs} == {"" if len(batches) == 1 else "n1"}
        return real(jobs)

    cluster.run_cells = run_cells  # type: ignore[method-assign]
    begun.measure(cluster, None)

    assert batches == [1, 5]
    assert begun.end("FINISHED")
    assert len(lab.cells()) == 6


def test_each_machine_runs_whole_repetitions_of_the_grid(lab: Lab, cluster: PlayedCluster) -> None:
    begun = begin(lab, cluster, "repetitions=4", "machines=[n2,n3]")
    begun.measure(cluster, None)

    blocks = {
        (machine, overrides.partition(" repetition=")[2] or "1", overrides.partition(" ")[0])
        for machine, overrides in cluster.ran
    }
    assert blocks == {
        (machine, repetition, f"batch_size={size}")
        for machine, repetition in (("n2", "1"), ("n3", "2"), ("n2", "3"), ("n3", "4"))
        for size in SIZES
    }


def test_any_leaves_it_to_the_cluster(lab: Lab, cluster: PlayedCluster) -> None:
    begun = begin(lab, cluster, "machines=any")
    jobs: list[Job] = []
    real = cluster.run_cells
    cluster.run_cells = lambda given: jobs.extend(given) or real(given)  # type: ignore[method-assign, func-returns-value]
    begun.measure(cluster, None)

    assert [job.machine for job in jobs] == [""] * 3
    assert all(job.ticket.is_anywhere for job in jobs)


def test_a_lost_cell_is_closed_as_failed_and_the_others_go_on(
    lab: Lab, cluster: PlayedCluster
) -> None:
    begun = begin(lab, cluster)
    cluster.fate = lambda job: GreenlabError("lost: 7_1") if len(cluster.ran) == 2 else None
    begun.measure(cluster, None)

    assert not begun.end("FINISHED")
    cells = lab.cells()
    assert sorted(cell.info.status for cell in cells) == ["FAILED", "FINISHED", "FINISHED"]
    [failed] = [cell for cell in cells if cell.info.status == "FAILED"]
    assert failed.data.tags["greenlab.failure"] == "killed: lost: 7_1"


def test_a_cell_that_somebody_holds_yet_is_named(
    lab: Lab, cluster: PlayedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    begun = begin(lab, cluster)
    held = []

    def lose(job: Job) -> GreenlabError | None:
        if len(cluster.ran) == 2:
            folder = job.ticket.folder / f"cell-{job.number}"
            held.append((folder, run._running_lock(folder)))
            held[0][1].acquire()
            return GreenlabError("lost: 7_1")
        return None

    cluster.fate = lose
    begun.measure(cluster, None)
    [(folder, lock)] = held
    lock.release()

    assert f"{folder} cannot be closed: it is running" in caplog.text
    assert not (folder / record.RECORD_FILE).exists()


def test_a_lost_cell_is_tried_again_where_retries_say_so(lab: Lab, cluster: PlayedCluster) -> None:
    begun = begin(lab, cluster, "retries=1")
    cluster.fate = lambda job: GreenlabError("lost") if len(cluster.ran) == 2 else None
    begun.measure(cluster, None)

    assert begun.end("FINISHED")
    assert sorted(cell.info.status for cell in lab.cells()) == ["FAILED", *["FINISHED"] * 3]


def test_a_machine_that_refuses_the_cells_stops_the_sweep_and_costs_none_its_try(
    lab: Lab, cluster: PlayedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = begin(lab, cluster)
    cluster.fate = lambda job: NodeRefusedError("n1 cannot run these cells: no GPU")
    begun.measure(cluster, None)

    assert len(cluster.ran) == 1
    assert not begun.end("FINISHED")
    assert "3 were not measured" in capsys.readouterr().out


def test_too_many_failures_cancel_what_the_cluster_has_yet(
    lab: Lab, cluster: PlayedCluster
) -> None:
    begun = begin(lab, cluster, "machines=any", "max_failures=1")
    cluster.fate = lambda job: GreenlabError("lost")
    begun.measure(cluster, None)

    assert len(cluster.ran) == 1
    assert len(cluster.cancelled) == 2


def test_what_the_machines_leave_to_it_the_launching_process_logs(
    lab: Lab, cluster: PlayedCluster
) -> None:
    cluster.lands = False
    begun = begin(lab, cluster)
    begun.measure(cluster, None)

    assert len(lab.cells(sync="complete")) == 3  # each when it ended
    assert begun.end("FINISHED")


def test_cells_on_disks_that_are_not_seen_from_here_are_in_the_table(
    lab: Lab, cluster: PlayedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.is_shared = False
    begun = begin(lab, cluster)
    begun.measure(cluster, None)

    assert begun.end("FINISHED")
    printed = capsys.readouterr().out
    assert "3 of 3 cells finished" in printed
    assert "no row" not in printed


def test_the_disk_that_has_what_mlflow_has_not_is_named_and_a_copy_of_it_lands(
    lab: Lab, cluster: PlayedCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.is_shared = cluster.lands = False
    begun = begin(lab, cluster)
    begun.measure(cluster, None)

    assert not begun.end("FINISHED")
    assert "3 cells are on the disk of n1 and not in MLflow" in caplog.text
    assert lab.cells() == []

    landing.land_folders([cluster.folder], lab.mlflow.tracking_uri, None)

    assert len(lab.cells(sync="complete")) == 3


def test_a_sweep_that_is_resumed_goes_on_where_it_was_measured(
    lab: Lab, cluster: PlayedCluster
) -> None:
    begun = begin(lab, cluster)
    cluster.fate = lambda job: KeyboardInterrupt() if len(cluster.ran) == 2 else None
    begun.node = "n5"
    with pytest.raises(KeyboardInterrupt):
        begun.measure(cluster, None)
    begun.end("KILLED")
    cluster.fate = lambda job: None
    cluster.ran.clear()
    again = begin(lab, cluster, "resume.sweep=any")
    again.measure(cluster, None)

    assert again.node == "n5"
    assert [machine for machine, _ in cluster.ran] == ["n5"] * 2
    assert again.end("FINISHED")


# ----------------------------------------------------------------------------- around a single cell


@pytest.fixture
def begun_before(tmp_path: Path) -> Path:
    """The folder of a cell that was begun, and whose process was lost."""
    folder = tmp_path / "sweep" / "lenet-32-train-0"
    folder.mkdir(parents=True)
    record.write_cell(folder, make_cell(make_config(), sweep="s"))
    (folder / record.WINDOWS_FILE).write_text("{}\n")
    (folder / record.LOG_FILE).write_text("begun\n")
    (folder / ".hydra").mkdir()
    return folder


def test_what_an_earlier_try_left_is_closed_as_killed_beside_the_new_one(
    begun_before: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(make_config(), mlflow=lab.mlflow)
    monkeypatch.setattr(run, "ticket", None)

    assert node._set_aside(begun_before, settings) == 1

    aside = begun_before.with_name("lenet-32-train-0-try1")
    assert record.read_record(aside).status == "KILLED"
    assert (aside / record.WINDOWS_FILE).exists()
    assert (begun_before / ".hydra").exists()
    assert not (begun_before / record.CELL_FILE).exists()
    assert [cell.info.status for cell in lab.cells()] == ["KILLED"]

    record.write_cell(begun_before, make_cell(make_config(), sweep="s"))
    assert node._set_aside(begun_before, settings) == 2


def test_a_cell_whose_record_is_complete_is_not_measured_again(begun_before: Path) -> None:
    assert node._finished_before(begun_before) is None

    finished = replace(GOLDEN, cell=record.read_cell(begun_before))
    record.write_record(begun_before, finished)

    assert node._finished_before(begun_before) == finished


def test_a_password_does_not_travel_with_the_cells(
    monkeypatch: pytest.MonkeyPatch, workplace: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:pa55@127.0.0.1:5000")
    assert sweep._home([make_config()]).tracking_uri == ""

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    home = sweep._home([make_config("batch_size=4"), make_config("batch_size=8")])

    assert home.tracking_uri == "http://127.0.0.1:5000"
    assert not home.lands
    assert len(home.checks) == 1  # of the same hardware and data


def test_a_store_in_a_file_has_one_writer(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    assert sweep._home([make_config()]).lands


# ----------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("given", ["some", "[]", "[a,a]", "3", "null"])
def test_machines_are_one_any_or_names(given: str) -> None:
    with pytest.raises(ConfigError, match="machines is"):
        make_config(f"machines={given}")


def test_auto_does_not_go_with_several_machines() -> None:
    with pytest.raises(ConfigError, match="repetitions=4"):
        make_config("machines=[a,b]", "repetitions=auto")

    make_config("machines=[a]", "repetitions=auto")


def test_where_cells_run_is_no_part_of_what_they_are() -> None:
    elsewhere = make_config("machines=[a,b]")

    assert config.signature(elsewhere) == config.signature(make_config())
    assert elsewhere.machine_names == ["a", "b"]


def refusal(workplace: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "greenlab", "-m", "batch_size=4,8", *arguments],
        cwd=workplace,
        env=os.environ | {"USER": getpass.getuser()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_machines_without_a_cluster_are_refused(workplace: Path) -> None:
    assert "add hydra/launcher=slurm" in refusal(workplace, "machines=[a,b]")


@pytest.mark.parametrize(("option", "extra"), [("slurm", "slurm"), ("ray_cluster", "ray")])
def test_an_engine_that_is_not_installed_is_named_with_its_extra(
    workplace: Path, option: str, extra: str
) -> None:
    package = {"slurm": "submitit", "ray_cluster": "ray"}[option]
    if __import__("importlib.util").util.find_spec(package):
        pytest.skip(f"{package} is installed")

    assert f'pip install "greenlab[{extra}]"' in refusal(workplace, f"hydra/launcher={option}")
