"""What a cell costs in grids of 10, 100 and 1,000 cells: composed, checked, landed and told of.

    python -m benchmarks.grid_scale --json grid_scale.json

One small cell is really measured; the others are copies of its record with settings, name and times
of their own. Each grid has a process and an SQLite store to itself. All of its cells but the last
20 are there already when it begins, on disk and, as copied rows, in MLflow: as after a resume. The
last ones go through what a sweep does with a cell, by greenlab's own code: agenda, ticket, landing,
progress line; then the sweep ends with table, ledger and its own run. Exits with 1 where a target
is missed.
"""

import argparse
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from benchmarks.load_runs import clone
from benchmarks.results import Figure, open_parser, report
from greenlab import config as configuration
from greenlab import grid, run, tracking
from greenlab import record as records
from greenlab.config import Config
from greenlab.grid import Combination
from greenlab.multirun import Multirun, signatures
from greenlab.record import Cell, SweepRun

ROOT = Path(__file__).parent.parent
SIZES = (10, 100, 1000)
NUM_LAST = 20
"""Cells of each grid that are landed one by one."""
MODELS = ("lenet", "vgg16", "mobilenet_v2", "resnet18")
FIXED = ("hardware=cpu", "dataset=synthetic", "idle.settle_s=0", "idle.window_s=0.5")
MOST_COMPOSING_S = 5.0
MOST_LANDING_MS = 100.0
MOST_GROWTH = 1.5
"""Of a landing, from the smallest grid to the largest; what is left is the store's own."""


def overrides(num_cells: int) -> list[str]:
    """A grid of so many cells: half of models and sizes, the rest of seeds."""
    models = MODELS[: max(1, min(4, num_cells // 50))]
    sizes = "4,8,16,32,64"
    num_seeds = num_cells // (len(models) * 5)
    return [f"model={','.join(models)}", f"batch_size={sizes}", f"seed=range(0,{num_seeds})"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Of one grid."""

    composing_s: float
    checking_s: float
    launching_ms: list[float]
    """Of each cell, composed once more by Hydra's launcher."""
    landing_ms: list[float]
    cell_ms: list[float]
    """All that greenlab does between two cells."""
    ending_s: float
    peak_bytes: int


def measure(num_cells: int, folder: Path) -> Costs:
    """Go through one grid; `folder` holds a measured cell, `cell`, and takes everything else."""
    os.chdir(folder)
    given = [*FIXED, *overrides(num_cells), f"mlflow.tracking_uri=sqlite:///{folder}/mlflow.db"]
    with grid.open_options(None):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", given, RunMode.MULTIRUN)
        run.start_server([])
        run.preflight([grid.compose_one(FIXED)])  # the server has imported torch; see startup
        began_s = time.monotonic()
        cells = grid.compose_sweep(master)
        composed_s = time.monotonic()
        run.preflight([one.config for one in cells])
        checked_s = time.monotonic()
        launching_ms = []
        for one in cells[-NUM_LAST:]:
            with timed(launching_ms):
                loader.load_sweep_config(master, one.overrides)
    sweep = Sweep(cells, folder)
    sweep.prepare()
    sweep.measure()
    ending_s: list[float] = []
    with timed(ending_s, per_s=1):
        sweep.multirun.end("FINISHED")
    return Costs(
        composing_s=composed_s - began_s,
        checking_s=checked_s - composed_s,
        launching_ms=launching_ms,
        landing_ms=sweep.landing_ms,
        cell_ms=sweep.cell_ms,
        ending_s=ending_s[0],
        peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )


@contextmanager
def timed(taken: list[float], per_s: float = 1000) -> Iterator[None]:
    """Append how long it took."""
    began_s = time.monotonic()
    yield
    taken.append(per_s * (time.monotonic() - began_s))


class Sweep:
    """A multirun whose cells are copies of the one in `folder`/cell."""

    def __init__(self, cells: Sequence[Combination], folder: Path) -> None:
        self._cells, self._source = cells, folder / "cell"
        self._rules = cells[0].config
        self._stored = json.loads((self._source / records.RECORD_FILE).read_bytes())
        self._folder = folder / "multirun"
        self._store = tracking.open_store(self._rules.mlflow)
        begun = SweepRun(
            run_id="",
            name="grid-scale",
            grid="",
            overrides="",
            num_cells=len(cells),
            repetitions="1",
            order="sequential",
            order_seed=0,
            folder=str(self._folder),
            host="",
        )
        self._folder.mkdir()
        self.multirun = Multirun(cells, self._store.begin_sweep(begun), self._folder)
        self._num_jobs = 0
        self.landing_ms: list[float] = []
        self.cell_ms: list[float] = []

    def prepare(self) -> None:
        """Let all cells but the last be there."""
        before = self._cells[:-NUM_LAST]
        if before:
            written = [self._write(one.config, one.overrides) for one in before]
            first = self._store.land(self._folder / written[0].uid)
            copies = clone(Path("mlflow.db"), first, len(before) - 1)
            tags = {
                "greenlab.uid": lambda cell: cell.uid,
                "greenlab.signature": lambda cell: cell.signature,
                "greenlab.cell": lambda cell: configuration.cell_signature(cell.config),
                "greenlab.job": lambda cell: configuration.job_signature(cell.config),
            }
            with sqlite3.connect("mlflow.db") as connection:
                connection.executemany(
                    "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?",
                    [
                        (of(cell), run_id, key)
                        for cell, run_id in zip(written[1:], copies, strict=True)
                        for key, of in tags.items()
                    ],
                )
        finished = self._store.finished_cells("grid-scale")
        self.multirun.skip_measured(
            {k: finished[k] for k in signatures(self._cells) if k in finished}
        )

    def measure(self) -> None:
        """Land the last cells."""
        self._ended_s = time.monotonic()
        self.multirun.measure(self._launch, 1)

    def _launch(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        [lines] = jobs
        [config] = [one.config for one in self._cells if one.overrides == lines]
        run.ticket = self.multirun.tickets[first]
        spent_s = time.monotonic() - self._ended_s
        cell = self._write(config, list(lines))
        folder = self._folder / cell.uid
        began_s = time.monotonic()
        with timed(self.landing_ms):
            run.land(folder, config)
            run.land_others(self._folder, config)
        run.report(records.read_record(folder), alone=False)
        self._ended_s = time.monotonic()
        self.cell_ms.append(1000 * (spent_s + self._ended_s - began_s))
        composed = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
        assert isinstance(composed, DictConfig)
        return [JobReturn(hydra_cfg=composed, _return_value=0.0, status=JobStatus.COMPLETED)]

    def _write(self, config: Config, lines: list[str]) -> Cell:
        """Leave what measuring the cell would have left."""
        self._num_jobs += 1
        started_at_s = self._stored["cell"]["started_at_s"] + self._num_jobs
        changed = {
            "uid": uuid.uuid4().hex,
            "signature": configuration.signature(config),
            "overrides": lines,
            "sweep": "grid-scale",
            "position": self._num_jobs,
            "num_cells": len(self._cells),
            "started_at_s": started_at_s,
            "config": configuration.to_dict(config),
        }
        folder = self._folder / str(changed["uid"])
        shutil.copytree(self._source, folder)
        stored = self._stored | {
            "cell": self._stored["cell"] | changed,
            "ended_at_s": self._stored["ended_at_s"] + self._num_jobs,
        }
        (folder / records.RECORD_FILE).write_text(json.dumps(stored))
        (folder / records.CELL_FILE).write_text(json.dumps(stored["cell"]))
        return records.read_cell(folder)


def measure_cell(folder: Path) -> None:
    """Measure the one cell that the others are copies of."""
    subprocess.run(
        [
            *(sys.executable, "-m", "greenlab", *FIXED, "dataset.num_samples=64"),
            f"hydra.run.dir={folder}",
            f"mlflow.tracking_uri=sqlite:///{folder.parent}/mlflow.db",
        ],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def measure_apart(num_cells: int, source: Path) -> Costs:
    """One grid in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="greenlab-") as name:
        shutil.copytree(source / "cell", Path(name) / "cell")
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.grid_scale", "--grid", str(num_cells), name],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        answer = Path(name) / "costs.json"
        if not answer.exists():
            raise SystemExit(f"the grid of {num_cells} broke off (exit code {done.returncode})")
        return Costs(**json.loads(answer.read_text()))


def figures(costs: dict[int, Costs]) -> list[Figure]:
    """All grids side by side."""
    most, least = costs[max(costs)], costs[min(costs)]
    growth = median(most.cell_ms) / median(least.cell_ms)
    found = []
    for number, one in costs.items():
        is_largest = one is most
        of = f", {number:,} cells"
        found += [
            Figure(
                name=f"composing and checking{of}",
                unit="s",
                values=[one.composing_s + one.checking_s],
                target=f"≤ {MOST_COMPOSING_S:g}" if is_largest else "",
            ),
            Figure(name=f"composing alone{of}", unit="s", values=[one.composing_s]),
            Figure(name=f"composing at launch, a cell{of}", unit="ms", values=one.launching_ms),
            Figure(
                name=f"landing a cell{of}",
                unit="ms",
                values=one.landing_ms,
                target=f"≤ {MOST_LANDING_MS:g}" if is_largest else "",
            ),
            Figure(name=f"between two cells{of}", unit="ms", values=one.cell_ms),
            Figure(name=f"end of the sweep{of}", unit="s", values=[one.ending_s]),
            Figure(name=f"peak memory of the parent{of}", unit="MB", values=[one.peak_bytes / 1e6]),
        ]
    name = f"between two cells, {max(costs):,} cells over {min(costs):,}"
    return [*found, Figure(name=name, unit="", values=[growth], target=f"≤ {MOST_GROWTH:g}")]


def main() -> int:
    """Go through all grids and print the table; see the module for the exit code."""
    parser = open_parser("grid_scale", __doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=SIZES, help="default: 10 100 1000")
    parser.add_argument("--grid", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.grid:
        folder = Path(options.grid[1])
        costs = measure(int(options.grid[0]), folder)
        (folder / "costs.json").write_text(json.dumps(asdict(costs)))
        return 0
    with tempfile.TemporaryDirectory(prefix="greenlab-") as name:
        measure_cell(Path(name) / "cell")
        found = figures({number: measure_apart(number, Path(name)) for number in options.cells})
    return report("Grids by their number of cells", found, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
