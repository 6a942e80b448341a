"""What a sweep advises: batch size, power limit, models and settings, in sentences with numbers.

PURE: cells in, advice out, and what is not advised with the runs that would decide it. Nothing is
advised from within the noise: options are told apart as `selection` has it, corrected for all
comparisons that the sweep's advice may pick from, whatever its kind. Where energy is modelled
nothing is said of it; what is said is of time, and marked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from pandas import DataFrame

from multirun_analysis import choices, races, selection, statistics
from multirun_analysis.advice_text import (
    percents,
    ratio_change,
)
from multirun_analysis.choices import BATCH_SIZE, POWER_LIMIT, Option
from multirun_analysis.model_advice import of_models
from multirun_analysis.selection import difference, interval
from multirun_analysis.verdicts import (
    REPETITIONS,
    Advice,
    Judged,
    Undecided,
    Verdict,
    advise_one,
    again,
    not_known,
    undecided,
    within_noise,
)

KINDS = {
    "batch_size": "Batch size",
    "power_limit": "Power limit",
    "models": "Models",
    "setting": "Settings",
}
WITHIN_FRACTION = 0.10
"""So much longer than the fastest may an advised batch size take; our choice."""
MODELLED = (
    "energy is modelled, so that no limit can be judged by it: measure it (python -m "
    "greenlab.doctor says how)"
)
NOTHING_SWEPT = (
    "python -m greenlab -m batch_size=32,64,128,256 phase=train,inference "
    f"repetitions={REPETITIONS}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Advised:
    """Everything that a sweep advises, and what it does not."""

    advice: tuple[Advice, ...]
    undecided: tuple[Undecided, ...]
    judged: tuple[Judged, ...]
    num_comparisons: int


def advise(
    cells: DataFrame,
    *,
    within_fraction: float = WITHIN_FRACTION,
    num_inferences: float | None = None,
) -> Advised:
    """Judge every choice that these cells offer.

    Args:
        cells: as `runs.load` has them.
        within_fraction: how much longer than the fastest an advised batch size may take.
        num_inferences: of a model's life, after its training; None: at the paper's share.
    """
    found, raced = choices.find(cells), races.find(cells, num_inferences)
    p_values = [selection.tests([one.cost for one in choice.options]) for choice in found]
    p_values += [races.tests(race) for race in raced]
    p_holm = _adjusted(p_values)
    num = int(sum(np.isfinite(each).sum() for each in p_values))
    judged = [
        Judged(
            choice=choice,
            apart=selection.tell_apart([one.cost for one in choice.options], own),
            num_comparisons=num,
        )
        for choice, own in zip(found, p_holm, strict=False)
    ]
    verdicts = [
        *(of_batch_size(one, within_fraction) for one in judged if _is(one, BATCH_SIZE)),
        *(of_power_limit(one) for one in judged if _is(one, POWER_LIMIT)),
        *(of_models(race, own) for race, own in zip(raced, p_holm[len(found) :], strict=True)),
        *(of_setting(one) for one in judged if not _is(one, BATCH_SIZE, POWER_LIMIT)),
    ]
    if not verdicts:
        reason = "no batch size, power limit, model or other setting was swept"
        verdicts = [Undecided(kind="batch_size", about="", reason=reason, command=NOTHING_SWEPT)]
    return Advised(
        advice=tuple(one for one in verdicts if isinstance(one, Advice)),
        undecided=tuple(one for one in verdicts if isinstance(one, Undecided)),
        judged=tuple(judged),
        num_comparisons=num,
    )


def _adjusted(p_values: Sequence[Sequence[float]]) -> list[list[float]]:
    """Holm's adjustment over all of them together, in their groups."""
    together = statistics.holm([p for group in p_values for p in group])
    ends = list(accumulate(len(group) for group in p_values))
    return [
        together[end - len(group) : end].tolist() for end, group in zip(ends, p_values, strict=True)
    ]


def _is(judged: Judged, *factors: str) -> bool:
    return judged.choice.factor in factors


# ------------------------------------------------------------------------------ kinds


def of_batch_size(judged: Judged, within_fraction: float) -> Verdict:
    """The least-energy batch size that is nearly as fast as the fastest, against the costliest."""
    if nothing := not_known(judged):
        return nothing
    options, apart = judged.choice.options, judged.apart
    fastest = judged.quickest(judged.known)
    edge = options[fastest].time.mean + math.log1p(within_fraction)
    quick = [at for at in judged.known if options[at].time.mean <= edge]
    best, most, least = judged.least(quick), judged.most(judged.known), judged.least(judged.known)
    if quick == [most]:
        limit = percents(within_fraction)
        return undecided(judged, f"only {options[most].name} is within {limit} of the best time")
    if not apart.differ(best, most):
        return within_noise(judged, best, most)
    told = ", the most of all."
    if not judged.choice.cost.is_modelled:
        told += _beside_fastest(judged, best, fastest)
    if least not in quick and apart.differ(least, best):
        name, saved = options[least].name, ratio_change(apart.ratio(least, best))
        told += f" {name} takes {saved} still, but {judged.longer(least, fastest)}."
    # Times have noise as well: who may be quick may be the better one.
    maybe = [at for at in judged.known if at in quick or _may_be_quick(judged, at, fastest, edge)]
    return advise_one(judged, best, most, apart.peers(best, maybe), told)


def _may_be_quick(judged: Judged, at: int, fastest: int, edge: float) -> bool:
    """Whether its time cannot be told from what is allowed, `edge`, in log seconds."""
    allowed = math.exp(edge - judged.choice.options[fastest].time.mean)
    return judged.time_ratio(at, fastest).low <= allowed


def _beside_fastest(judged: Judged, best: int, fastest: int) -> str:
    """What the best costs in time, and saves beside the fastest where that is told apart."""
    if best == fastest:
        return " It is the fastest as well."
    told = f" It {judged.longer(best, fastest)}, the fastest"
    if judged.apart.differ(best, fastest):
        told += f", and {ratio_change(judged.apart.ratio(best, fastest), 'of that energy')}"
    return f"{told}."


def of_power_limit(judged: Judged) -> Verdict:
    """The limit of least energy against the highest, and what it costs in time."""
    if judged.choice.cost.is_modelled:
        return undecided(judged, MODELLED)
    if nothing := not_known(judged):
        return nothing
    best, highest = judged.least(judged.known), judged.known[-1]
    against = highest if best != highest else judged.most(judged.known)
    if not judged.apart.differ(best, against):
        return within_noise(judged, best, against)
    told = f", and {judged.longer(best, against)}."
    peers = judged.apart.peers(best, judged.known)
    if (quickest := judged.quickest(peers)) != best:
        name = judged.choice.label(quickest)
        told += f" Of those within the noise of it, {name} is the fastest, and "
        told += f"{judged.longer(quickest, against)}."
    return advise_one(judged, best, against, peers, told)


def of_setting(judged: Judged) -> Verdict:
    """The least-energy option whose accuracy is not below that of the most accurate."""
    options = judged.choice.options
    if judged.choice.phase != "train":
        reason = "what it does to accuracy is not known: only cells that train tell one"
        return undecided(judged, reason, again(judged, REPETITIONS, phase="train"))
    if nothing := not_known(judged):
        return nothing
    known = [at for at in judged.known if options[at].accuracy.is_known]
    if len(known) < 2:
        reason = "how sure their accuracy is, these runs do not say"
        return undecided(judged, reason, again(judged, REPETITIONS))
    accurate = max(known, key=lambda at: options[at].accuracy.mean)
    lost = [interval(difference(one.accuracy, options[accurate].accuracy)) for one in options]
    as_good = [at for at in known if at == accurate or lost[at].low <= 0]
    best = judged.least(as_good)
    against = accurate if best != accurate else judged.most(known)
    if best == against:
        return undecided(judged, f"{options[best].name} takes most, and is the most accurate")
    if not judged.apart.differ(best, against):
        return within_noise(judged, best, against)
    told = f" ({_accuracy(options[against])}). Its {_accuracy(options[best])} "
    if best == accurate:
        told += "is the best."
    else:
        told += (
            "is not below that by more than the uncertainty, which allows for "
            f"{100 * lost[best].high:.1f} points less."
        )
    if not judged.choice.cost.is_modelled:
        told += f" It {judged.longer(best, against)}."
    return advise_one(judged, best, against, judged.apart.peers(best, as_good), told)


def _accuracy(option: Option) -> str:
    return f"accuracy of {100 * option.accuracy.mean:.1f} %"
