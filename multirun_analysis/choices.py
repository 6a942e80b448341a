"""What a sweep lets one choose: cells that differ in one factor alone, and what each option takes.

PURE: frames in, frozen dataclasses out. Cells belong to one choice where machine, sources of
energy, meters, work and every other setting are the same. Energy is that of the measured
components; where there is none, a choice is one of time, for modelled energy is time in other
words.
"""

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from pandas import DataFrame, Series

from greenlab.config import EXECUTION
from multirun_analysis import runs
from multirun_analysis.known_energy import GROSS_GPU, MODELLED, PER_SAMPLE_J, with_known_energy
from multirun_analysis.pareto import accuracy_u95
from multirun_analysis.selection import UNKNOWN, Level, interval, level, log_level

PER_SAMPLE_S = "time/per_sample_s"
BATCH_SIZE, POWER_LIMIT = "batch_size", "power_limit_w"
LIMIT_IN_FORCE = "power/limit_gpu_w"
HOW_MUCH = ("phase.kind", "phase.epochs", "dataset.num_samples", "dataset.replicate_test")
"""Settings of the work that say how much is done, or what; no two ways of doing the same."""
WHAT = ("model._target_", "dataset._target_", "dataset.num_classes", "batch_size.size")
NO_MACHINE = "an unknown machine"
AS_FOUND = "as found"
"""The option of cells whose power limit was left alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What is to be as little as possible, per sample."""

    noun: str
    column: str
    unit: str
    is_modelled: bool
    """Whether it stands in for energy that was not measured."""
    caveat: str = ""
    """A sentence that goes with every number of it."""


TIME = Cost(noun="time", column=PER_SAMPLE_S, unit="s", is_modelled=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """The repetitions of one cell."""

    name: str
    value: float
    """NaN where it is no number."""
    cost: Level
    """Of log `Cost.column`."""
    time: Level
    """Of log seconds per sample."""
    accuracy: Level
    """A fraction; known of training alone, for other cells have random weights."""
    run_ids: tuple[str, ...]
    num_warned: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """Options of one factor with everything else the same, in order."""

    factor: str
    model: str
    phase: str
    where: str
    """Machine, and whatever else tells this choice from the others."""
    dataset: str
    hardware: str
    batch_size: float
    cost: Cost
    options: tuple[Option, ...]

    def label(self, at: int) -> str:
        """What an option is called, with its unit."""
        name = self.options[at].name
        is_limit = self.factor == POWER_LIMIT and name != AS_FOUND
        return f"{name} W" if is_limit else name

    @property
    def about(self) -> str:
        """What it is a choice for."""
        named = {"train": "training"}.get(self.phase, self.phase)
        size = "" if self.factor == BATCH_SIZE else f" at batch size {self.batch_size:g}"
        return f"{self.model}, {named}{size} on {self.where}"


def find(cells: DataFrame) -> list[Choice]:
    """Every choice of two options or more: batch sizes, power limits, then other settings."""
    if cells.empty:
        return []
    facets = _facets(cells)
    swept = [BATCH_SIZE, POWER_LIMIT, *(name for name in map(str, facets) if _is_way(name))]
    return [choice for factor in swept for choice in _of_factor(cells, facets, factor)]


def _facets(cells: DataFrame) -> DataFrame:
    """What two cells must share to be repetitions of each other, as texts."""
    works = runs.texts(cells, "work")
    flat = DataFrame(
        {text: runs.flatten(json.loads(text)) if text else {} for text in works}, dtype=object
    ).T.reindex(works)
    flat.index = cells.index
    flat = flat.drop(columns=[name for name in flat if name == "batch_size.size"])
    named = ("machine", "device", "meters", "model", "phase", "dataset", *EXECUTION)
    sources = [f"source_{component}" for component in runs.COMPONENTS]
    facets = DataFrame({name: runs.texts(cells, name) for name in (*named, *sources)})
    for name in (BATCH_SIZE, POWER_LIMIT):
        facets[name] = _number_text(runs.column(cells, name))
    facets[LIMIT_IN_FORCE] = _number_text(runs.column(cells, LIMIT_IN_FORCE).round())
    return facets.join(flat.map(_setting_text))


def _number_text(values: "Series[float]") -> "Series[str]":
    return values.map(lambda value: "" if math.isnan(value) else f"{value:g}")


def _setting_text(value: object) -> str:
    is_absent = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if is_absent else str(value)


def _is_way(name: str) -> bool:
    """Whether a facet is a way of doing the same work."""
    of_work = name.startswith(("phase.", "model.", "dataset."))
    return name in EXECUTION or (of_work and name not in HOW_MUCH + WHAT)


def _of_factor(cells: DataFrame, facets: DataFrame, factor: str) -> list[Choice]:
    if facets[factor].nunique() < 2:
        return []
    besides = {POWER_LIMIT: [POWER_LIMIT, LIMIT_IN_FORCE]}.get(factor, [factor])
    shared = facets.drop(columns=besides)
    together: dict[tuple[str, ...], list[Hashable]] = {}
    for index, shares in zip(shared.index, shared.to_numpy(), strict=True):
        together.setdefault(tuple(shares), []).append(index)
    groups = [
        shared.loc[indices]
        for indices in together.values()
        if facets.loc[indices, factor].nunique() > 1
    ]
    places = _places(groups)
    return [
        _choice(cells.loc[group.index], facets.loc[group.index, factor], factor, place)
        for group, place in zip(groups, places, strict=True)
    ]


def _places(groups: Sequence[DataFrame]) -> list[str]:
    """Machine, and the settings in which groups differ that model and phase do not tell."""
    if len(groups) == 1:
        return [str(groups[0]["machine"].iloc[0]) or NO_MACHINE]
    if not groups:
        return []
    firsts = DataFrame([group.iloc[0] for group in groups])
    told = ("machine", "model", "phase", BATCH_SIZE, "meters")
    telling = [
        str(name)
        for name in firsts
        if name not in told
        and not str(name).startswith(("phase.kind", "model._target_"))
        and (firsts.groupby(["model", "phase"])[str(name)].nunique() > 1).any()
    ]
    return [
        ", ".join(
            [str(row["machine"]) or NO_MACHINE]
            + [f"{name.rpartition('.')[2]} {row[name] or 'none'}" for name in telling]
        )
        for row in firsts.to_dict("records")
    ]


def _choice(cells: DataFrame, names: "Series[str]", factor: str, where: str) -> Choice:
    known, cost = cost_of(cells)
    options = [
        _option(str(name) or AS_FOUND, known.loc[index], cost)
        for name, index in names.groupby(names, sort=False).groups.items()
    ]
    options.sort(key=lambda one: (math.isnan(one.value), one.value, one.name))
    first = cells.iloc[0]
    return Choice(
        factor=factor,
        model=str(first["model"]),
        phase=str(first["phase"]),
        where=where,
        dataset=str(first.get("dataset", "")),
        hardware=str(first.get("hardware", "")),
        batch_size=float(first["batch_size"]),
        cost=cost,
        options=tuple(options),
    )


def cost_of(cells: DataFrame) -> tuple[DataFrame, Cost]:
    """Choose what the options of one series are held against each other by, and name it."""
    known, energy = with_known_energy(cells)
    if energy == MODELLED:
        return known, TIME
    measured = [
        component
        for component in runs.COMPONENTS
        if cells[f"source_{component}"].iloc[0].startswith("measured")
    ]
    noun, caveat = f"net {'+'.join(measured)} energy", ""
    if energy == GROSS_GPU:
        noun, caveat = "gross gpu energy", " Idle was not subtracted."
    return known, Cost(noun=noun, column=PER_SAMPLE_J, unit="J", is_modelled=False, caveat=caveat)


def _option(name: str, cells: DataFrame, cost: Cost) -> Option:
    try:
        value = float(name)
    except ValueError:
        value = math.nan
    return Option(
        name=name,
        value=value,
        cost=log_level(*values_of(cells, cost.column)),
        time=log_level(*values_of(cells, PER_SAMPLE_S)),
        accuracy=accuracy_of(cells),
        run_ids=tuple(cells["run_id"].astype(str)),
        num_warned=int((runs.texts(cells, "verdict") == "WARN").sum()),
    )


def values_of(cells: DataFrame, column: str) -> "tuple[Series[float], float]":
    """A metric of repetitions, and half a 95 % interval of one run where that is known."""
    return runs.column(cells, column), float(runs.column(cells, runs.u95_of(column)).mean())


def accuracy_of(cells: DataFrame) -> Level:
    """Accuracy after training, by the larger of its scatter and of what few test samples leave."""
    trained = cells[cells["phase"] == "train"]
    by_scatter = level(runs.column(trained, "task/accuracy"))
    if by_scatter.num == 0:
        return UNKNOWN
    samples = float(runs.column(trained, "task/samples").mean())
    by_samples = level([by_scatter.mean], accuracy_u95(by_scatter.mean, samples))
    known = [each for each in (by_scatter, by_samples) if each.is_known]
    return max(known, key=lambda each: interval(each).high - each.mean, default=by_scatter)


def run_ids(options: Iterable[Option]) -> tuple[str, ...]:
    """Of all runs of these options."""
    return tuple(run_id for option in options for run_id in option.run_ids)


def command(choice: Choice, options: Sequence[Option], repetitions: int) -> str:
    """The grid that measures these options of a choice again, so often."""
    chosen = {
        "model": choice.model,
        "phase": choice.phase,
        "dataset": choice.dataset,
        "hardware": choice.hardware,
        "batch_size": f"{choice.batch_size:g}",
    }
    key = {POWER_LIMIT: "hardware.power_limit_w"}.get(choice.factor, choice.factor)
    names = ["null" if option.name == AS_FOUND else option.name for option in options]
    chosen[key] = ",".join(names)
    told = " ".join(f"{name}={value}" for name, value in chosen.items() if value)
    return f"python -m greenlab -m {told} repetitions={repetitions}"
