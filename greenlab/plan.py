"""What a grid of cells will take: time and energy, with an interval that is meant to hold.

Pure: from cells that were measured before, and from short probes of a few others, to every cell
and their sum. A cell is its waits, which are known; its passes and its test, at a time per sample
that probes tell (scaling.py); and what surrounds them, as it was in the probes. Each of these is
drawn many times, for all cells at once: what two cells share they are wrong about together, and the
sum's interval is that of the summed draws. Nothing in a plan is measured; it says what was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from greenlab.energy import EnergyWindow, total
from greenlab.record import Account, Record
from greenlab.scaling import POWER, TIME, TRAINING_MACS, Spread, Work, tell

NUM_DRAWS = 4000
PERCENTILES = (2.5, 50.0, 97.5)
BETWEEN_RUNS = 0.05
"""Least standard deviation, as a fraction, of a cell's active time and power from one run of it to
the next; our choice, what a shared machine with two cores shows at its best."""
BETWEEN_OCCASIONS = 0.05
"""The same of all cells together, from when they were tried to when they will be run: heat, clocks,
other users. Our choice. Where probes are further apart than this, so are occasions: whoever
disturbs does it for minutes."""
LANDING_S = (0.2, 1.2)
"""From the end of a cell's process to the next one's start, in MLflow and Hydra: as seen with an
SQLite store on two cores, quiet and busy. Not metered."""
ENDING_S = (0.2, 0.8)
"""From a cell's record to the end of its process, which draws its power: where no probe tells."""
MIN_AROUND_SD_S = 0.1
"""Least standard deviation of the time that a cell takes around its windows."""
MIN_FREEDOM = 3

Draws = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """What one earlier run of a cell took."""

    machine: str
    wall_s: float
    """From its start to its end."""
    gross_j: float | None
    """All that was metered in that time, waits included; None where nothing was metered."""
    is_modelled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedCell:
    """One cell of a grid, and what its length depends on."""

    signature: str
    """What its repetitions share."""
    work: Work
    hardware: str
    """Tells machines and devices apart: nothing is carried over from one to another."""
    waiting_s: float
    """Settling and idle windows together."""
    num_passes: int
    pass_samples: int
    min_active_s: float
    """A pass is gone over again until then."""
    evaluation_samples: int
    """Tested after the passes, with the work of inference."""
    warmup_samples: int
    repetitions: tuple[int, int]
    """The fewest and the most; the same where it is a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A shortened cell, measured."""

    work: Work
    hardware: str
    sample_s: float
    """Active time over samples."""
    active_w: float | None
    """Mean power of the passes; None where nothing was metered, and so below."""
    idle_w: float | None
    around_s: float
    """All else until it is written down: loading, profiling, what the first steps take longer."""
    around_w: float | None
    """Mean power of all that is neither waiting nor the passes."""
    after_s: float
    """From then until its process has ended; not metered."""
    is_modelled: bool

    @classmethod
    def of(cls, record: Record, cell: PlannedCell, wall_s: float) -> "Probe":
        """From a shortened `cell`'s record; until its process had ended it took `wall_s`."""
        measured = record.measurement
        assert measured is not None, "a probe without a measurement"
        active = measured.active
        sample_s = active.duration_s / measured.num_samples
        waiting_s = 2 * record.cell.config["idle"]["settle_s"] + sum(
            window.duration_s for window in measured.idle_windows
        )
        busy_s = active.duration_s + cell.warmup_samples * sample_s
        if cell.work.trains:
            busy_s += measured.evaluation.num_samples * sample_s / TRAINING_MACS
        metered_s = record.ended_at_s - record.cell.started_at_s
        return cls(
            work=cell.work,
            hardware=cell.hardware,
            sample_s=sample_s,
            active_w=_watts(active),
            idle_w=total(measured.idle_w) if measured.idle_w else None,
            around_s=metered_s - waiting_s - busy_s,
            around_w=_power_around_w(record.account),
            after_s=wall_s - metered_s,
            is_modelled=measured.is_modelled,
        )


def _power_around_w(account: Account | None) -> float | None:
    if account is None or not account.energy_j:
        return None
    around = [stage for stage in account.stages if stage.name not in ("settling", "idle", "active")]
    energy_j = sum(total(stage.energy_j) for stage in around)
    return energy_j / sum(stage.duration_s for stage in around)


def _watts(window: EnergyWindow) -> float | None:
    return total(window.energy_j) / window.duration_s if window.energy_j else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A quantity that is not known yet."""

    low: float
    """With `high`, a 95 % interval."""
    median: float
    high: float

    @classmethod
    def of(cls, draws: Draws) -> "Estimate":
        """Its middle and the middle 95 % of the draws."""
        low, median, high = (float(value) for value in np.percentile(draws, PERCENTILES))
        return cls(low=low, median=median, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellPlan:
    """What one cell, all its repetitions together, will take."""

    cell: PlannedCell
    time_s: Estimate
    energy_j: Estimate | None
    """None where nothing is metered."""
    num_earlier: int
    """Earlier runs that this rests on; 0: on probes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a grid will take."""

    cells: list[CellPlan]
    time_s: Estimate
    energy_j: Estimate | None
    """Gross, waits included; None where some cell has none."""
    is_modelled: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawn:
    """A cell's time and energy, once for each draw."""

    time_s: Draws
    energy_j: Draws | None
    num_earlier: int


class _Occasion:
    """What all cells of a sweep have in common, drawn; and the chance that everything is drawn by.

    The same question has the same answer: chance begins at the same seed.
    """

    def __init__(self, num_draws: int) -> None:
        self.num_draws = num_draws
        self.chance = np.random.default_rng(0)
        self.normal = self.chance.standard_normal(num_draws)
        """How much slower all cells are than when they were tried, in standard deviations."""
        self.landing_s = self.chance.uniform(*LANDING_S, num_draws)
        self.between_s = self.landing_s + self.chance.uniform(*ENDING_S, num_draws)

    def repetitions(self, cell: PlannedCell) -> Draws:
        """As many as there may be."""
        fewest, most = cell.repetitions
        drawn = self.chance.integers(fewest, most, self.num_draws, endpoint=True)
        return drawn.astype(np.float64)


def estimate(
    cells: Sequence[PlannedCell],
    probes: Sequence[Probe],
    earlier: Mapping[str, Sequence[Past]],
    num_draws: int = NUM_DRAWS,
) -> Plan:
    """Plan `cells`: those with `earlier` runs (by signature) on these, the others on `probes`.

    There must be a probe on the hardware of each of the others.
    """
    occasion = _Occasion(num_draws)
    drawn: dict[int, _Drawn] = {}
    for number, cell in enumerate(cells):
        if past := earlier.get(cell.signature):
            drawn[number] = _draw_again(occasion, cell, past)
    rest = sorted(set(range(len(cells))) - drawn.keys(), key=lambda n: cells[n].hardware)
    for hardware, numbers in groupby(rest, key=lambda n: cells[n].hardware):
        own, there = list(numbers), [probe for probe in probes if probe.hardware == hardware]
        from_probes = _FromProbes(occasion, there).draw([cells[n] for n in own])
        drawn |= dict(zip(own, from_probes, strict=True))
    joules = [one.energy_j for one in drawn.values() if one.energy_j is not None]
    modelled = [probe.is_modelled for probe in probes]
    modelled += [past.is_modelled for cell in cells for past in earlier.get(cell.signature, ())]
    return Plan(
        cells=[_cell_plan(cell, drawn[number]) for number, cell in enumerate(cells)],
        time_s=Estimate.of(np.sum([one.time_s for one in drawn.values()], axis=0)),
        energy_j=Estimate.of(np.sum(joules, axis=0)) if len(joules) == len(cells) else None,
        is_modelled=any(modelled),
    )


def _cell_plan(cell: PlannedCell, drawn: _Drawn) -> CellPlan:
    return CellPlan(
        cell=cell,
        time_s=Estimate.of(drawn.time_s),
        energy_j=None if drawn.energy_j is None else Estimate.of(drawn.energy_j),
        num_earlier=drawn.num_earlier,
    )


def _draw_again(occasion: _Occasion, cell: PlannedCell, past: Sequence[Past]) -> _Drawn:
    """From earlier runs of the same cell: their mean, as far as so many tell it, and new runs."""
    runs = occasion.repetitions(cell)
    wall_s = np.array([one.wall_s for one in past])
    slowness = np.exp(BETWEEN_OCCASIONS * occasion.normal)
    waits = np.minimum(cell.waiting_s / wall_s, 1.0).mean()  # those are as long the next time
    longer = _of_runs(occasion, wall_s, runs) * slowness
    joules = [one.gross_j for one in past if one.gross_j is not None]
    energy_j = None
    if len(joules) == len(past):
        gross_j = np.array(joules)
        energy_j = runs * gross_j.mean() * _of_runs(occasion, gross_j, runs) * slowness
    return _Drawn(
        time_s=runs * (wall_s.mean() * (waits + (1 - waits) * longer) + occasion.between_s),
        energy_j=energy_j,
        num_earlier=len(past),
    )


def _of_runs(occasion: _Occasion, values: Draws, runs: Draws) -> Draws:
    """The mean of `runs` new values over that of the known ones, by Student's t."""
    freedom, spread = MIN_FREEDOM, BETWEEN_RUNS
    if len(values) > 1:
        freedom = max(len(values) - 1, MIN_FREEDOM)
        spread = max(spread, float(np.std(values, ddof=1) / np.mean(values)))
    drawn = occasion.chance.standard_t(freedom, occasion.num_draws)
    return np.asarray(1 + spread * np.sqrt(1 / len(values) + 1 / runs) * drawn)


class _FromProbes:
    """Draws cells of one hardware from the probes there."""

    def __init__(self, occasion: _Occasion, probes: Sequence[Probe]) -> None:
        assert probes, "no probe to draw from"
        self._occasion, self._probes = occasion, probes
        self._freedom = max(len(probes) - 1, MIN_FREEDOM)
        self._trial = BETWEEN_RUNS
        around_s = np.array([probe.around_s for probe in probes])
        self._around_sd_s = _deviation(around_s, MIN_AROUND_SD_S)
        self._around_s = self._mean_of(around_s, MIN_AROUND_SD_S)
        after_s = np.array([probe.after_s for probe in probes])
        self._after_s = self._mean_of(after_s, MIN_AROUND_SD_S) + occasion.landing_s
        self._active_w = [probe.active_w for probe in probes if probe.active_w]
        self._idle_w, self._around_w = self._watts("idle_w"), self._watts("around_w")

    def _watts(self, name: str) -> Draws | None:
        found = [watts for probe in self._probes if (watts := getattr(probe, name)) is not None]
        if len(found) < len(self._probes):
            return None
        return self._mean_of(np.array(found), BETWEEN_RUNS * float(np.mean(found)))

    def _mean_of(self, values: Draws, least: float) -> Draws:
        """What the mean over many cells may be, by Student's t."""
        drawn = self._occasion.chance.standard_t(self._freedom, self._occasion.num_draws)
        deviation = _deviation(values, least) / np.sqrt(len(values))
        return np.asarray(values.mean() + deviation * drawn)

    def draw(self, cells: Sequence[PlannedCell]) -> list[_Drawn]:
        """Time and energy of each."""
        passes = [cell.work for cell in cells]
        tests = [replace(work, trains=False) for work in passes]
        sample_s = self._carry([probe.sample_s for probe in self._probes], passes + tests, TIME)
        slowness = np.exp(max(BETWEEN_OCCASIONS, self._trial) * self._occasion.normal)
        sample_s *= slowness
        self._around_s *= slowness
        active_w: Sequence[Draws | None] = [None] * len(cells)
        if len(self._active_w) == len(self._probes):
            active_w = list(self._carry(self._active_w, passes, POWER))
        of_pass, of_test = sample_s[: len(cells)], sample_s[len(cells) :]
        return [
            self._draw_cell(*one) for one in zip(cells, of_pass, of_test, active_w, strict=True)
        ]

    def _carry(self, found: Sequence[float], asked: Sequence[Work], spread: Spread) -> Draws:
        """What was found for the probes, carried over to `asked`: a row for each."""
        chance, num_draws = self._occasion.chance, self._occasion.num_draws
        told = tell([probe.work for probe in self._probes], list(np.log(found)), asked, spread)
        self._trial = max(self._trial, told.trial)
        normal = told.root @ chance.standard_normal((len(asked), num_draws))
        tails = np.sqrt(self._freedom / chance.chisquare(self._freedom, num_draws))
        return np.asarray(np.exp(told.mean[:, None] + normal * tails))

    def _draw_cell(
        self, cell: PlannedCell, sample_s: Draws, test_sample_s: Draws, active_w: Draws | None
    ) -> _Drawn:
        occasion = self._occasion
        runs = occasion.repetitions(cell)
        pass_s = cell.pass_samples * sample_s
        rounds = np.maximum(1.0, np.ceil(cell.min_active_s / pass_s))
        busy_s = cell.num_passes * rounds * pass_s
        busy_s += cell.evaluation_samples * test_sample_s + cell.warmup_samples * sample_s
        own = occasion.chance.standard_normal((2, occasion.num_draws)) / np.sqrt(runs)
        busy_s *= np.exp(self._trial * own[0])
        around_s = self._around_s + self._around_sd_s * own[1]
        energy_j = None
        if active_w is not None and self._idle_w is not None and self._around_w is not None:
            waiting_j = self._idle_w * cell.waiting_s
            energy_j = runs * (waiting_j + active_w * busy_s + self._around_w * around_s)
        time_s = runs * (cell.waiting_s + busy_s + around_s + self._after_s)
        return _Drawn(time_s=time_s, energy_j=energy_j, num_earlier=0)


def _deviation(values: Draws, least: float) -> float:
    return max(least, float(np.std(values, ddof=1))) if len(values) > 1 else least
