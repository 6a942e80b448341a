"""Whether a training can still reach the front, and what ending it saves.

Pure. The *front* is what cells of the same sweep have shown before it (`Rival`): it is out of reach
where one of them is more accurate than a cell may yet become, and took no more energy than that
will have taken, by measurement or because it did the same work. To stop a cell that would have
reached it is the error to avoid: a verdict takes a chance of less than one in forty. How accurate
it may become is told by learning_curve.py, what its epochs to come will take by extrapolation.py,
both from the epochs so far.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from greenlab import energy
from greenlab.energy import EnergyWindow
from greenlab.extrapolation import Forecast, Job, Profiled, Stretch, extrapolate
from greenlab.learning_curve import Array, foretell_accuracy, may_begin_yet
from greenlab.plan import PERCENTILES
from greenlab.prediction import idle_u95_w
from greenlab.record import Measurement, Pass, Rival, Source, StoppedEarly

CHANCE = 0.025
"""Of reaching the front all the same, below which a cell is stopped: outside a 95 % interval."""
IDLE_DRIFT = 0.05
"""By how much idle power may change until the passes are over, as a fraction; quality.py doubts a
cell where it is more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """When a training is ended, and what its accuracy is counted in."""

    planned_epochs: int
    after_epochs: int
    """The first verdict comes after so many."""
    below_accuracy: float | None
    """Ended as well where it cannot reach this; None: where it cannot reach the front alone."""
    job: str
    """See `Rival`."""
    num_classes: int
    num_tested: int
    """Samples of the test split, none counted twice."""


def comparable(
    rivals: Sequence[Rival], machine: str, device: str, sources: Sequence[Source]
) -> list[Rival]:
    """Those of the same machine and device, metered or modelled in the same way."""
    provenance = {source.component: source.provenance for source in sources}
    here = (machine, device, provenance)
    return [one for one in rivals if (one.machine, one.device, one.provenance) == here]


def verdict(
    passes: Sequence[Pass], idle: EnergyWindow, rules: Rules, rivals: Sequence[Rival]
) -> StoppedEarly | None:
    """Why a training should be ended after these epochs; None where it should go on.

    `idle` is the window before them. Between two epochs this takes 2 to 4 ms of one core, which the
    next of them is charged for.
    """
    if not rules.after_epochs <= len(passes) < rules.planned_epochs:
        return None
    accuracies = [one.outcome.accuracy for one in passes]
    if may_begin_yet(accuracies, rules.planned_epochs, rules.num_classes):
        return None
    final = foretell_accuracy(
        accuracies, rules.planned_epochs, rules.num_classes, [one.gap for one in rivals]
    )
    beaten_by, least_j = _beaten_by(final, passes, idle, rules, rivals)
    below = rules.below_accuracy
    is_below = below is not None and _chance(final >= below) < CHANCE
    if beaten_by is None and not is_below:
        return None
    low, median, high = np.percentile(final, PERCENTILES)
    return StoppedEarly(
        after_epochs=len(passes),
        planned_epochs=rules.planned_epochs,
        accuracy=float(median),
        accuracy_low=float(low),
        accuracy_high=float(high),
        rival=beaten_by,
        below_accuracy=below if is_below else None,
        least_net_j=least_j,
    )


def _beaten_by(
    final: Array,
    passes: Sequence[Pass],
    idle: EnergyWindow,
    rules: Rules,
    rivals: Sequence[Rival],
) -> tuple[Rival | None, float | None]:
    """The most accurate of the rivals out of reach that took no more; and what was held to it."""
    random = np.random.default_rng(1)
    error = np.sqrt(final * (1 - final) / rules.num_tested) * random.standard_normal(len(final))
    out_of_reach = []
    for rival in rivals:
        spread = math.sqrt(rival.accuracy * (1 - rival.accuracy) / rules.num_tested)
        theirs = rival.accuracy + spread * random.standard_normal(len(final))
        if _chance(final + error >= theirs) < CHANCE:
            out_of_reach.append(rival)
    if not out_of_reach:
        return None, None
    least_j = _least_net_j(passes, idle, rules)
    no_dearer = [one for one in out_of_reach if _took_no_more(one, least_j, rules)]
    if not no_dearer:
        return None, None
    best = max(no_dearer, key=lambda one: one.accuracy)
    return best, None if _did_no_more(best, rules) else least_j


def _took_no_more(rival: Rival, least_j: float | None, rules: Rules) -> bool:
    if _did_no_more(rival, rules):
        return True  # by how much two measurements of it differ is noise
    if rival.net_j is None or least_j is None:
        return False
    return rival.net_j + rival.net_u95_j <= least_j


def _did_no_more(rival: Rival, rules: Rules) -> bool:
    """Whether its epochs were the same work, and no more of them; only its learning differed."""
    return rival.job == rules.job and rival.num_epochs <= rules.planned_epochs


def _chance(holds: NDArray[np.bool_]) -> float:
    return float(np.mean(holds))


def _least_net_j(passes: Sequence[Pass], idle: EnergyWindow, rules: Rules) -> float | None:
    """Lower end of the net energy of all epochs; None where nothing is metered."""
    if not idle.energy_j:
        return None
    idle_w = energy.total(energy.mean_power_w(idle))
    done = energy.join([one.window for one in passes])
    drift_w = IDLE_DRIFT * abs(idle_w)
    to_come = remaining(passes, idle_w, drift_w, rules.planned_epochs - len(passes))
    if to_come.net_j is None:
        return None
    spent_j = energy.total(done.energy_j) - (idle_w + drift_w) * done.duration_s
    return spent_j + to_come.net_j.low


def remaining(
    passes: Sequence[Pass], idle_w: float | None, idle_u95_w: float, num_epochs: int
) -> Forecast:
    """What so many further epochs will take, each with a 95 % prediction interval.

    They are foretold as a job of their own that begins on a machine as cold as these passes did:
    what is left of warming up counts once more, two percent as a rule.
    """
    stretches = tuple(
        Stretch(
            trains=True,
            started_s=one.window.started_at_s,
            duration_s=one.window.duration_s,
            num_samples=one.outcome.num_samples,
            gross_j=energy.total(one.window.energy_j) if one.window.energy_j else None,
        )
        for one in passes
    )
    profiled = Profiled(
        stretches=stretches, idle_w=idle_w, idle_u95_w=idle_u95_w, once_s=0.0, once_j=None
    )
    samples = num_epochs * passes[-1].outcome.num_samples
    train = extrapolate(profiled, Job(train_samples=samples)).train
    assert train is not None, "there is an epoch to come"
    return train


def saved(measured: Measurement) -> Forecast | None:
    """What the epochs that were not run would have taken; None where all were."""
    if (stop := measured.stopped_early) is None:
        return None
    return remaining(
        measured.passes,
        energy.total(measured.idle_w) if measured.idle_w else None,
        idle_u95_w(measured),
        stop.planned_epochs - stop.after_epochs,
    )


def stop_metrics(measured: Measurement) -> dict[str, float]:
    """`stopped/…` of a training that was ended early; `…_low` and `…_high` of 95 % intervals."""
    stop, not_spent = measured.stopped_early, saved(measured)
    if stop is None or not_spent is None:
        return {}
    named = {
        "stopped/after_epochs": float(stop.after_epochs),
        "stopped/planned_epochs": float(stop.planned_epochs),
        "stopped/predicted_accuracy": stop.accuracy,
        "stopped/predicted_accuracy_low": stop.accuracy_low,
        "stopped/predicted_accuracy_high": stop.accuracy_high,
    }
    estimates = {
        "time": ("s", not_spent.time_s),
        "gross": ("j", not_spent.gross_j),
        "net": ("j", not_spent.net_j),
    }
    for quantity, (unit, estimate) in estimates.items():
        if estimate is not None:
            named |= {
                f"stopped/saved_{quantity}_{unit}": estimate.median,
                f"stopped/saved_{quantity}_low_{unit}": estimate.low,
                f"stopped/saved_{quantity}_high_{unit}": estimate.high,
            }
    return named
