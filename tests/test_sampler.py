"""The background trace: what goes wrong in it comes to light in front."""

import time

import pytest

from greenlab.meters import Meter, Reading
from greenlab.sampler import Sampler


class BreakingMeter(Meter):
    """Reads once, while the sampler is set up, and breaks at the first tick."""

    def __init__(self) -> None:
        super().__init__([])
        self.num_reads = 0

    def read(self) -> Reading:
        self.num_reads += 1
        if self.num_reads > 1:
            raise ValueError("planted: no such counter")
        return super().read()


def test_a_trace_that_stops_is_not_passed_over_in_silence() -> None:
    meter = BreakingMeter()
    with Sampler(meter, period_s=0.01) as trace:
        deadline = time.monotonic() + 5
        while meter.num_reads < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
    with pytest.raises(ValueError, match="planted"):
        trace.check()
