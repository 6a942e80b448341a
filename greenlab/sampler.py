"""The background trace: power, load, memory, temperature and clocks, several times a second.

One thread in the measured process. It runs through the idle windows as through the passes, so what
it costs cancels out; and since it reads the meter at every tick, no wrap of a counter is missed.
"""

import re
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import psutil
from numpy.typing import NDArray

from greenlab.energy import EnergyWindow
from greenlab.meters import Meter
from greenlab.meters.gpu_probe import GpuProbe
from greenlab.record import TraceSummary

TIME = "time_s"
CPU_PERCENT = "cpu_percent"
DRAM_USED = "dram_used_bytes"
DRAM_PERCENT = "dram_percent"
ENERGY_SUFFIX = "_energy_j"
POWER_SUFFIX = "_power_w"

UTILISATION = {
    "utilisation/cpu_percent": CPU_PERCENT,
    "utilisation/dram_percent": DRAM_PERCENT,
    "utilisation/dram_used_bytes": DRAM_USED,
    "utilisation/gpu_percent": r"gpu\d+_utilisation_percent",
    "utilisation/gpu_memory_percent": r"gpu\d+_memory_percent",
    "utilisation/gpu_memory_used_bytes": r"gpu\d+_memory_used_bytes",
    "utilisation/gpu_temperature_celsius": r"gpu\d+_temperature_celsius",
    "utilisation/gpu_sm_clock_hz": r"gpu\d+_sm_clock_hz",
    "power/polled_gpu_w": r"gpu\d+_power_w",
}
"""Metric names, and the columns that each is made of (of several GPUs together)."""

Columns = dict[str, NDArray[np.float64]]


class Sampler:
    """Samples from entering its context to leaving it."""

    def __init__(self, meter: Meter, period_s: float, probes: Sequence[GpuProbe] = ()) -> None:
        self._meter = meter
        self._period_s = period_s
        self._probes = probes
        names = [TIME, CPU_PERCENT, DRAM_USED, DRAM_PERCENT]
        names += [part + ENERGY_SUFFIX for part in meter.read().part_energy_j]
        names += [name for probe in probes for name in probe.columns]
        self._columns = {name: array("d") for name in names}
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="greenlab-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Raise what went wrong in the background, if anything did."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        psutil.cpu_percent()  # a thread's first call has nothing to compare with
        next_s = time.monotonic() + self._period_s
        try:
            while not self._stop.wait(next_s - time.monotonic()):
                self._sample()
                next_s = max(next_s + self._period_s, time.monotonic())
        except Exception as error:  # a trace that stops unseen would miss wraps
            self._error = error

    def _sample(self) -> None:
        reading = self._meter.read()
        memory = psutil.virtual_memory()
        row = [
            self._meter.unix_s(reading.monotonic_s),
            psutil.cpu_percent(),  # mean over all cores since the tick before
            float(memory.total - memory.available),
            float(memory.percent),
            *reading.part_energy_j.values(),
            *(value for probe in self._probes for value in probe.read()),
        ]
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def columns(self) -> Columns:
        """Samples by column, in order of time; power in watts is derived from counted joules.

        `time_s` is Unix time. A device's power stands for the time since the sample before.
        """
        columns = {name: np.array(values) for name, values in self._columns.items()}
        for name in [name for name in columns if name.endswith(ENERGY_SUFFIX)]:
            power = name.removesuffix(ENERGY_SUFFIX) + POWER_SUFFIX
            # NVML's own reading is kept: its energy counter ticks too slowly to be differenced.
            if power not in columns:
                watts = np.diff(columns[name]) / np.diff(columns[TIME])
                columns[power] = np.concatenate([[np.nan], watts])[: len(columns[TIME])]
        return columns


def write_trace(path: Path, columns: Columns) -> None:
    """Write the whole trace as Parquet, one row per sample."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    partial = path.with_suffix(".partial")
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table, partial)
    partial.replace(path)


def read_trace(path: Path) -> Columns:
    """The inverse of `write_trace`."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def summarise(
    columns: Columns, passes: Sequence[EnergyWindow], idle: Sequence[EnergyWindow]
) -> TraceSummary:
    """Means over the passes and over the idle windows, by metric name."""
    time_s = columns[TIME]
    return TraceSummary(
        num_samples=len(time_s),
        longest_gap_s=float(np.diff(time_s).max(initial=0.0)),
        mean=_utilisation(columns, passes),
        idle_mean=_utilisation(columns, idle),
    )


def _utilisation(columns: Columns, windows: Sequence[EnergyWindow]) -> dict[str, float]:
    inside = np.zeros(len(columns[TIME]), dtype=bool)
    for window in windows:
        edges_s = (window.started_at_s, window.started_at_s + window.duration_s)
        first, after = np.searchsorted(columns[TIME], edges_s)
        # A sample stands for the time since the one before: where a window is shorter than the
        # sampler's period, that is the first sample after it.
        inside[first : max(after, first + 1)] = True
    means: dict[str, float] = {}
    for metric, pattern in UTILISATION.items():
        found = [values[inside] for name, values in columns.items() if re.fullmatch(pattern, name)]
        values = np.array([np.nanmean(column) for column in found if not np.isnan(column).all()])
        if len(values):
            # Watts of several devices add up; loads, temperatures and clocks are averaged.
            means[metric] = float(values.sum() if metric.endswith("_w") else values.mean())
    return means
