"""Every claim of the paper, tried on sweeps in which it is planted or is not."""

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from planted import Planted, cells, epochs

from multirun_analysis import claims, reference, statistics
from multirun_analysis.claims import CONFIRMED, CONTRADICTED, NOT_DECIDABLE, Finding
from multirun_analysis.figures.claims import ledger as draw_ledger
from multirun_analysis.runs import NothingToShow

MANY = tuple(f"m{place:03d}" for place in range(200))
HOLDS = Planted(models=MANY, macs_noise=1.0)
"""All claims at once: MACs tell energy, MACs per parameter better; two hundred models, for that
accuracy is unrelated to energy takes many to be shown."""
FAILS = {
    "training_3x_inference": {"training_per_inference": 6.0},
    "durations_correlate": {"training_is_unrelated": True},
    "energy_follows_time": {"energy_noise": 1.0},
    "power_follows_utilisation": {"power_noise": 3.0},
    "macs_predict_energy": {"macs_noise": 30.0},
    "macs_per_parameter_predict_energy": {"macs_per_parameter_noise": 30.0},
    "macs_per_parameter_better_than_macs": {"macs_noise": 0.02, "macs_per_parameter_noise": 3.0},
    "accuracy_unrelated_to_energy": {"accuracy_follows_energy": True},
    "small_batches_cost_more": {"launch_share": 0.0},
    "a_batch_size_is_enough": {"late_gain": 0.3},
    "first_epoch_tells_time": {"first_epoch_factor": 1.5},
    "first_epoch_tells_energy": {"first_epoch_factor": 1.5},
    "idle_matters": {"idle_share": 0.01},
    "inference_below_limit": {"inference_power_share": 1.2},
    "cpu_power_equal": {"cpu_spread": 0.8},
    "dram_power_equal": {"cpu_spread": 0.8},
}
NO_EPOCHS = pd.DataFrame()


@cache
def found(plan: Planted) -> tuple[Finding, ...]:
    table = cells(plan)
    return tuple(claims.examine(table, epochs(table, plan)))


def verdicts(findings: Sequence[Finding], claim: str) -> set[str]:
    return {finding.verdict for finding in findings if finding.claim.id == claim}


def try_one(claim: str, plan: Planted) -> list[Finding]:
    table = cells(plan)
    return claims.examine(table, epochs(table, plan), [claims.BY_ID[claim]])


def try_on(claim: str, table: pd.DataFrame) -> list[Finding]:
    return claims.examine(table, NO_EPOCHS, [claims.BY_ID[claim]])


@pytest.mark.parametrize("claim", claims.BY_ID)
def test_a_planted_claim_is_confirmed(claim: str) -> None:
    assert verdicts(found(HOLDS), claim) == {CONFIRMED}


@pytest.mark.parametrize("claim", claims.BY_ID)
def test_a_claim_that_fails_is_contradicted(claim: str) -> None:
    # Three times the models of the paper, so that an interval is narrow.
    plan = dataclasses.replace(Planted(models=MANY[:60]), **FAILS[claim])

    assert verdicts(try_one(claim, plan), claim) == {CONTRADICTED}


# ------------------------------------------------------------------------- what is not decided


def test_five_models_decide_nothing() -> None:
    plan = Planted(models=MANY[:5])
    table = cells(plan)

    of_models = [one for one in claims.CLAIMS if not one.id.startswith("first_epoch")]
    findings = claims.examine(table, epochs(table, plan), of_models)
    assert {finding.verdict for finding in findings} == {NOT_DECIDABLE}
    assert all("6 are needed" in finding.reason for finding in findings)
    assert all("python -m greenlab" in finding.would_decide for finding in findings)


def test_an_interval_over_the_edge_decides_nothing_and_says_how_many_would() -> None:
    # Log cost spreads by 1.5; noise of 2 leaves r = 0.6, about the edge itself.
    for finding in try_one("macs_predict_energy", Planted(models=MANY[:16], macs_noise=1.5)):
        assert finding.estimate.low < 0.6 < finding.estimate.high
        assert finding.verdict == NOT_DECIDABLE
        assert "reaches over the edge" in finding.reason
        assert "models" in finding.would_decide
        assert "python -m greenlab" in finding.would_decide


def test_sixteen_models_do_not_show_that_accuracy_is_unrelated() -> None:
    (finding,) = try_one("accuracy_unrelated_to_energy", Planted())

    assert finding.verdict == NOT_DECIDABLE
    assert "models of your own" in finding.would_decide


def test_no_claim_about_energy_is_decided_by_modelled_energy() -> None:
    findings = found(dataclasses.replace(HOLDS, models=MANY[:16], modelled="all"))
    of_energy = [finding for finding in findings if finding.claim.of_energy]

    assert len(of_energy) > 10
    assert {finding.verdict for finding in of_energy} == {NOT_DECIDABLE}
    assert all("proportional to time by construction" in one.reason for one in of_energy)
    assert all(math.isnan(finding.estimate.value) for finding in of_energy)
    assert all("greenlab.doctor" in finding.would_decide for finding in of_energy)
    # Durations need no meter.
    assert verdicts(findings, "training_3x_inference") == {CONFIRMED}
    assert verdicts(findings, "first_epoch_tells_time") == {CONFIRMED}
    # Nor is power that a model gives the same for all.
    assert verdicts(findings, "cpu_power_equal") == {NOT_DECIDABLE}


def test_small_batches_are_not_judged_by_large_ones() -> None:
    for finding in try_one("small_batches_cost_more", Planted(batch_sizes=(64, 128, 256))):
        assert finding.verdict == NOT_DECIDABLE
        assert "64, which is not small" in finding.reason
    for finding in try_one("a_batch_size_is_enough", Planted(batch_sizes=(4, 8, 16))):
        assert finding.verdict == NOT_DECIDABLE
    for finding in try_one("small_batches_cost_more", Planted(batch_sizes=(4, 128))):
        assert finding.reason == "2 batch sizes with an energy, where 3 are needed"


def test_two_epochs_do_not_tell_whether_one_is_enough() -> None:
    (finding,) = try_one("first_epoch_tells_time", Planted(num_epochs=2))

    assert finding.verdict == NOT_DECIDABLE
    assert "phase.epochs=5" in finding.would_decide


def test_a_sweep_of_training_alone_says_nothing_about_inference() -> None:
    table = cells(Planted())
    findings = claims.examine(table[table["phase"] == "train"], NO_EPOCHS)
    decided = [finding for finding in findings if finding.verdict != NOT_DECIDABLE]

    assert {finding.phase for finding in decided} == {"train"}
    (ratio,) = [one for one in findings if one.claim.id == "training_3x_inference"]
    assert ratio.reason == "no finished cell of phase inference at batch size 128"


def test_no_cells_have_no_findings() -> None:
    assert claims.examine(cells(Planted()).iloc[:0], NO_EPOCHS) == []
    assert claims.examine(pd.DataFrame(), NO_EPOCHS) == []
    assert claims.ledger([]).empty


# ------------------------------------------------------------------------- what is pooled


def test_machines_are_not_pooled() -> None:
    """On each of two machines training times are unrelated to inference times, but one is slower.

    Together they would correlate: the slow one is slow at both.
    """
    alike = Planted(series="quick", models=MANY[:60], training_is_unrelated=True, log_span=1.0)
    other = dataclasses.replace(alike, series="slow", models=MANY[60:120], scale=100.0, seed=2)
    both = pd.concat([cells(alike), cells(other)], ignore_index=True)

    assert verdicts(try_on("durations_correlate", both), "durations_correlate") == {CONTRADICTED}
    pooled = try_on("durations_correlate", both.assign(series="one"))
    assert verdicts(pooled, "durations_correlate") == {CONFIRMED}  # which is why they are not


def test_repetitions_are_not_more_models() -> None:
    once, often = (
        try_one("durations_correlate", Planted(repetitions=repetitions))[0]
        for repetitions in (1, 5)
    )

    assert once.num == often.num == 16


def test_models_are_compared_at_one_batch_size() -> None:
    """At batch 4 alone, each model takes twice the time; mixed in it would spoil the ratio."""
    table = cells(Planted())
    table = table[(table["batch_size"] != 4) | (table["phase"] == "train")]

    (finding,) = try_on("training_3x_inference", table)
    assert finding.estimate.value == pytest.approx(3.0, rel=0.05)


# Idle power takes 30 % of each component's gross energy; a modelled CPU does not count.
def test_idle_share_is_of_measured_components_alone() -> None:
    table = cells(Planted()).assign(source_cpu="modelled:tdp")
    table["energy/gross_cpu_j"] = 1e9

    for finding in try_on("idle_matters", table):
        assert finding.estimate.value == pytest.approx(0.3)


# 1, 2, 3, 4: mean 2.5, standard deviation √(5/3) = 1.291.
def test_variation_is_the_standard_deviation_over_the_mean() -> None:
    found = statistics.variation([1.0, 2, 3, 4])

    assert found.value == pytest.approx(0.5164, abs=1e-4)
    # Squares of the logarithms add up to 1.0842; χ² with 3 degrees: 9.3484 and 0.2158.
    assert (found.low, found.high) == pytest.approx((0.3507, 12.29), rel=1e-3)
    assert math.isnan(statistics.variation([1.0, 2, 3]).low)
    assert math.isnan(statistics.variation([1.0]).value)


# What is wrong at the edge is so in 2.5 % of samples: here values vary by exactly 0.2.
def test_values_that_vary_too_much_are_seldom_called_equal() -> None:
    random = np.random.default_rng(0)
    spread = math.sqrt(math.log(1 + 0.2**2))
    samples = np.exp(spread * random.standard_normal((2000, 8)))

    called_equal = sum(statistics.variation(one).high < 0.2 for one in samples)

    assert called_equal / 2000 == pytest.approx(0.025, abs=0.012)


# ------------------------------------------------------------------------- the paper's own


@cache
def of_the_paper() -> dict[tuple[str, str], Finding]:
    findings = claims.examine(reference.paper_hc3(), NO_EPOCHS)
    return {(finding.claim.id, finding.phase): finding for finding in findings}


@pytest.mark.parametrize(
    ("claim", "phase", "value"),
    [
        ("training_3x_inference", "", 3.29),
        ("durations_correlate", "", 0.969),
        ("energy_follows_time", "train", 1.000),
        ("macs_predict_energy", "train", 0.807),
        ("macs_predict_energy", "inference", 0.829),
        ("macs_per_parameter_predict_energy", "train", 0.899),
        ("macs_per_parameter_predict_energy", "inference", 0.886),
        ("power_follows_utilisation", "train", 0.987),
        ("power_follows_utilisation", "inference", 0.930),
    ],
)
def test_the_paper_s_numbers_come_out_of_its_measurements(
    claim: str, phase: str, value: float
) -> None:
    assert of_the_paper()[claim, phase].estimate.value == pytest.approx(value, abs=1e-3)


def test_the_paper_s_machine_does_not_tell_that_macs_per_parameter_are_better() -> None:
    for phase in ("train", "inference"):
        finding = of_the_paper()["macs_per_parameter_better_than_macs", phase]
        assert finding.estimate.value > 0
        assert finding.estimate.low < 0 < finding.estimate.high
        assert finding.verdict == NOT_DECIDABLE


def test_the_paper_s_ledger_says_that_idle_was_not_subtracted() -> None:
    for (_, _), finding in of_the_paper().items():
        if finding.claim.of_energy and finding.num:
            assert "idle was not subtracted" in finding.reason
    assert of_the_paper()["idle_matters", "train"].reason == "idle power was not measured"
    assert of_the_paper()["inference_below_limit", "inference"].verdict == CONTRADICTED


# ------------------------------------------------------------------------- as a table


def test_the_ledger_is_plain_json() -> None:
    findings = list(of_the_paper().values())
    said = json.loads(json.dumps(claims.as_json(findings), allow_nan=False))

    assert len(said) == len(claims.ledger(findings)) == sum(len(c.phases) for c in claims.CLAIMS)
    assert {one["verdict"] for one in said} == set(claims.VERDICTS)
    accuracy = next(one for one in said if one["id"] == "accuracy_unrelated_to_energy")
    assert accuracy["value"] is None
    assert accuracy["range"] == [-0.3, 0.3]
    assert next(one for one in said if one["id"] == "energy_follows_time")["range"] == [0.97, None]


def test_every_claim_gives_its_reasons() -> None:
    assert len(claims.BY_ID) == len(claims.CLAIMS)
    for claim in claims.CLAIMS:
        assert claim.low < claim.high
        assert claim.why.endswith(".")
        assert "python -m greenlab" in claim.needs


# ------------------------------------------------------------------------- as a picture


def drawn_texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_the_ledger_is_drawn_with_a_strip_per_claim_and_a_verdict_per_line() -> None:
    plan = Planted(macs_noise=1.5)
    table = cells(plan)
    findings = claims.examine(table, epochs(table, plan))
    paper = list(of_the_paper().values())
    figure = draw_ledger(table, findings, paper)
    told = drawn_texts(figure)

    assert len(figure.axes) == len(claims.CLAIMS)
    for verdict in (CONFIRMED, NOT_DECIDABLE):
        shown = [text for text in told if text.startswith(f"{verdict}  ")]
        known = [one for one in findings if one.verdict == verdict and one.num]
        assert len(shown) == len(known) > 0
    ratio = figure.axes[0]
    bar, point, _, printed = (line.get_xdata() for line in ratio.lines)
    assert list(bar) == [findings[0].estimate.low, findings[0].estimate.high]
    assert list(point) == [findings[0].estimate.value]
    assert list(printed) == pytest.approx([3.29], abs=0.01)
    assert not any("modelled power" in text for text in told)


def test_modelled_energy_is_marked_on_the_ledger_and_series_have_lines_of_their_own() -> None:
    modelled = Planted(series="vm ~modelled cpu", modelled="all")
    both = pd.concat([cells(Planted(series="box")), cells(modelled)], ignore_index=True)
    figure = draw_ledger(both, claims.examine(both, NO_EPOCHS))
    told = drawn_texts(figure)

    assert any("modelled power" in text for text in told)
    assert "a: box\nb: vm ~modelled cpu" in told
    assert {"training a", "training b"} <= set(told)
    assert "energy is ~modelled" in told


def test_no_findings_draw_nothing() -> None:
    with pytest.raises(NothingToShow, match="python -m greenlab"):
        draw_ledger(pd.DataFrame(), [])


# 1 + 4/b: at 4 it is 2, at 8 1.5, at 256 1.016. What sizes of one kind say is nothing.
@pytest.mark.parametrize("sizes", [(8, 12, 16), (16, 64, 256), (4, 8, 32)])
def test_batch_sizes_that_are_too_alike_or_too_large_decide_nothing(sizes: tuple[int, ...]) -> None:
    plan = Planted(batch_sizes=sizes)
    [claim] = [claim for claim in claims.CLAIMS if claim.id == "small_batches_cost_more"]

    found = claims.examine(cells(plan), epochs(cells(plan), plan), [claim])

    assert {finding.verdict for finding in found} == {NOT_DECIDABLE}
