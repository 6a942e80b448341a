"""The background trace: what goes wrong in it comes to light in front."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from greenlab.meters import Meter, Reading
from greenlab.meters.machine_load import Dram
from greenlab.sampler import Sampler
from greenlab.trace_file import complete_trace, read_trace


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


def test_a_cell_that_fails_leaves_its_trace(tmp_path: Path) -> None:
    beaten = threading.Event()
    with (
        suppress(ZeroDivisionError),
        Sampler(Meter([]), period_s=0.01, beat=lambda _: beaten.set()) as sampler,
    ):
        sampler.record(tmp_path)
        for _ in range(2):  # the tick that was going on, and one that was recorded
            beaten.clear()
            assert beaten.wait(5)
        raise ZeroDivisionError
    complete_trace(tmp_path)

    assert len(read_trace(tmp_path / "trace.parquet")["time_s"]) >= 1


# 1000 KiB less the 250 that are available are 750, of 1024 bytes each: three quarters.
def test_memory_in_use_is_what_is_not_available(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(
        "MemTotal:           1000 kB\nMemFree:             100 kB\nMemAvailable:        250 kB\n"
        "Buffers:              50 kB\nCached:              100 kB\n"
    )
    dram = Dram(tmp_path / "meminfo")

    assert dram.used_bytes() == 768_000
    assert dram.used_percent() == 75
