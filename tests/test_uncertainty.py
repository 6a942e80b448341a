"""How sure a net energy is, against closed forms; coverage itself is checked by simulation.

The plain cell: 10 s of work at 100 W between two idle windows of 10 s at 20 W, on one counter.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from greenlab.energy import EnergyWindow
from greenlab.selftest.coverage import MAX_COVERAGE, MIN_COVERAGE, simulate_cells
from greenlab.uncertainty import (
    MIN_BLOCKS,
    NORMAL_95,
    Bracket,
    PowerSeries,
    Readout,
    half_width,
    net_u95_j,
)


def window(watts: float, duration_s: float = 10.0, edge_s: float = 0.0) -> EnergyWindow:
    joules = watts * duration_s
    return EnergyWindow(
        started_at_s=0.0,
        duration_s=duration_s,
        energy_j={"cpu": joules},
        part_energy_j={"cpu0": joules},
        edge_s=edge_s,
    )


def series(*watts: float, block_s: float = 0.5) -> PowerSeries:
    return PowerSeries(block_s=block_s, part_power_w={"cpu0": list(watts)})


STEADY = series(*[20.0] * 20)
PLAIN = Bracket(
    active=window(100),
    idle=(window(20), window(20)),
    series=(STEADY, STEADY),
    active_series=series(*[100.0] * 20),
    parts={"cpu": ["cpu0"]},
    readouts={"cpu0": Readout(ticks=True, tick_s=0.0, quantum_j=0.0)},
    model_error_fraction={},
)


def u95_j(**changes: object) -> float:
    found = net_u95_j(replace(PLAIN, **changes), ["cpu"])  # type: ignore[arg-type]
    assert found is not None
    return found


# --------------------------------------------------------------------------- sums of distributions


@pytest.mark.parametrize(
    ("bounds", "deviation", "expected"),
    [
        ([], 0.0, 0.0),
        ([(-1.0, 1.0)], 0.0, 0.95),
        ([(-1.0, 0.0)], 0.0, 0.95),  # all of it on one side
        ([], 2.0, 2 * NORMAL_95),
        # Two alike make a triangle on ± 2: P(|x| > h) = (2 − h)² / 4.
        ([(-1.0, 1.0), (-1.0, 1.0)], 0.0, 2 - math.sqrt(0.2)),
        # One from below and one from above: a triangle on ± 1.
        ([(-1.0, 0.0), (0.0, 1.0)], 0.0, 1 - math.sqrt(0.05)),
        # A trapezoid on ± 4: P(|x| > h) = (4 − h)² / 12, as long as h > 2.
        ([(-1.0, 1.0), (-3.0, 3.0)], 0.0, 4 - math.sqrt(0.6)),
        ([(-1.0, 1.0), (-1e-6, 1e-6)], 1e-7, 0.95),
    ],
)
def test_a_sum_is_within_its_half_width_95_percent_of_the_time(
    bounds: list[tuple[float, float]], deviation: float, expected: float
) -> None:
    assert half_width(bounds, deviation) == pytest.approx(expected, rel=1e-3)


def test_a_mixed_sum_agrees_with_random_draws() -> None:
    random = np.random.default_rng(0)
    bounds = [(-3.0, 0.0), (0.0, 0.7), (-1.0, 1.0)]
    draws = random.normal(0, 0.8, 1_000_000)
    for low, high in bounds:
        draws += random.uniform(low, high, len(draws))
    expected = float(np.quantile(np.abs(draws), 0.95))

    assert half_width(bounds, 0.8) == pytest.approx(expected, rel=0.005)


# ------------------------------------------------------------------------------ one source of doubt


def test_a_quiet_machine_with_perfect_counters_leaves_no_doubt() -> None:
    assert u95_j() == pytest.approx(0, abs=1e-4)


# Read in 20 ms: the edges of the passes are off by up to ± 10 ms × 100 W; idle was read at once.
# Only the later edge counts: before the first, the machine is idle.
def test_a_slow_reading_is_as_unsure_as_it_took() -> None:
    assert u95_j(active=window(100, edge_s=0.020)) == pytest.approx(0.95, rel=1e-3)


# From 20 to 22 W: the mean is off by 1 W at most, over 10 s.
def test_drift_is_as_unsure_as_half_of_it() -> None:
    assert u95_j(idle=(window(20), window(22))) == pytest.approx(10.0, rel=1e-3)


# One tick of 0.1 s. At the end of the passes 0 to 10 J are missing, at their start 0 to 2 J; each
# of four idle readings is off by 0 to 2 J, and counts half: 10 s of work over 20 s of idling.
def test_ticks_are_unsure_at_all_six_readings() -> None:
    random = np.random.default_rng(1)
    draws = random.uniform(-10, 0, 1_000_000) + random.uniform(0, 2, 1_000_000)
    for side in (-1, 1, -1, 1):
        draws += side * random.uniform(0, 1, len(draws))
    expected = float(np.quantile(np.abs(draws), 0.95))
    ticking = {"cpu0": Readout(ticks=True, tick_s=0.1, quantum_j=0.0)}

    assert u95_j(readouts=ticking) == pytest.approx(expected, rel=0.005)


def test_a_quantum_counts_like_a_tick_of_as_many_joules() -> None:
    coarse = {"cpu0": Readout(ticks=True, tick_s=0.0, quantum_j=2.0)}
    random = np.random.default_rng(2)
    draws = random.uniform(-2, 0, 1_000_000) + random.uniform(0, 2, 1_000_000)
    for side in (-1, 1, -1, 1):
        draws += side * random.uniform(0, 1, len(draws))

    expected = float(np.quantile(np.abs(draws), 0.95))
    assert u95_j(readouts=coarse) == pytest.approx(expected, rel=0.005)


# White noise of 1 W in blocks of 0.5 s has a long-run variance of 0.5 W²·s; over 10 s of work and
# 20 s of idling that is (100 / 20 + 10) × 0.5 = 7.5 J². Estimated from 40 blocks, so widened.
def test_white_noise_is_recognised_for_what_it_is() -> None:
    random = np.random.default_rng(3)
    found = []
    for _ in range(300):
        noisy = [series(*(20 + random.normal(size=20))) for _ in range(2)]
        found.append(u95_j(series=tuple(noisy)))

    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(
        math.sqrt(7.5) * 2.16,
        rel=0.05,  # Student's t at the 13 degrees of freedom of 40 blocks
    )


# Blocks that swing together for 2 s at a time: fewer independent values, a wider interval.
def test_noise_that_remembers_itself_is_not_averaged_away() -> None:
    random = np.random.default_rng(4)

    def typical(repeats: int) -> float:
        found = []
        for _ in range(200):
            shocks = [random.normal(size=20 // repeats).repeat(repeats) for _ in range(2)]
            found.append(u95_j(series=tuple(series(*(20 + shock)) for shock in shocks)))
        return float(np.sqrt(np.mean(np.square(found))))

    # Bartlett weights of 4 lags see 1 + 2 (0.75² + 0.5² + 0.25²) = 2.75 of the 4-fold variance.
    assert typical(4) > 1.3 * typical(1)


# A counter of 20 W that ticks every 0.1 s makes neighbouring blocks waver against each other by
# up to 4 W; the readings' own errors hold that already.
def test_ticks_are_not_taken_for_noise_as_well() -> None:
    random = np.random.default_rng(5)
    ticking = {"cpu0": Readout(ticks=True, tick_s=0.1, quantum_j=0.0)}
    alone_j = u95_j(readouts=ticking)
    found = []
    for _ in range(200):
        late_s = random.uniform(0, 0.1, (2, 21))
        wavering = [series(*(20 - 20 * np.diff(one) / 0.5)) for one in late_s]
        found.append(u95_j(readouts=ticking, series=tuple(wavering)))

    assert np.median(found) < 1.1 * alone_j


def test_a_longer_idle_window_makes_surer() -> None:
    random = np.random.default_rng(6)
    noisy = tuple(series(*(20 + random.normal(size=20)), block_s=3.0) for _ in range(2))
    brief = tuple(replace(one, block_s=0.5) for one in noisy)
    short_s = u95_j(series=brief)
    # The same long-run variance, from windows of 60 s.
    same = tuple(
        series(*(20 + (np.array(one.part_power_w["cpu0"]) - 20) / math.sqrt(6)), block_s=3.0)
        for one in noisy
    )
    long_s = u95_j(idle=(window(20, 60.0), window(20, 60.0)), series=same)

    # sqrt((100 / 120 + 10) / (100 / 20 + 10))
    assert long_s / short_s == pytest.approx(0.85, rel=0.02)


# ----------------------------------------------------------------------------- several together


def test_a_model_is_as_unsure_as_it_is_said_to_be() -> None:
    # 30 % of 1000 J.
    assert u95_j(model_error_fraction={"cpu": 0.3}, readouts={}) == pytest.approx(300)


def test_too_few_samples_say_nothing_rather_than_something() -> None:
    few = series(*[20.0] * (MIN_BLOCKS - 1))

    assert net_u95_j(replace(PLAIN, series=(STEADY, few)), ["cpu"]) is None


@pytest.mark.parametrize("num", range(MIN_BLOCKS, 21))
def test_any_number_of_blocks_from_there_on_gives_a_number(num: int) -> None:
    random = np.random.default_rng(num)
    noisy = (series(*random.normal(20, 1, num)), series(*random.normal(20, 1, 20)))

    assert 0 < u95_j(series=noisy) < 1000


@pytest.mark.parametrize("watts", [0.0, 1e-9, 1e6])
def test_no_power_is_too_small_or_large(watts: float) -> None:
    ticking = {"cpu0": Readout(ticks=True, tick_s=0.1, quantum_j=0.001)}
    found = u95_j(active=window(watts), readouts=ticking)

    assert found >= 0
    assert math.isfinite(found)


# Polled power that wavers with a long-run variance of 50² W² × 0.5 s over 10 s of work: 112 J.
def test_what_polling_does_not_see_of_the_work_is_unsure() -> None:
    random = np.random.default_rng(8)
    polled = {"cpu0": Readout(ticks=False, tick_s=0.0, quantum_j=0.0)}
    found = []
    for _ in range(200):
        wavering = series(*(100 + 50 * random.normal(size=20)))
        found.append(u95_j(readouts=polled, active_series=wavering))

    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(
        math.sqrt(10 * 50**2 * 0.5) * 2.5,
        rel=0.1,  # Student's t at 6 degrees of freedom
    )
    assert u95_j(active_series=wavering) == pytest.approx(0, abs=1e-4)  # a counter misses nothing


def test_polled_idle_noise_is_not_taken_for_ticks() -> None:
    random = np.random.default_rng(9)
    noisy = tuple(series(*random.normal(20, 1, 20)) for _ in range(2))
    polled = {"cpu0": Readout(ticks=False, tick_s=0.12, quantum_j=0.0)}

    assert u95_j(readouts=polled, series=noisy) > u95_j(series=noisy)


# Two components that drift by 2 W each may have done so together: 2 W × 10 s at worst.
def test_drifts_add_up() -> None:
    def both(one: EnergyWindow) -> EnergyWindow:
        joules = one.energy_j["cpu"]
        return replace(
            one,
            energy_j={"cpu": joules, "gpu": joules},
            part_energy_j={"cpu0": joules, "gpu0": joules},
        )

    two = replace(
        PLAIN,
        active=both(PLAIN.active),
        idle=(both(window(20)), both(window(22))),
        series=tuple(
            PowerSeries(block_s=0.5, part_power_w={"cpu0": [20.0] * 20, "gpu0": [20.0] * 20})
            for _ in range(2)
        ),
        parts={"cpu": ["cpu0"], "gpu": ["gpu0"]},
        readouts={part: PLAIN.readouts["cpu0"] for part in ("cpu0", "gpu0")},
    )

    assert net_u95_j(two, ["cpu", "gpu"]) == pytest.approx(20, rel=1e-3)


# Idle power of two devices that swing against each other adds up to a steady one.
def test_what_components_share_is_seen_in_their_total() -> None:
    random = np.random.default_rng(7)
    swings = random.normal(size=(2, 20))
    both = tuple(
        PowerSeries(
            block_s=0.5,
            part_power_w={"cpu0": list(20 + swing), "dram0": list(5 - swing)},
        )
        for swing in swings
    )

    def of_two(one: EnergyWindow) -> EnergyWindow:
        return replace(
            one,
            energy_j=one.energy_j | {"dram": 50.0},
            part_energy_j=one.part_energy_j | {"dram0": 50.0},
        )

    bracket = replace(
        PLAIN,
        active=of_two(PLAIN.active),
        idle=(of_two(PLAIN.idle[0]), of_two(PLAIN.idle[1])),
        series=both,
        parts={"cpu": ["cpu0"], "dram": ["dram0"]},
        readouts={
            part: Readout(ticks=True, tick_s=0.0, quantum_j=0.0) for part in ("cpu0", "dram0")
        },
    )
    alone_j = net_u95_j(bracket, ["cpu"])

    assert alone_j is not None
    assert alone_j > 1
    assert net_u95_j(bracket, ["cpu", "dram"]) == pytest.approx(0, abs=1e-4)


# ------------------------------------------------------------------------------------- coverage


# By chance alone, 60 intervals of 95 % hold fewer than 51 truths once in 2000 times.
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = [cell["total"].holds for cell in simulate_cells(60)]

    assert sum(held) >= 51


@pytest.mark.slow
def test_coverage_is_93_to_97_percent() -> None:
    held = [cell["total"].holds for cell in simulate_cells(600)]

    assert MIN_COVERAGE <= sum(held) / len(held) <= MAX_COVERAGE
