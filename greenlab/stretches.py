"""How many stretches a profile takes: until joules per sample are known as well as was asked.

Pure. What is judged is the mean over the stretches of a kind so far, by Student's t: of net joules
per sample, or of seconds where nothing is metered. Stretches that follow each other are more alike
than those of a whole job; extrapolation.py allows for that, this does not.
"""

import math
from collections.abc import Sequence

from greenlab import energy
from greenlab.config import Config
from greenlab.energy import EnergyWindow
from greenlab.record import Pass
from greenlab.uncertainty import mean_half_width


def next_kind(passes: Sequence[Pass], idle: EnergyWindow, config: Config) -> bool | None:
    """Whether the next stretch trains; None where there is enough of both kinds.

    `idle` is the window before them.
    """
    phase = config.phase
    wanting: dict[bool, int] = {}
    for trains in (True, False) if config.trains else (False,):
        own = [one.window.duration_s for one in passes if one.trains == trains]
        half = rel_half_width(passes, idle, trains=trains)
        if len(own) < phase.min_stretches or (
            len(own) < phase.max_stretches and not half <= phase.target_rel_ci
        ):
            wanting[trains] = len(own)
    return min(wanting, key=lambda trains: wanting[trains]) if wanting else None


def rel_half_width(passes: Sequence[Pass], idle: EnergyWindow, *, trains: bool) -> float:
    """Half-width of the 95 % interval of the mean cost per sample over that mean.

    Of one kind of stretches; infinite for a single one, and where the mean is not above zero.
    """
    costs = costs_per_sample(passes, idle, trains=trains)
    mean = sum(costs) / len(costs) if costs else 0.0
    if mean <= 0:
        return math.inf
    return mean_half_width(costs) / mean


def costs_per_sample(passes: Sequence[Pass], idle: EnergyWindow, *, trains: bool) -> list[float]:
    """Net joules per sample of each stretch of a kind, all components together; or seconds."""
    idle_w = energy.mean_power_w(idle)
    return [
        (
            energy.total(energy.net_energy_j(one.window, idle_w))
            if one.window.energy_j
            else one.window.duration_s
        )
        / one.outcome.num_samples
        for one in passes
        if one.trains == trains
    ]
