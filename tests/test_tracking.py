"""What lands in MLflow, held against a real store: complete, once, and at any later time.

The cell that lands is golden/record.json: ResNet18, two epochs, 2850 J net of 3945 J gross, WARN.
"""

import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, make_cell, make_config
from filelock import FileLock

from greenlab import record, tracking, views
from greenlab.config import Mlflow, from_dict, to_dict
from greenlab.errors import (
    ConfigError,
    GreenlabError,
    StoreUnavailableError,
    first_line,
    without_password,
)
from greenlab.landing import sync
from greenlab.metrics import metrics
from greenlab.record import Failure, Record, SweepEnd, SweepRun
from greenlab.sync import main
from greenlab.trace_file import RowFile, write_trace
from greenlab.tracking import MAX_SERIES_POINTS, Store, describe, open_store

GOLDEN = Path(__file__).parent / "golden"
TRACE_COLUMNS = ["time_s", "cpu_busy_s", "cpu_stolen_s", "cpu_total_s", "cpu_own_s"]
ARTEFACTS = ["config.yaml", "greenlab.log", "power.png", "record.json", "trace.parquet"]


@pytest.fixture
def database(workplace: Path) -> Path:
    return workplace / "mlflow.db"


@pytest.fixture
def store(database: Path) -> Store:
    return open_store(at(database))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "cell")


def write_folder(cell_folder: Path) -> Path:
    """Write a cell's folder as measuring leaves it."""
    cell_folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "record.json", cell_folder)
    record.write_cell(cell_folder, record.read_record(cell_folder).cell)
    write_trace_of(cell_folder, np.full(340, 200.0))
    (cell_folder / "config.yaml").write_text("seed: 7\n")
    (cell_folder / "power.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (cell_folder / "greenlab.log").write_text("pass 1\n")
    return cell_folder


@pytest.fixture(scope="module")
def finished_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that tests only look at; the golden cell has landed in it."""
    place = tmp_path_factory.mktemp("finished")
    shutil.copy(empty_store, place / "mlflow.db")
    store = open_store(at(place / "mlflow.db", experiment="finished"))
    store.land(write_folder(place / "cell"))
    return store


@pytest.fixture(scope="module")
def finished(finished_store: Store) -> Any:
    """The run of the golden cell."""
    [run] = cells(finished_store)
    return run


def at(database: Path, **changes: str) -> Mlflow:
    return Mlflow(tracking_uri=f"sqlite:///{database}", **changes)


def write_trace_of(cell_folder: Path, gpu_w: "np.ndarray[Any, Any]") -> None:
    """A trace of one GPU's power; the other one draws 10 W, CPU and memory 20 W and 3 W."""
    steady = np.ones_like(gpu_w)
    columns = {
        "time_s": 1_700_000_010 + 0.1 * np.arange(len(gpu_w)),
        "gpu0_power_w": gpu_w,
        "gpu1_power_w": 10 * steady,
        "cpu0_power_w": 20 * steady,
        "dram_power_w": 3 * steady,
    }
    write_trace(cell_folder / "trace.parquet", [columns])


def cells(store: Store) -> list[Any]:
    found = store.client.search_runs([store.experiment_id], "tags.`greenlab.kind` = 'cell'")
    return list(found)


def landed(store: Store, folder: Path) -> Any:
    return store.client.get_run(store.land(folder))


def num_points(database: Path) -> int:
    """Metric points in the whole store."""
    with sqlite3.connect(database) as connection:
        [[count]] = connection.execute("SELECT COUNT(*) FROM metrics").fetchall()
    return int(count)


def artefacts(store: Store, run_id: str) -> list[str]:
    return sorted(entry.path for entry in store.client.list_artifacts(run_id))


class Flaky:
    """MLflow's client, one of whose calls fails the first time, as a full disk would have it."""

    def __init__(self, client: Any, call: str) -> None:
        self._client = client
        self._fails = {call}

    def __getattr__(self, name: str) -> Any:
        if name in self._fails:
            self._fails.remove(name)
            return self._fail
        return getattr(self._client, name)

    def _fail(self, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")


# ------------------------------------------------------------------------------------ a cell lands


def test_a_cell_is_one_finished_run(finished_store: Store) -> None:
    assert [run.info.status for run in cells(finished_store)] == ["FINISHED"]


def test_a_run_has_the_params_of_its_cell(finished: Any) -> None:
    assert finished.data.params == {
        "model": "resnet18",
        "hardware": "cuda",
        "batch_size": "64",
        "phase": "train",
        "dataset": "digits",
        "seed": "7",
        "repetition": "1",
        "epochs": "2",
        "device": "cuda:0",
        "placement": "resident",
    }


def test_a_run_has_the_metrics_of_its_record(finished: Any) -> None:
    derived = metrics(record.read_record(GOLDEN))
    logged = finished.data.metrics
    others = {
        *(f"epoch/{name}" for name in ("net_j", "gross_j", "active_s", "loss", "accuracy")),
        *(f"trace/{component}_power_w" for component in ("gpu", "cpu", "dram")),
    }

    assert {name: logged[name] for name in derived} == derived
    assert logged.keys() - derived.keys() == others


# 1900 J, then 950 J; see test_record.py.
def test_epochs_are_steps(finished_store: Store, finished: Any) -> None:
    history = finished_store.client.get_metric_history(finished.info.run_id, "epoch/net_j")

    assert [(point.step, point.value) for point in history] == [(0, 1900), (1, 950)]


def test_a_run_has_the_tags_that_tell_it_apart(finished: Any) -> None:
    tags = finished.data.tags
    expected = {
        "greenlab.kind": "cell",
        "greenlab.signature": "00112233445566aa",
        "greenlab.sweep": "20231114-221320-1a2b",
        "greenlab.uid": "0123456789abcdef0123456789abcdef",
        "greenlab.sync": "complete",
        "greenlab.verdict": "WARN",
        "greenlab.doubts": "modelled_dram, short_idle",
        "greenlab.machine": "lab-1a2b3c",
        "greenlab.coverage": "gpu+cpu+dram",
        "energy_source.gpu": "measured:nvml",
        "energy_source.cpu": "measured:rapl",
        "energy_source.dram": "modelled:dimm",
        "mlflow.source.git.commit": "0123456789ab",
    }

    assert {key: tags.get(key) for key in expected} == expected
    assert "greenlab.failure" not in tags


def test_runs_are_flat(finished: Any) -> None:
    assert "mlflow.parentRunId" not in finished.data.tags


def test_a_run_is_named_after_its_cell(finished: Any) -> None:
    assert finished.info.run_name == "resnet18-64-train"


def test_a_run_keeps_the_files_of_its_cell(finished_store: Store, finished: Any) -> None:
    assert artefacts(finished_store, finished.info.run_id) == ARTEFACTS


def test_files_lie_beside_the_database(store: Store, folder: Path, workplace: Path) -> None:
    run_id = store.land(folder)

    assert list((workplace / "mlartifacts").rglob(f"{run_id}/artifacts/record.json"))


@pytest.mark.parametrize(
    "expected",
    [
        "**~2,850.0 ± 27 J net** of ~3,945.0 J gross",
        "(28% of it idle)",  # 1095 / 3945
        "15.0 s",
        "0.95 J per sample",
        "**WARN**",
        "`short_idle`",
        "| dram | ~0.0 ± 27 | ~45.0 | ~3.0 | modelled:dimm",
        "cell 2 of 8",
    ],
)
def test_a_person_reads_first(expected: str) -> None:
    assert expected in describe(record.read_record(GOLDEN))


def test_the_description_lands_with_the_run(finished: Any) -> None:
    note = finished.data.tags["mlflow.note.content"]

    assert note.startswith("**WARN**")
    assert "J net" in note.splitlines()[0]


def test_a_run_has_the_times_of_its_record(finished: Any) -> None:
    info = finished.info

    assert (info.start_time, info.end_time) == (1_700_000_000_000, 1_700_000_060_000)


# ---------------------------------------------------------------------------------- once, complete


def test_landing_twice_leaves_one_run(store: Store, folder: Path, database: Path) -> None:
    first = store.land(folder)
    points = num_points(database)
    second = store.land(folder)

    assert (second, len(cells(store)), num_points(database)) == (first, 1, points)


@pytest.mark.parametrize("call", ["log_batch", "log_artifact", "set_tag", "set_terminated"])
def test_a_landing_that_broke_off_is_completed_by_the_next(
    call: str, store: Store, folder: Path
) -> None:
    flaky = replace(store, client=Flaky(store.client, call))
    with pytest.raises(OSError, match="No space left"):
        flaky.land(folder)
    [begun] = cells(store)

    run = landed(flaky, folder)

    assert (run.info.run_id, run.info.status) == (begun.info.run_id, "FINISHED")
    assert run.data.tags["greenlab.sync"] == "complete"
    assert artefacts(store, run.info.run_id) == ARTEFACTS


def test_completing_a_landing_adds_no_point_twice(
    store: Store, folder: Path, database: Path
) -> None:
    flaky = replace(store, client=Flaky(store.client, "log_artifact"))
    with pytest.raises(OSError, match="No space left"):
        flaky.land(folder)
    points = num_points(database)
    flaky.land(folder)

    assert num_points(database) == points


def test_until_it_is_complete_a_run_says_so(store: Store, folder: Path) -> None:
    flaky = replace(store, client=Flaky(store.client, "log_artifact"))
    with pytest.raises(OSError, match="No space left"):
        flaky.land(folder)

    assert cells(store)[0].data.tags["greenlab.sync"] == "partial"


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_cell_without_a_result_lands_with_its_failure(
    status: record.Status, store: Store, tmp_path: Path
) -> None:
    failed = Record(
        status=status,
        cell=make_cell(make_config()),
        ended_at_s=time.time(),
        failure=Failure(kind="oom", message="out of memory"),
    )
    record.write_record(tmp_path, failed)
    rows = RowFile(tmp_path, TRACE_COLUMNS)
    rows.add([0.0] * len(TRACE_COLUMNS))
    rows.flush()  # as far as it came

    run = landed(store, tmp_path)

    assert run.info.status == status
    assert "trace.parquet" in artefacts(store, run.info.run_id)
    assert run.data.tags["greenlab.failure"] == "oom: out of memory"
    assert run.data.tags["greenlab.verdict"] == "INVALID"
    assert run.data.metrics == {}


# ------------------------------------------------------------------------------------- the series


def gpu_series(store: Store, folder: Path) -> list[float]:
    history = store.client.get_metric_history(store.land(folder), "trace/gpu_power_w")
    return [point.value for point in sorted(history, key=lambda point: point.step)]


def test_a_long_trace_lands_as_no_more_points_than_are_drawn(store: Store, folder: Path) -> None:
    write_trace_of(folder, np.full(5000, 200.0))

    assert len(gpu_series(store, folder)) == MAX_SERIES_POINTS == 320


# 6400 samples make 320 chunks of 20. A ramp from 0 to 6399 W has a mean of 3199.5 W; the second
# GPU adds 10 W.
def test_a_thinned_trace_keeps_its_mean(store: Store, folder: Path) -> None:
    write_trace_of(folder, np.arange(6400.0))

    assert np.mean(gpu_series(store, folder)) == pytest.approx(3209.5)


def test_a_short_trace_lands_as_it_is(store: Store, folder: Path) -> None:
    write_trace_of(folder, np.array([100.0, 200.0, 300.0]))

    assert gpu_series(store, folder) == [110, 210, 310]


# The first sample has nothing before it to be differenced with.
def test_a_sample_without_power_is_left_out_not_zero(store: Store, folder: Path) -> None:
    write_trace_of(folder, np.array([np.nan, 200.0, 300.0]))

    assert gpu_series(store, folder) == [210, 310]


def test_a_trace_of_one_sample_has_no_series(store: Store, folder: Path) -> None:
    write_trace_of(folder, np.array([np.nan]))

    assert gpu_series(store, folder) == []


# -------------------------------------------------------------------------------------- passwords

SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://ann:{SECRET}@lab/mlflow",
        f"https://ann:{SECRET}@lab:5000",
        f"mlflow.tracking_uri=http://ann:{SECRET}@lab:5000/path",
        f"http://:{SECRET}@lab",
        f"postgresql+psycopg://ann:a/{SECRET}@lab/mlflow",
        f"postgresql+psycopg://ann@lab/mlflow?connect_timeout=5&password={SECRET}",
        f"from http://a:{SECRET}@lab to http://b:{SECRET}@lab",
    ],
)
def test_a_password_in_an_address_is_blanked_out(text: str) -> None:
    assert SECRET not in (without_password(text) or "")


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:5000", "sqlite:////home/ann/mlflow.db", "seed=1", "a:b@c", ""]
)
def test_an_address_without_a_password_stays(text: str) -> None:
    assert without_password(text) == text


def test_no_address_is_no_password() -> None:
    assert without_password(None) is None


def test_a_blanked_out_address_keeps_its_user() -> None:
    assert without_password("http://ann:pw@lab") == "http://ann:***@lab"


@pytest.mark.parametrize(
    "uri", [f"http://ann:{SECRET}@lab", f"postgresql://ann@lab/mlflow?password={SECRET}"]
)
def test_a_password_is_no_setting(uri: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Mlflow(tracking_uri=uri)

    assert SECRET not in str(refused.value)
    for way_out in ("MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "MLFLOW_TRACKING_URI"):
        assert way_out in str(refused.value)


def test_an_address_whose_password_was_blanked_out_is_read_again() -> None:
    settings = to_dict(make_config())
    settings["mlflow"]["tracking_uri"] = "http://ann:***@lab"

    assert from_dict(settings).mlflow.tracking_uri == "http://ann:***@lab"


# ------------------------------------------------------------------------------- opening the store


def refusal(settings: Mlflow) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        open_store(settings)
    return str(caught.value)


def test_a_server_that_is_down_is_refused_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began_s = time.monotonic()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{SECRET}@127.0.0.1:9")
    message = refusal(Mlflow())

    assert time.monotonic() - began_s < 6
    assert "mlflow.tracking_uri=http://ann:***@127.0.0.1:9 cannot be opened" in message


@pytest.mark.parametrize(
    "uri",
    [
        f"http://ann:{SECRET}@127.0.0.1:9",
        f"postgresql://ann:{SECRET}@127.0.0.1:9/mlflow",
        f"nosuch://ann:{SECRET}@127.0.0.1/mlflow",
        f"postgresql://ann:{SECRET}/x@127.0.0.1:9/mlflow",
    ],
)
def test_a_refusal_does_not_tell_the_password(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert SECRET not in refusal(Mlflow())


def test_an_error_does_not_tell_the_password() -> None:
    """MLflow's quote the address that they failed at."""
    told = first_line(ValueError(f"API request to http://ann:{SECRET}@lab/api failed\nno more"))

    assert told == "API request to http://ann:***@lab/api failed"


def test_what_mlflow_and_links_are_told_is_the_address_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "before")

    assert tracking.without_credentials("https://ann:p%40w@lab:81/x") == "https://lab:81/x"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "ann"
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@w"
    assert tracking.without_credentials("https://lab:81/x") == "https://lab:81/x"
    assert tracking.without_credentials("postgresql://a:b@lab/x") == "postgresql://a:b@lab/x"


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = refusal(at(tmp_path / "no_such" / "mlflow.db"))

    assert f"{tmp_path / 'no_such'} does not exist" in message


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("seed: 7\n" * 100)

    assert "mlflow.tracking_uri=" in refusal(at(tmp_path / "mlflow.db"))


def test_a_deleted_experiment_is_refused(store: Store, database: Path) -> None:
    store.client.delete_experiment(store.experiment_id)

    assert "mlflow.experiment=greenlab was deleted" in refusal(at(database))


def test_an_experiment_of_ones_own_is_created(store: Store, database: Path) -> None:
    mine = open_store(at(database, experiment="mine"))

    assert store.client.get_experiment(mine.experiment_id).name == "mine"


def test_readers_and_writers_do_not_block_each_other(empty_store: Path) -> None:
    with sqlite3.connect(empty_store) as connection:
        [[mode]] = connection.execute("PRAGMA journal_mode").fetchall()

    assert mode == "wal"


OPEN_STORE = """
import sys
from greenlab.config import Mlflow
from greenlab.tracking import open_store
open_store(Mlflow(tracking_uri=f"sqlite:///{sys.argv[1]}"))
"""


@pytest.mark.slow
def test_a_database_that_was_being_made_when_greenlab_was_killed_is_made_anew(
    tmp_path: Path,
) -> None:
    """MLflow cannot go on with a half: duplicate column name."""
    database = tmp_path / "mlflow.db"
    command = [sys.executable, "-c", OPEN_STORE, str(database)]
    maker = subprocess.Popen(command, cwd=ROOT)
    while not list(tmp_path.glob("*/mlflow.db")) and maker.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    maker.kill()
    maker.wait()
    assert not database.exists()

    assert cells(open_store(at(database))) == []
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.slow
def test_four_processes_may_open_a_fresh_database_at_once(tmp_path: Path) -> None:
    opening = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_STORE, str(tmp_path / "mlflow.db")],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=150)[1] for process in opening]

    assert [process.returncode for process in opening] == [0] * 4, errors


# ------------------------------------------------------------------------------------------ views


def state_of(store: Store, view: views.View) -> dict[str, Any]:
    """What MLflow's page would read back of a saved view."""
    tags = store.client.get_experiment(store.experiment_id).tags
    kind, _, packed = json.loads(tags[f"mlflow.sharedViewState.{view.key}"])["state"].partition(";")
    assert kind == "deflate"
    decoded: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return decoded


@pytest.mark.parametrize("view", views.VIEWS, ids=lambda view: view.name)
def test_a_saved_view_reads_back_as_its_charts(view: views.View, finished_store: Store) -> None:
    state = state_of(finished_store, view)
    charts = [{key: chart[key] for key in card} for chart, card in charts_of(state, view)]

    assert state["searchFilter"] == view.filter
    assert charts == list(view.cards)


def charts_of(state: dict[str, Any], view: views.View) -> list[tuple[Any, Any]]:
    return list(zip(state["compareRunCharts"], view.cards, strict=True))


@pytest.mark.parametrize("view", views.VIEWS, ids=lambda view: view.name)
def test_the_charts_of_a_view_are_in_a_section_that_is_there(
    view: views.View, store: Store
) -> None:
    state = state_of(store, view)
    [section] = state["compareRunSections"]

    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= {section["uuid"]}


# MLflow's pages show nothing for a name that no run has.
@pytest.mark.parametrize("view", views.VIEWS, ids=lambda view: view.name)
def test_views_draw_what_cells_log(view: views.View, finished: Any) -> None:
    data = finished.data

    assert _names(view.cards) <= {*data.metrics, *data.params, *data.tags}


def test_views_list_what_cells_log(finished: Any) -> None:
    data = finished.data
    listed = {column.split("`")[1] for column in views.COLUMNS}

    assert listed <= {*data.metrics, *data.params, *data.tags}


def _names(cards: Any) -> set[str]:
    found: set[str] = set()
    for card in cards:
        found |= {card[key] for key in ("metricKey",) if key in card}
        found |= {card[axis]["key"] for axis in ("xaxis", "yaxis") if axis in card}
        found |= {*card.get("selectedParams", []), *card.get("selectedMetrics", [])}
    return found


def test_a_view_that_the_user_changed_stays(store: Store, database: Path) -> None:
    key = f"mlflow.sharedViewState.{views.VIEWS[0].key}"
    store.client.set_experiment_tag(store.experiment_id, key, "mine")
    open_store(at(database))

    assert store.client.get_experiment(store.experiment_id).tags[key] == "mine"


def test_links_lead_to_the_views(finished_store: Store) -> None:
    links = finished_store.view_links()

    for view in views.VIEWS:
        assert f"viewStateShareKey={view.key}" in links[view.name]


# ----------------------------------------------------------------------------------------- sweeps

SWEEP = SweepRun(
    run_id="",
    name="s1",
    grid="0123",
    overrides="batch_size=16,32",
    num_cells=2,
    repetitions="auto",
    order="shuffle",
    order_seed=2**32 - 1,
    folder="/data/multirun/it's here",
    host="lab",
)


END = SweepEnd(
    begun=SWEEP,
    status="FINISHED",
    ended_at_s=1_700_000_000.0,
    table="| net J |",
    ledger={"cells": []},
    metrics={"cells/finished": 2},
)


def test_a_sweep_is_found_again_as_it_began(store: Store) -> None:
    begun = store.begin_sweep(SWEEP)

    assert store.sweeps() == [begun]
    assert begun == replace(SWEEP, run_id=begun.run_id)


def test_a_long_command_line_does_not_keep_a_sweep_from_its_store(store: Store) -> None:
    run_id = store.begin_sweep(replace(SWEEP, overrides="seed=1 " * 2000)).run_id

    assert len(store.client.get_run(run_id).data.tags["greenlab.overrides"]) == 8000


def test_a_sweep_that_dies_at_once_is_found_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        """Stands for kill -9 at the second request."""

    create_run = store.client.create_run

    def die_after(*given: Any, **named: Any) -> None:
        create_run(*given, **named)
        raise KilledError

    with monkeypatch.context() as dying:
        dying.setattr(store.client, "create_run", die_after)
        with pytest.raises(KilledError):
            store.begin_sweep(SWEEP)

    assert [one.name for one in store.sweeps()] == [SWEEP.name]


def test_a_finished_cell_is_found_by_its_signature(store: Store, folder: Path) -> None:
    cell_record = record.read_record(folder)
    store.land(folder)
    [(signature, landed)] = store.finished_cells(None).items()

    assert signature == cell_record.cell.signature
    assert landed.net_j == metrics(cell_record)["energy/net_j"]
    assert store.finished_cells(cell_record.cell.sweep).keys() == {signature}
    assert store.finished_cells("another sweep") == {}


def test_what_a_dead_sweep_left_running_is_closed(store: Store, folder: Path) -> None:
    left = store.client.create_run(
        store.experiment_id, tags={"greenlab.sweep": "s1", "greenlab.kind": "cell"}
    )
    store.close_running("s1")

    assert store.client.get_run(left.info.run_id).info.status == "KILLED"


def test_a_sweep_is_a_run_of_its_own_kind(store: Store) -> None:
    overrides = f"mlflow.tracking_uri=http://ann:{SECRET}@lab seed=1"
    begun = store.begin_sweep(replace(SWEEP, overrides=overrides))
    run_id = store.land_sweep(replace(END, begun=begun))
    run = store.client.get_run(run_id)

    assert run_id == begun.run_id
    assert run.info.status == "FINISHED"
    assert run.data.tags["greenlab.kind"] == "sweep"
    assert run.data.tags["greenlab.overrides"] == "mlflow.tracking_uri=http://ann:***@lab seed=1"
    assert run.data.metrics == {"cells/finished": 2}
    assert artefacts(store, run_id) == ["ledger.json", "table.md"]


def test_a_sweep_lands_once_and_again_when_it_was_resumed(store: Store, database: Path) -> None:
    run_id = store.land_sweep(END)  # the store was not there when it began
    assert store.land_sweep(END) == run_id
    assert num_points(database) == 1

    store.reopen_sweep(run_id)
    assert store.land_sweep(replace(END, metrics={"cells/finished": 3})) == run_id
    assert store.client.get_run(run_id).data.metrics == {"cells/finished": 3}
    assert [one.run_id for one in store.sweeps()] == [run_id]


# ------------------------------------------------------------------------------------------- sync


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A cell's folder as it is while the cell runs."""
    cell_folder = tmp_path / "begun"
    cell_folder.mkdir()
    record.write_cell(cell_folder, make_cell(make_config()))
    return cell_folder


def test_a_cell_that_died_with_greenlab_lands_as_killed(store: Store, begun: Path) -> None:
    sync(begun, store)

    assert [run.info.status for run in cells(store)] == ["KILLED"]


def test_syncing_again_changes_nothing(store: Store, folder: Path) -> None:
    assert sync(folder, store) == sync(folder, store)
    assert len(cells(store)) == 1


def test_the_command_lands_a_sweep_after_its_cells(
    tmp_path: Path, database: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "sweep" / "cell-0")
    record.write_sweep(tmp_path / "sweep", END)
    command = ["sync", str(tmp_path / "sweep"), "--tracking-uri", f"sqlite:///{database}"]
    monkeypatch.setattr("sys.argv", [*command, "--experiment", "greenlab"])

    assert [main(), main()] == [0, 0]
    assert len(cells(store)) == 1
    assert [one.name for one in store.sweeps()] == [SWEEP.name]


def test_a_cell_that_runs_is_not_landed(store: Store, begun: Path) -> None:
    with FileLock(begun / "running.lock"), pytest.raises(GreenlabError, match="it is running"):
        sync(begun, store)

    assert cells(store) == []


# ------------------------------------------------------------------------- files that are not here


@pytest.mark.parametrize(
    "name", ["record.json", "cell.json", "power.png", "greenlab.log", "trace.parquet"]
)
def test_a_link_does_not_land_what_it_points_to(
    store: Store, folder: Path, tmp_path: Path, name: str
) -> None:
    (folder / name).rename(tmp_path / "elsewhere")  # as good as it may be
    (folder / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(GreenlabError, match=f"{name} is a link"):
        store.land(folder)
    assert cells(store) == []


def test_rows_of_a_trace_are_no_link_either(store: Store, folder: Path) -> None:
    (folder / "trace.rows").symlink_to("/etc/passwd")

    with pytest.raises(GreenlabError, match=r"trace\.rows is a link"):
        store.land(folder)


def test_a_pipe_does_not_hold_it_up(store: Store, folder: Path) -> None:
    (folder / "power.png").unlink()
    os.mkfifo(folder / "power.png")

    with pytest.raises(GreenlabError, match="no plain file"):
        store.land(folder)


def test_sync_of_a_copied_folder_names_its_links_and_lands_the_rest(
    tmp_path: Path,
    database: Path,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, name in enumerate(("power.png", "cell.json", "greenlab.log")):
        copied = write_folder(tmp_path / "copied" / f"cell-{number}")
        (copied / name).unlink()
        (copied / name).symlink_to("/etc/passwd" if name != "greenlab.log" else "nowhere")
    write_folder(tmp_path / "copied" / "cell-3")
    record.write_sweep(tmp_path / "copied", END)
    (tmp_path / "copied" / record.SWEEP_FILE).rename(tmp_path / "sweep.json")
    (tmp_path / "copied" / record.SWEEP_FILE).symlink_to(tmp_path / "sweep.json")
    command = ["sync", str(tmp_path / "copied"), "--tracking-uri", f"sqlite:///{database}"]
    monkeypatch.setattr("sys.argv", [*command, "--experiment", "greenlab"])

    assert main() == 1
    told = capsys.readouterr().out
    for name in ("power.png", "cell.json", "greenlab.log", "sweep.json"):
        assert f"{name} is a link or no plain file" in told
    assert "root:" not in told
    assert len(cells(store)) == 1
    kept = [path for path in database.parent.rglob("*") if path.is_file()]
    assert not [path for path in kept if b"root:x:" in path.read_bytes()]


# -------------------------------------------------------------------- where a cell was to be logged


def test_sync_takes_the_whole_address_from_the_environment_where_it_was_from_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads((folder / "cell.json").read_text())
    stored["config"]["mlflow"]["tracking_uri"] = "http://ann:***@127.0.0.1:9"
    (folder / "cell.json").write_text(json.dumps(stored))
    monkeypatch.setattr("sys.argv", ["sync", str(folder)])

    assert main() == 1
    assert "the password of http://ann:***@127.0.0.1:9 is not stored" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{SECRET}@127.0.0.1:9")
    assert main() == 1
    told = capsys.readouterr().out
    assert "mlflow.tracking_uri=http://ann:***@127.0.0.1:9 cannot be opened" in told
    assert SECRET not in told


def test_work_leaves_out_where_and_how_it_was_metered(finished: Any) -> None:
    done = json.loads(finished.data.tags["greenlab.work"])

    assert done.keys() == {"model", "batch_size", "phase", "dataset"}
    assert done["batch_size"] == {"size": 64}
    assert not {"min_active_s", "warmup_batches"} & done["phase"].keys()
    assert "folder" not in done["dataset"]


# MLflow cuts a description at 8,000 characters, wherever that is in a row.
def test_a_description_ends_with_a_whole_row_and_says_where_the_rest_is() -> None:
    rows = [f"| cell {number} | {'x' * 80} |" for number in range(1000)]

    note = tracking._as_note("\n".join(rows))

    *kept, empty, more = note.splitlines()
    assert len(note) <= 8000
    assert kept == rows[: len(kept)]
    assert len(kept) > 80
    assert (empty, more) == ("", "The table goes on in the artefact table.md.")


def test_a_table_that_fits_is_the_description() -> None:
    assert tracking._as_note("| one | row |") == "| one | row |"
