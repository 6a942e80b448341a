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
from greenlab.meters.gpu_probe import CLOCK_EVENTS, POWER_CAP_BIT, SLOWED_BITS, GpuProbe
from greenlab.record import TraceSummary
from greenlab.uncertainty import PowerSeries

TIME = "time_s"
CPU_BUSY, CPU_STOLEN, CPU_TOTAL = "cpu_busy_s", "cpu_stolen_s", "cpu_total_s"
"""Seconds of all CPUs together since the machine started."""
CPU_OWN = "cpu_own_s"
"""CPU seconds of this process, of all its threads."""
CPU_PERCENT, CPU_OTHERS_PERCENT = "cpu_percent", "cpu_others_percent"
CPU_STOLEN_PERCENT = "cpu_stolen_percent"
DRAM_USED = "dram_used_bytes"
DRAM_PERCENT = "dram_percent"
ENERGY_SUFFIX = "_energy_j"
POWER_SUFFIX = "_power_w"

UTILISATION = {
    "utilisation/cpu_percent": CPU_PERCENT,
    "utilisation/cpu_others_percent": CPU_OTHERS_PERCENT,
    "utilisation/cpu_stolen_percent": CPU_STOLEN_PERCENT,
    "utilisation/dram_percent": DRAM_PERCENT,
    "utilisation/dram_used_bytes": DRAM_USED,
    "utilisation/gpu_percent": r"gpu\d+_utilisation_percent",
    "utilisation/gpu_memory_percent": r"gpu\d+_memory_percent",
    "utilisation/gpu_memory_used_bytes": r"gpu\d+_memory_used_bytes",
    "utilisation/gpu_temperature_celsius": r"gpu\d+_temperature_celsius",
    "utilisation/gpu_sm_clock_hz": r"gpu\d+_sm_clock_hz",
    "utilisation/gpu_other_processes": r"gpu\d+_other_processes",
    "utilisation/gpu_slowed_fraction": r"gpu\d+_slowed_fraction",
    "utilisation/gpu_power_capped_fraction": r"gpu\d+_power_capped_fraction",
    "power/polled_gpu_w": r"gpu\d+_power_w",
}
"""Metric names, and the columns that each is made of (of several GPUs together)."""

Columns = dict[str, NDArray[np.float64]]

SERIES_BLOCKS = 20
"""Into which an idle window is divided: 0.5 s each for a window of 10 s."""


class Sampler:
    """Samples from entering its context to leaving it."""

    def __init__(self, meter: Meter, period_s: float, probes: Sequence[GpuProbe] = ()) -> None:
        self._meter = meter
        self._period_s = period_s
        self._probes = probes
        names = [TIME, CPU_BUSY, CPU_STOLEN, CPU_TOTAL, CPU_OWN, DRAM_USED, DRAM_PERCENT]
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
            *_cpu_times_s(),
            time.process_time(),
            float(memory.total - memory.available),
            float(memory.percent),
            *reading.part_energy_j.values(),
            *(value for probe in self._probes for value in probe.read()),
        ]
        for column, value in zip(self._columns.values(), row, strict=True):
            column.append(value)

    def columns(self) -> Columns:
        """Samples by column, in order of time; power and load are derived from what was counted.

        `time_s` is Unix time. What is derived stands for the time since the sample before.
        """
        columns = {name: np.array(values) for name, values in self._columns.items()}
        for name in [name for name in columns if name.endswith(ENERGY_SUFFIX)]:
            power = name.removesuffix(ENERGY_SUFFIX) + POWER_SUFFIX
            # NVML's own reading is kept: its energy counter ticks too slowly to be differenced.
            if power not in columns:
                columns[power] = _advance(columns[name]) / _advance(columns[TIME])
        for name in [name for name in columns if name.endswith(CLOCK_EVENTS)]:
            part, reasons = name.removesuffix(CLOCK_EVENTS), columns[name]
            for flag, bits in (("slowed", SLOWED_BITS), ("power_capped", POWER_CAP_BIT)):
                known = np.where(np.isnan(reasons), 0, reasons).astype(int) & bits != 0
                columns[f"{part}{flag}_fraction"] = np.where(np.isnan(reasons), np.nan, known)
        cpu_s = _advance(columns[CPU_TOTAL])
        cpu_s[cpu_s == 0] = np.nan  # the system counts in steps of 10 ms
        busy_s = _advance(columns[CPU_BUSY])
        columns[CPU_PERCENT] = 100 * busy_s / cpu_s
        columns[CPU_OTHERS_PERCENT] = 100 * (busy_s - _advance(columns[CPU_OWN])) / cpu_s
        columns[CPU_STOLEN_PERCENT] = 100 * _advance(columns[CPU_STOLEN]) / cpu_s
        return columns


def _cpu_times_s() -> tuple[float, float, float]:
    """Busy, stolen and all CPU seconds since the machine started."""
    times = psutil.cpu_times()
    stolen_s = getattr(times, "steal", 0.0)
    waiting_s = times.idle + getattr(times, "iowait", 0.0)
    names = ("user", "nice", "system", "irq", "softirq")  # guest time is part of user
    busy_s = sum(getattr(times, name, 0.0) for name in names)
    return busy_s, stolen_s, busy_s + waiting_s + stolen_s


def _advance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each value exceeds the one before; NaN for the first."""
    return np.diff(values, prepend=np.nan)


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
        active_rise_celsius=_rise_celsius(columns, passes, share=0.1),
        idle_fall_celsius=_worst_fall_celsius(columns, idle),
    )


def _rise_celsius(
    columns: Columns, windows: Sequence[EnergyWindow], share: float
) -> dict[str, float]:
    """By GPU: mean temperature of the last `share` of the windows less that of the first."""
    inside = _inside(columns, windows)
    risen: dict[str, float] = {}
    for name, values in columns.items():
        if match := re.fullmatch(r"(gpu\d+)_temperature_celsius", name):
            known = values[inside & ~np.isnan(values)]
            if num := round(share * len(known)):
                risen[match[1]] = float(known[-num:].mean() - known[:num].mean())
    return risen


def _worst_fall_celsius(columns: Columns, idle: Sequence[EnergyWindow]) -> dict[str, float]:
    rises = [_rise_celsius(columns, [window], share=0.25) for window in idle]
    parts = set[str]().union(*rises)
    return {part: max(-rise[part] for rise in rises if part in rise) for part in sorted(parts)}


def idle_series(
    columns: Columns, before: EnergyWindow, after: EnergyWindow
) -> tuple[PowerSeries, PowerSeries]:
    """Power by device over the idle windows."""
    return _power_series(columns, before), _power_series(columns, after)


def _power_series(columns: Columns, window: EnergyWindow) -> PowerSeries:
    """Mean power of each device over blocks of one window; as many as there are samples for."""
    first, after = np.searchsorted(columns[TIME], _edges_s(window))
    num_blocks = max(0, min(SERIES_BLOCKS, after - 1 - first))
    edges = np.linspace(first, after - 1, num_blocks + 1).round().astype(int)
    time_s = columns[TIME][edges] if num_blocks else np.zeros(1)
    parts = [name.removesuffix(ENERGY_SUFFIX) for name in columns if name.endswith(ENERGY_SUFFIX)]
    return PowerSeries(
        block_s=float((time_s[-1] - time_s[0]) / num_blocks) if num_blocks else 0.0,
        part_power_w={
            part: (np.diff(columns[part + ENERGY_SUFFIX][edges]) / np.diff(time_s)).tolist()
            if num_blocks
            else []
            for part in parts
        },
    )


def _edges_s(window: EnergyWindow) -> tuple[float, float]:
    return window.started_at_s, window.started_at_s + window.duration_s


def _inside(columns: Columns, windows: Sequence[EnergyWindow]) -> NDArray[np.bool_]:
    """Which samples stand for time within the windows."""
    inside = np.zeros(len(columns[TIME]), dtype=bool)
    for window in windows:
        first, after = np.searchsorted(columns[TIME], _edges_s(window))
        # A sample stands for the time since the one before: where a window is shorter than the
        # sampler's period, that is the first sample after it.
        inside[first : max(after, first + 1)] = True
    return inside


def _utilisation(columns: Columns, windows: Sequence[EnergyWindow]) -> dict[str, float]:
    inside = _inside(columns, windows)
    weight_s = np.nan_to_num(_advance(columns[TIME]))
    means: dict[str, float] = {}
    for metric, pattern in UTILISATION.items():
        found = [values for name, values in columns.items() if re.fullmatch(pattern, name)]
        known = [(column, inside & ~np.isnan(column) & (weight_s > 0)) for column in found]
        values = np.array(
            [np.average(column[at], weights=weight_s[at]) for column, at in known if at.any()]
        )
        if len(values):
            # Watts of several devices add up; loads, temperatures and clocks are averaged.
            means[metric] = float(values.sum() if metric.endswith("_w") else values.mean())
    return means
