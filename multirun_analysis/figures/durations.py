"""Time for training and inference over 50,000 samples, and their ratio (the paper's Fig. 2)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from multirun_analysis import runs, statistics, style
from multirun_analysis.figures import parts

NUM_SAMPLES = 50_000
"""The paper's: the training images of CIFAR-10, its test images five times over."""
RULE_OF_THUMB = 3.0
"""Training takes three times as long as inference (paper, Sec. 5.1)."""
LOG_FROM_SPAN = 30.0
"""Beyond such a ratio of slowest to fastest, the fastest cannot be read off a linear axis."""
METRIC = "time/per_sample_s"


def table(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Per series and model: seconds for 50,000 samples in each phase, and their ratio.

    A ratio's interval is there where both durations have one, that is from two repetitions on.

    Raises:
        NothingToShow: no cell of training or inference has a duration.
    """
    chosen = parts.choose(cells, paper)
    chosen = chosen[chosen["phase"].isin(style.PHASES)] if len(chosen) else chosen
    if chosen.empty or runs.column(chosen, METRIC).notna().sum() == 0:
        raise parts.nothing("Durations need finished cells of training and of inference.")
    order = style.model_order(chosen)
    tables = [_of_series(chosen, series, order) for series in chosen["series"].unique()]
    return pd.concat(tables, ignore_index=True)


def _of_series(chosen: pd.DataFrame, series: str, order: list[str]) -> pd.DataFrame:
    found = pd.DataFrame({"series": series, "model": order}, index=order)
    relative = {}
    for phase in style.PHASES:
        summary = parts.by_model(chosen, METRIC, series, phase, order)
        for end, column in (("", "value"), ("low_", "low"), ("high_", "high")):
            found[f"{phase}_{end}s"] = summary[column] * NUM_SAMPLES
        relative[phase] = (summary["high"] - summary["value"]) / summary["value"]
    found["ratio"] = found["train_s"] / found["inference_s"]
    # Both are independent and their relative errors small: in logarithms the squares add up.
    factor = np.exp(np.hypot(relative["train"], relative["inference"]))
    found["ratio_low"], found["ratio_high"] = found["ratio"] / factor, found["ratio"] * factor
    present = found[["train_s", "inference_s"]].notna().any(axis=1)
    return found[present].reset_index(drop=True)


def correlations(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Per series, over models: training against inference duration, and the median ratio.

    Raises:
        NothingToShow: as `table`.
    """
    rows = []
    for series, own in table(cells, paper).groupby("series", sort=False):
        train, inference = own["train_s"].to_numpy(), own["inference_s"].to_numpy()
        r, rho = statistics.pearson(train, inference), statistics.spearman(train, inference)
        ratio = statistics.median(own["ratio"].to_numpy())
        rows.append(
            {"series": series, "num_models": r.num}
            | parts.columns_of("pearson_r", r)
            | parts.columns_of("spearman_rho", rho)
            | parts.columns_of("median_ratio", ratio)
            | {"smallest_ratio": own["ratio"].min(), "largest_ratio": own["ratio"].max()}
        )
    return pd.DataFrame(rows)


def draw(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> Figure:
    """Left: training (filled) and inference (hollow) of each model; right: their ratio.

    Raises:
        NothingToShow: as `table`.
    """
    shown = table(cells, paper)
    chosen = parts.choose(cells, paper)
    models = [name for name in style.model_order(chosen) if name in set(shown["model"])]
    num_series = shown["series"].nunique()
    height_in = 1.5 + len(models) * (0.13 + 0.11 * num_series)
    figure, (left, right) = style.figure(
        1, 2, height_in=height_in, sharey=True, width_ratios=[3, 2]
    )
    looks = style.looks(shown["series"])
    for at, (series, own) in enumerate(shown.groupby("series", sort=False)):
        offset = 0.0 if num_series == 1 else 0.56 * (at / (num_series - 1) - 0.5)
        rows = own["model"].map(models.index).to_numpy() + offset
        _durations(left, own, rows, looks[str(series)])
        _ratios(right, own, rows, looks[str(series)])
    _finish(left, right, shown, models)
    parts.legend_of_series(figure, chosen, *parts.phase_handles(chosen))
    style.mark_modelled(figure, chosen, "times are measured")
    return figure


def _durations(axes: Axes, own: pd.DataFrame, rows: parts.Floats, look: style.Look) -> None:
    axes.hlines(rows, own["inference_s"], own["train_s"], color=look.colour, alpha=0.35, zorder=1)
    for phase in style.PHASES:
        value, low, high = (own[f"{phase}_{end}s"] for end in ("", "low_", "high_"))
        axes.errorbar(
            value,
            rows,
            xerr=np.array([value - low, high - value]),
            color=look.colour,
            marker=look.marker,
            markerfacecolor=look.colour if phase == "train" else "white",
            linestyle="none",
            label=f"{own['series'].iloc[0]}, {style.phase_name(phase)}",
        )


def _ratios(axes: Axes, own: pd.DataFrame, rows: parts.Floats, look: style.Look) -> None:
    lengths = np.array([own["ratio"] - own["ratio_low"], own["ratio_high"] - own["ratio"]])
    axes.errorbar(
        own["ratio"],
        rows,
        xerr=lengths,
        color=look.colour,
        marker=look.marker,
        linestyle="none",
        label=own["series"].iloc[0],
    )


def _finish(left: Axes, right: Axes, shown: pd.DataFrame, models: list[str]) -> None:
    seconds = shown[["train_s", "inference_s"]].to_numpy()
    if np.nanmax(seconds) > LOG_FROM_SPAN * np.nanmin(seconds):
        left.set_xscale("log")
        style.plain_log(left.xaxis)
    else:
        left.set_xlim(left=0)
    for axes in (left, right):
        axes.grid(visible=False, axis="y")
        for row in range(0, len(models), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
    left.set_yticks(range(len(models)), models)
    left.set_ylim(len(models) - 0.4, -0.6)  # the smallest model on top
    left.set_xlabel(f"time for {NUM_SAMPLES:,} samples (s)")
    right.axvline(RULE_OF_THUMB, color=style.DARK, linestyle="--", linewidth=0.9)
    right.annotate(
        "3, the paper's rule", (RULE_OF_THUMB, 1), xycoords=("data", "axes fraction"),
        xytext=(0, 3), textcoords="offset points", ha="center", fontsize=7.5, color=style.DARK,
    )  # fmt: skip
    right.set_xlim(0, max(1.1 * np.nanmax([*shown["ratio"], *shown["ratio_high"], 3.5]), 4.0))
    right.set_xlabel("training time / inference time")
