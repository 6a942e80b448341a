"""Profiles held against the full runs that they speak of: errors, intervals, and how short will do.

Frames of pairs are those of `hits`: one row per pair and length of its profile.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from multirun_analysis import hits, style
from multirun_analysis.figures import parts

PROMISED = 0.95
"""Share of truths that a 95 % interval is to hold."""
GOAL_PERCENT = 5.0
"""Mean absolute error that greenlab sets itself as a goal."""


def lengths(pairs: pd.DataFrame) -> pd.DataFrame:
    """Scores had the profiles had 1, 2, 3 … stretches of a kind, by series and phase.

    Raises:
        NothingToShow: there is no pair.
    """
    hits.refuse_empty(pairs)
    tables = [hits.scores_by_length(own) for _, own in pairs.groupby("phase", sort=False)]
    phases = pairs["phase"].drop_duplicates()
    return pd.concat(
        [table.assign(phase=phase) for table, phase in zip(tables, phases, strict=True)],
        ignore_index=True,
    )


def draw_lengths(pairs: pd.DataFrame) -> Figure:
    """Mean absolute error and coverage against the length of the profiles; net energy, and time.

    Raises:
        NothingToShow: as `lengths`.
    """
    shown = lengths(pairs)
    quantities = [name for name in ("net", "time") if name in set(shown["quantity"])]
    figure, panels = style.figure(2, len(quantities), height_in=4.6, sharex=True, sharey="row")
    looks = style.looks(shown["series"])
    for column, name in enumerate(quantities):
        upper, lower = panels[column], panels[len(quantities) + column]
        of_quantity = shown[shown["quantity"] == name]
        for (series, phase), own in of_quantity.groupby(["series", "phase"], sort=False):
            _curves(upper, lower, own, looks[str(series)], str(phase))
        upper.set_title(hits.WORDS[name])
        upper.axhline(GOAL_PERCENT, color=style.DARK, linestyle="--", linewidth=0.9)
        lower.axhline(PROMISED, color=style.DARK, linestyle="--", linewidth=0.9)
        lower.set_xlabel("stretches of that kind profiled, in all (s)")
    _, most = panels[0].get_ylim()
    panels[0].set_ylim(0, max(most, 1.2 * GOAL_PERCENT))
    panels[len(quantities)].set_ylim(0, 1.05)
    panels[0].set_ylabel("mean absolute error (%)")
    panels[len(quantities)].set_ylabel("truths inside the\n95 % interval (0–1)")
    parts.legend_of_series(figure, pairs, *parts.phase_handles(pairs))
    style.mark_modelled(figure, pairs, "times are measured")
    return figure


def _curves(upper: Axes, lower: Axes, own: pd.DataFrame, look: style.Look, phase: str) -> None:
    is_train = phase == "train"
    drawn: dict[str, Any] = {
        "color": look.colour,
        "marker": look.marker,
        "markerfacecolor": look.colour if is_train else "white",
        "linestyle": "-" if is_train else "--",
    }
    upper.plot(own["profile_s"], own["mean_abs_error_percent"], **drawn)
    inside = own["inside_fraction"]
    below, above = inside - own["inside_low_fraction"], own["inside_high_fraction"] - inside
    lower.errorbar(own["profile_s"], inside, yerr=np.array([below, above]), **drawn)


def draw_pairs(pairs: pd.DataFrame, quantity: str = "net") -> Figure:
    """Left: predicted against true; right: predicted over true, with the interval; one by one.

    Raises:
        NothingToShow: there is no pair, or none in which `quantity` was metered.
    """
    hits.refuse_empty(pairs)
    once, unit = hits.whole(pairs), hits.QUANTITIES[quantity]
    told = {name: once[f"{quantity}_{name}_{unit}"].astype(float) for name in hits.TOLD}
    once = once.assign(**told, inside=once[f"{quantity}_is_inside"] == 1)
    once = once[(once["true"] > 0) & (once["predicted"] > 0)]
    if once.empty:
        raise parts.nothing(
            f"No pair has {hits.WORDS[quantity]} above zero: profiles and full runs need energy "
            "that is metered, or modelled.",
            hits.EXAMPLE,
        )
    scale = style.scale(once["true"], unit.upper() if unit == "j" else unit)
    once[list(hits.TOLD)] *= scale.factor
    figure, (left, right) = style.figure(1, 2, height_in=3.6, width_ratios=[1, 1.4])
    for series, look in style.looks(once["series"]).items():
        for phase, own in once[once["series"] == series].groupby("phase", sort=False):
            fill = look.colour if phase == "train" else "white"
            _against_truth(left, own, look, fill)
            _over_truth(right, own, look, fill)
    _diagonal(left, once[["true", "predicted"]].to_numpy())
    right.axhline(1, color=style.DARK, linestyle="--", linewidth=0.9)
    right.set_xscale("log")
    for axis in (left.xaxis, left.yaxis, right.xaxis):
        style.plain_log(axis)
    for axes in (left, right):
        axes.set_xlabel(f"{hits.WORDS[quantity]} of the full run ({scale.unit})")
    left.set_ylabel(f"predicted {hits.WORDS[quantity]} ({scale.unit})")
    right.set_ylabel("predicted / true (95 % interval)")
    misses = Line2D([], [], color=style.WARNING, lw=1.2, label="interval misses the truth")
    parts.legend_of_series(figure, once, *parts.phase_handles(once), misses)
    style.mark_modelled(figure, once, "times are measured" if quantity == "time" else "")
    return figure


def _against_truth(axes: Axes, own: pd.DataFrame, look: style.Look, fill: str) -> None:
    axes.plot(
        own["true"],
        own["predicted"],
        color=look.colour,
        marker=look.marker,
        markerfacecolor=fill,
        linestyle="none",
    )


def _over_truth(axes: Axes, own: pd.DataFrame, look: style.Look, fill: str) -> None:
    """Each prediction and its interval, in vermilion where that misses the truth."""
    true, colours = own["true"], list(np.where(own["inside"], look.colour, style.WARNING))
    axes.vlines(true, own["low"] / true, own["high"] / true, colors=colours, linewidth=1.0)
    axes.scatter(
        true,
        own["predicted"] / true,
        s=18,
        facecolors=fill,
        edgecolors=colours,
        marker=look.marker,
        zorder=3,
    )


def _diagonal(axes: Axes, values: parts.Floats) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    ends = [0.8 * float(values.min()), 1.25 * float(values.max())]
    axes.plot(ends, ends, color=style.DARK, linestyle="--", linewidth=0.9, zorder=1)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
