"""The counters as they are found and read: which zones, how often, and by no process but this."""

import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import fake_zeusd
import psutil
import pytest
from zeus.utils.zeusd import ZeusdConfig

from greenlab.errors import MeterReadError, MeterUnavailableError
from greenlab.meters import zeus_counters
from greenlab.meters.counter import Counter
from greenlab.simulated.machine import SimulatedMachine, Zone, mirrored_dies, workstation


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
    with pytest.raises(
        MeterUnavailableError, match=r"no RAPL.*nothing holds no package zone; unset it"
    ):
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


# --------------------------------------------------------------------------------------- zeusd


def make_zone(folder: Path, name: str, range_uj: int = 1_000_000_000) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


def test_zeusd_is_brought_back_to_what_the_file_shows(tmp_path: Path) -> None:
    # A range of 1000 J. The file shows 900, 990, then 50 after a wrap that zeusd notices only by
    # the next reading, where the file shows 55; then zeusd is restarted and forgets the wrap.
    # 90 J, 60 J (10 to the end of the range and 50), 5 J and 5 J.
    answers_j = [900, 900, 990, 50, 1055, 60]
    zone = make_zone(tmp_path / "intel-rapl" / "intel-rapl:0", "package-0")

    def read_uj(number: str, part: str) -> int | None:
        assert number == "0"
        return None if part == "dram" else answers_j.pop(0) * 1_000_000

    with fake_zeusd.serve(["0"], read_uj) as socket_path:
        [spec] = zeus_counters._zeusd_counters("cpu", [zone], ZeusdConfig.uds(socket_path))
        counter = Counter("cpu0", spec.read_j, range_j=spec.range_j)
        assert [counter.joules() for _ in range(4)] == [90, 150, 155, 160]
    assert counter.health().num_wraps == 1
    assert counter.health().num_resets == 0
    assert spec.range_j == 1000
    assert f"through zeusd at {socket_path}" in spec.detail


def test_mirrors_are_mirrors_through_zeusd_too() -> None:
    with mirrored_dies() as machine:
        tree = fake_zeusd.Tree(machine.powercap_root)
        zones = sorted(machine.powercap_root.iterdir())
        with fake_zeusd.serve(tree.numbers(), tree.read_uj) as socket_path:
            config = ZeusdConfig.uds(socket_path)
            counters = zeus_counters._zeusd_counters("cpu", zones, config)
            assert len(counters) == 2
            assert len(zeus_counters._without_mirrors(counters)) == 1


def test_a_zeusd_that_stops_fails_the_reading_by_name(tmp_path: Path) -> None:
    zone = make_zone(tmp_path / "intel-rapl" / "intel-rapl:0", "package-0")
    served: list[dict[str, int]] = [{"cpu": 7_000_000}]

    def read_uj(number: str, part: str) -> int | None:
        return served[0].get(part)

    with fake_zeusd.serve(["0"], read_uj) as socket_path:
        [spec] = zeus_counters._zeusd_counters("cpu", [zone], ZeusdConfig.uds(socket_path))
        assert spec.read_j() == 7
        served[0].clear()
        with pytest.raises(MeterReadError, match=r"package-0 .*through zeusd.*run it again"):
            spec.read_j()


@pytest.mark.parametrize(
    ("component", "api_groups", "number", "told"),
    [
        ("cpu", ["gpu-read"], 0, "'cpu-read' is not enabled"),
        ("cpu", ["cpu-read"], 1, "CPU indices .1. not available"),
        ("dram", ["cpu-read"], 0, "serves no DRAM for intel-rapl:0:0"),
    ],
)
def test_a_zeusd_that_does_not_serve_a_zone_is_refused(
    tmp_path: Path, component: str, api_groups: list[str], number: int, told: str
) -> None:
    zone = make_zone(tmp_path / f"intel-rapl:{number}", f"package-{number}")
    if component == "dram":
        zone = make_zone(zone / f"intel-rapl:{number}:0", "dram")

    def read_uj(number: str, part: str) -> int | None:
        return 1 if part == "cpu" else None

    with (
        fake_zeusd.serve(["0"], read_uj, api_groups) as socket_path,
        pytest.raises(MeterUnavailableError, match=told),
    ):
        zeus_counters._zeusd_counters(component, [zone], ZeusdConfig.uds(socket_path))


def test_a_zeusd_that_is_not_there_is_refused(tmp_path: Path) -> None:
    zone = make_zone(tmp_path / "intel-rapl:0", "package-0")
    with pytest.raises(MeterUnavailableError, match=r"zeusd at .*none\.sock: Cannot reach"):
        zeus_counters._zeusd_counters("cpu", [zone], ZeusdConfig.uds(str(tmp_path / "none.sock")))


def test_the_zeusd_of_another_machine_is_refused(tmp_path: Path) -> None:
    # 192.0.2.0/24 is set apart for documentation (RFC 5737): no machine has such an address.
    zone = make_zone(tmp_path / "intel-rapl:0", "package-0")
    with pytest.raises(MeterUnavailableError, match=r"ZEUSD_HOST_PORT=192\.0\.2\.1:4938 is not"):
        zeus_counters._zeusd_counters("cpu", [zone], ZeusdConfig(host_port="192.0.2.1:4938"))


@pytest.mark.parametrize("host_port", ["localhost:4938", "127.0.0.1:4938"])
def test_an_address_of_this_machine_is_known_as_such(host_port: str) -> None:
    assert zeus_counters._is_this_machine(host_port)
