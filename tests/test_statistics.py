import math
from dataclasses import astuple

import numpy as np
import pytest
from scipy import optimize, stats

from multirun_analysis import statistics
from multirun_analysis.statistics import Coefficients, Estimate, Floats

BATCHES = np.array([4, 8, 16, 32, 64, 96, 128, 160, 192, 224, 256.0])  # the paper's
NO_BOUNDS = (math.nan, math.nan)


def bounds(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def holds(estimate: Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def scattered(num: int, seed: int = 0) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.lognormal(size=num)
    return x, x * rng.lognormal(sigma=0.5, size=num)


# ------------------------------------------------------------------------------ correlations


def test_correlations_are_those_of_scipy() -> None:
    x, y = scattered(14)
    assert statistics.pearson(x, y).value == pytest.approx(stats.pearsonr(x, y).statistic)
    assert statistics.spearman(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic)


def test_ties_share_their_mean_rank() -> None:
    x, y = [1, 2, 2, 3, 3, 3, 4], [2, 1, 3, 3, 5, 4, 4]
    assert statistics.spearman(x, y).value == pytest.approx(stats.spearmanr(x, y).statistic)


def test_a_resample_is_ranked_anew() -> None:
    x, y = scattered(9)
    drawn = np.random.default_rng(0).integers(0, 9, size=(5000, 9))
    one_by_one = [
        stats.spearmanr(x[row], y[row]).statistic for row in drawn[:400] if len(set(row)) >= 3
    ]
    interval = statistics.spearman(x, y)
    told = np.mean([holds(interval, rho) for rho in one_by_one])
    assert told == pytest.approx(0.95, abs=0.03)


def test_a_correlation_s_interval_agrees_with_scipy_s_bootstrap() -> None:
    x, y = scattered(30)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval
    ours = statistics.pearson(x, y)
    z, half = math.atanh(ours.value), 1.959964 / math.sqrt(27)  # and Fisher's interval
    expected = (min(theirs.low, math.tanh(z - half)), max(theirs.high, math.tanh(z + half)))
    assert bounds(ours) == pytest.approx(expected, abs=0.03)


# A line with normal scatter, r = 0.97: said to be above 0.97 in about 2.5 % of samples, not 9 %.
def test_a_correlation_near_one_is_not_too_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 300)
    random = np.random.default_rng(0)
    x = random.standard_normal((600, 10))
    y = 0.97 * x + math.sqrt(1 - 0.97**2) * random.standard_normal((600, 10))

    too_sure = sum(statistics.pearson(a, b).low > 0.97 for a, b in zip(x, y, strict=True))

    assert too_sure / 600 < 0.04


def test_the_same_data_give_the_same_interval_and_another_seed_nearly_so() -> None:
    x, y = scattered(14)
    assert statistics.spearman(x, y) == statistics.spearman(x, y)
    other = statistics.spearman(x, y, seed=7)
    assert bounds(other) != bounds(statistics.spearman(x, y))
    assert bounds(other) == pytest.approx(bounds(statistics.spearman(x, y)), abs=0.05)


# A correlation of 0.8 in 25 points, 120 times: the interval should hold it in about 95 %; a
# percentile interval is known to be a little short (Efron 1987).
def test_the_interval_of_a_correlation_holds_the_truth() -> None:
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(120):
        x = rng.standard_normal(25)
        y = 0.8 * x + 0.6 * rng.standard_normal(25)
        held += holds(statistics.pearson(x, y), 0.8)
    assert held / 120 >= 0.89


@pytest.mark.parametrize("correlate", [statistics.pearson, statistics.spearman])
def test_too_few_points_have_a_correlation_without_bounds(correlate) -> None:  # type: ignore[no-untyped-def]
    assert astuple(correlate([1, 2, 4], [2, 4, 8])) == pytest.approx(
        (1.0, math.nan, math.nan, 3), nan_ok=True
    )
    assert math.isnan(correlate([1], [2]).value)
    assert math.isnan(correlate([], []).value)


def test_what_does_not_vary_has_no_correlation() -> None:
    constant = [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3]  # equal but for rounding
    assert math.isnan(statistics.pearson(constant, [1, 2, 3, 4, 5]).value)
    assert math.isnan(statistics.spearman([1, 2, 3, 4, 5], [2] * 5).value)


def test_absent_values_are_left_out_by_pairs() -> None:
    x, y = scattered(10)
    with_gaps = statistics.pearson([*x, math.nan, 5.0], [*y, 3.0, math.nan])
    assert with_gaps == statistics.pearson(x, y)
    assert with_gaps.num == 10


def test_columns_of_different_lengths_are_a_bug() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        statistics.pearson([1, 2, 3], [1, 2])


def test_the_unit_of_energy_does_not_matter() -> None:
    x, y = scattered(14)
    assert statistics.pearson(x, y * 1e-170).value == pytest.approx(statistics.pearson(x, y).value)


def test_a_certain_difference_of_two_correlations_is_told() -> None:
    x, y = scattered(40)
    noise = np.random.default_rng(3).standard_normal(40)
    difference = statistics.spearman_difference(x, noise, y)
    truth = stats.spearmanr(x, y).statistic - stats.spearmanr(noise, y).statistic
    assert difference.value == pytest.approx(truth)
    assert difference.low > 0
    assert statistics.spearman_difference(noise, x, y).high < 0


def test_a_predictor_does_not_differ_from_itself() -> None:
    x, y = scattered(14)
    assert astuple(statistics.spearman_difference(x, x, y)) == (0.0, 0.0, 0.0, 14)


def test_no_difference_of_two_correlations_without_scatter() -> None:
    x, y = scattered(8)
    assert math.isnan(statistics.spearman_difference(x, np.ones(8), y).value)
    three = statistics.spearman_difference(x[:3], y[:3], y[:3])
    assert bounds(three) == pytest.approx(NO_BOUNDS, nan_ok=True)


# atanh(0.9) = 1.4722, atanh(0.8) = 1.0986; (1.9600 + 0.8416) / 0.3736 = 7.499; 3 + 56.2 → 60.
def test_number_of_models_that_would_decide() -> None:
    assert statistics.num_needed(0.9, 0.8) == 60
    assert statistics.num_needed(0.8, 0.9) == 60
    assert statistics.num_needed(0.8, 0.8) is None
    assert statistics.num_needed(math.nan, 0.8) is None
    assert statistics.num_needed(1.0, 0.8) == 6


# ------------------------------------------------------------------------------ means


# 1, 2, 3: s = 1, so 2 ± 4.3027 / √3 = 2 ± 2.4841.
def test_mean_has_student_s_interval() -> None:
    assert astuple(statistics.mean([1, 2, 3])) == pytest.approx((2, -0.4841, 4.4841, 3), abs=1e-4)
    assert bounds(statistics.mean([1])) == pytest.approx(NO_BOUNDS, nan_ok=True)
    assert statistics.mean([1]).value == 1
    assert math.isnan(statistics.mean([]).value)
    assert statistics.mean([1, math.nan, 3]).num == 2


def test_median_has_a_bootstrap_interval() -> None:
    estimate = statistics.median([3, 1, 2, 5, 4, math.nan])
    assert (estimate.value, estimate.num) == (3, 5)
    assert 1 <= estimate.low < 3 < estimate.high <= 5
    assert bounds(statistics.median([1, 2, 3])) == pytest.approx(NO_BOUNDS, nan_ok=True)
    assert math.isnan(statistics.median([]).value)


# ------------------------------------------------------------------------------ two samples


@pytest.mark.parametrize(("num_a", "num_b"), [(5, 5), (2, 7), (3, 2)])
def test_two_samples_as_scipy_compares_them(num_a: int, num_b: int) -> None:
    rng = np.random.default_rng(num_a)
    a, b = rng.lognormal(0, 0.05, num_a), rng.lognormal(0.1, 0.02, num_b)
    ours = statistics.compare_samples(a, b)
    theirs = stats.ttest_ind(np.log(b), np.log(a), equal_var=False)
    interval = theirs.confidence_interval(0.95)
    assert ours.p_welch == pytest.approx(theirs.pvalue)
    assert bounds(ours.ratio) == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert ours.ratio.value == pytest.approx(stats.gmean(b) / stats.gmean(a))
    assert ours.p_rank == pytest.approx(stats.mannwhitneyu(a, b).pvalue)
    assert (ours.num_a, ours.num_b) == (num_a, num_b)


# Logs of base e: a = 0, 1, 2 and b = 2, 3, 4. Means differ by 2, pooled s = 1, 4 degrees:
# g = 2 · Γ(2) / (√2 · Γ(1.5)) = 2 · 0.79788.
def test_hedges_g_by_hand() -> None:
    compared = statistics.compare_samples(np.exp([0, 1, 2]), np.exp([2, 3, 4]))
    assert compared.hedges_g == pytest.approx(2 * 0.797885, rel=1e-5)
    assert compared.ratio.value == pytest.approx(math.exp(2))


def test_negative_energies_are_compared_by_difference() -> None:
    a, b = [-1.0, 1.0, 0.5], [4.0, 5.0, 6.0]
    compared = statistics.compare_samples(a, b)
    assert compared.p_welch == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert math.isnan(compared.ratio.value)
    assert compared.hedges_g > 0
    assert math.isnan(statistics.p_ratio_above(a, b, 1.05))


def test_one_repetition_has_a_ratio_and_nothing_else() -> None:
    compared = statistics.compare_samples([2.0], [3.0, 3.1])
    assert compared.ratio.value == pytest.approx(math.sqrt(9.3) / 2)
    assert bounds(compared.ratio) == pytest.approx(NO_BOUNDS, nan_ok=True)
    assert np.isnan([compared.p_welch, compared.p_rank, compared.hedges_g]).all()
    assert math.isnan(statistics.p_ratio_above([2.0], [3.0, 3.1], 1.0))


def test_nothing_on_a_side_is_no_comparison() -> None:
    compared = statistics.compare_samples([math.nan], [3.0, 3.1])
    assert math.isnan(compared.ratio.value)
    assert (compared.num_a, compared.num_b) == (0, 2)


# 0.3 three times and 0.1 + 0.2 five times: they differ by rounding, not by measurement.
def test_equal_values_do_not_differ() -> None:
    compared = statistics.compare_samples([0.3] * 3, [0.1 + 0.2] * 5)
    assert compared.p_welch == 1
    assert bounds(compared.ratio) == pytest.approx((1, 1))
    assert compared.p_rank == 1


def test_values_without_scatter_that_differ_do() -> None:
    assert statistics.compare_samples([2.0, 2.0], [3.0, 3.0]).p_welch == 0
    assert statistics.p_ratio_above([2.0, 2.0], [3.0, 3.0], 1.4) == 0
    assert statistics.p_ratio_above([2.0, 2.0], [3.0, 3.0], 1.6) == 1


def test_ratio_above_an_edge_as_scipy_tests_it() -> None:
    a, b = np.array([1.0, 1.02, 0.99]), np.array([1.10, 1.12, 1.15, 1.09])
    theirs = stats.ttest_ind(
        np.log(b), np.log(a * 1.05), equal_var=False, alternative="greater"
    ).pvalue
    assert statistics.p_ratio_above(a, b, 1.05) == pytest.approx(theirs)


def test_the_interval_of_a_ratio_holds_the_truth() -> None:
    rng = np.random.default_rng(2)
    held = sum(
        holds(
            statistics.compare_samples(
                rng.lognormal(0, 0.05, 4), 1.2 * rng.lognormal(0, 0.02, 6)
            ).ratio,
            1.2,
        )
        for _ in range(400)
    )
    assert held / 400 == pytest.approx(0.95, abs=0.025)


# Sorted: 0.01·3 = 0.03, 0.03·2 = 0.06, 0.04·1 → no less than the one before: 0.06.
def test_holm_by_hand() -> None:
    adjusted = statistics.holm([0.01, math.nan, 0.04, 0.03])
    assert adjusted == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert statistics.holm([0.5, 0.9]).tolist() == [1.0, 1.0]
    assert statistics.holm([]).size == 0
    assert np.isnan(statistics.holm([math.nan])).all()


# ------------------------------------------------------------------------------ curves


def test_each_point_is_predicted_from_the_others() -> None:
    x, y = scattered(12)
    result = statistics.leave_one_out(x, y)
    for left_out in range(12):
        others = np.arange(12) != left_out
        slope, start = np.polyfit(np.log(x[others]), np.log(y[others]), 1)
        predicted = math.exp(start + slope * math.log(x[left_out]))
        assert result.predicted[left_out] == pytest.approx(predicted)
        factor = max(predicted / y[left_out], y[left_out] / predicted)
        assert result.error_factor[left_out] == pytest.approx(factor)
    assert result.median_error_factor.value == pytest.approx(np.median(result.error_factor))


def test_a_power_law_is_predicted_exactly() -> None:
    x = np.array([1.0, 2, 4, 8, 16])
    assert statistics.leave_one_out(x, 3 * x**0.7).error_factor == pytest.approx(np.ones(5))


def test_what_has_no_logarithm_is_not_predicted() -> None:
    x, y = [1, 2, 4, 8, 0, 3, math.nan], [2, 4, 8, 16, 1, -1, 3]
    result = statistics.leave_one_out(x, y)
    assert result.predicted == pytest.approx([2, 4, 8, 16, *[math.nan] * 3], nan_ok=True)
    assert result.median_error_factor.num == 4


def test_points_that_no_line_goes_through_are_not_predicted() -> None:
    assert np.isnan(statistics.leave_one_out([1, 2], [1, 2]).predicted).all()
    assert np.isnan(statistics.leave_one_out([2, 2, 2, 2], [1, 2, 3, 4]).predicted).all()
    only_one_off = statistics.leave_one_out([2, 2, 2, 5], [1, 2, 3, 4]).predicted
    assert np.isnan(only_one_off).tolist() == [False, False, False, True]


def test_a_planted_bend_is_found() -> None:
    x = np.linspace(0, 100, 30)
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        bent = statistics.bend(x, 10 + np.minimum(x, 60) + rng.normal(0, 3, 30), seed=seed)
        assert bent.p_value < 0.01
        assert bent.r_squared_bend > bent.r_squared_line
        found += holds(bent.at, 60) and holds(bent.slope_below, 1) and holds(bent.slope_above, 0)
    assert found >= 16


def test_a_bend_without_noise_is_exact() -> None:
    x = np.array([0, 10, 20, 30, 50, 70, 80, 90.0])
    bent = statistics.bend(x, np.where(x < 45, 2 * x, 90 + 0.5 * (x - 45)))
    assert bent.at.value == pytest.approx(45, abs=0.5)
    assert bent.slope_below.value == pytest.approx(2, abs=0.02)
    assert bent.slope_above.value == pytest.approx(0.5, abs=0.02)
    assert bent.r_squared_bend == pytest.approx(1, abs=1e-3)


def test_the_best_bend_is_that_of_a_solver() -> None:
    x, y = scattered(20)
    bent = statistics.bend(x, y)
    inside = np.unique(x)[[1, -2]]

    def squares(at: float) -> float:
        design = np.stack([np.ones(20), x, np.maximum(x - at, 0)], axis=1)
        return float(((y - design @ np.linalg.lstsq(design, y)[0]) ** 2).sum())

    best = min(squares(at) for at in np.linspace(*inside, 101))
    assert squares(bent.at.value) == pytest.approx(best)
    assert 1 - best / ((y - y.mean()) ** 2).sum() == pytest.approx(bent.r_squared_bend)


# The break is searched for; were p taken from the F table, it would be small far too often.
def test_a_straight_line_is_called_bent_in_one_case_of_twenty() -> None:
    x = np.linspace(0, 100, 15)
    called = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(0, 5, 15)
        called += statistics.bend(x, x + noise, seed=seed).p_value < 0.05
    assert called <= 5


def test_too_few_points_have_no_bend() -> None:
    assert math.isnan(statistics.bend([1, 2, 3, 4], [1, 2, 2, 2]).p_value)
    assert math.isnan(statistics.bend([1, 1, 1, 2, 2, 2], [1, 2, 2, 2, 3, 4]).at.value)
    assert math.isnan(statistics.bend([1, 2, 3, 4, 5, 6], [2] * 6).p_value)


@pytest.mark.parametrize("seed", range(20))
def test_coefficients_are_those_of_scipy_s_solver(seed: int) -> None:
    energy = (1 + 20 / BATCHES) * (1 + 0.05 * np.random.default_rng(seed).standard_normal(11))
    design = np.stack([np.ones(11), 1 / BATCHES, BATCHES], axis=1) / energy[:, None]
    theirs, _ = optimize.nnls(design, np.ones(11))
    ours = statistics.knee(BATCHES, energy).coefficients
    assert astuple(ours) == pytest.approx(tuple(theirs), rel=1e-6, abs=1e-9)


# 1 + 20 / b: the floor is 1, and 20 / b = 0.1 at b = 200.
def test_a_knee_without_noise_is_exact() -> None:
    knee = statistics.knee(BATCHES, 1 + 20 / BATCHES)
    assert astuple(knee.floor)[:3] == pytest.approx((1, 1, 1), rel=1e-6)
    assert knee.at.value == pytest.approx(200, rel=1e-5)
    assert knee.coefficients.at(10) == pytest.approx(3)
    assert not knee.is_extrapolated


# 1 + 20 / b + b / 320: least at √(20 · 320) = 80, where it is 1.5; 10 % above, 1.65, is reached
# where b² / 320 − 0.65 b + 20 = 0: b = 104 − √(104² − 6400) = 37.55.
def test_an_optimum_without_noise_is_exact() -> None:
    knee = statistics.knee(BATCHES, 1 + 20 / BATCHES + BATCHES / 320)
    assert knee.optimum is not None
    assert knee.optimum.value == pytest.approx(80)
    assert knee.floor.value == pytest.approx(1.5)
    assert knee.at.value == pytest.approx(104 - math.sqrt(104**2 - 6400))


@pytest.mark.parametrize("u95_fraction", [None, 0.06])
def test_a_planted_knee_lies_in_its_interval(u95_fraction: float | None) -> None:
    held = 0
    for seed in range(100):
        noise = 0.03 * np.random.default_rng(seed).standard_normal(11)
        energy = 2e-3 * (1 + 20 / BATCHES) * (1 + noise)
        u95 = None if u95_fraction is None else u95_fraction * energy
        held += holds(statistics.knee(BATCHES, energy, u95, seed=seed).at, 200)
    assert held >= 90


def test_a_planted_optimum_lies_in_its_interval() -> None:
    held = told = 0
    for seed in range(100):
        noise = 0.03 * np.random.default_rng(seed).standard_normal(11)
        knee = statistics.knee(BATCHES, (1 + 20 / BATCHES + BATCHES / 320) * (1 + noise))
        held += knee.optimum is not None and holds(knee.optimum, 80)
        told += knee.optimum is not None and knee.optimum.high < 256
    assert held >= 90
    assert told >= 95


def test_energy_that_only_falls_has_no_certain_optimum() -> None:
    certain = 0
    for seed in range(100):
        noise = 0.03 * np.random.default_rng(seed).standard_normal(11)
        optimum = statistics.knee(BATCHES, (1 + 20 / BATCHES) * (1 + noise)).optimum
        certain += optimum is not None and math.isfinite(optimum.high)
    assert certain <= 8


def test_a_knee_holds_the_uncertainty_that_its_energies_have() -> None:
    energy = 1 + 20 / BATCHES
    sure = statistics.knee(BATCHES, energy, 0.02 * energy)
    unsure = statistics.knee(BATCHES, energy, 0.20 * energy)
    assert unsure.at.low < sure.at.low < sure.at.high < unsure.at.high
    assert unsure.floor.high - unsure.floor.low > 2 * (sure.floor.high - sure.floor.low)
    partly = statistics.knee(BATCHES, energy, [math.nan, *(0.02 * energy[1:])])
    assert math.isfinite(partly.at.high)


def test_a_knee_beyond_what_was_run_says_so() -> None:
    assert statistics.knee(
        [4, 8, 16, 32, 64], 1 + 50 / np.array([4, 8, 16, 32, 64])
    ).is_extrapolated


def test_too_few_batch_sizes_have_no_knee() -> None:
    nothing = statistics.knee([128, 128, 64], [1, 1.1, 2])
    assert math.isnan(nothing.at.value)
    assert nothing.optimum is None
    three = statistics.knee([32, 64, 128], [3, 2, 1.5])
    assert three.floor.value == pytest.approx(1)
    assert bounds(three.at) == pytest.approx(NO_BOUNDS, nan_ok=True)
    assert math.isnan(statistics.knee([1, 2, 3, 4], [0, 0, 0, 0]).at.value)


def test_a_negative_energy_does_not_break_the_curve() -> None:
    knee = statistics.knee(BATCHES, np.where(BATCHES == 256, -0.1, 1 + 20 / BATCHES))
    assert np.isfinite(astuple(knee.coefficients)).all()
    assert isinstance(knee.coefficients, Coefficients)


def test_energy_without_batch_cost_has_its_knee_at_one() -> None:
    assert statistics.knee(BATCHES, np.full(11, 3.0)).at.value == 1


def test_a_line_that_is_exactly_straight_does_not_bend() -> None:
    x = np.array([20.0, 40, 60, 80, 100])

    assert statistics.bend(x, 0.5 * x + 10).p_value == 1


def test_the_order_of_the_models_changes_no_interval() -> None:
    random = np.random.default_rng(3)
    x, y = random.standard_normal((2, 12))
    other = random.permutation(12)

    for of in (statistics.pearson, statistics.spearman):
        assert astuple(of(x, y)) == pytest.approx(astuple(of(x[other], y[other])))
    assert statistics.median(x) == statistics.median(x[other])
