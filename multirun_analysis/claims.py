"""The paper's claims, tried on a sweep: confirmed, contradicted, or not decidable from it.

PURE: cells and epochs in, findings out. A claim is a statistic and the range of it that the claim
means. It is confirmed when the 95 % interval lies wholly inside that range, contradicted when
wholly outside, and else not decided; nor is it from fewer than six models, nor, where it is about
energy, from modelled energy. Every series has findings of its own: machines are never pooled.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from multirun_analysis import evidence, statistics
from multirun_analysis.evidence import ALL_MODELS, Evidence, UndecidableError
from multirun_analysis.known_energy import GROSS_GPU
from multirun_analysis.statistics import Estimate

CONFIRMED, CONTRADICTED, NOT_DECIDABLE = "confirmed", "contradicted", "not decidable"
VERDICTS = (CONFIRMED, CONTRADICTED, NOT_DECIDABLE)
MIN_MODELS = 6
"""Fewer have no interval worth the name: of five models, a bootstrap draws 126 different sets."""
NUM_MODELS_OF_OURS = 16
BOTH = ("train", "inference")
TRAIN, INFERENCE, TOGETHER = ("train",), ("inference",), ("",)
ALL_BATCHES = f"{ALL_MODELS} batch_size=4,8,16,32,64,128,256"
MORE_EPOCHS = "python -m greenlab -m 'model=glob(*)' phase=train phase.epochs=5"
LONG_TRAINING = "python -m greenlab experiment=paper"
_MACS, _MACS_PER_PARAMETER = "model/macs", "model/macs_per_parameter"
_Z_FACTOR = (1.959964 + 0.841621) / 1.959964
"""So much farther than the half-width must an edge lie to be left out four times of five."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One claim of the paper, and what would show it."""

    id: str
    section: str
    claim: str
    """In our words."""
    statistic: str
    low: float
    high: float
    """The open range of the statistic that the claim means."""
    why: str
    """Why that range."""
    needs: str
    """Runs that decide it, as a command where it can be."""
    phases: tuple[str, ...]
    evidence: Evidence
    is_correlation: bool = False
    of_energy: bool = False
    min_num: int = MIN_MODELS
    """Values without which nothing is decided; models, but for epochs, where cells do."""

    @property
    def range_in_words(self) -> str:
        """The range as a reader writes it."""
        if math.isinf(self.high):
            return f"> {self.low:g}"
        return f"< {self.high:g}" if math.isinf(self.low) else f"{self.low:g} to {self.high:g}"


CLAIMS = (
    Claim(
        id="training_3x_inference",
        section="5.1",
        claim="Training takes about three times as long as inference, sample for sample.",
        statistic="median over models of training time / inference time per sample",
        low=2.5,
        high=4.0,
        why="'About 3' is taken as what rounds to it, with room above, where the paper has its "
        "exceptions (DPN, RegNet). Its own HC-3 has 3.29.",
        needs=ALL_MODELS,
        phases=TOGETHER,
        evidence=evidence.training_per_inference,
    ),
    Claim(
        id="durations_correlate",
        section="5.1",
        claim="Models that train long infer long.",
        statistic="Pearson's r of training and inference time per sample",
        low=0.7,
        high=math.inf,
        why="The paper prints r ≈ 0.9; 0.7 is half of the variance, less is no help in predicting "
        "one from the other. Its Sec. 6 says the contrary, that the two are not correlated.",
        needs=ALL_MODELS,
        phases=TOGETHER,
        evidence=evidence.durations_correlate,
        is_correlation=True,
    ),
    Claim(
        id="energy_follows_time",
        section="5.2",
        claim="Energy is proportional to time.",
        statistic="Pearson's r of energy and time per sample",
        low=0.97,
        high=math.inf,
        why="The paper prints r = 0.99; 0.97 leaves 6 % of the variance to anything else. Where "
        "all models draw the same power, it can hardly be otherwise.",
        needs=ALL_MODELS,
        phases=BOTH,
        evidence=evidence.energy_follows_time,
        is_correlation=True,
        of_energy=True,
    ),
    Claim(
        id="power_follows_utilisation",
        section="5.2",
        claim="A GPU draws more power the more it is utilised.",
        statistic="Spearman's ρ of mean GPU power and GPU utilisation",
        low=0.5,
        high=math.inf,
        why="The paper prints ρ ≈ 0.81 for HC-3 and 0.55 for HC-2, and calls both a correlation.",
        needs=ALL_MODELS,
        phases=BOTH,
        evidence=evidence.power_follows_utilisation,
        is_correlation=True,
    ),
    Claim(
        id="macs_predict_energy",
        section="5.2",
        claim="A model's multiply-accumulates tell its energy.",
        statistic="Spearman's ρ of energy per sample and MACs",
        low=0.6,
        high=math.inf,
        why="The paper prints ρ ≈ 0.8 on all machines; at 0.6 about seven of ten pairs of models "
        "are still in the right order.",
        needs=ALL_MODELS,
        phases=BOTH,
        evidence=evidence.energy_follows(_MACS),
        is_correlation=True,
        of_energy=True,
    ),
    Claim(
        id="macs_per_parameter_predict_energy",
        section="5.2",
        claim="Multiply-accumulates per parameter tell a model's energy.",
        statistic="Spearman's ρ of energy per sample and MACs per parameter",
        low=0.7,
        high=math.inf,
        why="The paper prints ρ ≈ 0.9 on all machines, a step above MACs; so is this range.",
        needs=ALL_MODELS,
        phases=BOTH,
        evidence=evidence.energy_follows(_MACS_PER_PARAMETER),
        is_correlation=True,
        of_energy=True,
    ),
    Claim(
        id="macs_per_parameter_better_than_macs",
        section="5.2, 6",
        claim="MACs per parameter tell energy better than MACs do.",
        statistic="Spearman's ρ with MACs per parameter less ρ with MACs",
        low=0.0,
        high=math.inf,
        why="'Better' is any difference above 0, if its own interval is: the two coefficients come "
        "from the same models, and the larger number alone says nothing.",
        needs=ALL_MODELS,
        phases=BOTH,
        evidence=evidence.better_predictor(_MACS_PER_PARAMETER, _MACS),
        of_energy=True,
    ),
    Claim(
        id="accuracy_unrelated_to_energy",
        section="5.2",
        claim="Models that take more energy are not the more accurate.",
        statistic="Spearman's ρ of accuracy and training energy per sample",
        low=-0.3,
        high=0.3,
        why="Below 0.3 in size is commonly called no correlation. An interval as narrow takes more "
        "models than the paper's: from sixteen it can be contradicted, hardly confirmed.",
        needs=LONG_TRAINING,
        phases=TRAIN,
        evidence=evidence.energy_follows("task/accuracy"),
        is_correlation=True,
        of_energy=True,
    ),
    Claim(
        id="small_batches_cost_more",
        section="5.2",
        claim="Small batches take more energy per sample.",
        statistic="median over models of energy per sample at the smallest batch size / the least",
        low=1.1,
        high=math.inf,
        why="The least of several noisy values is low by a few percent by itself; 10 % is beyond "
        "that. The paper names no figure.",
        needs=ALL_BATCHES,
        phases=BOTH,
        evidence=evidence.smallest_batch_cost,
        of_energy=True,
    ),
    Claim(
        id="a_batch_size_is_enough",
        section="5.2",
        claim="There is a batch size beyond which nothing is gained.",
        statistic="median over models of the share saved by the largest batch size over the best "
        "below it",
        low=-math.inf,
        high=0.05,
        why="Less than 5 % is nothing beside what the small sizes cost; the paper names no figure.",
        needs=ALL_BATCHES,
        phases=BOTH,
        evidence=evidence.gain_of_largest_batch,
        of_energy=True,
    ),
    Claim(
        id="first_epoch_tells_time",
        section="6",
        claim="One epoch tells how long all of them take.",
        statistic="median over cells of |first epoch × epochs / all epochs − 1|, of time",
        low=-math.inf,
        high=0.05,
        why="The paper says 'linear' without a figure; 5 % is our choice: a power sensor's error.",
        needs=MORE_EPOCHS,
        phases=TRAIN,
        evidence=evidence.first_epoch_error("epoch/active_s"),
        min_num=statistics.MIN_FOR_BOOTSTRAP,
    ),
    Claim(
        id="first_epoch_tells_energy",
        section="6",
        claim="One epoch tells how much energy all of them take.",
        statistic="median over cells of |first epoch × epochs / all epochs − 1|, of net energy",
        low=-math.inf,
        high=0.05,
        why="As for time.",
        needs=MORE_EPOCHS,
        phases=TRAIN,
        evidence=evidence.first_epoch_error("epoch/net_j"),
        of_energy=True,
        min_num=statistics.MIN_FOR_BOOTSTRAP,
    ),
    Claim(
        id="idle_matters",
        section="4.2, Eqs. 1–5",
        claim="Idle energy must be subtracted.",
        statistic="median over models of idle energy / gross energy of the measured components",
        low=0.05,
        high=math.inf,
        why="The equations subtract it without saying how much it is; from 5 % on it is more than "
        "the error of a power sensor.",
        needs=ALL_MODELS,
        phases=BOTH,
        evidence=evidence.idle_share,
        of_energy=True,
    ),
    Claim(
        id="inference_below_limit",
        section="5.2",
        claim="In inference many models draw at least 30 % less than the GPU's power limit.",
        statistic="median over models of mean GPU power / power limit, inference",
        low=-math.inf,
        high=0.7,
        why="'Many' is taken as half of the models, which is what a median below 0.7 says. The "
        "paper says it of HC-2; of HC-3 it says less.",
        needs=ALL_MODELS,
        phases=INFERENCE,
        evidence=evidence.power_of_limit,
    ),
    Claim(
        id="cpu_power_equal",
        section="5.2",
        claim="CPU power is about the same for all models.",
        statistic="coefficient of variation, over models, of mean CPU power",
        low=-math.inf,
        high=0.2,
        why="'About equal' is taken as a spread within a fifth of the mean.",
        needs=evidence.WITH_COUNTERS,
        phases=BOTH,
        evidence=evidence.power_varies("cpu"),
    ),
    Claim(
        id="dram_power_equal",
        section="5.2",
        claim="DRAM power is about the same for all models.",
        statistic="coefficient of variation, over models, of mean DRAM power",
        low=-math.inf,
        high=0.2,
        why="'About equal' is taken as a spread within a fifth of the mean.",
        needs=evidence.WITH_COUNTERS,
        phases=BOTH,
        evidence=evidence.power_varies("dram"),
    ),
)
BY_ID = {claim.id: claim for claim in CLAIMS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one series says to one claim."""

    claim: Claim
    series: str
    phase: str
    """'' where it is about training and inference together."""
    estimate: Estimate
    verdict: str
    reason: str
    would_decide: str
    """Runs that would; '' where it is decided."""

    @property
    def num(self) -> int:
        """How many models (of epochs: cells) the estimate is from."""
        return self.estimate.num


def examine(
    cells: pd.DataFrame, epochs: pd.DataFrame, tried: Sequence[Claim] = CLAIMS
) -> list[Finding]:
    """Try every claim on every series and phase, in the order of the claims."""
    groups = list(cells.groupby("series", sort=False)) if len(cells) else []
    return [
        _try(claim, str(series), evidence.scope_of(group, epochs, phase))
        for claim in tried
        for series, group in groups
        for phase in claim.phases
    ]


def _try(claim: Claim, series: str, scope: evidence.Scope) -> Finding:
    estimate = Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
    verdict = NOT_DECIDABLE
    try:
        estimate = claim.evidence(scope)
        verdict, reason, would_decide = _judge(claim, estimate)
    except UndecidableError as undecidable:
        reason, would_decide = undecidable.reason, undecidable.would_decide or claim.needs
    if claim.of_energy and scope.energy == GROSS_GPU and estimate.num:
        reason += f" ({GROSS_GPU})"
    return Finding(
        claim=claim,
        series=series,
        phase=scope.phase,
        estimate=estimate,
        verdict=verdict,
        reason=reason,
        would_decide=would_decide,
    )


def _judge(claim: Claim, estimate: Estimate) -> tuple[str, str, str]:
    """Verdict, reason, and what would decide it."""
    things = "models" if claim.min_num == MIN_MODELS else "cells"
    if estimate.num < claim.min_num:
        return (
            NOT_DECIDABLE,
            f"only {estimate.num} of the {things} have what it needs; {claim.min_num} are needed",
            claim.needs,
        )
    if not math.isfinite(estimate.low + estimate.high):
        return NOT_DECIDABLE, "it has no interval: the values do not vary", claim.needs
    interval = f"the interval {estimate.low:.3g} to {estimate.high:.3g}"
    if claim.low < estimate.low and estimate.high < claim.high:
        return CONFIRMED, f"{interval} lies inside {claim.range_in_words}", ""
    if estimate.high < claim.low or estimate.low > claim.high:
        return CONTRADICTED, f"{interval} lies outside {claim.range_in_words}", ""
    return (
        NOT_DECIDABLE,
        f"{interval} reaches over the edge of {claim.range_in_words}",
        _more(claim, estimate, things),
    )


def _more(claim: Claim, estimate: Estimate, things: str) -> str:
    """How many models would decide it, if the value stays what it is."""
    edge = min(
        (edge for edge in (claim.low, claim.high) if math.isfinite(edge)),
        key=lambda edge: abs(edge - estimate.value),
    )
    needed: int | None
    if claim.is_correlation:
        needed = statistics.num_needed(estimate.value, edge)
    else:  # intervals shrink with the root of the number
        distance = abs(edge - estimate.value)
        half = (estimate.high - estimate.low) / 2
        needed = math.ceil(estimate.num * (_Z_FACTOR * half / distance) ** 2) if distance else None
    if needed is None:
        return f"no number of {things}: the value lies on the edge itself"
    needed = max(needed, estimate.num + 1)
    said = f"about {needed:,} {things}, were the value to stay {estimate.value:.3g}: {claim.needs}"
    if things == "models" and needed > NUM_MODELS_OF_OURS:
        said += " and models of your own (--config-dir)"
    return said


def ledger(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row per finding, for a table."""
    rows = [
        {
            "claim": finding.claim.id,
            "section": finding.claim.section,
            "says": finding.claim.claim,
            "series": finding.series,
            "phase": finding.phase or "both",
            "statistic": finding.claim.statistic,
            "range": finding.claim.range_in_words,
            "value": finding.estimate.value,
            "low": finding.estimate.low,
            "high": finding.estimate.high,
            "num": finding.num,
            "verdict": finding.verdict,
            "reason": finding.reason,
            "would_decide": finding.would_decide,
        }
        for finding in findings
    ]
    return pd.DataFrame(rows)


def definitions() -> pd.DataFrame:
    """What each claim is taken to mean, and why, for a table."""
    rows = [
        {
            "claim": claim.id,
            "section": claim.section,
            "says": claim.claim,
            "statistic": claim.statistic,
            "range": claim.range_in_words,
            "why": claim.why,
        }
        for claim in CLAIMS
    ]
    return pd.DataFrame(rows)


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The ledger as JSON can hold it: absent numbers and open ends are null."""
    return [
        {
            "id": finding.claim.id,
            "section": finding.claim.section,
            "claim": finding.claim.claim,
            "statistic": finding.claim.statistic,
            "range": [_plain(finding.claim.low), _plain(finding.claim.high)],
            "why_this_range": finding.claim.why,
            "series": finding.series,
            "phase": finding.phase or "both",
            "value": _plain(finding.estimate.value),
            "low": _plain(finding.estimate.low),
            "high": _plain(finding.estimate.high),
            "num": finding.num,
            "verdict": finding.verdict,
            "reason": finding.reason,
            "would_decide": finding.would_decide,
        }
        for finding in findings
    ]


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
