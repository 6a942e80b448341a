"""Profiles and full runs that meet in a store: each is told how far the one was from the other."""

import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from profiled import full_run, profile

from greenlab import record
from greenlab.config import Mlflow
from greenlab.record import Record
from greenlab.tracking import Store, open_store


@pytest.fixture
def store(workplace: Path) -> Store:
    return open_store(Mlflow(tracking_uri=f"sqlite:///{workplace / 'mlflow.db'}"))


def land(store: Store, folder: Path, landed: Record) -> str:
    folder.mkdir()
    record.write_cell(folder, landed.cell)
    record.write_record(folder, landed)
    return store.land(folder)


def data(store: Store, run_id: str) -> Any:
    return store.client.get_run(run_id).data


@pytest.mark.parametrize("profile_is_first", [True, False])
def test_who_lands_last_finds_the_other(
    store: Store, tmp_path: Path, profile_is_first: bool
) -> None:
    cells = {"profile": profile(train_ms=[5.5] * 4), "full": full_run()}
    names = ["profile", "full"] if profile_is_first else ["full", "profile"]

    ids = {name: land(store, tmp_path / name, cells[name]) for name in names}

    full, short = data(store, ids["full"]), data(store, ids["profile"])
    # 5.5 ms per sample were profiled and 5 ms it took.
    assert full.metrics["predicted/time_error_percent"] == pytest.approx(10, abs=1)
    assert full.metrics["predicted/time_is_inside"] == 0
    assert full.tags["greenlab.profile"] == ids["profile"]
    assert short.metrics["predicted/train_time_error_percent"] == pytest.approx(10, abs=1)
    assert short.tags["greenlab.full_train"] == ids["full"]
    assert "predicted/inference_error_percent" not in short.metrics


# Profiled at 6, then at 5 ms: the run, at 5 ms, is told of the second one.
@pytest.mark.parametrize("newer_is_first", [True, False])
def test_the_newest_profile_is_the_one_shown(
    store: Store, tmp_path: Path, newer_is_first: bool
) -> None:
    older = profile(uid="older", started_at_s=1_700_000_000.0, train_ms=[6.0] * 4)
    newer = profile(uid="newer", started_at_s=1_700_000_100.0)
    order = [newer, older] if newer_is_first else [older, newer]

    run_id = land(store, tmp_path / "full", full_run())
    ids = {one.cell.uid: land(store, tmp_path / one.cell.uid, one) for one in order}

    found = data(store, run_id)
    assert found.tags["greenlab.profile"] == ids["newer"]
    assert found.metrics["predicted/time_error_percent"] == pytest.approx(0, abs=1)
    assert data(store, ids["older"]).metrics["predicted/train_time_error_percent"] == pytest.approx(
        20, abs=1
    )


def test_another_machine_is_not_heard_of(store: Store, tmp_path: Path) -> None:
    land(store, tmp_path / "profile", profile())

    run_id = land(store, tmp_path / "full", full_run(machine="elsewhere"))

    assert not [name for name in data(store, run_id).metrics if name.startswith("predicted/")]


def test_a_cell_lands_though_predictions_cannot_be_held_against_it(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    profile_id = land(store, tmp_path / "profile", profile())
    kept = Path(urlsplit(store.client.get_run(profile_id).info.artifact_uri).path)
    (kept / "record.json").write_text("{")

    with caplog.at_level(logging.WARNING, logger="greenlab.tracking"):
        run_id = land(store, tmp_path / "full", full_run())

    assert data(store, run_id).tags["greenlab.sync"] == "complete"
    assert "resnet18-64-train landed, but predictions were not held against it" in caplog.text


def test_a_store_with_runs_of_one_kind_alone_reads_no_record(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Store, run_id: str) -> Record:
        raise AssertionError("a record was read")

    monkeypatch.setattr(Store, "record_of", refuse)

    land(store, tmp_path / "one", full_run(uid="one"))
    land(store, tmp_path / "two", full_run(uid="two"))
