"""The counters as they are found and read: which zones, how often, and by no process but this."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from greenlab.errors import MeterUnavailableError
from greenlab.meters import zeus_counters
from greenlab.simulated.machine import SimulatedMachine, Zone, workstation


@pytest.fixture(scope="module")
def machine() -> Iterator[SimulatedMachine]:
    with workstation() as running:
        yield running


@pytest.fixture
def here(machine: SimulatedMachine, monkeypatch: pytest.MonkeyPatch) -> SimulatedMachine:
    monkeypatch.setenv(zeus_counters.POWERCAP_VARIABLE, str(machine.powercap_root))
    return machine


def test_a_reading_is_within_one_percent_and_starts_no_process(here: SimulatedMachine) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    [package] = zeus_counters.rapl_counters("cpu")
    start_s, start_j = time.monotonic(), package.read_j()
    here.work(0.5)
    end_s, end_j = time.monotonic(), package.read_j()
    assert end_j - start_j == pytest.approx(60 * (end_s - start_s), rel=0.01)
    assert {process.pid for process in psutil.Process().children(recursive=True)} == before
    assert not multiprocessing.active_children()


def test_core_zones_are_no_dram(here: SimulatedMachine) -> None:
    [dram] = zeus_counters.rapl_counters("dram")
    assert dram.part == "dram0"
    assert dram.detail.startswith("dram ")


def test_the_range_is_the_zones_own(here: SimulatedMachine) -> None:
    [package] = zeus_counters.rapl_counters("cpu")
    range_uj = (here.powercap_root / "intel-rapl:0" / "max_energy_range_uj").read_text()
    assert package.range_j == int(range_uj) / 1e6


def test_the_folder_above_the_zones_may_be_named_too(
    here: SimulatedMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(zeus_counters.POWERCAP_VARIABLE, str(here.powercap_root.parent))
    assert zeus_counters.powercap_root() == here.powercap_root


def test_a_machine_without_rapl_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(zeus_counters.POWERCAP_VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(MeterUnavailableError, match=r"no RAPL.*modprobe"):
        zeus_counters.rapl_counters("cpu")


def test_equal_sockets_that_count_apart_are_no_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets = [
        Zone(f"package-{n}", idle_w=20, active_w=60, start_uj=n * 5_000_000) for n in range(2)
    ]
    with SimulatedMachine(zones=sockets) as machine:
        monkeypatch.setenv(zeus_counters.POWERCAP_VARIABLE, str(machine.powercap_root))
        assert [spec.part for spec in zeus_counters.rapl_counters("cpu")] == ["cpu0", "cpu1"]


class FakeNvml:
    """What `_parse_visible` asks of NVML."""

    class NVMLError(Exception):
        """NVML's own."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-second":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetIndex(self, handle: str) -> int:  # noqa: N802
        return 1


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        ("0,1", [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-second", [1]),
        ("0,7,1", [0]),  # CUDA stops at the first that is not there
        ("-1", []),
        ("", []),
        ("GPU-gone,0", []),
        ("0,0", []),
    ],
)
def test_visible_gpus_are_what_cuda_would_see(visible: str, indices: list[int]) -> None:
    assert zeus_counters._parse_visible(FakeNvml(), visible, [0, 1]) == indices


def test_a_mig_slice_is_not_metered() -> None:
    with pytest.raises(MeterUnavailableError, match="MIG slice"):
        zeus_counters._parse_visible(FakeNvml(), "MIG-1234", [0])
