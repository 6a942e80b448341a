"""Samples power, load, memory, temperature and clocks in the background, several times a second.

One thread in the measured process, from opening the meter on: it reads the meter at every tick, so
that no wrap of a counter is missed, and keeps the account up to date. The trace is recorded from
the first idle window to the last: what that costs, idle windows and passes alike, cancels out.
"""

import math
import os
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import psutil

from greenlab import trace
from greenlab.account import BEAT_S
from greenlab.meters import Meter, Reading
from greenlab.meters.gpu_probe import GpuProbe, Reader
from greenlab.meters.kept_file import KeptFile
from greenlab.trace import Columns


class Sampler:
    """Reads the meter from entering its context to leaving it."""

    def __init__(self, meter: Meter, period_s: float, beat: Callable[[Reading], None]) -> None:
        """Sample every `period_s`, and pass `beat` a reading at least every BEAT_S."""
        self._meter = meter
        self._beat = beat
        self._ticks_per_sample = math.ceil(period_s / BEAT_S)
        self._tick_s = period_s / self._ticks_per_sample
        self._recording: Recording | None = None
        self._sampling = threading.Lock()
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

    def record(self, probes: Sequence[GpuProbe] = ()) -> None:
        """Begin the trace."""
        self._recording = Recording(list(self._meter.read().part_energy_j), probes)

    def refresh(self) -> None:
        """Read what changes slowly at the next sample, and every second from then on."""
        assert self._recording is not None, "no trace is being recorded"
        self._recording.slow_due_s = 0.0

    def finish(self) -> Columns:
        """End the trace; its samples by column, with what is derived from them. See trace.py."""
        with self._sampling:
            recording, self._recording = self._recording, None
        self.check()
        assert recording is not None, "no trace is being recorded"
        return trace.derive(recording.columns)

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        num_ticks = 0
        next_s = time.monotonic() + self._tick_s
        try:
            while not self._running.acquire(timeout=max(0.0, next_s - time.monotonic())):
                reading = self._meter.read()
                num_ticks += 1
                if num_ticks % self._ticks_per_sample == 0:
                    self._sample(reading)
                self._beat(reading)
                next_s = max(next_s + self._tick_s, time.monotonic())
        except Exception as error:  # a trace that stops unseen would miss wraps
            self._error = error

    def _sample(self, reading: Reading) -> None:
        with self._sampling:
            if self._recording is not None:
                self._recording.add(reading, self._meter.unix_s(reading.monotonic_s))


class Recording:
    """The trace of one cell while it grows, a column for each thing that is read."""

    def __init__(self, parts: Sequence[str], probes: Sequence[GpuProbe]) -> None:
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
        self.slow_due_s = 0.0
        """When what changes slowly is read again, on the monotonic clock."""
        self._cpu_times = CpuTimes()
        names = [trace.TIME, trace.CPU_BUSY, trace.CPU_STOLEN, trace.CPU_TOTAL, trace.CPU_OWN]
        names += [part + trace.ENERGY_SUFFIX for part in parts]
        self.columns = {name: array("d") for name in [*names, *fast, *slow]}

    def add(self, reading: Reading, unix_s: float) -> None:
        """Add a sample: a reading of the meter, and everything else as it is now."""
        is_due = reading.monotonic_s >= self.slow_due_s
        if is_due:
            self.slow_due_s = reading.monotonic_s + trace.SLOW_PERIOD_S
        row = [
            unix_s,
            *self._cpu_times.read_s(),
            time.process_time(),
            *reading.part_energy_j.values(),
            *(read() for read in self._fast),
            *(read() if is_due else math.nan for read in self._slow),
        ]
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)


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
