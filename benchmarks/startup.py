"""What a user waits for before anything is measured: help, and options that are refused.

    python -m benchmarks.startup

Starts every command by turns and reads how long it took, by the clock and in CPU seconds, its
children's included. Another start of each, under `-X importtime`, counts the modules that it
imports; torch, MLflow and pandas are hundreds each. Exits with 1 where a median is over a second.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Figure, open_parser, report

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "greenlab --help",
    "greenlab batch_size=7x",
    "greenlab nope=1",
    "greenlab seed=x",
    "greenlab idle.window_s=-1",
    "greenlab -m model=glob(*) batch_size=3 nope=1",
    "greenlab -m batch_size=3,4 idle.window_s=3,-1",
    "greenlab.doctor --help",
    "greenlab.sync --help",
    "greenlab.backtest --help",
    "greenlab.advise --help",
    "greenlab.estimate --help",
    "greenlab.models --help",
    "greenlab.selftest --help",
    "greenlab.ui --help",
    "multirun_analysis --help",
)
MOST_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """One start of a command, to its end."""

    wall_s: float
    cpu_s: float


def open_command(command: str, *options: str, stderr: int) -> subprocess.Popen[str]:
    """Start `command`, where there is nothing of a user's own."""
    return subprocess.Popen(
        [sys.executable, *options, "-m", *command.split()],
        cwd=tempfile.gettempdir(),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
    )


def measure(command: str) -> Start:
    """Wait for one start to end."""
    began_s = time.monotonic()
    process = open_command(command, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    took_s = time.monotonic() - began_s
    process.returncode = 0  # it has been waited for
    return Start(wall_s=took_s, cpu_s=usage.ru_utime + usage.ru_stime)


def count_modules(command: str) -> int:
    """How many modules a start imports."""
    process = open_command(command, "-X", "importtime", stderr=subprocess.PIPE)
    _, told = process.communicate()
    return sum(line.startswith("import time:") for line in told.splitlines()) - 1  # the heading


def to_figures(command: str, starts: Sequence[Start], num_modules: int) -> list[Figure]:
    """Clock, CPU and modules of a command."""
    wall_s, cpu_s = [one.wall_s for one in starts], [one.cpu_s for one in starts]
    name = f"python -m {command}"
    return [
        Figure(name=name, unit="s", values=wall_s, target=f"≤ {MOST_S:g}"),
        Figure(name=name, unit="CPU s", values=cpu_s),
        Figure(name=name, unit="modules", values=[num_modules]),
    ]


def main() -> int:
    """Measure and print the table; see the module for the exit code."""
    parser = open_parser("startup", __doc__)
    parser.add_argument("--starts", type=int, default=7, help="of each command; default: 7")
    options = parser.parse_args()
    modules = {command: count_modules(command) for command in COMMANDS}  # and files are in memory
    starts: dict[str, list[Start]] = {command: [] for command in COMMANDS}
    for _ in range(options.starts):  # by turns: what drifts meets all
        for command in COMMANDS:
            starts[command].append(measure(command))
    figures = [
        figure
        for command, taken in starts.items()
        for figure in to_figures(command, taken, modules[command])
    ]
    return report("From start to end", figures, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
