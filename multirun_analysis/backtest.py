"""Predictions of profiles held against the full runs that they speak of; commands.py says more."""

import argparse
import json
import math
import sys
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from pandas import DataFrame

from greenlab.errors import GreenlabError
from greenlab.metrics import two_digits
from multirun_analysis import hits, predictions, runs

if TYPE_CHECKING:
    from rich.table import Table

TABLES = {
    "overall": "All pairs",
    "by_phase": "By phase",
    "by_model": "By model",
    "by_length": "Had the profiles had fewer stretches",
}
BRIEF = ("by_model", "by_length")
"""Printed without gross energy, which the JSON has."""
BY = {"by_phase": ["phase"], "by_model": ["model"]}
LABELS = {"phase": "phase", "model": "model", "max_stretches": "at most"}


def main(arguments: argparse.Namespace) -> int:
    """Print the scores; 0: done, 2: there is no pair, and what would make one.

    Raises:
        GreenlabError: no such store, experiment or sweep, or a record that cannot be read.
    """
    loaded = runs.load(arguments.tracking_uri, arguments.experiment, arguments.sweep)
    pairs = predictions.read_pairs(loaded, arguments.where)
    if pairs.empty:
        raise GreenlabError(predictions.what_is_missing(loaded, arguments.where))
    if arguments.csv:
        try:
            pairs.to_csv(arguments.csv, index=False)
        except OSError as error:
            raise GreenlabError(f"{error.filename} cannot be written: {error.strerror}") from error
    tables = score(pairs)
    if arguments.json:
        told: dict[str, object] = {"experiment": loaded.experiment, "heading": heading(pairs)}
        told |= {name: _as_json(table) for name, table in tables.items()}
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    for remark in _remarks(pairs, loaded):
        print(remark, file=sys.stderr)
    _print(pairs, tables)
    return 0


def score(pairs: DataFrame) -> dict[str, DataFrame]:
    """The tables that are printed, by name."""
    once = hits.whole(pairs)
    return {
        "overall": hits.scores(once),
        **{name: hits.scores(once, by) for name, by in BY.items()},
        "by_length": hits.scores_by_length(pairs),
    }


def heading(pairs: DataFrame) -> dict[str, str]:
    """By series: how many pairs there are, and how short their profiles were."""
    told = {}
    for series, own in hits.whole(pairs).groupby("series", sort=False):
        share = own["share_percent"]
        told[str(series)] = (
            f"{series}: {len(own)} full runs held against {own['profile_id'].nunique()} profiles, "
            f"whose stretches of that kind took {own['profile_s'].mean():.2g} s on average: "
            f"{two_digits(share.mean())} % of the run ({two_digits(share.min())} to "
            f"{two_digits(share.max())} %)."
        )
    return told


def _remarks(pairs: DataFrame, loaded: runs.Runs) -> list[str]:
    """What was left out, and why."""
    others = loaded.left_out[loaded.left_out["reason"] != runs.PROFILES]
    told = [
        f"{len(group):,} cells left out, {reason}."
        for reason, group in others.groupby("reason", sort=False)
    ]
    if alone := len(loaded.cells) - pairs["run_id"].nunique():
        told.append(f"{alone:,} cells have no profile of their job here, or --where leaves them.")
    idle = len(loaded.left_out) - len(others) - pairs["profile_id"].nunique()
    if idle:
        told.append(f"{idle:,} profiles have no full run here, or a newer one was taken.")
    return told


def _print(pairs: DataFrame, tables: dict[str, DataFrame]) -> None:
    from rich.markup import escape

    from greenlab.terminal import open_console

    console = open_console()
    for series, line in heading(pairs).items():
        console.print(escape(line), highlight=False)
        for name, title in TABLES.items():
            own = tables[name][tables[name]["series"] == series]
            if name in BRIEF:
                own = own[own["quantity"] != "gross"]
            console.print(_table(title, own))
    console.print(
        "inside 95 %: truths in their prediction interval, with Wilson's interval of that share; "
        "MAPE: mean absolute error; bias: mean error, above zero where too much was predicted; "
        "interval: mean half-width; all in percent of the truth. Share: the profile's of the run.",
        highlight=False,
    )


def _table(title: str, scored: DataFrame) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    keys = [column for column in LABELS if column in scored]
    names = [LABELS[key] for key in keys]
    names += ["of", "pairs", "inside 95 %", "MAPE", "bias", "largest", "interval", "share"]
    for column in names:
        is_text = column in {"model", "phase", "of"}
        shown.add_column(column, justify="left" if is_text else "right")
    for row in scored.to_dict("records"):
        shown.add_row(*(escape(str(row[key])) for key in keys), *_row(row))
    return shown


def _row(row: Mapping[Hashable, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        return format(row[name], form)

    inside, low, high = (100 * row[f"inside_{end}fraction"] for end in ("", "low_", "high_"))
    return [
        ("~" if row["is_modelled"] else "") + hits.WORDS[row["quantity"]],
        str(row["num_pairs"]),
        f"{inside:.0f} % ({low:.0f}–{high:.0f})",
        number("mean_abs_error_percent", ".1f") + " %",
        number("mean_error_percent", "+.1f") + " %",
        number("largest_error_percent", "+.1f") + " %",
        "± " + number("mean_half_width_percent", ".1f") + " %",
        two_digits(row["share_percent"]) + " %",
    ]


def _as_json(table: DataFrame) -> list[dict[str, object]]:
    """Rows in words that JSON has: what is not known is null."""
    return [
        {
            str(name): None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in table.astype(object).to_dict("records")
    ]
