"""What is left when processes die: none of greenlab's, and no cell without an account of itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from conftest import CommandLine, greenlab_processes
from test_command import QUICK

LONG = (*QUICK, "phase=inference", "phase.min_active_s=60")
"""A cell that is still running when the test has killed what it wants."""
WITHIN_S = 90.0


T = TypeVar("T")


def wait_for(look: Callable[[], T | None], what: str) -> T:  # Python 3.11
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise TimeoutError(what)


def measuring_process(greenlab: CommandLine, main: int, cell: int) -> psutil.Process:
    """The process that is in the passes of the sweep's cell of that number (0 is the first)."""

    def look() -> psutil.Process | None:
        logs = greenlab.folder.glob(f"multirun/*/*/*-{cell}/greenlab.log")
        if not any("idle before" in log.read_text() for log in logs):
            return None
        leaders = [
            process
            for process in psutil.Process(main).children(recursive=True)
            if os.getsid(process.pid) == process.pid
        ]
        return leaders[-1] if leaders else None

    return wait_for(look, f"cell {cell} to be measured")


def assert_nothing_left(greenlab: CommandLine, within_s: float = 5) -> None:
    wait_until = time.monotonic() + within_s
    while time.monotonic() < wait_until and greenlab_processes(greenlab.folder):
        time.sleep(0.1)
    assert not greenlab_processes(greenlab.folder)


@pytest.mark.slow
def test_the_grid_goes_on_without_a_killed_cell_and_nothing_outlives_the_sweep(
    greenlab: CommandLine,
) -> None:
    with greenlab.start("-m", "batch_size=16,32", *LONG) as main:
        measuring_process(greenlab, main.pid, cell=0).kill()
        measuring_process(greenlab, main.pid, cell=1)
        [first] = greenlab.records()
        assert (first.status, first.failure and first.failure.kind) == ("FAILED", "killed")
        assert first.failure is not None
        assert "SIGKILL" in first.failure.message
        main.kill()
        main.wait()
    assert_nothing_left(greenlab)
    # The second cell died with everything; its folder still says what it was.
    result = greenlab("multirun", module="greenlab.sync")
    assert result.returncode == 0, result.stdout + result.stderr
    cells = greenlab.runs()
    assert [run.info.status for run in cells] == ["FAILED", "KILLED"]
    assert all(run.data.metrics["energy/wasted_j"] > 0 for run in cells)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),
    ],
)
def test_stopping_leaves_no_process_and_marks_the_cell_killed(
    greenlab: CommandLine, number: signal.Signals, code: int
) -> None:
    with greenlab.start("-m", "batch_size=16,32", *LONG) as main:
        measuring_process(greenlab, main.pid, cell=0)
        main.send_signal(number)
        printed, _ = main.communicate()
    assert main.returncode == code, printed
    assert "Traceback" not in printed
    assert "what was measured is kept" in printed
    assert_nothing_left(greenlab)
    [cell], [sweep] = greenlab.runs(), greenlab.runs("sweep")
    assert (cell.info.status, sweep.info.status) == ("KILLED", "KILLED")
    assert cell.data.metrics["energy/wasted_j"] > 0


SERVE = """
import time
from greenlab import run
run._FORKSERVER.set_forkserver_preload(["greenlab.warm"])
run._ensure_server()
print("up", flush=True)
time.sleep(100)
"""


def fork_server(pid: int) -> psutil.Process | None:
    """The child of `pid` that imports; just forked, it still goes by its parent's command line."""
    for child in psutil.Process(pid).children():
        if "multiprocessing.forkserver" in " ".join(child.cmdline()):
            return child
    return None


def test_the_server_ends_with_greenlab_even_while_it_imports(greenlab: CommandLine) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdout=subprocess.PIPE,
        env=greenlab.environment,
        cwd=greenlab.folder,
    ) as main:
        assert main.stdout is not None
        main.stdout.readline()
        server = wait_for(lambda: fork_server(main.pid), "the fork server to be there")
        maps = Path(f"/proc/{server.pid}/maps")
        wait_for(lambda: True if "libtorch" in maps.read_text() else None, "torch to be imported")
        main.kill()
    assert_nothing_left(greenlab, within_s=2)
