"""The only writer to MLflow: lands a cell's folder as a run, and the views that show it.

Everything is read from the folder, so a cell can land again at any time. Landing twice changes
nothing: a run is found by its `greenlab.uid`, equal values are kept once, files are overwritten.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from greenlab import hindsight, views
from greenlab import record as records
from greenlab.config import Mlflow, PhaseKind, cell_signature, job_signature, work
from greenlab.description import describe
from greenlab.errors import (
    GreenlabError,
    StoreUnavailableError,
    first_line,
    without_password,
)
from greenlab.hindsight import Known
from greenlab.metrics import metrics, pass_metrics
from greenlab.plan import Past
from greenlab.prediction import KINDS
from greenlab.record import Record, SweepEnd, SweepRun
from greenlab.trace_file import ROWS_FILE, complete_trace

logger = logging.getLogger(__name__)

MAX_SERIES_POINTS = 320
"""What MLflow's pages ask for of a series; more would be stored and never drawn."""
MAX_TAG_CHARACTERS = 8000
"""MLflow's own limit, which it does not hold the tags of a new run to; a database server does."""
MAX_BATCH = 1000
"""Metrics, params and tags together that MLflow takes in one request."""
MOST_COUNTERPARTS = 50
"""Full runs of a job, or profiles of it, that a landed cell is held against: the newest."""
CONNECT_WITHIN_S = 5.0
CREATE_WITHIN_S = 300.0
"""On an idle machine it takes some five seconds."""
UI_URL = "http://127.0.0.1:5000"
"""Where `make ui` serves a local store."""
LIBRARY_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits four minutes for a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each cell
}
_ARTEFACTS = (
    records.CONFIG_FILE,
    records.RECORD_FILE,
    records.WINDOWS_FILE,  # a cell that failed has its readings there alone
    records.ACCOUNT_FILE,
    records.TRACE_FILE,
    records.POWER_FILE,
    records.LOG_FILE,
)


def default_uri() -> str:
    """$MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def resolve_uri(settings: Mlflow) -> str:
    """The store that `settings` mean, wherever they are read: a file by its absolute path."""
    return locate(settings.tracking_uri)


def locate(uri: str | None) -> str:
    """A store's address, a file's by its absolute path; by default that of the environment."""
    uri = uri or default_uri()
    path = sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite URI, absolute; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")).resolve() if uri.startswith("sqlite:///") else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Landed:
    """A finished cell in the store."""

    sweep: str
    machine: str
    commit: str
    net_j: float | None
    """None where it is INVALID, was stopped early or has no energy."""
    node: str = ""
    """The name that a cluster has for the machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """An experiment in an MLflow store that answers."""

    uri: str
    experiment_id: str
    client: Any = field(repr=False)

    def land(self, folder: Path) -> str:
        """Log the record in `folder` as a run of its own; returns the run's id.

        Raises:
            GreenlabError: the record is damaged, or one of its files a link.
        """
        refuse_links(folder)
        record = records.read_record(folder)
        complete_trace(folder)  # of a cell that was ended before it could
        run_id, is_complete = self._run_of(record)
        if is_complete:
            return run_id
        ended_ms = round(record.ended_at_s * 1000)
        points = [*_metrics(record, ended_ms), *_series(record, folder / records.TRACE_FILE)]
        self._log(run_id, points, params=_params(record), tags=_tags(record))
        for name in _ARTEFACTS:
            if (folder / name).exists():
                self.client.log_artifact(run_id, str(folder / name))
        self.client.set_terminated(run_id, record.status, end_time=ended_ms)
        self.client.set_tag(run_id, "greenlab.sync", "complete")
        self._hold_predictions(Known(run_id=run_id, record=record))
        return run_id

    def _hold_predictions(self, landed: Known) -> None:
        """Hold profiles and full runs of the same job against each other, and tell both.

        The cell has landed by then; `python -m greenlab.backtest` does without what is told here.
        """
        from mlflow.exceptions import MlflowException

        try:
            others = self._counterparts(landed) if hindsight.is_usable(landed.record) else []
            for finding in hindsight.findings(landed, others) if others else ():
                at_ms = round(finding.told_at_s * 1000)
                self._log(finding.run_id, _at(at_ms, finding.metrics), tags=finding.tags)
        except (MlflowException, GreenlabError, OSError, ValueError) as error:
            logger.warning(
                "%s landed, but predictions were not held against it: %s",
                landed.record.cell.name,
                first_line(error),
            )

    def _counterparts(self, landed: Known) -> list[Known]:
        """Full runs of a profile's job, or profiles of a full run's, on the same machine.

        With those of its own kind that began later: it is not the newest then.
        """
        cell = landed.record.cell
        machine = landed.record.environment.machine if landed.record.environment else ""
        same_job = (
            "tags.`greenlab.kind` = 'cell' and tags.`greenlab.sync` = 'complete' "
            f"and tags.`greenlab.job` = '{job_signature(cell.config)}' "
            f"and tags.`greenlab.machine` = '{machine}' "
            "and tags.`greenlab.verdict` != 'INVALID' and attributes.status = 'FINISHED'"
        )
        kinds = KINDS if cell.is_profile else [PhaseKind.profile.name]
        others = [run for kind in kinds for run in self._newest_of_kind(kind, same_job)]
        if not others:  # as a rule; an experiment may hold thousands of the cell's own kind
            return []
        others.sort(key=lambda run: -run.info.start_time)
        later = f"{same_job} and attributes.start_time > {math.floor(1000 * cell.started_at_s + 1)}"
        own = [run for run in self._search(later) if _is_profile(run.data.tags) == cell.is_profile]
        run_ids = [run.info.run_id for run in [*own, *others[:MOST_COUNTERPARTS]]]
        return [Known(run_id=run_id, record=self.record_of(run_id)) for run_id in run_ids]

    def _newest_of_kind(self, kind: str, condition: str) -> Sequence[Any]:
        """Those alone are read that a cell may be held against."""
        of_kind = f'tags.`greenlab.work` LIKE \'%"kind":"{kind}"%\''
        found = self.client.search_runs(
            [self.experiment_id],
            f"{condition} and {of_kind}",
            max_results=MOST_COUNTERPARTS,
            order_by=["attributes.start_time DESC"],
        )
        is_profile = kind == PhaseKind.profile.name
        return [run for run in found if _is_profile(run.data.tags) == is_profile]

    def record_of(self, run_id: str) -> Record:
        """The record that a cell left in the store."""
        with tempfile.TemporaryDirectory(prefix="greenlab-") as place:
            self.client.download_artifacts(run_id, records.RECORD_FILE, place)
            return records.read_record(Path(place))

    def has(self, uid: str) -> bool:
        """Whether a cell has landed completely."""
        complete = f"tags.`greenlab.uid` = '{uid}' and tags.`greenlab.sync` = 'complete'"
        return bool(self.client.search_runs([self.experiment_id], complete, max_results=1))

    def _run_of(self, record: Record) -> tuple[str, bool]:
        """The cell's run, made where it has none, and whether all of it is there."""
        uid = record.cell.uid
        found = self.client.search_runs(
            [self.experiment_id], f"tags.`greenlab.uid` = '{uid}'", max_results=1
        )
        if found:
            is_complete = found[0].data.tags.get("greenlab.sync") == "complete"
            return str(found[0].info.run_id), is_complete
        run = self.client.create_run(
            self.experiment_id,
            start_time=round(record.cell.started_at_s * 1000),
            run_name=record.cell.name,
            tags={
                "greenlab.uid": uid,
                "greenlab.sync": "partial",
                "greenlab.kind": "cell",
                "greenlab.sweep": record.cell.sweep,
            },
        )
        return str(run.info.run_id), False

    def _log(
        self,
        run_id: str,
        points: Sequence[Any],
        *,
        params: Mapping[str, str] = MappingProxyType({}),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """All in one request, or few: each is a transaction, and reads the run again."""
        from mlflow.entities import Param, RunTag

        first = MAX_BATCH - len(params) - len(tags)
        self.client.log_batch(
            run_id,
            metrics=points[:first],
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        for start in range(first, len(points), MAX_BATCH):
            self.client.log_batch(run_id, metrics=points[start : start + MAX_BATCH])

    def _search(self, condition: str) -> Iterator[Any]:
        """Runs of the experiment, the newest first."""
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                condition,
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield from page
            if not (token := page.token):
                return

    def finished_cells(self, sweep: str | None) -> dict[str, Landed]:
        """Finished cells by signature, the newest of each; of one sweep, or of all (None)."""
        condition = (
            "tags.`greenlab.kind` = 'cell' and tags.`greenlab.sync` = 'complete' "
            "and attributes.status = 'FINISHED'"
        )
        if sweep is not None:
            condition += f" and tags.`greenlab.sweep` = '{sweep}'"
        found: dict[str, Landed] = {}
        for run in self._search(condition):
            tags = run.data.tags
            is_valid = tags.get("greenlab.verdict") != "INVALID"
            is_whole = "greenlab.stopped_early" not in tags
            landed = Landed(
                sweep=tags.get("greenlab.sweep", ""),
                machine=tags.get("greenlab.machine", ""),
                commit=tags.get("greenlab.commit", ""),
                node=tags.get("greenlab.node", ""),
                net_j=run.data.metrics.get("energy/net_j") if is_valid and is_whole else None,
            )
            found.setdefault(tags["greenlab.signature"], landed)
        return found

    def earlier_runs(self, cells: Collection[str]) -> dict[str, list[Past]]:
        """What finished runs of these cells took, by the signature that their repetitions share."""
        condition = "tags.`greenlab.kind` = 'cell' and attributes.status = 'FINISHED'"
        found: dict[str, list[Past]] = {}
        for run in self._search(condition):
            tags = run.data.tags
            if (cell := tags.get("greenlab.cell")) in cells:
                past = Past(
                    machine=tags.get("greenlab.machine", ""),
                    wall_s=(run.info.end_time - run.info.start_time) / 1000,
                    gross_j=run.data.metrics.get("energy/metered_j"),
                    is_modelled=bool(tags.get("greenlab.modelled")),
                )
                found.setdefault(cell, []).append(past)
        return found

    def begin_sweep(self, begun: SweepRun) -> SweepRun:
        """Open the run that stands for a multirun; returns it with its id."""
        told = {
            f"greenlab.{name}": str(value)[:MAX_TAG_CHARACTERS]
            for name, value in asdict(begun).items()
            if name not in ("run_id", "name")
        }
        overrides = without_password(begun.overrides) or ""
        told["greenlab.overrides"] = overrides[:MAX_TAG_CHARACTERS]
        run = self.client.create_run(  # tags at once: killed in between, it would be nobody's
            self.experiment_id,
            run_name=begun.name,
            tags={
                "greenlab.kind": "sweep",
                "greenlab.sweep": begun.name,
                "greenlab.sync": "partial",
            }
            | told,
        )
        return replace(begun, run_id=str(run.info.run_id))

    def sweeps(self) -> list[SweepRun]:
        """All multiruns of the experiment that can be taken up again, the newest first."""
        found = []
        for run in self._search("tags.`greenlab.kind` = 'sweep'"):
            tags = {key.removeprefix("greenlab."): text for key, text in run.data.tags.items()}
            if "order_seed" in tags:
                found.append(
                    SweepRun(
                        run_id=run.info.run_id,
                        name=tags["sweep"],
                        grid=tags["grid"],
                        overrides=tags.get("overrides", ""),
                        num_cells=int(tags["num_cells"]),
                        repetitions=tags["repetitions"],
                        order=tags["order"],
                        order_seed=int(tags["order_seed"]),
                        folder=tags["folder"],
                        host=tags["host"],
                    )
                )
        return found

    def is_running(self, run_id: str) -> bool:
        """Whether a run has not been closed; one that died is not either."""
        return str(self.client.get_run(run_id).info.status) == "RUNNING"

    def reopen_sweep(self, run_id: str) -> None:
        """Let the run of a multirun be running again."""
        self.client.set_tag(run_id, "greenlab.sync", "partial")
        self.client.update_run(run_id, status="RUNNING")

    def close_running(self, sweep: str) -> None:
        """Close as killed the runs that a dead multirun left running."""
        for run in self._search(
            f"tags.`greenlab.sweep` = '{sweep}' and attributes.status = 'RUNNING'"
        ):
            self.client.set_terminated(run.info.run_id, "KILLED")

    def land_sweep(self, end: SweepEnd) -> str:
        """Close the run of a multirun, or make it where it is missing; returns its id.

        Like a cell's it can land again at any time.
        """
        found = [one.run_id for one in self.sweeps() if one.name == end.begun.name]
        run_id = found[0] if found else self.begin_sweep(end.begun).run_id
        if self.client.get_run(run_id).data.tags.get("greenlab.sync") == "complete":
            return run_id
        ended_ms = round(end.ended_at_s * 1000)
        note = {"mlflow.note.content": _as_note(end.table)}
        self._log(run_id, _at(ended_ms, end.metrics), tags=note)
        self.client.log_text(run_id, end.table, "table.md")
        self.client.log_dict(run_id, end.ledger, "ledger.json")
        self.client.set_terminated(run_id, end.status, end_time=ended_ms)
        self.client.set_tag(run_id, "greenlab.sync", "complete")
        return run_id

    def run_link(self, run_id: str) -> str:
        """Address of a run's page."""
        page = f"experiments/{self.experiment_id}/runs/{run_id}?workflowType=machine_learning"
        return f"{self._base}/#/{page}"

    def view_links(self) -> dict[str, str]:
        """Addresses of the ready-made views, by what they show."""
        return {
            view.name: f"{self._base}/{views.link(self.experiment_id, view)}"
            for view in views.VIEWS
        }

    @property
    def _base(self) -> str:
        return self.uri.rstrip("/") if self.uri.startswith("http") else UI_URL


def check_reachable(settings: Mlflow) -> None:
    """As `check_answers`, of the store that `settings` mean."""
    check_answers(resolve_uri(settings))


def check_answers(uri: str) -> None:
    """Fail at once where MLflow and its database driver would try for minutes.

    Raises:
        StoreUnavailableError: the store's folder is not there, or its server does not answer.
    """
    with _unavailable(uri):
        if (path := sqlite_path(uri)) is not None:
            if not path.parent.is_dir():
                raise FileNotFoundError(f"the folder {path.parent} does not exist")
            with tempfile.TemporaryFile(dir=path.parent):  # SQLite keeps files beside its own
                return
        parts = urlsplit(str(without_password(uri)))  # errors quote what they cannot parse
        ports = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
        port = parts.port or ports.get(parts.scheme.partition("+")[0])
        if parts.hostname and port:
            socket.create_connection((parts.hostname, port), CONNECT_WITHIN_S).close()


def open_store(settings: Mlflow) -> Store:
    """Open the store, create experiment and views where they are missing.

    Raises:
        StoreUnavailableError: it does not answer, or cannot be written.
    """
    check_reachable(settings)
    uri = resolve_uri(settings)
    for key, value in LIBRARY_SETTINGS.items():
        os.environ.setdefault(key, value)
    with _unavailable(uri):
        if (path := sqlite_path(uri)) is not None:
            return _open_sqlite(path, settings.experiment)
        return _connect(without_credentials(uri), settings.experiment, artifact_location=None)


def without_credentials(uri: str) -> str:
    """A server's address without user and password, which MLflow finds in the environment then.

    It quotes the address in its errors, and greenlab in its links.
    """
    parts = urlsplit(uri)
    if not uri.startswith("http") or parts.password is None:
        return uri
    os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username or "")
    os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def create_tables(uri: str) -> None:
    """Set a database up for a server that keeps the artefacts; no other process may meanwhile."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _quieten()
    # MLflow's client would keep the artefacts of the experiment Default where it was called.
    SqlAlchemyStore(uri, "mlflow-artifacts:/")


@contextmanager
def _unavailable(uri: str) -> Iterator[None]:
    """Turn whatever MLflow, SQLAlchemy, sockets and files raise into one error of ours."""
    try:
        yield
    except Exception as error:
        reason = first_line(error)
        raise StoreUnavailableError(
            f"mlflow.tracking_uri={without_password(uri)} cannot be opened: {reason}. "
            f"{_way_out(reason)}"
        ) from error


def _way_out(reason: str) -> str:
    if "error code 401" in reason:
        return (
            "The server asks who you are: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD in the environment"
        )
    if "error code 403" in reason:
        return (
            "Your user may not write there: ask whoever runs the server, or name an experiment of "
            "your own (mlflow.experiment=…)"
        )
    return (
        "Start the server or name another store "
        "(mlflow.tracking_uri=sqlite:////absolute/path/mlflow.db)"
    )


def refuse_links(folder: Path) -> None:
    """Refuse a cell's or a sweep's folder whose files are links: what they point to would land.

    A folder that was copied from elsewhere may name any file of this machine.

    Raises:
        GreenlabError: it has such a file.
    """
    for name in (*_ARTEFACTS, ROWS_FILE, records.CELL_FILE, records.SWEEP_FILE):
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise GreenlabError(
                f"{path} is a link or no plain file: what lands in MLflow lies in the cell's own "
                "folder. Put the file itself there, or take it away"
            )


def _open_sqlite(path: Path, experiment: str) -> Store:
    if not path.exists() or path.stat().st_size == 0:
        _create(path)
    _use_wal(path)
    return _connect(f"sqlite:///{path}", experiment, artifact_location=path.parent)


def _use_wal(path: Path) -> None:
    """Readers and writers no longer block each other."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=wal")


def _create(path: Path) -> None:
    """Set a database up beside its place: killed half-way, MLflow could not go on with it."""
    from mlflow import MlflowClient  # before the lock: others that start now do it meanwhile

    _quieten()
    # MLflow sets a fresh database up without a lock: two processes at once destroy it.
    with FileLock(path.with_suffix(".lock"), timeout=CREATE_WITHIN_S):
        if path.exists() and path.stat().st_size > 0:
            return
        logger.info("creating %s", path)
        folder = path.with_suffix(".partial")  # a folder: SQLite leaves a journal beside its file
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        fresh = folder / path.name
        MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments(max_results=1)
        fresh.replace(path)
        folder.rmdir()
        _use_wal(path)


def _quieten() -> None:
    for name in ("mlflow", "alembic"):  # they announce every table that they create
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs each error with its traceback before it raises it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _connect(uri: str, experiment: str, artifact_location: Path | None) -> Store:
    # Three and a half CPU seconds; the measured process never comes here.
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    _quieten()
    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        location = artifact_location and (artifact_location / "mlartifacts" / experiment).as_uri()
        try:
            made = client.create_experiment(experiment, artifact_location=location)
            found = client.get_experiment(made)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(experiment)
    elif found.lifecycle_stage != "active":
        raise StoreUnavailableError(
            f"the experiment mlflow.experiment={experiment} was deleted; restore it or name another"
        )
    store = Store(uri=uri, experiment_id=found.experiment_id, client=client)
    for key, value in views.experiment_tags(round(time.time() * 1000)).items():
        if key not in found.tags:  # a view that the user has changed stays as it is
            try:
                client.set_experiment_tag(found.experiment_id, key, value)
            except MlflowException:  # another cell that lands first in it, at the same time
                if key not in client.get_experiment(found.experiment_id).tags:
                    raise
    return store


def _params(record: Record) -> dict[str, str]:
    chosen, settings = record.cell.choices, record.cell.config
    params: dict[str, str] = {
        group: chosen[group]
        for group in ("model", "hardware", "batch_size", "phase", "dataset")
        if group in chosen
    }
    params |= {
        "seed": str(settings["seed"]),
        "repetition": str(record.cell.repetition),
        "epochs": str(settings["phase"]["epochs"]),
        "device": record.measurement.device if record.measurement else "",
        "placement": record.measurement.placement if record.measurement else "",
    }
    if record.measurement is not None and (how := record.measurement.execution) is not None:
        params |= {key: str(value).lower() for key, value in asdict(how).items()}
    if (power_limit_w := settings["hardware"].get("power_limit_w")) is not None:
        params["power_limit_w"] = f"{power_limit_w:g}"
    return params


def _tags(record: Record) -> dict[str, str]:
    cell = record.cell
    tags = {
        "greenlab.signature": cell.signature,
        "greenlab.sweep": cell.sweep,
        "greenlab.verdict": record.verdict,
        "greenlab.doubts": ", ".join(doubt.code for doubt in record.doubts),
        "greenlab.overrides": " ".join(cell.overrides),
        "greenlab.position": str(cell.position),
        "greenlab.cell": cell_signature(cell.config),
        "greenlab.work": work(cell.config),
        "greenlab.job": job_signature(cell.config),
        "greenlab.schema_version": str(record.schema_version),
        "mlflow.note.content": describe(record),
        "mlflow.source.name": "greenlab",
        "mlflow.source.type": "LOCAL",
    }
    tags |= {"greenlab.node": cell.node, "greenlab.allocation": cell.allocation}
    if cell.attempt > 1:
        tags["greenlab.attempt"] = str(cell.attempt)
    if record.environment is not None:
        tags["greenlab.machine"] = record.environment.machine
        tags["greenlab.cpu"] = record.environment.cpu_name
        tags["greenlab.gpus"] = ", ".join(gpu.name for gpu in record.environment.gpus)
        tags["mlflow.source.git.commit"] = record.environment.commit.removesuffix("+")
        tags["greenlab.commit"] = record.environment.commit
        tags |= {
            f"version.{package}": version
            for package, version in record.environment.versions.items()
        }
    if record.measurement is not None:
        tags["greenlab.coverage"] = record.measurement.coverage
        tags["greenlab.modelled"] = "+".join(record.measurement.modelled_components)
        tags["greenlab.meters"] = json.dumps(_meters(record), sort_keys=True)
        tags |= {
            f"energy_source.{source.component}": source.provenance
            for source in record.measurement.sources
        }
        if (stop := record.measurement.stopped_early) is not None:
            tags["greenlab.stopped_early"] = f"{stop.after_epochs}/{stop.planned_epochs} epochs"
    if record.failure is not None:
        tags["greenlab.failure"] = f"{record.failure.kind}: {record.failure.message}"
    return {key: value for key, value in tags.items() if value}


def _is_profile(tags: dict[str, str]) -> bool:
    kind = json.loads(tags.get("greenlab.work", "{}")).get("phase", {}).get("kind")
    return bool(kind == PhaseKind.profile.name)


def _meters(record: Record) -> dict[str, str]:
    """Which devices were metered, or by which numbers modelled, and how idle was.

    Cells that differ in these are no repetitions of each other.
    """
    told = {
        source.component: f"{'+'.join(source.parts)}: {source.detail}" for source in record.sources
    }
    idle = record.cell.config.get("idle", {})
    return told | {f"idle.{name}": f"{value}" for name, value in idle.items()}


def _metrics(record: Record, timestamp_ms: int) -> list[Any]:
    from mlflow.entities import Metric

    points = _at(timestamp_ms, metrics(record))
    if record.measurement is not None:
        for step, named in pass_metrics(record):
            window = record.measurement.passes[step].window
            at_ms = round((window.started_at_s + window.duration_s) * 1000)
            points += [Metric(name, value, at_ms, step) for name, value in named.items()]
    return points


def _series(record: Record, trace: Path) -> list[Any]:
    """The power of each component over time, averaged down to what MLflow draws."""
    if record.measurement is None or not trace.exists():
        return []
    import numpy as np
    import pyarrow.parquet as pq
    from mlflow.entities import Metric

    table = pq.read_table(trace)
    points = []
    for source in record.measurement.sources:
        columns = [f"{part}_power_w" for part in source.parts]
        if not columns or table.num_rows == 0:
            continue
        watts = np.sum([table[name].to_numpy() for name in columns], axis=0)
        known = np.flatnonzero(~np.isnan(watts))  # the first sample has no power yet
        chunks = np.array_split(known, MAX_SERIES_POINTS)
        time_s = table["time_s"].to_numpy()
        points += [
            Metric(
                f"trace/{source.component}_power_w",
                float(watts[rows].mean()),
                round(float(time_s[rows[-1]]) * 1000),
                step,
            )
            for step, rows in enumerate(chunks)
            if len(rows)
        ]
    return points


def _as_note(table: str) -> str:
    """What of a long table MLflow keeps as a description: whole rows."""
    if len(table) <= MAX_TAG_CHARACTERS:
        return table
    more = "\n\nThe table goes on in the artefact table.md."
    kept, _, _ = table[: MAX_TAG_CHARACTERS - len(more)].rpartition("\n")
    return kept + more


def _at(timestamp_ms: int, values: dict[str, float]) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, value, timestamp_ms, 0) for name, value in values.items()]
