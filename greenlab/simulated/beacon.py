"""A small real classifier that tells the simulated machine when it works, and how hard.

Run it with `model._target_=greenlab.simulated.beacon.build` in a process that was given the
machine's environment(). Elsewhere it is an ordinary model.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

BEAT_PERIOD_S = 0.01


@cache
def _beacon() -> "memoryview[float] | None":
    """The words that writer.py follows (its BEACON_FIELDS): out of the model, which is copied."""
    path = os.environ.get("SIMULATED_BEACON")
    if not path:
        return None
    with Path(path).open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("d")


def beat(load: float = 1.0, ahead_s: float = 0.0) -> None:
    """Keep the simulated machine active until 50 ms from now, or from `ahead_s` later."""
    if (beacon := _beacon()) is not None:
        beacon[1] = load
        beacon[0] = time.monotonic() + ahead_s


def approach_wrap(left_j: float) -> None:
    """Let every counter of the machine go to so many joules before the end of its range."""
    if (beacon := _beacon()) is not None:
        beacon[2] = left_j
        while beacon[2]:
            time.sleep(0.001)


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """What its steps do to the machine."""

    step_s: float = 0.0
    """A step takes at least so long, slept rather than burnt."""
    loads: Sequence[float] = (1.0,)
    """They follow one another, a second each."""
    freeze_at_step: int | None = None
    """The interpreter stands still for two seconds then, while the machine goes on working."""
    wrap_after_j: float | None = None
    """At the first step, which warms up, counters go so far before the end of their range."""


class BeaconClassifier(nn.Module):
    """Mean colours of a 4 by 4 grid, then one linear layer."""

    def __init__(self, *, num_classes: int, num_channels: int, behaviour: Behaviour) -> None:
        super().__init__()
        self.behaviour = behaviour
        self.num_steps = 0
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Linear(num_channels * 16, num_classes)

    def draw_step(self) -> tuple[float, float]:
        """The load of the step that begins now, and how many seconds it takes at least."""
        does = self.behaviour
        return does.loads[int(time.monotonic()) % len(does.loads)], does.step_s

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        does = self.behaviour
        if self.num_steps == 0 and does.wrap_after_j is not None:
            approach_wrap(does.wrap_after_j)
        load, step_s = self.draw_step()
        beat(load)
        until_s = time.monotonic() + step_s
        scores: torch.Tensor = self.classifier(self.pool(images).flatten(1))
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(BEAT_PERIOD_S, left_s))
            beat(load)
        beat(load)
        self.num_steps += 1
        if self.num_steps == does.freeze_at_step:
            _freeze(2.0, load)
        return scores


def _freeze(duration_s: float, load: float) -> None:
    """Keep every other thread of this process from running, as a careless extension may."""
    beat(load, ahead_s=duration_s)
    ctypes.PyDLL(None).usleep(int(duration_s * 1e6))  # PyDLL holds on to the interpreter's lock
    beat(load)


def build(num_classes: int = 10, num_channels: int = 3, **behaviour: Any) -> nn.Module:
    """Build it; `behaviour` as above."""
    return BeaconClassifier(
        num_classes=num_classes, num_channels=num_channels, behaviour=Behaviour(**behaviour)
    )
