"""Which models stand on the front of accuracy and energy, and which are beaten, in words. PURE."""

import math

from multirun_analysis import races
from multirun_analysis.advice_text import beaten_text, entrants_text, enumerated, runs_text
from multirun_analysis.races import Race
from multirun_analysis.selection import inverse
from multirun_analysis.verdicts import (
    BY_TIME,
    REPETITIONS,
    SINGLE,
    Advice,
    Undecided,
    Verdict,
    saving_of,
)


def of_models(race: Race, p_holm: list[float]) -> Verdict:
    """The models that no other beats in accuracy and cost, and those that are beaten."""
    size = f", batch size {race.batch_size:g}" if math.isfinite(race.batch_size) else ""
    about = f"{race.job} on {race.where}{size}"
    found = races.beaten(race, p_holm)
    if not found:
        return _unbeaten(race, about)
    losers = [one.model for one in found]
    front = [one for one in race.entrants if one.model not in losers]
    worst = max(found, key=lambda one: one.cost_ratio.value)
    text = f"{BY_TIME if race.cost.is_modelled else ''}{about}: {entrants_text(race, front)} "
    text += " ".join(beaten_text(race, one) for one in found)
    if race.without:
        text += f" Not judged, for too little is known of them: {', '.join(race.without)}."
    if any(one.cost.num == 1 for one in race.entrants):
        text += SINGLE
    text += race.cost.caveat
    of_front = [run_id for one in front for run_id in one.run_ids]
    of_losers = [r for one in race.entrants if one.model in losers for r in one.run_ids]
    text += runs_text([of_front, of_losers], sum(one.num_warned for one in race.entrants))
    return Advice(
        kind="models",
        about=about,
        text=text,
        best=worst.by,
        peers=tuple(one.model for one in front),
        against=worst.model,
        of=race.cost.noun,
        saving=saving_of(inverse(worst.cost_ratio)),
        time_ratio=None,
        run_ids=(*of_front, *of_losers),
        is_modelled=race.cost.is_modelled,
    )


def _unbeaten(race: Race, about: str) -> Undecided:
    models = [one.model for one in race.entrants]
    names = ",".join([*models, *race.without])
    phases = "train,inference" if race.num_inferences != 0 else "train"
    reason = (
        f"none of {enumerated(models)} is beaten in accuracy and in {race.cost.noun} beyond the "
        "uncertainty"
    )
    now = min((min(one.cost.num, one.accuracy.num) for one in race.entrants), default=1)
    if len(models) < 2:
        now = 1
        reason = (
            f"accuracy and {race.cost.noun}, with their uncertainty, are known of fewer than two "
            f"models (not of {enumerated(race.without)})"
        )
    command = (
        f"python -m greenlab -m model={names} phase={phases} batch_size={race.batch_size:g} "
        f"repetitions={max(REPETITIONS, 2 * now)}"
    )
    return Undecided(kind="models", about=about, reason=reason, command=command)
