"""Accuracy against energy, and from how many inferences on a costlier training pays."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from multirun_analysis import pareto, style
from multirun_analysis.figures import parts

LABELS = {
    "training": "energy of training",
    "inference": "energy per inference",
    "combined": "energy of training and inferences",
}
TRAIN_AND_INFER = "python -m greenlab -m 'model=glob(*)' phase=train,inference"
MAX_LINES = 8
"""Models told apart by colour; the others are grey."""
BREAK_EVEN = "break-even, with its 95 % interval"
OTHERS = "dominated, or further models"
_DECADES_BESIDE = 1.5
"""Of the number of inferences, to either side of those where something crosses."""
_NUM_POINTS = 200


def front(cells: pd.DataFrame, axis: str) -> Figure:
    """Accuracy against the energy of an axis ('training', 'inference', 'combined') of AXES.

    A panel per series. Dominated models are hollow; steps join the models that no other beats in
    both by its value alone.

    Raises:
        NothingToShow: no series has two models with accuracy and energy.
    """
    energy, _ = pareto.AXES[axis]
    known = _known(pareto.pareto_table(cells), ["accuracy", energy])
    if known.empty:
        raise parts.nothing(
            "Accuracy against energy needs two models or more, trained"
            f"{'' if axis == 'training' else ' and used for inference'}.",
            TRAIN_AND_INFER,
        )
    groups = list(known.groupby("series", sort=False))
    drawn, panels = style.figure(len(groups), height_in=0.5 + 3.6 * len(groups))
    looks = style.looks([str(series) for series, _ in groups])
    names = []
    for panel, (series, group) in zip(panels, groups, strict=True):
        scale = style.scale(group[energy], "J")
        names.append(_draw_front(panel, group, axis, scale, looks[str(series)].colour))
        panel.set_title(parts.batch_label(cells, str(series)), loc="left")
        panel.set_xlabel(f"{_axis_name(group, axis)} ({scale.unit})")
        panel.set_ylabel("accuracy (%)")
    _legend(drawn)
    style.mark_modelled(drawn, cells)
    parts.name_points(drawn, names)
    for panel in panels:
        for name in panel.texts:  # read over error bars and steps
            name.set_zorder(5)
            name.set_path_effects([withStroke(linewidth=2, foreground="white")])
    return drawn


def _known(table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Rows with all these columns, of series that have two or more of them."""
    known = table.dropna(subset=columns)
    return known[known.groupby("series")["model"].transform("size") > 1]


def _axis_name(table: pd.DataFrame, axis: str) -> str:
    how = str(table["energy"].iloc[0])
    if axis != "combined":
        return f"{LABELS[axis]}, {how}"
    num = float(table["num_inferences"].iloc[0])
    return f"energy of training and {num:,.0f} inferences, {how}"


def _draw_front(
    panel: Axes, table: pd.DataFrame, axis: str, scale: style.Scale, colour: str
) -> parts.Names:
    energy, energy_u95 = pareto.AXES[axis]
    x = table[energy].to_numpy(float) * scale.factor
    y, y_u95 = (100 * table[name].to_numpy(float) for name in ("accuracy", "accuracy_u95"))
    beaten = (table[f"by_{axis}"] != "").to_numpy()
    if x.min() > 0:
        panel.set_xscale("log")
    panel.errorbar(
        x,
        y,
        xerr=np.nan_to_num(table[energy_u95].to_numpy(float) * scale.factor),
        yerr=np.nan_to_num([np.minimum(y_u95, y), np.minimum(y_u95, 100 - y)]),
        fmt="none",
        ecolor="#999999",
        elinewidth=0.8,
    )
    for chosen, face in ((~beaten, colour), (beaten, "white")):
        panel.plot(x[chosen], y[chosen], "o", color=colour, markerfacecolor=face, zorder=3)
    best = _best_by_value(x, y)
    panel.step(x[best], y[best], where="post", color=colour, linewidth=1.0, alpha=0.6)
    return parts.Names(axes=panel, x=x, y=y, texts=table["model"].tolist())


def _best_by_value(x: parts.Floats, y: parts.Floats) -> list[int]:
    """Places of those than which no cheaper one is as accurate, in order of energy."""
    best: list[int] = []
    for place in np.lexsort((-y, x)):
        if not best or y[place] > y[best[-1]]:
            best.append(int(place))
    return best


def _legend(drawn: Figure) -> None:
    handles = [
        Line2D([], [], color=style.DARK, marker="o", markerfacecolor=face, label=said)
        for face, said in ((style.DARK, "not dominated"), ("white", "dominated beyond uncertainty"))
    ]
    for handle in handles:
        handle.set_linestyle("none")
    step = Line2D([], [], color=style.DARK, alpha=0.6, linewidth=1.0, label="front by value alone")
    handles.append(step)
    parts.legend_above(drawn, handles)


def break_even(cells: pd.DataFrame) -> Figure:
    """Total energy against the number of inferences; a mark, with its interval, where two cross.

    In colour, the models that no other dominates over training and inference together, the most
    accurate first; the others are grey. Models whose energy is not above 0 are left out and named:
    their runs were too short to tell it from idle.

    Raises:
        NothingToShow: no series has two models that were trained and used for inference.
    """
    table = pareto.pareto_table(cells).dropna(subset=["training_j", "inference_per_sample_j"])
    positive = (table["training_j"] > 0) & (table["inference_per_sample_j"] > 0)
    known = _known(table[positive], [])
    if known.empty:
        raise parts.nothing(
            "Break-even needs two models or more that were trained and used for inference.",
            TRAIN_AND_INFER,
        )
    groups = list(known.groupby("series", sort=False))
    drawn, panels = style.figure(len(groups), height_in=0.4 + 4.0 * len(groups))
    keys: dict[str, Line2D] = {}
    for panel, (series, group) in zip(panels, groups, strict=True):
        keys |= _draw_break_even(panel, group)
        title = parts.batch_label(cells, str(series))
        outside = table.loc[~positive & (table["series"] == series), "model"]
        if len(outside):
            title += parts.wrapped(f"; left out, energy not above 0: {', '.join(outside)}", 100)
        panel.set_title(title, loc="left")
    if keys:
        parts.legend_above(drawn, list(keys.values()))
    style.mark_modelled(drawn, cells)
    return drawn


def _draw_break_even(panel: Axes, table: pd.DataFrame) -> dict[str, Line2D]:
    """Draw a series; what is to be explained of it, by its label."""
    own = table[table["by_combined"] == ""].sort_values("accuracy", ascending=False)[:MAX_LINES]
    crossings = pd.DataFrame(columns=["num_inferences"])
    if len(own) > 1:
        crossings = pareto.break_even_table(own).dropna(subset=["num_inferences"])
    num = _numbers(table, crossings)
    costs = {str(row["model"]): pareto.cost_of(row) for _, row in table.iterrows()}
    totals = np.array([costs[model].training_j + num * costs[model].inference_j for model in costs])
    scale = style.scale(totals.ravel(), "J")
    colours = dict(zip(own["model"], style.COLOURS, strict=False))
    in_order = sorted(zip(costs, totals, strict=True), key=lambda named: -named[1][-1])
    for model, total_j in in_order:  # the legend from top to bottom as the lines end
        chosen = model in colours
        panel.plot(
            num,
            total_j * scale.factor,
            color=colours.get(model, "#CCCCCC"),
            linewidth=1.4 if chosen else 0.8,
            zorder=2 if chosen else 1,
            label=_named(table, model) if chosen else None,
        )
    _draw_crossings(panel, crossings, costs, scale)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlim(num[0], num[-1])
    share = float(table["num_inferences"].iloc[0])
    if num[0] < share < num[-1]:
        panel.axvline(share, color=style.GREY, linestyle=":", linewidth=1.0)
        panel.annotate(
            " inference :\n training =\n 70 : 20",
            (share, 0.02),
            xycoords=("data", "axes fraction"),
            fontsize=7,
            color="#555555",
            va="bottom",
        )
    panel.set_xlabel("number of inferences")
    panel.set_ylabel(f"energy of training and inferences ({scale.unit})")
    panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), title="not dominated")
    keys = []
    if len(crossings):
        keys.append(Line2D([], [], color=style.DARK, marker="o", linewidth=0.9, label=BREAK_EVEN))
        keys[0].set_markerfacecolor("white")
    if len(own) < len(table):
        keys.append(Line2D([], [], color="#CCCCCC", linewidth=0.8, label=OTHERS))
    return {str(key.get_label()): key for key in keys}


def _draw_crossings(
    panel: Axes, crossings: pd.DataFrame, costs: dict[str, pareto.Cost], scale: style.Scale
) -> None:
    for _, crossing in crossings.iterrows():
        at = float(crossing["num_inferences"])
        height = costs[str(crossing["model"])].after(at) * scale.factor
        ends = [float(crossing["low"]), float(crossing["high"])]
        if all(map(math.isfinite, [ends[0]])):
            right = ends[1] if math.isfinite(ends[1]) else at * 1e9  # open: to the panel's edge
            panel.plot([max(ends[0], 1e-9), right], [height] * 2, color=style.DARK, linewidth=0.9)
        panel.plot([at], [height], "o", color=style.DARK, markerfacecolor="white", zorder=4)


def _named(table: pd.DataFrame, model: str) -> str:
    accuracy = float(table.loc[table["model"] == model, "accuracy"].iloc[0])
    return model if math.isnan(accuracy) else f"{model}, {100 * accuracy:.1f} %"


def _numbers(table: pd.DataFrame, crossings: pd.DataFrame) -> parts.Floats:
    """Numbers of inferences around all that cross, and around the paper's share."""
    marked = [float(number) for number in crossings["num_inferences"]]
    marked.append(float(table["num_inferences"].iloc[0]))
    known = np.log10([number for number in marked if math.isfinite(number) and number > 0] or [1e5])
    return np.logspace(known.min() - _DECADES_BESIDE, known.max() + _DECADES_BESIDE, _NUM_POINTS)
