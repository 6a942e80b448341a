"""Counters that wrap, reset and stand still; models that stand in for counters; the meter."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from greenlab.config import Hardware, TdpW
from greenlab.meters import Meter, OpenSource
from greenlab.meters.counter import OBSERVE_WITHIN_S, Counter
from greenlab.meters.dimm_model import DimmModel
from greenlab.meters.machine_load import CpuTimes
from greenlab.meters.tdp_model import open_tdp_model
from greenlab.meters.zeus_counters import CounterSpec, PowerIntegral
from greenlab.record import Source


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Zone:
    """A raw counter of joules that starts at zero again at its range."""

    def __init__(self, clock: Clock, *, at_j: float = 0.0, range_j: float | None = None) -> None:
        self.clock = clock
        self.raw_j = at_j
        self.range_j = range_j

    def run(self, seconds: float, watts: float) -> None:
        self.clock.now_s += seconds
        self.raw_j += watts * seconds
        if self.range_j is not None:
            self.raw_j %= self.range_j

    def reset(self) -> None:
        self.raw_j = 0.0

    def __call__(self) -> float:
        return self.raw_j


def follow(zone: Zone) -> Counter:
    return Counter("cpu0", zone, range_j=zone.range_j, clock=zone.clock)


def make_zone(*, at_j: float = 0.0, range_j: float | None = None) -> Zone:
    return Zone(Clock(), at_j=at_j, range_j=range_j)


# ------------------------------------------------------------------------------- joules and wraps


# 2 s at 30 W, from a counter that shows 500 J already.
def test_joules_count_from_when_the_counter_was_opened() -> None:
    zone = make_zone(at_j=500)
    counter = follow(zone)
    zone.run(2, watts=30)

    assert counter.joules() == 60


# From 990 of 1000 J, 40 J more: the counter shows 30.
def test_a_wrap_in_the_first_read_is_added() -> None:
    zone = make_zone(at_j=990, range_j=1000)
    counter = follow(zone)
    zone.run(1, watts=40)

    assert counter.joules() == 40


# From 900 of 1000 J: 50 J, then 100 J over the edge.
def test_one_wrap_between_later_reads_is_added() -> None:
    zone = make_zone(at_j=900, range_j=1000)
    counter = follow(zone)
    for watts in (50, 100):
        zone.run(1, watts)
        counter.joules()

    assert counter.joules() == 150
    assert counter.health().num_wraps == 1


# 10 reads of 300 J each are 3000 J; from 100 J that passes 1000, 2000 and 3000.
def test_several_wraps_over_several_reads_add_up() -> None:
    zone = make_zone(at_j=100, range_j=1000)
    counter = follow(zone)
    for _ in range(10):
        zone.run(1, watts=300)
        counter.joules()

    assert counter.joules() == 3000
    assert counter.health().num_wraps == 3


# At 0.5 J before the edge of RAPL's usual 262,143.328850 J, 1 J more.
def test_a_counter_about_to_wrap_loses_nothing() -> None:
    range_j = 262_143.328850
    zone = make_zone(at_j=range_j - 0.5, range_j=range_j)
    counter = follow(zone)
    zone.run(0.01, watts=100)

    assert counter.joules() == pytest.approx(1.0)


# RAPL is updated every millisecond, NVML every 100 ms: 20 J that came in one tick of 0.1 s show
# in a gap of 0.1 ms, which is 200 kW if taken literally.
def test_a_wrap_in_a_gap_shorter_than_a_tick_is_no_reset() -> None:
    zone = make_zone(at_j=990, range_j=1000)
    counter = follow(zone)
    zone.run(1e-4, watts=20 / 1e-4)

    assert counter.joules() == pytest.approx(20)
    assert counter.health().num_resets == 0


# ---------------------------------------------------------------------------------------- resets


# From 5000 J back to 0 in 1 s: a wrap would mean 257 kJ in one second.
def test_a_large_counter_that_runs_backwards_was_reset() -> None:
    zone = make_zone(at_j=5000, range_j=262_143)
    counter = follow(zone)
    zone.clock.now_s += 1
    zone.reset()
    counter.joules()

    assert (counter.health().num_resets, counter.health().num_wraps) == (1, 0)


def test_a_counter_without_a_range_that_runs_backwards_was_reset() -> None:
    zone = make_zone(at_j=5000)  # NVML's counts 64 bits of millijoules: it does not wrap
    counter = follow(zone)
    zone.clock.now_s += 1
    zone.reset()
    counter.joules()

    assert (counter.health().num_resets, counter.health().num_wraps) == (1, 0)


# 100 J, a reset, then 40 J: what came between the last read and the reset is lost, nothing else.
def test_joules_after_a_reset_are_added_to_those_before() -> None:
    zone = make_zone(at_j=5000)
    counter = follow(zone)
    zone.run(1, watts=100)
    counter.joules()
    zone.reset()
    counter.joules()
    zone.run(1, watts=40)

    assert counter.joules() == 140


# ----------------------------------------------------------------------------------------- health


# Reads after 0.5 s, 3 s and 1 s.
def test_the_longest_gap_is_the_longest_time_between_two_reads() -> None:
    zone = make_zone()
    counter = follow(zone)
    for seconds in (0.5, 3, 1):
        zone.run(seconds, watts=10)
        counter.joules()

    assert counter.health().longest_gap_s == 3


# It advances, stands still for 1 s and another 1.5 s, then advances.
def test_a_standstill_is_timed_over_several_reads() -> None:
    zone = make_zone()
    counter = follow(zone)
    for seconds, watts in ((1, 10), (1, 0), (1.5, 0), (0.25, 10)):
        zone.run(seconds, watts)
        counter.joules()

    assert counter.health().longest_still_s == 2.5


# 20 W, then 300 W, then 100 W, a second each.
def test_the_peak_is_the_highest_mean_power_between_reads() -> None:
    zone = make_zone()
    counter = follow(zone)
    for watts in (20, 300, 100):
        zone.run(1, watts)
        counter.joules()

    assert counter.health().peak_w == 300


# 1 J in 1 ms is 1000 W; with the 99 ms at 10 W after it, 1.99 J in 100 ms: 19.9 W.
def test_a_tick_of_the_counter_within_a_short_gap_is_no_peak() -> None:
    zone = make_zone()
    counter = follow(zone)
    zone.run(0.001, watts=1000)
    counter.joules()
    zone.run(0.099, watts=10)
    counter.joules()

    assert counter.health().peak_w == pytest.approx(19.9)


# ----------------------------------------------------------------------------------------- models


# 2 × ½ × 1.3 nF × 1.2² V² × 3.2 GHz = 1.3 × 1.44 × 3.2 = 5.9904 W.
def test_dimms_draw_half_c_v_squared_f_each() -> None:
    dimms = DimmModel(num_dimms=2, voltage_v=1.2, frequency_hz=3.2e9, capacitance_f=1.3e-9)

    assert dimms.power_w == pytest.approx(5.9904)


# 10 s at 5.9904 W.
def test_modelled_dimms_draw_their_power_all_the_time() -> None:
    clock = Clock()
    dimms = DimmModel(
        num_dimms=2, voltage_v=1.2, frequency_hz=3.2e9, capacitance_f=1.3e-9, clock=clock
    )
    before_j = dimms()
    clock.now_s += 10

    assert dimms() - before_j == pytest.approx(59.904)


def busy_s_by_the_kernel() -> float:
    """User, nice, system, irq and softirq: fields 1, 2, 3, 6 and 7 of /proc/stat, in ticks."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[index]) for index in (0, 1, 2, 5, 6)) / 100


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="not Linux")
def test_busy_cpu_time_is_the_kernels() -> None:
    before_s = busy_s_by_the_kernel()
    busy_s = CpuTimes().busy_s()
    after_s = busy_s_by_the_kernel()

    assert before_s - 0.011 <= busy_s <= after_s + 0.011  # a tick is 10 ms


# 95 W over all CPUs: each busy CPU second is 95 / CPUs J. Spinning takes 0.2 of them.
def test_the_tdp_model_gives_each_busy_cpu_second_its_share_of_the_tdp() -> None:
    cpus = psutil.cpu_count() or 1
    model = open_tdp_model(Hardware(tdp_w=TdpW(cpu=95), socket_share_fraction=1))
    busy_before_s, before_j = CpuTimes().busy_s(), model()
    until_s = time.process_time() + 0.2
    while time.process_time() < until_s:
        pass
    after_j, busy_after_s = model(), CpuTimes().busy_s()

    assert after_j - before_j >= (0.19 - 0.01) * 95 / cpus  # a tick is 10 ms
    assert after_j - before_j <= (busy_after_s - busy_before_s + 0.01) * 95 / cpus


def test_the_tdp_model_of_this_machine_shares_among_all_its_cpus() -> None:
    assert open_tdp_model(Hardware()).num_logical_cpus == psutil.cpu_count()


# 100 W for 1 s, then 250 W for 2 s: a reading stands for the time before it, 100 + 500 J.
def test_polled_power_is_integrated_over_a_step() -> None:
    clock = Clock()
    power_w = [100.0, 250.0]
    integral = PowerIntegral(lambda: power_w.pop(0), clock)
    clock.now_s += 1
    integral()
    clock.now_s += 2

    assert integral() == 600


# ------------------------------------------------------------------------------------------ meter


def source_of(component: str, counters: dict[str, Callable[[], float]]) -> OpenSource:
    return OpenSource(
        source=Source(
            component=component,
            provenance="measured:rapl",
            detail="",
            reason="",
            parts=list(counters),
        ),
        counters=[
            CounterSpec(part=part, detail="", read_j=read_j, range_j=None)
            for part, read_j in counters.items()
        ],
    )


def meter_of(clock: Clock, *sources: OpenSource) -> Meter:
    return Meter(sources, clock)


# Two sockets, 10 s at 40 W and 25 W: 400 + 250 J.
def test_the_devices_of_a_component_add_up() -> None:
    clock = Clock()
    first, second = Zone(clock), Zone(clock)
    meter = meter_of(clock, source_of("cpu", {"cpu0": first, "cpu1": second}))
    meter.begin()
    first.run(10, watts=40)
    second.raw_j += 250
    window = meter.end()

    assert window.energy_j == {"cpu": 650}
    assert window.part_energy_j == {"cpu0": 400, "cpu1": 250}


# 7 s at 10 W before the window opens, 3 s at 20 W inside, 5 s at 10 W after it: 60 J.
def test_a_window_holds_what_was_drawn_between_begin_and_end() -> None:
    clock = Clock()
    zone = Zone(clock)
    meter = meter_of(clock, source_of("cpu", {"cpu0": zone}))
    zone.run(7, watts=10)
    meter.begin()
    zone.run(3, watts=20)
    window = meter.end()
    zone.run(5, watts=10)

    assert (window.duration_s, window.energy_j) == (3, {"cpu": 60})


def test_a_window_carries_the_unix_time_of_its_beginning() -> None:
    clock = Clock()
    meter = meter_of(clock)
    opened_at_s = time.time()
    clock.now_s += 30
    meter.begin()

    assert meter.end().started_at_s == pytest.approx(opened_at_s + 30, abs=1)


# Three wraps of 1000 J between begin and end: 3500 J, seen only by who reads in between.
def test_reads_inside_a_window_keep_its_wraps_counted() -> None:
    clock = Clock()
    zone = Zone(clock, range_j=1000)
    opened = source_of("cpu", {})
    spec = CounterSpec(part="cpu0", detail="", read_j=zone, range_j=1000)
    meter = Meter([OpenSource(source=opened.source, counters=[spec])], clock)
    meter.begin()
    for _ in range(5):
        zone.run(1, watts=700)
        meter.read()

    assert meter.end().energy_j == {"cpu": 3500}


def recording(order: list[str], name: str) -> Callable[[], float]:
    def read_j() -> float:
        order.append(name)
        return 0.0

    return read_j


def reads_of(sources: Sequence[tuple[str, str]], act: Callable[[Meter], object]) -> list[str]:
    """The order in which `act` has the counters and the clock read."""
    order: list[str] = []

    def clock() -> float:
        order.append("clock")
        return 0.0

    meter = Meter([source_of(c, {part: recording(order, part)}) for c, part in sources], clock)
    order.clear()
    act(meter)
    return order


def window_of(meter: Meter) -> None:
    meter.begin()
    meter.end()


# The counters take time to read: in the same order at both edges, that time falls out.
def test_counters_and_clock_are_read_in_the_same_order_at_both_edges() -> None:
    order = reads_of([("gpu", "gpu0"), ("cpu", "cpu0"), ("dram", "dram0")], window_of)

    assert order == ["clock", "gpu0", "clock", "cpu0", "clock", "dram0", "clock", "clock"] * 2


# Reading takes 4 ms by a clock that moves 1 ms at each look: an edge is in their middle.
def test_an_edge_is_the_middle_of_its_reading() -> None:
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 0.001
        return now_s

    meter = Meter([source_of("cpu", {"cpu0": lambda: 0.0, "cpu1": lambda: 0.0})], clock)
    before_s = now_s
    reading = meter.read()

    assert reading.took_s == pytest.approx(0.003)
    assert reading.monotonic_s == pytest.approx(before_s + 0.001 + 0.0015)
    meter.begin()
    assert meter.end().edge_s == pytest.approx(0.003)


class Ticking:
    """A counter of 100 W that shows its value of the last whole tick; each look takes 1 ms."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self.now_s = 0.0

    def clock(self) -> float:
        self.now_s += 0.0005
        return self.now_s

    def read_j(self) -> float:
        self.now_s += 0.0005
        return 100 * self.tick_s * (self.now_s // self.tick_s)


@pytest.mark.parametrize("tick_s", [0.005, 0.02, 0.1])
def test_a_counter_is_watched_to_learn_how_often_it_advances(tick_s: float) -> None:
    hardware = Ticking(tick_s)
    counter = Counter("gpu0", hardware.read_j, clock=hardware.clock)
    counter.observe_tick()

    assert counter.health().tick_s == pytest.approx(tick_s, rel=0.15)


def test_a_counter_that_hardly_moves_gets_the_time_that_was_waited() -> None:
    hardware = Ticking(tick_s=10.0)
    counter = Counter("gpu0", hardware.read_j, clock=hardware.clock)
    counter.observe_tick()

    assert counter.health().tick_s == OBSERVE_WITHIN_S


def test_one_without_a_tick_is_as_old_as_its_longest_gap() -> None:
    clock = Clock()
    counter = Counter("gpu0", lambda: 0.0, clock=clock)
    for gap_s in (0.1, 0.3, 0.1):
        clock.now_s += gap_s
        counter.joules()

    assert counter.health().tick_s == pytest.approx(0.3)


def test_a_component_that_is_absent_has_no_key() -> None:
    clock = Clock()
    absent = OpenSource(
        source=Source(component="gpu", provenance="absent", detail="", reason="none", parts=[]),
        counters=[],
    )
    meter = meter_of(clock, absent, source_of("cpu", {"cpu0": Zone(clock)}))
    meter.begin()

    assert meter.end().energy_j.keys() == {"cpu"}


def test_a_window_within_a_window_is_a_bug() -> None:
    meter = meter_of(Clock())
    meter.begin()

    with pytest.raises(AssertionError, match="has not ended"):
        meter.begin()
