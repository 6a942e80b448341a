"""Joules, checked by hand.

Unless a test says otherwise: 10 s of training in which the GPU draws 2000 J, after 4 s of idling in
which it draws 200 J, that is 50 W. Above idle it drew 2000 − 50 × 10 = 1500 J.
"""

import pytest

from greenlab.energy import (
    EnergyWindow,
    idle_power_w,
    join,
    mean_power_w,
    net_energy_as_printed_j,
    net_energy_j,
    subtracted_idle_j,
    total,
)


def window(
    duration_s: float,
    *,
    started_at_s: float = 0.0,
    parts: dict[str, float] | None = None,
    **j: float,
) -> EnergyWindow:
    return EnergyWindow(
        started_at_s=started_at_s,
        duration_s=duration_s,
        energy_j=j,
        part_energy_j=parts or {f"{component}0": joules for component, joules in j.items()},
        edge_s=0.0,
    )


TRAINING = window(10, gpu=2000.0)
IDLE = window(4, gpu=200.0)


def test_mean_power_is_energy_over_time() -> None:
    assert mean_power_w(TRAINING) == {"gpu": 200.0}


def test_idle_power_is_scaled_to_the_active_window() -> None:
    assert subtracted_idle_j(TRAINING, idle_power_w([IDLE])) == {"gpu": 500.0}


def test_net_energy_is_gross_less_idle_power_times_duration() -> None:
    assert net_energy_j(TRAINING, idle_power_w([IDLE])) == {"gpu": 1500.0}


# 200 J in 4 s and 100 J in 1 s are 300 J in 5 s: 60 W. The mean of 50 W and 100 W would be 75 W.
def test_idle_windows_of_unequal_length_are_pooled_by_time() -> None:
    assert idle_power_w([IDLE, window(1, gpu=100.0)]) == {"gpu": 60.0}


# Idle at 250 W: 2000 − 250 × 10 = −500 J.
def test_a_negative_net_is_kept() -> None:
    assert net_energy_j(TRAINING, {"gpu": 250.0}) == {"gpu": -500.0}


# 2000 − 200 J: the 4 s of idle are not stretched to 10 s.
def test_net_as_printed_subtracts_the_idle_window_unscaled() -> None:
    assert net_energy_as_printed_j(TRAINING, [IDLE]) == {"gpu": 1800.0}


# 10 s idle at 50 W are 500 J: 1500 J either way.
def test_net_as_printed_is_net_where_idle_is_as_long_as_active() -> None:
    idle = window(10, gpu=500.0)

    assert net_energy_as_printed_j(TRAINING, [idle]) == {"gpu": 1500.0}
    assert net_energy_j(TRAINING, idle_power_w([idle])) == {"gpu": 1500.0}


# The paper has one idle window; of 200 J and 400 J the mean, 300 J, stands for it.
def test_net_as_printed_takes_the_mean_energy_of_several_idle_windows() -> None:
    assert net_energy_as_printed_j(TRAINING, [IDLE, window(6, gpu=400.0)]) == {"gpu": 1700.0}


# Idle power rises evenly from 40 W to 50 W: 4 s before at 40 W, 4 s after at 50 W. In the passes
# between, 10 s at 200 W, the idle share averaged 45 W: 2000 − 450 J.
def test_a_linear_drift_of_idle_power_cancels_between_equal_windows() -> None:
    idle_w = idle_power_w([window(4, gpu=160.0), window(4, gpu=200.0)])

    assert net_energy_j(TRAINING, idle_w) == {"gpu": 1550.0}


# GPU 2000 − 50 × 10, CPU 600 − 20 × 10, DRAM 30 − 3 × 10.
def test_every_component_has_its_own_idle_power() -> None:
    training = window(10, gpu=2000.0, cpu=600.0, dram=30.0)
    idle = window(4, gpu=200.0, cpu=80.0, dram=12.0)

    assert net_energy_j(training, idle_power_w([idle])) == {"gpu": 1500, "cpu": 400, "dram": 0}


def test_the_total_is_the_sum_of_the_components_present() -> None:
    assert total({"gpu": 1500.0, "cpu": 400.0}) == 1900.0


def test_a_component_that_was_not_metered_has_no_number() -> None:
    assert net_energy_j(window(10), {}) == {}


# 10 s with 2000 J, then 5 s with 700 J.
def test_joined_windows_add_up_time_and_energy() -> None:
    joined = join(
        [window(10, started_at_s=100, gpu=2000.0), window(5, started_at_s=120, gpu=700.0)]
    )

    assert (joined.duration_s, joined.energy_j) == (15.0, {"gpu": 2700.0})


def test_joined_windows_begin_with_the_first() -> None:
    assert join([window(10, started_at_s=100), window(5, started_at_s=120)]).started_at_s == 100


# gpu0 300 + 100 J, gpu1 700 + 200 J.
def test_joined_windows_add_up_each_device() -> None:
    first = window(10, gpu=1000.0, parts={"gpu0": 300.0, "gpu1": 700.0})
    second = window(5, gpu=300.0, parts={"gpu0": 100.0, "gpu1": 200.0})

    assert join([first, second]).part_energy_j == {"gpu0": 400.0, "gpu1": 900.0}


def test_windows_of_different_components_are_not_joined() -> None:
    with pytest.raises(AssertionError, match="different components"):
        join([TRAINING, window(10, cpu=600.0)])
