"""Whether a sweep's numbers can be trusted: verdicts, drift, uncertainty, where joules went."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from scipy import stats

from multirun_analysis import runs, style
from multirun_analysis.figures import parts

VERDICTS = {"PASS": "#009E73", "WARN": "#E69F00", "INVALID": "#D55E00"}
OTHERS = {"FAILED": "#000000"}
"""Colours of what has no verdict; cells that still run are grey."""
MAX_CODES = 20
MIN_FOR_DRIFT = 4
LOG_FROM_SPAN = 5.0
PARTS = (
    *("useful", "idle_windows", "settling", "warm_up", "compiling", "loading", "evaluation"),
    "failed",
)
S_PER_HOUR = 3600.0
LONG_S = 7200.0
"""Of a longer sweep the time is told in hours."""


def verdict_counts(cells: pd.DataFrame, left_out: pd.DataFrame) -> pd.DataFrame:
    """How many cells have which verdict; those without one are counted by their status.

    Raises:
        NothingToShow: there is no cell at all.
    """
    both = pd.concat([frame[["verdict", "status"]] for frame in (cells, left_out) if len(frame)]
                     or [pd.DataFrame(columns=["verdict", "status"])])  # fmt: skip
    if both.empty:
        raise parts.nothing("There is no cell in these runs.", "make demo")
    judged = both["verdict"].where(both["verdict"].isin(list(VERDICTS)), both["status"])
    counts = judged.value_counts()
    order = [
        *(name for name in VERDICTS if name in counts),
        *sorted(set(counts.index) - set(VERDICTS)),
    ]
    return pd.DataFrame({"verdict": order, "num_cells": [int(counts[name]) for name in order]})


def doubt_counts(cells: pd.DataFrame) -> pd.DataFrame:
    """How many of the cells that are used carry which doubt, the most frequent first."""
    codes = cells["doubts"].fillna("").str.split(",").explode().str.strip()
    counts = codes[codes != ""].groupby(level=0).unique().explode().value_counts()
    share = 100 * counts.to_numpy(float) / max(len(cells), 1)
    return pd.DataFrame(
        {"doubt": counts.index, "num_cells": counts.to_numpy(), "percent_of_cells": share}
    )


def draw_verdicts(cells: pd.DataFrame, left_out: pd.DataFrame) -> Figure:
    """Above: one bar of all cells by verdict; below: a bar per doubt of the cells that are used.

    Raises:
        NothingToShow: there is no cell at all.
    """
    verdicts = verdict_counts(cells, left_out)
    doubts = doubt_counts(cells).head(MAX_CODES)
    height_in = 0.2 * max(len(doubts), 2)
    figure, (above, below) = style.figure(
        2, 1, height_in=1.7 + height_in, height_ratios=[0.5, 0.3 + height_in]
    )
    left = 0
    handles = []
    for verdict, num in zip(verdicts["verdict"], verdicts["num_cells"], strict=True):
        colour = (VERDICTS | OTHERS).get(verdict, style.GREY)
        above.barh(0, num, left=left, color=colour, edgecolor="white", label=verdict)
        handles.append(Patch(color=colour, label=f"{verdict} {num}"))
        left += num
    above.set(yticks=[], title=f"{left} cells by verdict", xlim=(0, left))
    above.grid(visible=False)
    parts.legend_above(figure, handles)
    if doubts.empty:
        below.text(0.5, 0.5, "no doubts", transform=below.transAxes, ha="center")
        below.set(xticks=[], yticks=[])
    else:
        bars = below.barh(doubts["doubt"], doubts["num_cells"], color=style.COLOURS[0])
        below.bar_label(bars, fontsize=7.5, padding=2)
        below.invert_yaxis()
        below.margins(x=0.08)
    below.set_xlabel(f"cells with this doubt, of {len(cells)} used")
    style.mark_modelled(figure, cells)
    return figure


def drift(cells: pd.DataFrame) -> pd.DataFrame:
    """Per series and component: Theil and Sen's slope of idle power over time, W per hour.

    The median of the slopes between all pairs of cells, with its 95 % interval (Sen 1968); NaN for
    fewer than four cells.

    Raises:
        NothingToShow: no cell has an idle power.
    """
    rows = []
    for component in style.COMPONENTS:
        metric = f"power/idle_{component}_w"
        for series, own in cells.groupby("series", sort=False) if len(cells) else ():
            idle_w = runs.column(own, metric)
            known = idle_w.notna() & own["started_at_s"].notna()
            if known.any():
                hours = (own.loc[known, "started_at_s"] - cells["started_at_s"].min()) / S_PER_HOUR
                found = _slope(np.asarray(hours, float), np.asarray(idle_w[known], float))
                about = {"series": series, "component": component, "num_cells": int(known.sum())}
                rows.append(about | {"median_idle_w": float(idle_w.median())} | found)
    if not rows:
        raise parts.nothing("Drift needs cells with an idle window that was metered.", "make demo")
    return pd.DataFrame(rows)


def _slope(hours: parts.Floats, idle_w: parts.Floats) -> dict[str, float]:
    names = ("w_per_hour", "w_per_hour_low", "w_per_hour_high", "intercept_w")
    if len(hours) < MIN_FOR_DRIFT or np.ptp(hours) == 0:
        return dict.fromkeys(names, np.nan)
    slope, intercept_w, low, high = stats.theilslopes(idle_w, hours, 0.95, method="joint")
    return dict(
        zip(names, (float(slope), float(low), float(high), float(intercept_w)), strict=True)
    )


def draw_drift(cells: pd.DataFrame) -> Figure:
    """Idle power of each component over the time of the sweep, with its slope.

    Raises:
        NothingToShow: as `drift`.
    """
    found = drift(cells)
    components = list(dict.fromkeys(found["component"]))
    figure, panels = style.figure(
        len(components), 1, height_in=0.9 + 1.6 * len(components), sharex=True
    )
    looks = style.looks(cells["series"])
    began_s = cells["started_at_s"].min()
    is_long = cells["started_at_s"].max() - began_s > LONG_S
    unit, per_hour = ("h", 1) if is_long else ("min", 60)
    for axes, component in zip(panels, components, strict=True):
        for row in found[found["component"] == component].to_dict("records"):
            own = cells[cells["series"] == row["series"]].sort_values("started_at_s")
            hours = ((own["started_at_s"] - began_s) / S_PER_HOUR).to_numpy(float)
            look = looks[row["series"]]
            axes.plot(
                hours * per_hour, runs.column(own, f"power/idle_{component}_w"), color=look.colour,
                marker=look.marker, linestyle="none", markersize=3.5, label=row["series"],
            )  # fmt: skip
            ends = np.array([hours.min(), hours.max()])
            if np.isfinite(row["w_per_hour"]):
                line_w = row["intercept_w"] + row["w_per_hour"] * ends
                axes.plot(
                    ends * per_hour,
                    line_w,
                    color=look.colour,
                    linewidth=1,
                    label=f"_{row['series']}",
                )
        axes.set_ylabel(style.label(f"power/idle_{component}_w"))
        parts.say_above(axes, _slopes(found[found["component"] == component], looks))
    panels[-1].set_xlabel(f"time since the first cell began ({unit})")
    parts.legend_of_series(figure, cells)
    style.mark_modelled(figure, cells)
    return figure


def _slopes(rows: pd.DataFrame, looks: dict[str, style.Look]) -> list[tuple[str, str]]:
    return [
        (
            f"{row['w_per_hour']:+.3g} [{row['w_per_hour_low']:+.3g}, "
            f"{row['w_per_hour_high']:+.3g}] W per hour".replace("-", "\N{MINUS SIGN}"),
            looks[row["series"]].colour,
        )
        for row in rows.to_dict("records")
        if np.isfinite(row["w_per_hour"])
    ]


def uncertainty(cells: pd.DataFrame) -> pd.DataFrame:
    """Per cell: half the 95 % interval in % of net energy, idle (both windows) and active length.

    Raises:
        NothingToShow: no cell has a net energy with its uncertainty.
    """
    net_j, u95_j = runs.column(cells, "energy/net_j"), runs.column(cells, "energy/net_u95_j")
    idle_s = pd.concat(
        [runs.column(cells, f"time/idle_{when}_s") for when in ("before", "after")], axis=1
    )
    found = pd.DataFrame(
        {
            "run_id": cells["run_id"],
            "name": cells["name"],
            "series": cells["series"],
            "phase": cells["phase"],
            "idle_s": idle_s.sum(axis=1, min_count=1),
            "active_s": runs.column(cells, "time/active_s"),
            "u95_percent": 100 * u95_j / net_j.abs(),
        }
    )
    found = found.loc[np.isfinite(found["u95_percent"]) & (found["u95_percent"] > 0)]
    if found.empty:
        raise parts.nothing(
            "Uncertainty needs cells with net energy, metered with idle windows.", "make demo"
        )
    return pd.DataFrame(found)


def draw_uncertainty(cells: pd.DataFrame) -> Figure:
    """Relative uncertainty against the length of the idle windows and of the active one.

    Raises:
        NothingToShow: as `uncertainty`.
    """
    found = uncertainty(cells)
    figure, panels = style.figure(1, 2, height_in=3.3, sharey=True)
    looks = style.looks(found["series"])
    for axes, name, label in zip(
        panels, ("idle_s", "active_s"), ("idle windows, together (s)", "active window (s)"),
        strict=True,
    ):  # fmt: skip
        for (series, phase), own in found.groupby(["series", "phase"], sort=False):
            look = looks[str(series)]
            axes.plot(
                own[name], own["u95_percent"], marker=look.marker, linestyle="none", markersize=4,
                color=look.colour, markerfacecolor=look.colour if phase == "train" else "white",
                label=f"{series}, {phase}",
            )  # fmt: skip
        axes.set(yscale="log", xlabel=label)
        if found[name].max() > LOG_FROM_SPAN * found[name].min() > 0:
            axes.set_xscale("log")
            style.plain_log(axes.xaxis)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.axhline(100, color=style.WARNING, linestyle="--", linewidth=0.9)
        axes.margins(0.08, 0.08)
    style.plain_log(panels[0].yaxis)
    panels[0].set_ylabel("95 % uncertainty of net energy (% of it)")
    panels[0].annotate(
        "as large as the value", (0, 100), xycoords=("axes fraction", "data"), xytext=(3, 2),
        textcoords="offset points", fontsize=7.5, color=style.WARNING,
    )  # fmt: skip
    parts.legend_of_series(figure, found.assign(batch_size=np.nan), *parts.phase_handles(found))
    style.mark_modelled(figure, cells)
    return figure


def ledger(sweeps: pd.DataFrame) -> pd.DataFrame:
    """Per sweep and part: joules, and their share of all that the meters counted.

    Raises:
        NothingToShow: no sweep has a ledger.
    """
    rows = []
    named = [str(column) for column in sweeps if str(column).startswith("ledger/")]
    for sweep in sweeps.to_dict("records"):
        parts_j = {name[7:-2]: float(sweep[name]) for name in named if pd.notna(sweep[name])}
        total_j = parts_j.pop("total", sum(parts_j.values()))
        order = [*(p for p in PARTS if p in parts_j), *(p for p in parts_j if p not in PARTS)]
        rows += [
            {
                "sweep": sweep["sweep"],
                "part": part.replace("_", " "),
                "energy_j": parts_j[part],
                "percent": 100 * parts_j[part] / total_j if total_j else np.nan,
            }
            for part in order
        ]
    if not rows:
        raise parts.nothing(
            "The ledger of joules is written by a sweep that has ended.", "make demo"
        )
    return pd.DataFrame(rows)


def draw_ledger(sweeps: pd.DataFrame, cells: pd.DataFrame) -> Figure:
    """One bar per sweep: what was measured and what that took; `cells` tell what is modelled.

    Raises:
        NothingToShow: as `ledger`.
    """
    found = ledger(sweeps)
    names = list(dict.fromkeys(found["sweep"]))
    order = list(dict.fromkeys(found["part"]))
    figure, (axes,) = style.figure(height_in=1.5 + 0.45 * len(names))
    scale = style.scale(found.groupby("sweep")["energy_j"].sum(), "J")
    left = np.zeros(len(names))
    handles = []
    for at, part in enumerate(order):
        own = found[found["part"] == part].set_index("sweep").reindex(names)
        energy = np.nan_to_num(own["energy_j"].to_numpy(float)) * scale.factor
        colour, hatch = style.COLOURS[at % 8], style.HATCHES[at % 8]
        axes.barh(
            names, energy, 0.6, left=left, label=part, color=colour, hatch=hatch, edgecolor="white"
        )
        _write_shares(axes, own["percent"].to_numpy(float), energy, left)
        left += energy
        told = f" {own['percent'].iloc[0]:.1f} %" if len(names) == 1 else ""
        handles.append(Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=part + told))
    axes.invert_yaxis()
    axes.set_xlabel(f"metered energy ({scale.unit})")
    axes.grid(visible=False)
    parts.legend_above(figure, handles)
    style.mark_modelled(figure, cells)
    return figure


def _write_shares(
    axes: Axes, percent: parts.Floats, energy: parts.Floats, left: parts.Floats
) -> None:
    for row, (share, length, begin) in enumerate(zip(percent, energy, left, strict=True)):
        if share >= 6:  # narrower parts have no room for it
            axes.text(
                begin + length / 2, row, f"{share:.0f} %", ha="center", va="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
            )  # fmt: skip
