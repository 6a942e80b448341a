"""The table at the end of a sweep: its cells can be told apart."""

import time

import pytest
from conftest import make_cell, make_config

from greenlab import end_table
from greenlab.record import Failure, Record
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
