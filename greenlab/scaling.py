"""From a few workloads that were tried to many that were not: time per sample, and power.

The logarithm of a quantity is taken to be a sum of normal effects, whose spreads are set out below:
a slope on the multiply-accumulates, training or not, batch size, and what is peculiar to a model,
to a model in one phase, and to a model at one batch size. What was tried fixes them as far as it
can (a Gaussian process, Rasmussen and Williams 2006, ch. 2); what is left open comes out as a
covariance, so that the errors of workloads that rest on the same trial stay together when they are
added up. How well each trial is told from the others, left out in turn (ibid., eq. 5.12), sets the
scale of it all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
TRAINING_MACS = 3
"""A training step's over a forward pass's: the backward pass has twice as many (Kaplan et al.,
*Scaling Laws for Neural Language Models*, 2020, Sec. 2.1)."""
MIN_SCALE = 0.5
"""Of the spreads below, however well the trials agree: eight are few to tell from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What is run on a sample."""

    model: str
    """Tells models apart."""
    macs: int
    """Of one sample's forward pass."""
    batch_size: int
    trains: bool

    @property
    def size(self) -> float:
        """Logarithm of what a sample costs by count."""
        return math.log(max(self.macs, 1) * (TRAINING_MACS if self.trains else 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Standard deviations of the effects, in natural logarithms: 0.1 is about 10 %."""

    slope: float
    """That the quantity is proportional to the count has a slope of `expected_slope`."""
    expected_slope: float
    phase: float
    """Between training and inference, beyond their counts."""
    batch_slope: float
    """On the logarithm of the batch size; expected is `expected_batch_slope`."""
    expected_batch_slope: float
    model: float
    model_in_phase: float
    model_batch_slope: float
    trial: float
    """Between two trials of the same."""
    level: float = 30.0
    """Of all workloads: nothing is known of it beforehand."""


# Our choices, held against 16 architectures at three batch sizes on two CPU cores.
TIME = Spread(
    expected_slope=1.0,
    slope=0.2,
    phase=0.4,
    expected_batch_slope=-0.2,
    batch_slope=0.3,
    model=0.6,
    model_in_phase=0.15,
    model_batch_slope=0.15,
    trial=0.04,
)
POWER = Spread(
    expected_slope=0.0,
    slope=0.05,
    phase=0.1,
    expected_batch_slope=0.0,
    batch_slope=0.1,
    model=0.15,
    model_in_phase=0.05,
    model_batch_slope=0.05,
    trial=0.03,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """Logarithms of a quantity for several workloads, as far as the trials tell."""

    mean: Vector
    covariance: Vector
    """Of the errors of `mean`."""
    unrest: float
    """How far trials lie from what the others say, over how far they should; 1 at least."""

    @property
    def root(self) -> Vector:
        """Makes errors with this covariance out of independent standard normal numbers."""
        variances, directions = np.linalg.eigh(self.covariance)
        variances = np.clip(variances, 0.0, None)  # rounding leaves some just negative
        return np.asarray(directions * np.sqrt(variances))


def tell(
    tried: Sequence[Work], logarithms: Sequence[float], asked: Sequence[Work], spread: Spread
) -> Told:
    """Carry over what was found for `tried` to the workloads `asked` about."""
    known = _covariance(tried, tried, spread) + spread.trial**2 * np.eye(len(tried))
    shared = _covariance(asked, tried, spread)
    residuals = np.asarray(logarithms) - _expected(tried, spread)
    inverse = np.asarray(np.linalg.inv(known), dtype=np.float64)
    mean = _expected(asked, spread) + shared @ inverse @ residuals
    left_open = _covariance(asked, asked, spread) - shared @ inverse @ shared.T
    scale = _scale(inverse, residuals)
    return Told(mean=mean, covariance=left_open * scale**2, unrest=max(1.0, scale))


def _scale(inverse: Vector, residuals: Vector) -> float:
    """How far trials lie from what the others say, over how far they should."""
    if len(residuals) < 3:
        return 1.0
    standardised = inverse @ residuals / np.sqrt(np.diag(inverse))
    return max(MIN_SCALE, float(np.sqrt(np.mean(standardised**2))))


def choose(works: Sequence[Work], weights: Sequence[float], number: int) -> list[int]:
    """Which workloads to try, at most `number`: each the one that tells most of the weighted sum.

    Half of what counts is how much a workload weighs, half that it is one: what small ones take
    may not be told from the large ones.
    """
    weight = np.asarray(weights) / np.sum(weights) + 1 / len(works)
    open_ = _covariance(works, works, TIME)
    chosen: list[int] = []
    for _ in range(min(number, len(works))):
        gain = (open_ @ weight) ** 2 / (np.diag(open_) + TIME.trial**2)
        gain[chosen] = -1.0
        best = int(np.argmax(gain))
        chosen.append(best)
        column = open_[:, best]
        open_ = open_ - np.outer(column, column) / (column[best] + TIME.trial**2)
    return chosen


def _expected(works: Sequence[Work], spread: Spread) -> Vector:
    size, _, log_batch = _numbers(works)
    return spread.expected_slope * size + spread.expected_batch_slope * log_batch


def _covariance(ones: Sequence[Work], others: Sequence[Work], spread: Spread) -> Vector:
    size, phase, log_batch = (np.multiply.outer(a, b) for a, b in _centred(ones, others))
    same_model = np.equal.outer([w.model for w in ones], [w.model for w in others])
    same_phase = phase > 0
    return np.asarray(
        spread.level**2
        + spread.slope**2 * size
        + spread.phase**2 * phase
        + spread.batch_slope**2 * log_batch
        + same_model
        * (
            spread.model**2
            + spread.model_in_phase**2 * same_phase
            + spread.model_batch_slope**2 * log_batch
        )
    )


def _centred(ones: Sequence[Work], others: Sequence[Work]) -> list[tuple[Vector, Vector]]:
    """The numbers of both, counted from a workload in the middle of the usual."""
    middle = (math.log(1e8), 0.0, math.log(32))
    pairs = zip(_numbers(ones), _numbers(others), middle, strict=True)
    return [(a - centre, b - centre) for a, b, centre in pairs]


def _numbers(works: Sequence[Work]) -> tuple[Vector, Vector, Vector]:
    """Size, phase (±½, so that the two are `phase` apart) and logarithm of the batch size."""
    return (
        np.array([work.size for work in works]),
        np.array([0.5 if work.trains else -0.5 for work in works]),
        np.array([math.log(work.batch_size) for work in works]),
    )
