"""A sweep that is killed twenty times at random, and resumed: nothing lost, nothing measured twice.

`CHAOS_SEED=7 make chaos` repeats the moments and victims of an earlier try as far as the machine
lets it: what a process is at after so many seconds depends on how busy the machine is.
"""

import os
import random
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import ROOT, CommandLine, greenlab_processes
from test_two_at_once import assert_one_at_a_time

from greenlab.record import CELL_FILE, RECORD_FILE, read_record
from greenlab.simulated.machine import workstation

NUM_KILLS = 20
NUM_CELLS = 12
GRID = (
    "--config-dir",
    str(ROOT / "tests" / "conf_beacon"),
    "-m",
    "model=beacon",
    "batch_size=16,32,64",
    "phase=inference,train",
    "repetitions=2",
    "model.kwargs.step_s=0.05",
    "dataset=synthetic",
    "dataset.num_samples=64",
    "dataset.image_size=8",
    "phase.min_active_s=0.5",
    "phase.warmup_batches=1",
    "idle.settle_s=0",
    "idle.window_s=0.5",
    "resume=true",
)
VICTIMS = {"main": 5, "measuring": 3, "forkserver": 2}
"""With their weights."""
COMMAND_WITHIN_S = 240.0


class Command:
    """One start of the sweep, and who of it can be killed."""

    def __init__(self, greenlab: CommandLine, number: int) -> None:
        self._folder = greenlab.folder
        self._output = greenlab.folder / f"printed-{number}"
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                greenlab.command(*GRID),
                cwd=greenlab.folder,
                env=greenlab.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._give_up_s = time.monotonic() + COMMAND_WITHIN_S
        self._num_before = self._num_cells()

    @property
    def is_over(self) -> bool:
        assert time.monotonic() < self._give_up_s, self.printed()
        return self._process.poll() is not None

    def printed(self) -> str:
        return self._output.read_text()

    def wait(self) -> int:
        while not self.is_over:
            time.sleep(0.05)
        return self._process.returncode

    def wait_for_cells(self, number: int) -> None:
        """Until so many cells have begun in this command."""
        while not self.is_over and self._num_cells() < self._num_before + number:
            time.sleep(0.02)

    def _num_cells(self) -> int:
        return len(list(self._folder.glob(f"multirun/*/*/*/{CELL_FILE}")))

    def kill(self, victim: str) -> bool:
        """Whether there was one to be killed."""
        while not self.is_over:
            for pid in self._find(victim):
                psutil.Process(pid).kill()
                return True
            time.sleep(0.02)
        return False

    def _find(self, victim: str) -> Iterator[int]:
        main = psutil.Process(self._process.pid)
        if victim == "main":
            yield main.pid
            return
        for process in main.children(recursive=victim == "measuring"):
            try:
                is_leader = os.getsid(process.pid) == process.pid
                is_server = "multiprocessing.forkserver" in " ".join(process.cmdline())
            except (psutil.Error, ProcessLookupError):
                continue
            if is_leader if victim == "measuring" else is_server:
                yield process.pid


def kill_twenty_times(greenlab: CommandLine, dice: random.Random) -> Iterator[Command]:
    """Start the sweep again and again; yields each command when it is over."""
    num_kills = num_commands = 0
    while num_kills < NUM_KILLS:
        command = Command(greenlab, num_commands)
        num_commands += 1
        while num_kills < NUM_KILLS and not command.is_over:
            [victim] = dice.choices(list(VICTIMS), list(VICTIMS.values()))
            if dice.random() < 0.6:  # in a cell, else before the first one or between two
                command.wait_for_cells(1)
            time.sleep(dice.uniform(0, 6))
            if command.kill(victim):
                num_kills += 1
                print(f"kill {num_kills}, in command {num_commands}: {victim}")
            if victim == "main":
                break
        if num_kills < NUM_KILLS or victim == "main":
            command.wait()
            yield command
    if victim != "main":  # the last one goes on
        command.wait()
        yield command


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_a_sweep_that_is_killed_twenty_times_measures_every_cell_once(
    greenlab: CommandLine,
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", secrets.randbelow(10**6)))
    print(f"CHAOS_SEED={seed}")
    began_s = time.monotonic()
    with workstation() as machine:
        greenlab.put_on(machine)
        sweeps = set()
        for command in kill_twenty_times(greenlab, random.Random(seed)):
            assert command.wait() in (-9, 0, 1), command.printed()
            assert "Traceback" not in command.printed(), command.printed()
            assert_no_orphans(greenlab)
            sweeps |= {identity(run) for run in greenlab.runs("sweep")}
        printed = Command(greenlab, 1000)
        assert printed.wait() == 0, printed.printed()
        assert_no_orphans(greenlab)
    print(f"{time.monotonic() - began_s:.0f} s")

    assert sweeps | {identity(run) for run in greenlab.runs("sweep")} == sweeps
    assert len(sweeps) == 1
    assert_every_cell_is_finished_once(greenlab)
    assert_records_are_whole(greenlab.folder)
    assert assert_one_at_a_time(greenlab.folder) >= NUM_CELLS


def identity(run: Any) -> tuple[str, str, str]:
    tags = run.data.tags
    return run.info.run_id, tags["greenlab.sweep"], tags["greenlab.folder"]


def assert_no_orphans(greenlab: CommandLine, within_s: float = 20) -> None:
    """A fork server that is still importing ends when it has done so."""
    until_s = time.monotonic() + within_s
    while greenlab_processes(greenlab.folder):
        assert time.monotonic() < until_s, greenlab_processes(greenlab.folder)
        time.sleep(0.1)


def assert_every_cell_is_finished_once(greenlab: CommandLine) -> None:
    runs: list[Any] = greenlab.runs()
    [sweep] = greenlab.runs("sweep")
    print(Counter(run.info.status for run in runs))
    assert {run.info.status for run in greenlab.all_runs()} <= {"FINISHED", "FAILED", "KILLED"}
    assert sweep.info.status == "FINISHED"
    assert {run.data.tags["greenlab.sync"] for run in runs} == {"complete"}
    assert len({run.data.tags["greenlab.uid"] for run in runs}) == len(runs)
    finished = [
        tuple(run.data.params[name] for name in ("batch_size", "phase", "repetition"))
        for run in runs
        if run.info.status == "FINISHED"
    ]
    assert sorted(finished) == sorted(
        (size, phase, repetition)
        for size in ("16", "32", "64")
        for phase in ("inference", "train")
        for repetition in ("1", "2")
    )
    failures = {run.data.tags.get("greenlab.failure", "none").partition(":")[0] for run in runs}
    assert failures <= {"none", "killed"}


def assert_records_are_whole(folder: Path) -> None:
    cells = [path.parent for path in folder.glob(f"multirun/*/*/*/{CELL_FILE}")]
    assert len({cell.parent for cell in cells}) == 1
    statuses = Counter(read_record(cell).status for cell in cells)
    assert statuses["FINISHED"] == NUM_CELLS
    assert not list(folder.rglob("unsynced"))
    assert len(cells) == len(list(folder.glob(f"multirun/*/*/*/{RECORD_FILE}")))
