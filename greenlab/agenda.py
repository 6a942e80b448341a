"""What a sweep has still to measure, and in which order. Pure: it hears of results and decides.

Machines drift: they warm up, their neighbours come and go. Where cells run as the command line has
them, the factor that varies slowest takes that drift for its own effect. In random order, the whole
grid once per repetition, no factor does.
"""

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from greenlab.config import Config, Order
from greenlab.uncertainty import mean_half_width

FIRST_REPETITIONS = 3
"""Of every cell before `repetitions=auto` knows which are noisy.

Whoever stops at the first interval that is narrow enough stops too early at times. Simulated over
4,000 cells of normal scatter each (0.5 to 10 %, target 3 %, 10 repetitions at most), intervals of
95 % held the true mean in 91 to 95 % of cases; beginning with 2 it was 89 to 95 %.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One measurement of one cell."""

    cell: int
    """Its place in the grid as composed, from 0."""
    repetition: int
    """From 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a task."""

    is_finished: bool
    net_j: float | None = None
    """None without a number that may be averaged: failed, no source, INVALID, or stopped early."""
    is_transient: bool = False
    """Of a failure: whether another try may end better."""


def arrange(num_cells: int, repetitions: int, order: Order, seed: int) -> list[Task]:
    """All tasks of a grid, in the order in which they are to be measured."""
    if order is Order.sequential:
        return [
            Task(cell=cell, repetition=repetition)
            for cell in range(num_cells)
            for repetition in range(1, repetitions + 1)
        ]
    blocks = _blocks(num_cells, order, seed)
    return [
        Task(cell=cell, repetition=repetition)
        for repetition in range(1, repetitions + 1)
        for cell in next(blocks)
    ]


def _blocks(num_cells: int, order: Order, seed: int) -> Iterator[list[int]]:
    """The grid's cells once, again and again; the first blocks do not depend on how many follow."""
    generator = random.Random(seed)
    while True:
        cells = list(range(num_cells))
        if order is Order.shuffle:
            generator.shuffle(cells)
        yield cells


def relative_half_width(values: Sequence[float]) -> float:
    """95 % half-width of the mean of `values`, over that mean; inf for fewer than two.

    It holds what differs from run to run, and not what all of them have in common.
    """
    mean = fmean(values) if values else 0.0
    return mean_half_width(values) / abs(mean) if mean else math.inf


class Agenda:
    """The tasks of one sweep: handed out by `take`, and settled by `settle`."""

    def __init__(self, num_cells: int, rules: Config, seed: int) -> None:
        self._rules = rules
        self.is_auto = rules.repetitions == "auto"
        repetitions = FIRST_REPETITIONS if self.is_auto else rules.repetitions
        tasks = arrange(num_cells, repetitions, rules.order, seed)
        self._open = OrderedDict.fromkeys(tasks)
        self._positions = {task: place for place, task in enumerate(self._open, start=1)}
        self._last = dict.fromkeys(range(num_cells), repetitions)
        self._tries = Counter[Task]()
        self._net_j: dict[int, list[float]] = {cell: [] for cell in range(num_cells)}
        self._spread: dict[int, float] = {}
        """Relative half-width of each cell's mean; of those without a number none, for more of the
        same would not help."""
        self._given_up: set[int] = set()
        """Cells that failed for good: auto leaves them."""
        self.num_finished = self.num_failed = 0

    @property
    def num_tasks(self) -> int:
        """Tasks known so far; with auto there may be more to come."""
        return len(self._positions)

    @property
    def num_open(self) -> int:
        """Tasks that are known and not yet taken."""
        return len(self._open)

    def position(self, task: Task) -> int:
        """Its place in the order, from 1."""
        return self._positions[task]

    def _enter(self, task: Task) -> None:
        self._positions.setdefault(task, len(self._positions) + 1)
        self._last[task.cell] = max(self._last[task.cell], task.repetition)

    @property
    def num_settled(self) -> int:
        """Tasks that are finished or have failed for good."""
        return self.num_finished + self.num_failed

    @property
    def is_stopped(self) -> bool:
        """Whether more tasks have failed than `max_failures` allows."""
        most = self._rules.max_failures
        return most is not None and self.num_failed >= most

    def take(self, at_most: int | None) -> list[Task]:
        """The next tasks; none when all is done, or too much has failed."""
        if self.is_stopped:
            return []
        if not self._open and self.is_auto:
            self._open = OrderedDict.fromkeys(self._again()[:at_most])
            for task in self._open:
                self._enter(task)
        number = len(self._open) if at_most is None else min(at_most, len(self._open))
        return [self._open.popitem(last=False)[0] for _ in range(number)]

    def settle(self, task: Task, result: Result) -> bool:
        """Hear what came of a task; returns whether it will be tried again."""
        self._enter(task)  # auto: one that the sweep came to before it was resumed
        self._open.pop(task, None)
        if result.is_finished:
            self.num_finished += 1
            if result.net_j is not None:
                values = self._net_j[task.cell]
                values.append(result.net_j)
                self._spread[task.cell] = relative_half_width(values)
            return False
        self._tries[task] += 1
        if result.is_transient and self._tries[task] <= self._rules.retries:
            self._open[task] = None
            self._open.move_to_end(task, last=False)
            return True
        self.num_failed += 1
        self._given_up.add(task.cell)
        return False

    def _again(self) -> list[Task]:
        """One more task for each cell that is too noisy still, the noisiest first."""
        noisy = [cell for cell in self._too_noisy() if self._last[cell] < self._most]
        return [Task(cell=cell, repetition=self._last[cell] + 1) for cell in noisy]

    def _too_noisy(self) -> list[int]:
        limit = self._rules.target_rel_ci
        noisy = [cell for cell, half in self._spread.items() if half > limit]
        kept = [cell for cell in sorted(noisy) if cell not in self._given_up]
        return sorted(kept, key=lambda cell: -self._spread[cell])

    @property
    def _most(self) -> int:
        return self._rules.max_repetitions

    def capped(self) -> dict[int, float]:
        """With auto: cells that `max_repetitions` ended, with the relative half-width reached."""
        if not self.is_auto:
            return {}
        return {
            cell: self._spread[cell] for cell in self._too_noisy() if self._last[cell] >= self._most
        }
