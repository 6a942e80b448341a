"""Where a learning curve ends: closed forms, and curves made up otherwise than the fit takes them.

Curves are functions of time in epochs; what an epoch shows is their mean over it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from greenlab.learning_curve import foretell_accuracy, may_begin_yet

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]
PER_EPOCH = 20
CHANCE = 0.1


def seen(curve: Curve, num_epochs: int) -> list[float]:
    """What training shows: the mean of the curve over each epoch."""
    times = (np.arange(num_epochs * PER_EPOCH) + 0.5) / PER_EPOCH
    return list(curve(times).reshape(num_epochs, PER_EPOCH).mean(axis=1))


def interval(accuracies: list[float], planned: int, *gaps: float) -> tuple[float, float, float]:
    draws = foretell_accuracy(accuracies, planned, 10, gaps or (0.0,))
    low, median, high = np.percentile(draws, [2.5, 50, 97.5])
    return low, median, high


def exponential(times: Floats) -> Floats:
    return np.asarray(0.8 - 0.7 * np.exp(-times / 6))


def power_law(times: Floats) -> Floats:
    return np.asarray(0.7 - 0.6 / (1 + times / 3))


def slow_start(times: Floats) -> Floats:
    return np.asarray(0.1 + 0.8 * times**4 / (8**4 + times**4))


CLOSED_FORMS = (exponential, power_law, slow_start)


# After 26 of 30 epochs the learning rate is at 4 % of its height: there is no lift to speak of.
@pytest.mark.parametrize("curve", CLOSED_FORMS)
def test_a_closed_form_goes_on_as_it_is(curve: Curve) -> None:
    _, median, _ = interval(seen(curve, 26), 30)

    assert median == pytest.approx(curve(np.array([30.0]))[0], abs=0.02)


@pytest.mark.parametrize("num_epochs", [5, 10, 15, 20])
@pytest.mark.parametrize("curve", CLOSED_FORMS)
def test_the_end_of_a_closed_form_is_never_beyond_what_is_thought_possible(
    curve: Curve, num_epochs: int
) -> None:
    low, _, high = interval(seen(curve, num_epochs), 30)

    assert low < curve(np.array([30.0]))[0] < high


def test_more_epochs_narrow_the_interval() -> None:
    few, many = (interval(seen(power_law, number), 30) for number in (6, 24))

    assert many[2] - many[0] < 0.6 * (few[2] - few[0])


# Test accuracies 6 points above training, as augmentation makes them.
def test_a_gap_above_zero_is_carried_over_and_one_below_is_not() -> None:
    epochs = seen(exponential, 20)
    above, none, below = (interval(epochs, 30, gap, gap) for gap in (0.06, 0.0, -0.06))

    assert above[1] - none[1] == pytest.approx(0.06, abs=0.005)
    assert below == none


def test_gaps_that_differ_widen_the_interval() -> None:
    epochs = seen(exponential, 20)
    alike, apart = interval(epochs, 30, 0.0, 0.0), interval(epochs, 30, -0.1, 0.1)

    assert apart[2] - apart[0] > 1.5 * (alike[2] - alike[0])


def test_what_stays_at_chance_may_begin_for_a_while_and_not_for_ever() -> None:
    flat = [CHANCE] * 25
    early, late = interval(flat[:5], 30), interval(flat, 30)

    assert early[2] > 0.8
    assert late[2] < 0.4


# Chance is 0.1; a tenth of the way from there to 1 is at 0.19.
def test_what_has_not_begun_to_learn_has_half_of_its_epochs_for_it() -> None:
    assert may_begin_yet([0.1, 0.18, 0.1], 7, 10)
    assert not may_begin_yet([0.1, 0.2, 0.1], 7, 10)
    assert not may_begin_yet([0.1, 0.1, 0.1], 6, 10)


def test_the_same_curve_has_the_same_end() -> None:
    epochs = seen(exponential, 8)

    assert interval(epochs, 30) == interval(epochs, 30)


# ------------------------------------------------------------------------------ made-up trainings


@dataclass(frozen=True)
class Training:
    """One that was made up, with all of its epochs and what the test shows after the last."""

    epochs: list[float]
    tested: float
    gaps: tuple[float, ...]
    """Of its rivals."""


def _exponential(random: Generator, top: float, num: int) -> Curve:
    scale = num * 10 ** random.uniform(-1.5, 0.0)
    return lambda t: top - (top - CHANCE) * np.exp(-t / scale)


def _power(random: Generator, top: float, num: int) -> Curve:
    power, scale = random.uniform(0.3, 1.5), random.uniform(0.3, 2.0)
    return lambda t: top - (top - CHANCE) * (1 + t / scale) ** -power


def _logistic(random: Generator, top: float, num: int) -> Curve:
    middle = num * random.uniform(0.05, 0.5)
    width = middle / random.uniform(2.5, 10.0)
    return lambda t: CHANCE + (top - CHANCE) / (1 + np.exp((middle - t) / width))


def _at_rest(random: Generator, top: float, num: int) -> Curve:
    """Noise of a high learning rate keeps it below its best, until the schedule ends."""
    scale = num * 10 ** random.uniform(-1.5, -0.5)
    floor = (1 - top) * random.uniform(0.5, 3.0)

    def curve(t: Floats) -> Floats:
        best = top - (top - CHANCE) * np.exp(-t / scale)
        held = np.minimum(floor, 0.9 * (best - CHANCE)) * (1 + np.cos(np.pi * t / num)) / 2
        return np.asarray(best - held)

    return curve


def _two_speeds(random: Generator, top: float, num: int) -> Curve:
    share = random.uniform(0.3, 0.8)
    fast, slow = num * 10 ** random.uniform(-2, -1), num * 10 ** random.uniform(-0.5, 0.3)
    return lambda t: (
        top - (top - CHANCE) * (share * np.exp(-t / fast) + (1 - share) * np.exp(-t / slow))
    )


def _logarithm(random: Generator, top: float, num: int) -> Curve:
    slope, pace = random.uniform(0.05, 0.3), random.uniform(0.5, 5.0)
    return lambda t: np.minimum(top, CHANCE + slope * np.log1p(pace * t))


FAMILIES = (_exponential, _power, _logistic, _at_rest, _two_speeds, _logarithm)


def make_up(seed: int) -> Training:
    """A family of its own for each seed; noise of 0.2 to 2 points, gaps of -2 ± 3 points."""
    random = np.random.default_rng(seed)
    num = int(random.choice([10, 20, 30, 60]))
    curve = FAMILIES[seed % len(FAMILIES)](random, random.uniform(0.4, 0.99), num)
    noise = 10 ** random.uniform(-2.7, -1.7) * random.standard_normal(num)
    gaps = random.normal(-0.02, 0.03, 1 + int(random.integers(1, 5)))
    return Training(
        epochs=list(np.clip(np.array(seen(curve, num)) + noise, 0, 1)),
        tested=float(np.clip(curve(np.array([float(num)]))[0] + gaps[0], 0, 1)),
        gaps=tuple(gaps[1:]),
    )


def given_up_after(training: Training, *wanted: float) -> list[int | None]:
    """Epochs, from the fifth on, after which each of `wanted` is out of reach; None: never."""
    planned = len(training.epochs)
    found: list[int | None] = [None] * len(wanted)
    for number in range(5, planned):
        if may_begin_yet(training.epochs[:number], planned, 10):
            continue
        draws = foretell_accuracy(training.epochs[:number], planned, 10, training.gaps)
        for place, accuracy in enumerate(wanted):
            if found[place] is None and np.mean(draws >= accuracy) < 0.025:
                found[place] = number
    return found


NUM_MADE_UP = 360


@pytest.mark.slow
def test_what_would_reach_the_front_is_not_given_up_and_most_of_the_hopeless_is() -> None:
    random = np.random.default_rng(7)
    wrongly = hopeless = by_half = ever = 0
    for seed in range(NUM_MADE_UP):
        one = make_up(seed)
        near = one.tested - abs(random.normal(0, 0.02))  # it would come to more, by a point or two
        far = one.tested + random.uniform(0.25, 0.5)
        given_up, rightly = given_up_after(one, near, far)
        wrongly += given_up is not None
        if far <= 0.98:  # else nobody comes to that
            hopeless += 1
            ever += rightly is not None
            by_half += rightly is not None and rightly <= len(one.epochs) / 2
    print(
        f"\nwrongly given up: {wrongly} of {NUM_MADE_UP} ({wrongly / NUM_MADE_UP:.1%}); hopeless "
        f"given up by half of their epochs: {by_half} of {hopeless} ({by_half / hopeless:.0%}), "
        f"ever: {ever / hopeless:.0%}"
    )

    assert wrongly <= 0.025 * NUM_MADE_UP
    assert by_half >= 0.6 * hopeless
