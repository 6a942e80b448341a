"""A beacon whose steps waver: their time and their load are never twice the same.

What real machines do to a measurement that is carried over to another one, each by a known amount:
steps scatter, seconds of work wander off and come back (other users, clocks), a machine that begins
cold gets slower and draws more as it warms, and two occasions are not quite alike. The settings are
the cell's, the chance is the occasion's: `$SIMULATED_OCCASION` seeds it, so that a profile and a
full run of the same cell have the same nature and not the same fate.
"""

import math
import os
import time
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from torch import nn

from greenlab.simulated.beacon import BeaconClassifier, Behaviour

OCCASION_VARIABLE = "SIMULATED_OCCASION"


@dataclass(frozen=True, kw_only=True, slots=True)
class Nature:
    """What a cell's steps are like; all but seconds and load are natural logarithms."""

    step_s: float
    """Of inference, cold."""
    train_times: float
    """A training step takes so many times as long."""
    load: float
    """Cold."""
    noise: float
    """Standard deviation of a step's time, each step by itself."""
    time_wavering: float
    """Standard deviation of an Ornstein–Uhlenbeck process on top, and so below."""
    load_wavering: float
    memory_s: float
    """In which such a process forgets itself to 1/e."""
    time_warming: float
    """From cold to warm, and so below."""
    load_warming: float
    thermal_s: float
    """In which 63 % of the way to warm is gone."""
    occasion: float
    """Standard deviation of the time from one process to another."""


class Wavering:
    """An Ornstein–Uhlenbeck process of standard deviation 1, looked at whenever one likes."""

    def __init__(self, memory_s: float, random: np.random.Generator) -> None:
        self._memory_s = memory_s
        self._random = random
        self._value, self._at_s = float(random.standard_normal()), 0.0

    def at(self, time_s: float) -> float:
        """Its value at a time that is not before the last one."""
        kept = math.exp((self._at_s - time_s) / self._memory_s)
        fresh = math.sqrt(1 - kept**2) * float(self._random.standard_normal())
        self._value, self._at_s = kept * self._value + fresh, time_s
        return self._value


class RestlessClassifier(BeaconClassifier):
    """The beacon's classifier, of a nature and on an occasion."""

    def __init__(
        self, *, num_classes: int, num_channels: int, nature: Nature, random: np.random.Generator
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            num_channels=num_channels,
            behaviour=Behaviour(step_s=nature.step_s),
        )
        self.nature = nature
        self._random = random
        self._luck = float(nature.occasion * random.standard_normal())
        self._time = Wavering(nature.memory_s, random)
        self._load = Wavering(nature.memory_s, random)
        self._began_s: float | None = None
        self._due_s: float | None = None

    def train(self, mode: bool = True) -> Self:
        """As any module's; it is called where a pass begins, whose first step is due at once."""
        self._due_s = None
        return super().train(mode)

    def draw_step(self) -> tuple[float, float]:
        """See BeaconClassifier; a machine is cold when its first step begins.

        Steps of a pass are due one after the other: one that a busy machine delays, or the gradient
        that follows it, is made up for by the next. What the real machine does leaves no trace.
        """
        now_s = time.monotonic()
        due_s = now_s if self._due_s is None else self._due_s
        self._began_s = due_s if self._began_s is None else self._began_s
        load, step_s = self.step_at(due_s - self._began_s)
        self._due_s = due_s + step_s
        return load, max(0.0, self._due_s - now_s)

    def step_at(self, time_s: float) -> tuple[float, float]:
        """Load and seconds of a step that begins so long after the first one."""
        nature, warm = self.nature, 1 - math.exp(-time_s / self.nature.thermal_s)
        longer = (
            self._luck
            + nature.time_warming * warm
            + nature.time_wavering * self._time.at(time_s)
            + nature.noise * float(self._random.standard_normal())
        )
        more = nature.load_warming * warm + nature.load_wavering * self._load.at(time_s)
        times = nature.train_times if self.training else 1.0
        return nature.load * math.exp(more), nature.step_s * times * math.exp(longer)


def build(num_classes: int = 10, num_channels: int = 3, **nature: Any) -> nn.Module:
    """Build it; `nature` as above."""
    random = np.random.default_rng(int(os.environ.get(OCCASION_VARIABLE, "0")))
    return RestlessClassifier(
        num_classes=num_classes, num_channels=num_channels, nature=Nature(**nature), random=random
    )
