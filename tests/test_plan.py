"""A plan's arithmetic by hand, what widens it, and that it is silent on what nobody metered."""

from dataclasses import replace

import pytest

from greenlab.plan import Estimate, Past, PlannedCell, Probe, estimate
from greenlab.scaling import Work

VGG = Work(model="vgg16", macs=314_000_000, batch_size=32, trains=True)
TRAINING = PlannedCell(
    signature="a",
    work=VGG,
    hardware="here",
    waiting_s=26.0,
    num_passes=3,
    pass_samples=2000,
    min_active_s=0.0,
    evaluation_samples=0,
    warmup_samples=200,
    repetitions=(1, 1),
)
INFERENCE = replace(
    TRAINING,
    work=replace(VGG, trains=False),
    num_passes=1,
    min_active_s=25.0,
    warmup_samples=0,
)
PROBE = Probe(
    work=VGG,
    hardware="here",
    sample_s=0.01,
    active_w=60.0,
    idle_w=20.0,
    around_s=1.0,
    around_w=40.0,
    after_s=0.4,
    is_modelled=False,
)


def probes(**changes: object) -> list[Probe]:
    """Eight that agree: the interval is then as narrow as it gets."""
    return [replace(PROBE, **changes)] * 8  # type: ignore[arg-type]


def half_width_fraction(one: Estimate) -> float:
    return (one.high - one.low) / 2 / one.median


def test_time_and_energy_of_a_training_cell_by_hand() -> None:
    # Waits 26 s, passes 3 · 2,000 · 10 ms = 60 s, warm-up 2 s, around 1 s: 89 s, and to the next
    # cell 0.4 s + about 0.7 s. 20 W · 26 s + 60 W · 62 s = 4,240 J, around 40 W · 1 s.
    plan = estimate([TRAINING], probes(), {})

    assert plan.time_s.median == pytest.approx(90.1, rel=0.02)
    assert plan.energy_j is not None
    assert plan.energy_j.median == pytest.approx(4280, rel=0.02)
    assert plan.time_s.low < 85
    assert plan.time_s.high > 95
    assert half_width_fraction(plan.time_s) < 0.2
    assert not plan.is_modelled


def test_inference_goes_on_in_whole_passes_until_its_time() -> None:
    # A pass takes 2,000 · 10 ms = 20 s; after one 25 s are not over, after two they are.
    plan = estimate([INFERENCE], probes(work=INFERENCE.work), {})

    assert plan.time_s.median == pytest.approx(26 + 40 + 1 + 1.1, rel=0.05)


def test_the_test_after_training_takes_a_third_of_its_time_per_sample() -> None:
    # 6,000 samples tested take 6,000 · 10 ms / 3 = 20 s, as far as training tells.
    tested = replace(TRAINING, evaluation_samples=6000)
    without, with_test = (estimate([cell], probes(), {}) for cell in (TRAINING, tested))

    assert with_test.time_s.median - without.time_s.median == pytest.approx(20, rel=0.3)


def test_repetitions_multiply() -> None:
    once, thrice = (estimate([replace(TRAINING, repetitions=(n, n))], probes(), {}) for n in (1, 3))

    assert thrice.time_s.median == pytest.approx(3 * once.time_s.median, rel=0.02)


def test_a_number_of_repetitions_that_is_not_known_is_in_the_interval() -> None:
    once = estimate([TRAINING], probes(), {}).time_s.median
    plan = estimate([replace(TRAINING, repetitions=(3, 10))], probes(), {})

    assert plan.time_s.low < 3.3 * once < 9.7 * once < plan.time_s.high


def test_cells_of_one_model_do_not_average_each_other_out() -> None:
    # Nothing is known of this model: ten cells of it are as uncertain as one.
    other = replace(TRAINING, work=replace(VGG, model="other"))
    one, ten = (estimate([other] * number, probes(), {}) for number in (1, 10))

    assert half_width_fraction(ten.time_s) > 0.8 * half_width_fraction(one.time_s)


def test_probes_that_disagree_widen_the_plan() -> None:
    slower = [*probes()[:7], replace(PROBE, sample_s=0.015)]
    calm, uneasy = (estimate([TRAINING], seen, {}) for seen in (probes(), slower))

    assert half_width_fraction(uneasy.time_s) > 2 * half_width_fraction(calm.time_s)


@pytest.mark.parametrize("missing", ["active_w", "idle_w", "around_w"])
def test_what_is_not_metered_has_no_energy(missing: str) -> None:
    plan = estimate([TRAINING], probes(**{missing: None}), {})

    assert plan.energy_j is None
    assert plan.time_s.median > 0


def past(wall_s: float, gross_j: float | None) -> Past:
    return Past(machine="m", wall_s=wall_s, gross_j=gross_j, is_modelled=False)


def test_earlier_runs_of_a_cell_are_its_estimate() -> None:
    runs = [past(88, 4200), past(90, 4300), past(92, 4400)]
    plan = estimate([TRAINING], [], {"a": runs})

    assert plan.time_s.median == pytest.approx(91.2, rel=0.02)  # their mean, and 1.2 s after it
    assert plan.energy_j is not None
    assert plan.energy_j.median == pytest.approx(4300, rel=0.02)
    assert plan.cells[0].num_earlier == 3


def test_more_earlier_runs_tell_more() -> None:
    one, nine = (estimate([TRAINING], [], {"a": [past(90, 4300)] * n}) for n in (1, 9))

    assert half_width_fraction(nine.time_s) < half_width_fraction(one.time_s)


def test_earlier_runs_that_differ_tell_less() -> None:
    alike, apart = (
        estimate([TRAINING], [], {"a": [past(wall_s, 4300) for wall_s in walls]})
        for walls in ((90, 91, 89), (60, 90, 120))
    )

    assert half_width_fraction(apart.time_s) > 2 * half_width_fraction(alike.time_s)


def test_cells_with_and_without_a_past_add_up() -> None:
    new = replace(INFERENCE, signature="b")
    plan = estimate([TRAINING, new], probes(), {"a": [past(90, None)]})

    assert [cell.num_earlier for cell in plan.cells] == [1, 0]
    assert plan.time_s.median == pytest.approx(
        sum(cell.time_s.median for cell in plan.cells), rel=0.02
    )
    assert plan.energy_j is None  # of one of them there is none


def test_hardware_is_planned_from_its_own_probes() -> None:
    fast = replace(TRAINING, hardware="gpu", signature="b")
    seen = [*probes(), *probes(hardware="gpu", sample_s=0.001, active_w=300.0, is_modelled=True)]
    plan = estimate([TRAINING, fast], seen, {})

    assert plan.cells[0].time_s.median == pytest.approx(90.1, rel=0.02)
    assert plan.cells[1].time_s.median == pytest.approx(26 + 6.2 + 2.1, rel=0.03)
    assert plan.is_modelled


def test_the_same_question_has_the_same_answer() -> None:
    assert estimate([TRAINING], probes(), {}) == estimate([TRAINING], probes(), {})
