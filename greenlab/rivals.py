"""What the trainings that a sweep has finished show of the front, for those that come after them.

The process that measures knows no store and no other cell: it is handed this with its own.
"""

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

from greenlab import energy
from greenlab import record as records
from greenlab.config import PhaseKind, execution, job_signature, work
from greenlab.errors import GreenlabError, first_line
from greenlab.record import Measurement, Record, Rival

logger = logging.getLogger(__name__)


def rivals_in(sweep_folder: Path, settings: dict[str, Any]) -> list[Rival]:
    """Trainings to hold a cell of these settings against; none where it does not stop early.

    They learned from the same data. Repetitions of the same cell and those with another seed are
    none: they differ by luck.
    """
    phase = settings["phase"]
    if phase["kind"] != PhaseKind.train.name or not phase["stop_early"]:
        return []
    found = []
    for folder in records.cell_folders(sweep_folder):
        if (folder / records.RECORD_FILE).exists() and (known := _finished(folder)) is not None:
            others, rival = known
            if _data(others) == _data(settings) and _but_luck(others) != _but_luck(settings):
                found.append(rival)
    return found


@lru_cache(maxsize=10_000)  # a record is written once
def _finished(folder: Path) -> tuple[dict[str, Any], Rival] | None:
    try:
        record = records.read_record(folder)
    except GreenlabError as error:
        logger.warning("no rival to anyone: %s", first_line(error))
        return None
    rival = as_rival(record)
    return None if rival is None else (record.cell.config, rival)


def as_rival(record: Record) -> Rival | None:
    """A training that was finished and tested, and whose joules are right; else None."""
    measured, place = record.measurement, record.environment
    if (
        measured is None
        or place is None
        or record.cell.config["phase"]["kind"] != PhaseKind.train.name
        or record.verdict == "INVALID"
        or measured.stopped_early is not None
        or measured.evaluation.num_samples == 0
    ):
        return None
    net_j, u95_j = _net_j(measured)
    return Rival(
        uid=record.cell.uid,
        name=record.cell.name,
        machine=place.machine,
        device=measured.device,
        provenance={source.component: source.provenance for source in measured.sources},
        job=job_signature(record.cell.config),
        num_epochs=len(measured.passes),
        accuracy=measured.evaluation.accuracy,
        training_accuracy=measured.passes[-1].outcome.accuracy,
        net_j=net_j,
        net_u95_j=u95_j,
    )


def _net_j(measured: Measurement) -> tuple[float | None, float]:
    """Net energy and its half-width; none where that cannot be told, for nothing follows from it.

    Where something is measured and something modelled, the model's error counts; see `Rival`.
    """
    if not (metered := measured.active.energy_j):
        return None, 0.0
    u95_j = measured.net_u95_j(*metered) if measured.measured_components else 0.0
    if u95_j is None:
        return None, 0.0
    return energy.total(energy.net_energy_j(measured.active, measured.idle_w)), u95_j


def _data(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings["dataset"].items() if key != "folder"}


def _but_luck(settings: dict[str, Any]) -> tuple[Any, Any, str]:
    return settings["hardware"], execution(settings), work(settings)
