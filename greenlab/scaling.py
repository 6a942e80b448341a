"""From a few workloads that were tried to many that were not: time per sample, and power.

The logarithm of a quantity is taken to be a sum of normal effects, whose spreads are set out below:
a slope on the multiply-accumulates, training or not, batch size, and what is peculiar to a model,
to a model in one phase, and to a model at one batch size. What was tried fixes them as far as it
can (a Gaussian process, Rasmussen and Williams 2006, ch. 2); what is left open comes out as a
covariance, so that the errors of workloads that rest on the same trial stay together when they are
added up. How noisy trials are and how peculiar models is not known either: all of it is weighed by
how likely it makes the trials (ibid., Sec. 5.2) and by what is usual. On a busy machine, two trials
of the same are far apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
TRAINING_MACS = 3
"""A training step's over a forward pass's: the backward pass has twice as many (Kaplan et al.,
*Scaling Laws for Neural Language Models*, 2020, Sec. 2.1)."""
NOISES = tuple(1.5**n for n in range(8))
"""Times that trials may be noisier than usual: up to 17."""
SCALES = tuple(1.25**n for n in range(-3, 6))
"""Times that all other effects may be as strong as usual: a half to three."""
NEGLIGIBLE = 1e-3
"""Of the most likely."""
NOISE_PRIOR, SCALE_PRIOR = 1.0, 0.35
"""How far both are from 1 beforehand: standard deviations of their logarithms. Our choice; a few
trials tell little of the second."""


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

    def times(self, scale: float) -> "Spread":
        """All effects but level and trials so much stronger."""
        effects = ("slope", "phase", "batch_slope", "model", "model_in_phase", "model_batch_slope")
        return replace(self, **{name: scale * getattr(self, name) for name in effects})


# Our choices, held against timings of seven architectures on two busy CPU cores.
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
    trial: float
    """Standard deviation of a trial, natural logarithm, as far as these tell."""

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
    residuals = np.asarray(logarithms) - _expected(tried, spread)
    beyond, covariance, variance = (np.zeros(n) for n in (len(asked), (len(asked),) * 2, ()))
    squares = np.zeros_like(covariance)
    for chance, trial, fitted in _fits(tried, residuals, spread):
        known = _covariance(tried, tried, fitted) + trial**2 * np.eye(len(tried))
        shared = _covariance(asked, tried, fitted)
        weights = shared @ np.linalg.inv(known)
        own = weights @ residuals
        covariance += chance * (_covariance(asked, asked, fitted) - weights @ shared.T)
        beyond, variance = beyond + chance * own, variance + chance * trial**2
        squares += chance * np.outer(own, own)
    return Told(
        mean=_expected(asked, spread) + beyond,
        covariance=covariance + squares - np.outer(beyond, beyond),
        trial=math.sqrt(variance),
    )


def _fits(
    tried: Sequence[Work], residuals: Vector, spread: Spread
) -> list[tuple[float, float, Spread]]:
    """How noisy trials may be and how strong effects, each with its probability."""
    fits, logarithms = [], []
    for scale in SCALES:
        fitted = spread.times(scale)
        effects = _covariance(tried, tried, fitted)
        for noise in NOISES:
            trial = noise * spread.trial
            known = effects + trial**2 * np.eye(len(tried))
            misfit = residuals @ np.linalg.solve(known, residuals)
            prior = (math.log(noise) / NOISE_PRIOR) ** 2 + (math.log(scale) / SCALE_PRIOR) ** 2
            fits.append((trial, fitted))
            logarithms.append(-(misfit + np.linalg.slogdet(known)[1] + prior) / 2)
    chances = np.exp(np.array(logarithms) - max(logarithms))
    chances[chances < NEGLIGIBLE] = 0.0
    chances /= chances.sum()
    return [(float(c), *fit) for c, fit in zip(chances, fits, strict=True) if c]


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
