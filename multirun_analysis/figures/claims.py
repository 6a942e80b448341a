"""The ledger as a picture: each claim's interval against the range that the claim means."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from multirun_analysis import style
from multirun_analysis.claims import CONFIRMED, CONTRADICTED, NOT_DECIDABLE, Claim, Finding
from multirun_analysis.figures import parts

RANGE_COLOUR = "#DDEBF4"
LINE_IN, AXIS_IN = 0.2, 0.3
"""Height of one finding, and of the numbers below a claim's strip."""
LEFT_IN, RIGHT_IN, HEAD_IN, FOOT_IN = 3.0, 1.6, 0.5, 0.3
_TEXT_WIDTH = 37
_SMALL_PT = 7.5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sign:
    """How a verdict is drawn: told apart by colour and by shape."""

    colour: str
    marker: str
    filled: bool


SIGNS = {
    CONFIRMED: _Sign(colour="#007A59", marker="o", filled=True),
    CONTRADICTED: _Sign(colour="#C24A00", marker="X", filled=True),
    NOT_DECIDABLE: _Sign(colour="#4D4D4D", marker="D", filled=False),
}


def ledger(
    cells: pd.DataFrame, findings: Sequence[Finding], paper: Sequence[Finding] = ()
) -> Figure:
    """A strip per claim, a line per phase and series; the paper's own machine below it in grey.

    Raises:
        NothingToShow: there are no findings.
    """
    if not findings:
        raise parts.nothing("Claims are tried on finished cells of training and inference.")
    style.use()
    claims = list({finding.claim.id: finding.claim for finding in findings}.values())
    lines = {claim.id: [one for one in findings if one.claim.id == claim.id] for claim in claims}
    heights = [max(LINE_IN * len(lines[claim.id]), 0.3) for claim in claims]
    series = list(dict.fromkeys(finding.series for finding in findings))
    head_in = HEAD_IN + 0.16 * (len(series) if len(series) > 1 else 0)
    total_in = head_in + FOOT_IN + sum(heights) + AXIS_IN * len(claims)
    drawn = Figure(figsize=(style.WIDTH_IN, total_in))
    FigureCanvasAgg(drawn)
    marks = _marks(series)
    top_in = total_in - head_in
    for claim, height_in in zip(claims, heights, strict=True):
        axes = drawn.add_axes(
            (
                LEFT_IN / style.WIDTH_IN,
                (top_in - height_in) / total_in,
                1 - (LEFT_IN + RIGHT_IN) / style.WIDTH_IN,
                height_in / total_in,
            )
        )
        _draw_claim(axes, claim, lines[claim.id], marks, [p for p in paper if p.claim is claim])
        top_in -= height_in + AXIS_IN
    _legend(drawn, marks, with_paper=bool(paper))
    style.mark_modelled(drawn, cells)
    return drawn


def _marks(series: Sequence[str]) -> dict[str, str]:
    """A letter for each series where there are several."""
    if len(series) == 1:
        return {series[0]: ""}
    return {name: chr(ord("a") + at) for at, name in enumerate(series)}


def _draw_claim(
    axes: Axes,
    claim: Claim,
    findings: Sequence[Finding],
    marks: dict[str, str],
    paper: Sequence[Finding],
) -> None:
    low, high = _limits(claim, [*findings, *paper])
    axes.set_xlim(low, high)
    axes.set_ylim(len(findings) - 0.5, -0.5)
    axes.axvspan(max(claim.low, low), min(claim.high, high), color=RANGE_COLOUR, linewidth=0)
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(axis="x", labelsize=7, length=2, pad=1)
    axes.set_yticks(
        range(len(findings)),
        [_line_label(finding, marks[finding.series]) for finding in findings],
        fontsize=_SMALL_PT,
    )
    axes.tick_params(axis="y", length=0)
    axes.annotate(
        "\n".join(textwrap.wrap(f"{claim.claim} ({claim.section})", _TEXT_WIDTH)),
        (0, 0.5),
        xycoords=("figure fraction", "axes fraction"),
        xytext=(2, 0),
        textcoords="offset points",
        va="center",
        fontsize=_SMALL_PT,
    )
    for at, finding in enumerate(findings):
        _draw_finding(axes, at, finding)
    for at, phase in enumerate(claim.phases):  # once, below the first series
        for printed in paper:
            if printed.phase == phase and math.isfinite(printed.estimate.value):
                _draw_paper(axes, at + 0.36, printed)


def _limits(claim: Claim, findings: Sequence[Finding]) -> tuple[float, float]:
    """Wide enough for every interval and for the edges of the claimed range, with some room."""
    ends = [claim.low, claim.high]
    for finding in findings:
        ends += [finding.estimate.value, finding.estimate.low, finding.estimate.high]
    known = [end for end in ends if math.isfinite(end)]
    if not any(math.isfinite(finding.estimate.value) for finding in findings):
        known += [0.0, 1.0 if claim.is_correlation else 2 * max(known)]  # what it could have been
    room = 0.2 * (max(known) - min(known)) or 0.2 * abs(known[0]) or 0.2
    low, high = min(known) - room, max(known) + room
    if claim.is_correlation:
        low, high = max(low, -1.02), min(max(high, 1.0), 1.0 + 0.02 * (1.0 - low))
    return low, high


def _line_label(finding: Finding, mark: str) -> str:
    phase = style.phase_name(finding.phase) if finding.phase else "both"
    return f"{phase} {mark}".rstrip()


def _draw_finding(axes: Axes, at: int, finding: Finding) -> None:
    sign, estimate = SIGNS[finding.verdict], finding.estimate
    told = finding.verdict
    if math.isfinite(estimate.value):
        if math.isfinite(estimate.low + estimate.high):
            axes.plot([estimate.low, estimate.high], [at, at], color=sign.colour, linewidth=2.2)
        axes.plot(
            [estimate.value],
            [at],
            marker=sign.marker,
            color=sign.colour,
            markerfacecolor=sign.colour if sign.filled else "white",
            markersize=6,
            linestyle="none",
            zorder=4,
        )
        told += f"  {estimate.value:.3g}"
    else:
        axes.text(
            0.5,
            at,
            _why(finding),
            transform=axes.get_yaxis_transform(),
            ha="center",
            va="center",
            fontsize=7,
            color="#555555",
            style="italic",
            zorder=5,
        )
    axes.annotate(
        told,
        (1, at),
        xycoords=("axes fraction", "data"),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=_SMALL_PT,
        color=sign.colour,
        fontweight="normal" if finding.verdict == NOT_DECIDABLE else "bold",
    )


def _why(finding: Finding) -> str:
    """A reason short enough for a strip; the table has it in full."""
    if "by construction" in finding.reason:
        return "energy is ~modelled"
    return textwrap.shorten(finding.reason, 50, placeholder=" …")


def _draw_paper(axes: Axes, at: float, printed: Finding) -> None:
    estimate = printed.estimate
    axes.plot([estimate.low, estimate.high], [at, at], color="#9A9A9A", linewidth=1.0)
    axes.plot([estimate.value], [at], marker="x", color="#7F7F7F", markersize=4, linestyle="none")


def _legend(drawn: Figure, marks: dict[str, str], *, with_paper: bool) -> None:
    handles: list[Line2D | Patch] = [
        Line2D(
            [],
            [],
            color=sign.colour,
            marker=sign.marker,
            markerfacecolor=sign.colour if sign.filled else "white",
            linewidth=2.2,
            label=verdict,
        )
        for verdict, sign in SIGNS.items()
    ]
    handles.append(Patch(facecolor=RANGE_COLOUR, label="what the claim means"))
    if with_paper:
        grey = Line2D([], [], color="#9A9A9A", marker="x", linewidth=1.0, markersize=4)
        grey.set_label("the paper's HC-3")
        handles.append(grey)
    drawn.legend(handles=handles, loc="upper center", ncols=len(handles), columnspacing=1.2)
    if len(marks) > 1:
        named = "\n".join(f"{mark}: {series}" for series, mark in marks.items())
        height_in = drawn.get_size_inches()[1]
        drawn.text(0.02, 1 - 0.32 / height_in, named, va="top", fontsize=_SMALL_PT)
