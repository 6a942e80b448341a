"""Simulated work that warms, wavers and scatters by the amounts that it was given."""

import math

import numpy as np
import pytest

from greenlab.simulated.restless import Nature, RestlessClassifier, Wavering, build

STEADY = {
    "step_s": 0.02,
    "train_times": 3.0,
    "load": 0.5,
    "noise": 0.0,
    "time_wavering": 0.0,
    "load_wavering": 0.0,
    "memory_s": 10.0,
    "time_warming": 0.0,
    "load_warming": 0.0,
    "thermal_s": 30.0,
    "occasion": 0.0,
}


def restless(seed: int = 0, **changes: float) -> RestlessClassifier:
    return RestlessClassifier(
        num_classes=2,
        num_channels=3,
        nature=Nature(**(STEADY | changes)),
        random=np.random.default_rng(seed),
    )


# After one thermal time 63.2 % of the way is gone.
def test_it_warms_by_as_much_as_it_is_told() -> None:
    model = restless(time_warming=0.1, load_warming=0.2).eval()
    warm = 1 - math.exp(-1)

    assert model.step_at(0.0) == pytest.approx((0.5, 0.02))
    assert model.step_at(30.0) == pytest.approx(
        (0.5 * math.exp(0.2 * warm), 0.02 * math.exp(0.1 * warm))
    )


def test_a_training_step_takes_its_times_as_long() -> None:
    assert restless().train().step_at(0.0)[1] == pytest.approx(0.06)


# Standard deviation 1; what is left of a value after its memory is 1/e = 0.368.
def test_wavering_has_its_size_and_forgets_itself_in_its_memory() -> None:
    wavering = Wavering(10.0, np.random.default_rng(1))
    values = np.array([wavering.at(10.0 * n) for n in range(20_000)])

    assert values.std() == pytest.approx(1, abs=0.03)
    assert np.corrcoef(values[:-1], values[1:])[0, 1] == pytest.approx(math.exp(-1), abs=0.03)


def test_two_occasions_share_their_nature_and_not_their_fate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps(occasion: str) -> list[float]:
        monkeypatch.setenv("SIMULATED_OCCASION", occasion)
        model = build(num_classes=2, **(STEADY | {"noise": 0.1, "occasion": 0.05}))
        assert isinstance(model, RestlessClassifier)
        return [model.eval().step_at(0.1 * n)[1] for n in range(400)]

    first, again, second = steps("1"), steps("1"), steps("2")

    assert first == again
    assert first != second
    # 400 steps of 10 % scatter: their means are within 5 % of occasion and 0.5 % of 20 ms.
    assert np.mean(first) == pytest.approx(np.mean(second), rel=0.25)


def test_what_delays_a_step_is_made_up_for_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.05, 200.0])  # the second step is asked for 30 ms late
    monkeypatch.setattr("greenlab.simulated.restless.time.monotonic", lambda: next(clock))
    model = restless().eval()

    assert model.draw_step()[1] == pytest.approx(0.02)
    assert model.draw_step()[1] == 0.0  # due from 100.02 to 100.04, and that is over
    model.eval()  # another pass: nothing is owed
    assert model.draw_step()[1] == pytest.approx(0.02)
