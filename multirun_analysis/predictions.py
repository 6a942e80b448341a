"""Profiles and full runs of an experiment → one row per pair and length of the profile.

A full run is held against the newest profile of its job (greenlab/hindsight.py says which belong
together), as it is when it lands; and against that profile as if it had ended after its first
stretch, its second, and so on.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pandas import DataFrame

from greenlab import record as records
from greenlab.config import job_signature
from greenlab.hindsight import Known, newest_profile
from greenlab.prediction import KINDS, Backtest, backtest, profiled
from greenlab.record import Record
from multirun_analysis import hits, runs
from multirun_analysis.runs import Runs


def read_pairs(loaded: Runs, where: str | None = None) -> DataFrame:
    """All pairs in these runs, columns `hits.COLUMNS`; empty where there is none.

    `where` is as in `runs.load`, of full runs alone: there it would be of profiles as well.

    Raises:
        GreenlabError: a record cannot be read, or `where` not be understood.
    """
    profiles = read_profiles(loaded)
    jobs = {job_signature(one.record.cell.config) for one in profiles}
    cells = _full_runs(loaded, where)
    cells = cells[cells["job"].isin(jobs)]
    rows = [
        row
        for cell in cells.to_dict("records")
        for row in _rows({str(name): value for name, value in cell.items()}, loaded, profiles)
    ]
    return DataFrame(rows, columns=list(hits.COLUMNS))


def read_profiles(loaded: Runs) -> list[Known]:
    """The profiles whose joules are not wrong."""
    ids = loaded.left_out.loc[loaded.left_out["reason"] == runs.PROFILES, "run_id"]
    return [_read(loaded, run_id) for run_id in ids]


def _full_runs(loaded: Runs, where: str | None) -> DataFrame:
    cells = runs.matching(loaded.cells, where)
    return cells[cells["phase"].isin(KINDS)]


def what_is_missing(loaded: Runs, where: str | None = None) -> str:
    """Why there is no pair, and the command that would make one."""
    profiles = read_profiles(loaded)
    full = _full_runs(loaded, where)
    asked = f"The experiment {loaded.experiment}" + (
        "" if loaded.is_whole else f", in {', '.join(loaded.sweep_names) or 'no sweep'},"
    )
    if not profiles and full.empty:
        return f"{asked} has neither profiles nor full runs. For example: {hits.EXAMPLE}"
    if not profiles:
        cell = full.iloc[-1]
        chosen = {name: _plain(cell[name]) for name in ("model", "batch_size", "dataset")}
        return (
            f"{asked} has {len(full):,} full runs and no profile that could be held against "
            f"them. For example: {_command(chosen, 'profile')}"
        )
    newest = max(profiles, key=lambda one: one.record.cell.started_at_s).record.cell.choices
    chosen = {name: newest[name] for name in ("model", "batch_size", "dataset") if name in newest}
    return (
        f"{asked} has {len(profiles):,} profiles and {len(full):,} full runs, and no two of them "
        "are of the same job (model, hardware, batch size and data) on the same machine, metered "
        f"alike. For example: {_command(chosen, 'train,inference')}"
    )


def series_of(record: Record) -> str:
    """Machine, device and the source of each component: what may be scored together.

    Settings that tell the series of cells apart, as the number of epochs, do not part pairs: both
    cells of a pair have those that count.
    """
    assert record.measurement is not None, "a full run without a measurement"
    sources = [
        f"{source.component} {source.provenance}".replace("modelled", "~modelled")
        for source in record.sources
        if source.provenance != "absent"
    ]
    machine = record.origin[0] or "unknown machine"
    return ", ".join([f"{machine} on {record.measurement.device}", *sources])


def _command(chosen: Mapping[str, str], phase: str) -> str:
    told = " ".join(f"{name}={value}" for name, value in chosen.items() if value)
    return f"python -m greenlab -m {told} phase={phase}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _read(loaded: Runs, run_id: str) -> Known:
    file = loaded.source.artefact(run_id, records.RECORD_FILE)
    return Known(run_id=run_id, record=records.read_record(file.parent))


def _rows(
    cell: Mapping[str, Any], loaded: Runs, profiles: list[Known]
) -> Iterator[dict[str, object]]:
    run = _read(loaded, cell["run_id"])
    profile = newest_profile(run, profiles)
    if profile is None:
        return
    trains = KINDS[cell["phase"]]
    number = sum(one.trains == trains for one in profiled(profile.record).stretches)
    for num_stretches in range(1, number + 1):
        held = backtest(profile.record, run.record, num_stretches)
        assert held is not None, "stretches of that kind were counted"
        yield {
            "profile_id": profile.run_id,
            **{name: cell[name] for name in hits.FACTS if name in cell},
            "series": series_of(run.record),
            "num_stretches": num_stretches,
            "is_whole": num_stretches == number,
            "profile_s": held.profile_s,
            "run_s": held.run_s,
            "share_percent": held.share_percent,
            **_told(held),
        }


def _told(held: Backtest) -> dict[str, object]:
    told: dict[str, object] = {}
    for name, unit in hits.QUANTITIES.items():
        if (hit := getattr(held, f"{name}_{unit}")) is not None:
            told |= {
                f"{name}_true_{unit}": hit.truth,
                f"{name}_predicted_{unit}": hit.predicted.median,
                f"{name}_low_{unit}": hit.predicted.low,
                f"{name}_high_{unit}": hit.predicted.high,
                f"{name}_error_percent": hit.error_percent,
                f"{name}_is_inside": float(hit.is_inside),
            }
    return told
