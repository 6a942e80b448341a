"""What each component draws on average in training and inference (the paper's Fig. 3)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from multirun_analysis import runs, style
from multirun_analysis.figures import parts

COMPONENTS = tuple(style.COMPONENTS)
LIMITS = {"gpu": "power/limit_gpu_w", "cpu": "power/tdp_cpu_w"}
"""What the first component of a bar is held against; a bar begins with the GPU where there is one.
"""


def table(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Per series, model, phase and component: mean and idle power in W, and the limit where known.

    Raises:
        NothingToShow: no cell has the mean power of a component.
    """
    chosen = parts.choose(cells, paper)
    rows = []
    for component in COMPONENTS if len(chosen) else ():
        mean = runs.summarise(chosen, f"power/mean_{component}_w")
        by = ["series", "model", "batch_size", "phase"]
        idle = runs.summarise(chosen, f"power/idle_{component}_w")[[*by, "value"]]
        joined = mean.merge(idle.rename(columns={"value": "idle_w"}), on=by, how="left")
        joined = joined.rename(columns={"value": "mean_w", "low": "low_w", "high": "high_w"})
        metric = LIMITS.get(component, "")
        limit = runs.column(chosen, metric).groupby([chosen[name] for name in by]).median()
        joined = joined.merge(limit.rename("limit_w").reset_index(), on=by, how="left")
        rows.append(joined.assign(component=component))
    found = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    if found.empty:
        raise parts.nothing("Power needs finished cells whose power was metered or modelled.")
    found["idle_share_percent"] = 100 * found["idle_w"] / found["mean_w"]
    return found


def draw(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> Figure:
    """A row of panels per series, a panel per phase; bars stack components, idle is hatched.

    Where a bar's part is hatched over its whole length the component drew no more than idle.

    Raises:
        NothingToShow: as `table`.
    """
    found = table(cells, paper)
    chosen = parts.choose(cells, paper)
    order, phases = style.model_order(chosen), style.phase_order(found)
    of_series = dict(iter(found.groupby("series", sort=False)))
    groups = [(name, of_series[name]) for name in chosen["series"].unique() if name in of_series]
    heights = [0.75 + 0.19 * own["model"].nunique() for _, own in groups]
    figure, panels = style.figure(
        len(groups), len(phases), height_in=0.6 + sum(heights), height_ratios=heights,
        sharex="row", sharey="row",
    )  # fmt: skip
    for row, (series, own) in enumerate(groups):
        models = [name for name in order if name in set(own["model"])]
        label = parts.batch_label(chosen, str(series))
        for column, phase in enumerate(phases):
            axes = panels[row * len(phases) + column]
            _stack(axes, own[own["phase"] == phase], models)
            _whisker(axes, chosen, str(series), phase, models)
            axes.set_title(style.phase_name(phase), loc="left")
            axes.set_xlabel("mean power (W)")
        axes = panels[row * len(phases)]
        axes.set_title(f"{parts.wrapped(label, 55)}\n{style.phase_name(phases[0])}", loc="left")
        axes.set_yticks(range(len(models)), models)
        axes.set_ylim(len(models) - 0.4, -0.6)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    parts.legend_above(figure, _handles(chosen, found))
    style.mark_modelled(figure, chosen)
    return figure


def _stack(axes: Axes, own: pd.DataFrame, models: list[str]) -> None:
    rows = np.arange(len(models))
    left = np.zeros(len(models))
    first = True
    for component in COMPONENTS:
        part = own[own["component"] == component].set_index("model").reindex(models)
        if part["mean_w"].isna().all():
            continue
        mean_w, idle_w = part["mean_w"].to_numpy(float), part["idle_w"].to_numpy(float)
        colour = style.COMPONENTS[component]
        axes.barh(rows, mean_w, 0.72, left=left, color=colour, label=component)
        inside_w = np.minimum(idle_w, mean_w)  # what is beyond would lie on the next component
        axes.barh(
            rows, inside_w, 0.72, left=left, facecolor="none", edgecolor="white", hatch="/////",
            linewidth=0, label=f"{component} idle",
        )  # fmt: skip
        if first:
            _draw_limits(axes, part["limit_w"].dropna().unique(), component)
        left, first = left + np.nan_to_num(mean_w), False


def _draw_limits(axes: Axes, limits_w: parts.Floats, component: str) -> None:
    for limit_w in limits_w:
        axes.axvline(limit_w, color=style.DARK, linestyle="--", linewidth=1.1)
        name = "GPU limit" if component == "gpu" else "CPU TDP"
        axes.annotate(
            f"{name} {limit_w:g} W", (limit_w, 1), xycoords=("data", "axes fraction"),
            xytext=(0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=7,
            color=style.DARK,
        )  # fmt: skip


def _whisker(axes: Axes, chosen: pd.DataFrame, series: str, phase: str, models: list[str]) -> None:
    total = parts.by_model(chosen, "power/mean_w", series, phase, models)
    lengths = parts.error_lengths(total)
    if np.isfinite(lengths).any():
        axes.errorbar(
            total["value"], np.arange(len(models)), xerr=lengths, color=style.DARK, linewidth=1,
            linestyle="none", label="total",
        )  # fmt: skip


def _handles(chosen: pd.DataFrame, found: pd.DataFrame) -> list[Patch | Line2D]:
    by_series = chosen.groupby("series")["modelled"].agg(lambda texts: "+".join(texts.fillna("")))
    handles: list[Patch | Line2D] = []
    for component in COMPONENTS:
        if component in set(found["component"]):
            own = found.loc[found["component"] == component, "series"].unique()
            modelled = [component in by_series[series] for series in own]
            mark = " (~modelled)" if all(modelled) else " (~modelled in part)"
            colour = style.COMPONENTS[component]
            label = component.upper() + (mark if any(modelled) else "")
            handles.append(Patch(facecolor=colour, label=label))
    if found["idle_w"].notna().any():
        hatched = Patch(facecolor="#BBBBBB", edgecolor="white", hatch="/////", linewidth=0)
        hatched.set_label("hatched: idle")
        handles.append(hatched)
    return handles
