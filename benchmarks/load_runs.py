"""How fast runs are read, and in how much memory: tables through SQLAlchemy, MLflow's client.

    python -m benchmarks.load_runs [--num-runs 10000]

Fills an SQLite store in a temporary folder with cells as greenlab lands them, over and over with
other names and numbers, and reads it in fresh processes: `multirun_analysis.runs.load`, the same
through MLflow's client, and MLflow's own `search_runs`. Prints seconds and peak memory.
"""

import argparse
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from greenlab import record as records
from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.terminal import open_console

ROOT = Path(__file__).parent.parent
TABLES = ("params", "tags", "latest_metrics", "metrics")
WAYS = {
    "tables": "runs.load('{uri}', 'greenlab', 'all')",
    "client": "runs.load('{uri}', 'greenlab', 'all')",
    "search_runs": "mlflow.search_runs(experiment_names=['greenlab'])",
}


def fill(database: Path, num_runs: int) -> None:
    """Land the golden cell of the tests, and copy its rows until there are `num_runs`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(ROOT / "tests" / "golden" / records.RECORD_FILE, folder)
        store = tracking.open_store(Mlflow(tracking_uri=f"sqlite:///{database}"))
        run_id = store.land(folder)
    clone(database, run_id, num_runs - 1)


def clone(database: Path, run_id: str, num_copies: int) -> list[str]:
    """Copy a run's rows; metrics of the n-th copy are (1 + n / 1000) times the original's."""
    copies = {uuid.uuid4().hex: 1 + number / 1000 for number in range(1, num_copies + 1)}
    with sqlite3.connect(database) as connection:
        for table in ("runs", *TABLES):
            cursor = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [run_id])
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
            connection.executemany(
                f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})",
                (
                    list(_renamed(row, copy, factor).values())
                    for copy, factor in copies.items()
                    for row in rows
                ),
            )
    return list(copies)


def _renamed(row: dict[str, Any], copy: str, factor: float) -> dict[str, Any]:
    changed = {"run_uuid": copy}
    if isinstance(row.get("value"), float):  # of a metric; params and tags are text
        changed["value"] = row["value"] * factor
    return row | changed


def main() -> None:
    """Fill a store, read it by turns, print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_runs", description=__doc__)
    parser.add_argument("--num-runs", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="write the medians there too")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        _read(arguments.way, arguments.uri)
        return
    with tempfile.TemporaryDirectory() as place:
        database = Path(place) / "mlflow.db"
        fill(database, arguments.num_runs)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for repetition in range(arguments.repetitions):
            for way in WAYS:
                if way == "tables" or repetition == 0:  # the others take half a minute each
                    found[way].append(_run(way, f"sqlite:///{database}"))
    table = Table(title=f"{arguments.num_runs:,} runs of an SQLite store", title_justify="left")
    for column in ("way", "read s", "imports s", "peak MB", "rows"):
        table.add_column(column, justify="left" if column == "way" else "right")
    lines = ["way,read_s,imports_s,peak_mb,num_rows"]
    for way, trials in found.items():
        figures = [median(one[name] for one in trials) for name in trials[0]]
        table.add_row(
            way, *(f"{figure:,.2f}" if figure < 100 else f"{figure:,.0f}" for figure in figures)
        )
        lines.append(",".join([way, *(f"{figure:g}" for figure in figures)]))
    open_console().print(table)
    if arguments.csv:
        arguments.csv.write_text("\n".join(lines) + "\n")


def _run(way: str, uri: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.load_runs", "--way", way, "--uri", uri]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return dict(json.loads(done.stdout))


def _read(way: str, uri: str) -> None:
    begun = time.monotonic()
    if way == "search_runs":
        import mlflow

        mlflow.set_tracking_uri(uri)
        imported = time.monotonic()
        num_rows = len(mlflow.search_runs(experiment_names=["greenlab"], max_results=50_000))
    else:
        from multirun_analysis import runs, stores

        if way == "client":
            stores.Database = stores.Server  # type: ignore[assignment, misc]  # takes any URI
            import mlflow
        imported = time.monotonic()
        num_rows = len(runs.load(uri, "greenlab", runs.ALL).cells)
    read = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"read": read - imported, "imports": imported - begun, "peak": peak, "rows": num_rows}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
