"""Lands in MLflow what is on disk and not there yet, of cells and of sweeps that have ended."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from greenlab import record as records
from greenlab.account import read_account
from greenlab.config import Mlflow
from greenlab.errors import GreenlabError, first_line, without_password
from greenlab.record import Failure, Record
from greenlab.run import UNSYNCED_FILE, Ticket, hold
from greenlab.tracking import Store, default_uri, open_store, refuse_links

logger = logging.getLogger(__name__)

ASIDE = re.compile(r"-try\d+$")
"""Ends the name of the folder of an earlier try, which was lost, of the cell beside it."""


def land_folders(folders: Sequence[Path], tracking_uri: str | None, experiment: str | None) -> int:
    """Land every cell and ended sweep under `folders`, and print what came of each.

    Returns 0 when every cell is in MLflow, else 1; `tracking_uri` and `experiment` stand for those
    that a cell was run with.

    Raises:
        GreenlabError: there is no cell, or a password in `tracking_uri`.
    """
    Mlflow(tracking_uri=tracking_uri)
    cells = [cell for folder in folders for cell in records.cell_folders(folder)]
    if not cells:
        raise GreenlabError(f"no cell under {', '.join(map(str, folders))}")
    above = sorted({folder for cell in cells for folder in cell.parents})
    sweeps = [folder for folder in above if (folder / records.SWEEP_FILE).exists()]
    num_there = num_landed = num_failed = 0
    for folder in [*cells, *sweeps]:
        try:
            refuse_links(folder)
            store = open_store(_settings(folder, tracking_uri, experiment))
            if folder not in sweeps and is_landed(folder, store):
                (folder / UNSYNCED_FILE).unlink(missing_ok=True)
                num_there += 1
                continue
            landed = sync_sweep(folder, store) if folder in sweeps else sync(folder, store)
            num_landed += folder not in sweeps
            print(f"{folder}: {landed}")
        except Exception as error:  # MLflow and files raise their own; the next cell may land
            num_failed += 1
            print(f"{folder}: not logged: {first_line(error)}")
    print(f"{num_landed} cells logged now, {num_there} were there already, {num_failed} failed.")
    _name_unfinished(cells, sweeps)
    return 1 if num_failed else 0


def _name_unfinished(cells: Sequence[Path], ended: Sequence[Path]) -> None:
    """Say which sweeps have not ended, and how they go on."""
    names = {_sweep_of(cell) for cell in cells if not set(ended) & set(cell.parents)}
    for name in sorted(names - {""}):
        print(f"sweep {name} has not ended. Where it runs no more, resume={name} goes on with it.")


def _sweep_of(cell: Path) -> str:
    try:
        return records.read_cell(cell).sweep
    except ValueError:  # no cell.json of ours: it has been told of already
        return ""


def is_landed(folder: Path, store: Store) -> bool:
    """Whether a cell's record is in the store, completely."""
    has_record = (folder / records.RECORD_FILE).exists()
    return has_record and store.has(records.read_cell(folder).uid)


def sync(folder: Path, store: Store) -> str:
    """Land one cell's folder; returns its status and the link of its run.

    Raises:
        GreenlabError: it is being measured or logged, or its record is damaged.
    """
    with hold(folder):
        close_unfinished(folder, "KILLED", "greenlab itself was killed while this cell ran")
        status = records.read_record(folder).status
        link = store.run_link(store.land(folder))
        (folder / UNSYNCED_FILE).unlink(missing_ok=True)
    return f"{status} {link}"


def close_unfinished(folder: Path, status: records.Status, message: str) -> None:
    """Give a cell whose processes are gone a record, where it has none; the caller holds it."""
    if not (folder / records.RECORD_FILE).exists():
        record = Record(
            status=status,
            cell=records.read_cell(folder),
            ended_at_s=max(path.stat().st_mtime for path in folder.iterdir()),
            failure=Failure(kind="killed", message=message),
            account=read_account(folder),
        )
        records.write_record(folder, record)


def close_lost(ticket: Ticket, message: str) -> Path | None:
    """Find a cell whose process a cluster has lost, and close it as failed where it has no record.

    Returns its folder; None where it did not begin, or on a disk that is not seen from here.
    """
    found = None
    for folder in records.cell_folders(ticket.folder):
        cell = records.read_cell(folder)
        is_it = (cell.sweep, cell.position) == (ticket.sweep, ticket.position)
        if is_it and cell.attempt >= ticket.attempt and not ASIDE.search(folder.name):
            found = folder
    if found is None:
        return None
    try:
        with hold(found):
            if not (found / records.RECORD_FILE).exists():
                close_unfinished(found, "FAILED", message)
                (found / UNSYNCED_FILE).write_text(message)
    except (GreenlabError, OSError, ValueError) as error:  # its readings lie there yet
        logger.error("%s cannot be closed: %s", found, first_line(error))
    return found


def sync_sweep(folder: Path, store: Store) -> str:
    """Land what came of a multirun; returns its status and the link of its run."""
    end = records.read_sweep(folder)
    return f"{end.status} {store.run_link(store.land_sweep(end))}"


def _settings(folder: Path, tracking_uri: str | None, experiment: str | None) -> Mlflow:
    """Where the cell in `folder` was to be logged, or any cell of the multirun in it."""
    cell = folder if (folder / records.CELL_FILE).exists() else _first_cell(folder)
    used = records.read_cell(cell).config["mlflow"]
    uri = tracking_uri or used["tracking_uri"]
    if uri and ":***@" in uri:
        if without_password(default_uri()) != uri:
            raise GreenlabError(
                f"the password of {uri} is not stored: set MLFLOW_TRACKING_URI to all of that "
                "address, or give --tracking-uri without user and password, and those in "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        uri = None  # the environment has it yet
    return Mlflow(tracking_uri=uri, experiment=experiment or used["experiment"])


def _first_cell(folder: Path) -> Path:
    return records.cell_folders(folder)[0]
