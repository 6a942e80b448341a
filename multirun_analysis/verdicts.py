"""What is said of one choice: advice with its numbers, or why there is none and what would decide.

PURE. `advice` decides which options are held against each other; here that becomes sentences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from multirun_analysis import choices, selection
from multirun_analysis.advice_text import among, longer, ratio_change, runs_text
from multirun_analysis.choices import BATCH_SIZE, POWER_LIMIT, Choice
from multirun_analysis.selection import Apart
from multirun_analysis.statistics import Estimate

REPETITIONS = 3
"""Enough to know a scatter; what single runs are told to be run with."""
KIND_OF = {BATCH_SIZE: "batch_size", POWER_LIMIT: "power_limit"}
"""Of factors; others are settings."""
SINGLE = " Of single runs: what differs from run to run is not in the interval."
BY_TIME = "~ by time, for energy is modelled: "


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """One sentence or two, and the numbers in it."""

    kind: str
    about: str
    text: str
    best: str
    peers: tuple[str, ...]
    """What cannot be told from the best, itself included; of models, the front."""
    against: str
    of: str
    """What is saved, per sample; of models, over the whole job."""
    saving: Estimate
    """A fraction of what `against` takes; 95 % together with all that it was picked from."""
    time_ratio: Estimate | None
    """Time of the best over that of `against`."""
    run_ids: tuple[str, ...]
    is_modelled: bool
    """Whether energy is modelled, and the saving is one of time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Undecided:
    """What is not advised, and why."""

    kind: str
    about: str
    reason: str
    command: str
    """What would decide it; empty where nothing worth its energy would."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A choice, and which of its options are told apart."""

    choice: Choice
    apart: Apart
    num_comparisons: int
    """Of the whole sweep."""

    @property
    def known(self) -> list[int]:
        """Places of options of which it is known how sure their cost is."""
        return [at for at, one in enumerate(self.choice.options) if one.cost.is_known]

    @property
    def kind(self) -> str:
        """Of the advice that this is a choice for."""
        return KIND_OF.get(self.choice.factor, "setting")

    @property
    def about(self) -> str:
        """The setting, where the kind does not name it, and what it is chosen for."""
        factor = f"{self.choice.factor} of " if self.kind == "setting" else ""
        return factor + self.choice.about

    def least(self, places: Sequence[int]) -> int:
        """The place of the least cost."""
        return min(places, key=lambda at: self.choice.options[at].cost.mean)

    def most(self, places: Sequence[int]) -> int:
        """The place of the highest cost."""
        return max(places, key=lambda at: self.choice.options[at].cost.mean)

    def quickest(self, places: Sequence[int]) -> int:
        """The place of the least time; what has no time is the slowest."""

        def log_s(at: int) -> float:
            mean = self.choice.options[at].time.mean
            return mean if math.isfinite(mean) else math.inf

        return min(places, key=log_s)

    def time_ratio(self, of: int, to: int) -> Estimate:
        """Time of one option over that of another; no bounds from single runs."""
        levels = tuple(one.time for one in self.choice.options)
        nothing = np.zeros((len(levels), len(levels)), dtype=bool)
        return Apart(levels=levels, matrix=nothing).ratio(of, to)

    def longer(self, of: int, than: int) -> str:
        """`takes 3.1 % more time (1.0 to 5.2 %) than 256`."""
        return longer(self.time_ratio(of, than), self.choice.label(than))


Verdict = Advice | Undecided


def saving_of(ratio: Estimate) -> Estimate:
    """What is saved, as a fraction of what the other takes."""
    return Estimate(value=1 - ratio.value, low=1 - ratio.high, high=1 - ratio.low, num=ratio.num)


def advise_one(
    judged: Judged,
    best: int,
    against: int,
    peers: Sequence[int],
    told: str,
) -> Advice:
    """Say what the best saves; `told` ends the sentence, and may go on."""
    choice, options = judged.choice, judged.choice.options
    sides = (options[best], options[against])
    names = [choice.label(at) for at in peers]
    in_order = [choice.label(at) for at in range(len(options))]
    ratio = judged.apart.ratio(best, against)
    what = {BATCH_SIZE: "batch size", POWER_LIMIT: "a power limit of"}
    text = (
        f"{BY_TIME if choice.cost.is_modelled else ''}{choice.about}: "
        f"{what.get(choice.factor, choice.factor)} {choice.label(best)} takes "
        f"{ratio_change(ratio, choice.cost.noun)} per sample than {choice.label(against)}{told}"
    )
    if len(names) > 1:
        text += f" {among(names, in_order)} are within the noise of it."
    if unknown := [one.name for one in options if not one.cost.is_known]:
        text += f" Not judged, for want of repetitions: {', '.join(unknown)}."
    if any(one.cost.num == 1 for one in sides):
        text += SINGLE
    text += choice.cost.caveat
    text += runs_text([one.run_ids for one in sides], sum(one.num_warned for one in sides))
    return Advice(
        kind=judged.kind,
        about=judged.about,
        text=text,
        best=choice.label(best),
        peers=tuple(names),
        against=choice.label(against),
        of=choice.cost.noun,
        saving=saving_of(ratio),
        time_ratio=judged.time_ratio(best, against),
        run_ids=choices.run_ids(options),
        is_modelled=choice.cost.is_modelled,
    )


def undecided(judged: Judged, reason: str, command: str = "") -> Undecided:
    """Say why there is no advice on a choice."""
    return Undecided(kind=judged.kind, about=judged.about, reason=reason, command=command)


def not_known(judged: Judged) -> Undecided | None:
    """Where fewer than two options can be held against each other."""
    choice, options = judged.choice, judged.choice.options
    noun = choice.cost.noun
    if len(judged.known) > 1:
        if math.isfinite(options[judged.quickest(judged.known)].time.mean):
            return None
        reason = "how long a sample takes is not known"
    elif all(math.isnan(one.cost.mean) for one in options):
        reason = f"their {noun} is absent or not above zero"
    else:
        reason = f"how sure the {noun} of {len(options)} options is, these runs do not say"
    if choice.cost.is_modelled:
        reason += "; energy is modelled, and time in other words, so that time alone could decide"
    return undecided(judged, reason, again(judged, REPETITIONS))


def again(judged: Judged, repetitions: int, phase: str = "") -> str:
    """The grid that measures all options of a choice again, so often."""
    choice = replace(judged.choice, phase=phase or judged.choice.phase)
    return choices.command(choice, choice.options, repetitions)


def within_noise(judged: Judged, best: int, against: int) -> Undecided:
    """Say how they seem to differ, and how many repetitions would tell."""
    one, other = (judged.choice.options[at] for at in (best, against))
    change = ratio_change(judged.apart.ratio(best, against), judged.choice.cost.noun)
    labels = [judged.choice.label(at) for at in (best, against)]
    reason = f"within the noise: {labels[0]} seems to take {change} than {labels[1]}"
    needed = selection.repetitions_needed(one.cost, other.cost, judged.num_comparisons)
    if needed is None:
        most = selection.MOST_REPETITIONS
        return undecided(judged, f"{reason}; more than {most} repetitions would be needed to tell")
    return undecided(judged, reason, again(judged, needed))
