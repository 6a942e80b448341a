"""The life of a multirun once it has begun: its cells are measured, it ends with a table."""

import contextlib
import logging
import re
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path

from hydra.core.utils import JobReturn

from greenlab import config as configuration
from greenlab import end_table, energy, forecast_text, landing, run, tracking
from greenlab import ledger as ledgers
from greenlab import record as records
from greenlab.agenda import Agenda, Result, Task
from greenlab.config import Config, cell_signature
from greenlab.end_table import Group
from greenlab.errors import GreenlabError, NodeRefusedError, first_line
from greenlab.grid import Combination
from greenlab.launchers import Cluster, Job, failed
from greenlab.ledger import Ledger
from greenlab.record import Record, SweepEnd, SweepRun
from greenlab.run import Home, Ticket
from greenlab.terminal import open_console
from greenlab.tracking import Landed

logger = logging.getLogger(__name__)

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]
"""Runs cells, given as overrides, numbered from the second argument on; returns when all ended."""


class Multirun:
    """One sweep in this process; resume.py makes it."""

    def __init__(
        self,
        grid: Sequence[Combination],
        run_of: SweepRun,
        folder: Path,
        home: Home | None = None,
    ) -> None:
        self.name, self.folder = run_of.name, folder
        self.tickets: dict[int, Ticket] = {}
        """By the number of Hydra's job; where cells run here."""
        self.node = ""
        """What a cluster calls the machine that measures, once that is known."""
        self._grid = grid
        self._keys = [cell_signature(configuration.to_dict(one.config)) for one in grid]
        self._run = run_of
        self._rules = grid[0].config
        self._agenda = Agenda(len(grid), self._rules, run_of.order_seed)
        self._began_s = time.time()
        self._next_job = _next_job(folder)
        self._tries: dict[Task, int] = {}
        self._num_before = self._num_begun = 0
        self._home = home
        self._returned: dict[str, Record] = {}
        """By uid: cells of other machines, whose disks may not be seen from here."""
        self._refused = False
        """Whether a machine of a cluster turned out to be none that can run these cells."""

    @property
    def num_cells(self) -> int:
        """Measurements that it takes, as far as they are known."""
        return self._agenda.num_tasks

    def skip_measured(self, measured: dict[str, Landed]) -> int:
        """Take what is measured already (by signature) as done; returns how many that is."""
        done = [(task, key) for key, task in signatures(self._grid).items() if key in measured]
        self.node = next((landed.node for landed in measured.values() if landed.node), "")
        for task, key in done:
            self._agenda.settle(task, Result(is_finished=True, net_j=measured[key].net_j))
        self._num_before = len(done)
        return len(done)

    # -------------------------------------------------------------------------------- its cells

    def measure(self, launch: Launch | Cluster, at_once: int | None) -> None:
        """Measure what is on the agenda, `at_once` cells at a time (None: all that are known)."""
        while not self._refused and (tasks := self._agenda.take(self._most(at_once))):
            jobs = [self._enlist(task, len(tasks) - place) for place, task in enumerate(tasks)]
            waiting = {job.number: task for job, task in zip(jobs, tasks, strict=True)}
            with contextlib.closing(_ended(launch, jobs)) as ended:
                for job, returned in ended:
                    self._settle(waiting[job.number], job, returned)
                    if self._home and (self._refused or self._agenda.is_stopped):
                        break  # what the cluster has yet of these is cancelled
        if self._agenda.is_stopped:
            logger.error(
                "stopped: %d cells have failed, and max_failures=%s allows no more",
                self._agenda.num_failed,
                self._rules.max_failures,
            )

    def _most(self, at_once: int | None) -> int | None:
        """How many cells to begin; the machine of the first is that of all, if they share one."""
        is_first = self._home and self._rules.machines == "one" and not self.node
        return 1 if is_first else at_once

    def _enlist(self, task: Task, num_waiting: int) -> Job:
        """Give a task its job number and ticket."""
        self._tries[task] = self._tries.get(task, 0) + 1
        names = self._rules.machine_names
        block = names[(task.repetition - 1) % len(names)] if names else ""
        ticket = Ticket(
            sweep=self.name,
            folder=self.folder,
            position=self._agenda.position(task),
            num_cells=self.num_cells,
            attempt=self._tries[task],
            began_s=self._began_s,
            num_before=self._num_begun,
            num_left=self._agenda.num_open + num_waiting,
            machine=block,
            is_anywhere=self._rules.machines == "any",
            home=self._home,
        )
        number, self._next_job = self._next_job, self._next_job + 1
        self._num_begun += 1
        chosen, config = self._grid[task.cell].overrides, self._grid[task.cell].config
        if not self._home:
            self.tickets[number] = ticket
        return Job(
            number=number,
            overrides=[*chosen, *[f"repetition={task.repetition}"] * (task.repetition > 1)],
            ticket=ticket,
            machine=block or (self.node if self._rules.machines == "one" else ""),
            device=config.hardware.device.value,
        )

    def _settle(self, task: Task, job: Job, returned: JobReturn) -> None:
        """Hear what came of a cell."""
        try:
            record = self._record_of(job, returned)
        except NodeRefusedError as error:
            self._refused = True
            logger.error("stopped: %s", error)
            return
        # Of another signature: the folder was used, and the cell refused.
        signature = _signature(self._grid[task.cell].config, task.repetition)
        if record is not None and record.cell.signature != signature:
            record = None
        if self._home and record is not None:
            self._returned[record.cell.uid] = record
            self.node = self.node or record.cell.node
        if self._agenda.settle(task, _result(record)):
            logger.warning("trying it again (%d of %d)", self._tries[task], self._rules.retries)
        if self._home and record is not None:
            self._report(record)

    def _record_of(self, job: Job, returned: JobReturn) -> Record | None:
        """A cell's record; None where it has none.

        Raises:
            NodeRefusedError: its machine would run none of them.
        """
        folder = None
        if returned.hydra_cfg is not None:
            folder = Path(returned.hydra_cfg.hydra.runtime.output_dir)
        record = None
        try:
            value = returned.return_value
            record = value if isinstance(value, Record) else None
        except NodeRefusedError:
            raise
        except Exception as error:  # outside the cell's own process: a full disk, a lost machine
            logger.error("%s", first_line(error), exc_info=_unexpected(error))
            if self._home:
                folder = landing.close_lost(job.ticket, first_line(error))
        if folder is None or not (folder / records.RECORD_FILE).exists():
            return record  # not even that could be written, or not on a disk that is seen from here
        if self._home and (folder / run.UNSYNCED_FILE).exists():
            run.land(folder, self._rules)
        try:
            return record or records.read_record(folder)
        except (OSError, GreenlabError):
            return None

    def _report(self, record: Record) -> None:
        """Of a cell that ran elsewhere, what its own process says of one that runs here."""
        done, now_s = self._agenda.num_settled, time.time()
        num_now = max(1, done - self._num_before)
        left_s = (now_s - self._began_s) / num_now * (self.num_cells - done)
        run.report(
            record,
            place=f"{done:>{len(str(self.num_cells))}}/{self.num_cells} on {record.cell.node}: ",
            progress=run.progress(now_s - self._began_s, left_s),
        )

    # ---------------------------------------------------------------------------------- its end

    def end(self, status: records.Status) -> bool:
        """Close the sweep and print what came of it; returns whether all is done and logged."""
        cells = self._records()
        groups = end_table.by_cell(cells, {key: place for place, key in enumerate(self._keys)})
        num_finished = self._agenda.num_finished
        if status == "FINISHED" and num_finished < self.num_cells:
            status = "FAILED"
        self._print(groups, ledgers.settle(cells))
        landed = self._log(cells, groups, status)
        return landed and num_finished == self.num_cells

    def _print(self, groups: Sequence[Group], ledger: Ledger) -> None:
        console = open_console()
        console.print(end_table.build_table(self.name, groups))
        if profiles := end_table.profiles(groups):
            console.print(forecast_text.build_table(profiles))
            console.print(forecast_text.LEGEND, highlight=False)
        for line in [
            self._progress(),
            *ledgers.describe(ledger, self._rules.carbon.tariff, self._rules.carbon.currency),
            *end_table.legend(groups),
            *self._remarks(groups),
        ]:
            console.print(line, highlight=False)

    def _progress(self) -> str:
        """How much is done, how much of it now, and how to go on."""
        took = run.clock(time.time() - self._began_s)
        done, num_cells = self._agenda.num_finished, self.num_cells
        before = f", {self._num_before} of them before" if self._num_before else ""
        missing = num_cells - self._agenda.num_settled
        go_on = f" {missing} were not measured: resume={self.name} goes on." if missing else ""
        return f"{done} of {num_cells} cells finished{before}; this took {took}.{go_on}"

    def _remarks(self, groups: Sequence[Group]) -> list[str]:
        cells = [record for group in groups for record in group]
        remarks = []
        machines = sorted({one.environment.machine for one in cells if one.environment})
        if len(machines) > 1:
            remarks.append(
                f"The cells ran on {len(machines)} machines ({', '.join(machines)}): compare those "
                "of one machine only."
            )
        if capped := self._agenda.capped():
            named = {cell_signature(one[0].cell.config): one[0].cell.name for one in groups}
            names = ", ".join(
                f"{named.get(self._keys[cell], '?')} ±{half:.1%}" for cell, half in capped.items()
            )
            remarks.append(
                f"max_repetitions={self._rules.max_repetitions} ended these before their mean was "
                f"known to ±{self._rules.target_rel_ci:.1%}, by the scatter alone: {names}."
            )
        shown = {cell_signature(group[0].cell.config) for group in groups}
        num_missing = len(set(self._keys) - shown)  # repetition=1,2 is one cell
        if num_missing and self._agenda.num_finished:
            remarks.append(
                f"{num_missing} cells have no row: they lie in the folders of other sweeps, or are "
                "not measured."
            )
        if any(record.doubts for record in cells):
            remarks.append("What a doubt saw, and its remedy, stand in each run's description.")
        return remarks

    def _records(self) -> list[Record]:
        folders = records.cell_folders(self.folder)
        ended = [folder for folder in folders if (folder / records.RECORD_FILE).exists()]
        found = []
        for folder in ended:
            try:
                found.append(records.read_record(folder))
            except GreenlabError as error:
                logger.error("left out of the table: %s", first_line(error))
        seen = {record.cell.uid for record in found}
        found += [record for uid, record in self._returned.items() if uid not in seen]
        return [record for record in found if record.cell.sweep == self.name]

    def _log(
        self, cells: Sequence[Record], groups: Sequence[Group], status: records.Status
    ) -> bool:
        """Close the sweep's own run; returns whether MLflow has all of the cells."""
        settled = ledgers.settle(cells)
        counts = {"cells/planned": self.num_cells, "cells/finished": self._agenda.num_finished}
        ledger = {
            "sweep": self.name,
            "counts": counts,
            "parts": {name: asdict(part) for name, part in settled.parts.items()},
            "is_modelled": settled.is_modelled,
            "cells": [_ledger_entry(record) for record in cells],
        }
        end = SweepEnd(
            begun=self._run,
            status=status,
            ended_at_s=time.time(),
            table=end_table.markdown(self.name, groups),
            ledger=ledger,
            metrics=counts | settled.metrics,
        )
        try:
            records.write_sweep(self.folder, end)
        except OSError as error:  # a full disk; MLflow's may have space
            logger.warning("%s cannot be written: %s", self.folder, first_line(error))
        try:
            store = tracking.open_store(self._rules.mlflow)
            run.land_unsynced(self.folder, store)
            store.land_sweep(end)
        except Exception as error:  # MLflow, SQLAlchemy and files each raise their own
            logger.warning(
                "not all of this sweep is in MLflow: %s. It is kept in %s; log it with: python -m "
                "greenlab.sync %s",
                first_line(error),
                self.folder,
                self.folder,
            )
            return False
        console = open_console()
        if not store.uri.startswith("http"):
            console.print("Browse: make ui (or python -m greenlab.ui), then", highlight=False)
        for name, address in store.view_links().items():
            console.print(f"  {name + ':':<24} {address}", highlight=False, soft_wrap=True)
        missing = run.count_unsynced(self.folder)
        if missing:
            logger.warning(
                "%d cells are on disk and not in MLflow: python -m greenlab.sync %s",
                missing,
                self.folder,
            )
        return missing == 0 and self._has_others(store)

    def _has_others(self, store: tracking.Store) -> bool:
        """Whether the store has the cells that lie on the disks of other machines."""
        here = {records.read_cell(folder).uid for folder in records.cell_folders(self.folder)}
        far = [one for uid, one in self._returned.items() if uid not in here and not store.has(uid)]
        for name in sorted({one.cell.node for one in far}):
            logger.warning(
                "%d cells are on the disk of %s and not in MLflow: run python -m greenlab.sync %s "
                "there, or on a copy of that folder",
                sum(one.cell.node == name for one in far),
                name,
                self.folder,
            )
        return not far


def signatures(grid: Sequence[Combination]) -> dict[str, Task]:
    """All that a sweep of `grid` measures, or may with repetitions=auto, by signature."""
    rules = grid[0].config
    last = rules.max_repetitions if rules.repetitions == "auto" else rules.repetitions
    tasks = [
        Task(cell=cell, repetition=repetition)
        for cell in range(len(grid))
        for repetition in range(1, last + 1)
    ]
    return {_signature(grid[task.cell].config, task.repetition): task for task in tasks}


def _signature(config: Config, repetition: int) -> str:
    if config.repetitions != 1:  # else it may have a repetition of its own, repetition=2
        config = configuration.with_repetition(config, repetition)
    return configuration.signature(config)


def _next_job(folder: Path) -> int:
    """The first number that no cell in `folder` has; its name ends with it as a rule."""
    taken = [cell.name for cell in records.cell_folders(folder)]
    numbers = [int(match[0]) for name in taken if (match := re.search(r"\d+$", name))]
    return max([len(taken) - 1, *numbers]) + 1


def _unexpected(error: Exception) -> Exception | None:
    return None if isinstance(error, GreenlabError) else error


def _ended(
    launch: Launch | Cluster, jobs: Sequence[Job]
) -> Generator[tuple[Job, JobReturn], None, None]:
    """Run `jobs`, and yield each with what came of it."""
    if isinstance(launch, Cluster):
        yield from launch.run_cells(jobs)
        return
    try:
        returned = launch([job.overrides for job in jobs], jobs[0].number)
    except OSError as error:  # what Hydra keeps of each job: a full disk
        lost = f"a cell could not begin: {first_line(error)}; resume=true measures it later"
        returned = [failed(job, GreenlabError(lost)) for job in jobs]
    yield from zip(jobs, returned, strict=True)


def _result(record: Record | None) -> Result:
    if record is None:
        return Result(is_finished=False)
    if record.status != "FINISHED":
        assert record.failure is not None
        return Result(is_finished=False, is_transient=record.failure.is_transient)
    return Result(is_finished=True, net_j=_comparable_j(record))


def _comparable_j(record: Record) -> float | None:
    """Net energy for a mean over repetitions; None where it is not to be part of one."""
    first = record.cell.sweep_first.machine
    is_elsewhere = first and record.environment and record.environment.machine != first
    is_cut_short = record.measurement is not None and record.measurement.stopped_early
    if record.verdict == "INVALID" or is_elsewhere or is_cut_short:
        return None
    return _net_j(record)


def _net_j(record: Record) -> float | None:
    """As metrics() has it, without all the rest."""
    measured = record.measurement
    if measured is None or not measured.active.energy_j:
        return None
    return energy.total(energy.net_energy_j(measured.active, measured.idle_w))


def _ledger_entry(record: Record) -> dict[str, object]:
    return {
        "position": record.cell.position,
        "repetition": record.cell.repetition,
        "attempt": record.cell.attempt,
        "cell": record.cell.name,
        "uid": record.cell.uid,
        "signature": record.cell.signature,
        "status": record.status,
        "verdict": record.verdict,
        "net_j": _net_j(record),
        "stage_j": record.account.stage_j if record.account else {},
        "failure": record.failure.message if record.failure else "",
    }
