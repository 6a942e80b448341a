"""Models that go wrong on the simulated machine: `model._target_=misbehaving.build`."""

import ctypes
import os
import signal
import time
from collections.abc import Callable

import torch

from greenlab.simulated.beacon import BeaconClassifier, Behaviour


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, Callable[[], object]] = {
    "killed": _kill,
    "segfault": lambda: ctypes.string_at(0),
    "oom": lambda: torch.empty(1 << 50),
    "error": lambda: {}["planted"],
    "hangs": lambda: time.sleep(1000),
    "diverges": lambda: None,
}


class Misbehaving(BeaconClassifier):
    """Works like the beacon until a step; those of a single sample do not count, it is tried."""

    def __init__(self, num_classes: int, fault: str, at_step: int, behaviour: Behaviour) -> None:
        super().__init__(num_classes=num_classes, num_channels=3, behaviour=behaviour)
        self.fault = fault
        self.steps_left = at_step

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = super().forward(images)
        if len(images) > 1:
            self.steps_left -= 1
        if self.steps_left > 0:
            return scores
        FAULTS[self.fault]()
        return scores * torch.nan


def build(num_classes: int, fault: str, at_step: int, **behaviour: float) -> torch.nn.Module:
    """Go wrong at the step of that number, 1 being the first that warms up."""
    return Misbehaving(num_classes, fault, at_step, Behaviour(**behaviour))  # type: ignore[arg-type]
