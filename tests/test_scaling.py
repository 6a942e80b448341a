"""From workloads that were tried to others: laws that are exact are found, intervals hold."""

import itertools
import math

import numpy as np
import pytest

from greenlab.scaling import TIME, TRAINING_MACS, Work, choose, tell

MACS = {"lenet": 651_720, "mobilenet_v2": 98_076_416, "vgg16": 314_000_000, "resnet18": 557_000_000}


def work(model: str, batch_size: int = 32, *, trains: bool = False) -> Work:
    return Work(model=model, macs=MACS[model], batch_size=batch_size, trains=trains)


GRID = [
    work(model, batch_size, trains=trains)
    for model, batch_size, trains in itertools.product(MACS, (16, 32), (True, False))
]


def proportional(one: Work) -> float:
    """1 ns for 10 MACs, three times as many in training; a fifth root less by batch size."""
    macs = one.macs * (TRAINING_MACS if one.trains else 1)
    return math.log(macs * 1e-10 * one.batch_size**-0.2)


def test_what_follows_the_count_exactly_is_told_exactly() -> None:
    tried = [work("lenet"), work("vgg16", 16), work("resnet18", trains=True)]
    told = tell(tried, [proportional(one) for one in tried], GRID, TIME)

    assert told.mean == pytest.approx([proportional(one) for one in GRID], abs=0.01)


def test_one_trial_sets_the_level_and_little_else() -> None:
    tried = work("vgg16")
    told = tell([tried], [math.log(0.02)], [tried, work("lenet")], TIME)
    deviation = np.sqrt(np.diag(told.covariance))

    assert told.mean[0] == pytest.approx(math.log(0.02), abs=0.01)
    assert deviation[0] < 0.2
    assert deviation[1] > 0.5  # another model may be twice as fast for its count


def test_cells_that_rest_on_one_trial_are_wrong_together() -> None:
    tried = [work("lenet"), work("vgg16"), work("resnet18")]
    asked = [work("mobilenet_v2", 16), work("mobilenet_v2", 32)]
    told = tell(tried, [proportional(one) for one in tried], asked, TIME)
    deviation = np.sqrt(np.diag(told.covariance))

    assert told.covariance[0, 1] / deviation.prod() > 0.9


def test_two_trials_of_the_same_that_differ_are_noise() -> None:
    tried = [work("lenet"), work("vgg16"), work("resnet18"), work("resnet18")]
    exact = [proportional(one) for one in tried]
    off = [*exact[:3], exact[3] + 0.5]  # the same again took 65 % longer
    calm, noisy = (tell(tried, values, GRID, TIME) for values in (exact, off))

    assert calm.trial < 0.1
    assert 0.2 < noisy.trial < 0.5  # 0.5 apart: a standard deviation of 0.35
    assert noisy.mean[-1] > calm.mean[-1]
    assert np.all(np.diag(noisy.covariance) > np.diag(calm.covariance))


def test_models_that_fit_no_law_widen_what_is_told_of_others() -> None:
    tried = [work("lenet"), work("vgg16"), work("resnet18"), work("resnet18")]
    exact = [proportional(one) for one in tried]
    odd = [exact[0] + 2.0, exact[1] - 2.0, *exact[2:]]  # seven times as slow, and as fast
    plain, peculiar = (tell(tried, values, [work("mobilenet_v2")], TIME) for values in (exact, odd))

    assert peculiar.trial < 0.1  # two trials of the same agree
    assert peculiar.covariance[0, 0] > 1.5 * plain.covariance[0, 0]


@pytest.mark.parametrize("number", [4, 7, 8])
def test_every_model_of_a_small_grid_is_tried(number: int) -> None:
    chosen = [GRID[n] for n in choose(GRID, [math.exp(one.size) for one in GRID], number)]

    assert len(set(chosen)) == number
    assert {one.model for one in chosen} == set(MACS)
    assert {one.trains for one in chosen} == {True, False}
    assert {one.batch_size for one in chosen} == {16, 32}


def test_no_more_is_chosen_than_there_is() -> None:
    assert sorted(choose(GRID[:3], [1, 1, 1], 8)) == [0, 1, 2]


def world(rng: np.random.Generator) -> dict[Work, float]:
    """Times per sample on some machine: other effects than are assumed, as a machine has them.

    A fixed cost for each batch besides what is proportional to the count, models up to three times
    as slow as others for theirs, and training 2.5 to 4.5 times as long as inference.
    """
    per_batch_s, per_mac_s = 10 ** rng.uniform(-4, -2.7), 10 ** rng.uniform(-10.5, -9.5)
    slow = {model: rng.uniform(1, 3) for model in MACS}
    training = {model: rng.uniform(2.5, 4.5) for model in MACS}
    return {
        one: (per_mac_s * one.macs * slow[one.model] + per_batch_s / one.batch_size)
        * (training[one.model] if one.trains else 1)
        for one in GRID
    }


@pytest.mark.parametrize(("noise", "widest_fraction"), [(0.04, 0.12), (0.3, 0.4)])
def test_the_interval_of_a_sum_holds_on_other_machines(
    noise: float, widest_fraction: float
) -> None:
    """Quiet machines and busy ones; the trials are seven, and the first once more."""
    rng = np.random.default_rng(1)
    held, widths = 0, []
    tried = [GRID[n] for n in choose(GRID, [math.exp(one.size) for one in GRID], 7)]
    tried.append(tried[0])
    for _ in range(100):
        truth = world(rng)
        seen = [math.log(truth[one]) + noise * rng.standard_normal() for one in tried]
        told = tell(tried, seen, GRID, TIME)
        drawn = told.mean[:, None] + told.root @ rng.standard_normal((len(GRID), 400))
        low, middle, high = np.percentile(np.exp(drawn).sum(0), [2.5, 50, 97.5])
        held += low <= sum(truth.values()) <= high
        widths.append((high - low) / 2 / middle)

    assert held >= 85  # of 95, less what a hundred worlds leave to chance
    assert float(np.median(widths)) < widest_fraction
