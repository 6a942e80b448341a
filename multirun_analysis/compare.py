"""One sweep against another, from the command line, and a gate for CI; commands.py says more."""

import argparse
import json
import math
import sys
from collections.abc import Sequence

import pandas as pd
from pandas import DataFrame

from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.errors import GreenlabError
from multirun_analysis import pairing, stores
from multirun_analysis.commands import ALL, METRICS, NEWEST, PREVIOUS
from multirun_analysis.contrast import (
    COLUMNS,
    MIN_CELLS,
    CellComparison,
    Comparisons,
    Gated,
    compare,
    gate,
    middle,
    plain,
)
from multirun_analysis.pairing import NotComparableError
from multirun_analysis.runs import NothingToShow, Runs, load

__all__ = [
    "Comparisons",
    "compare",
    "earlier_sweep",
    "for_notebook",
    "gate",
    "main",
]


def main(arguments: argparse.Namespace) -> int:
    """Print the comparison; 0: done, 1: B is beyond the gate, 2: it cannot be told, and why."""
    metrics = list(dict.fromkeys(arguments.metric or METRICS))
    try:
        a, b = _load_both(arguments)
        for metric in metrics:
            pairing.check_metric(metric, [*a.columns, *b.columns])
    except GreenlabError as error:
        return _refuse(error)
    done, refused = [], []
    for metric in metrics:
        try:
            done.append(
                compare(a, b, metric, series_a=arguments.series_a, series_b=arguments.series_b)
            )
        except NotComparableError as error:
            refused.append(_refuse(error))
    gated = [gate(each, arguments.gate) for each in done] if arguments.gate else []
    try:
        _print(done, gated)
        _write(done, gated, arguments)
    except OSError as error:
        return _refuse(GreenlabError(f"{error.filename} cannot be written: {error.strerror}"))
    if any(each.worse for each in gated):
        return 1
    undecided = not done or any(not each.is_decidable for each in gated)
    # A metric that was only offered may be refused; one that was asked for, or gated, may not.
    return 2 if undecided or (refused and (arguments.metric or gated)) else 0


def for_notebook(a: DataFrame, b: DataFrame, metric: str) -> Comparisons:
    """Compare; what is refused on the command line is nothing to show in a notebook.

    Raises:
        NothingToShow: the sweeps cannot be compared in this metric.
    """
    try:
        return compare(a, b, metric)
    except NotComparableError as error:
        raise NothingToShow(str(error)) from error


def earlier_sweep(found: Runs) -> str:
    """Name the newest sweep before `found` that shares work with it.

    Raises:
        NothingToShow: there is none, or `found` holds several sweeps.
    """
    if len(found.sweep_names) != 1:
        raise NothingToShow(
            "One sweep is compared with one other. For example: "
            "make analysis SWEEP=after AGAINST=before ANALYSIS=compare"
        )
    known = found.source.sweeps()["sweep"].tolist()
    own = set(found.cells["work"]) - {""}
    for name in known[known.index(found.sweep_names[0]) + 1 :]:
        tags = found.source.runs([name]).tags
        if "greenlab.work" in tags and own & set(tags["greenlab.work"].dropna()):
            return str(name)
    raise NothingToShow(
        "A comparison needs an earlier sweep of the same work. Run the same command again, after "
        "the change that is to be judged, with repetitions=3 both times; or name any sweep with "
        "AGAINST="
    )


def _refuse(error: GreenlabError) -> int:
    print(f"python -m multirun_analysis compare: error: {error}", file=sys.stderr)
    return 2


def _load_both(arguments: argparse.Namespace) -> tuple[DataFrame, DataFrame]:
    """The cells of both sweeps, each with the series that it has by itself.

    Raises:
        GreenlabError: no such store, experiment or sweep, or both are the same.
    """
    uri = tracking.resolve_uri(Mlflow(tracking_uri=arguments.tracking_uri))
    known = stores.open_source(uri, arguments.experiment).sweeps()["sweep"].tolist()
    names = [_sweep(name, known) for name in (arguments.a, arguments.b)]
    if names[0] == names[1]:
        raise GreenlabError(f"A and B are both the sweep {names[0]}: name two sweeps")
    a, b = (load(uri, arguments.experiment, name, arguments.where) for name in names)
    for side, found in (("A", a), ("B", b)):
        for remark in found.remarks:
            print(f"{side}: {remark}", file=sys.stderr)
    return a.cells, b.cells


def _sweep(name: str, known: Sequence[str]) -> str:
    if name == ALL or "," in name:
        raise GreenlabError(f"sweep={name}: one sweep is compared with one other; name it")
    place = {NEWEST: 0, PREVIOUS: 1}.get(name)
    if place is None:
        return name
    if len(known) <= place:
        raise GreenlabError(f"sweep={name}: the experiment has {len(known)} sweeps only")
    return known[place]


def _print(done: Sequence[Comparisons], gated: Sequence[Gated]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from greenlab.terminal import open_console

    console = open_console()
    for at, each in enumerate(done):
        console.print("\n".join(escape(line) for line in each.heading), highlight=False)
        shown = Table(title=escape(each.metric), title_justify="left")
        names = ("cell", "n", "A", "B", "B / A", "95 %", "Welch p", "Holm p", "rank p", "g", "")
        for name in names:
            shown.add_column(name, justify="left" if name in {"cell", ""} else "right")
        for cell in each.cells:
            shown.add_row(*(escape(text) for text in _row(cell)))
        console.print(shown)
        if any(not c.is_repeated and not math.isnan(c.ratio.low) for c in each.cells):
            console.print(
                "* from the uncertainty of single runs: what differs from run to run is not in it."
            )
        console.print(escape(each.summary), highlight=False)
        for line in each.left_out:
            console.print(escape(f"{line}."), highlight=False)
        if gated:
            console.print(escape(_gate_text(each, gated[at])), highlight=False)
        console.print()


def _row(cell: CellComparison) -> list[str]:
    own = "" if cell.is_repeated else "*"
    known = not math.isnan(cell.ratio.low)
    return [
        cell.pair.label,
        f"{len(cell.pair.values_a)}/{len(cell.pair.values_b)}",
        f"{middle(cell.pair.values_a):.4g}",
        f"{middle(cell.pair.values_b):.4g}",
        _number(cell.ratio.value, ".3f"),
        f"{plain(cell.ratio.low)}–{plain(cell.ratio.high)}{own}" if known else "–",
        *(_number(p, ".2g") for p in (cell.p_welch, cell.p_holm, cell.p_rank)),
        _number(cell.hedges_g, "+.1f"),
        cell.verdict,
    ]


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _gate_text(comparisons: Comparisons, gated: Gated) -> str:
    name = f"gate {gated.edge:g}, {comparisons.metric}"
    if gated.worse:
        return f"{name}: FAILED, B is worse. " + "; ".join(gated.worse)
    if gated.num_missing:
        return (
            f"{name}: NOT DECIDABLE. {gated.num_missing} cells of A have no like in B (why is said "
            "above). Measure them, or leave them out with --where"
        )
    if not gated.is_decidable and gated.num_tested:
        return (
            f"{name}: NOT DECIDABLE. All {gated.num_tested} cells with repetitions have intervals "
            "that reach beyond the gate. Measure longer, or with more repetitions"
        )
    if not gated.is_decidable:
        return (
            f"{name}: NOT DECIDABLE. No cell has repetitions in both sweeps, and fewer than "
            f"{MIN_CELLS} cells have a ratio that is known. Measure both again with repetitions=3"
        )
    told = f"{name}: passed, {gated.num_tested} of {len(comparisons.cells)} cells were tested."
    if not gated.num_tested:
        told = f"{name}: passed by all cells together; none was repeated and could be tested alone."
    if gated.num_unsure:
        told += (
            f" The intervals of {gated.num_unsure} reach beyond the gate: they may be worse, and "
            "more repetitions would tell"
        )
    return told


def as_json(comparisons: Comparisons, gated: Gated | None = None) -> dict[str, object]:
    """Everything in words that JSON has: what is not known is null."""
    rows = comparisons.table.astype(object)
    overall = comparisons.overall
    found: dict[str, object] = {
        "metric": comparisons.metric,
        "a": {"sweep": comparisons.name_a, "series": comparisons.series_a},
        "b": {"sweep": comparisons.name_b, "series": comparisons.series_b},
        "differences": list(comparisons.differences),
        "modelled": comparisons.modelled,
        "cells": [
            {str(name): _plain(value) for name, value in row.items()}
            for row in rows.to_dict("records")
        ],
        "overall": {
            "ratio": _plain(overall.value),
            "low": _plain(overall.low),
            "high": _plain(overall.high),
            "num_cells": overall.num,
            "p_wilcoxon": _plain(comparisons.p_wilcoxon),
        },
        "left_out": list(comparisons.left_out),
    }
    if gated:
        found["gate"] = {
            "edge": gated.edge,
            "is_passed": not gated.worse if gated.is_decidable else None,
            "worse": list(gated.worse),
            "num_tested": gated.num_tested,
            "num_unsure": gated.num_unsure,
        }
    return found


def _plain(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(
    done: Sequence[Comparisons], gated: Sequence[Gated], arguments: argparse.Namespace
) -> None:
    if arguments.json:
        pages = [as_json(each, gated[at] if gated else None) for at, each in enumerate(done)]
        arguments.json.write_text(json.dumps(pages, indent=2, ensure_ascii=False) + "\n")
    if arguments.csv:
        tables = [each.table.assign(metric=each.metric) for each in done]
        table = pd.concat(tables) if tables else DataFrame(columns=[*COLUMNS, "metric"])
        table.to_csv(arguments.csv, index=False)
