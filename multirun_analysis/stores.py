"""Reads an MLflow store: tables of a database through SQLAlchemy, a server through its client.

MLflow's own search takes 18 s and 1.5 GB for ten thousand runs of an SQLite file; their rows, read
as what they are, a second. MLflow is pinned to one version, for its tables are no public interface.
A database is opened read-only where it can be.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
from pandas import DataFrame

from greenlab import tracking
from greenlab.errors import StoreUnavailableError, first_line, without_password

LARGEST = 1.7976931348623157e308
"""What MLflow stores for infinity."""
NOT_PER_CELL = ("trace/", "epoch/")
"""Metrics with many values per cell."""
EPOCH_METRICS = ("net_j", "gross_j", "active_s", "loss", "accuracy")
UNUSED_TAGS = ("mlflow.", "version.")
USED_TAG = "version.torch"
PAGE = 1000
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Cells as stored, all frames by run id."""

    runs: DataFrame
    """name, status, started_at_s, ended_at_s (Unix time; NaN while it runs)."""
    params: DataFrame
    tags: DataFrame
    metrics: DataFrame


class Source(Protocol):
    """An experiment in a store."""

    def runs(self, sweeps: Sequence[str] | None) -> Table:
        """The cells of these sweeps; None: of the whole experiment."""

    def sweeps(self) -> DataFrame:
        """run_id, sweep, status, started_at_s and metrics of every sweep, the newest first."""

    def epochs(self, run_ids: Sequence[str]) -> DataFrame:
        """run_id, step and the `epoch/` metrics of these cells."""

    def artefact(self, run_id: str, name: str) -> Path:
        """A local copy of a cell's file."""


def open_source(uri: str, experiment: str) -> Source:
    """Find the experiment in its store.

    Raises:
        StoreUnavailableError: there is no such store, it does not answer, or it has no such
            experiment.
    """
    path = tracking.sqlite_path(uri)
    if path is not None and not path.exists():
        raise StoreUnavailableError(
            f"tracking_uri={uri}: there is no such file. Measure something first (make demo), or "
            "name the store that holds your runs (sqlite:////absolute/path/mlflow.db)"
        )
    tracking.check_answers(uri)
    try:
        if uri.startswith("http"):
            return Server(uri, experiment)
        return Database(uri, experiment)
    except StoreUnavailableError:
        raise
    except Exception as error:  # of SQLAlchemy, its driver, MLflow or a socket
        reason = without_password(first_line(error))
        raise StoreUnavailableError(
            f"tracking_uri={without_password(uri)} cannot be read: {reason}"
        ) from error


def _no_experiment(experiment: str, known: Iterable[str]) -> StoreUnavailableError:
    names = ", ".join(sorted(known)) or "none at all"
    return StoreUnavailableError(
        f"experiment={experiment}: the store has no experiment of that name; it has {names}"
    )


class Database:
    """A store whose tables can be read: SQLite, PostgreSQL, MySQL."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Connect and look the experiment up."""
        import sqlalchemy

        path = tracking.sqlite_path(uri)
        self._uri = uri
        read_only = f"sqlite:///file:{path}?mode=ro&uri=true"
        self._engine = sqlalchemy.create_engine(uri if path is None else read_only)
        query = "SELECT name, experiment_id FROM experiments WHERE lifecycle_stage = 'active'"
        known: dict[str, Any] = dict(self._rows(query))
        if experiment not in known:
            raise _no_experiment(experiment, known)
        self._experiment_id = known[experiment]

    def runs(self, sweeps: Sequence[str] | None) -> Table:
        """See Source."""
        return _no_runs() if sweeps == [] else self._table("cell", sweeps)

    def sweeps(self) -> DataFrame:
        """See Source."""
        return _sweeps(self._table("sweep", None))

    def epochs(self, run_ids: Sequence[str]) -> DataFrame:
        """See Source."""
        wanted = set(run_ids)
        rows = self._selected(
            "SELECT m.run_uuid, m.step, m.{key}, m.value, m.is_nan FROM metrics m",
            "cell",
            None,
            "m.{key} LIKE 'epoch/%'",
        )
        return _long_to_epochs(
            (run, step, key, np.nan if is_nan else value)
            for run, step, key, value, is_nan in rows
            if run in wanted
        )

    def artefact(self, run_id: str, name: str) -> Path:
        """See Source."""
        query = "SELECT artifact_uri FROM runs WHERE run_uuid = :run_id"
        [(folder,)] = self._rows(query, run_id=run_id)
        parts = urlsplit(str(folder))
        if parts.scheme in ("", "file"):
            return Path(unquote(parts.path)) / name
        return _download(self._uri, run_id, name)

    def _table(self, kind: str, sweeps: Sequence[str] | None) -> Table:
        found = self._selected(
            "SELECT m.run_uuid, m.name, m.status, m.start_time, m.end_time FROM runs m",
            kind,
            sweeps,
        )
        runs = _runs(found)
        unused = " AND ".join(f"m.{{key}} NOT LIKE '{prefix}%'" for prefix in UNUSED_TAGS)
        texts = f"(m.{{key}} = '{USED_TAG}' OR ({unused}))"
        params = self._selected("SELECT m.run_uuid, m.{key}, m.value FROM params m", kind, sweeps)
        tags = self._selected(
            "SELECT m.run_uuid, m.{key}, m.value FROM tags m", kind, sweeps, texts
        )
        numbers = " AND ".join(f"m.{{key}} NOT LIKE '{prefix}%'" for prefix in NOT_PER_CELL)
        metrics = self._selected(
            "SELECT m.run_uuid, m.{key}, CASE WHEN m.is_nan THEN NULL ELSE m.value END "
            "FROM latest_metrics m",
            kind,
            sweeps,
            numbers,
        )
        return Table(
            runs=runs,
            params=_wide(params, runs.index, object),
            tags=_wide(tags, runs.index, object),
            metrics=_finite(_wide(metrics, runs.index, float)),
        )

    def _selected(
        self, select: str, kind: str, sweeps: Sequence[str] | None, condition: str = ""
    ) -> Iterator[Any]:
        """Rows of a table `m` that belong to runs of this kind in these sweeps."""
        query = (
            f"{select} WHERE m.run_uuid IN (SELECT r.run_uuid FROM runs r "
            "JOIN tags k ON k.run_uuid = r.run_uuid AND k.{key} = 'greenlab.kind' "
            "JOIN tags s ON s.run_uuid = r.run_uuid AND s.{key} = 'greenlab.sweep' "
            "WHERE r.experiment_id = :experiment AND r.lifecycle_stage = 'active' "
            "AND k.value = :kind"
        )
        told: dict[str, Any] = {"experiment": self._experiment_id, "kind": kind}
        if sweeps is not None:
            query += " AND s.value IN :sweeps"
            told["sweeps"] = list(sweeps)
        query += ")"
        if condition:
            query += f" AND {condition}"
        return self._rows(query, **told)

    def _rows(self, query: str, **told: Any) -> Iterator[Any]:
        import sqlalchemy

        key = self._engine.dialect.identifier_preparer.quote("key")  # a word of MySQL's own
        text = sqlalchemy.text(query.format(key=key))
        if "sweeps" in told:
            text = text.bindparams(sqlalchemy.bindparam("sweeps", expanding=True))
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "sqlite":
                # The driver's own tuples: to make a Row of each takes as long as to read them.
                cursor = connection.execute(text, told).cursor
                while part := cursor.fetchmany(ROWS_AT_ONCE):
                    yield from part
                return
            streamed = connection.execution_options(yield_per=ROWS_AT_ONCE)
            for rows in streamed.execute(text, told).partitions(ROWS_AT_ONCE):
                yield from rows


class Server:
    """A store behind an MLflow server."""

    def __init__(self, uri: str, experiment: str) -> None:
        """Ask for the experiment."""
        self._uri = uri
        self._client = _client(uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None or found.lifecycle_stage != "active":
            raise _no_experiment(
                experiment, [one.name for one in self._client.search_experiments()]
            )
        self._experiment_id = found.experiment_id

    def runs(self, sweeps: Sequence[str] | None) -> Table:
        """See Source."""
        if sweeps is None:
            return self._table("cell", "")
        found = [self._table("cell", f" and tags.`greenlab.sweep` = '{name}'") for name in sweeps]
        if not found:
            return _no_runs()
        if len(found) == 1:
            return found[0]
        return Table(
            runs=pd.concat([table.runs for table in found]),
            params=pd.concat([table.params for table in found]),
            tags=pd.concat([table.tags for table in found]),
            metrics=pd.concat([table.metrics for table in found]),
        )

    def sweeps(self) -> DataFrame:
        """See Source."""
        return _sweeps(self._table("sweep", ""))

    def epochs(self, run_ids: Sequence[str]) -> DataFrame:
        """See Source."""
        asked = [(run, f"epoch/{name}") for run in run_ids for name in EPOCH_METRICS]
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(lambda one: self._client.get_metric_history(*one), asked)
            return _long_to_epochs(
                (run, point.step, key, point.value)
                for (run, key), points in zip(asked, answers, strict=True)
                for point in points
            )

    def artefact(self, run_id: str, name: str) -> Path:
        """See Source."""
        return _download(self._uri, run_id, name)

    def _table(self, kind: str, condition: str) -> Table:
        found = list(self._search(f"tags.`greenlab.kind` = '{kind}'" + condition))
        runs = _runs(
            (
                one.info.run_id,
                one.info.run_name,
                one.info.status,
                one.info.start_time,
                one.info.end_time,
            )
            for one in found
        )

        def rows(name: str, unused: Sequence[str] = ()) -> Iterator[tuple[str, str, Any]]:
            for one in found:
                for key, value in getattr(one.data, name).items():
                    if key == USED_TAG or not key.startswith(tuple(unused)):
                        yield one.info.run_id, key, value

        return Table(
            runs=runs,
            params=_wide(rows("params"), runs.index, object),
            tags=_wide(rows("tags", UNUSED_TAGS), runs.index, object),
            metrics=_finite(_wide(rows("metrics", NOT_PER_CELL), runs.index, float)),
        )

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], condition, max_results=PAGE, page_token=token
            )
            yield from page
            if not (token := page.token):
                return


def _client(uri: str) -> Any:
    for key, value in tracking.LIBRARY_SETTINGS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient  # three and a half CPU seconds

    return MlflowClient(tracking_uri=tracking.without_credentials(uri))


def _download(uri: str, run_id: str, name: str) -> Path:
    return Path(_client(uri).download_artifacts(run_id, name))


def _no_runs() -> Table:
    nothing = _wide([], _runs([]).index, object)
    return Table(runs=_runs([]), params=nothing, tags=nothing, metrics=nothing)


def _runs(rows: Iterable[Any]) -> DataFrame:
    names = ["run_id", "name", "status", "started_at_s", "ended_at_s"]
    frame = DataFrame(list(rows), columns=names).set_index("run_id").sort_index()
    for name in names[3:]:
        frame[name] = frame[name].astype(float) / 1000
    return frame


def _wide(rows: Iterable[Any], index: "pd.Index[str]", kind: type) -> DataFrame:
    """One column per key: rows of run id, key, value; runs that have it not are NaN."""
    place: Mapping[str, int] = {run: number for number, run in enumerate(index)}
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for run, key, value in rows:
        if key not in columns:
            columns[key] = np.full(len(index), np.nan, dtype=kind)
        if run in place:
            columns[key][place[run]] = np.nan if value is None else value
    return DataFrame({key: columns[key] for key in sorted(columns)}, index=index)


def _finite(metrics: DataFrame) -> DataFrame:
    return metrics.mask(metrics >= LARGEST, np.inf).mask(metrics <= -LARGEST, -np.inf)


def _long_to_epochs(rows: Iterable[tuple[str, int, str, float]]) -> DataFrame:
    names = [f"epoch/{name}" for name in EPOCH_METRICS]
    frame = DataFrame(list(rows), columns=["run_id", "step", "key", "value"])
    # A replayed cell logs a point again with the same value.
    frame = frame.drop_duplicates(["run_id", "step", "key"], keep="last")
    wide = frame.pivot(index=["run_id", "step"], columns="key", values="value")
    return wide.reindex(columns=names).rename_axis(columns=None).reset_index()


def _sweeps(table: Table) -> DataFrame:
    frame = table.runs.join(table.metrics)
    frame["sweep"] = table.tags.get("greenlab.sweep", pd.Series("", index=frame.index))
    num_cells = pd.to_numeric(table.tags.get("greenlab.num_cells", pd.Series(dtype=str)))
    repetitions = table.tags.get("greenlab.repetitions", pd.Series(dtype=str))
    frame["num_cells"] = num_cells.astype(float)
    # As many as it takes (`auto`) is at least one each.
    frame["num_runs"] = num_cells * pd.to_numeric(repetitions, errors="coerce").fillna(1)
    frame = frame.sort_values("started_at_s", ascending=False, kind="stable")
    return frame.drop(columns="name").reset_index(names="run_id")
