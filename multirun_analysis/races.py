"""Models against each other in accuracy and cost: who is beaten in both, beyond all uncertainty.

PURE: frames in, frozen dataclasses out. What `pareto` shows by intervals of single models is
decided here pair by pair, so that many models do not make a beaten one by chance: that a model is
beaten takes a worse accuracy *and* a higher cost, each significant after the correction for all
comparisons of a sweep.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from pandas import DataFrame

from multirun_analysis import choices, pareto, runs
from multirun_analysis.choices import Cost
from multirun_analysis.selection import (
    SIGNIFICANT,
    Level,
    difference,
    interval,
    level,
    p_above,
    weighed,
)
from multirun_analysis.statistics import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Entrant:
    """A model with what it reaches and what it takes."""

    model: str
    accuracy: Level
    """A fraction."""
    cost: Level
    """Of training and all inferences, in `Cost.unit`."""
    run_ids: tuple[str, ...]
    num_warned: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """The models of one series, each trained the same way."""

    where: str
    batch_size: float
    cost: Cost
    num_inferences: float
    """0: training alone; NaN: no number could be told."""
    entrants: tuple[Entrant, ...]
    without: tuple[str, ...]
    """Models of which accuracy or cost, or how sure they are, is not known."""

    @property
    def job(self) -> str:
        """What the cost is of."""
        if self.num_inferences == 0:
            return "training"
        return f"training and {self.num_inferences:,.0f} inferences"


@dataclass(frozen=True, kw_only=True, slots=True)
class Beaten:
    """A model and one that beats it in both."""

    model: str
    by: str
    accuracy_lost: Estimate
    """A fraction."""
    cost_ratio: Estimate
    """Of the beaten over the other."""


def find(cells: DataFrame, num_inferences: float | None = None) -> list[Race]:
    """A race per series of which two models or more were trained."""
    if cells.empty:
        return []
    found = []
    for _, group in runs.at_one_batch_size(cells).groupby("series", sort=False):
        trained = group[group["phase"] == "train"]
        if trained["model"].nunique() > 1:
            found.append(_race(group, num_inferences))
    return found


def _race(cells: DataFrame, num_inferences: float | None) -> Race:
    known, cost = choices.cost_of(cells)
    parts = {
        (str(model), str(phase)): _per_sample(group, cost)
        for (model, phase), group in known.groupby(["model", "phase"], sort=False)
    }
    trained = known[known["phase"] == "train"]
    means = trained.groupby("model", sort=False)["work/samples"].mean()
    samples = {str(model): float(num) for model, num in means.items()}
    models = list(samples)
    has_inference = any((model, "inference") in parts for model in models)
    if num_inferences is None:
        num_inferences = _at_share(models, parts, samples) if has_inference else 0.0
    entrants, without = [], []
    for model in models:
        shares = [(samples[model], parts[model, "train"])]
        if num_inferences != 0:
            inference = parts.get((model, "inference"))
            if inference is None or math.isnan(num_inferences):
                without.append(model)
                continue
            shares.append((num_inferences, inference))
        own = known[known["model"] == model]
        entrant = Entrant(
            model=model,
            accuracy=choices.accuracy_of(own),
            cost=weighed(shares),
            run_ids=tuple(own["run_id"].astype(str)),
            num_warned=int((own["verdict"] == "WARN").sum()),
        )
        is_known = entrant.accuracy.is_known and entrant.cost.is_known and entrant.cost.mean > 0
        if is_known:
            entrants.append(entrant)
        else:
            without.append(model)
    return Race(
        where=str(cells["series"].iloc[0]),
        batch_size=float(cells["batch_size"].iloc[0]),
        cost=cost,
        num_inferences=num_inferences,
        entrants=tuple(entrants),
        without=tuple(without),
    )


def _per_sample(cells: DataFrame, cost: Cost) -> Level:
    return level(*choices.values_of(cells, cost.column))


def _at_share(
    models: list[str], parts: dict[tuple[str, str], Level], samples: dict[str, float]
) -> float:
    """The paper's share, over the models that were both trained and used."""
    both = [model for model in models if (model, "inference") in parts]
    training = np.array([samples[model] * parts[model, "train"].mean for model in both])
    inference = np.array([parts[model, "inference"].mean for model in both])
    return pareto.inferences_at_share(training, inference)


def pairs(race: Race) -> list[tuple[int, int]]:
    """Places of every two models, in both orders."""
    return list(itertools.permutations(range(len(race.entrants)), 2))


def tests(race: Race) -> list[float]:
    """For each of `pairs`: the p of the first not beating the second in both."""
    found = []
    for one, other in pairs(race):
        a, b = race.entrants[one], race.entrants[other]
        better = p_above(difference(b.accuracy, a.accuracy))
        cheaper = p_above(difference(a.cost, b.cost))
        found.append(max(better, cheaper))
    return found


def beaten(race: Race, p_holm: list[float]) -> list[Beaten]:
    """Every beaten model once, with the cheapest of those that beat it."""
    found: dict[str, Beaten] = {}
    order = sorted(
        zip(pairs(race), p_holm, strict=True), key=lambda each: race.entrants[each[0][0]].cost.mean
    )
    for (one, other), p in order:
        a, b = race.entrants[one], race.entrants[other]
        if p < SIGNIFICANT and b.model not in found:
            told = _beaten(race, a, b)
            if told.accuracy_lost.low > 0 and told.cost_ratio.low > 1:
                found[b.model] = told
    return list(found.values())


def _beaten(race: Race, a: Entrant, b: Entrant) -> Beaten:
    num = len(race.entrants) * (len(race.entrants) - 1) // 2
    lost = interval(difference(b.accuracy, a.accuracy), num)
    extra = interval(difference(a.cost, b.cost), num)
    # As shares of what the cheaper one takes at its mean: it stands for a scale, not for a test.
    value, low, high = (1 + each / a.cost.mean for each in (extra.value, extra.low, extra.high))
    return Beaten(
        model=b.model,
        by=a.model,
        accuracy_lost=lost,
        cost_ratio=Estimate(value=value, low=low, high=high, num=extra.num),
    )


def best_by_value(race: Race) -> set[str]:
    """Models than which no cheaper one is as accurate, by their means alone."""
    best: set[str] = set()
    most = -math.inf
    for entrant in sorted(race.entrants, key=lambda one: (one.cost.mean, -one.accuracy.mean)):
        if entrant.accuracy.mean > most:
            best.add(entrant.model)
            most = entrant.accuracy.mean
    return best
