"""One cell, as Hydra calls it: a fresh process measures it, its record lands in MLflow.

The measured process is a session of its own: Ctrl-C reaches this process alone, which then stops
the other one and records the cell as killed. Where this process is killed outright, the other one
ends by itself.
"""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from greenlab import cell_process, tracking
from greenlab import config as configuration
from greenlab import record as records
from greenlab.account import read_account
from greenlab.config import Config
from greenlab.errors import (
    ConfigError,
    GreenlabError,
    OutputError,
    first_line,
    without_password,
)
from greenlab.forecast_text import sentence, stop_text
from greenlab.metrics import describe_net, metrics
from greenlab.record import CONFIG_FILE, LOG_FILE, Cell, Claim, Failure, Record
from greenlab.rivals import rivals_in

logger = logging.getLogger(__name__)

STOP_WITHIN_S = 5.0
NOTICE_WITHIN_S = 1.0
START_TRIES = 3
SERVER_KILLED = 255
"""multiprocessing's exit code for a process whose server has died, and which may live still."""
CLAIM_FILE = ".greenlab"
"""Makes a folder one multirun's own, and holds what its first cell found; see record.Claim."""
_FORKSERVER = multiprocessing.get_context("forkserver")
CHOICES = ("model", "hardware", "batch_size", "phase", "dataset", "experiment")


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where cells were launched from that a cluster runs: what their machines must know of it."""

    working_directory: Path
    tracking_uri: str
    """What it takes for $MLFLOW_TRACKING_URI; empty where each machine is to have its own."""
    lands: bool
    """Whether its process logs the cells, for the store is a file there; else each logs itself."""
    checks: Sequence[Config]
    """What a machine must be able to run before the sweep's first cell there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """A cell's place in a multirun; the sweep hands it to the process that runs the cell."""

    sweep: str
    folder: Path
    """Of all of its cells."""
    position: int
    """In the sweep's order, from 1."""
    num_cells: int
    attempt: int
    began_s: float
    """Unix time at which the sweep began, or was resumed."""
    num_before: int
    """Cells since then, before this one."""
    num_left: int
    """Cells to go, this one included."""
    home: Home | None = None
    """Where it was launched from, if a cluster runs it."""
    machine: str = ""
    """Of a cluster: the one that the cell's repetition of the grid belongs to."""

    is_anywhere: bool = False
    """Whether each cell may run on another machine: how warm one was says nothing of the next."""

    @property
    def claim(self) -> Path:
        """Holds what the first cell found, of those that this one is compared with."""
        return self.folder / (f"{CLAIM_FILE}-{self.machine}" if self.machine else CLAIM_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where cells are about to be measured, and by which greenlab."""

    machine: str
    commit: str


ticket: Ticket | None = None
machine_name = allocation = ""
"""On a machine of a cluster: its name there, and the task that this process is."""
num_restarts = 0
"""How often the cell was begun before, and lost."""
UNSYNCED_FILE = "unsynced"
"""In the folder of a cell that could not be logged: why."""
WAITING_FILE = ".unsynced"
"""In the folder of a sweep with such cells: looking for them takes longer the more cells it has."""


def run(composed: DictConfig) -> Record:
    """Measure one cell and log it; returns its record.

    In a multirun a failure is logged and the next cell goes on; a cell run alone exits with 1.
    """
    config = configuration.from_omegaconf(composed)
    folder = Path(HydraConfig.get().runtime.output_dir).resolve()
    alone = HydraConfig.get().mode is RunMode.RUN
    cell = _describe_cell(config, folder)
    if alone:
        logger.info("measuring %s: idle window, passes, idle window; log in %s", cell.name, folder)
    try:
        record = measure_in_own_process(cell, folder)
        _write_claim(record)
    except OSError as error:  # a full disk; what earlier cells left is whole
        raise OutputError(
            f"{cell.name}: {folder} cannot be written ({error.strerror}); free some space or name "
            "another folder (hydra.sweep.dir, hydra.run.dir)"
        ) from error
    finally:  # also when it was stopped: there is a record of that too
        has_record = (folder / records.RECORD_FILE).exists()
        landed = land_or_leave(folder, config) if has_record else None
        if landed is not None and ticket:
            land_others(ticket.folder, config)
    if alone:
        report(record)
        if landed is not None:
            logger.info("MLflow run (make ui serves it): %s", landed)
        if record.status != "FINISHED" or landed is None:
            raise SystemExit(1)
    elif ticket:
        width = len(str(ticket.num_cells))
        place = f"{ticket.position:>{width}}/{ticket.num_cells} "
        report(record, place=place, progress=_remaining(ticket))
    return record


def _describe_cell(config: Config, folder: Path) -> Cell:
    hydra = HydraConfig.get()
    chosen = hydra.runtime.choices
    choices = {group: str(chosen[group]) for group in CHOICES if chosen.get(group) is not None}
    choices["batch_size"] = str(config.batch_size.size)  # whatever option it was made from
    if any(override.startswith("model._target_=") for override in hydra.overrides.task):
        choices["model"] = config.model._target_  # the option that it replaces is not what runs
    settings = configuration.to_dict(config)
    settings["mlflow"]["tracking_uri"] = without_password(tracking.resolve_uri(config.mlflow))
    return Cell(
        uid=uuid.uuid4().hex,
        signature=configuration.signature(config),
        choices=choices,
        overrides=[without_password(o) or "" for o in hydra.overrides.task],
        sweep=ticket.sweep if ticket else "",
        position=ticket.position if ticket else 1,
        num_cells=ticket.num_cells if ticket else 1,
        repetition=config.repetition,
        attempt=(ticket.attempt if ticket else 1) + num_restarts,
        started_at_s=time.time(),
        config=settings,
        sweep_first=_first_of(ticket) if ticket else Claim(),
        rivals=rivals_in(ticket.folder, settings) if ticket else [],
        node=machine_name,
        allocation=allocation,
    )


def _first_of(ticket: Ticket) -> Claim:
    found = records.read_claim(ticket.claim)
    return replace(found, idle_celsius={}) if ticket.is_anywhere else found


def hold_against(sweep_folder: Path, measured: Iterable[tracking.Landed]) -> None:
    """Hold the cells to come against those of before, where nothing in their folder does yet."""
    first = next(iter(measured), None)
    if first is not None and records.read_claim(sweep_folder / CLAIM_FILE) == Claim():
        found = Claim(machine=first.machine, commit=first.commit)
        records.write_claim(sweep_folder / CLAIM_FILE, found)


def _write_claim(record: Record) -> None:
    """Let the cells to come know what this one found, if it is the first that was measured."""
    place, measured = record.environment, record.measurement
    if ticket and place and measured and records.read_claim(ticket.claim) == Claim():
        found = Claim(
            machine=place.machine, commit=place.commit, idle_celsius=measured.cooling[0].celsius
        )
        records.write_claim(ticket.claim, found)


def measure_in_own_process(cell: Cell, folder: Path) -> Record:
    """Measure `cell` in a fresh process; there is a record in `folder` afterwards in any case."""
    folder.mkdir(parents=True, exist_ok=True)
    refuse_used(folder)
    with _running_lock(folder):
        settings = configuration.from_dict(cell.config)
        (folder / CONFIG_FILE).write_text(configuration.to_yaml(settings))
        records.write_cell(folder, cell)
        record = _measure(cell, folder)
    assert record.cell.uid == cell.uid, "a record of another cell"
    return record


def refuse_used(folder: Path) -> None:
    """Never write one cell over another.

    Raises:
        OutputError: `folder` holds a cell already.
    """
    if (folder / records.CELL_FILE).exists():
        raise OutputError(
            f"{folder} holds the results of another cell; name another folder (hydra.run.dir, or "
            "hydra.sweep.dir and hydra.sweep.subdir), or leave it to greenlab"
        )


def claim_folder(config: DictConfig, key: str) -> Path:
    """Make the folder that `key` names this run's own; `config` has Hydra's part.

    Two that start in the same second are given the same name. One of them may have waited hours
    for the other, so it goes on in a folder beside it, and `config` says so; unless the user named
    the folder.

    Raises:
        OutputError: another run has it.
    """
    named = OmegaConf.select(config, key)
    for number in itertools.count(2):
        folder = Path(OmegaConf.select(config, key)).resolve()
        try:
            claim(folder, key)
            return folder
        except OutputError:
            if any(one.startswith(f"{key}=") for one in config.hydra.overrides.hydra):
                raise
        OmegaConf.update(config, key, f"{named}-{number}")
    raise AssertionError("numbers do not end")


def claim(folder: Path, key: str) -> None:
    """Make `folder` this run's own.

    Raises:
        OutputError: another run has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / CLAIM_FILE).touch(exist_ok=False)
    except FileExistsError as error:
        raise OutputError(
            f"{key}={folder} holds the results of another run; start again, or name another folder"
        ) from error


def _running_lock(folder: Path) -> FileLock:
    return FileLock(folder / "running.lock")  # the system lets go of it when this process dies


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep every other process of this machine from measuring or logging the cell of `folder`.

    Raises:
        GreenlabError: one of them does.
    """
    try:
        with _running_lock(folder).acquire(timeout=0):
            yield
    except Timeout as error:
        raise GreenlabError("it is running; it lands by itself when it has ended") from error


def _measure(cell: Cell, folder: Path) -> Record:
    process = _in_own_process(cell_process.measure_folder, folder)
    try:
        _wait_for(process)
    except BaseException:  # Ctrl-C, SIGTERM: leave no process and no cell without a record
        _stop(process)
        if not (folder / records.RECORD_FILE).exists():
            _write_unfinished(cell, folder, "KILLED", "killed", "stopped by the user")
        raise
    _stop(process)  # what a model may have started and left behind
    if not (folder / records.RECORD_FILE).exists():
        reason = _death(cell, process.exitcode or 0, folder / LOG_FILE)
        kind: records.FailureKind = "timeout" if process.exitcode == -signal.SIGALRM else "killed"
        _write_unfinished(cell, folder, "FAILED", kind, reason)
    return records.read_record(folder)


def _wait_for(process: ForkServerProcess) -> None:
    if ticket is None or ticket.home is None:
        process.join()
        return
    while process.is_alive():  # Ray interrupts a cell by a flag, which no system call notices
        process.join(NOTICE_WITHIN_S)


def start_server(grid: Sequence[Config]) -> None:
    """Start the process that cells are forked from; it loads torch while this one goes on."""
    _FORKSERVER.set_forkserver_preload(cell_process.preload_for(grid))
    _ensure_server()


def _ensure_server() -> None:
    # Ctrl-C is for this process, also while that one imports.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_own_process(target: Callable[..., None], *arguments: object) -> ForkServerProcess:
    if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
        # A worker of joblib's; the new process would look for joblib's own method there.
        multiprocessing.set_start_method("forkserver", force=True)
    for _ in range(START_TRIES):
        _ensure_server()
        process = _FORKSERVER.Process(target=target, args=arguments)
        try:
            process.start()
            return process
        except (ConnectionError, EOFError):  # the server was killed; the next try starts another
            logger.warning("the process that cells are forked from was killed; starting another")
    raise GreenlabError(
        f"no process for a cell could be started in {START_TRIES} tries: the one that cells are "
        "forked from is killed each time. Does this machine run out of memory?"
    )


def _stop(process: ForkServerProcess) -> None:
    """End a process and all that it started; it leads a session of its own."""
    assert process.pid is not None
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.join(STOP_WITHIN_S)
        if process.exitcode == SERVER_KILLED:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if not process.is_alive():
            return
        process.kill()  # it had not come as far as having a session


def _death(cell: Cell, returncode: int, log: Path) -> str:
    if returncode == -signal.SIGALRM:
        return f"not done after timeout_s={cell.config['timeout_s']:g}; see {log}"
    if returncode == SERVER_KILLED:
        return f"the process that the measuring process was forked from was killed; see {log}"
    how = (
        f"was killed by {signal.Signals(-returncode).name} (the out-of-memory killer uses SIGKILL)"
        if returncode < 0
        else f"ended with exit code {returncode}"
    )
    return f"the measuring process {how} and left no record; see {log}"


def _write_unfinished(
    cell: Cell, folder: Path, status: records.Status, kind: records.FailureKind, message: str
) -> None:
    failure = Failure(kind=kind, message=message)
    account = read_account(folder)
    records.write_record(
        folder,
        Record(status=status, cell=cell, ended_at_s=time.time(), failure=failure, account=account),
    )


def land_or_leave(folder: Path, config: Config) -> str | None:
    """As `land`; or leave it to the launching process, where the store is a file of its machine."""
    if ticket is None or ticket.home is None or not ticket.home.lands:
        return land(folder, config)
    _mark_unsynced(folder, "the process that launched this cell logs it")
    return None


def land(folder: Path, config: Config) -> str | None:
    """Log the record in `folder` to MLflow; the run's link, or None where it could not be.

    What is measured is on disk already, so an MLflow that is gone costs a warning and no joule.
    """
    try:
        with _running_lock(folder):  # against another process that logs it
            _mark_unsynced(folder, "greenlab was stopped while it logged this cell")
            store = tracking.open_store(config.mlflow)
            link = store.run_link(store.land(folder))
            (folder / UNSYNCED_FILE).unlink(missing_ok=True)
        return link
    except Exception as error:  # MLflow, SQLAlchemy and the file system each raise their own
        logger.warning(
            "not logged to MLflow: %s. The next cell tries again; later: python -m greenlab.sync "
            "%s",
            first_line(error),
            folder,
        )
        _mark_unsynced(folder, first_line(error))
        if ticket:
            _mark_waiting(ticket.folder)
        return None


def _mark_unsynced(folder: Path, reason: str) -> None:
    with contextlib.suppress(OSError):  # the disk may be full
        (folder / UNSYNCED_FILE).write_text(reason)


def _mark_waiting(sweep_folder: Path) -> None:
    with contextlib.suppress(OSError):  # the end of the sweep looks at every cell in any case
        (sweep_folder / WAITING_FILE).touch()


def land_others(sweep_folder: Path, config: Config) -> None:
    """Log what could not be logged before; the store answers again."""
    waiting = sweep_folder / WAITING_FILE
    if waiting.exists():
        waiting.unlink(missing_ok=True)  # before they are looked for: it may be made anew meanwhile
        try:
            land_unsynced(sweep_folder, tracking.open_store(config.mlflow))
        except Exception as error:  # as above
            logger.warning("cells of before are still not in MLflow: %s", first_line(error))
            _mark_waiting(sweep_folder)


def land_unsynced(sweep_folder: Path, store: tracking.Store) -> None:
    """Log the cells of a sweep that could not be logged when they ended; stop at the first error.

    One that another process is measuring or logging is left to it.
    """
    for folder in _unsynced(sweep_folder):
        with contextlib.suppress(Timeout), _running_lock(folder).acquire(timeout=0):
            if (folder / records.RECORD_FILE).exists():
                store.land(folder)
                (folder / UNSYNCED_FILE).unlink(missing_ok=True)


def count_unsynced(sweep_folder: Path) -> int:
    """How many cells of a sweep are on disk and not in MLflow."""
    return len(_unsynced(sweep_folder))


def _unsynced(sweep_folder: Path) -> list[Path]:
    folders = records.cell_folders(sweep_folder)
    return [folder for folder in folders if (folder / UNSYNCED_FILE).exists()]


def preflight(grid: Sequence[Config], *, here: bool = True) -> Place:
    """Check the hardware, sources, data and models of a whole grid in a process of its own.

    Where it is not to be measured here, data and models only. Returns what that process says of
    this machine; no machine where it is another one that measures.

    Raises:
        ConfigError: with everything that stands in the way of a cell.
    """
    check = cell_process.preflight_grid if here else cell_process.preflight_elsewhere
    told = ask("the check before the first cell", check, list(grid))
    if told["problems"]:
        raise ConfigError("\n".join(told["problems"]))
    return Place(machine=told["machine"], commit=told["commit"])


def ask(what: str, target: Callable[..., None], *arguments: object) -> Any:
    """Call `target(*arguments, answer)` in a process of its own; returns the JSON in `answer`.

    Raises:
        GreenlabError: the process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="greenlab-") as folder:
        answer = Path(folder) / "answer.json"
        process = _in_own_process(target, *arguments, answer)
        try:
            process.join()
        except BaseException:
            _stop(process)
            raise
        if not answer.exists():
            raise GreenlabError(
                f"{what} broke off (exit code {process.exitcode}); what it said is above"
            )
        return json.loads(answer.read_text())


def report(record: Record, *, place: str = "", progress: str = "") -> None:
    """One line per finished cell, and in a multirun how far it is."""
    logger.info("%s%s%s", place, summary_line(record), progress and f"  {progress}")
    if record.failure is not None:
        logger.error("%s %s: %s", record.cell.name, record.status, record.failure.message)
    if not place:
        for doubt in record.doubts:
            level = logging.INFO if doubt.severity == "information" else logging.WARNING
            logger.log(level, "%s: %s", doubt.code, doubt.message)


def summary_line(record: Record) -> str:
    """What a person wants to know of a cell at a glance."""
    values = metrics(record)
    chosen = record.cell.choices
    cell = (
        f"{chosen.get('model', ''):<16} {chosen.get('batch_size', ''):>4} "
        f"{chosen.get('phase', ''):<9}"
    )
    if record.measurement is None:
        wasted_j = values.get("energy/wasted_j")
        spent = "" if wasted_j is None else f", {record.mark}{wasted_j:,.1f} J gross spent"
        return f"{cell} {record.status}{spent}"
    if record.cell.is_profile:
        return f"{cell} {sentence(record)}  {record.verdict}"
    joules = "no energy source"
    if "energy/net_j" in values:
        mark, net = record.measurement.mark, describe_net(values)
        per_sample = f"{mark}{values['energy/net_per_sample_j']:.4g}"
        joules = f"net {mark + net:>18} J  {per_sample:>9} J/sample"
    stopped = f"  {text}" if (text := stop_text(record)) else ""
    return f"{cell} {joules}  accuracy {values['task/accuracy']:.3f}  {record.verdict}{stopped}"


def _remaining(ticket: Ticket) -> str:
    elapsed_s = time.time() - ticket.began_s
    return progress(elapsed_s, elapsed_s / (ticket.num_before + 1) * (ticket.num_left - 1))


def progress(elapsed_s: float, left_s: float) -> str:
    """How long a sweep has taken, and may take yet."""
    return f"[{clock(elapsed_s)} elapsed, about {clock(left_s)} left]"


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
