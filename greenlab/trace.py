"""The trace of a cell: what the sampler saw, by column, and what can be said from it.

A column holds one value per sample. What is derived from counters (power, load) stands for the time
since the sample before.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from greenlab.energy import EnergyWindow
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

Columns = Mapping[str, NDArray[np.float64]]
"""Those of a stored trace are read anew each time that they are asked for."""

SERIES_BLOCKS = 20
"""Into which an idle window is divided: 0.5 s each for a window of 10 s."""
SLOW_PERIOD_S = 1.0
"""For what changes slowly: memory, temperature, clocks. Reading it costs more than all the rest."""
CLOCK_EVENTS = "clock_event_reasons"
SLOWED_BITS = 0x08 | 0x20 | 0x40 | 0x80
"""NVML's clock event reasons: slowed by hardware, by temperature (twice), by the power brake."""
POWER_CAP_BIT = 0x04
"""NVML's clock event reason: clocks held down to stay within the power limit."""


def derive(raw: Columns) -> dict[str, NDArray[np.float64]]:
    """Samples by column, in order of time, with power and load from what was counted.

    `time_s` is Unix time.
    """
    columns = {name: np.array(values) for name, values in raw.items()}
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


def _advance(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each value exceeds the one before; NaN for the first."""
    return np.diff(values, prepend=np.nan)


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
        power_limits_w={
            match[1]: np.unique(_known(columns[name])).tolist()
            for name in columns
            if (match := re.fullmatch(r"(gpu\d+)_power_limit_w", name))
        },
    )


def _rise_celsius(
    columns: Columns, windows: Sequence[EnergyWindow], share: float
) -> dict[str, float]:
    """By GPU: mean temperature of the last `share` of the windows less that of the first."""
    inside = _inside(columns, windows)
    risen: dict[str, float] = {}
    for name in columns:
        if match := re.fullmatch(r"(gpu\d+)_temperature_celsius", name):
            known = _known(columns[name][inside])
            if len(known) > 1:
                num = max(1, round(share * len(known)))
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
    return power_series(columns, before), power_series(columns, after)


def power_series(columns: Columns, window: EnergyWindow) -> PowerSeries:
    """Mean power of each device over blocks of one window; as many as there are samples for."""
    time_s = columns[TIME]
    first, after = np.searchsorted(time_s, _edges_s(window))
    num_blocks = max(0, min(SERIES_BLOCKS, after - 1 - first))
    edges = np.linspace(first, after - 1, num_blocks + 1).round().astype(int)
    edges_s = time_s[edges] if num_blocks else np.zeros(1)
    parts = [name.removesuffix(ENERGY_SUFFIX) for name in columns if name.endswith(ENERGY_SUFFIX)]
    return PowerSeries(
        block_s=float((edges_s[-1] - edges_s[0]) / num_blocks) if num_blocks else 0.0,
        part_power_w={
            part: (np.diff(columns[part + ENERGY_SUFFIX][edges]) / np.diff(edges_s)).tolist()
            if num_blocks
            else []
            for part in parts
        },
    )


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[~np.isnan(values)]


def _edges_s(window: EnergyWindow) -> tuple[float, float]:
    return window.started_at_s, window.started_at_s + window.duration_s


def _inside(columns: Columns, windows: Sequence[EnergyWindow]) -> NDArray[np.bool_]:
    """Which samples stand for time within the windows."""
    time_s = columns[TIME]
    inside = np.zeros(len(time_s), dtype=bool)
    for window in windows:
        first, after = np.searchsorted(time_s, _edges_s(window))
        # A sample stands for the time since the one before: where a window is shorter than the
        # sampler's period, that is the first sample after it.
        inside[first : max(after, first + 1)] = True
    return inside


def _utilisation(columns: Columns, windows: Sequence[EnergyWindow]) -> dict[str, float]:
    inside = _inside(columns, windows)
    weight_s = np.nan_to_num(_advance(columns[TIME]))
    means: dict[str, float] = {}
    for metric, pattern in UTILISATION.items():
        found = [columns[name] for name in columns if re.fullmatch(pattern, name)]
        known = [(column, inside & ~np.isnan(column) & (weight_s > 0)) for column in found]
        values = np.array(
            [np.average(column[at], weights=weight_s[at]) for column, at in known if at.any()]
        )
        if len(values):
            # Watts of several devices add up; loads, temperatures and clocks are averaged.
            means[metric] = float(values.sum() if metric.endswith("_w") else values.mean())
    return means
