"""What a model that was never run would cost on a machine, told from the cells measured there.

Pure: cells of `runs.load` in, estimates per sample out, or a refusal that says what is lacking and
which grid would supply it. Only cells of one series are used (machine, sources, settings: runs.py),
of the asked phase and the asked shape of a sample, never those of the asked model itself: where it
was measured, its own number stands beside an estimate made without it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pandas import DataFrame, Series

from greenlab.errors import GreenlabError
from multirun_analysis import regression
from multirun_analysis.regression import BATCH_SIZE, Estimate, Interval, Law, Ranking
from multirun_analysis.runs import column, texts

MIN_MODELS = 6
"""Besides the asked one: with fewer, no choice among predictors can be tested. Our choice."""
MAX_BEYOND = 2.0
"""Factor by which any predictor may lie beyond what was seen, used or not; our choice."""
MAX_LEVERAGE = 1.0
"""From here on, where the asked model lies adds more to the variance than what is peculiar to a
model: a combination unlike any seen."""

PREDICTORS = ("macs", "macs_exact", "parameters", "macs_per_parameter", "activation_bytes")
COSTS = {"net_j": "energy/net_j", "gross_j": "energy/gross_j", "time_s": "time/active_s"}
"""Quantities, all per sample, and the metrics that they are made of."""


class RefusedError(GreenlabError):
    """These cells cannot tell what was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A cell that is not to be run."""

    model: str
    """Its option's name."""
    work: Mapping[str, Mapping[str, object]]
    """What it would compute: `config.work`, read."""
    predictors: Mapping[str, float]
    """Those that are known of it, by name."""
    is_frozen: bool
    """Whether any of its parameters is not to be trained."""
    machine: str
    device: str
    """cpu or cuda; empty: any."""
    power_limit_w: float | None
    """None: any."""
    execution: Mapping[str, str]
    """How it would be computed, by setting; what the device decides is left out."""
    grid: str
    """The command that would measure models like it in this phase."""

    @property
    def phase(self) -> str:
        """Train or inference."""
        return str(self.work["phase"]["kind"])

    @property
    def batch_size(self) -> int:
        """Samples per step."""
        return int(str(self.work["batch_size"]["size"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One quantity per sample."""

    ranking: Ranking
    estimates: tuple[Estimate, ...]
    """By every law, the best first."""
    outside: dict[tuple[str, ...], str]
    """Laws that cannot tell of the asked model, by their predictors, and why."""
    measured: float | None
    """The asked cell's own, the mean of its repetitions; None where it was not measured."""

    @property
    def best(self) -> Interval:
        """The answer."""
        return self.estimates[0].cost

    @property
    def papers(self) -> Estimate | None:
        """By MACs per parameter alone."""
        return next((e for e in self.estimates if is_papers(e.law)), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the asked cell would take, per sample."""

    question: Question
    series: str
    modelled: str
    """Components whose energy is modelled, joined by +; empty: none."""
    run_ids: tuple[str, ...]
    """The cells that it rests on."""
    batch_sizes: tuple[int, ...]
    """Theirs; several: batch size is a predictor."""
    told: dict[str, Told]
    """By quantity: net_j and gross_j where energy was metered, time_s."""
    num_measured: int
    """Runs of the asked cell itself."""
    notes: tuple[str, ...]
    """What else a reader must know."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How well each predictor tells the models that were left out."""

    series: str
    modelled: str
    phase: str
    batch_sizes: tuple[int, ...]
    rankings: dict[str, Ranking]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    """Cells of one series, of one phase and shape."""

    cells: DataFrame
    series: str
    notes: list[str]


def is_papers(law: Law) -> bool:
    """Whether it is the paper's: MACs per parameter, with batch size where there are several."""
    return tuple(name for name in law.predictors if name != BATCH_SIZE) == regression.PAPERS


def answer(cells: DataFrame, question: Question) -> Answer:
    """Estimate what was asked from `cells`, of any machine.

    Raises:
        RefusedError: they cannot tell; the message says why, and what to measure.
    """
    usable = _of_hardware(_of_phase(_of_machine(cells, question), question), question)
    chosen = _choose_series(_of_shape(usable, question), question)
    own = _is_asked_model(chosen.cells, question)
    others = chosen.cells[~own]
    if question.phase == "train":
        others = _fully_trained(others, question)
    others = _at_batch_size(others, question, chosen.notes)
    asked = {**question.predictors, BATCH_SIZE: float(question.batch_size)}
    mine = chosen.cells[own & (chosen.cells[BATCH_SIZE] == question.batch_size)]
    if own.any() and mine.empty:
        sizes = sorted(chosen.cells[own][BATCH_SIZE].astype(int).unique())
        chosen.notes.append(
            f"{question.model} itself was measured at batch size {_listed(sizes)}, which is not "
            "used here."
        )
    told = {}
    for quantity, metric in COSTS.items():
        rows = _rows(others, metric, chosen.notes)
        chosen.notes.extend(_lacking(rows))
        if rows["model"].nunique() >= MIN_MODELS:
            told[quantity] = _tell(rows, asked, _per_sample(mine, metric), question)
    if not told:
        raise RefusedError(f"no quantity is known of {MIN_MODELS} models or more. {question.grid}")
    return Answer(
        question=question,
        series=chosen.series,
        modelled=str(others["modelled"].iloc[0]),
        run_ids=tuple(others["run_id"]),
        batch_sizes=_sizes(others),
        told=told,
        num_measured=len(mine),
        notes=tuple(dict.fromkeys(chosen.notes)),
    )


def score(cells: DataFrame, machine: str, phase: str, batch_size: int | None = None) -> Scores:
    """Tell each predictor's errors for models left out, in the series with the most models.

    Raises:
        RefusedError: there are too few.
    """
    own = cells[(cells["machine"] == machine) & (cells["phase"] == phase)]
    if batch_size is not None:
        own = own[own[BATCH_SIZE] == batch_size]
    if phase == "train":
        own = own[_trains_all(own)]
    groups = [group for _, group in own.groupby(["series", BATCH_SIZE], sort=False)]
    most = max(groups, key=lambda group: (group["model"].nunique(), len(group)), default=own)
    if (num := most["model"].nunique()) < MIN_MODELS:
        at = "" if batch_size is None else f" at batch size {batch_size}"
        raise RefusedError(
            f"{phase} on {machine or 'an unknown machine'}{at}: {num} models in one series at one "
            f"batch size, {MIN_MODELS} are needed"
        )
    tables = {quantity: _rows(most, metric, []) for quantity, metric in COSTS.items()}
    return Scores(
        series=str(most["series"].iloc[0]),
        modelled=str(most["modelled"].iloc[0]),
        phase=phase,
        batch_sizes=_sizes(most),
        rankings={
            quantity: regression.rank(rows)
            for quantity, rows in tables.items()
            if rows["model"].nunique() >= MIN_MODELS
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Samples of one phase in a job."""

    answer: Answer
    num_samples: float


def total(shares: Sequence[Share], quantity: str) -> Interval | None:
    """A whole job's; None where a part of it is not known.

    Parts of one job are of one model, and err together: low ends add up, and high ends.
    """
    if not shares or any(quantity not in share.answer.told for share in shares):
        return None
    parts = [(share.num_samples, share.answer.told[quantity].best) for share in shares]
    return Interval(
        value=sum(num * cost.value for num, cost in parts),
        low=sum(num * cost.low for num, cost in parts),
        high=sum(num * cost.high for num, cost in parts),
    )


# ---------------------------------------------------------------------------- which cells may tell


def _of_machine(cells: DataFrame, question: Question) -> DataFrame:
    own = cells[cells["machine"] == question.machine]
    if own.empty:
        known = [
            f"{name!s} ({group['model'].nunique()} models)"
            for name, group in cells.groupby("machine")
        ]
        there = f"There are cells of {'; '.join(known)}: name one with --machine. " if known else ""
        raise RefusedError(
            f"no usable cell of machine {question.machine} is in the store. {there}"
            f"To measure here: {question.grid}"
        )
    return own


def _of_phase(cells: DataFrame, question: Question) -> DataFrame:
    own = cells[cells["phase"] == question.phase]
    if own.empty:
        raise RefusedError(
            f"phase={question.phase} was never measured on {question.machine}, and one phase does "
            f"not tell of another. Measure it: {question.grid}"
        )
    return own


def _of_hardware(cells: DataFrame, question: Question) -> DataFrame:
    own = cells
    if question.device:
        own = own[own["device"].str.startswith(question.device)]
    if question.power_limit_w is not None:
        own = own[own["power_limit_w"] == question.power_limit_w]
    if own.empty:
        raise RefusedError(
            f"no cell of {question.machine} has hardware.device={question.device or 'auto'} and "
            f"hardware.power_limit_w={question.power_limit_w or 'null'}. Measure some: "
            f"{question.grid}"
        )
    for name, value in question.execution.items():
        here = texts(own, name).replace("", BEFORE.get(name, ""))
        if not (here == value).any():
            others = " and ".join(sorted(set(here)))
            raise RefusedError(
                f"no cell of {question.machine} has {name}={value}, but {others}, "
                f"and one does not tell of another. Measure some: {question.grid}"
            )
        own = own[here == value]
    return own


BEFORE = {
    "precision": "fp32",
    "memory_format": "contiguous",
    "compile": "false",
    "cuda_graphs": "false",
    "cudnn_benchmark": "false",
    "allocator": "system",
}
"""How cells were computed that do not say so: before it could be chosen."""


def _of_shape(cells: DataFrame, question: Question) -> DataFrame:
    texts = [str(text) for text in cells["work"]]
    shapes = Series(
        [_shape(json.loads(text)) if text else "an unknown shape" for text in texts],
        index=cells.index,
    )
    asked = _shape(question.work)
    if not (shapes == asked).any():
        raise RefusedError(
            f"samples of {asked} were never measured on {question.machine} in this phase, those of "
            f"{_listed(sorted(set(shapes)))} were: what a sample of another shape takes, they do "
            f"not tell. Measure it: {question.grid}"
        )
    return cells[shapes == asked]


def _shape(work: Mapping[str, Mapping[str, object]]) -> str:
    """Channels × height × width."""
    data = work["dataset"]
    height = data["image_size"]
    return f"{data['num_channels']}×{height}×{data['image_width'] or height}"


def _choose_series(cells: DataFrame, question: Question) -> _Chosen:
    """The series that tells most: of the asked batch size and data, of many models, the newest."""

    def merit(group: DataFrame) -> tuple[bool, bool, int, float]:
        at_size = group[group[BATCH_SIZE] == question.batch_size]
        return (
            at_size["model"].nunique() > MIN_MODELS,
            _data_differs(group, question) == "",
            group["model"].nunique(),
            float(group["started_at_s"].max()),
        )

    groups = {str(name): group for name, group in cells.groupby("series", sort=False)}
    series = max(groups, key=lambda name: merit(groups[name]))
    chosen = _Chosen(cells=groups[series], series=series, notes=[])
    if others := [name for name in groups if name != series]:
        chosen.notes.append(
            f"Series are never pooled; {len(others)} others of this machine are not used: "
            f"{'; '.join(others)}. --where chooses among cells."
        )
    if differs := _data_differs(chosen.cells, question):
        chosen.notes.append(f"The cells used have {differs}: samples of the same shape.")
    return chosen


def _data_differs(cells: DataFrame, question: Question) -> str:
    """Settings of the data, beside shape and length, in which the cells are unlike the asked."""
    theirs = json.loads(cells["work"].iloc[0])["dataset"]
    return ", ".join(
        f"dataset.{key}={theirs[key]}"
        for key in ("_target_", "augment", "num_classes")
        if theirs.get(key) != question.work["dataset"].get(key)
    )


def _is_asked_model(cells: DataFrame, question: Question) -> "npt.NDArray[np.bool_]":
    same = [
        name == question.model or json.loads(work)["model"] == question.work["model"]
        for name, work in zip(cells["model"], cells["work"], strict=True)
    ]
    return np.array(same, dtype=bool)


def _trains_all(cells: DataFrame) -> "npt.NDArray[np.bool_]":
    whole = column(cells, "model/parameters") == column(cells, "model/trainable_parameters")
    return whole.to_numpy(dtype=bool)


def _fully_trained(cells: DataFrame, question: Question) -> DataFrame:
    """Cells in which all parameters learn: what freezing saves, no predictor here tells."""
    if question.is_frozen:
        raise RefusedError(
            f"model.freeze={question.work['model']['freeze']} spares a part of the training that "
            "no predictor here tells. Estimate it without freezing, as an upper bound, or profile "
            "it: phase=profile takes half a minute"
        )
    return cells[_trains_all(cells)]


def _at_batch_size(cells: DataFrame, question: Question, notes: list[str]) -> DataFrame:
    """Cells of the asked batch size where there are enough, else all, whose sizes then tell too."""
    at_size = cells[cells[BATCH_SIZE] == question.batch_size]
    if at_size["model"].nunique() >= MIN_MODELS:
        return at_size
    num = cells["model"].nunique()
    sizes = _sizes(cells)
    if num < MIN_MODELS:
        raise RefusedError(
            f"{num} models other than {question.model} were measured on {question.machine} in this "
            f"phase and series; {MIN_MODELS} are needed to choose among predictors and to tell the "
            f"error. Measure more: {question.grid}"
        )
    if len(sizes) == 1:
        raise RefusedError(
            f"batch size {question.batch_size} was not measured on {question.machine} with "
            f"{MIN_MODELS} models, {sizes[0]} alone was: how the cost goes with batch size is not "
            f"known. Ask for batch_size={sizes[0]}, or measure: {question.grid}"
        )
    notes.append(
        f"{at_size['model'].nunique()} other models were measured at batch size "
        f"{question.batch_size}; all batch sizes are used ({_listed(sizes)}), as a predictor."
    )
    return cells


def _per_sample(cells: DataFrame, metric: str) -> float | None:
    """Mean of the runs; None without any."""
    values = (column(cells, metric) / column(cells, "work/samples")).dropna()
    return float(values.mean()) if len(values) else None


def _rows(cells: DataFrame, metric: str, notes: list[str]) -> DataFrame:
    """One row per model and batch size, the geometric mean of its runs."""
    table = cells[["model", BATCH_SIZE]].assign(
        **{name: column(cells, f"model/{name}") for name in PREDICTORS},
        cost=column(cells, metric) / column(cells, "work/samples"),
    )
    table = table[table["cost"].notna()]
    negative = sorted(table[table["cost"] <= 0]["model"].unique())
    if negative:
        notes.append(
            f"{metric} is not above zero in {_listed(negative)}: a power law cannot tell of them, "
            "and they are left out of it."
        )
    logs = table[table["cost"] > 0].copy()
    logs["cost"] = np.log(logs["cost"])
    # A predictor that any run lacks is lacking: a mean over the others would hide it.
    by_cell = logs.groupby(["model", BATCH_SIZE])
    means = by_cell[[*PREDICTORS, "cost"]].mean()
    means = means.mask(by_cell[[*PREDICTORS, "cost"]].count().ne(by_cell.size(), axis=0))
    return means.assign(cost=np.exp(means["cost"])).reset_index()


def _lacking(rows: DataFrame) -> list[str]:
    """Predictors that some cells are without."""
    known = {name: int((rows.groupby("model")[name].min() > 0).sum()) for name in PREDICTORS}
    num = rows["model"].nunique()
    return [
        f"{name} is recorded of {of} of {num} models, and not used: cells measured from now on "
        "record it."
        for name, of in known.items()
        if of < num
    ]


def _tell(
    rows: DataFrame, asked: Mapping[str, float], measured: float | None, question: Question
) -> Told:
    known = rows.drop(columns=[name for name in PREDICTORS if not asked.get(name, 0) > 0])
    if not regression.candidates_for(known):
        raise RefusedError(f"{question.model} has none of the predictors ({', '.join(PREDICTORS)})")
    try:
        ranking, estimates = regression.estimate(known, asked)
    except ValueError as error:
        raise RefusedError(
            f"the models measured on {question.machine} are too alike for any fit. Measure others "
            f"too: {question.grid}"
        ) from error
    reasons = {one.law.predictors: _why_outside(one, rows, asked) for one in estimates}
    if why := reasons[estimates[0].law.predictors]:
        raise RefusedError(
            f"{question.model} lies outside what was measured on {question.machine}: {why}. "
            "Measure models on both sides of it, or the model itself (phase=profile takes half a "
            f"minute): {question.grid}"
        )
    return Told(
        ranking=ranking,
        estimates=estimates,
        outside={predictors: why for predictors, why in reasons.items() if why},
        measured=measured,
    )


def _why_outside(one: Estimate, rows: DataFrame, asked: Mapping[str, float]) -> str:
    """Why a law cannot tell of the asked model; empty where it can.

    Predictors that the law has no use for bound it too: LeNet has as many MACs per parameter as
    models fifty times its size, and a law of these alone is off by a factor of 48 (docs/results).
    """
    for name in (*PREDICTORS, BATCH_SIZE):
        seen = rows[name].dropna()
        if seen.empty or not asked.get(name, 0) > 0:
            continue
        low, high = float(seen.min()), float(seen.max())
        if not low / MAX_BEYOND <= asked[name] <= high * MAX_BEYOND:
            return (
                f"its {name} is {asked[name]:.4g}, those seen are {low:.4g} to {high:.4g}, and a "
                f"factor of {MAX_BEYOND:g} beyond is allowed"
            )
    if one.leverage > MAX_LEVERAGE:
        names = " and ".join(one.law.predictors)
        return f"no model seen has such {names} (leverage {one.leverage:.1f}, at most 1 is allowed)"
    return ""


def _sizes(cells: DataFrame) -> tuple[int, ...]:
    return tuple(sorted(int(size) for size in cells[BATCH_SIZE].unique()))


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
