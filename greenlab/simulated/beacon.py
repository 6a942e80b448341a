"""A small real classifier that tells the simulated machine when it works, and how hard.

Run it with `model._target_=greenlab.simulated.beacon.build` in a process that was given the
machine's environment(). Elsewhere it is an ordinary model.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

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


class BeaconClassifier(nn.Module):
    """Mean colours of a 4 by 4 grid, then one linear layer."""

    def __init__(
        self,
        *,
        num_classes: int,
        num_channels: int,
        step_s: float,
        loads: Sequence[float],
        freeze_at_step: int | None,
    ) -> None:
        super().__init__()
        self.step_s = step_s
        self.loads = loads
        self.freeze_at_step = freeze_at_step
        self.num_steps = 0
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Linear(num_channels * 16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        load = self.loads[int(time.monotonic()) % len(self.loads)]
        beat(load)
        until_s = time.monotonic() + self.step_s
        scores: torch.Tensor = self.classifier(self.pool(images).flatten(1))
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(BEAT_PERIOD_S, left_s))
            beat(load)
        beat(load)
        self.num_steps += 1
        if self.num_steps == self.freeze_at_step:
            _freeze(2.0, load)
        return scores


def _freeze(duration_s: float, load: float) -> None:
    """Keep every other thread of this process from running, as a careless extension may."""
    beat(load, ahead_s=duration_s)
    ctypes.PyDLL(None).usleep(int(duration_s * 1e6))  # PyDLL holds on to the interpreter's lock
    beat(load)


def build(
    num_classes: int = 10,
    num_channels: int = 3,
    step_s: float = 0.0,
    loads: Sequence[float] = (1.0,),
    freeze_at_step: int | None = None,
) -> nn.Module:
    """Build it; each forward pass takes at least `step_s` seconds, slept rather than burnt.

    `loads` follow one another, a second each. At step `freeze_at_step` the interpreter stands still
    for two seconds, while the machine goes on working.
    """
    return BeaconClassifier(
        num_classes=num_classes,
        num_channels=num_channels,
        step_s=step_s,
        loads=loads,
        freeze_at_step=freeze_at_step,
    )
