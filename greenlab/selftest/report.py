"""What the self-test prints: its cases as they are measured, or how often intervals hold."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from greenlab.metrics import two_digits
from greenlab.selftest.cases import CASES, LONG_S, MAX_ERROR_PERCENT, Case
from greenlab.selftest.coverage import MAX_COVERAGE, MIN_COVERAGE, Interval, simulate_cells
from greenlab.selftest.measuring import Result, measure_cases
from greenlab.terminal import open_console
from greenlab.uncertainty import CONFIDENCE, NORMAL_95


def hold(cases: Sequence[Case], *, as_json: bool) -> int:
    """Measure the cases and print what came of them; 0 where all hold, else 1."""
    began_s = time.monotonic()
    found = {result.name: result for result in _watched(measure_cases(cases), len(cases))}
    results = [found[case.name] for case in CASES if case.name in found]
    took_s = time.monotonic() - began_s
    if as_json:
        print(json.dumps([_to_json(result) for result in results], indent=2))
    else:
        console = open_console()
        console.print(_table(results))
        for line in _summary(results, took_s):
            console.print(line, highlight=False, soft_wrap=True)
    return 0 if all(result.holds for result in results) else 1


def _watched(results: Iterable[Result], num: int) -> Iterator[Result]:
    """Show on a terminal how far it is."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = open_console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"0 of {num} cases", total=num)
        for done, result in enumerate(results, start=1):
            bar.update(task, advance=1, description=f"{done} of {num} cases")
            yield result


def _table(results: Sequence[Result]) -> Table:
    table = Table(title="Net energy, held against known watts", title_justify="left")
    table.add_column("case", overflow="fold")
    for column in ("true J", "measured J", "error %", "± J (95 %)", "truth inside"):
        table.add_column(column, justify="right")
    table.add_column("verdict", overflow="fold")
    table.add_column("result")
    for one in results:
        inside = {None: "–", True: "yes", False: "no"}[one.is_inside]
        tries = f" (try {one.num_tries})" if one.num_tries > 1 else ""
        table.add_row(
            one.name,
            _number(one.true_j, ",.2f"),
            _number(one.measured_j, ",.2f"),
            _number(one.error_percent, "+.2f"),
            "–" if one.u95_j is None else two_digits(one.u95_j),
            inside,
            one.verdict + tries,
            "[green]holds[/]" if one.holds else "[red]FAILS[/]",
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _summary(results: Sequence[Result], took_s: float) -> Iterator[str]:
    holding = sum(one.holds for one in results)
    yield (
        f"{holding} of {len(results)} cases hold, in {took_s:.0f} s. Passes of {LONG_S:g} s and "
        f"more must be right to {MAX_ERROR_PERCENT:g} %, shorter ones within their 95 % interval, "
        "each component by itself."
    )
    if any(one.num_tries > 1 for one in results):
        yield (
            "A case that did not hold was measured again, alone: a 95 % interval misses once in "
            "twenty times, and a busy machine delays the simulated counters."
        )
    if holding < len(results):
        yield "Do not publish what this greenlab measures here. Try again on a quiet machine first."


def _to_json(one: Result) -> dict[str, object]:
    return {
        "case": one.name,
        "true_j": one.true_j,
        "measured_j": one.measured_j,
        "error_percent": one.error_percent,
        "u95_j": one.u95_j,
        "truth_inside": one.is_inside,
        "verdict": one.verdict,
        "num_tries": one.num_tries,
        "holds": one.holds,
    }


def cover(num_cells: int, *, as_json: bool) -> int:
    """Print how often intervals hold the truth, over made-up cells; 0 where as often as stated."""
    intervals: dict[str, list[Interval]] = {}
    for cell in simulate_cells(num_cells):
        for name, interval in cell.items():
            intervals.setdefault(name, []).append(interval)
    shares = {name: sum(i.holds for i in found) / num_cells for name, found in intervals.items()}
    # Of few cells, chance alone takes the share further away than it does of many.
    chance = NORMAL_95 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / num_cells)
    low = min(MIN_COVERAGE, CONFIDENCE - chance)
    high = min(1.0, max(MAX_COVERAGE, CONFIDENCE + chance))
    right = low <= shares["total"] <= high
    if as_json:
        print(json.dumps({"num_cells": num_cells, "coverage": shares, "holds": right}, indent=2))
    else:
        console = open_console()
        for name, share in shares.items():
            sizes = sorted(i.u95_j / i.true_j for i in intervals[name])
            console.print(
                f"{name:<6} the truth is inside {share:.1%} of {num_cells} intervals of 95 %; "
                f"median half-width {sizes[len(sizes) // 2]:.2%} of the truth",
                highlight=False,
            )
        console.print(
            f"The total {'is within' if right else '[red]is NOT within[/]'} {low:.1%} to "
            f"{high:.1%}.",
            highlight=False,
        )
    return 0 if right else 1
