"""Verdicts as a page and a terminal show them: as a table, and those alike said once. PURE."""

from collections.abc import Sequence
from dataclasses import replace

from pandas import DataFrame

from multirun_analysis.runs import NothingToShow
from multirun_analysis.verdicts import Advice, Undecided, Verdict

OVER = ("model=", "phase=")
"""Words of a command that several choices may differ in and still be one grid."""


def together(several: Sequence[Undecided]) -> list[Undecided]:
    """Say once what holds of several models and phases, with one command for all of them."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[Undecided]] = {}
    for one in several:
        besides = tuple(word for word in one.command.split() if not word.startswith(OVER))
        groups.setdefault((one.kind, one.reason, besides), []).append(one)
    return [
        replace(
            group[0],
            about="; ".join(one.about for one in group),
            command=_one_command([one.command for one in group]),
        )
        for group in groups.values()
    ]


def _one_command(commands: Sequence[str]) -> str:
    """Commands that differ in model and phase alone, as one grid; it may hold more than theirs."""
    words = []
    for column in zip(*(command.split() for command in commands), strict=True):
        key, _, _ = column[0].partition("=")
        values = dict.fromkeys(word.partition("=")[2] for word in column)
        words.append(f"{key}={','.join(values)}" if column[0].startswith(OVER) else column[0])
    return " ".join(words)


def table(verdicts: Sequence[Verdict], if_none: str) -> DataFrame:
    """A row per verdict, for a page: sentences of advice, or reasons for none.

    Raises:
        NothingToShow: there is none; it says `if_none`.
    """
    if not verdicts:
        raise NothingToShow(if_none)
    rows = [
        {
            "kind": one.kind,
            "text": one.text,
            "best": one.best,
            "within_the_noise": ", ".join(one.peers),
            "against": one.against,
            "saving": one.saving.value,
            "saving_low": one.saving.low,
            "saving_high": one.saving.high,
            "is_modelled": one.is_modelled,
            "run_ids": " ".join(one.run_ids),
        }
        if isinstance(one, Advice)
        else {
            "kind": one.kind,
            "about": one.about,
            "reason": one.reason,
            "decided_by": one.command,
        }
        for one in verdicts
    ]
    return DataFrame(rows)
