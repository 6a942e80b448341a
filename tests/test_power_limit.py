"""Power limits on a simulated board: they show in the joules, and nothing leaves one behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from conftest import ROOT, CommandLine, make_config
from test_interruption import measuring_process, wait_for

from greenlab.errors import ConfigError
from greenlab.metrics import metrics
from greenlab.simulated.machine import Gpu, SimulatedMachine, Zone

FOUND_W = 400.0
LIMITED = """
import os, sys, time

import pynvml

from greenlab.config import Hardware
from greenlab.errors import PowerLimitError
from greenlab.meters import choose_sources
from greenlab.meters.power_limit import limited_power

limits_w, and_then = sys.argv[1:]
sources = [opened.source for opened in choose_sources(Hardware(), uses_cuda=False)]
for limit_w in limits_w.split(","):
    try:
        with limited_power(Hardware(power_limit_w=float(limit_w)), sources):
            if and_then == "fork" and os.fork() == 0:
                os.setsid()
                time.sleep(100)
            print("limited", flush=True)
            sys.stdin.read()
            if and_then == "meddle":
                gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
                pynvml.nvmlDeviceSetPowerManagementLimit(gpu, 200_000)
    except PowerLimitError as error:
        print(error, flush=True)
"""
"""Limits the GPUs of its machine to so many watts until its standard input ends."""


def board(**changes: object) -> SimulatedMachine:
    """A socket and a GPU of 70 W idle and 300 W active, whose limit can be 100 to 400 W."""
    zone = Zone("package-0", idle_w=20, active_w=60)
    return SimulatedMachine(zones=[zone], gpus=[Gpu(**changes)])  # type: ignore[arg-type]


@contextmanager
def limiting(
    machine: SimulatedMachine, limits_w: str, and_then: str = "end"
) -> "Iterator[subprocess.Popen[str]]":
    """A process that limits the machine's GPUs until it is told to end."""
    environment = os.environ | machine.environment() | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with subprocess.Popen(
        [sys.executable, "-c", LIMITED, limits_w, and_then],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> str:
    """Let it come to its end; returns what it still says."""
    return process.communicate()[0].strip()


def wait_for_limit(machine: SimulatedMachine, watts: float, gpu: str = "gpu-0") -> None:
    wait_for(lambda: True if machine.power_limit_w(gpu) == watts else None, f"{gpu} at {watts} W")


def test_a_killed_process_leaves_no_limit_on_any_gpu_whatever_it_has_left_behind() -> None:
    gpus = [Gpu(power_limit_w=400), Gpu(power_limit_w=350)]
    with SimulatedMachine(gpus=gpus) as machine, limiting(machine, "150", "fork") as process:
        assert said(process) == "limited"
        assert [machine.power_limit_w(f"gpu-{index}") for index in range(2)] == [150, 150]
        children = psutil.Process(process.pid).children()
        [left] = [one for one in children if "power_guardian" not in " ".join(one.cmdline())]
        wait_for(
            lambda: os.getpgid(left.pid) != process.pid or None, "a child in a group of its own"
        )
        os.killpg(process.pid, signal.SIGKILL)  # as greenlab ends a cell
        wait_for_limit(machine, 400, "gpu-0")
        wait_for_limit(machine, 350, "gpu-1")
        assert left.status() == psutil.STATUS_SLEEPING  # and holds all pipes that it was born with
        left.kill()


def test_the_guardian_waits_without_working_and_no_polite_signal_ends_it() -> None:
    with board() as machine, limiting(machine, "150") as process:
        assert said(process) == "limited"
        [guardian] = psutil.Process(process.pid).children()
        before_s = sum(guardian.cpu_times()[:2])
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            guardian.send_signal(number)
        machine.work(0.5)
        assert guardian.status() == psutil.STATUS_SLEEPING
        assert sum(guardian.cpu_times()[:2]) - before_s <= 0.01  # one tick of the kernel's clock
        assert machine.power_limit_w("gpu-0") == 150
        assert end(process) == ""
        assert machine.power_limit_w("gpu-0") == FOUND_W


@pytest.mark.slow
def test_a_killed_guardian_is_made_up_for() -> None:
    with board() as machine, limiting(machine, "150") as process:
        assert said(process) == "limited"
        [guardian] = psutil.Process(process.pid).children()
        guardian.kill()
        assert end(process) == ""
        assert machine.power_limit_w("gpu-0") == FOUND_W


def test_the_limit_of_a_killed_cell_is_not_taken_for_the_one_that_was_found() -> None:
    with board() as machine, limiting(machine, "150") as first:
        assert said(first) == "limited"
        with limiting(machine, "250") as second:
            machine.work(1)  # the second is up and waits for the first
            assert machine.power_limit_w("gpu-0") == 150
            first.kill()
            assert said(second) == "limited"
            assert machine.power_limit_w("gpu-0") == 250
            assert end(second) == ""
            assert machine.power_limit_w("gpu-0") == FOUND_W


@pytest.mark.slow
def test_a_limit_that_something_else_changes_fails_the_cell() -> None:
    with board() as machine, limiting(machine, "150", "meddle") as process:
        assert said(process) == "limited"
        assert "hardware.power_limit_w is 150, and the limit of GPU 0 was 200 W" in end(process)
        assert machine.power_limit_w("gpu-0") == FOUND_W


@pytest.mark.slow
def test_two_that_limit_one_gpu_at_a_time_are_refused() -> None:
    with board() as machine, limiting(machine, "150") as first:
        assert said(first) == "limited"
        with limiting(machine, "250") as second:
            refusal = said(second)
        assert machine.power_limit_w("gpu-0") == 150
    assert "hardware.power_limit_w is 250: another greenlab limits the power of GPU 0" in refusal


def test_a_limit_that_cannot_be_set_is_refused_with_the_way_out() -> None:
    with board(may_set_power_limit=False) as machine, limiting(machine, "50,400.5,150") as process:
        low, high, forbidden = end(process).splitlines()
        assert machine.power_limit_w("gpu-0") == FOUND_W
    for refusal, limit_w in ((low, "50"), (high, "400.5")):
        assert f"hardware.power_limit_w is {limit_w}; GPU 0 (NVIDIA Simulated)" in refusal
        assert "takes 100 to 400 W" in refusal
        assert "hardware.power_limit_w=null" in refusal
    assert "hardware.power_limit_w is 150; the driver does not let this user" in forbidden
    assert "root (CAP_SYS_ADMIN)" in forbidden
    assert "sudo nvidia-smi -i 0 -pl 150" in forbidden


def test_without_a_gpu_there_is_nothing_to_limit() -> None:
    with (
        SimulatedMachine(zones=[Zone("package-0", idle_w=20, active_w=60)]) as machine,
        limiting(machine, "150") as process,
    ):
        refusal = end(process)
    assert "hardware.power_limit_w is 150 and no GPU is metered (no NVIDIA GPU" in refusal
    assert "hardware.power_limit_w=null" in refusal


@pytest.mark.parametrize("value", ["0", "-150", "inf"])
def test_a_limit_is_a_positive_number(value: str) -> None:
    with pytest.raises(ConfigError, match=r"hardware\.power_limit_w"):
        make_config(f"hardware.power_limit_w={value}")


# ------------------------------------------------------------------------- whole commands

CELLS = (
    "--config-dir",
    str(ROOT / "tests" / "conf_beacon"),
    "model=beacon",
    "model.kwargs.step_s=0.05",
    "hardware.device=cpu",
    "dataset=synthetic",
    "dataset.num_samples=64",
    "phase=inference",
    "phase.warmup_batches=1",
    "idle.settle_s=0.1",
    "idle.window_s=0.6",
)


@pytest.mark.slow
def test_a_sweep_over_limits_tells_its_cells_apart(greenlab: CommandLine) -> None:
    with board() as machine:
        greenlab.put_on(machine)
        result = greenlab("-m", *CELLS, "phase.min_active_s=2", "hardware.power_limit_w=150,250")
        assert machine.power_limit_w("gpu-0") == FOUND_W
    assert result.returncode == 0, result.stdout + result.stderr
    for record, limit_w in zip(greenlab.records(), (150, 250), strict=True):
        assert record.measurement is not None
        above_idle_w = limit_w - 70
        active_s = record.measurement.active.duration_s
        net_j = metrics(record)["energy/net_gpu_j"]
        assert net_j == pytest.approx(above_idle_w * active_s, rel=0.01)
        # Once in the lines as cells finish or not at all; in the end table in any case.
        assert f"hardware.power_limit_w={limit_w}" in result.stdout.partition("settings")[2]
    assert [run.data.params["power_limit_w"] for run in greenlab.runs()] == ["150", "250"]  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "limits", "words"),
    [
        ({}, "150,9000", ["hardware.power_limit_w is 9000", "takes 100 to 400 W"]),
        ({"may_set_power_limit": False}, "150,250", ["hardware.power_limit_w is 150", "root"]),
    ],
)
def test_a_grid_with_a_limit_that_cannot_be_set_is_refused_before_its_first_cell(
    greenlab: CommandLine, gpu: dict[str, object], limits: str, words: list[str]
) -> None:
    with board(**gpu) as machine:
        greenlab.put_on(machine)
        result = greenlab("-m", *CELLS, f"hardware.power_limit_w={limits}")
        assert machine.power_limit_w("gpu-0") == FOUND_W
    assert result.returncode == 1
    for word in words:
        assert word in result.stderr
    assert not greenlab.records()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number"),
    [
        ("launcher", signal.SIGINT),
        ("launcher", signal.SIGTERM),
        ("launcher", signal.SIGKILL),
        ("measurer", signal.SIGKILL),
    ],
)
def test_whatever_is_killed_leaves_no_limit(
    greenlab: CommandLine, victim: str, number: signal.Signals
) -> None:
    with board() as machine:
        greenlab.put_on(machine)
        cells = ("phase.min_active_s=100", "hardware.power_limit_w=150")
        with _ended(greenlab.start("-m", *CELLS, *cells)) as main:
            measuring_process(greenlab, main.pid, cell=0)
            launcher = psutil.Process(main.pid)
            descendants = launcher.children(recursive=True)
            [guardian] = [one for one in descendants if "power_guardian" in " ".join(one.cmdline())]
            measurer = guardian.parent()
            assert measurer is not None
            assert machine.power_limit_w("gpu-0") == 150
            {"launcher": launcher, "measurer": measurer}[victim].send_signal(number)
            wait_for_limit(machine, FOUND_W)  # long before the cell would have ended
            main.communicate()


@contextmanager
def _ended(main: "subprocess.Popen[str]") -> "Iterator[subprocess.Popen[str]]":
    """Kill it in any case: a sweep that is left running holds the limit of the GPU."""
    with main:
        try:
            yield main
        finally:
            main.kill()
