"""Ratios of one sweep to another, cell by cell and over all of them (a forest plot)."""

import math
import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from multirun_analysis import style
from multirun_analysis.contrast import CellComparison, Comparisons, ratio_text
from multirun_analysis.figures import parts
from multirun_analysis.pairing import is_energy

ROW_IN = 0.19
MARGIN_IN = 1.35
MOST_BEYOND = 4.0  # how far an interval may widen the axis beyond the ratios; arrows tell the rest
DIAMOND = 0.35  # half its height, in rows
VERDICTS = {
    "less": ("#0072B2", "o", "less"),
    "more": ("#D55E00", "s", "more"),
    "no difference found": (style.GREY, "D", "no difference found"),
    "not decidable without repetitions": ("white", "o", "a single run on a side: no test"),
}
"""Colour, marker and name in the legend."""


def forest(comparisons: Comparisons, gate: float | None = None) -> Figure:
    """Each cell's ratio B / A with its 95 % interval, on a log axis; the diamond is all of them.

    Raises:
        NothingToShow: no cell has a ratio.
    """
    cells = [cell for cell in comparisons.cells if not math.isnan(cell.ratio.value)]
    if not cells:
        raise parts.nothing(
            f"No ratio of {comparisons.metric}: it needs cells whose values are above zero."
        )
    told = not math.isnan(comparisons.overall.low)
    rows = len(cells) + 1.5 * told
    figure, (axes,) = style.figure(height_in=MARGIN_IN + ROW_IN * rows)
    for at, cell in enumerate(cells):
        _draw(axes, at, cell)
    _set_scale(axes, cells, comparisons, gate)
    _point_outside(axes, cells)
    names = [cell.pair.label for cell in cells]
    ticks = [float(at) for at in range(len(cells))]
    if told:
        _draw_diamond(axes, comparisons, len(cells) + 0.5)
        names.append("all cells")
        ticks.append(len(cells) + 0.5)
    axes.axvline(1.0, color=style.DARK, linewidth=0.8, zorder=1)
    if gate is not None:
        edge = 1 / gate if comparisons.more_is_better else gate
        axes.axvline(edge, color=style.WARNING, linewidth=1.0, linestyle="--", zorder=1)
        axes.annotate(
            f"gate {gate:g}",
            (edge, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 2),
            textcoords="offset points",
            color=style.WARNING,
            fontsize=8,
        )
    axes.set_yticks(ticks, names)
    axes.set_ylim(rows - 0.25, -0.75)  # the first on top
    axes.grid(visible=False, axis="y")
    name = re.sub(r" \([^()]*\)$", "", style.label(comparisons.metric))  # a ratio has no unit
    axes.set_xlabel(f"{name}: ratio B / A")
    heading = f"A: {comparisons.name_a}\nB: {comparisons.name_b}"
    axes.set_title(heading, loc="left", pad=12 if gate is not None else 6)
    _legend(figure, axes, cells)
    if comparisons.modelled and is_energy(comparisons.metric):
        cells_marked = {"modelled": [comparisons.modelled], "series": [comparisons.series_b]}
        style.mark_modelled(figure, pd.DataFrame(cells_marked))
    return figure


def _draw(axes: Axes, at: int, cell: CellComparison) -> None:
    colour, marker, _ = VERDICTS[cell.verdict]
    ratio = cell.ratio
    edge = style.GREY if colour == "white" else colour
    axes.plot(
        [ratio.low, ratio.high],
        [at, at],
        color=edge,
        linewidth=1.4,
        linestyle="-" if cell.is_repeated else ":",
        solid_capstyle="butt",
        zorder=2,
    )
    axes.plot(
        [ratio.value],
        [at],
        color=colour,
        marker=marker,
        markeredgecolor=edge,
        linestyle="none",
        zorder=3,
    )


def _draw_diamond(axes: Axes, comparisons: Comparisons, at: float) -> None:
    overall = comparisons.overall
    axes.fill(
        [overall.low, overall.value, overall.high, overall.value],
        [at, at - DIAMOND, at, at + DIAMOND],
        color=style.DARK,
        zorder=3,
    )
    axes.annotate(
        ratio_text(overall).partition("= ")[2],
        (overall.high, at),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def _set_scale(
    axes: Axes, cells: list[CellComparison], comparisons: Comparisons, gate: float | None
) -> None:
    """A log axis that holds every ratio, and intervals unless they are far wider than those.

    Its ticks are plain ratios.
    """
    edge = gate or 1.0
    points = [1.0, 1 / edge if comparisons.more_is_better else edge]
    points += [cell.ratio.value for cell in cells]
    ends = [comparisons.overall.low, comparisons.overall.high]
    ends += [end for cell in cells for end in (cell.ratio.low, cell.ratio.high)]
    known = [end for end in ends if math.isfinite(end)]
    low = max(min([*points, *known]), min(points) / MOST_BEYOND)
    high = min(max([*points, *known]), max(points) * MOST_BEYOND)
    room = (high / low) ** 0.06 * 1.005
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    wide = high / low > 8
    locator = LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(8, steps=[1, 2, 5, 10])
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_tick_params(which="minor", length=0)


def _point_outside(axes: Axes, cells: list[CellComparison]) -> None:
    """An arrow where an interval goes on beyond the axis."""
    low, high = axes.get_xlim()
    for at, cell in enumerate(cells):
        for is_beyond, end, marker in (
            (cell.ratio.low < low, low, "<"),
            (cell.ratio.high > high, high, ">"),
        ):
            if is_beyond:
                axes.plot([end], [at], color=style.GREY, marker=marker, clip_on=False, zorder=4)


def _legend(figure: Figure, axes: Axes, cells: list[CellComparison]) -> None:
    present = [name for name in VERDICTS if any(cell.verdict == name for cell in cells)]
    handles = []
    for name in present:
        colour, marker, told = VERDICTS[name]
        edge = style.GREY if colour == "white" else colour
        handles += axes.plot(
            [], [], color=colour, marker=marker, markeredgecolor=edge, linestyle="none", label=told
        )
    if len({cell.is_repeated for cell in cells}) == 2 or not cells[0].is_repeated:
        handles += axes.plot(
            [], [], color=style.GREY, linestyle=":", label="interval without run-to-run scatter"
        )
    parts.legend_above(figure, handles)
