"""Measured energy: RAPL zones and NVIDIA GPUs, read through Zeus's device layer.

Zeus's readers of a single zone and a single GPU are used directly. Its managers would count psys
and mirrored dies as CPUs of their own, lose the package where only DRAM is unreadable, and start a
helper process per zone to watch for wraps; greenlab's counters add the wraps up themselves.
"""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from greenlab.errors import MeterReadError, MeterUnavailableError
from greenlab.meters.kept_file import KeptFile
from greenlab.meters.rapl_access import (
    CONTAINER_POWERCAP_ROOT,
    NOT_READABLE,
    POWERCAP_ROOT,
    who_may_read,
    why_no_rapl,
)

POWERCAP_VARIABLE = "GREENLAB_POWERCAP_ROOT"
POWERCAP_ROOTS = (POWERCAP_ROOT, CONTAINER_POWERCAP_ROOT)

RAPL_QUANTUM_J = 2.0**-14
"""61 µJ, the usual energy unit (Intel, Software Developer's Manual, vol. 3B, sec. 16.10.1)."""
NVML_QUANTUM_J = 0.001

MIRROR_TOLERANCE_J = 0.5
MIRROR_WAIT_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class CounterSpec:
    """One raw counter, ready to be followed: `read_j` gives joules modulo `range_j`."""

    part: str
    detail: str
    read_j: Callable[[], float]
    range_j: float | None
    quantum_j: float = 0.0
    """Smallest step of its value."""
    ticks: bool = True
    """False: it has no tick of its own, and stands still from one reading to the next."""


# ---------------------------------------------------------------------------------------- RAPL


def powercap_root() -> Path:
    """The folder that holds the `intel-rapl:N` zones.

    Raises:
        MeterUnavailableError: the machine has none.
    """
    if named := os.environ.get(POWERCAP_VARIABLE):
        candidates = [Path(named) / "intel-rapl", Path(named)]
    else:
        candidates = list(POWERCAP_ROOTS)
    for root in candidates:
        if root.is_dir() and (root.name == "intel-rapl" or any(root.glob("intel-rapl:*"))):
            return root
    raise _no_rapl()


def _no_rapl() -> MeterUnavailableError:
    if named := os.environ.get(POWERCAP_VARIABLE):
        return MeterUnavailableError(
            f"no RAPL: {POWERCAP_VARIABLE}={named} holds no package zone; unset it, or name the "
            "folder that holds intel-rapl"
        )
    return MeterUnavailableError(f"no RAPL: {why_no_rapl()}")


def rapl_counters(component: str) -> list[CounterSpec]:
    """The zones that make up `cpu` (packages) or `dram`, one per socket, psys left out.

    They are read from their files, and through zeusd where this user may not and it is named.

    Raises:
        MeterUnavailableError: there is no such zone, or one of them cannot be read.
    """
    packages = zones = _package_zones(powercap_root())
    if not packages:
        raise _no_rapl()
    if component == "dram":
        zones = [
            zone
            for package in packages
            for zone in sorted(package.glob("intel-rapl:*"))
            if _zone_name(zone) == "dram"
        ]
    if not zones:
        raise MeterUnavailableError(f"no RAPL zone for {component}: this CPU does not meter it")
    try:
        counters = [_file_counter(zone) for zone in zones]
    except _UnreadableError as error:
        counters = _ask_zeusd(component, zones, instead_of=error)
    return [
        replace(counter, part=f"{component}{number}")
        for number, counter in enumerate(_without_mirrors(counters))
    ]


def _package_zones(root: Path) -> list[Path]:
    numbered = [
        (int(match[1]), path)
        for path in root.glob("intel-rapl:*")
        if (match := re.fullmatch(r"intel-rapl:(\d+)", path.name))
    ]
    return [path for _, path in sorted(numbered) if _zone_name(path).startswith("package-")]


def _zone_name(zone: Path) -> str:
    name = zone / "name"
    return name.read_text().strip() if name.exists() else ""


class _UnreadableError(MeterUnavailableError):
    """A zone is there, and this user may not read it."""


def _file_counter(zone: Path) -> CounterSpec:
    # Zeus pulls in half a second of imports, wanted only where there is a zone to read.
    from zeus.device.cpu.common import ZeusCPUNoPermissionError
    from zeus.device.cpu.rapl import RAPLFile, ZeusRAPLFileInitError

    try:
        file = RAPLFile(str(zone))
    except ZeusCPUNoPermissionError as error:
        energy_uj = zone / "energy_uj"
        raise _UnreadableError(f"{energy_uj} {NOT_READABLE} ({who_may_read(energy_uj)})") from error
    except (ZeusRAPLFileInitError, ValueError, OSError) as error:
        raise MeterUnavailableError(f"{zone} cannot be used as a RAPL zone: {error}") from error
    # Zeus's own read() opens the file each time, and starts a process to watch for wraps.
    kept = KeptFile(Path(file.energy_uj_path))

    def read_j() -> float:
        try:
            return int(kept.read(32)) / 1e6
        except (OSError, ValueError) as error:
            raise _lost(f"{file.name} ({zone})", error) from error

    return CounterSpec(
        part="",
        detail=f"{file.name} ({zone})",
        read_j=read_j,
        range_j=file.max_energy_range_uj / 1e6,
        quantum_j=RAPL_QUANTUM_J,
    )


def _lost(zone: str, error: Exception) -> MeterReadError:
    return MeterReadError(
        f"RAPL zone {zone} could be read at the start and cannot any more: {error}. The cell has "
        "no energy to report; run it again"
    )


def _without_mirrors(counters: list[CounterSpec]) -> list[CounterSpec]:
    """Keep one of each set of zones that show the same counter.

    Early multi-die AMD parts give every die of a socket the socket's own counter. Distinct
    counters differ by what they counted since boot, so the same value twice in a row is a mirror.
    """
    if len(counters) < 2:
        return counters
    first_j = [counter.read_j() for counter in counters]
    time.sleep(MIRROR_WAIT_S)
    second_j = [counter.read_j() for counter in counters]
    kept: list[int] = []
    for index, counter in enumerate(counters):
        twin = next(
            (
                other
                for other in kept
                if abs(first_j[index] - first_j[other]) < MIRROR_TOLERANCE_J
                and abs(second_j[index] - second_j[other]) < MIRROR_TOLERANCE_J
                and second_j[index] != first_j[index]
            ),
            None,
        )
        if twin is None:
            kept.append(index)
        else:
            logging.getLogger(__name__).warning(
                "%s mirrors %s: counted once", counter.detail, counters[twin].detail
            )
    return [counters[index] for index in kept]


# --------------------------------------------------------------------------------------- zeusd


def _ask_zeusd(
    component: str, zones: Sequence[Path], *, instead_of: _UnreadableError
) -> list[CounterSpec]:
    """Read zones through Zeus's daemon, if the environment names one that serves them."""
    from zeus.utils.zeusd import ZeusdConfig

    config = ZeusdConfig.from_env()
    if config is None:
        raise MeterUnavailableError(
            f"{instead_of}: let a group read it, or Zeus's daemon read it for you "
            "(python -m greenlab.doctor prints the commands)"
        ) from instead_of
    try:
        return _zeusd_counters(component, zones, config)
    except (MeterUnavailableError, MeterReadError) as error:
        raise MeterUnavailableError(
            f"{instead_of}, and not through zeusd either: {error}; let a group read it "
            "(python -m greenlab.doctor prints the commands)"
        ) from error


def _zeusd_counters(component: str, zones: Sequence[Path], config: Any) -> list[CounterSpec]:
    from zeus.device.cpu.rapl import ZeusdRAPLCPU
    from zeus.utils.zeusd import ZeusdClient

    if config.host_port is not None and not _is_this_machine(config.host_port):
        raise MeterUnavailableError(
            f"ZEUSD_HOST_PORT={config.host_port} is not an address of this machine, and another "
            "one's joules are none of this cell's"
        )
    # At each reading httpx would log the request.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    counters = []
    with _zeusd_errors(config.endpoint):
        client = ZeusdClient(config)
        for zone in zones:
            number = int(zone.name.split(":")[1])  # of the package: intel-rapl:0, intel-rapl:0:2
            counters.append(_zeusd_counter(component, zone, ZeusdRAPLCPU(number, client), config))
    for counter in counters:
        counter.read_j()
    return counters


def _zeusd_counter(component: str, zone: Path, cpu: Any, config: Any) -> CounterSpec:
    """One zone as the daemon gives it, brought back to what its file would show.

    zeusd adds `max_energy_range_uj` to the file's value for each wrap that it saw itself. Its
    sum starts afresh when it is restarted, takes a reset for a wrap, and in releases that look
    for wraps once a second falls back by a whole range in between. Modulo the range, all of them
    give the file's value, and the wraps are added up where those of every zone are.
    """
    range_uj = int((zone / "max_energy_range_uj").read_text())
    name = f"{_zone_name(zone)} ({zone}) through zeusd at {config.endpoint}"
    if component == "dram" and not cpu.supports_get_dram_energy_consumption():
        raise MeterUnavailableError(f"zeusd at {config.endpoint} serves no DRAM for {zone.name}")

    def read_j() -> float:
        try:
            with _zeusd_errors(config.endpoint):
                energy = cpu.get_total_energy_consumption()
        except MeterUnavailableError as error:
            raise _lost(name, error) from error
        energy_mj = energy.cpu_mj if component == "cpu" else energy.dram_mj
        return float(round(energy_mj * 1000) % range_uj) / 1e6

    return CounterSpec(
        part="",
        detail=name,
        read_j=read_j,
        range_j=range_uj / 1e6,
        quantum_j=RAPL_QUANTUM_J,
    )


@contextmanager
def _zeusd_errors(endpoint: str) -> Iterator[None]:
    """Turn what goes wrong between here and the daemon into one error of ours that names it."""
    import httpx  # what Zeus speaks to its daemon with; it lets most of its errors through
    from zeus.exception import ZeusBaseError

    try:
        yield
    except (ZeusBaseError, httpx.HTTPError, OSError, ValueError, KeyError) as error:
        raise MeterUnavailableError(f"zeusd at {endpoint}: {error}") from error


def _is_this_machine(host_port: str) -> bool:
    """Whether an address is one of this machine's own: a program can be bound to no other."""
    host = host_port.rpartition(":")[0].strip("[]")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind((address[0], 0))
        except OSError:
            continue
        return True
    return False


# ---------------------------------------------------------------------------------------- NVML


def _nvml() -> Any:
    from zeus.device.gpu.nvidia import nvml_is_available

    if not nvml_is_available():
        raise MeterUnavailableError("no NVIDIA GPU: its management library (NVML) does not start")
    import pynvml

    return pynvml


def visible_gpu_indices() -> list[int]:
    """NVML indices of the GPUs that CUDA may use, in CUDA's order (by PCI bus).

    Raises:
        MeterUnavailableError: there is none, or only a MIG slice, which no counter meters.
    """
    pynvml = _nvml()
    present = list(range(pynvml.nvmlDeviceGetCount()))
    if len(present) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        raise MeterUnavailableError(
            "CUDA and NVML number the GPUs of this machine differently: set "
            "CUDA_DEVICE_ORDER=PCI_BUS_ID, so that the GPU that works is the GPU that is metered"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    indices = present if visible is None else _parse_visible(pynvml, visible, present)
    if not indices:
        raise MeterUnavailableError(
            f"no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES={visible!r}"
            if visible is not None
            else "no NVIDIA GPU: NVML finds none"
        )
    return indices


def _parse_visible(pynvml: Any, visible: str, present: Sequence[int]) -> list[int]:
    indices: list[int] = []
    for token in (token.strip() for token in visible.split(",")):
        if token.startswith("MIG"):
            raise MeterUnavailableError(
                f"CUDA_VISIBLE_DEVICES={visible} names a MIG slice: the energy of a slice is not "
                "metered. Use the whole GPU, or hardware.energy_sources.gpu=none"
            )
        if token.startswith("GPU-"):
            try:
                handle = pynvml.nvmlDeviceGetHandleByUUID(token)
            except pynvml.NVMLError:
                break  # CUDA ignores the first device that it cannot find, and all after it
            indices.append(pynvml.nvmlDeviceGetIndex(handle))
        elif token.isdecimal() and int(token) in present:
            indices.append(int(token))
        else:
            break
    has_duplicates = len(set(indices)) < len(indices)
    return [] if has_duplicates else indices  # CUDA sees none if one is named twice


def _open_gpu(index: int) -> Any:
    from zeus.device.gpu.nvidia import NVIDIAGPU
    from zeus.exception import ZeusBaseError

    pynvml = _nvml()
    try:
        gpu = NVIDIAGPU(index)
    except ZeusBaseError as error:
        raise MeterUnavailableError(f"GPU {index} does not answer: {error}") from error
    try:
        is_sliced = pynvml.nvmlDeviceGetMigMode(gpu.handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    except pynvml.NVMLError:
        is_sliced = False  # a GPU that knows no slices
    if is_sliced:
        raise MeterUnavailableError(
            f"GPU {index} is divided into MIG slices, and only the whole board is metered, with "
            "whatever runs on the other slices. Switch MIG off (sudo nvidia-smi -mig 0)"
        )
    return gpu


def gpu_energy_counters(indices: Sequence[int]) -> list[CounterSpec]:
    """The boards' own energy counters.

    Raises:
        MeterUnavailableError: a GPU has none (before Volta, and some virtual GPUs).
    """
    return [_gpu_energy_counter(index) for index in indices]


def _gpu_energy_counter(index: int) -> CounterSpec:
    gpu = _open_gpu(index)
    read_j = _from_thousandths(index, gpu.get_total_energy_consumption)
    try:
        read_j()
    except MeterReadError as error:
        raise MeterUnavailableError(
            f"GPU {index} has no energy counter ({error.__cause__}); polled power instead: "
            "hardware.energy_sources.gpu=nvml_power"
        ) from error
    return CounterSpec(
        part=f"gpu{index}",
        detail=gpu.get_name(),
        read_j=read_j,
        range_j=None,
        quantum_j=NVML_QUANTUM_J,
    )


def gpu_power_counters(indices: Sequence[int]) -> list[CounterSpec]:
    """Joules integrated from polled power, for GPUs without an energy counter.

    Raises:
        MeterUnavailableError: a GPU does not tell its power either.
    """
    return [
        CounterSpec(
            part=f"gpu{index}",
            detail=f"{_open_gpu(index).get_name()}, power polled",
            read_j=PowerIntegral(gpu_power_reader(index)),
            range_j=None,
            ticks=False,
        )
        for index in indices
    ]


class PowerIntegral:
    """A cumulative counter of joules made from power readings: call it to read it.

    Each reading stands for the time since the one before: NVML's power is a mean over the past.
    """

    def __init__(
        self, read_power_w: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read_power_w = read_power_w
        self._clock = clock
        self._read_at_s = clock()
        self._joules = 0.0

    def __call__(self) -> float:
        """Joules since it was made."""
        power_w, now_s = self._read_power_w(), self._clock()
        self._joules += power_w * (now_s - self._read_at_s)
        self._read_at_s = now_s
        return self._joules


def gpu_power_reader(index: int) -> Callable[[], float]:
    """A function that reads a GPU's power in watts: instantaneous where NVML has it.

    Raises:
        MeterUnavailableError: the GPU does not tell its power.
    """
    gpu, pynvml = _open_gpu(index), _nvml()
    instant_w = _from_thousandths(index, gpu.get_instant_power_usage)
    plain_w = _from_thousandths(index, lambda: pynvml.nvmlDeviceGetPowerUsage(gpu.handle))
    # On Grace Hopper the instantaneous reading is the whole module's, CPU included.
    for read_w in (plain_w,) if gpu._is_grace_hopper else (instant_w, plain_w):
        try:
            read_w()
        except MeterReadError:
            continue
        return read_w
    raise MeterUnavailableError(
        f"GPU {index} tells neither its energy nor its power; hardware.energy_sources.gpu=none "
        "leaves it out"
    )


def _from_thousandths(index: int, read: Callable[[], int]) -> Callable[[], float]:
    """Joules or watts from a reader of mJ or mW.

    Zeus's and NVML's errors become one of ours that names the GPU.
    """
    import pynvml
    from zeus.exception import ZeusBaseError

    errors = (ZeusBaseError, pynvml.NVMLError)

    def read_or_raise() -> float:
        try:
            return read() / 1000
        except errors as error:
            raise MeterReadError(f"GPU {index} cannot be read: {error}") from error

    return read_or_raise
