"""Cells as read back from MLflow: the same through tables and client, never pooled where unlike.

What lies in the stores is landed by greenlab itself, from the golden record of test_record.py.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame

from benchmarks import group_server
from benchmarks.load_runs import clone
from greenlab import record as records
from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.errors import GreenlabError, StoreUnavailableError
from greenlab.record import Doubt, Failure, StoppedEarly, SweepEnd, SweepRun
from multirun_analysis import runs
from multirun_analysis.stores import Database, Server, Table

GOLDEN = Path(__file__).parent / "golden"
SWEEP = "20231114-221320-1a2b"


class Lab:
    """A store that cells land in."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.uri = uri
        self.store = tracking.open_store(Mlflow(tracking_uri=uri))
        self._folder = folder
        self._number = 0

    def land(self, **changes: Any) -> str:
        """Land the golden record with other fields: those of the cell, the record or `config`."""
        self._number += 1
        golden = records.read_record(GOLDEN)
        cell = replace(golden.cell, uid=f"{self._number:032x}")
        for name in ("sweep", "choices", "config", "repetition", "position", "started_at_s"):
            if name in changes:
                new = changes.pop(name)
                old = getattr(cell, name)
                cell = replace(cell, **{name: old | new if isinstance(old, dict) else new})
        record = replace(golden, cell=cell, **changes)
        folder = self._folder / str(self._number)
        folder.mkdir()
        records.write_record(folder, record)
        return self.store.land(folder)

    def sweep(self, name: str, **changes: Any) -> str:
        """Leave the run that stands for a multirun."""
        fields = {"run_id": "", "name": name, "grid": "g", "overrides": "", "num_cells": 1}
        fields |= {"repetitions": "1", "order": "shuffle", "order_seed": 0}
        begun = SweepRun(**fields | {"folder": "/tmp", "host": "here"} | changes)
        return self.store.begin_sweep(begun).run_id

    def load(self, sweep: str | None = runs.ALL) -> runs.Runs:
        return runs.load(self.uri, "greenlab", sweep)


@pytest.fixture
def lab(workplace: Path, tmp_path: Path) -> Lab:
    (tmp_path / "landed").mkdir()
    return Lab(f"sqlite:///{workplace / 'mlflow.db'}", tmp_path / "landed")


def golden_environment(**changes: Any) -> Any:
    environment = records.read_record(GOLDEN).environment
    assert environment is not None
    return replace(environment, **changes)


def without_source(component: str) -> Any:
    """The golden measurement by a TDP model where it has a counter."""
    return with_source(component, provenance="modelled:tdp", error_fraction=0.5)


def with_source(component: str, **changes: Any) -> Any:
    """The golden measurement with another source of one component."""
    measured = records.read_record(GOLDEN).measurement
    assert measured is not None
    sources = [
        replace(one, **changes) if one.component == component else one for one in measured.sources
    ]
    return replace(measured, sources=sources)


def stopped_early() -> Any:
    """The golden measurement, as if its passes were the first of 30."""
    measured = records.read_record(GOLDEN).measurement
    assert measured is not None
    stop = StoppedEarly(
        after_epochs=len(measured.passes),
        planned_epochs=30,
        accuracy=0.2,
        accuracy_low=0.1,
        accuracy_high=0.3,
        rival=None,
        below_accuracy=0.5,
        least_net_j=None,
    )
    return replace(measured, stopped_early=stop)


def with_limits(limits_w: dict[str, list[float]]) -> Any:
    measured = records.read_record(GOLDEN).measurement
    assert measured is not None
    return replace(measured, trace=replace(measured.trace, power_limits_w=limits_w))


def test_a_cell_is_one_row_with_its_factors_and_metrics(lab: Lab) -> None:
    run_id = lab.land()

    [row] = lab.load().cells.to_dict("records")

    expected = {
        "run_id": run_id,
        "name": "resnet18-64-train",
        "sweep": SWEEP,
        "model": "resnet18",
        "batch_size": 64,
        "phase": "train",
        "machine": "lab-1a2b3c",
        "source_gpu": "measured:nvml",
        "source_dram": "modelled:dimm",
        "modelled": "dram",
        "series": "lab-1a2b3c, ~modelled dram",
        "energy/net_j": 2850,
        "work/samples": 3000,
    }
    assert {key: row[key] for key in expected} == expected


# 15 s for 3,000 samples. GPU 2,250 J and CPU 600 J are measured, DRAM is modelled.
def test_energy_of_the_measured_components_stands_by_itself(lab: Lab) -> None:
    lab.land()

    [row] = lab.load().cells.to_dict("records")

    assert row["time/per_sample_s"] == pytest.approx(15 / 3000)
    assert row["energy/measured_per_sample_j"] == pytest.approx(2850 / 3000)
    # 0.2 − √(0.05·4·0.14·0.06) of the GPU and 0.95·0.06 of the CPU, see test_record.py.
    u95_j = 0.2 - math.sqrt(0.05 * 4 * 0.14 * 0.06) + 0.95 * 0.06
    assert row["energy/measured_per_sample_u95_j"] == pytest.approx(u95_j / 3000, rel=1e-4)


def test_a_modelled_component_is_not_in_the_measured_energy(lab: Lab) -> None:
    lab.land(measurement=without_source("cpu"))

    [row] = lab.load().cells.to_dict("records")

    assert row["energy/measured_per_sample_j"] == pytest.approx(2250 / 3000)


def test_where_all_is_modelled_no_energy_is_measured(lab: Lab) -> None:
    measured = without_source("cpu")
    modelled = [replace(one, provenance="modelled:tdp") for one in measured.sources]
    lab.land(measurement=replace(measured, sources=modelled))

    [row] = lab.load().cells.to_dict("records")

    assert math.isnan(row["energy/measured_per_sample_j"])
    assert row["series"].endswith("~modelled gpu+cpu+dram")


def test_epochs_are_rows(lab: Lab) -> None:
    run_id = lab.land()

    epochs = lab.load().epochs

    assert epochs["run_id"].tolist() == [run_id] * 2
    assert epochs[["step", "epoch/net_j"]].to_numpy().tolist() == [[0, 1900], [1, 950]]
    assert epochs["series"].unique().tolist() == ["lab-1a2b3c, ~modelled dram"]


UNLIKE: dict[str, tuple[Callable[[Lab], object], str]] = {
    "machine": (
        lambda lab: lab.land(environment=golden_environment(machine="other-9")),
        "other-9, ~modelled dram",
    ),
    "source": (
        lambda lab: lab.land(measurement=without_source("cpu")),
        "lab-1a2b3c, cpu modelled:tdp, ~modelled dram",
    ),
    "power limit": (
        lambda lab: lab.land(
            config={"hardware": {**hardware(), "power_limit_w": 150.0}},
        ),
        "lab-1a2b3c, limit W 150, ~modelled dram",
    ),
    "GPU": (lambda lab: lab.land(measurement=with_source("gpu", parts=["gpu1"])), "gpu gpu1: "),
    "number of a model": (
        lambda lab: lab.land(measurement=with_source("dram", detail="9 DIMMs")),
        ": 9 DIMMs",
    ),
    "limit in force": (
        lambda lab: lab.land(measurement=with_limits({"gpu0": [200.0], "gpu1": [200.0]})),
        "limit in force W 400",
    ),
    "idle window": (
        lambda lab: lab.land(config={"idle": {**settings("idle"), "window_s": 99.0}}),
        "window_s 99.0",
    ),
    "setting of the data": (
        lambda lab: lab.land(config={"dataset": {**settings("dataset"), "image_size": 64}}),
        "lab-1a2b3c, image_size 64, ~modelled dram",
    ),
    "setting of the phase": (
        lambda lab: lab.land(config={"phase": {**settings("phase"), "epochs": 9}}),
        "lab-1a2b3c, epochs ",  # of the rarer, 2 or 9
    ),
    "setting of the model": (
        lambda lab: lab.land(config={"model": {**settings("model"), "kwargs": {"width": 2}}}),
        "lab-1a2b3c, kwargs {",
    ),
}


def settings(group: str) -> dict[str, Any]:
    return dict(records.read_record(GOLDEN).cell.config[group])


def hardware() -> dict[str, Any]:
    return settings("hardware")


@pytest.mark.parametrize(("other", "label"), UNLIKE.values(), ids=UNLIKE.keys())
def test_unlike_cells_are_two_series(lab: Lab, other: Callable[[Lab], object], label: str) -> None:
    lab.land()
    other(lab)

    loaded = lab.load()

    series = loaded.cells["series"].tolist()
    assert len(set(series)) == 2
    assert any(label in one for one in series)
    assert any("never pooled" in remark for remark in loaded.remarks)


def test_batch_sizes_models_and_repetitions_share_a_series(lab: Lab) -> None:
    lab.land()
    lab.land(config={"batch_size": {"size": 128}}, choices={"batch_size": "128"})
    lab.land(choices={"model": "lenet"}, config={"model": {"_target_": "other", "kwargs": {}}})
    lab.land(repetition=2)

    assert lab.load().cells["series"].nunique() == 1


def test_what_cannot_be_used_is_set_aside_with_its_reason(lab: Lab) -> None:
    lab.land()
    wrong = Doubt(code="no_joules", seen="0 J", remedy="look", severity="invalid")
    lab.land(doubts=[wrong])
    lab.land(status="FAILED", measurement=None, failure=Failure(kind="oom", message="full"))
    lab.land(status="KILLED", measurement=None, failure=Failure(kind="killed", message="by 9"))
    lab.land(measurement=stopped_early())

    loaded = lab.load()

    assert len(loaded.cells) == 1
    assert sorted(loaded.left_out["reason"]) == [
        "FAILED (oom)",
        "INVALID: the joules are wrong (its doubts say why)",
        "KILLED (killed)",
        "stopped early: no whole training, by phase.stop_early",
    ]
    assert "1 left out, FAILED (oom): resnet18-64-train." in loaded.remarks


def test_the_newest_sweep_is_read_unless_another_is_named(lab: Lab) -> None:
    lab.sweep("first")
    lab.land(sweep="first")
    lab.sweep("second")
    lab.land(sweep="second", repetition=2)
    lab.land(sweep="", repetition=3)

    assert lab.load(None).cells["sweep"].tolist() == ["second"]
    assert lab.load("first").cells["sweep"].tolist() == ["first"]
    assert lab.load("first,second").sweep_names == ("second", "first")
    assert len(lab.load("first,second").cells) == 2
    assert len(lab.load(runs.ALL).cells) == 3


def test_a_condition_chooses_cells(lab: Lab) -> None:
    lab.land()
    lab.land(choices={"model": "lenet"}, repetition=2)

    found = runs.load(lab.uri, sweep=runs.ALL, where="model == 'lenet' and `energy/net_j` > 5")

    assert found.cells["model"].tolist() == ["lenet"]
    assert any("model == 'lenet'" in remark for remark in found.remarks)


@pytest.mark.parametrize("where", ["colour == 'red'", "model ==", "model"])
def test_a_condition_that_is_none_is_refused(lab: Lab, where: str) -> None:
    lab.land()

    with pytest.raises(GreenlabError, match=f"where={where}: "):
        runs.load(lab.uri, sweep=runs.ALL, where=where)


def test_a_sweep_that_ended_early_is_no_whole_one(lab: Lab) -> None:
    run_id = lab.sweep("night", num_cells=2, repetitions="3")
    lab.land(sweep="night")
    lab.store.client.set_terminated(run_id, "KILLED")

    assert any("1 of 6 cells are here" in remark for remark in lab.load(None).remarks)


def test_the_sweep_before_the_newest_is_the_previous(lab: Lab) -> None:
    lab.sweep("first")
    lab.sweep("second")

    assert lab.load("previous").sweep_names == ("first",)


def test_a_sweep_with_another_epochs_keeps_the_pairs_of_the_usual_ones(lab: Lab) -> None:
    for kind, epochs in (("train", 2), ("train", 2), ("inference", 2), ("train", 9)):
        phase = {**settings("phase"), "kind": kind, "epochs": epochs}
        lab.land(config={"phase": phase}, choices={"phase": kind})

    cells = lab.load().cells

    usual = cells[~cells["series"].str.contains("epochs")]
    assert sorted(usual["phase"]) == ["inference", "train", "train"]
    assert len(cells) == 4


def test_a_condition_runs_no_code(lab: Lab) -> None:
    lab.land()

    for where in ("@pd.io.common.os.getcwd() == model", "model.__class__ == 1"):
        with pytest.raises(GreenlabError, match="neither @ nor __"):
            runs.load(lab.uri, sweep=runs.ALL, where=where)


def test_a_sweep_that_still_runs_is_said_to(lab: Lab) -> None:
    lab.sweep("night")
    lab.land(sweep="night")

    assert "Sweep night is still running: more cells may come." in lab.load(None).remarks


def test_a_sweep_has_its_ledger(lab: Lab) -> None:
    begun = SweepRun(
        run_id="",
        name="done",
        grid="g",
        overrides="",
        num_cells=1,
        repetitions="1",
        order="shuffle",
        order_seed=0,
        folder="/tmp",
        host="here",
    )
    lab.store.land_sweep(
        SweepEnd(
            begun=begun,
            status="FINISHED",
            ended_at_s=1_700_000_000,
            table="",
            ledger={},
            metrics={"ledger/useful_j": 12.0},
        )
    )

    assert lab.load("done").sweeps["ledger/useful_j"].tolist() == [12]


def test_an_empty_experiment_is_empty_tables(lab: Lab) -> None:
    loaded = lab.load(None)

    assert (len(loaded.cells), len(loaded.left_out), len(loaded.epochs)) == (0, 0, 0)
    assert loaded.sweep_names == ()
    assert runs.summarise(loaded.cells, "energy/net_j").empty
    assert runs.at_one_batch_size(loaded.cells).empty


def test_a_sweep_that_is_not_there_is_refused_with_close_names(lab: Lab) -> None:
    lab.sweep("night-of-june")

    with pytest.raises(GreenlabError, match="night-of-june"):
        lab.load("nigth-of-june")


def test_a_store_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="no such file"):
        runs.load(f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()


def test_an_experiment_that_is_not_there_is_refused_with_those_that_are(lab: Lab) -> None:
    with pytest.raises(StoreUnavailableError, match="it has Default, greenlab"):
        runs.load(lab.uri, "grenlab")


def same(one: DataFrame, other: DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True, check_like=True)


def assert_both_ways_agree(database: Database, server: Server, *, sweeps: list[str]) -> None:
    chosen: list[list[str] | None] = [None, sweeps, []]
    for names in chosen:
        one, other = database.runs(names), server.runs(names)
        for part in Table.__dataclass_fields__:
            same(getattr(one, part).sort_index(), getattr(other, part).sort_index())
    same(database.sweeps(), server.sweeps())
    ids = database.runs(None).runs.index[:20].tolist()
    order = ["run_id", "step"]
    epochs = database.epochs(ids).sort_values(order, ignore_index=True)
    same(epochs, server.epochs(ids).sort_values(order, ignore_index=True))


def test_tables_and_client_agree_on_200_runs(lab: Lab) -> None:
    lab.sweep(SWEEP)
    first = lab.land()
    lab.land(status="FAILED", measurement=None, failure=Failure(kind="oom", message="full"))
    lab.land(sweep="other", repetition=2)
    path = tracking.sqlite_path(lab.uri)
    assert path is not None
    copies = clone(path, first, 197)
    for key, value in (("task/loss", math.nan), ("task/accuracy", math.inf)):
        lab.store.client.log_metric(copies[0], key, value)

    assert len(lab.load().cells) == 199
    assert_both_ways_agree(
        Database(lab.uri, "greenlab"), Server(lab.uri, "greenlab"), sweeps=[SWEEP, "other"]
    )
    metrics = Database(lab.uri, "greenlab").runs(None).metrics.loc[copies[0]]
    assert math.isnan(metrics["task/loss"])
    assert metrics["task/accuracy"] == math.inf


def test_a_deleted_run_is_not_read(lab: Lab) -> None:
    lab.land()
    lab.store.client.delete_run(lab.land(repetition=2))

    assert len(Database(lab.uri, "greenlab").runs(None).runs) == 1
    assert len(Server(lab.uri, "greenlab").runs(None).runs) == 1


def test_a_trace_is_read_when_asked_for(lab: Lab, tmp_path: Path) -> None:
    run_id = lab.land()
    frame = DataFrame({"time_s": [1.0, 2.0], "gpu0_power_w": [100.0, 110.0]})
    frame.to_parquet(tmp_path / "trace.parquet")
    lab.store.client.log_artifact(run_id, str(tmp_path / "trace.parquet"))

    assert lab.load().trace(run_id)["gpu0_power_w"].tolist() == [100, 110]


def frame(**columns: Any) -> DataFrame:
    made = DataFrame(columns)
    given = {"series": "here", "model": "m", "batch_size": 32.0, "phase": "train"}
    given |= {"is_modelled": False}
    return made.assign(**{key: value for key, value in given.items() if key not in made})


# Mean of 10, 12, 14 is 12, its standard error 2/√3; t with 2 degrees is 4.302653.
def test_repetitions_are_summarised_by_students_t() -> None:
    cells = frame(**{"energy/net_j": [10.0, 12.0, 14.0], "energy/net_u95_j": 0.1})

    [row] = runs.summarise(cells, "energy/net_j").to_dict("records")

    half = 4.302653 * 2 / math.sqrt(3)
    assert (row["value"], row["num"]) == (12, 3)
    assert row["high"] - row["value"] == pytest.approx(half)


def test_a_single_run_has_its_own_uncertainty() -> None:
    cells = frame(**{"energy/net_j": [10.0], "energy/net_u95_j": 0.5, "time/active_s": 3.0})

    [energy] = runs.summarise(cells, "energy/net_j").to_dict("records")
    [time] = runs.summarise(cells, "time/active_s").to_dict("records")

    assert (energy["low"], energy["high"]) == (9.5, 10.5)
    assert math.isnan(time["low"])


def test_repeating_does_not_mend_a_model() -> None:
    cells = frame(**{"energy/net_j": [10.0, 10.2], "energy/net_u95_j": 5.0, "is_modelled": True})

    [row] = runs.summarise(cells, "energy/net_j").to_dict("records")

    assert row["high"] - row["value"] == pytest.approx(5)


def test_models_are_compared_at_the_batch_size_that_most_have() -> None:
    cells = frame(model=list("abcab"), batch_size=[32.0, 32.0, 32.0, 128.0, 128.0])

    assert runs.at_one_batch_size(cells)["batch_size"].unique().tolist() == [32]


def test_the_papers_batch_size_wins_a_tie() -> None:
    cells = frame(model=list("ababab"), batch_size=[32.0, 32.0, 128.0, 128.0, 256.0, 256.0])

    assert runs.at_one_batch_size(cells)["batch_size"].unique().tolist() == [128]


def test_a_metric_that_no_cell_has_is_nan() -> None:
    assert np.isnan(runs.column(frame(model=["a"]), "energy/net_gpu_j")).all()


@pytest.fixture
def postgres(monkeypatch: pytest.MonkeyPatch) -> Iterator[group_server.Database]:
    """A throwaway database; libpq finds its password in the environment."""
    if group_server.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with group_server.postgres() as database:
        monkeypatch.setenv("PGPASSWORD", database.password)
        yield database


@pytest.fixture
def server(postgres: group_server.Database, tmp_path: Path) -> Iterator[str]:
    """Serve greenlab's runs over that database; yields its URI."""
    (tmp_path / "server").mkdir()
    with group_server.serving(postgres, tmp_path / "server", num_workers=1) as one:
        yield one.uri


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_on_postgresql_reads_as_its_tables_do(
    postgres: group_server.Database, server: str, tmp_path: Path
) -> None:
    (tmp_path / "landed").mkdir()
    lab = Lab(server, tmp_path / "landed")
    lab.sweep(SWEEP)
    for repetition in range(1, 41):
        run_id = lab.land(repetition=repetition)
    lab.land(status="FAILED", measurement=None, failure=Failure(kind="oom", message="full"))
    lab.land(sweep="other", repetition=2)
    lab.store.client.log_metric(run_id, "task/loss", math.nan)
    lab.store.client.log_metric(run_id, "task/accuracy", math.inf)

    assert_both_ways_agree(
        Database(postgres.uri, "greenlab"), Server(server, "greenlab"), sweeps=[SWEEP, "other"]
    )
    through_server, through_tables = lab.load(), runs.load(postgres.uri, "greenlab", runs.ALL)
    same(through_server.cells, through_tables.cells)
    assert len(through_server.cells) == 41


# One TDP for all cells: 50 % of error in each, none in their ratio.
def test_the_error_of_a_model_that_all_share_is_left_out_of_comparisons() -> None:
    sources = {"source_gpu": "absent", "source_cpu": ["modelled:tdp", "measured:rapl"]}
    cells = frame(**{"energy/net_j": [10.0, 10.0], "energy/net_u95_j": [5.0, 0.1]})
    cells = cells.assign(**sources, source_dram="modelled:dimm")

    kept = runs.without_common_error(cells)

    assert kept["energy/net_u95_j"].isna().tolist() == [True, False]
    assert cells["energy/net_u95_j"].tolist() == [5, 0.1]
