"""How advice is worded: percentages with their intervals, lists of options, runs."""

import math
from collections.abc import Sequence

from multirun_analysis.races import Beaten, Entrant, Race
from multirun_analysis.selection import interval
from multirun_analysis.statistics import Estimate

MOST_RUNS = 4
ID_DIGITS = 8
"""Enough to find a run in MLflow's list."""


def percents(fraction: float) -> str:
    """`23 %`; one decimal below ten."""
    return f"{_percent(fraction)} %"


def _percent(fraction: float) -> str:
    value = 100 * fraction
    told = f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}"
    return told.replace("-", "−")


def ratio_change(ratio: Estimate, noun: str = "") -> str:
    """`23 % less energy (19 to 27 %)` of a ratio of 0.77."""
    sign, word = (-1, "less") if ratio.value < 1 else (1, "more")
    value, *ends = (sign * (each - 1) for each in (ratio.value, ratio.low, ratio.high))
    told = f"{percents(value)} {word}" + (f" {noun}" if noun else "")
    if math.isnan(ratio.low):
        return f"{told} (how sure, single runs do not say)"
    low, high = sorted(ends)
    return f"{told} ({_percent(low)} to {_percent(high)} %)"


def longer(ratio: Estimate, than: str) -> str:
    """`takes 3.1 % more time (1.0 to 5.2 %) than 256`."""
    return f"takes {ratio_change(ratio, 'time')} than {than}"


def among(names: Sequence[str], all_in_order: Sequence[str]) -> str:
    """`64 to 256` where no option lies between that is not meant, else `64, 128 and 256`."""
    places = [all_in_order.index(name) for name in names]
    if len(names) > 2 and max(places) - min(places) == len(names) - 1:
        return f"{all_in_order[min(places)]} to {all_in_order[max(places)]}"
    return enumerated(names)


def enumerated(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def runs_text(run_ids: Sequence[Sequence[str]], num_warned: int) -> str:
    """The runs behind a sentence, the first of each side where there are many."""
    sides = [
        ", ".join(one[:ID_DIGITS] for one in ids[:MOST_RUNS]) + ", …" * (len(ids) > MOST_RUNS)
        for ids in run_ids
    ]
    told = f" Runs {' against '.join(sides)}."
    if num_warned:
        told += f" {num_warned} of these {sum(map(len, run_ids))} runs have warnings."
    return told


def entrants_text(race: Race, front: Sequence[Entrant]) -> str:
    """The front, cheapest first, with accuracy and cost."""
    told = []
    for one in sorted(front, key=lambda each: each.cost.mean):
        accuracy, cost = interval(one.accuracy), interval(one.cost)
        half = 100 * (accuracy.high - accuracy.value)
        told.append(
            f"{one.model} (accuracy {100 * accuracy.value:.1f} ± {half:.1f} %, "
            f"{cost.value:.4g} ± {cost.high - cost.value:.2g} {race.cost.unit})"
        )
    return f"no model beats {enumerated(told)} in accuracy and {race.cost.noun} both."


def beaten_text(race: Race, beaten: Beaten) -> str:
    """Who beats a model, and by how much."""
    lost = beaten.accuracy_lost
    return (
        f"{beaten.model} is beaten by {beaten.by}: {100 * lost.value:.1f} points less accurate "
        f"({100 * lost.low:.1f} to {100 * lost.high:.1f}), "
        f"{ratio_change(beaten.cost_ratio, race.cost.noun)}."
    )
