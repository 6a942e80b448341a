"""One look for every figure: colours, markers and hatches, axis labels, the order of models.

Colours can be told apart by the colour-blind, markers and hatches in a black-and-white print. A
label is made from a metric's name, its unit from the suffix. No pyplot: no figure stays open.
"""

import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "+++", "|||")
COMPONENTS = {"gpu": "#0072B2", "cpu": "#E69F00", "dram": "#009E73"}
"""Colours of the components, as in each run's own power.png."""
PHASES = ("train", "inference")
REFERENCE = "paper"
"""What the label of a series begins with that was not run but published."""
GREY = "#7F7F7F"
DARK = "#333333"
WARNING = "#B34700"
"""Vermilion, darkened until small print of it can be read on white."""

WIDTH_IN = 7.2
"""Text width of a page, less a little; every figure has it."""
ALMOST_LINEAR_SPAN = 2.0
"""Up to such a ratio of its ends a log axis has evenly spaced ticks, as a linear one."""

_RC: dict[str, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "svg.fonttype": "none",  # text stays text
    "pdf.fonttype": 42,
}

_NAMES = {
    "model/size_bytes": "model size (B)",
    "model/macs": "MACs per sample",
    "model/macs_exact": "MACs per sample (convolutions and linear layers)",
    "power/limit_gpu_w": "GPU power limit (W)",
    "power/tdp_cpu_w": "CPU TDP (W)",
    "time/idle_before_s": "length of the idle window before (s)",
    "time/idle_after_s": "length of the idle window after (s)",
    "energy/idle_j": "idle energy (J)",
    "energy/net_paper_j": "net energy as the paper's equations have it (J)",
    "utilisation/gpu_other_processes": "other processes on the GPU",
}
"""Those that their tokens alone would name badly."""

_UNITS = {
    "j": ("J", "energy"),
    "w": ("W", "power"),
    "s": ("s", "time"),
    "bytes": ("B", ""),
    "hz": ("Hz", ""),
    "celsius": ("°C", ""),
    "percent": ("%", ""),
    "fraction": ("0–1", ""),
}
"""Suffix → what stands in brackets, and the noun that the suffix stands for."""

_WORDS = {"gpu": "GPU", "cpu": "CPU", "dram": "DRAM", "sm": "SM", "macs": "MACs"}
_PREFIXES = {-9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """`values * factor` are in `unit`, which has an SI prefix."""

    factor: float
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one series is drawn in every figure."""

    colour: str
    marker: str
    hatch: str


def use() -> None:
    """Set matplotlib's defaults to this look; `figure` does it by itself."""
    mpl.rcParams.update(_RC)  # type: ignore[arg-type]  # its stub lists every key


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    height_in: float = 3.2,
    width_in: float = WIDTH_IN,
    **subplots: object,
) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, row by row; `subplots` goes to `Figure.subplots` (sharex, …)."""
    use()
    drawn = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(drawn)
    panels = drawn.subplots(rows, columns, squeeze=False, **subplots)  # type: ignore[call-overload]
    return drawn, list(np.asarray(panels).ravel())


def label(metric: str, scale: Scale | None = None) -> str:
    """An axis label from a metric's name: energy/net_per_sample_j → net energy per sample (J)."""
    if metric in _NAMES:
        name = _NAMES[metric]
        return name if scale is None else re.sub(r"\(.*\)$", f"({scale.unit})", name)
    group, _, stem = metric.rpartition("/")
    tokens = stem.split("_")
    unit, noun = "", ""
    if tokens[-1] in _UNITS and tokens[-2:-1] != ["per"]:
        unit, noun = _UNITS[tokens.pop()]
    if group == "utilisation" and unit == "%":
        noun = "utilisation"
    if metric in {"task/accuracy", "epoch/accuracy"}:
        unit = "0–1"
    told = [*_in_words(tokens, noun), "per epoch" if group == "epoch" and noun else ""]
    words = " ".join(filter(None, told))
    shown = scale.unit if scale else unit
    return f"{words} ({shown})" if shown else words


def _in_words(tokens: list[str], noun: str) -> list[str]:
    """Qualifiers, then the noun, then what it is per."""
    uncertain = "u95" in tokens
    tokens = [token for token in tokens if token != "u95"]
    at = tokens.index("per") if "per" in tokens else len(tokens)
    words = [_WORDS.get(token, token) for token in tokens]
    if words[-2:] == ["per", "s"]:
        words[-1] = "second"
    told = [*words[:at], noun, *words[at:]]
    return ["95 % uncertainty of", *told] if uncertain else told


def unit_of(metric: str) -> str:
    """What stands in brackets in a metric's label, '' where nothing does."""
    found = re.search(r"\(([^()]*)\)$", label(metric))
    return found[1] if found else ""


def scale(values: Iterable[float], unit: str) -> Scale:
    """The SI prefix under which the middle of `values` has one to three digits.

    Seconds get none above 1, bytes none below; a fraction, a percentage, a temperature none at all.
    """
    sizes = np.abs(np.asarray(list(values), dtype=float))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes) or unit in {"", "%", "0–1", "°C"}:
        return Scale(factor=1.0, unit=unit)
    # The geometric middle: a log axis has it in its middle, and one outlier does not move it.
    power = 3 * math.floor(math.log10(float(np.median(sizes))) / 3)
    power = max(-9, min(12, power))
    if unit == "s":
        power = min(0, power)
    if unit == "B":
        power = max(0, power)
    return Scale(factor=10.0**-power, unit=_PREFIXES[power] + unit)


def looks(series: Iterable[str]) -> dict[str, Look]:
    """Colour, marker and hatch of each series; the paper's own values are grey."""
    names = list(dict.fromkeys(series))
    own = [name for name in names if not name.startswith(REFERENCE)]
    found = {
        name: Look(
            colour=COLOURS[at % len(COLOURS)],
            marker=MARKERS[at % len(MARKERS)],
            hatch=HATCHES[at % len(HATCHES)],
        )
        for at, name in enumerate(own)
    }
    grey = Look(colour=GREY, marker="h", hatch="")
    return {name: found.get(name, grey) for name in names}


def colour_of(series: Iterable[str]) -> dict[str, str]:
    """The colour of each series."""
    return {name: look.colour for name, look in looks(series).items()}


def plain_log(axis: Axis) -> None:
    """Make an axis logarithmic with plain numbers at 1, 2, 5, 10 …; call it when all is drawn."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
    low, high = sorted(abs(end) for end in axis.get_view_interval())
    if low > 0 and np.isfinite(high):
        span = high / low
        if span <= ALMOST_LINEAR_SPAN:  # there may be no power of ten in it at all
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            return
        subs = (
            (1.0,)
            if span > 500
            else (1.0, 2.0, 5.0)
            if span > 5
            else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        )
        axis.set_major_locator(LogLocator(subs=subs))


def model_order(cells: pd.DataFrame) -> list[str]:
    """Models by their MACs, smallest first; those without a count after them, by name."""
    macs = cells["model/macs"] if "model/macs" in cells else pd.Series(np.nan, index=cells.index)
    size = macs.groupby(cells["model"]).median()
    return sorted(size.index, key=lambda name: (not np.isfinite(size[name]), size[name], name))


def phase_order(cells: pd.DataFrame) -> list[str]:
    """Training, inference, then the user's own."""
    present = sorted(cells["phase"].dropna().unique())
    return [p for p in PHASES if p in present] + [p for p in present if p not in PHASES]


def phase_name(phase: str) -> str:
    """How a phase is called in print."""
    return "training" if phase == "train" else phase


def mark_modelled(drawn: Figure, cells: pd.DataFrame, but: str = "") -> None:
    """Say under the figure, in colour, which components' power is a model's and not measured.

    `but` is what of the figure is not modelled, where that is what it shows.
    """
    if "modelled" not in cells:
        return
    modelled = cells.loc[cells["modelled"].fillna("").astype(str) != "", ["modelled", "series"]]
    if modelled.empty:
        return
    parts = sorted({part for text in modelled["modelled"] for part in str(text).split("+")})
    how = {
        "cpu": "CPU: TDP × utilisation",
        "dram": "DRAM: constant per module",
    }
    told = "; ".join(how.get(part, f"{part}: modelled") for part in parts)
    affected = sorted(modelled["series"].unique())
    text = f"~ modelled power ({told}), not measured" + (f"; {but}" if but else "")
    if len(affected) < cells["series"].nunique():
        text += "\n" + textwrap.fill(f"in the series {_enumerate(affected)}", 115)
    drawn.supxlabel(text, x=0.01, ha="left", color=WARNING, fontsize=8, fontweight="bold")


def _enumerate(names: Sequence[str], at_most: int = 3) -> str:
    shown = "; ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown} and {len(names) - at_most} more"
