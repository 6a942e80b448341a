"""Energy and time per sample against batch size, and the knee of the curve (the paper's Fig. 7)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

from multirun_analysis import runs, statistics, style
from multirun_analysis.figures import parts

ENERGY = "energy/net_per_sample_j"
TIME = "time/per_sample_s"
MIN_SIZES = 3
COMMAND = "python -m greenlab -m model=resnet18 batch_size=8,16,32,64,128,256 phase=train,inference"
COLUMNS = 4
PHASE_STYLES: dict[str, tuple[Any, str]] = {"train": ("-", "full"), "inference": ("--", "none")}
"""Line and marker fill; the user's own phases are dotted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One model in one phase of one series, by batch size."""

    series: str
    model: str
    phase: str
    points: pd.DataFrame
    """Columns batch_size, value, low, high, num."""

    def knee(self) -> statistics.Knee | None:
        """Where a larger batch stops saving energy; None where how sure it is cannot be told."""
        half = ((self.points["high"] - self.points["low"]) / 2).to_numpy()
        found = statistics.knee(self.points["batch_size"], self.points["value"], half)
        return None if math.isnan(found.at.low) else found


def curves(cells: pd.DataFrame, metric: str = ENERGY) -> list[Curve]:
    """Those of three batch sizes or more, models in their order.

    Raises:
        NothingToShow: there is none.
    """
    found = []
    known = runs.without_common_error(cells)
    summary = runs.summarise(known, metric) if len(cells) else pd.DataFrame()
    summary = summary[summary["batch_size"].notna()] if len(summary) else summary
    for model in style.model_order(cells) if len(summary) else ():
        own = summary[summary["model"] == model]
        for (series, phase), points in own.groupby(["series", "phase"], sort=False):
            if points["batch_size"].nunique() >= MIN_SIZES:
                sorted_points = points.sort_values("batch_size", ignore_index=True)
                found.append(
                    Curve(series=str(series), model=model, phase=str(phase), points=sorted_points)
                )
    if not found:
        raise parts.nothing(
            f"A curve over batch sizes needs one model at {MIN_SIZES} batch sizes or more.", COMMAND
        )
    return found


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """Per series, model and phase: floor of energy per sample, knee and optimum, with intervals.

    Raises:
        NothingToShow: as `curves`.
    """
    rows = []
    for curve in curves(cells):
        knee = curve.knee()
        unknown = statistics.Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
        best = curve.points.sort_values("value").iloc[0]
        rows.append(
            {
                "series": curve.series,
                "model": curve.model,
                "phase": curve.phase,
                "num_batch_sizes": len(curve.points),
                "best_batch_size_run": best["batch_size"],
                "best_per_sample_j": best["value"],
            }
            | parts.columns_of("floor_per_sample_j", knee.floor if knee else unknown)
            | parts.columns_of("knee_batch_size", knee.at if knee else unknown)
            | parts.columns_of("optimum_batch_size", (knee and knee.optimum) or unknown)
            | {"knee_is_extrapolated": knee.is_extrapolated if knee else None}
        )
    return pd.DataFrame(rows)


def draw_energy(cells: pd.DataFrame) -> Figure:
    """A panel per model: energy per sample, the fitted curve, the knee and its interval.

    Raises:
        NothingToShow: as `curves`.
    """
    return _draw(cells, ENERGY)


def draw_time(cells: pd.DataFrame) -> Figure:
    """A panel per model: time per sample.

    Raises:
        NothingToShow: as `curves`.
    """
    return _draw(cells, TIME)


def _draw(cells: pd.DataFrame, metric: str) -> Figure:
    found = curves(cells, metric)
    models = list(dict.fromkeys(curve.model for curve in found))
    rows = math.ceil(len(models) / COLUMNS)
    columns = math.ceil(len(models) / rows)
    figure, panels = style.figure(rows, columns, height_in=1.1 + 1.75 * rows, sharex=True)
    scale = style.scale(
        np.concatenate([curve.points["value"] for curve in found]), style.unit_of(metric)
    )
    looks = style.looks(curve.series for curve in found)
    sizes = sorted({size for curve in found for size in curve.points["batch_size"]})
    for axes, model in zip(panels, models, strict=False):
        own = [curve for curve in found if curve.model == model]
        for curve in own:
            knee = curve.knee() if metric == ENERGY else None
            _points(axes, curve, scale, looks[curve.series], joined=knee is None)
            if knee is not None:
                _fit(axes, curve, knee, scale, looks[curve.series])
        _axes(axes, own, sizes)
        axes.set_title(model, loc="left")
    for axes in panels[len(models) :]:
        axes.set_visible(False)
    for axes in panels[max(0, len(models) - columns) : len(models)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("batch size")
    figure.supylabel(style.label(metric, scale), fontsize=8.5)
    _legend(figure, found, looks, with_knee=metric == ENERGY)
    drawn = cells[cells["series"].isin({curve.series for curve in found})]
    style.mark_modelled(figure, drawn, "times are measured" if metric == TIME else "")
    return figure


def _axes(axes: Axes, own: list[Curve], sizes: list[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(sizes)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)
    values = np.concatenate([curve.points["value"] for curve in own])
    if values.min() > 0:
        axes.set_yscale("log")
        style.plain_log(axes.yaxis)
    else:  # a log axis would hide what lies below the idle machine
        axes.axhline(0, color=style.DARK, linewidth=0.8)


def _ticks(sizes: list[float]) -> list[float]:
    """Batch sizes to be written: at most five, powers of two first."""
    powers = [size for size in sizes if math.log2(size).is_integer()]
    shown = powers if len(powers) >= 2 else sizes
    step = math.ceil(len(shown) / 5)
    return shown[::-1][::step]


def _points(
    axes: Axes, curve: Curve, scale: style.Scale, look: style.Look, *, joined: bool
) -> None:
    line, fill = PHASE_STYLES.get(curve.phase, (":", "full"))
    axes.errorbar(
        curve.points["batch_size"],
        curve.points["value"] * scale.factor,
        yerr=parts.error_lengths(curve.points) * scale.factor,
        color=look.colour,
        marker=look.marker,
        markerfacecolor=look.colour if fill == "full" else "white",
        linestyle=line if joined else "none",
        label=f"{curve.series}, {curve.phase}",
    )


def _fit(
    axes: Axes, curve: Curve, knee: statistics.Knee, scale: style.Scale, look: style.Look
) -> None:
    line, _ = PHASE_STYLES.get(curve.phase, (":", "full"))
    sizes = curve.points["batch_size"]
    x = np.geomspace(sizes.min(), sizes.max(), 80)
    axes.plot(
        x, knee.coefficients.at(x) * scale.factor, color=look.colour, linestyle=line, linewidth=1,
        alpha=0.8, label="fit",
    )  # fmt: skip
    if knee.is_extrapolated:
        return  # there is no place for it among the sizes that were run; the table has it
    height = float(knee.coefficients.at(knee.at.value)) * scale.factor
    ends = np.clip([knee.at.low, knee.at.high], sizes.min() / 1.3, sizes.max() * 1.3)
    if np.isfinite(ends).all():
        axes.plot(ends, [height, height], color=style.DARK, linewidth=1.6, label="knee interval")
    axes.plot(
        [knee.at.value], [height], marker="|", markersize=10, color=style.DARK,
        markeredgewidth=1.6, linestyle="none", label="knee",
    )  # fmt: skip


def _legend(
    figure: Figure, found: list[Curve], looks: dict[str, style.Look], *, with_knee: bool
) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            linestyle="none",
            label=parts.wrapped(series, 95),
        )
        for series, look in looks.items()
    ]
    for phase in dict.fromkeys(curve.phase for curve in found):
        line, fill = PHASE_STYLES.get(phase, (":", "full"))
        handles.append(
            Line2D(
                [],
                [],
                color=style.DARK,
                linestyle=line,
                marker="o",
                markerfacecolor=style.DARK if fill == "full" else "white",
                label=style.phase_name(phase),
            )
        )
    if with_knee:
        handles.append(
            Line2D(
                [],
                [],
                color=style.DARK,
                marker="|",
                markersize=9,
                markeredgewidth=1.6,
                lw=1.6,
                label="knee, within 10 % of the least",
            )
        )
    parts.legend_above(figure, handles)
