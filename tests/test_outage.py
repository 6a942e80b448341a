"""The store goes away, fills up or can only be read while a sweep runs: no joule is lost."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, CommandLine
from mlflow import MlflowClient

from greenlab.record import RECORD_FILE
from greenlab.run import UNSYNCED_FILE
from greenlab.simulated.machine import SimulatedMachine, workstation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CELLS = (
    "--config-dir",
    str(ROOT / "tests" / "conf_beacon"),
    "-m",
    "model=beacon",
    "dataset=synthetic",
    "dataset.num_samples=64",
    "dataset.image_size=8",
    "phase=inference",
    "phase.min_active_s=0.3",
    "phase.warmup_batches=1",
    "idle.settle_s=0",
    "idle.window_s=0.3",
)
EIGHT = (*CELLS, "batch_size=4,8,16,32,64,96,128,160")
EXPERIMENT = "outage"
WITHIN_S = 300.0
LONGEST_WAIT_S = 15.0
"""From one cell's end to the next one's beginning, the store being away."""


class Server:
    """An MLflow server over an SQLite store, as `python -m greenlab.ui` starts it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        served = ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        place = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *place, *served],
                cwd=self._folder,
                env=os.environ
                | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "0"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_for(self._answers, "the server to answer")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def runs(self, kind: str = "cell") -> list[Any]:
        client = MlflowClient(tracking_uri=self.uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        return list(
            client.search_runs([experiment.experiment_id], f"tags.`greenlab.kind` = '{kind}'")
        )


def wait_for(happens: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not happens():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


@pytest.fixture
def server(tmp_path: Path, empty_store: Path) -> Iterator[Server]:
    """One that is not running yet; its store is set up."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    one = Server(folder)
    yield one
    if hasattr(one, "_process") and one._process.poll() is None:
        one.kill()


@pytest.fixture
def machine(greenlab: CommandLine) -> Iterator[SimulatedMachine]:
    with workstation() as simulated:
        greenlab.put_on(simulated)
        yield simulated


def num_records(greenlab: CommandLine) -> int:
    return len(list(greenlab.folder.glob(f"multirun/*/*/*/{RECORD_FILE}")))


def num_unsynced(greenlab: CommandLine) -> int:
    return len(list(greenlab.folder.rglob(UNSYNCED_FILE)))


def longest_wait_s(greenlab: CommandLine) -> float:
    """Between one cell's end and the next one's beginning."""
    cells = sorted(greenlab.records(), key=lambda one: one.cell.started_at_s)
    return max(after.cell.started_at_s - before.ended_at_s for before, after in pairwise(cells))


def assert_synced(greenlab: CommandLine, server: Server, num_cells: int) -> None:
    """All in the store, once; and once more changes nothing."""
    before: list[str] = []
    for _ in range(2):
        result = greenlab("multirun", module="greenlab.sync")
        assert result.returncode == 0, result.stdout + result.stderr
        cells, [sweep] = server.runs(), server.runs("sweep")
        assert [run.info.status for run in [*cells, sweep]] == ["FINISHED"] * (num_cells + 1)
        assert all(run.data.tags["greenlab.sync"] == "complete" for run in [*cells, sweep])
        assert num_unsynced(greenlab) == 0
        after = sorted(repr(run.to_dictionary()) for run in [*cells, sweep])
        assert before in ([], after)
        before = after


def test_cells_measured_without_the_server_are_landed_by_sync(
    greenlab: CommandLine, machine: SimulatedMachine, server: Server
) -> None:
    server.start()
    there = (f"mlflow.tracking_uri={server.uri}", f"mlflow.experiment={EXPERIMENT}")
    with greenlab.start(*EIGHT, *there) as main:
        wait_for(lambda: num_records(greenlab) >= 3, "the third cell")
        server.kill()  # while the third cell lands, or just before
        printed, _ = main.communicate()
    assert main.returncode == 1, printed
    assert "8 of 8 cells finished" in printed
    assert "python -m greenlab.sync" in printed
    assert "Traceback" not in printed
    assert [one.status for one in greenlab.records()] == ["FINISHED"] * 8
    print(f"longest wait: {longest_wait_s(greenlab):.1f} s")
    assert longest_wait_s(greenlab) < LONGEST_WAIT_S
    assert greenlab("multirun", module="greenlab.sync").returncode == 1
    server.start()
    assert_synced(greenlab, server, num_cells=8)


def test_when_the_server_is_back_the_next_cell_lands_them_all(
    greenlab: CommandLine, machine: SimulatedMachine, server: Server
) -> None:
    server.start()
    there = (f"mlflow.tracking_uri={server.uri}", f"mlflow.experiment={EXPERIMENT}")
    with greenlab.start(*EIGHT, *there) as main:
        wait_for(lambda: num_records(greenlab) >= 2, "the second cell")
        server.kill()
        wait_for(lambda: num_unsynced(greenlab) >= 2, "two cells that cannot land")
        main.send_signal(signal.SIGSTOP)  # a server takes its time to start
        server.start()
        main.send_signal(signal.SIGCONT)
        printed, _ = main.communicate()
    assert main.returncode == 0, printed
    assert "not logged to MLflow" in printed
    assert_synced(greenlab, server, num_cells=8)


def test_a_sweep_may_begin_without_its_store(
    greenlab: CommandLine, machine: SimulatedMachine, server: Server
) -> None:
    there = (f"mlflow.tracking_uri={server.uri}", f"mlflow.experiment={EXPERIMENT}")
    refused = greenlab(*CELLS, "batch_size=16,32", *there)
    assert refused.returncode == 1
    assert "mlflow.required=false" in refused.stderr
    assert num_records(greenlab) == 0

    result = greenlab(*CELLS, "batch_size=16,32", *there, "mlflow.required=false")
    printed = result.stdout + result.stderr
    assert result.returncode == 1, printed
    assert "2 of 2 cells finished" in printed
    assert "python -m greenlab.sync" in printed
    assert "Traceback" not in printed
    server.start()
    assert_synced(greenlab, server, num_cells=2)
    [sweep] = server.runs("sweep")
    assert sweep.data.metrics["cells/finished"] == 2


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_fails_the_cell_and_leaves_the_earlier_ones_whole(
    greenlab: CommandLine, machine: SimulatedMachine
) -> None:
    with small_disk(greenlab.folder / "multirun", 4096):
        with greenlab.start(*CELLS, "batch_size=8,16,32,64,96") as main:
            wait_for(lambda: num_records(greenlab) >= 2, "the second cell")
            wait_for(lambda: len(finished(greenlab)) >= 2, "the second cell's run")
            fill(greenlab.folder / "multirun" / "other")
            printed, _ = main.communicate()
        assert main.returncode == 1, printed
        assert "No space left on device" in printed
        assert "Traceback" not in printed
        whole = [one for one in greenlab.records() if one.status == "FINISHED"]
        assert len(whole) >= 2
        (greenlab.folder / "multirun" / "other").unlink()
        result = greenlab("multirun", module="greenlab.sync")
        assert result.returncode == 0, result.stdout + result.stderr
        uids = {one.cell.uid for one in whole}
        assert {run.data.tags["greenlab.uid"] for run in finished(greenlab)} == uids
        again = greenlab(*CELLS, "batch_size=8,16,32,64,96", "resume=true")
        assert again.returncode == 0, again.stdout + again.stderr
        assert len(finished(greenlab)) == 5


def finished(greenlab: CommandLine) -> list[Any]:
    """Runs that have all of their cell."""
    runs: list[Any] = [run for run in greenlab.runs() if run.info.status == "FINISHED"]  # type: ignore[attr-defined]
    return [run for run in runs if run.data.tags["greenlab.sync"] == "complete"]


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1024)):
                pass
        except OSError:
            return


@contextmanager
def unchangeable(*paths: Path) -> Iterator[None]:
    """Not even by root."""
    set_to = subprocess.run(["chattr", "+i", *paths], capture_output=True, text=True, check=False)
    try:
        if set_to.returncode != 0:
            pytest.skip(f"files cannot be made unchangeable here: {set_to.stderr.strip()}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *paths], capture_output=True, check=False)


def test_a_store_that_can_only_be_read_gets_the_cells_later(
    greenlab: CommandLine, machine: SimulatedMachine
) -> None:
    with greenlab.start(*CELLS, "batch_size=16,32,64") as main:
        wait_for(lambda: len(finished(greenlab)) >= 1, "the first cell's run")
        with unchangeable(*greenlab.folder.glob("mlflow.db*")):
            printed, _ = main.communicate()
            assert main.returncode == 1, printed
            assert "python -m greenlab.sync" in printed
            assert "Traceback" not in printed
            assert [one.status for one in greenlab.records()] == ["FINISHED"] * 3
            assert num_unsynced(greenlab) == 2
    for _ in range(2):
        result = greenlab("multirun", module="greenlab.sync")
        assert result.returncode == 0, result.stdout + result.stderr
        assert len(finished(greenlab)) == len(greenlab.runs()) == 3
    assert [run.info.status for run in greenlab.all_runs()] == ["FINISHED"] * 4  # type: ignore[attr-defined]


def test_four_sweeps_share_a_store_and_nothing_is_lost(greenlab: CommandLine) -> None:
    with ExitStack() as stack:
        sweeps = []
        for number in range(4):
            greenlab.put_on(stack.enter_context(workstation()))
            folder = f"hydra.sweep.dir=multirun/day/{number}"
            sweeps.append(greenlab.start(*CELLS, "batch_size=16,32,64", folder))
        for sweep in sweeps:
            printed, _ = sweep.communicate()
            assert sweep.returncode == 0, printed
    runs: list[Any] = greenlab.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 12
    assert {run.data.tags["greenlab.sync"] for run in runs} == {"complete"}
    assert len({run.data.tags["greenlab.sweep"] for run in runs}) == 4
    assert len(greenlab.runs("sweep")) == 4
