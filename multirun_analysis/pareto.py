"""Accuracy against energy: which models are worth running, and from how many inferences on.

PURE: cells in, numbers and words out. Three rules. A model is dominated only when another is better
in accuracy *and* in energy, each by more than the uncertainty of the difference. Accuracy is that
of training cells alone: an inference cell has random weights. And series are never mixed: a model
measured on one machine neither beats nor loses to one measured on another.

Training energy is that of the training as it was run (its epochs, its samples): break-even numbers
hold for that training and no longer one.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multirun_analysis import runs
from multirun_analysis.known_energy import MODELLED, with_known_energy
from multirun_analysis.statistics import Estimate

SHARE_OF_INFERENCE = 70 / 20
"""Inference to training over a model's life: the paper cites it (Sec. 3.1) as the split of compute;
here it is taken for that of energy."""
AXES = {
    "training": ("training_j", "training_u95_j"),
    "inference": ("inference_per_sample_j", "inference_u95_per_sample_j"),
    "combined": ("combined_j", "combined_u95_j"),
}
"""What accuracy is held against, and the columns of `pareto_table` that say it."""
_NUM_DRAWS = 20_000
_NEEDS_TWO = (
    "Break-even needs two models or more that were trained and used for inference. For example: "
    "python -m greenlab -m 'model=glob(*)' phase=train,inference"
)
_NORMAL_95 = 1.959964
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Front:
    """Who is beaten in both respects beyond uncertainty, and by whom."""

    dominated: NDArray[np.bool_]
    by: tuple[tuple[int, ...], ...]
    """Places of the models that dominate each one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a model takes: once to be trained, and for each inference."""

    training_j: float
    training_u95_j: float
    inference_j: float
    inference_u95_j: float

    def after(self, num_inferences: float) -> float:
        """Joules of training and so many inferences together."""
        return self.training_j + num_inferences * self.inference_j


def front(accuracy: Values, accuracy_u95: Values, energy: Values, energy_u95: Values) -> Front:
    """Find the dominated; what has no known uncertainty neither dominates nor is dominated."""
    more_accurate = _gap(accuracy) > _joint(accuracy_u95)
    cheaper = -_gap(energy) > _joint(energy_u95)
    beats = more_accurate & cheaper  # [one that beats, one that is beaten]
    return Front(
        dominated=np.asarray(beats.any(axis=0)),
        by=tuple(tuple(int(place) for place in np.flatnonzero(column)) for column in beats.T),
    )


def _gap(values: Values) -> Values:
    values = np.asarray(values, float)
    return np.asarray(values[:, None] - values[None, :])


def _joint(u95: Values) -> Values:
    u95 = np.asarray(u95, float)
    return np.asarray(np.hypot(u95[:, None], u95[None, :]))


def break_even(a: Cost, b: Cost, *, seed: int = 0) -> Estimate | None:
    """Find how many inferences make the costlier training with the cheaper inference pay.

    The order of `a` and `b` does not matter. Draws in which it never pays are an infinite number,
    draws in which it trains no costlier are none at all: an interval may be open (Fieller 1954).
    None where one of the two is cheaper in both; NaN bounds where an uncertainty is unknown.
    """
    slow, quick = (a, b) if a.training_j >= b.training_j else (b, a)
    extra_j, saved_j = slow.training_j - quick.training_j, quick.inference_j - slow.inference_j
    if not (extra_j > 0 and saved_j > 0):
        return None
    extra_u95_j = math.hypot(slow.training_u95_j, quick.training_u95_j)
    saved_u95_j = math.hypot(slow.inference_u95_j, quick.inference_u95_j)
    if not math.isfinite(extra_u95_j + saved_u95_j):
        return Estimate(value=extra_j / saved_j, low=math.nan, high=math.nan, num=2)
    draw = np.random.default_rng(seed).standard_normal((2, _NUM_DRAWS)) / _NORMAL_95
    extra, saved = extra_j + extra_u95_j * draw[0], saved_j + saved_u95_j * draw[1]
    pays = saved > 0
    needed = np.where(pays, np.maximum(extra, 0.0) / np.where(pays, saved, 1.0), np.inf)
    # No interpolation: half way to infinity is not a number.
    low, high = np.quantile(needed, [0.025, 0.975], method="inverted_cdf")
    return Estimate(value=extra_j / saved_j, low=float(low), high=float(high), num=2)


def inferences_at_share(
    training_j: Values, inference_j: Values, share: float = SHARE_OF_INFERENCE
) -> float:
    """Count the inferences of each model at which all of theirs take `share` times all training.

    Only models of which both are known and above zero count; NaN where there is none.
    """
    known = (training_j > 0) & (inference_j > 0) & np.isfinite(training_j + inference_j)
    total_j = float(np.sum(inference_j[known]))
    return share * float(np.sum(training_j[known])) / total_j if total_j > 0 else math.nan


def accuracy_u95(accuracy: float, num_samples: float) -> float:
    """Half-width of the 95 % interval of a share of test samples (Wilson 1927), the longer side."""
    if not (math.isfinite(accuracy) and num_samples > 0):
        return math.nan
    z2 = _NORMAL_95**2
    centre = (accuracy + z2 / (2 * num_samples)) / (1 + z2 / num_samples)
    half = (
        _NORMAL_95
        * math.sqrt(accuracy * (1 - accuracy) / num_samples + z2 / (4 * num_samples**2))
        / (1 + z2 / num_samples)
    )
    return abs(centre - accuracy) + half


def pareto_table(cells: pd.DataFrame, num_inferences: float | None = None) -> pd.DataFrame:
    """One row per series and model that was trained: accuracy, energies, and who dominates it.

    Without `num_inferences` each series has the number at the paper's share. Columns `by_training`,
    `by_inference` and `by_combined` name who dominates a model, and are empty for those of the
    front and for those that cannot be placed.

    Raises:
        NothingToShow: nothing was trained.
    """
    chosen = runs.at_one_batch_size(cells)
    tables = [
        _series_table(group, num_inferences)
        for _, group in chosen.groupby("series", sort=False)
        if (group["phase"] == "train").any()
    ]
    if not tables:
        raise runs.NothingToShow(
            "Accuracy against energy needs models that were trained. For example: "
            "python -m greenlab -m 'model=glob(*)' phase=train,inference"
        )
    return pd.concat(tables, ignore_index=True)


def _series_table(cells: pd.DataFrame, num_inferences: float | None) -> pd.DataFrame:
    """The rows of one series at one batch size."""
    cells, energy = with_known_energy(cells)
    per_sample = "net" if energy == MODELLED else "measured"
    joules = f"energy/{per_sample}_per_sample_j"
    is_train = cells["phase"] == "train"
    trained, inferred = cells[is_train], cells[cells["phase"] == "inference"]
    samples = trained.groupby("model")["work/samples"].mean()
    training, inference = _by_model(trained, joules), _by_model(inferred, joules)
    table = pd.DataFrame(index=samples.index.rename("model"))
    table["series"] = cells["series"].iloc[0]
    table["energy"] = energy
    table = table.join(_accuracies(trained))
    table["training_j"] = training["value"] * samples
    table["training_u95_j"] = training["u95"] * samples
    table["inference_per_sample_j"] = inference["value"]
    table["inference_u95_per_sample_j"] = inference["u95"]
    if num_inferences is None:
        num_inferences = inferences_at_share(
            table["training_j"].to_numpy(float), table["inference_per_sample_j"].to_numpy(float)
        )
    table["num_inferences"] = num_inferences
    table["combined_j"] = table["training_j"] + num_inferences * table["inference_per_sample_j"]
    inferences_u95_j = num_inferences * table["inference_u95_per_sample_j"]
    # A model's error is one factor on both, that of its TDP: such errors add up, and do not cancel.
    table["combined_u95_j"] = (
        table["training_u95_j"] + inferences_u95_j
        if energy == MODELLED
        else np.hypot(table["training_u95_j"], inferences_u95_j)
    )
    table = table.reset_index()
    for axis in AXES:
        table[f"by_{axis}"] = _dominators(table, axis)
    return table


def _by_model(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Mean over repetitions and the half-width of its interval, indexed by model."""
    if cells.empty:
        return pd.DataFrame({"value": [], "u95": [], "num": []}, dtype=float)
    summary = runs.summarise(cells, metric, by=("model",)).set_index("model")
    return summary.assign(u95=(summary["high"] - summary["low"]) / 2)


def _accuracies(trained: pd.DataFrame) -> pd.DataFrame:
    """Accuracy with the larger of two uncertainties: over repetitions, and of the test samples.

    Repetitions with one seed agree to the digit, which is no certainty: where the number of test
    samples is not known either, the uncertainty is not.
    """
    summary = _by_model(trained, "task/accuracy")
    samples = runs.column(trained, "task/samples").groupby(trained["model"]).mean()
    by_samples = [
        accuracy_u95(accuracy, samples.get(model, math.nan))
        for model, accuracy in summary["value"].items()
    ]
    scatter = summary["u95"].where(summary["u95"] > 0)
    u95 = np.fmax(scatter.to_numpy(float), np.asarray(by_samples, float))
    return pd.DataFrame({"accuracy": summary["value"], "accuracy_u95": u95})


def _dominators(table: pd.DataFrame, axis: str) -> list[str]:
    energy, energy_u95 = AXES[axis]
    columns = ("accuracy", "accuracy_u95", energy, energy_u95)
    found = front(*(table[column].to_numpy(float) for column in columns))
    return [", ".join(table["model"].iloc[place] for place in places) for places in found.by]


def cost_of(row: pd.Series) -> Cost:
    """What the model in a row of `pareto_table` takes."""
    return Cost(
        training_j=float(row["training_j"]),
        training_u95_j=float(row["training_u95_j"]),
        inference_j=float(row["inference_per_sample_j"]),
        inference_u95_j=float(row["inference_u95_per_sample_j"]),
    )


def break_even_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every two models of a series: from how many inferences on the first pays instead.

    `model` is the one with the costlier training; without a number it never pays.

    Raises:
        NothingToShow: no series has two models that were trained and used for inference.
    """
    rows: list[dict[str, object]] = []
    if table.empty:
        raise runs.NothingToShow(_NEEDS_TWO)
    known = table[(table["training_j"] > 0) & (table["inference_per_sample_j"] > 0)]
    for series, group in known.groupby("series", sort=False):
        in_order = group.sort_values("training_j", ascending=False)
        for (_, slow), (_, quick) in itertools.combinations(in_order.iterrows(), 2):
            found = break_even(cost_of(slow), cost_of(quick))
            value, low, high = (
                (found.value, found.low, found.high) if found else (math.nan, math.nan, math.nan)
            )
            rows.append(
                {
                    "series": series,
                    "model": slow["model"],
                    "instead_of": quick["model"],
                    "num_inferences": value,
                    "low": low,
                    "high": high,
                    "in_words": _in_words(found, cost_of(slow), cost_of(quick)),
                }
            )
    if not rows:
        raise runs.NothingToShow(_NEEDS_TWO)
    return pd.DataFrame(rows)


def _in_words(found: Estimate | None, slow: Cost, quick: Cost) -> str:
    """What a break-even comes to, no surer than the energies are."""
    if found is not None:
        if not math.isfinite(found.low + found.high):
            return "may pay, may never: the energies are not known well enough"
        return "pays"
    extra_j = slow.training_j - quick.training_j
    lost_j = slow.inference_j - quick.inference_j
    is_sure = extra_j > math.hypot(
        slow.training_u95_j, quick.training_u95_j
    ) and lost_j > math.hypot(slow.inference_u95_j, quick.inference_u95_j)
    return (
        "never pays: the other is cheaper in both"
        if is_sure
        else "no saving found; the energies are not known well enough to say never"
    )


def recommend(table: pd.DataFrame, axis: str = "combined") -> str:
    """Name the cheapest model whose accuracy is not below the best's beyond uncertainty.

    One sentence or two for each series of a `pareto_table`.
    """
    return "\n".join(
        f"{series}: {_recommend_one(group, axis)}"
        for series, group in table.groupby("series", sort=False)
    )


def _recommend_one(table: pd.DataFrame, axis: str) -> str:
    energy, energy_u95 = AXES[axis]
    known = table[table["accuracy"].notna() & (table[energy] > 0)]
    if len(known) < 2:
        return (
            "accuracy and energy are known of fewer than two models, so that none can be "
            "recommended over another."
        )
    best = known.iloc[int(known["accuracy"].argmax())]
    margin = np.hypot(known["accuracy_u95"], best["accuracy_u95"])
    as_good = known[(best["accuracy"] - known["accuracy"] <= margin) | (known.index == best.name)]
    choice = as_good.iloc[int(as_good[energy].argmin())]
    said = f"{choice['model']} ({_accuracy(choice)}, {_of(choice, axis)})"
    caveat = " Its energy is ~modelled: TDP × utilisation." if _is_modelled(table) else ""
    if out := table.loc[table[energy] <= 0, "model"].tolist():
        caveat += f" Left out, for their net energy is not above zero: {', '.join(out)}."
    if math.isnan(best["accuracy_u95"]):
        caveat += " How sure accuracy is, these runs do not say; it is taken at its value."
    if choice.name == best.name:
        return (
            f"take {said}: it is the most accurate, and no cheaper one comes within the "
            f"uncertainty of its accuracy.{caveat}"
        )
    saved = 1 - choice[energy] / best[energy]
    gap_j = best[energy] - choice[energy]
    sure = gap_j > math.hypot(best[energy_u95], choice[energy_u95])
    return (
        f"take {said}: it is the cheapest whose accuracy is not below that of the best, "
        f"{best['model']} ({_accuracy(best)}), by more than the uncertainty, and takes "
        f"{100 * saved:.0f} % less energy"
        f"{'' if sure else ', a difference within the uncertainty'}.{caveat}"
    )


def _is_modelled(table: pd.DataFrame) -> bool:
    return bool((table["energy"] == MODELLED).all())


def _accuracy(row: pd.Series) -> str:
    u95_percent = 100 * float(row["accuracy_u95"])
    sure = "" if math.isnan(u95_percent) else f" ± {u95_percent:.1f}"
    return f"accuracy {100 * row['accuracy']:.1f}{sure} %"


def _of(row: pd.Series, axis: str) -> str:
    spent = f"{row[AXES[axis][0]]:.4g} J"
    if axis == "combined":
        return f"{spent} for training and {row['num_inferences']:,.0f} inferences"
    return f"{spent} for training" if axis == "training" else f"{spent} per inference"
