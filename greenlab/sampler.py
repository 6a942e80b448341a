"""Samples power, load, memory, temperature and clocks in the background, several times a second.

One thread in the measured process. It runs through the idle windows as through the passes, so what
it costs cancels out; and since it reads the meter at every tick, no wrap of a counter is missed.
"""

import math
import os
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from greenlab import trace
from greenlab.meters import Meter
from greenlab.meters.gpu_probe import GpuProbe, Reader
from greenlab.meters.kept_file import KeptFile
from greenlab.trace import Columns


class Sampler:
    """Samples from entering its context to leaving it."""

    def __init__(self, meter: Meter, period_s: float, probes: Sequence[GpuProbe] = ()) -> None:
        self._meter = meter
        self._period_s = period_s
        fast: dict[str, Reader] = {}
        dram = Dram()
        slow: dict[str, Reader] = {
            trace.DRAM_USED: dram.used_bytes,
            trace.DRAM_PERCENT: dram.used_percent,
        }
        for probe in probes:
            fast |= probe.fast
            slow |= probe.slow
        self._fast, self._slow = list(fast.values()), list(slow.values())
        self._slow_due_s = 0.0
        self._cpu_times = CpuTimes()
        names = [trace.TIME, trace.CPU_BUSY, trace.CPU_STOLEN, trace.CPU_TOTAL, trace.CPU_OWN]
        names += [part + trace.ENERGY_SUFFIX for part in meter.read().part_energy_j]
        self._columns = {name: array("d") for name in [*names, *fast, *slow]}
        self._running = threading.Lock()
        """Held until the end; waking up costs two thirds of what it costs from an Event."""
        self._running.acquire()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="greenlab-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.release()
        self._thread.join()

    def refresh(self) -> None:
        """Read what changes slowly at the next tick, and every second from then on."""
        self._slow_due_s = 0.0

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        next_s = time.monotonic() + self._period_s
        try:
            while not self._running.acquire(timeout=max(0.0, next_s - time.monotonic())):
                self._sample()
                next_s = max(next_s + self._period_s, time.monotonic())
        except Exception as error:  # a trace that stops unseen would miss wraps
            self._error = error

    def _sample(self) -> None:
        reading = self._meter.read()
        is_due = reading.monotonic_s >= self._slow_due_s
        if is_due:
            self._slow_due_s = reading.monotonic_s + trace.SLOW_PERIOD_S
        row = [
            self._meter.unix_s(reading.monotonic_s),
            *self._cpu_times.read_s(),
            time.process_time(),
            *reading.part_energy_j.values(),
            *(read() for read in self._fast),
            *(read() if is_due else math.nan for read in self._slow),
        ]
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def columns(self) -> Columns:
        """Samples by column, with what is derived from them; see trace.py."""
        return trace.derive(self._columns)


class CpuTimes:
    """Busy, stolen and all CPU seconds since the machine started, of all CPUs together.

    Read from /proc/stat through a file that stays open: a quarter of what psutil takes.
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._file = KeptFile(path)
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def read_s(self) -> tuple[float, float, float]:
        """Busy, stolen and all; guest time is part of user time."""
        first_line = self._file.read(256).partition(b"\n")[0]
        fields = [int(field) * self._tick_s for field in first_line.split()[1:9]]
        user, nice, system, idle, waiting, irq, softirq, stolen = fields
        busy = user + nice + system + irq + softirq
        return busy, stolen, busy + stolen + idle + waiting


class Dram:
    """How much memory the machine uses: what is not available to a new process."""

    def __init__(self) -> None:
        self._total_bytes = psutil.virtual_memory().total
        self._used_bytes = 0.0

    def used_bytes(self) -> float:
        """As it is now."""
        self._used_bytes = float(self._total_bytes - psutil.virtual_memory().available)
        return self._used_bytes

    def used_percent(self) -> float:
        """As of the last `used_bytes`."""
        return 100 * self._used_bytes / self._total_bytes
