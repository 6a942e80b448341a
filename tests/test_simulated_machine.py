"""The simulated machine, read as greenlab reads a real one: through Zeus and pynvml.

Windows are timed with the Unix clock, and counters lag by two milliseconds or so: 0.5 % of two
seconds is 10 ms.
"""

import copy
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from zeus.device.cpu.rapl import RAPLFile

from greenlab.simulated import beacon
from greenlab.simulated.machine import (
    Gpu,
    SimulatedMachine,
    Zone,
    client_with_psys,
    mirrored_dies,
    two_sockets,
    workstation,
)

CLOSE = 0.005


class _NoWrapTracker:
    def get_num_wraparounds(self) -> int:
        return 0


def rapl_file(zone: Path) -> RAPLFile:
    file = RAPLFile(str(zone))
    file._wraparound_tracker = _NoWrapTracker()
    return file


def read_j(file: RAPLFile) -> float:
    return float(file.read()) / 1000  # Zeus gives mJ


def package_of(machine: SimulatedMachine) -> RAPLFile:
    return rapl_file(machine.powercap_root / "intel-rapl:0")


def joules_over(file: RAPLFile, action: Callable[[], object]) -> tuple[float, float, float]:
    """Joules that the counter advances meanwhile, and the Unix times of the two readings."""
    unix_from, before_j = time.time(), read_j(file)
    action()
    unix_to, after_j = time.time(), read_j(file)
    return after_j - before_j, unix_from, unix_to


def one_package(**options: object) -> SimulatedMachine:
    options = {"idle_w": 20, "active_w": 60} | options
    return SimulatedMachine(zones=[Zone("package-0", **options)])  # type: ignore[arg-type]


@contextmanager
def beating(machine: SimulatedMachine) -> Iterator[None]:
    """Keep the machine active meanwhile, from a thread of the test."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.005):
            machine.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def run_on(machine: SimulatedMachine, code: str) -> list[str]:
    """Run a program on the machine and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | machine.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "sitecustomize" not in done.stderr
    return done.stdout.splitlines()


def test_two_seconds_at_60_w_are_120_j() -> None:
    with one_package(idle_w=60) as machine:
        energy_j, unix_from, unix_to = joules_over(package_of(machine), lambda: time.sleep(2))
        truth_j = machine.true_energy_j("package-0", unix_from, unix_to)
    assert energy_j == pytest.approx(60 * (unix_to - unix_from), rel=CLOSE)
    assert energy_j == pytest.approx(truth_j, rel=CLOSE)


def test_a_beat_lifts_idle_watts_to_active_watts_for_50_ms() -> None:
    with one_package() as machine:
        package = package_of(machine)
        idle_j, idle_from, idle_to = joules_over(package, lambda: time.sleep(0.3))
        machine.beat()
        time.sleep(0.02)
        active_j, active_from, active_to = joules_over(package, lambda: machine.work(0.3))
        time.sleep(0.1)
        after_j, after_from, after_to = joules_over(package, lambda: time.sleep(0.3))
    assert idle_j / (idle_to - idle_from) == pytest.approx(20, rel=0.02)
    assert active_j / (active_to - active_from) == pytest.approx(60, rel=0.02)
    assert after_j / (after_to - after_from) == pytest.approx(20, rel=0.02)
    # 20 ms, then 0.3 s, then the 50 ms after the last beat, which is up to 10 ms earlier.
    assert machine.true_active_s(idle_from, after_to) == pytest.approx(0.365, abs=0.03)


def test_idle_watts_drift() -> None:
    with one_package(idle_drift_w_per_s=10) as machine:
        time.sleep(0.6)
        now = time.time()
        first_w = machine.true_energy_j("package-0", now - 0.6, now - 0.5) / 0.1
        last_w = machine.true_energy_j("package-0", now - 0.1, now) / 0.1
    assert last_w - first_w == pytest.approx(10 * 0.5, abs=0.05)


def test_a_counter_wraps_at_its_range_as_often_as_it_must() -> None:
    # 60 W for half a second over a range of 10 J, from just below it: 30 J, three or four wraps.
    with one_package(idle_w=60, start_uj=9_999_000, max_energy_range_uj=10_000_000) as machine:
        package = package_of(machine)
        readings_j = []
        unix_from, first_j = time.time(), read_j(package)
        while time.time() < unix_from + 0.5:
            readings_j.append(read_j(package))
            time.sleep(0.01)
        unix_to, last_j = time.time(), read_j(package)
        truth_j = machine.true_energy_j("package-0", unix_from, unix_to)
    num_wraps = sum(b < a for a, b in pairwise([first_j, *readings_j, last_j]))
    assert package.max_energy_range_uj == 10_000_000
    assert num_wraps in (3, 4)
    assert 0 <= max(readings_j) < 10
    assert last_j - first_j + num_wraps * 10 == pytest.approx(truth_j, abs=0.3)


def test_a_stuck_counter_stays_where_it_is_while_the_truth_goes_on() -> None:
    with one_package(stuck_at_active_s=0.1) as machine:
        machine.work(0.3)
        energy_j, unix_from, unix_to = joules_over(package_of(machine), lambda: machine.work(0.2))
        assert machine.true_energy_j("package-0", unix_from, unix_to) > 11
    assert energy_j == 0


def test_a_counter_is_reset_to_zero_after_so_much_activity() -> None:
    with one_package(start_uj=500_000_000, reset_at_active_s=0.2) as machine:
        package = package_of(machine)
        time.sleep(0.3)  # idle time does not count
        assert read_j(package) > 500
        machine.work(0.4)
        assert 0 < read_j(package) < 60 * 0.4


def test_a_zone_can_be_removed_on_command_and_its_subzones_go_with_it() -> None:
    with workstation() as machine:
        package = package_of(machine)
        dram = rapl_file(machine.powercap_root / "intel-rapl:0" / "intel-rapl:0:1")
        assert (package.name, dram.name) == ("package-0", "dram")
        machine.break_counter("package-0", "removed")
        for file in (package, dram):
            with pytest.raises(FileNotFoundError):
                file.read()


def test_the_layouts_are_those_of_real_machines() -> None:
    def names(machine: SimulatedMachine) -> list[str]:
        with machine:
            zones = sorted(machine.powercap_root.rglob("name"))
            return [zone.read_text().strip() for zone in zones]

    assert names(workstation()) == ["core", "dram", "package-0"]
    assert names(two_sockets()) == ["dram", "package-0", "dram", "package-1"]
    assert names(client_with_psys()) == ["package-0", "psys"]
    assert names(mirrored_dies()) == ["package-0-die-0", "package-0-die-1"]


def test_mirrored_dies_show_one_counter_and_sockets_do_not() -> None:
    def gap_j(machine: SimulatedMachine) -> float:
        with machine:
            machine.work(0.1)
            first, second = (
                rapl_file(machine.powercap_root / f"intel-rapl:{number}") for number in range(2)
            )
            return abs(read_j(first) - read_j(second))

    assert gap_j(mirrored_dies()) < 0.3
    assert gap_j(two_sockets()) > 1000


def test_an_unreadable_zone_is_refused_even_to_root() -> None:
    dram = Zone("dram", idle_w=3, active_w=5, readable=False)
    with one_package(children=(dram,)) as machine:
        code = """
import os
from pathlib import Path
from zeus.device.cpu.rapl import RAPLFile
package = Path(os.environ["GREENLAB_POWERCAP_ROOT"], "intel-rapl:0")
print(RAPLFile(str(package)).name)
dram = package / "intel-rapl:0:0"
print((dram / "name").read_text().strip(), os.access(dram / "energy_uj", os.R_OK))
for read in (lambda: RAPLFile(str(dram)), (dram / "energy_uj").read_text):
    try:
        read()
    except Exception as error:
        print(type(error).__name__)
"""
        assert run_on(machine, code) == [
            "package-0",
            "dram False",
            "ZeusCPUNoPermissionError",
            "PermissionError",
        ]


def test_zeus_measures_the_gpu_of_the_workstation() -> None:
    code = """
import time
from zeus.device import get_gpus
from zeus.device.gpu.nvidia import NVIDIAGPU
many, gpu = get_gpus(), NVIDIAGPU(0)
unix_from, before_mj = time.time(), gpu.get_total_energy_consumption()
time.sleep(2)
unix_to, after_mj = time.time(), many.get_total_energy_consumption(0)
readings = gpu.get_instant_power_usage(), gpu.get_average_power_usage(), gpu.get_gpu_temperature()
print(unix_from, unix_to, (after_mj - before_mj) / 1000)
print(len(many), gpu.get_name(), *readings)
"""
    with workstation() as machine, beating(machine):
        window, facts = run_on(machine, code)
    unix_from, unix_to, energy_j = map(float, window.split())
    assert facts == "1 NVIDIA Simulated 300000 300000 65"
    assert energy_j == pytest.approx(machine.true_energy_j("gpu-0", unix_from, unix_to), rel=CLOSE)
    assert energy_j == pytest.approx(300 * (unix_to - unix_from), rel=CLOSE)


def test_pynvml_answers_what_a_sampler_and_a_snapshot_ask() -> None:
    code = """
import pynvml as p
try:
    p.nvmlDeviceGetCount()
except p.NVMLError as error:
    print(type(error).__name__)
p.nvmlInit()
gpu = p.nvmlDeviceGetHandleByIndex(1)
assert p.nvmlDeviceGetIndex(p.nvmlDeviceGetHandleByUUID(p.nvmlDeviceGetUUID(gpu))) == 1
memory = p.nvmlDeviceGetMemoryInfo(gpu, version=p.nvmlMemory_v2)
print(p.nvmlDeviceGetCount(), p.nvmlDeviceGetUtilizationRates(gpu).gpu, memory.used >> 30)
print(p.nvmlDeviceGetTemperature(gpu, 0), p.nvmlDeviceGetClockInfo(gpu, p.NVML_CLOCK_SM))
print(p.nvmlDeviceGetEnforcedPowerLimit(gpu), p.nvmlDeviceGetPersistenceMode(gpu))
print(p.nvmlSystemGetDriverVersion(), p.nvmlSystemGetCudaDriverVersion_v2())
print(p.nvmlDeviceGetComputeRunningProcesses(gpu), p.nvmlDeviceGetPowerUsage(gpu))
print(p.nvmlDeviceGetArchitecture(gpu) == p.NVML_DEVICE_ARCH_AMPERE)
def error_of(function, *arguments):
    try:
        function(*arguments)
    except p.NVMLError as error:
        return type(error).__name__
print(error_of(p.nvmlDeviceGetTotalEnergyConsumption, gpu), error_of(p.nvmlDeviceGetMigMode, gpu))
print(error_of(p.nvmlDeviceGetFanSpeed, gpu), error_of(p.nvmlDeviceGetHandleByIndex, 2))
print(p.nvmlDeviceGetFieldValues(gpu, [82])[0].nvmlReturn)
p.nvmlShutdown()
"""
    with SimulatedMachine(gpus=[Gpu(), Gpu(idle_w=50, has_energy_counter=False)]) as machine:
        assert run_on(machine, code) == [
            "NVMLError_Uninitialized",
            "2 0 1",
            "35 210",
            "400000 1",
            "570.00.00 12080",
            "[] 50000",
            "True",
            "NVMLError_NotSupported NVMLError_NotSupported",
            "NVMLError_FunctionNotFound NVMLError_InvalidArgument",
            "3",
        ]


def test_the_gpu_counter_can_tick_slowly() -> None:
    code = """
import time, pynvml
from zeus.device.gpu.nvidia import NVIDIAGPU
pynvml.nvmlInit()
gpu = NVIDIAGPU(0)
seen = []
until = time.time() + 0.6
while time.time() < until:
    seen.append(gpu.get_total_energy_consumption())
    time.sleep(0.002)
values = sorted(set(seen))
print(len(values), max(b - a for a, b in zip(values, values[1:])))
"""
    with SimulatedMachine(gpus=[Gpu(idle_w=100, counter_tick_s=0.1)]) as machine:
        num_values, step_mj = map(int, run_on(machine, code)[0].split())
    assert 6 <= num_values <= 8
    assert step_mj == pytest.approx(100 * 0.1 * 1000, rel=0.05)


def test_a_removed_gpu_is_lost() -> None:
    code = """
import pynvml
from zeus.device.gpu.nvidia import NVIDIAGPU
pynvml.nvmlInit()
try:
    NVIDIAGPU(0).get_total_energy_consumption()
except Exception as error:
    print(type(error).__name__)
"""
    with SimulatedMachine(gpus=[Gpu()]) as machine:
        machine.break_counter("gpu-0", "removed")
        assert run_on(machine, code) == ["ZeusGPULostError"]


def test_a_machine_without_gpus_hides_those_of_the_real_one() -> None:
    with one_package() as machine:
        code = "from zeus.device.gpu.nvidia import nvml_is_available; print(nvml_is_available())"
        assert run_on(machine, code) == ["False"]


def test_a_process_that_does_not_ask_for_pynvml_does_not_import_it() -> None:
    with workstation() as machine:
        assert run_on(machine, "import sys; print('pynvml' in sys.modules)") == ["False"]


def test_another_sitecustomize_runs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('the other one')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with workstation() as machine:
        assert run_on(machine, "print('the program')") == ["the other one", "the program"]


def test_the_beacon_model_beats_and_its_copies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_package() as machine:
        monkeypatch.setenv("SIMULATED_BEACON", machine.environment()["SIMULATED_BEACON"])
        beacon._beacon.cache_clear()
        model = copy.deepcopy(beacon.build(num_classes=4, step_s=0.2))
        unix_from = time.time()
        scores = model(torch.zeros(2, 3, 32, 32))
        scores.sum().backward()
        duration_s = time.time() - unix_from
        active_s = machine.true_active_s(unix_from, unix_from + duration_s)
    beacon._beacon.cache_clear()
    assert scores.shape == (2, 4)
    assert duration_s >= 0.2
    assert active_s == pytest.approx(duration_s, abs=0.03)


def test_the_truth_outlives_the_machine_but_covers_its_life_only() -> None:
    with one_package() as machine:
        unix_from = time.time()
        time.sleep(0.1)
        unix_to = time.time()
    assert machine.true_energy_j("package-0", unix_from, unix_to) == pytest.approx(2.0, rel=0.1)
    with pytest.raises(ValueError, match="not within the machine's life"):
        machine.true_energy_j("package-0", unix_from - 60, unix_to)
    with pytest.raises(KeyError, match="this machine has package-0"):
        machine.true_energy_j("dram", unix_from, unix_to)


def test_nothing_is_left_behind_by_a_machine() -> None:
    with one_package() as machine:
        root = machine.powercap_root
    assert machine._writer.returncode == 0
    assert not root.exists()


def test_nothing_is_left_behind_by_a_test_that_was_killed() -> None:
    code = """
import time
from greenlab.simulated.machine import workstation
with workstation() as machine:
    print(machine.powercap_root.parent, flush=True)
    time.sleep(60)
"""
    test = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    assert test.stdout is not None
    folder = Path(test.stdout.readline().strip())
    test.kill()
    test.communicate()
    give_up_s = time.monotonic() + 2
    while folder.exists() and time.monotonic() < give_up_s:
        time.sleep(0.01)
    assert folder.name.startswith("simulated_machine_")
    assert not folder.exists()


def test_the_writer_is_light() -> None:
    with workstation() as machine:
        time.sleep(0.5)
        stat = Path(f"/proc/{machine._writer.pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    assert cpu_s < 0.2  # about 0.04 expected, of it the start; the rest is for a slow machine
