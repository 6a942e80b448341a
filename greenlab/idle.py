"""Meters the machine doing nothing: settle, then a window of sleep.

The model is loaded and the sampler running, as during the passes, so that what is subtracted is
what the machine would have drawn all the same.
"""

import time
from collections.abc import Callable

from greenlab.config import Idle
from greenlab.energy import EnergyWindow
from greenlab.meters import Meter


def measure_idle(
    meter: Meter,
    idle: Idle,
    synchronise: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyWindow:
    """Wait `idle.settle_s`, then meter `idle.window_s` of nothing."""
    synchronise()
    sleep(idle.settle_s)
    meter.begin()
    sleep(idle.window_s)
    synchronise()
    return meter.end()
