"""The background trace: what goes wrong in it comes to light in front."""

import threading

import pytest

from greenlab.meters import Meter, Reading
from greenlab.sampler import Sampler


class BreakingMeter(Meter):
    """Breaks at the sampler's first tick."""

    def __init__(self) -> None:
        super().__init__([])
        self.was_read = threading.Event()

    def read(self) -> Reading:
        self.was_read.set()
        raise ValueError("planted: no such counter")


def test_a_trace_that_stops_is_not_passed_over_in_silence() -> None:
    meter = BreakingMeter()
    with Sampler(meter, period_s=0.01, beat=lambda _: None) as sampler:
        assert meter.was_read.wait(5)
    with pytest.raises(ValueError, match="planted"):
        sampler.check()
