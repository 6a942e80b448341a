"""What a profile says of a whole job, and how far a full run came out from it.

Pure: from the record of a profile to metrics, and from that and the record of a full run to the
error of the prediction. All is reckoned again from the stretches in the record whenever it is read;
how, stands in extrapolation.py. Each quantity is a 95 % prediction interval: `…_low` and `…_high`
beside the median.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from greenlab import energy
from greenlab.carbon import Tariff
from greenlab.config import Carbon, from_dict
from greenlab.extrapolation import (
    WAVERING,
    WAVERING_VIRTUAL,
    Extrapolation,
    Forecast,
    Job,
    Profiled,
    Stretch,
    extrapolate,
)
from greenlab.plan import Estimate
from greenlab.record import Measurement, Record
from greenlab.stretches import rel_half_width

KINDS = {"train": True, "inference": False}


def profiled(record: Record) -> Profiled:
    """What a profile found; `record` is finished."""
    measured = _measured(record)
    stretches = tuple(
        Stretch(
            trains=one.trains,
            started_s=one.window.started_at_s,
            duration_s=one.window.duration_s,
            num_samples=one.outcome.num_samples,
            gross_j=energy.total(one.window.energy_j) if one.window.energy_j else None,
        )
        for one in measured.passes
        if one.trains is not None
    )
    stages = (
        [s for s in record.account.stages if s.name in ("loading", "compiling", "warm_up")]
        if record.account
        else []
    )
    metered = [stage for stage in stages if stage.energy_j]
    return Profiled(
        stretches=stretches,
        idle_w=energy.total(measured.idle_w) if measured.idle_w else None,
        idle_u95_w=idle_u95_w(measured),
        once_s=sum(stage.duration_s for stage in stages),
        once_j=sum(energy.total(stage.energy_j) for stage in metered) if metered else None,
        wavering=_wavering(record),
    )


BUSY_PERCENT = 90.0
"""NVML's utilisation of a GPU that does not wait for its host. Our choice."""


def _wavering(record: Record) -> float:
    """By how much the pace of the processor wavers that sets it; see extrapolation.py.

    A GPU that is busy sets its own; the host's other guests have no part in it. Nor have they in a
    simulated machine's, which sleeps.
    """
    measured, place = _measured(record), record.environment
    is_virtual = place is not None and place.is_virtual and not place.is_simulated
    percent = measured.trace.mean.get("utilisation/gpu_percent", 0.0)
    sets_its_own = measured.device.startswith("cuda") and percent >= BUSY_PERCENT
    return WAVERING_VIRTUAL if is_virtual and not sets_its_own else WAVERING


def idle_u95_w(measured: Measurement) -> float:
    """How far counters and drift leave idle power open; the error of a model is no part of it."""
    components = measured.measured_components
    u95_j = measured.net_u95_j(*components) if components else 0.0
    if u95_j is not None:
        return u95_j / measured.active.duration_s
    before, after = (energy.mean_power_w(window) for window in measured.idle_windows)
    return sum(abs(after[c] - before[c]) / 2 for c in components)


def described_job(record: Record) -> Job:
    """The whole job that the profile's configuration describes."""
    config, splits = from_dict(record.cell.config), _measured(record).splits
    assert splits is not None, "a profile without the length of its splits"
    inferences = config.profile.target_inferences
    epochs = config.target_epochs
    return Job(
        train_samples=epochs * splits.train_samples,
        evaluation_samples=splits.test_samples if epochs else 0,
        inference_samples=splits.test_samples if inferences is None else inferences,
    )


def predict(record: Record) -> Extrapolation:
    """The whole job of a finished profile."""
    return extrapolate(profiled(record), described_job(record))


def prediction_metrics(record: Record) -> dict[str, float]:
    """`predicted/…` of the job and its parts, and `profile/…` of the stretches themselves."""
    found, measured = predict(record), _measured(record)
    tariff = Carbon(**record.cell.config.get("carbon", {})).tariff
    named = _named("", found.whole)
    named |= _bill(tariff, found.whole.gross_j)
    for part in ("train", "evaluation", "inference"):
        if (forecast := getattr(found, part)) is not None:
            named |= _named(f"{part}_", forecast)
    named |= _named("loading_", found.once)
    for kind, trains in KINDS.items():
        named |= _stretch_metrics(measured, kind, trains=trains)
    if record.account is not None:
        named["profile/spent_s"] = record.account.duration_s
        if record.account.energy_j:
            named["profile/spent_j"] = energy.total(record.account.energy_j)
    return named


def _named(prefix: str, forecast: Forecast) -> dict[str, float]:
    named: dict[str, float] = {}
    for quantity, unit in (("time", "s"), ("gross", "j"), ("net", "j")):
        estimate: Estimate | None = getattr(forecast, f"{quantity}_{unit}")
        if estimate is not None:
            stem = f"predicted/{prefix}{quantity}"
            named |= {
                f"{stem}_{unit}": estimate.median,
                f"{stem}_low_{unit}": estimate.low,
                f"{stem}_high_{unit}": estimate.high,
            }
    return named


def _bill(tariff: Tariff, gross_j: Estimate | None) -> dict[str, float]:
    """CO2e and cost of the whole job, those that are known."""
    if gross_j is None:
        return {}
    named: dict[str, float] = {}
    for suffix, value in (("", gross_j.median), ("_low", gross_j.low), ("_high", gross_j.high)):
        if (grams := tariff.co2e_g(value)) is not None:
            named[f"predicted/co2e{suffix}_g"] = grams
        if (cost := tariff.cost(value)) is not None:
            named[f"predicted/cost{suffix}"] = cost
    return named


def _stretch_metrics(measured: Measurement, kind: str, *, trains: bool) -> dict[str, float]:
    own = [one for one in measured.passes if one.trains == trains]
    if not own:
        return {}
    samples = sum(one.outcome.num_samples for one in own)
    window = energy.join([one.window for one in own])
    named = {
        f"profile/{kind}_stretches": float(len(own)),
        f"profile/{kind}_active_s": window.duration_s,
        f"profile/{kind}_samples": float(samples),
        f"profile/{kind}_per_sample_s": window.duration_s / samples,
    }
    if window.energy_j:
        net_j = energy.net_energy_j(window, measured.idle_w)
        named[f"profile/{kind}_gross_per_sample_j"] = energy.total(window.energy_j) / samples
        named[f"profile/{kind}_net_per_sample_j"] = energy.total(net_j) / samples
    half = rel_half_width(measured.passes, measured.idle_before, trains=trains)
    return named | ({f"profile/{kind}_rel_ci_fraction": half} if math.isfinite(half) else {})


def _measured(record: Record) -> Measurement:
    assert record.measurement is not None, "a profile without a measurement"
    return record.measurement


# ------------------------------------------------------------------------- held against a full run


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One quantity that was predicted, and what it came to."""

    predicted: Estimate
    truth: float

    @property
    def error_percent(self) -> float:
        """Of the truth: above zero where too much was predicted."""
        return 100 * (self.predicted.median / self.truth - 1) if self.truth else math.nan

    @property
    def is_inside(self) -> bool:
        """Whether the truth lies in the 95 % prediction interval."""
        return self.predicted.low <= self.truth <= self.predicted.high


@dataclass(frozen=True, kw_only=True, slots=True)
class Backtest:
    """A profile, or the beginning of one, held against a full run of training or inference."""

    kind: str
    num_stretches: int
    """Of that kind."""
    profile_s: float
    """All stretches of that kind together."""
    run_s: float
    time_s: Hit
    gross_j: Hit | None
    net_j: Hit | None

    @property
    def share_percent(self) -> float:
        """Of the run that the profile is long."""
        return 100 * self.profile_s / self.run_s

    @property
    def headline(self) -> Hit:
        """Net energy; time where nothing was metered."""
        return self.net_j or self.time_s

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """`predicted/error_percent` and `predicted/is_inside` (1 or 0), for time and gross as well.

        `prefix` comes before each quantity: `train_` makes `predicted/train_error_percent`.
        """
        hits = {"": self.headline, "time_": self.time_s}
        hits |= {"gross_": self.gross_j} if self.gross_j else {}
        named = {}
        for quantity, hit in hits.items():
            named[f"predicted/{prefix}{quantity}error_percent"] = hit.error_percent
            named[f"predicted/{prefix}{quantity}is_inside"] = float(hit.is_inside)
        return named | {f"predicted/{prefix}profile_share_percent": self.share_percent}


def kind_of(run: Record) -> str:
    """`train`, `inference` or `profile`."""
    return str(run.cell.config["phase"]["kind"])


def backtest(profile: Record, run: Record, num_stretches: int | None = None) -> Backtest | None:
    """Hold a profile against a full run of the same work; None where it has none of that kind.

    With `num_stretches`, only the profile's first of each kind count, as if it had ended there.
    """
    kind = kind_of(run)
    trains, told = KINDS[kind], profiled(profile)
    if num_stretches is not None:
        told = replace(told, stretches=tuple(_first_of_each_kind(told, num_stretches)))
    own = [one for one in told.stretches if one.trains == trains]
    if not own:
        return None
    measured = _measured(run)
    samples = float(measured.num_samples)
    job = Job(train_samples=samples) if trains else Job(inference_samples=samples)
    forecast = getattr(extrapolate(told, job), kind)
    active = measured.active
    gross_j = net_j = None
    if forecast.gross_j is not None and active.energy_j:
        gross_j = Hit(predicted=forecast.gross_j, truth=energy.total(active.energy_j))
        true_net_j = energy.total(energy.net_energy_j(active, measured.idle_w))
        net_j = Hit(predicted=forecast.net_j, truth=true_net_j)
    return Backtest(
        kind=kind,
        num_stretches=len(own),
        profile_s=sum(one.duration_s for one in own),
        run_s=active.duration_s,
        time_s=Hit(predicted=forecast.time_s, truth=active.duration_s),
        gross_j=gross_j,
        net_j=net_j,
    )


def _first_of_each_kind(told: Profiled, number: int) -> Iterator[Stretch]:
    left = {trains: number for trains in KINDS.values()}
    for stretch in told.stretches:
        if left[stretch.trains]:
            left[stretch.trains] -= 1
            yield stretch
