"""What NVML tells about a GPU besides its energy: power, load, memory, temperature, clocks."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from greenlab.errors import MeterReadError, MeterUnavailableError
from greenlab.meters.zeus_counters import gpu_power_reader
from greenlab.record import Source
from greenlab.trace import CLOCK_EVENTS

Reader = Callable[[], float]


FAST = ("power_w", "utilisation_percent")
"""What changes within a second."""


def open_probes(sources: Sequence[Source], *, uses_cuda: bool) -> list["GpuProbe"]:
    """One probe per GPU that is metered; with `uses_cuda` this process works on them already."""
    parts = [part for source in sources if source.component == "gpu" for part in source.parts]
    return [GpuProbe(int(part.removeprefix("gpu")), is_used=uses_cuda) for part in parts]


class GpuProbe:
    """Readers of one GPU's state; what this GPU does not tell is left out from the start."""

    def __init__(self, index: int, *, is_used: bool) -> None:
        import pynvml

        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self._errors = pynvml.NVMLError
        candidates = {f"gpu{index}_{name}": read for name, read in _readers(pynvml, handle).items()}
        candidates[f"gpu{index}_other_processes"] = _other_processes(pynvml, handle, is_used)
        with contextlib.suppress(MeterUnavailableError):  # its energy counter may do all the same
            candidates[f"gpu{index}_power_w"] = gpu_power_reader(index)
        guarded = {name: self._guarded(read) for name, read in candidates.items()}
        answering = {name: read for name, read in guarded.items() if not math.isnan(read())}
        self.fast = {name: read for name, read in answering.items() if name.endswith(FAST)}
        """Readers by column; NaN where a reading fails this once."""
        self.slow = {name: read for name, read in answering.items() if name not in self.fast}

    def _guarded(self, read: Reader) -> Reader:
        def read_or_nan() -> float:
            try:
                return read()
            except (self._errors, MeterReadError):
                return math.nan

        return read_or_nan


def _readers(pynvml: Any, handle: Any) -> dict[str, Reader]:
    return {
        "utilisation_percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_used_bytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used,
        "memory_percent": lambda: _memory_percent(pynvml.nvmlDeviceGetMemoryInfo(handle)),
        "temperature_celsius": lambda: pynvml.nvmlDeviceGetTemperature(
            handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        "sm_clock_hz": lambda: 1e6 * pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        CLOCK_EVENTS: lambda: _clock_events(pynvml, handle),
        "power_limit_w": lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
    }


def _clock_events(pynvml: Any, handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError_FunctionNotFound:  # what drivers before 535 called it
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _other_processes(pynvml: Any, handle: Any, is_used: bool) -> Reader:
    """Counts the processes that compute on a GPU, this one left out.

    In a container NVML may number processes as the host does; one of them is this one all the same.
    """

    def read() -> float:
        running = [one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
        is_listed = os.getpid() in running or (is_used and bool(running))
        return float(len(running) - is_listed)

    return read


def _memory_percent(memory: Any) -> float:
    return 100.0 * float(memory.used) / float(memory.total)
