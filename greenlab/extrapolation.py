"""From a few short stretches of work to a whole job: time and energy, with a prediction interval.

Pure.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greenlab.plan import Estimate

NUM_DRAWS = 4000

Draws = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A short piece of training or of inference, metered."""

    trains: bool
    started_s: float
    """By any clock that all stretches share."""
    duration_s: float
    num_samples: int
    gross_j: float | None
    """All components together; None where nothing was metered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profiled:
    """What a profile found."""

    stretches: tuple[Stretch, ...]
    """In order of time."""
    idle_w: float | None
    """All components together; None where nothing was metered."""
    idle_u95_w: float
    """95 % half-width of idle power, as far as counters leave it open."""
    once_s: float
    """Loading and warming up, once a job."""
    once_j: float | None
    """Gross."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be done."""

    train_samples: float = 0.0
    """Of all epochs together; none: 0."""
    evaluation_samples: float = 0.0
    inference_samples: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a job, or a part of it, will take; each a 95 % prediction interval."""

    time_s: Estimate
    gross_j: Estimate | None
    """None where nothing is metered, and so below."""
    net_j: Estimate | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """A job, part by part; a part that the job has not, or that was not profiled, is None."""

    train: Forecast | None
    inference: Forecast | None
    evaluation: Forecast | None
    once: Forecast | None
    """Loading and warming up: time, and gross energy alone."""
    whole: Forecast
    """All parts together, drawn together: what they share they are wrong about together."""


def extrapolate(profiled: Profiled, job: Job) -> Extrapolation:
    """Say what `job` will take on the machine that was profiled.

    Raises:
        ValueError: the job has a part of which there is no stretch.
    """
    raise NotImplementedError
