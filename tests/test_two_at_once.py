"""Two commands at once on one machine: the second waits, and no two cells are measured at once."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import CommandLine
from test_outage import CELLS

from greenlab.account import read_account
from greenlab.record import CELL_FILE
from greenlab.simulated.machine import workstation


def metered_spans(folder: Path) -> list[tuple[float, float, str]]:
    """From when to when (Unix time) each cell under `folder` was metered, in that order."""
    spans = []
    for cell in folder.rglob(CELL_FILE):
        if (account := read_account(cell.parent)) is not None:
            spent_s = sum(stage.duration_s for stage in account.stages)
            spans.append((account.started_at_s, account.started_at_s + spent_s, cell.parent.name))
    return sorted(spans)


def assert_one_at_a_time(folder: Path) -> int:
    """By the readings of their meters, those of killed cells too; returns how many there are."""
    spans = metered_spans(folder)
    for before, after in pairwise(spans):
        assert before[1] <= after[0], (before, after)
    return len(spans)


def run_two(greenlab: CommandLine, *commands: Sequence[str]) -> None:
    """Start them at once; one waits and says for whom, both end well, no windows overlap."""
    with workstation() as machine:
        greenlab.put_on(machine)
        started = [greenlab.start(*command) for command in commands]
        printed = [command.communicate()[0] for command in started]
    assert [command.returncode for command in started] == [0, 0], printed
    [waited] = [place for place, text in enumerate(printed) if "this machine is free" in text]
    assert f"it is taken by process {started[1 - waited].pid} of" in printed[waited]
    runs: list[Any] = greenlab.runs()
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert assert_one_at_a_time(greenlab.folder) == len(runs)
    # By MLflow: a run's time is from before its cell is metered until after.
    times = sorted((run.info.start_time, run.info.end_time) for run in runs)
    for (_, ended_ms), (began_ms, _) in pairwise(times):
        assert ended_ms <= began_ms


@pytest.mark.slow
def test_the_second_of_two_commands_waits_for_the_first(greenlab: CommandLine) -> None:
    single = [setting for setting in CELLS if setting != "-m"]
    run_two(greenlab, [*single, "hydra.run.dir=a"], [*single, "hydra.run.dir=b"])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_second_of_two_sweeps_waits_for_the_first(greenlab: CommandLine) -> None:
    run_two(
        greenlab,
        [*CELLS, "batch_size=16,32,64", "hydra.sweep.dir=multirun/a"],
        [*CELLS, "batch_size=8,128", "hydra.sweep.dir=multirun/b"],
    )
    assert len(greenlab.runs()) == 5
