"""How accurate a training will be after its last epoch, from the epochs so far.

Pure. Whoever ends trainings by this must not end one that would have been good: all that is assumed
leans to the good.

- *The curve*: an epoch's training accuracy is the mean over the epoch while weights change, and
  stands for the middle of it. It is taken to rise from chance as a + (A − a)·F(t), with F a Hill or
  a Weibull function of time: power laws and exponentials, with or without a slow start (MMF and
  Weibull in Domhan, Springenberg and Hutter, *Speeding up automatic hyperparameter optimization of
  deep neural networks by extrapolation of learning curves*, IJCAI 2015). Start, asymptote, time
  scale and steepness are tried on a grid and weighed by how likely they make the epochs so far. The
  noise is not known (inverse gamma); no curve is exactly of these families, so that an epoch counts
  for half of what it would if it were.
- *The lift*: as the cosine schedule ends, a model comes to rest and its error falls below what the
  curve foretells, the more the higher the learning rate still is.
- *The gap* from training to test accuracy: as in the rivals, never below zero on average, and a
  good deal either way.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 2000
STEEPNESS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Of F: below 1 a long tail, above it a slow start. Our choice, each as likely as the others."""
TIME_SCALES = 0.02 * 10 ** np.linspace(0.0, 3.5, 29)
"""Of F over all epochs, even on a logarithmic scale: from two hundredths of them to sixty times as
many. Our choice."""
LATE = 1.0
"""Power by which scales beyond all epochs lose weight: what has not begun may begin yet."""
ASYMPTOTES = np.linspace(0.0, 1.0, 41)
HIGH = 0.05
"""Errors of the asymptotes are about as likely on a logarithmic scale, down to this: good models
are no rarity. Our choice."""
STARTS_OVER_CHANCE = (0.5, 1.0, 2.0)
"""Accuracy of an untrained model over one in the number of classes."""
NOISE = 0.01
"""Of an epoch's accuracy around its curve, as far as the curve does not tell; our choice."""
TEMPER = 0.5
"""What an epoch counts for: see above. Our choice."""
LIFT = 0.6
"""Standard deviation (half-normal) of the logarithm of the curve's error over the final one, at the
full learning rate: a quarter of the error within 95 %. CIFAR-10 at 0.1: from 15 or 20 % to 5. Our
choice."""
GAP = 0.04
"""Standard deviation of test accuracy around training accuracy plus the gap. Our choice."""
SLOW_START_SHARE = 0.5
"""Of all epochs, in which a training may stay at chance and learn all the same. Our choice. What
begins later is given up: of made-up curves that rise steeply at 35 to 60 % of the epochs, one in
six was."""
BEGUN = 0.1
"""Part of the way from chance to 1 on which a training is seen to learn. Our choice."""
Array = NDArray[np.float64]


def may_begin_yet(accuracies: Sequence[float], planned_epochs: int, num_classes: int) -> bool:
    """Whether a training that has not begun to learn is still in its first half.

    No curve tells of a rise that has not begun, so that nothing is foretold of it.
    """
    chance = 1 / num_classes
    has_begun = max(accuracies) > chance + BEGUN * (1 - chance)
    return not has_begun and len(accuracies) < SLOW_START_SHARE * planned_epochs


def foretell_accuracy(
    accuracies: Sequence[float], planned_epochs: int, num_classes: int, gaps: Sequence[float]
) -> Array:
    """Accuracy on the test split after the last epoch, drawn many times.

    `accuracies` are those of training in each epoch so far; `gaps` are the rivals'.
    """
    random = np.random.default_rng(0)  # the same curve has the same end
    error = 1 - _curve_ends(np.array(accuracies), planned_epochs, num_classes, random)
    rate = (1 + math.cos(math.pi * len(accuracies) / planned_epochs)) / 2
    lift = LIFT * rate * np.abs(random.standard_normal(NUM_DRAWS))
    centre = max(0.0, float(np.mean(gaps))) if gaps else 0.0
    spread = math.hypot(GAP, float(np.std(gaps, ddof=1)) if len(gaps) > 1 else 0.0)
    tested = 1 - error * np.exp(-lift) + centre + spread * random.standard_normal(NUM_DRAWS)
    return np.clip(tested, 0.0, 1.0)  # a fraction: draws beyond 1 are of no model


def _curve_ends(
    accuracies: Array, planned_epochs: int, num_classes: int, random: np.random.Generator
) -> Array:
    """Where the curve is after the last epoch: draws from all that are tried, as they fit."""
    middles = np.arange(len(accuracies)) + 0.5
    steepness, scale = np.array(STEEPNESS), TIME_SCALES * planned_epochs
    times = np.append(middles, planned_epochs)
    power = (times / scale[:, None]) ** steepness[:, None, None]
    rises = np.stack([power / (1 + power), -np.expm1(-power)])  # family, steepness, scale, time
    weights = np.broadcast_to(np.minimum(1.0, TIME_SCALES**-LATE), rises.shape[:-1])
    rises, prior = rises.reshape(-1, len(times)), np.log(weights).reshape(-1, 1, 1)
    seen, end = rises[:, :-1], rises[:, -1]

    start = (np.array(STARTS_OVER_CHANCE) / num_classes)[:, None]
    height = ASYMPTOTES - start
    # Σ (y − a − h·F)², multiplied out: each sum once for a curve's shape, not for its heights.
    over = ((accuracies[:, None, None] - start) ** 2).sum(axis=0)
    along = (seen @ accuracies)[:, None, None] - start * seen.sum(axis=1)[:, None, None]
    squares = over - 2 * height * along + height**2 * (seen**2).sum(axis=1)[:, None, None]
    # Noise of unknown strength, inverse gamma: Student's t.
    freedom = 1 + TEMPER * len(accuracies) / 2
    prior = prior - np.log(1 - ASYMPTOTES + HIGH)
    logs = prior - freedom * np.log(NOISE**2 + TEMPER * np.abs(squares) / 2)
    logs = np.where(height >= 0, logs, -np.inf)
    summed = np.cumsum(np.exp(logs - logs.max()))
    drawn = summed[-1] * (random.permutation(NUM_DRAWS) + random.random(NUM_DRAWS)) / NUM_DRAWS
    shape, which, asymptote = np.unravel_index(np.searchsorted(summed, drawn), logs.shape)
    return np.asarray(start[which, 0] + height[which, asymptote] * end[shape])
