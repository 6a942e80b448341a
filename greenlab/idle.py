"""Meters the machine doing nothing: settle, let the GPUs cool down, then a window of sleep.

The model is loaded and the sampler running, as during the passes, so that what is subtracted is
what the machine would have drawn all the same. Hot silicon leaks more: all idle windows of a sweep
begin at about the temperature of its first.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from greenlab import energy
from greenlab.account import OpenAccount
from greenlab.config import Idle
from greenlab.energy import EnergyWindow
from greenlab.meters import Meter
from greenlab.meters.gpu_probe import GpuProbe, Reader
from greenlab.record import Cooling

logger = logging.getLogger(__name__)

POLL_S = 1.0
SAY_AFTER_S, SAY_EVERY_S = 3.0, 10.0
TEMPERATURE = "_temperature_celsius"


@dataclass(frozen=True, kw_only=True, slots=True)
class IdleWindow:
    """The machine doing nothing, and how long it was waited for."""

    window: EnergyWindow
    cooling: Cooling


@dataclass(frozen=True, kw_only=True, slots=True)
class Idling:
    """What the idle windows of a cell have in common."""

    meter: Meter
    account: OpenAccount
    settings: Idle
    thermometers: Mapping[str, Reader]
    """Degrees Celsius by GPU."""
    synchronise: Callable[[], None]

    def measure(self, name: str, found_celsius: Mapping[str, float]) -> IdleWindow:
        """Settle and meter one window; no GPU shall be much warmer than it was found once."""
        self.account.enter("settling")
        self.synchronise()
        time.sleep(self.settings.settle_s)
        cooling = cool_down(self.settings, self.thermometers, found_celsius)
        self.account.enter("idle")
        window = measure_idle(self.meter, self.settings.window_s, self.synchronise)
        self.account.keep(name, window)
        described = energy.describe(window, self.meter.modelled)
        logger.info("%s: %s", name.replace("_", " "), described)
        return IdleWindow(window=window, cooling=cooling)


def measure_idle(
    meter: Meter,
    window_s: float,
    synchronise: Callable[[], None],
    sleep: Callable[[float], None] = time.sleep,
) -> EnergyWindow:
    """Meter `window_s` of nothing."""
    meter.begin()
    sleep(window_s)
    synchronise()
    return meter.end()


def thermometers(probes: Sequence[GpuProbe]) -> dict[str, Reader]:
    """Those of the GPUs that tell their temperature; NaN where a reading fails this once."""
    return {
        name.removesuffix(TEMPERATURE): read
        for probe in probes
        for name, read in probe.slow.items()
        if name.endswith(TEMPERATURE)
    }


def cool_down(
    settings: Idle,
    thermometers: Mapping[str, Reader],
    found_celsius: Mapping[str, float],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Cooling:
    """Wait until no GPU is warmer than it was found by more than `idle.settle_celsius`.

    One that is cooler is left alone: waiting would not warm it.
    """
    goal_celsius = {
        part: celsius + settings.settle_celsius
        for part, celsius in found_celsius.items()
        if part in thermometers
    }
    started_s = clock()
    say_at_s = started_s + SAY_AFTER_S
    while True:
        celsius = {part: read() for part, read in thermometers.items()}
        # Written so that a reading that failed is no sign of having cooled.
        warm = [part for part, goal in goal_celsius.items() if not celsius[part] <= goal]
        waited_s = clock() - started_s
        left_s = settings.settle_max_s - waited_s
        if not warm or left_s <= 0:
            break
        if clock() >= say_at_s:
            say_at_s += SAY_EVERY_S
            degrees = ", ".join(f"{p} {celsius[p]:.0f} °C" for p in warm)
            goals = ", ".join(f"{goal_celsius[p]:.0f} °C" for p in warm)
            logger.info("cooling down: %s, to go to %s; %.0f s at most", degrees, goals, left_s)
        sleep(min(POLL_S, left_s))
    known = {part: value for part, value in celsius.items() if not math.isnan(value)}
    return Cooling(waited_s=waited_s, reached=not warm, celsius=known)
