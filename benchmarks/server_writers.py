"""Many machines that land cells on one greenlab server at once: is any lost, and what does it cost?

    python -m benchmarks.server_writers --json server_writers.json
    python -m benchmarks.server_writers --restart --writers 8 --cells 10

Starts a PostgreSQL to throw away and greenlab's server over it. One cell is really measured; the
others are copies of its folder under uids of their own. Each of the writers lands its cells one
after the other, as a sweep does between two cells: it opens the store anew and lands the folder.
Writers are threads of a few processes, for each process takes 200 MB and four CPU seconds to know
MLflow; a thread has its connections to itself all the same. With --restart the server is killed
when half of the cells are there, and started again; what could not land is landed by
`python -m greenlab.sync`. Exits with 1 where a cell is lost, or is there twice.
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from benchmarks import group_server
from benchmarks.__main__ import describe_machine
from benchmarks.group_server import Database, Server
from benchmarks.results import Figure, open_parser, show
from greenlab import record as records
from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.errors import first_line
from greenlab.record import SweepRun

ROOT = Path(__file__).parent.parent
EXPERIMENT = "writers"
TABLES = ("runs", "params", "tags", "latest_metrics", "metrics")
COMMITS = "SELECT xact_commit FROM pg_stat_database"
Searches = dict[int, dict[str, list[float]]]
"""Seconds by number of runs and kind of search."""
PAUSE_S = 2.0
"""What a writer does after a landing that failed: in a sweep the next cell is measured then."""
ARTEFACTS = ("config.yaml", "record.json", "trace.parquet", "power.png", "greenlab.log")
"""What a cell is to have in the store."""
MEASURED = (
    *("model=lenet", "hardware=cpu", "dataset=synthetic", "dataset.num_samples=1024"),
    *("idle.settle_s=0", "idle.window_s=10", "phase.min_active_s=15", "phase.epochs=3"),
)
"""Long enough that its trace has more points than MLflow draws; see tracking.MAX_SERIES_POINTS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Landing:
    """One try to land a cell."""

    folder: str
    began_s: float
    """Unix time."""
    took_s: float
    error: str
    """Empty where it landed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What has been spent so far."""

    at_s: float
    server_cpu_s: float
    database_cpu_s: float
    writers_cpu_s: float
    num_commits: int
    database_bytes: int
    rows: dict[str, int]
    """By table."""
    table_bytes: dict[str, int]
    """By table, with its indices."""


# ------------------------------------------------------------------------------ the cells to land


def measure_cell(folder: Path) -> None:
    """Measure the one cell that the others are copies of."""
    subprocess.run(
        [
            *(sys.executable, "-m", "greenlab", *MEASURED, f"hydra.run.dir={folder}"),
            f"mlflow.tracking_uri=sqlite:///{folder.parent}/mlflow.db",
        ],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def copy_cell(source: Path, folder: Path, number: int, uri: str) -> None:
    """The same cell, measured some seconds later under another uid."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".hydra", "unsynced"))
    stored = json.loads((folder / records.RECORD_FILE).read_bytes())
    cell = stored["cell"]
    cell["uid"] = uuid.uuid4().hex
    cell["started_at_s"] += number
    cell["sweep"] = folder.parent.name
    cell["config"]["mlflow"] |= {"tracking_uri": uri, "experiment": EXPERIMENT}
    stored["ended_at_s"] += number
    (folder / records.RECORD_FILE).write_text(json.dumps(stored))
    (folder / records.CELL_FILE).write_text(json.dumps(cell))


# ----------------------------------------------------------------------------------- the writers


def write(folder: Path, uri: str) -> list[Landing]:
    """One writer: land every cell under `folder`, each as a sweep does."""
    landings = []
    for cell in records.cell_folders(folder):
        began_s, clock_s, error = time.time(), time.monotonic(), ""
        try:
            tracking.open_store(Mlflow(tracking_uri=uri, experiment=EXPERIMENT)).land(cell)
        except Exception as failure:  # as run.land: MLflow, requests and files raise their own
            error = f"{type(failure).__name__}: {first_line(failure)}"
        took_s = time.monotonic() - clock_s
        landings.append(Landing(folder=str(cell), began_s=began_s, took_s=took_s, error=error))
        if error:
            time.sleep(PAUSE_S)
    return landings


class Retries(logging.Handler):
    """Counts the requests that urllib3 has sent again."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.num = 0

    def emit(self, entry: logging.LogRecord) -> None:
        """Count it."""
        self.num += "Retrying" in entry.getMessage()


def be_writers(folders: Sequence[Path], uri: str, answer: Path) -> None:
    """A process of writers: wait for a line on stdin, then write, one thread for each folder."""
    import mlflow  # noqa: F401  # before the clock starts; a sweep has it from its first cell on

    retries = Retries()
    logging.getLogger("urllib3").addHandler(retries)
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(len(folders)) as pool:
        landings = [one for found in pool.map(lambda f: write(f, uri), folders) for one in found]
    told = {"landings": [asdict(one) for one in landings], "num_retries": retries.num}
    answer.write_text(json.dumps(told))


class Writers:
    """All of them, in `num_processes` processes."""

    def __init__(self, folders: Sequence[Path], uri: str, num_processes: int, place: Path) -> None:
        self._answers = [place / f"answer-{number}.json" for number in range(num_processes)]
        self._processes = []
        for number, answer in enumerate(self._answers):
            mine = [str(folder) for folder in folders[number::num_processes]]
            command = [sys.executable, "-m", "benchmarks.server_writers", "--write", uri]
            self._processes.append(
                subprocess.Popen(
                    [*command, str(answer), *mine],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def begin(self) -> None:
        """Let them go, all at once."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.close()

    def cpu_s(self) -> float:
        """What they have taken, while they run."""
        spent = [psutil.Process(one.pid).cpu_times() for one in self._processes]
        return sum(times.user + times.system for times in spent)

    def join(self) -> tuple[list[Landing], int, float]:
        """Wait for them; their landings, what was sent again, and their CPU seconds."""
        spent_s = 0.0
        for process in self._processes:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0
            spent_s += usage.ru_utime + usage.ru_stime
        told = [json.loads(answer.read_text()) for answer in self._answers]
        landings = [Landing(**one) for answer in told for one in answer["landings"]]
        return landings, sum(answer["num_retries"] for answer in told), spent_s


# -------------------------------------------------------------------------------- what it costs


def connect(database: Database) -> "psycopg.Connection[Any]":
    """As the superuser, in MLflow's database."""
    return psycopg.connect(f"{database.administrator} dbname={group_server.NAME}", autocommit=True)


def look(database: Database, server: Server, writers_cpu_s: float) -> Spent:
    """What the server has spent until now."""
    assert server.process is not None
    with connect(database) as connection:
        time.sleep(1.5)  # statistics are told when a transaction ends, once a second at most
        rows = {
            table: _number(
                connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
            )
            for table in TABLES
        }
        return Spent(
            at_s=time.monotonic(),
            server_cpu_s=group_server.cpu_s(server.process.pid),
            database_cpu_s=group_server.cpu_s(database.postmaster),
            writers_cpu_s=writers_cpu_s,
            num_commits=_number(connection, f"{COMMITS} WHERE datname = '{group_server.NAME}'"),
            database_bytes=_number(connection, f"SELECT pg_database_size('{group_server.NAME}')"),
            rows=rows,
            table_bytes={
                table: _number(connection, f"SELECT pg_total_relation_size('{table}')")
                for table in TABLES
            },
        )


def _number(connection: "psycopg.Connection[Any]", query: Any) -> int:
    [value] = connection.execute(query).fetchone() or ()
    return int(value)


class Watch(threading.Thread):
    """How many connections PostgreSQL has at most; and where it is asked, when half is there."""

    def __init__(self, database: Database, num_cells: int | None) -> None:
        super().__init__(daemon=True)
        self._database = database
        self._num_cells = num_cells
        self.most_connections = 0
        self.is_reached = threading.Event()
        self.stopped = threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        there = "SELECT count(*) FROM tags WHERE key = 'greenlab.sync' AND value = 'complete'"
        open_now = (
            "SELECT count(*) FROM pg_stat_activity "
            f"WHERE datname = '{group_server.NAME}' AND usename = '{group_server.USER}'"
        )
        with psycopg.connect(self._database.administrator, autocommit=True) as outside:
            while not self.stopped.wait(0.5):
                self.most_connections = max(self.most_connections, _number(outside, open_now))
                if self._num_cells is not None and not self.is_reached.is_set():
                    with connect(self._database) as connection:
                        if _number(connection, there) >= self._num_cells:
                            self.is_reached.set()


def faults(database: Database, artefacts: Path, cells: Sequence[Path]) -> Counter[str]:
    """What is not as it should be, by kind: each cell once, complete, with all of its files."""
    found: Counter[str] = Counter()
    with connect(database) as connection:
        there = connection.execute(
            "SELECT u.value, s.value, r.status, r.artifact_uri FROM runs r "
            "JOIN tags u ON u.run_uuid = r.run_uuid AND u.key = 'greenlab.uid' "
            "JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'greenlab.sync'"
        ).fetchall()
    wanted = {records.read_cell(cell).uid: cell for cell in cells}
    times = Counter(uid for uid, *_ in there)
    found["lost"] = len(wanted.keys() - times.keys())
    found["twice"] = sum(number - 1 for number in times.values())
    for uid, sync, status, artifact_uri in there:
        found["incomplete"] += (sync, status) != ("complete", "FINISHED")
        kept = artefacts / str(artifact_uri).removeprefix("mlflow-artifacts:/").lstrip("/")
        for name in ARTEFACTS:
            landed, source = kept / name, wanted[uid] / name
            same = landed.exists() and landed.read_bytes() == source.read_bytes()
            found["artefacts missing or altered"] += not same
    return found


def kept_bytes(folder: Path) -> int:
    """All files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------ one trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What came of it."""

    landings: list[Landing]
    num_cells: int
    is_restarted: bool
    took_s: float
    num_retries: int
    most_connections: int
    synced_s: float
    """What `python -m greenlab.sync` took afterwards; 0 where nothing was left to it."""
    faults: Counter[str]
    before: Spent
    after: Spent
    artefact_bytes: int


def run(options: argparse.Namespace, place: Path) -> list[Figure]:
    """Measure a cell, copy it, serve, write, look what is there, and search it."""
    source = place / "measured" / "cell"
    source.parent.mkdir()
    measure_cell(source)
    with group_server.postgres() as database:
        server = Server(database, place, num_workers=options.workers)
        try:
            server.start()
            trial = _land(database, server, options, source)
            found = figures(trial)
            keep(options, trial, found)  # as yet; searches may take as long again
            cells = records.cell_folders(place / "cells")
            found += search_figures(search_times(database, server, cells, options.runs))
            keep(options, trial, found)
            return found
        finally:
            server.stop()


def _land(database: Database, server: Server, options: argparse.Namespace, source: Path) -> Trial:
    place = server.artefacts.parent
    folders = [place / "cells" / f"writer-{number:02}" for number in range(options.writers)]
    for number, folder in enumerate(folders):
        for cell in range(options.cells):
            copy_cell(source, folder / f"{cell:03}", number * options.cells + cell, server.uri)
    cells = records.cell_folders(place / "cells")
    writers = Writers(folders, server.uri, options.processes, place)
    before = look(database, server, writers.cpu_s())
    watch = Watch(database, len(cells) // 2 if options.restart else None)
    watch.start()
    began_s = time.monotonic()
    writers.begin()
    if options.restart:
        watch.is_reached.wait()
        server.kill()
        server.start()
    landings, num_retries, writers_cpu_s = writers.join()
    took_s = time.monotonic() - began_s
    watch.stopped.set()
    after = look(database, server, writers_cpu_s)
    synced_s = 0.0
    if any(one.error for one in landings):
        synced_s = _sync(place / "cells")
    return Trial(
        landings=landings,
        num_cells=len(cells),
        is_restarted=options.restart,
        took_s=took_s,
        num_retries=num_retries,
        most_connections=watch.most_connections,
        synced_s=synced_s,
        faults=faults(database, server.artefacts, cells),
        before=before,
        after=after,
        artefact_bytes=kept_bytes(server.artefacts),
    )


def _sync(folder: Path) -> float:
    began_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "greenlab.sync", str(folder)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=False,  # what did not land is found below
    )
    return time.monotonic() - began_s


# --------------------------------------------------------------------------- searches, as it grows


def search_times(
    database: Database, server: Server, cells: Sequence[Path], sizes: Sequence[int]
) -> Searches:
    """What looking for a cell, and reading a sweep, takes among so many runs, by their number."""
    found = {}
    _stand_for_sweeps(server, cells)
    for size in (0, *sizes):
        num_runs = grow(database, size)
        found[num_runs] = _search(database, server, cells)
    return found


def _stand_for_sweeps(server: Server, cells: Sequence[Path]) -> None:
    """Leave the run that stands for each writer's sweep: the analysis goes by them."""
    store = tracking.open_store(Mlflow(tracking_uri=server.uri, experiment=EXPERIMENT))
    for name in dict.fromkeys(cell.parent.name for cell in cells):
        store.begin_sweep(
            SweepRun(
                run_id="",
                name=name,
                grid="",
                overrides="",
                num_cells=1,
                repetitions="1",
                order="sequential",
                order_seed=0,
                folder="",
                host="",
            )
        )


def grow(database: Database, num_runs: int) -> int:
    """Copy the rows of real runs until there are `num_runs`; returns how many there are.

    Their series over time are left out: no search reads those.
    """
    with connect(database) as connection:
        have = _number(connection, "SELECT count(*) FROM runs")
        if num_runs <= have:
            return have
        # Named unlike the copies of another size, which are copied here themselves.
        connection.execute(
            "CREATE TEMP TABLE copies AS SELECT run_uuid, "
            "md5(concat_ws('-', run_uuid, %s::text, n)) AS copy, "
            "concat_ws('-', '', %s::text, n) AS sweep "
            "FROM runs, generate_series(1, %s) n ORDER BY n LIMIT %s",
            [num_runs, num_runs, num_runs // have + 1, num_runs - have],
        )
        for table in TABLES[:-1]:
            query = sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(table))
            columns = [one.name for one in connection.execute(query).description or ()]
            connection.execute(
                sql.SQL(
                    "INSERT INTO {} ({}) SELECT {} FROM {} t JOIN copies c USING (run_uuid)"
                ).format(
                    sql.Identifier(table),
                    sql.SQL(", ").join(map(sql.Identifier, columns)),
                    sql.SQL(", ").join(_copied(table, name) for name in columns),
                    sql.Identifier(table),
                )
            )
        connection.execute("VACUUM ANALYZE")
    return num_runs


def _copied(table: str, column: str) -> sql.Composable:
    if column == "run_uuid":
        return sql.SQL("c.copy")
    if (table, column) == ("tags", "value"):  # a cell of its own, in one of many sweeps
        return sql.SQL(
            "CASE t.key WHEN 'greenlab.uid' THEN c.copy "
            "WHEN 'greenlab.sweep' THEN t.value || c.sweep ELSE t.value END"
        )
    return sql.SQL("t.{}").format(sql.Identifier(column))


def _search(
    database: Database, server: Server, cells: Sequence[Path], repetitions: int = 5
) -> dict[str, list[float]]:
    from multirun_analysis import runs

    store = tracking.open_store(Mlflow(tracking_uri=server.uri, experiment=EXPERIMENT))
    uids = [records.read_cell(cell).uid for cell in cells[:repetitions]]
    sweeps = _sweeps(database)
    found: dict[str, list[float]] = {"landed before?": [], "a sweep's cells, client": []}
    for uid in uids:
        found["landed before?"].append(_timed(lambda uid=uid: store.has(uid)))
    for name in sweeps:
        found["a sweep's cells, client"].append(_timed(lambda n=name: store.finished_cells(n)))
    if sweeps:
        os.environ["PGPASSWORD"] = database.password
        found["a sweep's cells, SQL"] = [
            _timed(lambda name=name: runs.load(database.uri, EXPERIMENT, name)) for name in sweeps
        ]
    return found


def _sweeps(database: Database) -> list[str]:
    """Three that have a run of their own."""
    with connect(database) as connection:
        rows = connection.execute(
            "SELECT s.value FROM tags s JOIN tags k USING (run_uuid) "
            "WHERE s.key = 'greenlab.sweep' AND k.key = 'greenlab.kind' AND k.value = 'sweep' "
            "LIMIT 3"
        ).fetchall()
    return [str(value) for [value] in rows]


def _timed(does: Any) -> float:
    began_s = time.monotonic()
    does()
    return time.monotonic() - began_s


# ---------------------------------------------------------------------------------------- report


def figures(trial: Trial) -> list[Figure]:
    """What it took, and what it left."""
    done = sorted(one.took_s for one in trial.landings if not one.error)
    spent, per = trial.after, 1 / len(done)
    cpu = {
        "server": spent.server_cpu_s - trial.before.server_cpu_s,
        "PostgreSQL": spent.database_cpu_s - trial.before.database_cpu_s,
        "writers": spent.writers_cpu_s - trial.before.writers_cpu_s,
    }
    if trial.is_restarted:  # the first server has taken its account with it
        del cpu["server"]
    found = [
        Figure(name=kind, unit="cells", values=[trial.faults[kind]], target="≤ 0")
        for kind in ("lost", "twice", "incomplete", "artefacts missing or altered")
    ]
    found += [
        Figure(name="cells per second", unit="1/s", values=[len(done) / trial.took_s]),
        Figure(name="a landing", unit="s", values=[round(one, 4) for one in done]),
        Figure(name="a landing, 95th percentile", unit="s", values=[done[int(0.95 * len(done))]]),
        Figure(name="landings that failed", unit="", values=[len(trial.landings) - len(done)]),
        Figure(name="requests sent again", unit="", values=[trial.num_retries]),
        Figure(name="sync afterwards", unit="s", values=[trial.synced_s]),
        Figure(name="connections of PostgreSQL, most", unit="", values=[trial.most_connections]),
        *(
            Figure(name=f"CPU of {who}, a cell", unit="s", values=[seconds * per])
            for who, seconds in cpu.items()
        ),
        Figure(
            name="commits, a cell",
            unit="",
            values=[(spent.num_commits - trial.before.num_commits) * per],
        ),
        *(
            Figure(
                name=f"rows of {table}, a cell",
                unit="",
                values=[(rows - trial.before.rows[table]) * per],
            )
            for table, rows in spent.rows.items()
        ),
        *(
            Figure(
                name=f"bytes of {table}, a cell",
                unit="kB",
                values=[(size - trial.before.table_bytes[table]) * per / 1000],
            )
            for table, size in spent.table_bytes.items()
        ),
        Figure(
            name="PostgreSQL, a cell",
            unit="kB",
            values=[(spent.database_bytes - trial.before.database_bytes) * per / 1000],
        ),
        Figure(
            name="artefacts, a cell",
            unit="kB",
            values=[trial.artefact_bytes / trial.num_cells / 1000],
        ),
    ]
    return found


def search_figures(searches: Searches) -> list[Figure]:
    """What searches took."""
    return [
        Figure(name=f"{kind}, among {size:,} runs", unit="s", values=taken)
        for size, kinds in searches.items()
        for kind, taken in kinds.items()
    ]


def keep(options: argparse.Namespace, trial: Trial, found: Sequence[Figure]) -> None:
    """Write the figures down where that is asked for, with what they depend on."""
    if options.json is None:
        return
    errors = Counter(one.error for one in trial.landings if one.error)
    content = {
        "machine": describe_machine(),
        "trial": {
            key: getattr(options, key)
            for key in ("writers", "cells", "processes", "workers", "restart")
        },
        "errors": dict(errors.most_common(10)),
        "figures": [asdict(one) | {"median": one.median} for one in found],
    }
    options.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def main() -> int:
    """Run it and print the table; see the module for the exit code."""
    parser = open_parser("server_writers", __doc__)
    add = parser.add_argument
    add("--writers", type=int, default=32, help="default: %(default)s")
    add("--cells", type=int, default=50, help="of each writer; default: %(default)s")
    add("--processes", type=int, default=4, help="of writers; default: %(default)s")
    add("--workers", type=int, default=2, help="of the server; default: %(default)s")
    add("--restart", action="store_true", help="kill the server when half of the cells are there")
    add("--runs", type=int, nargs="*", default=[], help="search again among so many runs")
    add("--write", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        uri, answer, *folders = options.write
        be_writers([Path(folder) for folder in folders], uri, Path(answer))
        return 0
    with tempfile.TemporaryDirectory(prefix="greenlab-") as name:
        found = run(options, Path(name))
    title = f"{options.writers} writers of {options.cells} cells, {options.workers} server workers"
    show(title, found)
    return 0 if all(one.is_met for one in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
