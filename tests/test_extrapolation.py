"""From stretches to a job: hand-worked rates, and whether intervals hold in made-up time."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import lfilter

from greenlab import extrapolation
from greenlab.extrapolation import (
    POWER_WARMING,
    TIME_WARMING,
    Forecast,
    Job,
    Profiled,
    Stretch,
    extrapolate,
)

Floats = NDArray[np.float64]


def steady(
    *, trains: bool = True, num: int = 8, power_w: float | None = 300.0, first_s: float = 1.0
) -> list[Stretch]:
    """Stretches of a second and 100 samples each, one after the other."""
    return [
        Stretch(
            trains=trains,
            started_s=float(place),
            duration_s=first_s if place == 0 else 1.0,
            num_samples=100,
            gross_j=None if power_w is None else power_w * (first_s if place == 0 else 1.0),
        )
        for place in range(num)
    ]


def profiled(stretches: Sequence[Stretch], idle_w: float | None = 100.0) -> Profiled:
    return Profiled(
        stretches=tuple(stretches), idle_w=idle_w, idle_u95_w=0.0, once_s=4.0, once_j=800.0
    )


def train(profile: Profiled, num_samples: float = 1000) -> Forecast:
    found = extrapolate(profile, Job(train_samples=num_samples)).train
    assert found is not None
    return found


def test_a_steady_profile_goes_on_as_it_is_but_for_the_heat_to_come() -> None:
    told = train(profiled(steady()), 10_000)  # 100 s at 300 W; 200 W of them above idle

    assert told.gross_j is not None
    assert told.net_j is not None
    slower, hotter = math.exp(TIME_WARMING.mean), math.exp(POWER_WARMING.mean)
    assert 100 <= told.time_s.median <= 100 * slower * 1.005
    assert 30_000 <= told.gross_j.median <= 30_000 * slower * hotter * 1.005
    assert 20_000 <= told.net_j.median <= 100 * slower * (300 * hotter - 100) * 1.005
    assert told.time_s.low < 100 < told.time_s.high
    assert told.net_j.low < 20_000 < told.net_j.high


def test_twice_the_samples_take_twice_the_time_once_it_is_warm() -> None:
    profile = profiled(steady())
    once, twice = train(profile, 200_000), train(profile, 400_000)

    assert twice.time_s.median == pytest.approx(2 * once.time_s.median, rel=0.005)


def test_the_same_question_has_the_same_answer() -> None:
    assert train(profiled(steady())) == train(profiled(steady()))


def test_more_scatter_makes_a_wider_interval() -> None:
    wavering = [
        replace(one, duration_s=1.0 + 0.2 * (-1) ** place) for place, one in enumerate(steady())
    ]
    calm, restless = (train(profiled(s), 6000).time_s for s in (steady(), wavering))

    assert restless.high - restless.low > 2 * (calm.high - calm.low)


def test_a_first_stretch_that_took_longer_counts_for_little() -> None:
    # The mean of eight seconds, the first of which took 1.3 s, would say 62 s of these 60.
    slow_start = train(profiled(steady(first_s=1.3)), 6000).time_s

    assert slow_start.median < 61


def test_training_and_inference_are_told_apart() -> None:
    # A sample takes 10 ms to train on and, at 200 W, 10 / 4 ms to infer.
    both = steady() + [
        replace(one, trains=False, started_s=8 + one.started_s, num_samples=400, gross_j=200.0)
        for one in steady()
    ]
    found = extrapolate(
        profiled(both), Job(train_samples=6000, evaluation_samples=4000, inference_samples=8000)
    )

    times = {
        "train": (found.train, 60, 300),
        "evaluation": (found.evaluation, 10, 200),
        "inference": (found.inference, 20, 200),
    }
    for name, (told, time_s, power_w) in times.items():
        assert told is not None, name
        assert told.gross_j is not None
        assert told.time_s.median == pytest.approx(time_s, rel=0.01), name
        assert told.gross_j.median == pytest.approx(time_s * power_w, rel=0.035), name
    assert found.whole.gross_j is not None
    assert found.whole.time_s.median == pytest.approx(60 + 10 + 20 + 4, rel=0.02)
    assert found.whole.gross_j.median == pytest.approx(18_000 + 2000 + 4000 + 800, rel=0.035)


def test_loading_is_paid_once_and_has_no_net_energy() -> None:
    once = extrapolate(profiled(steady()), Job(train_samples=1000)).once

    assert once.gross_j is not None
    assert (once.time_s.median, once.gross_j.median) == pytest.approx((4, 800), rel=0.02)
    assert once.net_j is None


def test_an_evaluation_is_told_from_training_where_no_inference_was_profiled() -> None:
    found = extrapolate(profiled(steady()), Job(train_samples=6000, evaluation_samples=3000))

    # A third of 10 ms for each; how true that is differs between models by a quarter.
    assert found.evaluation is not None
    assert found.evaluation.time_s.median == pytest.approx(10, rel=0.03)
    assert found.evaluation.time_s.high > 10 * math.exp(1.9 * 0.25)


def test_parts_are_wrong_together() -> None:
    both = steady() + [replace(one, trains=False, started_s=8 + one.started_s) for one in steady()]
    at_once = replace(profiled(both), once_s=0.0)
    found = extrapolate(at_once, Job(train_samples=6000, inference_samples=6000))

    assert found.train is not None
    assert found.inference is not None
    width = [f.time_s.high - f.time_s.low for f in (found.train, found.inference, found.whole)]
    assert math.hypot(width[0], width[1]) < width[2] < width[0] + width[1]


def test_idle_power_that_is_not_known_is_net_energy_that_is_not_known() -> None:
    sure = profiled(steady())
    unsure = replace(sure, idle_u95_w=20.0)

    told, doubted = train(sure, 6000).net_j, train(unsure, 6000).net_j
    assert told is not None
    assert doubted is not None
    # ±20 W over 60 s are ±1,200 J more.
    expected = math.hypot((told.high - told.low) / 2, 1200)
    assert (doubted.high - doubted.low) / 2 == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "nothing", [profiled(steady(power_w=None), None), profiled(steady(power_w=0.0), 0.0)]
)
def test_without_energy_there_is_time_alone(nothing: Profiled) -> None:
    told = train(nothing)

    assert told.time_s.median == pytest.approx(10, rel=0.01)
    assert told.gross_j is told.net_j is None


def test_what_was_not_profiled_is_not_told() -> None:
    with pytest.raises(ValueError, match="infers"):
        extrapolate(profiled(steady()), Job(inference_samples=10))
    with pytest.raises(ValueError, match="trains"):
        extrapolate(profiled(steady(trains=False)), Job(train_samples=10))


def test_a_gpu_that_waits_for_its_host_takes_the_same_energy_above_idle_for_a_sample() -> None:
    # 2 J a sample above 100 W, whether a hundred of them take 0.7 or 1.4 s.
    took_s = (1.0, 1.4, 0.8, 1.3, 0.7, 1.2, 0.9, 1.1)
    waiting = [
        replace(one, duration_s=took, gross_j=100 * took + 200.0)
        for one, took in zip(steady(), took_s, strict=True)
    ]
    told = train(profiled(waiting), 6000)

    assert told.net_j is not None
    assert told.net_j.median == pytest.approx(12_000, rel=0.05)
    assert told.time_s.high / told.time_s.low > 1.3
    assert told.net_j.high / told.net_j.low < 1.25


def test_a_processor_that_is_always_busy_takes_the_same_power() -> None:
    # 300 W however fast it gets on: net energy wavers as time does.
    took_s = (1.0, 1.4, 0.8, 1.3, 0.7, 1.2, 0.9, 1.1)
    busy = [
        replace(one, duration_s=took, gross_j=300 * took)
        for one, took in zip(steady(), took_s, strict=True)
    ]
    told = train(profiled(busy), 6000)

    assert told.net_j is not None
    wide = told.time_s.high / told.time_s.low
    assert told.net_j.high / told.net_j.low == pytest.approx(wide, rel=0.1)


def test_a_pace_that_may_waver_unseen_makes_time_less_certain() -> None:
    # Eight seconds see about one moment of it; what is remembered for 100 s is all in the level.
    told, doubted = (train(replace(profiled(steady()), wavering=w), 6000) for w in (0.01, 0.15))

    assert doubted.time_s.high / doubted.time_s.low > math.exp(2 * 1.9 * 0.15)
    assert told.time_s.high / told.time_s.low < 1.25


def test_wavering_averages_out_as_it_should() -> None:
    # Variance of the mean over 30 s of a process of memory 10 s, and covariance with the 20 s after
    # a gap of 5 s, by summing exp(−|u − t|/τ) over a fine grid.
    edges = np.array([[0.0, 35.0], [30.0, 55.0]])
    one = np.arange(0.05, 30, 0.1)
    other = np.arange(35.05, 55, 0.1)
    own = np.exp(-np.abs(one[:, None] - one[None, :]) / 10).mean()
    shared = np.exp(-np.abs(one[:, None] - other[None, :]) / 10).mean()
    ones = np.ones((1, 1, 1))

    found = extrapolation._wavering_of_means(edges, ones, 10 * ones)[0]

    assert found[0, 0] == pytest.approx(own, rel=1e-3)
    assert found[0, 1] == found[1, 0] == pytest.approx(shared, rel=1e-3)


STEP_S = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One that warms up, slows down and wavers, as no prior above has it exactly."""

    warming: float
    thermal_s: float
    slowing: float
    noise: tuple[float, float]
    """Of a second's time and power."""
    wavering: tuple[float, float]
    memory_s: float
    idle_w: float
    above_w: float

    @classmethod
    def draw(cls, random: Generator) -> "Machine":
        def log_uniform(low: float, high: float) -> float:
            return float(np.exp(random.uniform(np.log(low), np.log(high))))

        return cls(
            warming=random.uniform(0, 0.08),
            thermal_s=log_uniform(20, 120),
            slowing=random.uniform(0, 0.03),
            noise=(log_uniform(0.002, 0.08), log_uniform(0.002, 0.03)),
            wavering=(log_uniform(0.003, 0.04), log_uniform(0.002, 0.015)),
            memory_s=log_uniform(3, 200),
            idle_w=random.uniform(10, 100),
            above_w=random.uniform(20, 300),
        )

    def run(self, random: Generator, work_s: float) -> tuple[Floats, Floats]:
        """Work done, in seconds of a cold machine, and joules, each STEP_S from the start on."""
        num = int(1.7 * work_s / STEP_S) + 40
        warm = 1 - np.exp(-np.arange(num) * STEP_S / self.thermal_s)
        occasion = random.normal(0, 0.005)
        slower = self.slowing * warm + self._waver(random, num, 0) + occasion
        above_w = self.above_w * (1 + self.warming * warm) * np.exp(self._waver(random, num, 1))
        work = np.cumsum(np.exp(-slower)) * STEP_S
        return np.append(0.0, work), np.append(0.0, np.cumsum(self.idle_w + above_w) * STEP_S)

    def _waver(self, random: Generator, num: int, which: int) -> Floats:
        keeps = math.exp(-STEP_S / self.memory_s)
        pushes = self.wavering[which] * random.standard_normal(num)
        pushes[1:] *= math.sqrt(1 - keeps**2)
        wavering = lfilter([1.0], [1.0, -keeps], pushes)
        noise = self.noise[which] / math.sqrt(STEP_S) * random.standard_normal(num)
        return np.asarray(wavering + noise)


def profile_and_run(random: Generator, profile_s: float, job_s: float) -> tuple[Forecast, Floats]:
    """What is forecast, and the true seconds and net joules."""
    machine = Machine.draw(random)
    work, joules = machine.run(random, profile_s)
    edges = np.searchsorted(work, np.arange(0, profile_s + 0.5))
    stretches = [
        Stretch(
            trains=True,
            started_s=begin * STEP_S,
            duration_s=(end - begin) * STEP_S,
            num_samples=round(1000 * (work[end] - work[begin])),
            gross_j=joules[end] - joules[begin],
        )
        for begin, end in itertools.pairwise(edges)
    ]
    work, joules = machine.run(random, job_s)
    end = int(np.searchsorted(work, job_s))
    profile = replace(profiled(stretches), idle_w=machine.idle_w)
    told = train(profile, 1000 * work[end])
    return told, np.array([end * STEP_S, joules[end] - machine.idle_w * end * STEP_S])


@pytest.mark.parametrize(
    ("profile_s", "job_s", "num"),
    [(3, 60, 250), (5, 300, 250)],
)
def test_the_truth_lies_in_the_interval_as_often_as_is_said(
    profile_s: float, job_s: float, num: int
) -> None:
    random = np.random.default_rng(7)
    within, errors = [], []
    for _ in range(num):
        told, (true_s, true_j) = profile_and_run(random, profile_s, job_s)
        assert told.net_j is not None
        for one, truth in ((told.time_s, true_s), (told.net_j, true_j)):
            within.append(one.low <= truth <= one.high)
            errors.append(abs(one.median / truth - 1))

    coverage = np.array(within).reshape(-1, 2).mean(axis=0)
    mape = np.array(errors).reshape(-1, 2).mean(axis=0)
    assert (coverage >= 0.9).all(), coverage
    assert (mape <= 0.04).all(), mape
