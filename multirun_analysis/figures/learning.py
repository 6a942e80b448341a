"""Loss, accuracy and energy epoch by epoch, over all models of a series (the paper's Fig. 5).

The shaded range is that from the lowest model to the highest, as the paper says of its own figure;
it is no confidence interval.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from multirun_analysis import runs, style
from multirun_analysis.figures import parts

TRAINING = "python -m greenlab -m 'model=glob(*)' phase=train phase.epochs=10"
PANELS = {
    "loss": "training\nloss",
    "accuracy": "training\naccuracy (0–1)",
    "cumulative_j": "cumulative\nnet energy",
    "j_per_point": "energy per percentage\npoint gained",
}
"""Column of `per_model` → axis label, its unit apart."""
MAX_THIN_LINES = 20


def per_model(epochs: pd.DataFrame) -> pd.DataFrame:
    """Per series, model and epoch: loss, accuracy, cumulative_j, j_per_point; repetitions averaged.

    `j_per_point` is an epoch's net energy over the percentage points of accuracy that it gained;
    NaN in the first epoch and where accuracy did not rise. A series goes as far as all its models.

    Raises:
        NothingToShow: no model was trained for two epochs.
    """
    train = epochs[epochs["phase"] == "train"] if len(epochs) else epochs
    train = runs.at_one_batch_size(train) if len(train) else train
    if train.empty or train.groupby("run_id")["step"].nunique().max() < 2:
        raise parts.nothing("Learning curves need models trained for two epochs or more.", TRAINING)
    wanted = {"loss": "epoch/loss", "accuracy": "epoch/accuracy", "net_j": "epoch/net_j"}
    tidy = train[["series", "model", "batch_size", "step"]].copy()
    for name, metric in wanted.items():
        tidy[name] = runs.column(train, metric)
    by = ["series", "model", "batch_size", "step"]
    mean = tidy.groupby(by, sort=False, dropna=False).mean().reset_index().sort_values(by)
    last = mean.groupby(["series", "model"])["step"].max().groupby("series").min()
    mean = mean[mean["step"] <= mean["series"].map(last)].reset_index(drop=True)
    models = mean.groupby(["series", "model"], sort=False)
    # An epoch whose energy is not known leaves the sum unknown from there on.
    mean["cumulative_j"] = models["net_j"].transform(lambda joules: joules.cumsum(skipna=False))
    gained_points = 100 * models["accuracy"].diff()
    mean["j_per_point"] = mean["net_j"] / gained_points.where(gained_points > 0)
    mean["epoch"] = mean["step"] + 1
    return mean.drop(columns="step")


def table(epochs: pd.DataFrame) -> pd.DataFrame:
    """Per series and epoch: mean, least and most over models, and of how many models.

    Raises:
        NothingToShow: as `per_model`.
    """
    found = per_model(epochs).groupby(["series", "epoch"], sort=False)
    tables = []
    for name in PANELS:
        over = found[name].agg(["mean", "min", "max", "count"])
        tables.append(over.add_prefix(f"{name}_"))
    return pd.concat(tables, axis=1).reset_index()


def draw(epochs: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """Four panels over the epochs; thick: mean over models, shaded: their range, thin: each model.

    `cells` tell what is modelled.

    Raises:
        NothingToShow: as `per_model`.
    """
    models, over = per_model(epochs), table(epochs)
    present = [name for name in PANELS if models[name].notna().any()]
    figure, panels = style.figure(len(present), 1, height_in=0.9 + 1.55 * len(present), sharex=True)
    looks = style.looks(models["series"])
    for axes, name in zip(panels, present, strict=True):
        scale = style.scale(models[name], "J" if "j" in name.split("_") else "")
        for series, look in looks.items():
            own = over[over["series"] == series]
            _curve(axes, own, name, scale, look)
            each = models[models["series"] == series]
            if each["model"].nunique() <= MAX_THIN_LINES:
                _thin(axes, each, name, scale, look)
        axes.set_ylabel(f"{PANELS[name]} ({scale.unit})" if scale.unit else PANELS[name])
    if "j_per_point" in present and _spans_decades(models["j_per_point"]):
        panels[present.index("j_per_point")].set_yscale("log")
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(panels)
    _legend(figure, models, looks)
    style.mark_modelled(figure, cells[cells["series"].isin(models["series"])])
    return figure


def _curve(axes: Axes, own: pd.DataFrame, name: str, scale: style.Scale, look: style.Look) -> None:
    low, high = own[f"{name}_min"] * scale.factor, own[f"{name}_max"] * scale.factor
    axes.fill_between(own["epoch"], low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(
        own["epoch"], own[f"{name}_mean"] * scale.factor, color=look.colour, marker=look.marker,
        linewidth=2, markevery=max(1, len(own) // 12), label=own["series"].iloc[0], zorder=3,
    )  # fmt: skip


def _thin(axes: Axes, each: pd.DataFrame, name: str, scale: style.Scale, look: style.Look) -> None:
    for model, own in each.groupby("model", sort=False):
        axes.plot(
            own["epoch"], own[name] * scale.factor, color=look.colour, linewidth=0.5, alpha=0.55,
            label=f"_{model}",
        )  # fmt: skip


def _spans_decades(values: "pd.Series[float]") -> bool:
    positive = values[values > 0]
    # Net energy may be negative in a single epoch, which a log axis could not show.
    return len(positive) == values.notna().sum() and positive.max() > 30 * positive.min()


def _legend(figure: Figure, models: pd.DataFrame, looks: dict[str, style.Look]) -> None:
    handles: list[Line2D | Patch] = []
    for series, look in looks.items():
        own = models[models["series"] == series]
        num = own["model"].nunique()
        label = parts.wrapped(f"{parts.batch_label(own, series)}, mean of {num} models", 95)
        handles.append(Line2D([], [], color=look.colour, marker=look.marker, lw=2, label=label))
    handles.append(Patch(color=style.GREY, alpha=0.25, label="shaded: lowest to highest model"))
    parts.legend_above(figure, handles)
