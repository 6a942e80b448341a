"""Samples power, load, memory, temperature and clocks in the background, several times a second.

One thread in the measured process, from opening the meter on: it reads the meter at every tick, so
that no wrap of a counter is missed, and keeps the account up to date. The trace is recorded from
the first idle window to the last: what that costs, idle windows and passes alike, cancels out.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from greenlab import trace
from greenlab.account import BEAT_S
from greenlab.meters import Meter, Reading
from greenlab.meters.gpu_probe import GpuProbe, Reader
from greenlab.meters.machine_load import CpuTimes, Dram
from greenlab.trace_file import RowFile


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
        if self._recording is not None:  # the cell has failed: what was sampled is still a trace
            with contextlib.suppress(OSError):
                self._recording.close()

    def record(self, folder: Path, probes: Sequence[GpuProbe] = ()) -> None:
        """Begin the trace in `folder`."""
        self._recording = Recording(folder, list(self._meter.read().part_energy_j), probes)

    def refresh(self) -> None:
        """Read what changes slowly at the next sample, and every second from then on."""
        assert self._recording is not None, "no trace is being recorded"
        self._recording.slow_due_s = 0.0

    def finish(self) -> None:
        """End the trace; see `trace_file.complete_trace`. OSError where it cannot be written."""
        with self._sampling:
            recording, self._recording = self._recording, None
        assert recording is not None, "no trace is being recorded"
        recording.close()
        self.check()

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

    def __init__(self, folder: Path, parts: Sequence[str], probes: Sequence[GpuProbe]) -> None:
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
        self._not_due = [math.nan] * len(slow)
        self.slow_due_s = 0.0
        """When what changes slowly is read again, on the monotonic clock."""
        self._cpu_times = CpuTimes()
        names = [trace.TIME, trace.CPU_BUSY, trace.CPU_STOLEN, trace.CPU_TOTAL, trace.CPU_OWN]
        names += [part + trace.ENERGY_SUFFIX for part in parts]
        self._rows = RowFile(folder, [*names, *fast, *slow])

    def add(self, reading: Reading, unix_s: float) -> None:
        """Add a sample: a reading of the meter, and everything else as it is now."""
        is_due = reading.monotonic_s >= self.slow_due_s
        if is_due:
            self.slow_due_s = reading.monotonic_s + trace.SLOW_PERIOD_S
        row = [unix_s, *self._cpu_times.read_s(), time.process_time()]
        row += reading.part_energy_j.values()
        row += [read() for read in self._fast]
        row += [read() for read in self._slow] if is_due else self._not_due
        self._rows.add(row)
        if is_due:
            self._rows.flush()

    def close(self) -> None:
        """Write what is not on disk yet; OSError where it cannot be."""
        self._rows.close()
