"""What a cell costs besides its windows: in a sweep, and started from the command line by itself.

    python -m benchmarks.cell_overhead

Runs the same small cell (LeNet on 512 digits, CPU) as a sweep of `--cells` and as single commands,
one of these after every other cell of the sweep's kind, and reads from the records how long
settling, warm-up, idle and active windows took. What is left of the time from one cell's start to
the next one's, or of a command's whole time, is the fixed cost: forking or importing, building and
profiling the model, evaluating it, drawing and logging the result. Exits with 1 where the sweep's
median exceeds a second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from rich.table import Table

from greenlab import record as records
from greenlab.record import Record
from greenlab.terminal import open_console

ROOT = Path(__file__).parent.parent
CELL = (
    "hardware=cpu",
    "dataset.num_samples=512",
    "idle.settle_s=0",
    "idle.window_s=0.5",
    "order=sequential",
)
VARIABLE = {"settling", "warm_up", "idle", "active"}
"""Stages that are as long as the cell is asked for."""
MOST_S = 1.0
"""Of a cell in a sweep, the median: a grid of a thousand cells then loses a quarter of an hour."""


def run_greenlab(folder: Path, *arguments: str) -> float:
    """Run the command in `folder`; returns how long it took."""
    began_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "greenlab", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "GREENLAB_LOCK_FOLDER": str(folder)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - began_s


def read_cells(folder: Path) -> list[Record]:
    """The records under `folder`, in order of their start."""
    found = [records.read_record(path.parent) for path in folder.rglob("[!a]*/record.json")]
    return sorted(
        (one for one in found if one.account is not None), key=lambda one: one.cell.started_at_s
    )


def windows_s(record: Record) -> float:
    """How long a cell was measured, and prepared to be."""
    assert record.account is not None
    return sum(stage.duration_s for stage in record.account.stages if stage.name in VARIABLE)


def fixed_in_sweep_s(cells: Sequence[Record]) -> list[float]:
    """From each cell's start to the next one's, less its windows."""
    return [
        after.cell.started_at_s - cell.cell.started_at_s - windows_s(cell)
        for cell, after in pairwise(cells)
    ]


def main() -> int:
    """Measure both and print the table; see the module for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cell_overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cells", type=int, default=11, help="in the sweep; default: 11")
    parser.add_argument("--commands", type=int, default=4, help="cells run alone; default: 4")
    options = parser.parse_args()
    sweep_s: list[float] = []
    alone_s: list[float] = []
    with tempfile.TemporaryDirectory(prefix="greenlab-") as name:
        for number in range(2):  # by turns: what drifts meets both
            swept = Path(name) / f"sweep{number}"
            swept.mkdir()
            run_greenlab(swept, "-m", *CELL, f"repetitions={options.cells // 2 + 1}")
            sweep_s += fixed_in_sweep_s(read_cells(swept / "multirun"))
            for place in range(options.commands // 2):
                alone = Path(name) / f"alone{number}{place}"
                alone.mkdir()
                took_s = run_greenlab(
                    alone, *CELL, f"mlflow.tracking_uri=sqlite:///{swept}/mlflow.db"
                )
                [cell] = read_cells(alone / "outputs")
                alone_s.append(took_s - windows_s(cell))
    table = Table(title="Fixed cost of a cell: all but settling, warm-up, idle and active windows")
    for heading in ("how", "n", "median [s]", "least [s]", "most [s]"):
        table.add_column(heading, justify="left" if heading == "how" else "right")
    for how, taken_s in (("in a sweep", sweep_s), ("a command of its own", alone_s)):
        numbers = [f"{value:.2f}" for value in (median(taken_s), min(taken_s), max(taken_s))]
        table.add_row(how, str(len(taken_s)), *numbers)
    open_console().print(table)
    return 0 if median(sweep_s) <= MOST_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
