"""Measured energy: RAPL zones and NVIDIA GPUs, read through Zeus's device layer.

Zeus's readers of a single zone and a single GPU are used directly. Its managers would count psys
and mirrored dies as CPUs of their own, lose the package where only DRAM is unreadable, and start a
helper process per zone to watch for wraps; greenlab's counters add the wraps up themselves.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from greenlab.errors import MeterReadError, MeterUnavailableError

POWERCAP_VARIABLE = "GREENLAB_POWERCAP_ROOT"
POWERCAP_ROOTS = (
    Path("/sys/class/powercap/intel-rapl"),  # AMD's zones appear under the same name
    Path(
        "/zeus_sys/class/powercap/intel-rapl"
    ),  # where Zeus's documentation mounts it in containers
)
UDEV_RULE = (
    'sudo sh -c \'groupadd -f energy && usermod -aG energy "$SUDO_USER" && '
    'echo "SUBSYSTEM==\\"powercap\\", ACTION==\\"add\\", RUN+=\\"/bin/chgrp -R energy '
    '/sys%p\\", RUN+=\\"/bin/chmod -R g+r /sys%p\\"" > /etc/udev/rules.d/70-powercap.rules && '
    "udevadm control --reload && udevadm trigger --subsystem-match=powercap --action=add'"
)
"""Lets a group read RAPL for good; it holds after the next login."""
CHMOD_COMMAND = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
"""Lets everybody read RAPL until the next boot."""

RAPL_QUANTUM_J = 2.0**-14
"""61 µJ, the usual energy unit (Intel, Software Developer's Manual, vol. 3B, sec. 16.10.1)."""
NVML_QUANTUM_J = 0.001

MIRROR_TOLERANCE_J = 0.5
MIRROR_WAIT_S = 0.05


class _NoWrapTracker:
    """Stands where Zeus would start a process that watches for wraps."""

    def get_num_wraparounds(self) -> int:
        return 0


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
    raise MeterUnavailableError(
        f"no RAPL: {candidates[0]} does not exist (most virtual machines and containers hide it; "
        "on bare metal: sudo modprobe intel_rapl_msr)"
    )


def rapl_counters(component: str) -> list[CounterSpec]:
    """The zones that make up `cpu` (packages) or `dram`, one per socket, psys left out.

    Raises:
        MeterUnavailableError: there is no such zone, or one of them cannot be read.
    """
    zones = _package_zones(powercap_root())
    if component == "dram":
        zones = [
            zone
            for package in zones
            for zone in sorted(package.glob("intel-rapl:*"))
            if _zone_name(zone) == "dram"
        ]
    if not zones:
        raise MeterUnavailableError(
            f"no RAPL zone for {component}: this CPU does not meter it"
            if component == "dram"
            else f"no RAPL package zone under {powercap_root()}"
        )
    files = _without_mirrors([_open_zone(component, zone) for zone in zones])
    return [_zone_counter(f"{component}{number}", file) for number, file in enumerate(files)]


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


def _open_zone(component: str, zone: Path) -> Any:
    # Zeus pulls in half a second of imports, wanted only where there is a zone to read.
    from zeus.device.cpu.common import ZeusCPUNoPermissionError
    from zeus.device.cpu.rapl import RAPLFile, ZeusRAPLFileInitError

    try:
        file = RAPLFile(str(zone))
    except ZeusCPUNoPermissionError as error:
        raise MeterUnavailableError(
            f"{zone}/energy_uj is not readable for this user. Give your group the right to read "
            f"it (python -m greenlab.doctor prints the udev rule), until the next boot: "
            f"{CHMOD_COMMAND}; or model it instead: hardware.energy_sources.{component}="
            + ("tdp_model" if component == "cpu" else "dimm_model")
        ) from error
    except (ZeusRAPLFileInitError, ValueError, OSError) as error:
        raise MeterUnavailableError(f"{zone} cannot be used as a RAPL zone: {error}") from error
    assert hasattr(file, "_wraparound_tracker"), "Zeus's RAPLFile has changed"
    file._wraparound_tracker = _NoWrapTracker()
    return file


def _without_mirrors(files: list[Any]) -> list[Any]:
    """Keep one of each set of zones that show the same counter.

    Early multi-die AMD parts give every die of a socket the socket's own counter. Distinct
    counters differ by what they counted since boot, so the same value twice in a row is a mirror.
    """
    if len(files) < 2:
        return files
    first_j = [_read_zone_j(file) for file in files]
    time.sleep(MIRROR_WAIT_S)
    second_j = [_read_zone_j(file) for file in files]
    kept: list[int] = []
    for index, file in enumerate(files):
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
                "%s mirrors %s: counted once", file.name, files[twin].name
            )
    return [files[index] for index in kept]


def _read_zone_j(file: Any) -> float:
    try:
        return float(file.read()) / 1000  # Zeus gives mJ
    except (OSError, ValueError) as error:
        raise MeterReadError(
            f"RAPL zone {file.name} ({file.path}) could be read at the start and cannot any more: "
            f"{error}. The cell has no energy to report; run it again"
        ) from error


def _zone_counter(part: str, file: Any) -> CounterSpec:
    return CounterSpec(
        part=part,
        detail=f"{file.name} ({file.path})",
        read_j=lambda: _read_zone_j(file),
        range_j=file.max_energy_range_uj / 1e6,
        quantum_j=RAPL_QUANTUM_J,
    )


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

    def read_j() -> float:
        with _gpu_errors(index):
            return float(gpu.get_total_energy_consumption()) / 1000  # NVML gives mJ

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

    def instant_w() -> float:
        with _gpu_errors(index):
            return float(gpu.get_instant_power_usage()) / 1000  # NVML gives mW

    def plain_w() -> float:
        with _gpu_errors(index):
            return float(pynvml.nvmlDeviceGetPowerUsage(gpu.handle)) / 1000

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


@contextmanager
def _gpu_errors(index: int) -> Iterator[None]:
    """Turn Zeus's and NVML's errors into one of ours that names the GPU."""
    import pynvml
    from zeus.exception import ZeusBaseError

    try:
        yield
    except (ZeusBaseError, pynvml.NVMLError) as error:
        raise MeterReadError(f"GPU {index} cannot be read: {error}") from error
