"""Predictions in hindsight: which profile a full run is held against, and what both are told of it.

Pure. A full run is held against the newest profile of its job, a profile against the newest full
run of training and the newest of inference: of the same machine, sources, devices and power limits,
for nothing is carried over from one to another. Metrics bear the time of what they come from, so
that the newest is the one shown, in whatever order cells land.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from greenlab.config import job_signature
from greenlab.prediction import KINDS, Backtest, backtest, kind_of
from greenlab.record import Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A cell that has landed."""

    run_id: str
    record: Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a run is to be told."""

    run_id: str
    metrics: dict[str, float]
    told_at_s: float
    """Unix time at which the cell that it was held against ended."""
    tags: dict[str, str]
    """Which run that is."""


def is_usable(record: Record) -> bool:
    """Whether it tells, or is told, anything: finished, its joules not wrong."""
    return (
        record.status == "FINISHED"
        and record.verdict != "INVALID"
        and (record.cell.is_profile or kind_of(record) in KINDS)
    )


def are_comparable(profile: Record, run: Record) -> bool:
    """Whether a profile speaks of this full run.

    The same job on the same machine, metered by the same sources on the same devices under the same
    power limits.
    """
    return is_usable(profile) and is_usable(run) and _place(profile) == _place(run)


def _place(record: Record) -> tuple[object, ...]:
    measured = record.measurement
    assert measured is not None, "a finished cell without a measurement"
    parts = tuple(part for source in record.sources for part in source.parts)
    limits_w = tuple(
        (gpu, *(round(limit_w) for limit_w in limits))
        for gpu, limits in sorted(measured.trace.power_limits_w.items())
    )
    return job_signature(record.cell.config), record.origin, measured.device, parts, limits_w


def newest_profile(run: Known, known: Iterable[Known]) -> Known | None:
    """The profile that a full run is held against."""
    return _newest(
        one
        for one in known
        if one.record.cell.is_profile and are_comparable(one.record, run.record)
    )


def findings(landed: Known, others: Sequence[Known]) -> Iterator[Finding]:
    """What runs are to be told now that `landed` is there; nothing that was told before it."""
    known = [landed, *others]
    runs = [one for one in known if not one.record.cell.is_profile]
    for run in runs:
        profile = newest_profile(run, known)
        if profile is not None and landed in (run, profile):
            yield from _tell_run(run, profile)
    for profile in known:
        if not profile.record.cell.is_profile:
            continue
        for kind in KINDS:
            own = [one for one in runs if kind_of(one.record) == kind]
            newest = _newest(one for one in own if are_comparable(profile.record, one.record))
            if newest is not None and landed in (newest, profile):
                yield from _tell_profile(profile, newest)


def _tell_run(run: Known, profile: Known) -> Iterator[Finding]:
    if (held := backtest(profile.record, run.record)) is not None:
        yield _finding(run, profile, held.metrics(), "greenlab.profile")


def _tell_profile(profile: Known, run: Known) -> Iterator[Finding]:
    held: Backtest | None = backtest(profile.record, run.record)
    if held is not None:
        prefix = f"{held.kind}_"
        yield _finding(profile, run, held.metrics(prefix), f"greenlab.full_{held.kind}")


def _finding(told: Known, source: Known, metrics: dict[str, float], tag: str) -> Finding:
    return Finding(
        run_id=told.run_id,
        metrics=metrics,
        told_at_s=source.record.ended_at_s,
        tags={tag: source.run_id},
    )


def _newest(known: Iterable[Known]) -> Known | None:
    return max(known, key=lambda one: one.record.cell.started_at_s, default=None)
