"""A multirun as one thing: checked as a whole, one name, progress, an end table, an exit code.

Hydra calls this callback before the first cell and after the last one on the launching machine, and
around each cell in whichever process runs it; what it knows travels there with it.
"""

import logging
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.markup import escape
from rich.table import Table

from greenlab import config as configuration
from greenlab import grid as grids
from greenlab import record as records
from greenlab import run, tracking
from greenlab.errors import ConfigError, GreenlabError, OutputError, first_line
from greenlab.record import Record
from greenlab.run import Ticket
from greenlab.terminal import open_console

logger = logging.getLogger(__name__)

open_sweep: "Sweep | None" = None
"""The multirun that this process has begun and not ended, for whoever must end it early."""


class Sweep(Callback):
    """See the module; Hydra makes one from conf/config.yaml."""

    def __init__(self) -> None:
        self.name = ""
        self.num_cells = 0
        self.began_s = 0.0
        self.folder = ""
        self.mlflow = configuration.Mlflow()
        self.run_id = ""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a single cell that cannot be run or stored, before it starts."""
        with _refusals():
            grids.adopt_own_options(config)
            cell = configuration.from_omegaconf(config)
            _check_writable(Path(config.hydra.run.dir), "hydra.run.dir")
            _refuse_env_set(config)
            tracking.check_reachable(cell.mlflow)
            run.start_server([cell])
            tracking.open_store(cell.mlflow)
            run.preflight([cell])
            _claim(Path(config.hydra.run.dir), "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a grid with a cell that cannot be run, before any cell starts; else begin it."""
        global open_sweep
        with _refusals():
            grids.adopt_own_options(config)
            grid = grids.compose_sweep(config)
            _check_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
            _refuse_env_set(config)
            self.mlflow = grid[0].mlflow
            tracking.check_reachable(self.mlflow)
            run.start_server(grid)
            store = tracking.open_store(self.mlflow)
            logger.info("checking %d cells", len(grid))
            run.preflight(grid)
            _claim(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
            self.began_s = time.time()
            self.name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            self.num_cells = len(grid)
            self.folder = str(Path(config.hydra.sweep.dir).resolve())
            self.run_id = store.begin_sweep(self.name, config.hydra.overrides.task, len(grid))
        open_sweep = self
        logger.info("sweep %s: %d cells, results in %s", self.name, len(grid), self.folder)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Tell the process that is about to run a cell which one it is."""
        grids.adopt_own_options(config)
        if self.num_cells:
            run.ticket = Ticket(
                sweep=self.name,
                position=config.hydra.job.num + 1,
                num_cells=self.num_cells,
                began_s=self.began_s,
            )

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the end table; exit with 1 if any cell failed."""
        with _refusals():
            complete = self.end("FINISHED")
        if not complete:
            raise SystemExit(1)

    def end(self, status: records.Status) -> bool:
        """Close the sweep and print what came of it; returns whether all is done and logged."""
        global open_sweep
        open_sweep = None
        cells = self._records()
        finished = sum(record.status == "FINISHED" for record in cells)
        if status == "FINISHED" and finished < self.num_cells:
            status = "FAILED"
        console = open_console()
        console.print(_table(self.name, cells))
        took = run.clock(time.time() - self.began_s)
        console.print(f"{finished} of {self.num_cells} cells finished in {took}.", highlight=False)
        if any(record.measurement and record.measurement.is_modelled for record in cells):
            console.print(f"[bold]{MODELLED}[/]")
        machines = sorted({one.environment.machine for one in cells if one.environment})
        if len(machines) > 1:
            console.print(
                f"The cells ran on {len(machines)} machines ({', '.join(machines)}): compare those "
                "of one machine only.",
                highlight=False,
            )
        if any(record.doubts for record in cells):
            console.print("What a doubt saw, and its remedy, stand in each run's description.")
        landed = self._log(cells, status, finished)
        return landed and finished == self.num_cells

    def _records(self) -> list[Record]:
        folders = [path.parent for path in Path(self.folder).glob(f"*/{records.RECORD_FILE}")]
        found = [records.read_record(folder) for folder in folders]
        own = [record for record in found if record.cell.sweep == self.name]
        return sorted(own, key=lambda record: record.cell.position)

    def _log(self, cells: Sequence[Record], status: records.Status, finished: int) -> bool:
        """Close the sweep's own run; returns whether MLflow has all of the cells."""
        ledger = {
            "sweep": self.name,
            "counts": {"cells/planned": self.num_cells, "cells/finished": finished},
            "cells": [_ledger_entry(record) for record in cells],
        }
        try:
            store = tracking.open_store(self.mlflow)
            store.end_sweep(self.run_id, status, _markdown(self.name, cells), ledger)
        except Exception as error:  # MLflow, SQLAlchemy and files each raise their own
            logger.warning(
                "the sweep's own run could not be closed in MLflow: %s. Its cells are in %s; "
                "log them with: python -m greenlab.sync %s",
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
        missing = len(cells) - store.count_landed(self.name)
        if missing:
            logger.warning(
                "%d cells are on disk and not in MLflow: python -m greenlab.sync %s",
                missing,
                self.folder,
            )
        return missing == 0


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn greenlab's errors into an exit with their message: Hydra would swallow them here."""
    try:
        yield
    except GreenlabError as error:
        raise SystemExit(f"greenlab: {error}") from error
    except Exception as error:
        logger.exception("greenlab failed outside its cells")
        raise SystemExit(f"greenlab: {first_line(error)}") from error


def _refuse_env_set(config: DictConfig) -> None:
    if config.hydra.job.env_set:
        raise ConfigError(
            "hydra.job.env_set comes too late for the processes that cells are forked from; set "
            "the variables in the shell that starts greenlab"
        )


def _check_writable(folder: Path, key: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{key}={folder} cannot be written ({error.strerror}); name a folder that can, for "
            f"example {key}={Path(tempfile.gettempdir()) / 'greenlab'}"
        ) from error


def _claim(folder: Path, key: str) -> None:
    """Make `folder` this run's own: two that start in the same second are given the same name.

    Raises:
        OutputError: another run has it.
    """
    try:
        (folder / run.CLAIM_FILE).touch(exist_ok=False)
    except FileExistsError as error:
        raise OutputError(
            f"{key}={folder} holds the results of another run; start again, or name another folder"
        ) from error


MODELLED = (
    "~ holds modelled energy, not measured: a TDP or DIMM model stands in for a counter (python -m "
    "greenlab.doctor tells why). Do not publish it as measured."
)
COLUMNS = {
    "model": "left",
    "batch": "right",
    "phase": "left",
    "net J": "right",
    "± J": "right",
    "J/sample": "right",
    "samples": "right",
    "mean W": "right",
    "samples/s": "right",
    "accuracy": "right",
    "verdict": "left",
    "doubts": "left",
}
OWN_COLUMN = {"model", "model._target_", "batch_size", "batch_size.size", "phase"}
"""Keys whose values the columns above show."""
COLOURS = {"PASS": "green", "WARN": "yellow"}


def _settings(cells: Sequence[Record]) -> list[str]:
    """What each cell was given that not all were, and that no column of its own shows."""
    given = [record.cell.overrides for record in cells]
    return [
        " ".join(
            override
            for override in own
            if override.lstrip("+~").partition("=")[0] not in OWN_COLUMN
            and not all(override in others for others in given)
        )
        for own in given
    ]


def _rows(cells: Sequence[Record]) -> tuple[dict[str, str], list[list[str]]]:
    """Columns with their alignment, and one row per cell."""
    columns, rows = list(COLUMNS.items()), [_row(record) for record in cells]
    settings = _settings(cells)
    if any(settings):
        place = list(COLUMNS).index("phase") + 1
        columns.insert(place, ("settings", "left"))
        for row, own in zip(rows, settings, strict=True):
            row.insert(place, own)
    return dict(columns), rows


def _row(record: Record) -> list[str]:
    chosen, values = record.cell.choices, records.metrics(record)

    def number(metric: str, form: str) -> str:
        return format(values[metric], form) if metric in values else "–"

    mark = record.measurement.mark if record.measurement else ""

    def joules(metric: str, form: str) -> str:
        return mark + number(metric, form) if metric in values else "–"

    why = ", ".join(doubt.code for doubt in record.warnings)
    return [
        chosen.get("model", ""),
        chosen.get("batch_size", ""),
        chosen.get("phase", ""),
        joules("energy/net_j", ",.1f"),
        records.two_digits(u95_j) if (u95_j := values.get("energy/net_u95_j")) is not None else "–",
        joules("energy/net_per_sample_j", ".4g"),
        number("work/samples", ",.0f"),
        joules("power/mean_w", ".1f"),
        number("time/samples_per_s", ",.0f"),
        number("task/accuracy", ".3f"),
        record.verdict if record.measurement else record.status,
        why or (record.failure.message if record.failure else ""),
    ]


def _table(name: str, cells: Sequence[Record]) -> Table:
    table = Table(title=f"sweep {name}", title_justify="left")
    columns, rows = _rows(cells)
    for column, justify in columns.items():
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for plain in rows:
        row = [escape(text) for text in plain]  # model.freeze=[conv1] is no colour
        row[-2] = f"[{COLOURS.get(row[-2], 'red')}]{row[-2]}[/]"
        table.add_row(*row)
    return table


def _markdown(name: str, cells: Sequence[Record]) -> str:
    columns, rows = _rows(cells)
    rules = ["--:" if justify == "right" else "---" for justify in columns.values()]
    lines = ["| " + " | ".join(row) + " |" for row in (list(columns), rules, *rows)]
    marked = any(record.measurement and record.measurement.mark for record in cells)
    table = "\n".join([f"Sweep `{name}`", "", *lines])
    return f"{table}\n\n{MODELLED}" if marked else table


def _ledger_entry(record: Record) -> dict[str, Any]:
    return {
        "position": record.cell.position,
        "cell": record.cell.name,
        "uid": record.cell.uid,
        "signature": record.cell.signature,
        "status": record.status,
        "verdict": record.verdict,
        "net_j": records.metrics(record).get("energy/net_j"),
        "failure": record.failure.message if record.failure else "",
    }
