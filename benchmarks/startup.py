"""What a user waits for before anything is measured: help, and options that are refused.

    python -m benchmarks.startup

Starts every command by turns and reads how long it took, by the clock and in CPU seconds, its
children's included. Another start of each, under `-X importtime`, counts the modules that it
imports; torch, MLflow and pandas are hundreds each. Exits with 1 where a median is over a second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from greenlab.environment import describe_environment
from greenlab.terminal import open_console

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


def to_rows(name: str, starts: Sequence[Start], num_modules: int) -> list[dict[str, object]]:
    """For a program: every quantity of a command, with its unit and all values."""
    quantities = {
        "wall": ("s", [start.wall_s for start in starts]),
        "cpu": ("s", [start.cpu_s for start in starts]),
        "modules": ("1", [num_modules]),
    }
    return [
        {"name": f"{name}: {what}", "unit": unit, "median": median(values), "values": values}
        for what, (unit, values) in quantities.items()
    ]


def main() -> int:
    """Measure and print the table; see the module for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.startup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--starts", type=int, default=7, help="of each command; default: 7")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every value there too")
    options = parser.parse_args()
    modules = {command: count_modules(command) for command in COMMANDS}  # and files are in memory
    starts: dict[str, list[Start]] = {command: [] for command in COMMANDS}
    for _ in range(options.starts):  # by turns: what drifts meets all
        for command in COMMANDS:
            starts[command].append(measure(command))
    table = Table(title=f"From start to end, medians of {options.starts}", title_justify="left")
    for heading in ("command", "wall [s]", "CPU [s]", "most wall [s]", "modules"):
        table.add_column(heading, justify="left" if heading == "command" else "right")
    for command, taken in starts.items():
        wall_s, cpu_s = median(s.wall_s for s in taken), median(s.cpu_s for s in taken)
        most_s = max(s.wall_s for s in taken)
        numbers = (f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{most_s:.2f}", str(modules[command]))
        table.add_row(f"python -m {command}", *numbers)
    open_console().print(table)
    if options.json:
        place = describe_environment()
        machine = f"{place.cpu_name}, {place.num_logical_cpus} logical CPUs, {place.platform}"
        rows = [
            row | {"machine": machine}
            for command, taken in starts.items()
            for row in to_rows(command, taken, modules[command])
        ]
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    slowest_s = max(median(s.wall_s for s in taken) for taken in starts.values())
    return 0 if slowest_s <= MOST_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
