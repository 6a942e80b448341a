"""What happens around a cell on a machine of a cluster, far from the process that launched it."""

import itertools
import json
import logging
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from greenlab import cell_process, landing, run
from greenlab import config as configuration
from greenlab import record as records
from greenlab.config import Config
from greenlab.errors import GreenlabError, NodeRefusedError
from greenlab.record import Record
from greenlab.run import Home, Ticket

logger = logging.getLogger(__name__)

CHECKS_FOLDER = ".nodes"
"""In the folder of a sweep: what each machine's check said."""


def run_cell(
    composed: DictConfig, *, ticket: Ticket, whereabouts: Callable[[], tuple[str, str]]
) -> Record:
    """Run one cell of a sweep here.

    A cell that was begun before, on a machine that died or under a task that its scheduler put back
    into the queue, is closed as killed and begun afresh.

    Raises:
        NodeRefusedError: this machine is not what the sweep's cells need.
    """
    run.ticket, run.num_restarts = ticket, 0
    run.machine_name, run.allocation = whereabouts()
    # Also so that there is a log before a signal's handler writes to it.
    logger.info("%s on %s, for sweep %s", run.allocation, run.machine_name, ticket.sweep)
    assert ticket.home is not None
    _adopt(ticket.home)
    config = configuration.from_omegaconf(composed)
    run.start_server([config])
    _check_machine(ticket.folder, ticket.home.checks)
    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    if (folder / records.CELL_FILE).exists():
        earlier = _finished_before(folder)
        if earlier is not None:
            run.land_or_leave(folder, config)
            return earlier
        run.num_restarts = _set_aside(folder, config)
    return run.run(composed)


def _adopt(home: Home) -> None:
    """See files as the launching process does: relative to its folder, in its store."""
    if home.working_directory.is_dir():
        os.chdir(home.working_directory)
    if home.tracking_uri:
        os.environ["MLFLOW_TRACKING_URI"] = home.tracking_uri


def _check_machine(folder: Path, checks: Sequence[Config]) -> None:
    """Before a sweep's first cell on a machine: has it the hardware, the counters and the data?"""
    answer = folder / CHECKS_FOLDER / f"{platform.node()}.json"
    if not answer.exists():
        told = run.ask("the check of this machine", cell_process.preflight_grid, list(checks))
        answer.parent.mkdir(parents=True, exist_ok=True)
        fresh = answer.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(told))
        fresh.replace(answer)
    if problems := json.loads(answer.read_text())["problems"]:
        answer.unlink()  # what is put right there is seen by the next cell
        raise NodeRefusedError(f"{run.machine_name} cannot run these cells: {'; '.join(problems)}")


def _finished_before(folder: Path) -> Record | None:
    """The cell's record, where only the news of it was lost."""
    try:
        record = records.read_record(folder)
    except (OSError, GreenlabError):
        return None
    return record if record.status == "FINISHED" else None


def _set_aside(folder: Path, config: Config) -> int:
    """Close what an earlier try left, in a folder of its own; returns the number of such tries."""
    beside = (folder.with_name(f"{folder.name}-try{number}") for number in itertools.count(1))
    aside = next(place for place in beside if not place.exists())
    aside.mkdir()
    with run.hold(folder):
        for path in folder.iterdir():
            if path.name == records.LOG_FILE:
                shutil.copy2(path, aside)  # it is open, and goes on
            elif path.name != ".hydra" and not path.name.endswith(".lock"):
                path.rename(aside / path.name)
    landing.close_unfinished(aside, "KILLED", "its process was lost, and it was started again")
    logger.warning("this cell was begun before; what it left is in %s", aside)
    run.land_or_leave(aside, config)
    return int(aside.name.rpartition("-try")[2])
