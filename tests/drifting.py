"""A model on a machine that drifts: with each cell that was measured before, it draws more."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from greenlab.record import RECORD_FILE
from greenlab.simulated.beacon import BeaconClassifier, Behaviour


def build(num_classes: int, drift_per_cell: float, step_s: float) -> nn.Module:
    """Net power is `drift_per_cell` more, as a fraction, for each record under multirun/."""
    num_before = len(list(Path("multirun").rglob(RECORD_FILE)))
    behaviour = Behaviour(step_s=step_s)
    return BeaconClassifier(
        num_classes=num_classes,
        num_channels=3,
        behaviour=replace(behaviour, loads=(1 + drift_per_cell * num_before,)),
    )
