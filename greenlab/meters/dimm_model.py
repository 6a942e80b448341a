"""DRAM energy without a counter: N_DIMM × ½·C·V²·f (paper, Sec. 4.1).

The model's power does not depend on what memory does, so its energy above idle is zero by
construction: it belongs in gross energy only. Every number made from it is marked `modelled:dimm`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DimmModel:
    """A cumulative counter of modelled joules: call it to read it."""

    num_dimms: int
    voltage_v: float
    frequency_hz: float
    capacitance_f: float
    clock: Callable[[], float] = time.monotonic

    @property
    def power_w(self) -> float:
        """Of all modules together."""
        return self.num_dimms * 0.5 * self.capacitance_f * self.voltage_v**2 * self.frequency_hz

    def __call__(self) -> float:
        """Joules since the clock's origin."""
        return self.power_w * self.clock()
