"""The table at the end of a sweep: its cells can be told apart."""

import time
from dataclasses import replace

import pytest
from conftest import ROOT, make_cell, make_config

from greenlab import end_table
from greenlab.record import Failure, Record, read_record
from greenlab.terminal import open_console


def failed(*overrides: str) -> Record:
    return Record(
        status="FAILED",
        cell=make_cell(make_config(), overrides=list(overrides)),
        ended_at_s=time.time(),
        failure=Failure(kind="error", message="no matter"),
    )


COMMON = ("phase.min_active_s=2", "model=lenet")


def test_settings_that_differ_between_cells_have_a_column() -> None:
    cells = [
        failed(*COMMON, "batch_size=32", "hardware.power_limit_w=150", "model.freeze=[conv1]"),
        failed(*COMMON, "batch_size=64", "hardware.power_limit_w=250"),
    ]
    title, header, *_ = end_table.markdown("s", [[one] for one in cells]).splitlines()[1:]
    assert title == ""
    assert header.startswith("| model | batch | phase | settings | net J |")
    assert end_table._settings(cells) == [
        "hardware.power_limit_w=150 model.freeze=[conv1]",
        "hardware.power_limit_w=250",
    ]


def test_what_the_other_columns_show_needs_no_column_more() -> None:
    cells = [failed(*COMMON, "batch_size=32"), failed(*COMMON, "batch_size=64", "phase=inference")]
    assert "settings" not in end_table.markdown("s", [[one] for one in cells])


def test_brackets_are_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [failed("model.freeze=[conv1]"), failed("model.freeze=[fc]")]
    open_console().print(end_table.build_table("s", [[one] for one in cells]))
    shown = capsys.readouterr().out
    assert "[conv1]" in shown
    assert "[fc]" in shown


def test_runs_of_two_machines_or_other_sources_are_not_averaged() -> None:
    golden = read_record(ROOT / "tests" / "golden")
    assert golden.environment is not None
    assert golden.measurement is not None
    elsewhere = replace(golden, environment=replace(golden.environment, machine="lab-2"))
    sources = [replace(one, provenance="modelled:tdp") for one in golden.measurement.sources]
    modelled = replace(golden, measurement=replace(golden.measurement, sources=sources))
    lost = replace(golden, status="FAILED", measurement=None)
    runs = [
        replace(one, cell=replace(one.cell, signature=str(number)))
        for number, one in enumerate([golden, elsewhere, modelled, golden, lost])
    ]
    groups = end_table.by_cell(runs, {})

    assert [[one.cell.signature for one in group] for group in groups] == [
        ["0", "3", "4"], ["1"], ["2"]
    ]  # fmt: skip
