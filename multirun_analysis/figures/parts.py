"""What several figures are made of: choosing cells, tables by model, legends, names at points."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from multirun_analysis import runs, style
from multirun_analysis.statistics import Estimate

Floats = npt.NDArray[np.float64]

SWEEP_OF_MODELS = "python -m greenlab -m 'model=glob(*)' phase=train,inference"
"""Runs that most figures can be drawn from."""
LEGEND_WIDTH = 110
"""Of a figure, in characters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Texts to be written beside points, in data coordinates of their panel."""

    axes: Axes
    x: Floats
    y: Floats
    texts: Sequence[str]


def nothing(why: str, command: str = SWEEP_OF_MODELS) -> runs.NothingToShow:
    """What to raise where a figure cannot be drawn; `why` ends with what runs it would need."""
    return runs.NothingToShow(f"{why} For example: {command}")


def choose(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """One batch size per series, the paper's own cells beside them where given."""
    one = runs.at_one_batch_size(cells) if len(cells) else cells
    if paper is None or cells.empty:
        return one
    return pd.concat([one, paper], ignore_index=True)


def by_model(
    cells: pd.DataFrame, metric: str, series: str, phase: str, order: Sequence[str]
) -> pd.DataFrame:
    """Repetitions summarised: index `order` (models), columns value, low, high, num; absent NaN.

    Intervals are those in which the models of one series may differ.
    """
    own = cells[(cells["series"] == series) & (cells["phase"] == phase)]
    summary = (
        runs.summarise(runs.without_common_error(own), metric)
        .drop_duplicates("model")
        .set_index("model")
    )
    return summary.reindex(list(order))[["value", "low", "high", "num"]].astype(float)


def error_lengths(summary: pd.DataFrame) -> Floats:
    """For matplotlib's errorbar: shape (2, models); NaN, and no bar, where no interval is known."""
    below, above = summary["value"] - summary["low"], summary["high"] - summary["value"]
    return np.array([below, above], dtype=float)


def batch_label(cells: pd.DataFrame, series: str) -> str:
    """A series' label with the batch size that was chosen of it."""
    sizes = cells.loc[cells["series"] == series, "batch_size"].dropna().unique()
    return f"{series}, batch size {sizes[0]:g}" if len(sizes) == 1 else series


def phase_handles(cells: pd.DataFrame) -> list[Line2D]:
    """Legend entries for filled and hollow markers, where `cells` have both phases."""
    fills = (("train", style.DARK), ("inference", "white"))
    if not {"train", "inference"} <= set(cells["phase"]):
        return []
    return [
        Line2D(
            [],
            [],
            color=style.DARK,
            marker="o",
            markerfacecolor=colour,
            linestyle="none",
            label=style.phase_name(phase),
        )
        for phase, colour in fills
    ]


def legend_of_series(
    figure: Figure, cells: pd.DataFrame, *more: Line2D, of_reference: str = ""
) -> None:
    """Name the series above the panels, then `more`; `of_reference` is added to the paper's."""
    looks = style.looks(cells["series"])
    handles = [
        Line2D(
            [],
            [],
            color=look.colour,
            marker=look.marker,
            linestyle="none",
            label=wrapped(
                batch_label(cells, series)
                + (of_reference if series.startswith(style.REFERENCE) else ""),
                95,
            ),
        )
        for series, look in looks.items()
    ]
    legend_above(figure, [*handles, *more])


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend over all panels: in one row, or in as many columns as its longest label allows."""
    labels = [str(handle.get_label()) for handle in handles]
    lengths = [6 + max(map(len, text.split("\n"))) for text in labels]
    in_one_row = sum(lengths) <= LEGEND_WIDTH
    columns = len(handles) if in_one_row else max(1, LEGEND_WIDTH // max(lengths))
    figure.legend(handles=list(handles), loc="outside upper center", ncols=columns)


def wrapped(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters."""
    return "\n".join(textwrap.wrap(text, width)) or text


def told(name: str, estimate: Estimate, digits: int = 2) -> str:
    """`ρ = 0.81 [0.44, 0.97]`, without an interval where there is none, '–' where undefined."""
    if not np.isfinite(estimate.value):
        return f"{name} –"
    text = f"{name} = {estimate.value:.{digits}f}"
    if np.isfinite(estimate.low) and np.isfinite(estimate.high):
        text += f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return text.replace("-", "\N{MINUS SIGN}")


def columns_of(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as columns of a table."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def say_above(axes: Axes, texts: Sequence[tuple[str, str]]) -> None:
    """Write lines of (text, colour) above a panel, in their order; a text may have line breaks."""
    below = 0
    for text, colour in reversed(texts):
        axes.annotate(
            text,
            (0, 1),
            xycoords="axes fraction",
            xytext=(0, 2 + 9.5 * below),
            textcoords="offset points",
            fontsize=7.5,
            color=colour,
            va="bottom",
        )
        below += text.count("\n") + 1


# ----------------------------------------------------------------------- names beside points

_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8))
_RINGS_PT = (4.0, 9.0, 15.0, 23.0)


def number_models(figure: Figure, order: Sequence[str]) -> dict[str, str]:
    """Put a key of numbers and models at the right of the panels; return model → number."""
    numbers = {model: str(at) for at, model in enumerate(order, start=1)}
    keys = [
        Line2D([], [], linestyle="none", label=f"{number}  {model}")
        for model, number in numbers.items()
    ]
    figure.legend(
        handles=keys,
        loc="outside right center",
        handlelength=0,
        handletextpad=0,
        fontsize=7,
        labelspacing=0.35,
        borderpad=0,
    )
    return numbers


def name_points(figure: Figure, groups: Sequence[Names], size_pt: float = 7.0) -> None:
    """Write each text beside its point where it hides no other text and the fewest points.

    Call it last: it needs the panels in their final places.
    """
    figure.draw_without_rendering()
    for group in groups:
        _name(group, size_pt)


def _name(group: Names, size_pt: float) -> None:
    axes = group.axes
    to_pt = 72.0 / axes.figure.dpi
    points = axes.transData.transform(np.column_stack([group.x, group.y])) * to_pt
    frame = np.asarray(axes.bbox.extents) * to_pt
    taken = np.column_stack([points - 3.0, points + 3.0])  # the markers themselves
    for point, x, y, text in zip(points, group.x, group.y, group.texts, strict=True):
        half = size_pt * np.array([0.3 * len(text), 0.65])
        offsets: Floats = np.array([(ring, a, b) for ring in _RINGS_PT for a, b in _DIRECTIONS])
        shifts = offsets[:, 1:] * (offsets[:, :1] + half)
        boxes = np.column_stack([shifts - half, shifts + half]) + np.tile(point, 2)
        cost = _overlap(boxes, taken).sum(axis=1) + 4 * _outside(boxes, frame) + offsets[:, 0]
        best = int(cost.argmin())
        taken = np.vstack([taken, boxes[best]])
        far = offsets[best, 0] > _RINGS_PT[0]
        written = axes.annotate(
            text,
            (x, y),
            xytext=tuple(shifts[best]),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size_pt,
            color=style.DARK,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5} if far else None,
        )
        written.set_in_layout(False)  # else the panels would move away from under the names


def _overlap(boxes: Floats, others: Floats) -> Floats:
    """Shared area of each of `boxes` with each of `others`; boxes are x0, y0, x1, y1."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.asarray(np.clip(high - low, 0, None).prod(axis=2))


def _outside(boxes: Floats, frame: Floats) -> Floats:
    """Area of each box that lies outside the panel."""
    inside = _overlap(boxes, frame[None, :])[:, 0]
    return np.asarray((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - inside)
