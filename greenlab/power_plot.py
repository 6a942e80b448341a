"""Draws power.png: what every component drew over a cell, and what of it was subtracted as idle."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from greenlab import energy
from greenlab.energy import EnergyWindow
from greenlab.record import Measurement, Record
from greenlab.trace import POWER_SUFFIX, TIME, Columns

COLOURS = {
    "gpu": "#0072B2",
    "cpu": "#E69F00",
    "dram": "#009E73",
}  # Okabe and Ito, colour-blind safe
MAX_POINTS = 1500


def draw_power(path: Path, record: Record, columns: Columns) -> None:
    """Stack the components' power over time, windows shaded, idle power drawn in."""
    build_figure(record, columns).savefig(path, dpi=110)


def build_figure(record: Record, columns: Columns) -> Any:
    """The figure; where a component's power is not known, it and what lies on it have a gap."""
    # Half a second and 40 MB, wanted once the joules are on disk.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    assert record.measurement is not None
    measured = record.measurement
    stack = _power_by_component(measured, columns)
    start_s = measured.idle_before.started_at_s
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if stack:
        time_s, *powers = _thin(columns[TIME] - start_s, *stack.values())
        axes.stackplot(
            time_s,
            *powers,
            labels=[_label(measured, component) for component in stack],
            colors=[COLOURS[component] for component in stack],
            step="pre",
            linewidth=0,
            alpha=0.85,
        )
    _draw_windows(axes, measured, start_s)
    end_s = measured.idle_after.started_at_s + measured.idle_after.duration_s - start_s
    axes.set(xlabel="time (s)", ylabel="power (W)", xlim=(0, end_s), title=_title(record))
    axes.set_ylim(0, 1.18 * axes.get_ylim()[1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    return figure


def _power_by_component(measured: Measurement, columns: Columns) -> dict[str, NDArray[np.float64]]:
    return {
        source.component: np.sum([columns[part + POWER_SUFFIX] for part in source.parts], axis=0)
        for source in measured.sources
        if source.parts
    }


def _thin(*series: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Average neighbours until at most MAX_POINTS are left; NaN where all of them are."""
    every = -(-len(series[0]) // MAX_POINTS)
    kept = len(series[0]) // every * every
    blocks = [values[:kept].reshape(-1, every) for values in series]
    num_known = [np.maximum(1, (~np.isnan(block)).sum(axis=1)) for block in blocks]
    return [
        np.where(np.isnan(block).all(axis=1), np.nan, np.nansum(block, axis=1) / num)
        for block, num in zip(blocks, num_known, strict=True)
    ]


def _label(measured: Measurement, component: str) -> str:
    provenance = next(s.provenance for s in measured.sources if s.component == component)
    return f"{component.upper()} ({provenance.replace(':', ', ')})"


def _draw_windows(axes: Any, measured: Measurement, start_s: float) -> None:
    def shade(window: EnergyWindow, colour: str, label: str) -> None:
        begin_s = window.started_at_s - start_s
        axes.axvspan(
            begin_s,
            begin_s + window.duration_s,
            color=colour,
            alpha=0.22,
            lw=0,
            label=label,
            zorder=0,  # behind the power, whose colours mean something
        )

    for number, window in enumerate(measured.idle_windows):
        shade(window, "#999999", "_" * number + "idle windows")
    for number, one in enumerate(measured.passes):
        shade(one.window, "#CC79A7", "_" * min(number, 1) + "passes (metered)")
    idle_w = energy.total(measured.idle_w)
    if measured.idle_w:
        label = f"idle, {idle_w:.1f} W: subtracted"
        axes.axhline(idle_w, color="black", lw=1.2, ls="--", label=label)


def _title(record: Record) -> str:
    assert record.measurement is not None
    active = record.measurement.active
    gross_j = energy.total(active.energy_j)
    net_j = energy.total(energy.net_energy_j(active, record.measurement.idle_w))
    mark = record.measurement.mark
    joules = f"{mark}{net_j:,.1f} J net of {mark}{gross_j:,.1f} J gross"
    if not active.energy_j:
        joules = "not metered"
    return f"{record.cell.name}: {joules} in {active.duration_s:,.1f} s"
