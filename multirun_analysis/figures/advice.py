"""Energy and time against batch size or power limit, with what is advised and its equals."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from multirun_analysis import style
from multirun_analysis.advice import advise
from multirun_analysis.choices import AS_FOUND, BATCH_SIZE, POWER_LIMIT
from multirun_analysis.figures import parts
from multirun_analysis.selection import Level, interval
from multirun_analysis.verdicts import Advice, Judged

COLUMNS = 3
MOST_PANELS = 30
LABELS = {BATCH_SIZE: "batch size", POWER_LIMIT: "power limit (W)"}
COMMANDS = {
    BATCH_SIZE: "python -m greenlab -m batch_size=32,64,128,256 repetitions=3",
    POWER_LIMIT: "python -m greenlab -m hardware.power_limit_w=150,200,250,300 repetitions=3",
}
COST, TIME = style.COLOURS[0], style.COLOURS[5]
LOG_FROM = 5.0
"""A span beyond which an axis is logarithmic."""
BEYOND = 1.35
"""Place of the limit that was left alone, times the highest that was set."""


def draw(cells: pd.DataFrame, factor: str) -> Figure:
    """A panel per choice of this factor: both as multiples of the least, and what is advised.

    Bars are 95 % intervals of each point by itself.

    Raises:
        NothingToShow: the factor was not swept.
    """
    advised = advise(cells)
    found = [one for one in advised.judged if one.choice.factor == factor][:MOST_PANELS]
    if not found:
        raise parts.nothing(
            f"A {LABELS[factor].partition(' (')[0]} is advised where cells differ in it alone.",
            COMMANDS[factor],
        )
    advice = {(one.kind, one.about): one for one in advised.advice}
    columns = min(COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    figure, panels = style.figure(rows, columns, height_in=1.1 + 2.1 * rows)
    for axes, judged in zip(panels, found, strict=False):
        _panel(axes, judged, advice.get((judged.kind, judged.about)), rows * columns > 1)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supylabel("per sample, as a multiple of the least", fontsize=8.5)
    _legend(figure, found)
    if any(one.choice.cost.is_modelled for one in found):
        style.mark_modelled(figure, cells, "times are measured")
    return figure


def _panel(axes: Axes, judged: Judged, found: Advice | None, is_narrow: bool) -> None:
    choice = judged.choice
    places = _places([one.value for one in choice.options])
    _points(axes, places, [one.cost for one in choice.options], COST, "o")
    if not choice.cost.is_modelled:
        _points(axes, places, [one.time for one in choice.options], TIME, "s")
    if found is not None:
        least = min(one.cost.mean for one in choice.options if one.cost.is_known)
        for at, x in enumerate(places):
            label = choice.label(at)
            if label in found.peers:
                y = math.exp(choice.options[at].cost.mean - least)
                is_best = label == found.best
                axes.plot(
                    [x], [y], "o", markersize=11, markerfacecolor="none", zorder=4,
                    markeredgewidth=1.8 if is_best else 0.9,
                    color=style.DARK if is_best else style.GREY,
                )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(places))
    names = dict(zip(places, [one.name for one in choice.options], strict=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names.get(x, "")))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelrotation=45 if len(places) > 6 else 0)
    axes.set_xlabel(LABELS[choice.factor])
    low, high = axes.get_ylim()
    if high > LOG_FROM * max(low, 0.1):
        axes.set_yscale("log")
        style.plain_log(axes.yaxis)
    said = choice.about if found else f"{choice.about}: no advice"
    axes.set_title(parts.wrapped(said, 40 if is_narrow else 110), loc="left")


def _places(values: list[float]) -> list[float]:
    """Where options stand on a log axis; the limit that was left alone stands last."""
    known = [value for value in values if math.isfinite(value)]
    last = max(known, default=1.0) * BEYOND
    return [value if math.isfinite(value) else last for value in values]


def _points(axes: Axes, places: list[float], levels: list[Level], colour: str, marker: str) -> None:
    means = np.array([one.mean for one in levels])
    if not np.isfinite(means).any():
        return
    least = np.nanmin(means)
    ends = [interval(one) for one in levels]
    y = np.exp(means - least)
    low = np.array([math.exp(one.low - least) for one in ends])
    high = np.array([math.exp(one.high - least) for one in ends])
    axes.errorbar(
        places, y, yerr=[y - low, high - y], color=colour, marker=marker, linewidth=0.8,
        markerfacecolor=colour if marker == "o" else "white",
    )  # fmt: skip


def _legend(figure: Figure, found: list[Judged]) -> None:
    is_modelled = all(one.choice.cost.is_modelled for one in found)
    nouns = dict.fromkeys(one.choice.cost.noun for one in found)
    handles = [Line2D([], [], color=COST, marker="o", label=" or ".join(nouns))]
    if not is_modelled:
        handles.append(
            Line2D([], [], color=TIME, marker="s", markerfacecolor="white", label="time")
        )
    for width, colour, said in (
        (1.8, style.DARK, "advised"),
        (0.9, style.GREY, "within the noise of it"),
    ):
        ring = Line2D([], [], color=colour, marker="o", markerfacecolor="none", label=said)
        ring.set_markersize(10)
        ring.set_markeredgewidth(width)
        ring.set_linestyle("none")
        handles.append(ring)
    if any(option.name == AS_FOUND for one in found for option in one.choice.options):
        handles.append(Line2D([], [], linestyle="none", label=f"{AS_FOUND}: no limit was set"))
    parts.legend_above(figure, handles)
