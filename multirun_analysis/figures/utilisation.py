"""Mean power against utilisation, markers as large as the GPU memory used (the paper's Fig. 4).

Without a GPU it is the CPU's power. Modelled by TDP × utilisation that is a straight line by
construction and says nothing about the machine; the figure says so.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from multirun_analysis import runs, statistics, style
from multirun_analysis.figures import parts

MEMORY = "utilisation/gpu_memory_used_bytes"
SIGNIFICANT = 0.05
MIN_AREA_PT2, MAX_AREA_PT2 = 12.0, 160.0
ROOM_FOR_NOTE = 0.2
"""Above the points, as a share of the axis."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The models of one series in one phase, by the component that was metered."""

    series: str
    phase: str
    component: str
    points: pd.DataFrame
    """Index model; columns percent, w, w_low, w_high, memory_bytes."""
    is_modelled: bool


def groups(cells: pd.DataFrame) -> list[Group]:
    """Per series and phase the GPU's points, or where there is none the CPU's.

    Raises:
        NothingToShow: no cell has both a component's mean power and its utilisation.
    """
    chosen = parts.choose(cells)
    found = []
    for series in chosen["series"].unique() if len(chosen) else ():
        own = chosen[chosen["series"] == series]
        component = "gpu" if _has(own, "gpu") else "cpu"
        for phase in style.phase_order(own) if _has(own, component) else ():
            points = _points(own, series, phase, component)
            modelled = own["modelled"].fillna("").astype(str).str.contains(component).any()
            if len(points):
                found.append(
                    Group(
                        series=series,
                        phase=phase,
                        component=component,
                        points=points,
                        is_modelled=bool(modelled),
                    )
                )
    if not found:
        raise parts.nothing(
            "Power against utilisation needs cells whose GPU or CPU power was metered."
        )
    return found


def _has(cells: pd.DataFrame, component: str) -> bool:
    power_w = runs.column(cells, f"power/mean_{component}_w")
    percent = runs.column(cells, f"utilisation/{component}_percent")
    return bool((power_w.notna() & percent.notna()).any())


def _points(own: pd.DataFrame, series: str, phase: str, component: str) -> pd.DataFrame:
    order = style.model_order(own)
    power = parts.by_model(own, f"power/mean_{component}_w", series, phase, order)
    percent = parts.by_model(own, f"utilisation/{component}_percent", series, phase, order)
    memory = parts.by_model(own, MEMORY, series, phase, order)
    found = pd.DataFrame(
        {
            "percent": percent["value"],
            "w": power["value"],
            "w_low": power["low"],
            "w_high": power["high"],
            "memory_bytes": memory["value"],
        }
    )
    return found[found[["percent", "w"]].notna().all(axis=1)]


def correlations(cells: pd.DataFrame) -> pd.DataFrame:
    """Per series and phase: Spearman's ρ of power and utilisation, and where the line bends.

    A model's power is a straight line by construction: no bend is looked for in it.

    Raises:
        NothingToShow: as `groups`.
    """
    rows = []
    for group in groups(cells):
        percent, power_w = group.points["percent"].to_numpy(), group.points["w"].to_numpy()
        rho = statistics.spearman(percent, power_w)
        nothing = np.empty(0)
        bend = statistics.bend(*((nothing, nothing) if group.is_modelled else (percent, power_w)))
        rows.append(
            {
                "series": group.series,
                "phase": group.phase,
                "component": group.component,
                "is_modelled": group.is_modelled,
                "num_models": rho.num,
            }
            | parts.columns_of("spearman_rho", rho)
            | parts.columns_of("bend_at_percent", bend.at)
            | {
                "slope_below_w_per_percent": bend.slope_below.value,
                "slope_above_w_per_percent": bend.slope_above.value,
                "bend_p_value": bend.p_value,
            }
        )
    return pd.DataFrame(rows)


def draw(cells: pd.DataFrame) -> Figure:
    """A panel per series and phase; a bend is drawn where it beats a straight line (p < 0.05).

    Raises:
        NothingToShow: as `groups`.
    """
    found = groups(cells)
    chosen = parts.choose(cells)
    phases = style.phase_order(pd.DataFrame({"phase": [group.phase for group in found]}))
    series = list(dict.fromkeys(group.series for group in found))
    figure, panels = style.figure(
        len(series), len(phases), height_in=0.5 + 2.9 * len(series), sharex="row", sharey="row"
    )
    most_bytes = max(float(group.points["memory_bytes"].max()) for group in found)
    looks, names = style.looks(series), []
    models = {model for group in found for model in group.points.index}
    numbers = parts.number_models(figure, [m for m in style.model_order(chosen) if m in models])
    drawn = set()
    for group in found:
        at = series.index(group.series) * len(phases) + phases.index(group.phase)
        drawn.add(at)
        axes = panels[at]
        _scatter(axes, group, looks[group.series], most_bytes)
        _describe(axes, group, parts.batch_label(chosen, group.series), at % len(phases) == 0)
        points = group.points
        x, y = points["percent"].to_numpy(), points["w"].to_numpy()
        texts = [numbers[model] for model in points.index]
        names.append(parts.Names(axes=axes, x=x, y=y, texts=texts))
    for at, axes in enumerate(panels):
        axes.set_visible(at in drawn)
        axes.margins(0.08, 0.12)
    for at in {series.index(group.series) * len(phases) for group in found if group.is_modelled}:
        low_w, high_w = panels[at].get_ylim()  # that of all panels of the row
        panels[at].set_ylim(low_w, high_w + ROOM_FOR_NOTE * (high_w - low_w))
    if most_bytes > 0:
        parts.legend_above(figure, _sizes(most_bytes))
    style.mark_modelled(figure, chosen)
    parts.name_points(figure, names)
    return figure


def _scatter(axes: Axes, group: Group, look: style.Look, most_bytes: float) -> None:
    points = group.points
    lengths = np.array([points["w"] - points["w_low"], points["w_high"] - points["w"]])
    axes.errorbar(
        points["percent"], points["w"], yerr=lengths, linestyle="none", color=look.colour, alpha=0.6
    )
    areas = _area_pt2(points["memory_bytes"].to_numpy(float), most_bytes)
    axes.scatter(
        points["percent"], points["w"], s=areas, color=look.colour, marker=look.marker,
        alpha=0.75, edgecolor="white", linewidth=0.5, label=group.series, zorder=3,
    )  # fmt: skip
    bend = statistics.bend(points["percent"].to_numpy(), points["w"].to_numpy())
    if bend.p_value < SIGNIFICANT and not group.is_modelled:
        _draw_bend(axes, points, bend)


def _area_pt2(memory_bytes: parts.Floats, most_bytes: float) -> parts.Floats:
    """Area in proportion to memory; models whose memory is not known have the least area."""
    share = np.nan_to_num(memory_bytes / most_bytes) if most_bytes > 0 else 0.15 + 0 * memory_bytes
    return np.asarray(np.fmax(MAX_AREA_PT2 * np.nan_to_num(share, nan=0.15), MIN_AREA_PT2))


def _draw_bend(axes: Axes, points: pd.DataFrame, bend: statistics.Bend) -> None:
    x, y = points["percent"].to_numpy(), points["w"].to_numpy()
    below, change = bend.slope_below.value, bend.slope_above.value - bend.slope_below.value

    def rise(percent: parts.Floats) -> parts.Floats:
        return below * percent + change * np.maximum(percent - bend.at.value, 0.0)

    corners = np.array([x.min(), bend.at.value, x.max()])
    level = float(np.mean(y - rise(x)))
    axes.plot(corners, level + rise(corners), color=style.DARK, linewidth=1, label="bend")
    axes.axvspan(bend.at.low, bend.at.high, color=style.GREY, alpha=0.15, linewidth=0)
    where = f"bends at {bend.at.value:.0f} % [{bend.at.low:.0f}, {bend.at.high:.0f}]"
    axes.text(0.98, 0.03, where, transform=axes.transAxes, ha="right", fontsize=7.5)


def _describe(axes: Axes, group: Group, label: str, is_first: bool) -> None:
    points = group.points
    rho = statistics.spearman(points["percent"].to_numpy(), points["w"].to_numpy())
    num = f"{rho.num} model" + ("s" if rho.num != 1 else "")
    title = f"{style.phase_name(group.phase)}: {parts.told('ρ', rho)}, {num}"
    axes.set_title(f"{parts.wrapped(label, 60)}\n{title}" if is_first else title, loc="left")
    axes.set_xlabel(style.label(f"utilisation/{group.component}_percent"))
    if is_first:
        axes.set_ylabel(style.label(f"power/mean_{group.component}_w"))
    if group.is_modelled:
        axes.text(
            0.02, 0.97,
            "modelled as TDP × utilisation:\nit follows by construction, sampling apart",
            transform=axes.transAxes, va="top", fontsize=7.5, color=style.WARNING,
        )  # fmt: skip


def _sizes(most_bytes: float) -> list[Line2D]:
    scale = style.scale([most_bytes], "B")
    handles = []
    for share in (0.25, 0.5, 1.0):
        area = float(_area_pt2(np.array([share * most_bytes]), most_bytes)[0])
        text = f"{share * most_bytes * scale.factor:.2g} {scale.unit} GPU memory"
        handles.append(
            Line2D(
                [],
                [],
                color=style.GREY,
                marker="o",
                markersize=area**0.5,
                linestyle="none",
                label=text,
            )
        )
    return handles
