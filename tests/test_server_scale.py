"""docs/scale.md says what was measured, and what follows from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from benchmarks import server_scale

DOCS = (ROOT / "docs" / "scale.md").read_text()
FILES = sorted((ROOT / "docs" / "results").glob("server_writers*.json"))
Figures = dict[str, dict[str, Any]]


def figure(median: float, unit: str = "") -> dict[str, Any]:
    return {"median": median, "unit": unit, "values": [median]}


# 1,000 nodes, a cell in ten minutes: 1000 / 600 = 1.67 landings a second. At 0.3 s and 0.06 s of
# CPU those take half a core and a tenth; 12 commits each are 20 a second; of 5 landings a third.
def test_the_load_is_the_rate_times_what_one_cell_takes() -> None:
    figures = {
        "cells per second": figure(5),
        "CPU of server, a cell": figure(0.3),
        "CPU of PostgreSQL, a cell": figure(0.06),
        "commits, a cell": figure(12),
    }
    [row] = [line for line in server_scale.load(figures).splitlines() if "10 min" in line]

    assert row == "| 10 min | 1.67 | 0.5 | 0.1 | 20 | 0.33 |"


# 400 rows of 100 kB in all: 400 million rows, and 100 GB.
def test_the_size_is_a_million_times_that_of_one_cell() -> None:
    figures: Figures = {"PostgreSQL, a cell": figure(120), "artefacts, a cell": figure(30)}
    for table in server_scale.TABLES:
        figures[f"rows of {table}, a cell"] = figure(400)
        figures[f"bytes of {table}, a cell"] = figure(100)

    assert "| `metrics` | 400 | 400 million | 100 | 100 |" in server_scale.size(figures)
    assert "| artefacts |  |  | 30 | 30 |" in server_scale.size(figures)


@pytest.mark.parametrize(
    "make",
    [server_scale.measured, server_scale.load, server_scale.size, server_scale.searches],
    ids=lambda make: make.__name__,
)
def test_the_tables_are_those_of_the_measured_figures(make: Callable[[Figures], str]) -> None:
    [path] = [path for path in FILES if "restart" not in path.name]

    assert make(server_scale.read(path)) in DOCS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_cell_was_lost_and_the_page_names_the_trial(path: Path) -> None:
    figures = server_scale.read(path)

    for fault in ("lost", "twice", "incomplete", "artefacts missing or altered"):
        assert figures[fault]["median"] == 0
    assert f"results/{path.name}" in DOCS
    trial = json.loads(path.read_text())["trial"]
    assert f"{trial['writers']} writers" in DOCS
    assert f"{trial['writers'] * trial['cells']:,}" in DOCS
