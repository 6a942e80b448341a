"""Which of several options is best, and which cannot be told from it.

PURE: numbers in, numbers out. Whoever picks the least of many noisy values picks luck as well (the
winner's curse), so that every pair of options counts as a comparison, whichever is looked at in the
end. Two options are told apart where Welch's t says so after Holm's correction over all comparisons
of a sweep, and where the interval of their difference, as wide as all pairs of its own options
together need (Bonferroni), excludes zero.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from multirun_analysis import statistics
from multirun_analysis.statistics import Estimate

SIGNIFICANT = 0.05
MOST_REPETITIONS = 30
"""A difference that needs more is not worth the energy of finding it; our choice."""
_NORMAL_95 = 1.959964
_POWER = 0.841621
"""So many standard errors farther must a difference lie to be found four times of five."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A mean with its standard error; NaN where the runs do not tell how sure it is."""

    mean: float
    error: float
    degrees: float
    """Of freedom of the error; inf where it is known by itself."""
    num: int
    """Runs."""

    @property
    def is_known(self) -> bool:
        """Whether it can be held against another."""
        return math.isfinite(self.mean) and math.isfinite(self.error)


UNKNOWN = Level(mean=math.nan, error=math.nan, degrees=math.nan, num=0)


def level(values: npt.ArrayLike, u95: float = math.nan) -> Level:
    """The mean of repetitions by their scatter, a single run by its own uncertainty.

    `u95` is half a 95 % interval of one run. Repetitions that agree to the digit tell no scatter.
    """
    kept = np.asarray(values, dtype=float).ravel()
    kept = kept[np.isfinite(kept)]
    if len(kept) == 0:
        return UNKNOWN
    if len(kept) == 1:
        error = u95 / _NORMAL_95 if u95 > 0 else math.nan
        return Level(mean=float(kept[0]), error=error, degrees=math.inf, num=1)
    mean, spread = float(kept.mean()), float(kept.std(ddof=1))
    known = spread > statistics.ROUNDING * float(np.abs(kept).max())
    error = spread / math.sqrt(len(kept)) if known else math.nan
    return Level(mean=mean, error=error, degrees=len(kept) - 1.0, num=len(kept))


def log_level(values: npt.ArrayLike, u95: float = math.nan) -> Level:
    """`level` of logarithms, for ratios; unknown where a value is not above zero."""
    kept = np.asarray(values, dtype=float).ravel()
    kept = kept[np.isfinite(kept)]
    if len(kept) == 0 or kept.min() <= 0:
        return UNKNOWN
    return level(np.log(kept), u95 / float(kept.mean()))


def weighed(parts: Sequence[tuple[float, Level]]) -> Level:
    """The sum of weight × level over independent parts (Satterthwaite 1946 for the degrees)."""
    mean = sum(weight * each.mean for weight, each in parts)
    squares = [(weight * each.error) ** 2 for weight, each in parts]
    error = math.sqrt(sum(squares))
    lost = sum(square**2 / each.degrees for square, (_, each) in zip(squares, parts, strict=True))
    degrees = sum(squares) ** 2 / lost if lost > 0 else math.inf
    return Level(
        mean=mean,
        error=error if error > 0 else math.nan,
        degrees=degrees,
        num=min(each.num for _, each in parts),
    )


def difference(a: Level, b: Level) -> Level:
    """B − a, with Welch's degrees of freedom (1947)."""
    return weighed(((1.0, b), (-1.0, a)))


def p_two_sided(found: Level) -> float:
    """P of a difference as large, were there none; NaN where it is not known how sure it is."""
    if not found.is_known:
        return math.nan
    return 2 * float(stats.t.sf(abs(found.mean) / found.error, found.degrees))


def p_above(found: Level) -> float:
    """One-sided p of a difference so far above zero."""
    if not found.is_known:
        return math.nan
    return float(stats.t.sf(found.mean / found.error, found.degrees))


def interval(found: Level, num_comparisons: int = 1) -> Estimate:
    """The 95 % interval, as wide as so many comparisons together need (Bonferroni)."""
    half = math.nan
    if found.is_known:
        tail = SIGNIFICANT / (2 * max(num_comparisons, 1))
        half = float(stats.t.isf(tail, found.degrees)) * found.error
    return Estimate(value=found.mean, low=found.mean - half, high=found.mean + half, num=found.num)


def inverse(ratio: Estimate) -> Estimate:
    """The ratio the other way round."""
    return Estimate(value=1 / ratio.value, low=1 / ratio.high, high=1 / ratio.low, num=ratio.num)


def num_pairs(num_options: int) -> int:
    """How many pairs so many options make."""
    return num_options * (num_options - 1) // 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """Which of several options are told apart, by their places."""

    levels: tuple[Level, ...]
    matrix: npt.NDArray[np.bool_]

    def differ(self, a: int, b: int) -> bool:
        """Whether these two are told apart."""
        return bool(self.matrix[a, b])

    def ratio(self, of: int, to: int) -> Estimate:
        """`of` / `to` of log levels, the interval as wide as all pairs of options need."""
        known = sum(each.is_known for each in self.levels)
        found = interval(difference(self.levels[to], self.levels[of]), num_pairs(known))
        value, low, high = (_exp(each) for each in (found.value, found.low, found.high))
        return Estimate(value=value, low=low, high=high, num=found.num)

    def peers(self, of: int, among: Sequence[int]) -> tuple[int, ...]:
        """Those `among` that cannot be told from `of`, itself included."""
        return tuple(one for one in among if one == of or not self.matrix[one, of])


def _exp(value: float) -> float:
    return math.inf if value >= 700 else math.exp(value)  # NaN stays NaN


def tests(levels: Sequence[Level]) -> list[float]:
    """P of every pair, in the order of itertools.combinations; NaN where one is not known."""
    return [p_two_sided(difference(a, b)) for a, b in itertools.combinations(levels, 2)]


def tell_apart(levels: Sequence[Level], p_holm: Sequence[float]) -> Apart:
    """Read the adjusted p of `tests`; what is not known is told from nothing."""
    matrix = np.zeros((len(levels), len(levels)), dtype=bool)
    num = num_pairs(sum(each.is_known for each in levels))
    for (a, b), p in zip(itertools.combinations(range(len(levels)), 2), p_holm, strict=True):
        found = interval(difference(levels[a], levels[b]), num)
        clear = found.low > 0 or found.high < 0  # False where it has no bounds
        matrix[a, b] = matrix[b, a] = p < SIGNIFICANT and clear
    return Apart(levels=tuple(levels), matrix=matrix)


def repetitions_needed(a: Level, b: Level, num_comparisons: int) -> int | None:
    """How many runs of both would tell them apart, were they to differ as they seem to.

    So many that four of five sweeps find it. None where they would be too many to be worth it.
    """
    found = difference(a, b)
    if not found.is_known or found.mean == 0:
        return None
    tail = SIGNIFICANT / (2 * max(num_comparisons, 1))
    now = max(min(a.num, b.num), 1)
    spread = found.error * math.sqrt(now)
    for num in range(max(now + 1, 3), MOST_REPETITIONS + 1):
        wanted = float(stats.t.isf(tail, 2 * num - 2)) + _POWER
        if abs(found.mean) * math.sqrt(num) >= wanted * spread:
            return num
    return None
