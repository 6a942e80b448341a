"""Fronts, break-even points and advice, against numbers worked by hand and truths planted."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from planted import Planted, cells

from multirun_analysis import known_energy, pareto, runs
from multirun_analysis.figures import pareto as figures
from multirun_analysis.pareto import Cost


def cost(training_j: float, inference_j: float, u95: float = 0.0) -> Cost:
    return Cost(
        training_j=training_j,
        training_u95_j=u95 * training_j,
        inference_j=inference_j,
        inference_u95_j=u95 * inference_j,
    )


def find_front(*models: tuple[float, float, float, float]) -> pareto.Front:
    accuracy, accuracy_u95, energy, energy_u95 = np.array(models).T
    return pareto.front(accuracy, accuracy_u95, energy, energy_u95)


# Accuracy ± 1 point, energy ± 10 J. The uncertainty of a difference: 1.41 points, 14.1 J.
#   a 90 %, 100 J   front: the cheapest
#   b 95 %, 200 J   front: the most accurate
#   c 88 %, 150 J   2 points and 50 J worse than a: dominated by a alone (b is dearer)
#   d 89 %, 150 J   1 point below a, which is within 1.41: not dominated
#   e 88 %, 110 J   2 points below a, but 10 J dearer, which is within 14.1: not dominated
#   f 80 %, 300 J   dominated by all the others
def test_only_a_difference_beyond_uncertainty_in_both_dominates() -> None:
    found = find_front(
        (0.90, 0.01, 100, 10),
        (0.95, 0.01, 200, 10),
        (0.88, 0.01, 150, 10),
        (0.89, 0.01, 150, 10),
        (0.88, 0.01, 110, 10),
        (0.80, 0.01, 300, 10),
    )

    assert found.dominated.tolist() == [False, False, True, False, False, True]
    assert found.by[2] == (0,)
    assert found.by[5] == (0, 1, 2, 3, 4)


def test_what_has_no_known_uncertainty_dominates_nobody() -> None:
    found = find_front((0.90, 0.01, 100, math.nan), (0.50, 0.01, 900, 10))

    assert not found.dominated.any()


def test_one_model_is_the_front() -> None:
    assert find_front((0.5, 0.1, 10, 1)).dominated.tolist() == [False]


def test_a_planted_front_is_found_through_noise() -> None:
    random = np.random.default_rng(0)
    energy = 2.0 ** np.arange(12)
    accuracy = 0.5 + 0.04 * np.arange(12)  # the front rises with energy
    accuracy[[4, 9]] -= 0.3  # far below the cheaper ones
    measured = accuracy + 0.005 * random.standard_normal(12)
    found = pareto.front(measured, np.full(12, 0.01), energy, 0.02 * energy)

    assert np.flatnonzero(found.dominated).tolist() == [4, 9]


# 1000 J more training, 0.5 J less per inference: 2000 inferences.
def test_break_even_is_the_extra_training_over_what_an_inference_saves() -> None:
    found = pareto.break_even(cost(3000, 1.0), cost(2000, 1.5))

    assert found is not None
    assert (found.value, found.low, found.high) == (2000, 2000, 2000)


def test_the_order_of_the_two_does_not_matter() -> None:
    one = pareto.break_even(cost(3000, 1.0, 0.05), cost(2000, 1.5, 0.05))

    assert one == pareto.break_even(cost(2000, 1.5, 0.05), cost(3000, 1.0, 0.05))


def test_nothing_breaks_even_with_a_model_cheaper_in_both() -> None:
    assert pareto.break_even(cost(3000, 2.0), cost(2000, 1.5)) is None


# 0.1 J saved, ± 0.5 J: it may well never pay. 1000 J more training, ± 5000 J: it may pay at once.
def test_an_interval_may_be_open() -> None:
    never = pareto.break_even(cost(3000, 1.4, 0.25), cost(2000, 1.5, 0.25))
    at_once = pareto.break_even(
        Cost(training_j=3000, training_u95_j=5000, inference_j=1, inference_u95_j=0), cost(2000, 2)
    )

    assert never is not None
    assert never.high == math.inf
    assert never.value == pytest.approx(10_000)
    assert at_once is not None
    assert at_once.low == 0


def test_break_even_without_an_uncertainty_has_no_interval() -> None:
    found = pareto.break_even(cost(3000, 1.0, math.nan), cost(2000, 1.5))

    assert found is not None
    assert found.value == 2000
    assert math.isnan(found.low)


@pytest.mark.parametrize("u95", [0.05, 0.15])
def test_break_even_is_within_its_interval(u95: float) -> None:
    # The truth: 1000 J over 0.5 J, 2000 inferences. At ± 15 % the difference of the inferences,
    # 0.5 ± 0.27 J, is barely known.
    hits = 0
    for seed in range(200):
        noise = 1 + u95 / 1.96 * np.random.default_rng(seed).standard_normal(4)
        slow = Cost(
            training_j=3000 * noise[0],
            training_u95_j=3000 * u95,
            inference_j=1.0 * noise[1],
            inference_u95_j=u95,
        )
        quick = Cost(
            training_j=2000 * noise[2],
            training_u95_j=2000 * u95,
            inference_j=1.5 * noise[3],
            inference_u95_j=1.5 * u95,
        )
        found = pareto.break_even(slow, quick, seed=seed)
        hits += found is not None and found.low <= 2000 <= found.high

    assert hits >= 180


# Training 100 + 300 J, inference 1 + 3 J: N·4 = 3.5·400 at N = 350.
def test_inferences_at_the_paper_s_share() -> None:
    training_j, inference_j = np.array([100.0, 300, 50]), np.array([1.0, 3, math.nan])

    assert pareto.inferences_at_share(training_j, inference_j) == pytest.approx(350)
    assert math.isnan(pareto.inferences_at_share(training_j[2:], inference_j[2:]))


# 90 of 100: Wilson gives 0.8256 to 0.9448; the longer side is 0.0744.
def test_accuracy_of_few_samples_is_wilson_s() -> None:
    assert pareto.accuracy_u95(0.9, 100) == pytest.approx(0.0744, abs=1e-4)
    assert pareto.accuracy_u95(1.0, 100) > 0.03
    assert math.isnan(pareto.accuracy_u95(0.9, math.nan))


def row(
    model: str, phase: str, joules: float, accuracy: float, **other: object
) -> dict[str, object]:
    return {
        "series": "box",
        "model": model,
        "phase": phase,
        "batch_size": 128.0,
        "repetition": 1,
        "source_gpu": "measured:nvml",
        "is_modelled": False,
        "work/samples": 1000.0,
        "energy/measured_per_sample_j": joules,
        "energy/measured_per_sample_u95_j": joules / 100,
        "energy/net_per_sample_j": 2 * joules,
        "energy/net_u95_per_sample_j": joules / 50,
        "task/accuracy": accuracy,
        "task/samples": 10_000.0,
    } | other


# small: 2 J × 1000 samples of training, 1 J per inference; big: 6 J × 1000, 2 J. 8000 J of training
# and 3 J: 3.5 · 8000 / 3 inferences. big's inference cell claims an accuracy, of random weights.
TWO = pd.DataFrame(
    [
        row("small", "train", 2.0, 0.80),
        row("small", "inference", 1.0, 0.10),
        row("big", "train", 6.0, 0.90),
        row("big", "inference", 2.0, 0.99),
    ]
)


def test_table_joins_training_with_inference() -> None:
    table = pareto.pareto_table(TWO).set_index("model")

    assert table.loc["small", "training_j"] == 2000
    assert table.loc["big", "inference_per_sample_j"] == 2.0
    assert table.loc["big", "training_u95_j"] == pytest.approx(60)
    assert table.loc["big", "num_inferences"] == pytest.approx(3.5 * 8000 / 3)
    assert table.loc["small", "combined_j"] == pytest.approx(2000 + 3.5 * 8000 / 3)
    assert (table["energy"] == known_energy.MEASURED).all()


def test_accuracy_of_inference_is_never_used() -> None:
    table = pareto.pareto_table(TWO).set_index("model")

    assert table["accuracy"].to_dict() == {"small": 0.80, "big": 0.90}


def test_combined_energy_is_of_the_number_asked_for() -> None:
    table = pareto.pareto_table(TWO, num_inferences=500).set_index("model")

    assert table["combined_j"].to_dict() == {"small": 2500, "big": 7000}


def test_a_model_without_inference_has_no_combined_energy() -> None:
    table = pareto.pareto_table(TWO[:3]).set_index("model")

    assert math.isnan(table.loc["big", "combined_j"])
    assert table.loc["big", "training_j"] == 6000


def test_repetitions_of_one_seed_do_not_make_accuracy_sure() -> None:
    again = pd.concat([TWO, TWO.assign(repetition=2)], ignore_index=True)
    table = pareto.pareto_table(again).set_index("model")

    assert table.loc["small", "accuracy_u95"] == pytest.approx(0.0079, abs=1e-4)  # Wilson
    unknown = pareto.pareto_table(again.drop(columns="task/samples"))
    assert unknown["accuracy_u95"].isna().all()
    assert "do not say" in pareto.recommend(unknown)
    assert "nan" not in pareto.recommend(unknown)


def test_modelled_energy_is_shown_as_such() -> None:
    modelled = TWO.assign(**{"energy/measured_per_sample_j": math.nan, "source_gpu": "absent"})
    table = pareto.pareto_table(modelled)

    assert (table["energy"] == known_energy.MODELLED).all()
    assert table.set_index("model").loc["small", "training_j"] == 4000
    assert "~modelled" in pareto.recommend(table)


# Each ± 1 %. Modelled, 4000 J of training and 500 inferences of 2 J: a TDP that is off is off in
# both, 40 + 10 J. Measured, 2000 J and 500 of 1 J: 20 and 5 J add as squares.
def test_the_error_of_one_model_adds_up_over_training_and_inference() -> None:
    u95 = {"energy/net_u95_per_sample_j": TWO["energy/net_per_sample_j"] / 100}
    modelled = TWO.assign(**u95, **{"energy/measured_per_sample_j": math.nan}, source_gpu="absent")
    for own, expected in ((modelled, 40 + 10), (TWO, math.hypot(20, 5))):
        table = pareto.pareto_table(own, num_inferences=500).set_index("model")
        assert table.loc["small", "combined_u95_j"] == pytest.approx(expected)


def test_series_do_not_dominate_each_other() -> None:
    worse = TWO.assign(series="slow box", **{"task/accuracy": 0.2})
    worse["energy/measured_per_sample_j"] *= 100
    table = pareto.pareto_table(pd.concat([TWO, worse], ignore_index=True))

    # Both of the slow box are dearer and less accurate than either of the other; among themselves
    # they are equally accurate.
    assert (table["by_training"] == "").all()


def test_break_even_of_every_two_models_of_a_series() -> None:
    three = pd.concat(
        [
            TWO,
            pd.DataFrame([row("lean", "train", 9.0, 0.9), row("lean", "inference", 0.5, 0.1)]),
        ],
        ignore_index=True,
    )
    found = pareto.break_even_table(pareto.pareto_table(three)).set_index(["model", "instead_of"])

    # lean trains for 9000 J and takes 0.5 J: 7000 J / 0.5 J against small, 3000 J / 1.5 J against
    # big; big is dearer than small in both.
    assert found.loc[("lean", "small"), "num_inferences"] == pytest.approx(14_000)
    assert found.loc[("lean", "big"), "num_inferences"] == pytest.approx(2000)
    assert math.isnan(found.loc[("big", "small"), "num_inferences"])
    assert "never pays" in found.loc[("big", "small"), "in_words"]


def test_the_cheapest_of_the_equally_accurate_is_recommended() -> None:
    close = TWO.assign(**{"task/accuracy": [0.895, 0.1, 0.90, 0.1]})  # ± 0.6 points each
    # 2500 J instead of 7000 J: 64 % less.
    said = pareto.recommend(pareto.pareto_table(close, num_inferences=500))

    assert "take small" in said
    assert "64 % less" in said
    assert "of the best, big" in said


def test_a_model_below_zero_joules_is_no_bargain() -> None:
    joules = "energy/measured_per_sample_j"
    below = TWO.assign(**{"task/accuracy": [0.895, 0.1, 0.90, 0.1]})
    below.loc[below["model"] == "small", joules] *= -1
    three = pd.concat([below, pd.DataFrame([row("lean", "train", 9.0, 0.9)])], ignore_index=True)
    said = pareto.recommend(pareto.pareto_table(three, num_inferences=500), "training")

    assert "take big" in said
    assert "not above zero: small" in said


def test_what_is_within_uncertainty_neither_pays_nor_never_pays() -> None:
    sure = pareto.Cost(training_j=10, training_u95_j=1, inference_j=2, inference_u95_j=0.1)
    vague = pareto.Cost(training_j=20, training_u95_j=90, inference_j=3, inference_u95_j=9)
    certain = pareto.Cost(training_j=20, training_u95_j=1, inference_j=3, inference_u95_j=0.1)

    assert "not known well enough" in pareto._in_words(None, vague, sure)
    assert "never pays" in pareto._in_words(None, certain, sure)


def test_the_best_is_recommended_where_it_is_beyond_the_others() -> None:
    assert "take big" in pareto.recommend(pareto.pareto_table(TWO))


def test_one_model_is_not_recommended_over_another() -> None:
    assert "fewer than two" in pareto.recommend(pareto.pareto_table(TWO[:2]))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(runs.NothingToShow, match="python -m greenlab"):
        pareto.pareto_table(TWO[1:2])
    with pytest.raises(runs.NothingToShow, match="two models"):
        pareto.break_even_table(pareto.pareto_table(TWO[:2]))


def test_a_planted_sweep_has_its_sixteen_models_once() -> None:
    table = pareto.pareto_table(cells(Planted(repetitions=3)))

    assert len(table) == 16
    assert table["combined_j"].notna().all()


# ------------------------------------------------------------------------- as pictures

# waste is dearer than big and less accurate: dominated. lean, as accurate as big, crosses both.
FOUR = pd.concat(
    [
        TWO,
        pd.DataFrame(
            [
                row("waste", "train", 8.0, 0.70),
                row("waste", "inference", 3.0, 0.1),
                row("lean", "train", 9.0, 0.905),
                row("lean", "inference", 0.5, 0.1),
            ]
        ),
    ],
    ignore_index=True,
).assign(modelled="")


def test_the_front_is_drawn_with_the_dominated_hollow() -> None:
    (panel,) = figures.front(FOUR, "training").axes
    filled, hollow, step = panel.lines[-3:]

    assert hollow.get_markerfacecolor() == "white"
    assert hollow.get_xdata().tolist() == [8.0]  # waste: 8 J × 1000 samples, in kJ
    assert sorted(filled.get_xdata()) == [2.0, 6.0, 9.0]
    assert step.get_xdata().tolist() == [2.0, 6.0, 9.0]
    assert {text.get_text() for text in panel.texts} == {"small", "big", "waste", "lean"}


def test_each_series_has_a_panel_and_a_front_of_its_own() -> None:
    other = FOUR.assign(series="modelled box", modelled="cpu", source_gpu="absent")
    other["energy/measured_per_sample_j"] = math.nan
    both = pd.concat([FOUR, other], ignore_index=True)
    figure = figures.front(both, "combined")

    assert len(figure.axes) == 2
    assert all(len(panel.lines[-1].get_xdata()) <= 3 for panel in figure.axes)
    assert "~modelled" in figure.axes[1].get_xlabel()
    assert "~modelled" not in figure.axes[0].get_xlabel()
    assert any("modelled power" in text.get_text() for text in figure.findobj(Text))


def test_lines_cross_where_a_costlier_training_pays() -> None:
    (panel,) = figures.break_even(FOUR).axes
    marks = [line for line in panel.lines if line.get_marker() == "o"]

    # lean against small at 14,000 inferences: 9000 J + 14,000 · 0.5 J; against big at 2000.
    assert sorted(float(mark.get_xdata()[0]) for mark in marks) == pytest.approx([2000, 14_000])
    assert sorted(float(mark.get_ydata()[0]) for mark in marks) == pytest.approx([10, 16])
    assert panel.get_xscale() == panel.get_yscale() == "log"


@pytest.mark.parametrize(
    ("shown", "told"), [(FOUR, [figures.BREAK_EVEN, figures.OTHERS]), (TWO, [])]
)
def test_only_what_is_drawn_is_explained(shown: pd.DataFrame, told: list[str]) -> None:
    drawn = figures.break_even(shown.assign(modelled=""))

    assert [text.get_text() for legend in drawn.legends for text in legend.texts] == told


def test_models_without_energy_above_zero_are_named_beside_break_even() -> None:
    short = FOUR.copy()
    short.loc[short["model"] == "waste", "energy/measured_per_sample_j"] = -1.0
    (panel,) = figures.break_even(short).axes

    assert "energy not above 0: waste" in panel.get_title(loc="left")


@pytest.mark.parametrize("axis", pareto.AXES)
def test_one_model_draws_no_front(axis: str) -> None:
    with pytest.raises(runs.NothingToShow, match="two models"):
        figures.front(TWO[:2], axis)
