"""How often the truth lies inside greenlab's 95 % intervals, over simulated cells in made-up time.

Each cell has a GPU and a CPU whose power is known at every moment. The real meter reads their
counters by a clock that does not wait, the real arithmetic makes joules and intervals of it. Drawn
at random for each cell, evenly or evenly on a logarithmic scale:

- idle power of 10 to 100 W a component, and a load of 5 to 300 W that wavers by a tenth;
- 3 to 60 s of work in 1 to 100 passes, with up to 2 ms from one to the next;
- GPU counters that tick every 20 to 100 ms, CPU counters every millisecond, in any phase;
- idle noise of 0.2 to 3 % that remembers itself for 20 to 500 ms;
- idle drift with a standard deviation of 1 %, along a line, towards a new level, or at once;
- readings of 0.05 to 0.5 ms each.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from greenlab import energy, trace
from greenlab.energy import EnergyWindow
from greenlab.idle import measure_idle
from greenlab.meters import Meter, OpenSource
from greenlab.meters.zeus_counters import CounterSpec
from greenlab.record import Source
from greenlab.trace import ENERGY_SUFFIX, TIME, Columns
from greenlab.uncertainty import Bracket, net_u95_j

MIN_COVERAGE, MAX_COVERAGE = 0.93, 0.97
STEP_S = 0.005
"""Power is constant in between."""
IDLE_S = 10.0
PERIOD_S = 0.1
SPARE_S = 3.0
"""For finding out how the counters tick, and for reading them."""

Series = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """One net energy and what is stated about it."""

    true_j: float
    measured_j: float
    u95_j: float

    @property
    def holds(self) -> bool:
        """Whether the truth is inside."""
        return abs(self.measured_j - self.true_j) <= self.u95_j


def simulate_cells(num_cells: int, seed: int = 0) -> Iterator[dict[str, Interval]]:
    """Measure made-up cells one after the other; intervals of `gpu`, `cpu` and the `total`."""
    random = np.random.default_rng(seed)
    for _ in range(num_cells):
        yield _simulate_cell(random)


def _simulate_cell(random: Generator) -> dict[str, Interval]:
    work_s, settle_s = _log_uniform(random, 3, 60), random.uniform(1, 3)
    num_passes = int(_log_uniform(random, 1, 101))
    length_s = 2 * (settle_s + IDLE_S) + work_s + SPARE_S
    counters = {
        "gpu": _Counter(random, length_s, tick_s=_log_uniform(random, 0.02, 0.1)),
        "cpu": _Counter(random, length_s, tick_s=0.001),
    }
    machine = _Machine(random, counters)
    machine.meter.observe_ticks()
    machine.meter.restart_health()
    machine.sleep(settle_s)
    before = measure_idle(machine.meter, IDLE_S, _nothing, machine.sleep)
    machine.meter.begin()
    passes = []
    for _ in range(num_passes):
        for counter in counters.values():
            counter.work(machine.now_s, work_s / num_passes)
        machine.sleep(work_s / num_passes)
        passes.append(machine.meter.lap())
        machine.sleep(random.uniform(0, 2e-3))  # the pass is written down
    machine.meter.end()
    active = energy.join(passes)
    machine.sleep(settle_s)
    after = measure_idle(machine.meter, IDLE_S, _nothing, machine.sleep)
    bracket = machine.bracket(before, active, after)
    net_j = energy.net_energy_j(active, energy.idle_power_w(bracket.idle))
    return {
        name: Interval(
            true_j=sum(counters[component].work_j for component in components),
            measured_j=sum(net_j[component] for component in components),
            u95_j=net_u95_j(bracket, components) or 0.0,
        )
        for name, components in (("total", ["gpu", "cpu"]), ("gpu", ["gpu"]), ("cpu", ["cpu"]))
    }


def _nothing() -> None:
    """There is no device to wait for."""


class _Machine:
    """Two counters, a meter on them, and time that passes only as they are read and slept."""

    def __init__(self, random: Generator, counters: dict[str, "_Counter"]) -> None:
        self.now_s = 0.0
        self._reading_s = random.uniform(0.05e-3, 0.5e-3)
        self._columns: dict[str, list[float]] = {TIME: []}
        self.meter = Meter([self._open(name, one) for name, one in counters.items()], self.clock)
        self._sampled_at_s = 0.0

    def _open(self, component: str, counter: "_Counter") -> OpenSource:
        def read_j() -> float:
            self.now_s += self._reading_s
            return counter.shown_j(self.now_s)

        source = Source(
            component=component, provenance="measured", detail="", reason="", parts=[component]
        )
        spec = CounterSpec(part=component, detail="", read_j=read_j, range_j=None)
        self._columns[component + ENERGY_SUFFIX] = []
        return OpenSource(source=source, counters=[spec])

    def clock(self) -> float:
        """The time, which looking takes none of."""
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        """Let time pass, with a sample of the counters every now and then."""
        until_s = self.now_s + duration_s
        while (next_s := self._sampled_at_s + PERIOD_S) < until_s:
            self.now_s = self._sampled_at_s = max(self.now_s, next_s)
            reading = self.meter.read()
            self._columns[TIME].append(self.meter.unix_s(reading.monotonic_s))
            for part, energy_j in reading.part_energy_j.items():
                self._columns[part + ENERGY_SUFFIX].append(energy_j)
        self.now_s = max(self.now_s, until_s)

    def bracket(self, before: EnergyWindow, active: EnergyWindow, after: EnergyWindow) -> Bracket:
        """What the meter found out, as a cell's record holds it."""
        columns: Columns = {name: np.array(values) for name, values in self._columns.items()}
        return Bracket(
            active=active,
            idle=(before, after),
            series=trace.idle_series(columns, before, after),
            active_series=trace.power_series(columns, active),
            parts={source.component: source.parts for source in self.meter.sources},
            readouts={counter.part: counter.readout for counter in self.meter.health()},
            model_error_fraction={},
        )


class _Counter:
    """What one counter shows at any moment, and the joules of the work alone."""

    def __init__(self, random: Generator, length_s: float, *, tick_s: float) -> None:
        self._tick_s, self._phase_s = tick_s, random.uniform(0, tick_s)
        begins_s = np.arange(0.0, length_s, STEP_S)
        self._time_s = np.append(begins_s, begins_s[-1] + STEP_S)
        idle_w, num = random.uniform(10, 100), len(begins_s)
        noise_w = idle_w * _log_uniform(random, 0.002, 0.03)
        base_w = idle_w + _noise(random, num, noise_w, remembers_s=_log_uniform(random, 0.02, 0.5))
        base_w += 0.01 * idle_w * random.normal() * _path(random, begins_s / length_s)
        self._load_w = _log_uniform(random, 5, 300) * (1 + _noise(random, num, 0.1, 0.05))
        self._energy_j = _cumulate(base_w)
        self.work_j = 0.0

    def work(self, starts_s: float, duration_s: float) -> None:
        """Draw the load for a while, on top of everything else."""
        ends_s = self._time_s[1:]
        at_work = np.clip((ends_s - starts_s) / STEP_S, 0, 1)
        at_work -= np.clip((ends_s - starts_s - duration_s) / STEP_S, 0, 1)
        drawn_j = _cumulate(self._load_w * at_work)
        self._energy_j = self._energy_j + drawn_j
        self.work_j += float(drawn_j[-1])

    def shown_j(self, now_s: float) -> float:
        """The energy at the last tick."""
        ticks = np.floor((now_s - self._phase_s) / self._tick_s)
        ticked_s = max(0.0, float(ticks) * self._tick_s + self._phase_s)
        return float(np.interp(ticked_s, self._time_s, self._energy_j))


def _cumulate(power_w: Series) -> Series:
    return np.concatenate([[0.0], np.cumsum(power_w) * STEP_S])


def _log_uniform(random: Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def _noise(random: Generator, num: int, deviation: float, remembers_s: float) -> Series:
    """An autoregressive series of order 1 around zero."""
    from scipy.signal import lfilter  # half a second, wanted here alone

    kept = float(np.exp(-STEP_S / remembers_s))
    shocks = random.normal(size=num) * deviation * np.sqrt(1 - kept**2)
    shocks[0] = random.normal() * deviation
    noise: Series = lfilter([1.0], [1.0, -kept], shocks)
    return noise


def _path(random: Generator, share: Series) -> Series:
    """A way from 0 to 1 over the cell: along a line, towards a new level, or at once."""
    bend = _log_uniform(random, 0.1, 3)
    ways: list[Callable[[], Series]] = [
        lambda: share,
        lambda: (1 - np.exp(-share / bend)) / (1 - np.exp(-1 / bend)),
        lambda: (share > random.uniform(0.2, 0.8)).astype(float),
    ]
    return ways[int(random.integers(len(ways)))]()
