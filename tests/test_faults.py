"""What happens to real cells from outside: each disturbance gets its own name and no other.

Whole commands on the simulated workstation, as a user runs them. They need a machine that nothing
else runs on: another process's load is a disturbance too, and is reported as one.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import BEACON, CommandLine

from greenlab.record import Record
from greenlab.simulated.machine import SimulatedMachine, workstation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LONG_ENOUGH = (
    *[setting for setting in BEACON if not setting.startswith(("idle.", "phase.min_active_s"))],
    "idle.settle_s=2",
    "idle.window_s=6",
    "phase.min_active_s=8",
)
HOG = "import time; ends = time.monotonic() + {}\nwhile time.monotonic() < ends: pass"


def wait_for(happens: Callable[[], bool], within_s: float = 100) -> None:
    deadline_s = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def logged(folder: Path, text: str) -> bool:
    return any(text in log.read_text() for log in folder.glob("outputs/*/*/greenlab.log"))


def measuring_process(machine: SimulatedMachine) -> int:
    """The process that leads a session of its own and follows the machine's beacon."""
    beacon = machine.environment()["SIMULATED_BEACON"]
    for folder in Path("/proc").glob("[0-9]*"):
        number = int(folder.name)
        try:
            is_leader = os.getsid(number) == number and number != machine.writer_pid
            if is_leader and beacon in (folder / "maps").read_text():
                return number
        except (OSError, ProcessLookupError):
            continue
    raise AssertionError("no process follows the beacon")


@contextmanager
def hogs(duration_s: float) -> Iterator[None]:
    """Every CPU busy for so long."""
    command = [sys.executable, "-S", "-c", HOG.format(duration_s)]
    running = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    yield
    for process in running:
        process.wait()


def measure(greenlab: CommandLine, disturb: Callable[[SimulatedMachine], None]) -> Record:
    """One cell, and what happens to it meanwhile."""
    with workstation() as machine:
        greenlab.put_on(machine)
        disturbing = threading.Thread(target=disturb, args=(machine,))
        disturbing.start()
        result = greenlab(*LONG_ENOUGH)
        disturbing.join()
    assert result.returncode == 0, result.stdout + result.stderr
    [record] = greenlab.records()
    return record


def codes(record: Record) -> list[str]:
    return [doubt.code for doubt in record.warnings]


def test_a_quiet_run_passes(greenlab: CommandLine) -> None:
    record = measure(greenlab, lambda machine: None)

    assert record.warnings == []
    assert record.verdict == "PASS"


def test_a_hog_in_the_idle_window(greenlab: CommandLine) -> None:
    def disturb(machine: SimulatedMachine) -> None:
        wait_for(lambda: machine.is_idle(for_s=4.0))  # warmed up and settled
        with hogs(3.0):
            assert not logged(greenlab.folder, "idle before")

    assert codes(measure(greenlab, disturb)) == ["idle_busy_cpu"]


def test_a_hog_during_the_passes(greenlab: CommandLine) -> None:
    def disturb(machine: SimulatedMachine) -> None:
        wait_for(lambda: logged(greenlab.folder, "idle before"))
        with hogs(5.0):
            pass

    assert codes(measure(greenlab, disturb)) == ["background_load"]


def test_a_process_that_is_stopped_for_three_seconds(greenlab: CommandLine) -> None:
    def disturb(machine: SimulatedMachine) -> None:
        wait_for(lambda: logged(greenlab.folder, "idle before"))
        time.sleep(1)
        number = measuring_process(machine)
        os.kill(number, signal.SIGSTOP)
        time.sleep(3)
        os.kill(number, signal.SIGCONT)

    record = measure(greenlab, disturb)
    assert codes(record) == ["sampling_gap"]
    assert record.measurement is not None
    assert record.measurement.trace.longest_gap_s == pytest.approx(3, abs=0.5)


def test_a_second_process_on_the_gpu(greenlab: CommandLine) -> None:
    def disturb(machine: SimulatedMachine) -> None:
        wait_for(lambda: logged(greenlab.folder, "idle before"))
        machine.set_gpu(0, "num_other_processes", 1)

    assert codes(measure(greenlab, disturb)) == ["gpu_shared"]


def test_a_clock_that_is_set(greenlab: CommandLine) -> None:
    def disturb(machine: SimulatedMachine) -> None:
        wait_for(lambda: logged(greenlab.folder, "idle before"))
        machine.set_wall_clock(ahead_s=3600)

    record = measure(greenlab, disturb)
    assert codes(record) == ["clock_jump"]
    assert record.measurement is not None
    assert record.measurement.active.duration_s == pytest.approx(8, abs=0.5)


def test_a_gpu_that_is_slowed_by_its_heat(greenlab: CommandLine) -> None:
    def disturb(machine: SimulatedMachine) -> None:
        wait_for(lambda: logged(greenlab.folder, "idle before"))
        machine.set_gpu(0, "clock_event_reasons", 0x40)  # NVML: HW thermal slowdown

    assert codes(measure(greenlab, disturb)) == ["gpu_throttled"]
