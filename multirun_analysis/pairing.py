"""Which cells of two sweeps may be compared: those that did the same work and mean the same joules.

Cells are matched by `work`, the settings of what was computed. What does not match is left out
with what differs, and whole sweeps are refused where a ratio would mix components, measured with
modelled joules, or several machines under one name.
"""

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pandas import DataFrame, Series

from greenlab.config import EXECUTION
from greenlab.errors import GreenlabError
from multirun_analysis import runs

COMPONENTS = runs.COMPONENTS
MACHINE = (
    *("machine", "cpu", "gpus", "hardware", "device", "power_limit_w", "coverage"),
    *(f"source_{component}" for component in COMPONENTS),
    *EXECUTION,
    *("meters", "power/limit_gpu_w", "commit", "torch"),
)
"""What two sweeps may differ in and still be compared: it is what is compared."""
MOST_NAMED = 5


class NotComparableError(GreenlabError):
    """A ratio of these two sweeps would mean nothing; the message says why, and what to ask for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Repetitions of the same work on both sides; only values that are there."""

    work: str
    label: str
    model: str
    phase: str
    batch_size: float
    values_a: tuple[float, ...]
    values_b: tuple[float, ...]
    u95_a: float  # half a 95 % interval of one run, by its own uncertainty; NaN where unknown
    u95_b: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairs:
    """Everything that two sweeps have in common."""

    pairs: tuple[Pair, ...]
    series_a: str
    series_b: str
    differences: tuple[str, ...]  # of machine, sources and commit
    left_out: tuple[str, ...]
    modelled: str  # components whose energy is modelled on both sides, in an energy metric


def is_energy(metric: str) -> bool:
    """Whether a metric is of joules or watts, and so of certain components and sources."""
    return metric.startswith(("energy/", "power/"))


def is_total(metric: str) -> bool:
    """Whether a metric grows with the number of samples."""
    return metric.startswith(("energy/", "time/")) and not (
        "per_sample" in metric or metric.endswith(("_per_s", "_w"))
    )


def check_metric(metric: str, known: Iterable[str]) -> None:
    """Refuse a metric that no cell has.

    Raises:
        NotComparableError: with names that are close.
    """
    names = sorted(name for name in set(known) if "/" in name and "_u95" not in name)
    if metric not in names:
        close = difflib.get_close_matches(metric, names, n=3, cutoff=0.5)
        raise NotComparableError(
            f"metric={metric}: no cell has it. "
            + (f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(names)}")
        )


def pair(
    a: DataFrame,
    b: DataFrame,
    metric: str,
    *,
    series_a: str | None = None,
    series_b: str | None = None,
) -> Pairs:
    """Match the cells of A and B by their work.

    Raises:
        NotComparableError: several series on a side, components or sources that differ, or no cell
            in common.
    """
    a, b = _one_series(a, "A", series_a), _one_series(b, "B", series_b)
    check_metric(metric, [*a.columns, *b.columns])
    modelled = _check_energy(a, b, metric) if is_energy(metric) else ""
    groups_a, groups_b = _by_work(a, metric), _by_work(b, metric)
    both = [work for work in groups_a if work and work in groups_b]
    left_out = _unmatched(a, b, both)
    pairs, reasons = [], []
    for work in both:
        found = _pair(groups_a[work], groups_b[work], metric)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            reasons.append((label(groups_a[work].iloc[0]), found))
    left_out += _grouped(reasons)
    if not pairs:
        told = "\n  ".join(left_out)
        raise NotComparableError(f"{metric}: A and B have no cell to compare:\n  {told}")
    return Pairs(
        pairs=tuple(pairs),
        series_a=str(a["series"].iloc[0]),
        series_b=str(b["series"].iloc[0]),
        differences=tuple(_differences(a, b)),
        left_out=tuple(left_out + _with_warnings(a, "A") + _with_warnings(b, "B")),
        modelled=modelled,
    )


def label(cell: "Series[Any]") -> str:
    """What a cell is called among its sweep's others."""
    size = cell["batch_size"]
    known = isinstance(size, float) and math.isfinite(size)
    return f"{cell['model']} {cell['phase']}" + (f" {size:g}" if known else "")


def _one_series(cells: DataFrame, side: str, wanted: str | None) -> DataFrame:
    if cells.empty:
        raise NotComparableError(
            f"{side} has no finished cell that can be used. Resume its sweep, or compare another"
        )
    names = list(cells["series"].unique())
    option = f"--series-{side.lower()}"
    if wanted is not None:
        if wanted not in names:
            raise NotComparableError(
                f"{option}={wanted}: {side} has no such series. It has {'; '.join(names)}"
            )
        return cells[cells["series"] == wanted]
    if len(names) > 1:
        raise NotComparableError(
            f"{side} holds {len(names)} series, which are never pooled: {'; '.join(names)}. "
            f"Pick one with {option}='{names[0]}'"
        )
    return cells


def _check_energy(a: DataFrame, b: DataFrame, metric: str) -> str:
    """Refuse joules of different components, or measured ones against modelled.

    Returns:
        The components of the metric that are modelled on both sides, joined by '+'.
    """
    sides = [_sources(cells) for cells in (a, b)]
    own = [component for component in COMPONENTS if f"_{component}_" in metric]
    if metric.startswith("energy/measured_"):
        sides = [{c: s for c, s in side.items() if s == "measured"} for side in sides]
    components = [set(own or side) & set(side) for side in sides]
    shared = [c for c in COMPONENTS if c in sides[0] and sides[0].get(c) == sides[1].get(c)]
    names = ", ".join(f"energy/net_{component}_j" for component in shared)
    advice = (
        f"Compare a component that both have alike: {names}"
        if shared
        else "They share no component of the same kind: compare time, time/per_sample_s"
    )
    if components[0] != components[1]:
        covered = [_joined(found) or "none of them" for found in components]
        raise NotComparableError(
            f"{metric}: A covers {covered[0]}, B covers {covered[1]}, and joules of different "
            f"components are not comparable. {advice}"
        )
    for component in [c for c in COMPONENTS if c in components[0]]:
        kinds = [side[component] for side in sides]
        if kinds[0] != kinds[1]:
            raise NotComparableError(
                f"{metric}: {component} is {kinds[0]} in A and {kinds[1]} in B. A model's error "
                f"would pass for a difference. {advice}"
            )
    modelled = _joined(c for c in components[0] if sides[0][c] == "modelled")
    constants = [
        {_distinct(cells[name]) for name in ("machine", "meters") if name in cells}
        for cells in (a, b)
    ]
    if modelled and constants[0] != constants[1]:
        raise NotComparableError(
            f"{metric}: {modelled} energy is modelled, on two machines or by other numbers "
            f"({'; '.join(_differences(a, b))}), so that a ratio is of what was assumed. Compare "
            "time, time/per_sample_s"
            + (", or energy/measured_per_sample_j" if "measured" in sides[0].values() else "")
        )
    return modelled


def _sources(cells: DataFrame) -> dict[str, str]:
    """'measured' or 'modelled', of each component that is metered."""
    found = {}
    for component in COMPONENTS:
        kind = str(cells[f"source_{component}"].iloc[0]).partition(":")[0]
        if kind not in {"", "absent"}:
            found[component] = kind
    return found


def _joined(components: Iterable[str]) -> str:
    found = set(components)
    return "+".join(component for component in COMPONENTS if component in found)


def _by_work(cells: DataFrame, metric: str) -> dict[str, DataFrame]:
    wanted = ["work", "model", "phase", "batch_size", "work/samples", metric, runs.u95_of(metric)]
    narrow = cells[[name for name in wanted if name in cells]]
    return {str(work): group for work, group in narrow.groupby("work", sort=False)}


def _pair(a: DataFrame, b: DataFrame, metric: str) -> Pair | str:
    """The repetitions of one piece of work, or why they cannot be compared."""
    samples = {*runs.column(a, "work/samples").dropna(), *runs.column(b, "work/samples").dropna()}
    if is_total(metric) and len(samples) > 1:
        told = "; ".join(f"{number:,.0f}" for number in sorted(samples))
        return (
            f"{metric} is of different numbers of samples ({told}); compare per sample: "
            f"{'time/per_sample_s' if metric.startswith('time/') else 'energy/net_per_sample_j'}"
        )
    if metric.startswith("task/") and a["phase"].iloc[0] != "train":
        return f"{metric} is of weights that were not trained"
    values = [runs.column(side, metric).dropna() for side in (a, b)]
    for name, found in zip("AB", values, strict=True):
        if found.empty:
            return f"{name} has no {metric}"
    u95 = [float(runs.column(side, runs.u95_of(metric)).mean()) for side in (a, b)]
    first = a.iloc[0]
    return Pair(
        work=str(first["work"]),
        label=label(first),
        model=str(first["model"]),
        phase=str(first["phase"]),
        batch_size=float(first["batch_size"]),
        values_a=tuple(values[0]),
        values_b=tuple(values[1]),
        u95_a=u95[0],
        u95_b=u95[1],
    )


def _unmatched(a: DataFrame, b: DataFrame, both: Sequence[str]) -> list[str]:
    """Cells of one side only; those that have a like one on the other with what differs."""
    reasons: list[tuple[str, str]] = []
    firsts = [side.drop_duplicates("work") for side in (a, b)]
    alone = [
        {label(row): str(row["work"]) for _, row in side.iterrows() if row["work"] not in both}
        for side in firsts
    ]
    for name in alone[0]:
        if not alone[0][name]:
            reasons.append((name, "A was measured before greenlab kept the settings of its work"))
        elif alone[1].get(name):
            reasons.append((name, _what_differs(alone[0][name], alone[1][name])))
        elif name not in alone[1]:
            reasons.append((name, "in A only"))
    for name, work in alone[1].items():
        if not work:
            reasons.append((name, "B was measured before greenlab kept the settings of its work"))
        elif name not in alone[0]:
            reasons.append((name, "in B only"))
    return _grouped(reasons)


def _what_differs(a: str, b: str) -> str:
    """`dataset.num_samples: 512 against 1,024`, for each setting that two works do not share."""
    x, y = runs.flatten(json.loads(a)), runs.flatten(json.loads(b))
    names = [name for name in {**x, **y} if x.get(name) != y.get(name)]
    told = [f"{name}: {_shown(x, name)} against {_shown(y, name)}" for name in names]
    return "different work, " + ", ".join(told)


def _shown(settings: Mapping[str, object], name: str) -> str:
    if name not in settings:
        return "absent"
    value = settings[name]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else str(value)


def _grouped(reasons: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence per reason, with the cells it holds for."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons:
        groups.setdefault(reason, []).append(name)
    return [
        f"{len(names)} left out, {reason}: {', '.join(names[:MOST_NAMED])}"
        + (", …" if len(names) > MOST_NAMED else "")
        for reason, names in groups.items()
    ]


def _with_warnings(cells: DataFrame, side: str) -> list[str]:
    found = cells[cells["verdict"] == "WARN"]
    doubts = sorted({doubt.strip() for text in found["doubts"] for doubt in text.split(",")} - {""})
    told = f"{len(found)} of {side}'s {len(cells)} cells have warnings ({', '.join(doubts)})"
    return [f"{told}, and are compared all the same"] if len(found) else []


def _differences(a: DataFrame, b: DataFrame) -> list[str]:
    """What A and B differ in besides their work: `power_limit_w: 70 against 50`."""
    told = []
    for name in MACHINE:
        if name in a and name in b:
            sides = [_distinct(cells[name]) for cells in (a, b)]
            if sides[0] != sides[1]:
                told.append(f"{name}: {sides[0]} against {sides[1]}")
    return told


def _distinct(values: "Series[Any]") -> str:
    known = values.fillna("").astype(str).replace("", "unknown")
    return ", ".join(sorted(known.unique()))
