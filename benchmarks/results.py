"""What every benchmark leaves behind: figures with their units, as a table and as JSON."""

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from greenlab.terminal import open_console


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured figure."""

    name: str
    unit: str
    values: list[float]
    """One per repetition."""
    target: str = ""
    """What it is held against, as `≤ 1` or `≥ 3`; empty where there is none."""

    @property
    def median(self) -> float:
        """Of the repetitions."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the median keeps to the target."""
        sign, _, limit = self.target.partition(" ")
        if not sign:
            return True
        return self.median <= float(limit) if sign == "≤" else self.median >= float(limit)


def open_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark, described by its module, with `--json FILE`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def report(title: str, figures: Sequence[Figure], path: Path | None) -> int:
    """Print them, write them to `path` where there is one; returns 1 where a target is missed."""
    show(title, figures)
    if path is not None:
        write_figures(path, figures)
    return 0 if all(figure.is_met for figure in figures) else 1


def write_figures(path: Path, figures: Sequence[Figure]) -> None:
    """As JSON: one entry per figure, with its median."""
    entries = [asdict(figure) | {"median": figure.median} for figure in figures]
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def read_figures(path: Path) -> list[Figure]:
    """The inverse of `write_figures`; none where there is no such file."""
    entries = json.loads(path.read_text()) if path.exists() else []
    names = Figure.__dataclass_fields__
    return [Figure(**{key: entry[key] for key in names if key in entry}) for entry in entries]


def show(title: str, figures: Sequence[Figure]) -> None:
    """Print a table of them."""
    table = Table(title=title)
    table.add_column("figure")
    for heading in ("median", "least", "most", "n", "target"):
        table.add_column(heading, justify="right")
    table.add_column("unit")
    for one in figures:
        numbers = [f"{value:.4g}" for value in (one.median, min(one.values), max(one.values))]
        missed = "" if one.is_met else " missed"
        table.add_row(one.name, *numbers, str(len(one.values)), one.target + missed, one.unit)
    open_console().print(table)
