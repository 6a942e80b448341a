"""What a thousand nodes of a thousand cells cost one server, on paper.

    python -m benchmarks.server_scale docs/results/server_writers-vm-74f9cd.json

Reckons with what benchmarks.server_writers has measured for one cell, and prints the tables that
stand in docs/scale.md.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_NODES = 1000
NUM_CELLS = 1_000_000
CELL_MINUTES = (1, 10, 60)
"""How long a cell takes a node, from one landing to the next."""
TABLES = ("runs", "params", "tags", "latest_metrics", "metrics")
MEASURED = (
    *("cells per second", "a landing", "a landing, 95th percentile", "CPU of server, a cell"),
    *("CPU of PostgreSQL, a cell", "commits, a cell", "connections of PostgreSQL, most"),
    *("PostgreSQL, a cell", "artefacts, a cell"),
)


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The figures of a trial by name."""
    return {one["name"]: one for one in json.loads(path.read_text())["figures"]}


def measured(figures: dict[str, dict[str, Any]]) -> str:
    """What one cell took."""
    rows = [(name, f"{figures[name]['median']:.3g} {figures[name]['unit']}") for name in MEASURED]
    return _table(["figure", "measured"], rows)


def load(figures: dict[str, dict[str, Any]]) -> str:
    """What the server has to do while all nodes measure."""
    head = ["a cell takes", "landings per s", "cores for the server", "cores for PostgreSQL"]
    rows = []
    for minutes in CELL_MINUTES:
        per_s = NUM_NODES / (60 * minutes)
        share = per_s / figures["cells per second"]["median"]
        cores = [
            per_s * figures[f"CPU of {who}, a cell"]["median"] for who in ("server", "PostgreSQL")
        ]
        commits = per_s * figures["commits, a cell"]["median"]
        rows.append(
            (
                f"{minutes} min",
                f"{per_s:.3g}",
                *(f"{number:.2g}" for number in cores),
                f"{commits:.3g}",
                f"{share:.2g}",
            )
        )
    return _table([*head, "commits per s", "of what was measured"], rows)


def size(figures: dict[str, dict[str, Any]]) -> str:
    """What lies there in the end."""
    rows = []
    for table in TABLES:
        per_cell = figures[f"rows of {table}, a cell"]["median"]
        kilobytes = figures[f"bytes of {table}, a cell"]["median"]
        rows.append((f"`{table}`", *_amounts(per_cell, kilobytes)))
    kilobytes = figures["PostgreSQL, a cell"]["median"]
    rows.append(("all of PostgreSQL", "", "", *_bytes(kilobytes)))
    rows.append(("artefacts", "", "", *_bytes(figures["artefacts, a cell"]["median"])))
    head = ["", "rows of a cell", "rows of a million", "kB of a cell", "GB of a million"]
    return _table(head, rows)


def _amounts(per_cell: float, kilobytes: float) -> tuple[str, ...]:
    millions = per_cell * NUM_CELLS / 1e6
    return f"{per_cell:,.0f}", f"{millions:,.0f} million", *_bytes(kilobytes)


def _bytes(kilobytes: float) -> tuple[str, str]:
    return f"{kilobytes:.3g}", f"{kilobytes * 1e3 * NUM_CELLS / 1e9:.3g}"


def searches(figures: dict[str, dict[str, Any]]) -> str:
    """What a search took among more and more runs."""
    found: dict[str, dict[str, float]] = {}
    for name, one in figures.items():
        kind, among, number = name.partition(", among ")
        if among:
            found.setdefault(kind, {})[number] = statistics.median(one["values"])
    sizes = list(dict.fromkeys(number for kinds in found.values() for number in kinds))
    rows = [
        (kind, *(f"{taken[number]:.2g} s" if number in taken else "" for number in sizes))
        for kind, taken in found.items()
    ]
    return _table(["search", *sizes], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server_scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("figures", type=Path, help="what --json of server_writers has written")
    figures = read(parser.parse_args().figures)
    print("\n\n".join(make(figures) for make in (measured, load, size, searches)))


if __name__ == "__main__":
    main()
