"""A small real classifier that tells the simulated machine when it works.

Run it with `model._target_=greenlab.simulated.beacon.build` in a process that was given the
machine's environment(). Elsewhere it is an ordinary model.
"""

import mmap
import os
import time
from functools import cache
from pathlib import Path

import torch
from torch import nn

BEAT_PERIOD_S = 0.01


@cache
def _beacon() -> "memoryview[float] | None":
    """The shared word that holds the time of the last beat: out of the model, which is copied."""
    path = os.environ.get("SIMULATED_BEACON")
    if not path:
        return None
    with Path(path).open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0)).cast("d")


def beat() -> None:
    """Keep the simulated machine active for the next 50 ms."""
    if (beacon := _beacon()) is not None:
        beacon[0] = time.monotonic()


class BeaconClassifier(nn.Module):
    """Mean colours of a 4 by 4 grid, then one linear layer."""

    def __init__(self, *, num_classes: int, num_channels: int, step_s: float) -> None:
        super().__init__()
        self.step_s = step_s
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.classifier = nn.Linear(num_channels * 16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        beat()
        until_s = time.monotonic() + self.step_s
        scores: torch.Tensor = self.classifier(self.pool(images).flatten(1))
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(BEAT_PERIOD_S, left_s))
            beat()
        beat()
        return scores


def build(num_classes: int = 10, num_channels: int = 3, step_s: float = 0.0) -> nn.Module:
    """Build it; each forward pass takes at least `step_s` seconds, slept rather than burnt."""
    return BeaconClassifier(num_classes=num_classes, num_channels=num_channels, step_s=step_s)
