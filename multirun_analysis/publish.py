"""What a notebook calls to show a figure or a table, and to keep it while it is being exported.

Opened in Jupyter, a notebook just shows things. Executed by `export`, two environment variables
name the notebook and the folder that collects figures, tables and findings; each thing published
is also a line in that notebook's manifest, of which the index page is made.
"""

import html
import io
import json as json_format
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from IPython.display import HTML, Image, display
from pandas import DataFrame

from multirun_analysis.runs import NothingToShow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from multirun_analysis.runs import Runs

EXPORT = "GREENLAB_EXPORT"
"""Names the folder to keep things in; unset where a person looks at the notebook."""
NOTEBOOK = "GREENLAB_NOTEBOOK"
MANIFESTS = "manifests"
"""In the export's folder while it is made: a file per notebook, a line per thing published."""

PRINT_DPI = 300
SCREEN_DPI = 130
"""At which pages show figures at most: a small one is not blown up."""
MOST_ROWS = 40
"""Shown of a table; its CSV holds all of them."""
COMPONENTS = ("gpu", "cpu", "dram")
COMMAND = re.compile(
    r"(?:make demo|python -m .*?)(?=\.?$|\. |; | on a | and models | says |\)(?:[.;]|$))"
)


def figure(name: str, function: "Callable[..., Figure]", *args: Any, caption: str = "") -> None:
    """Draw `function(*args)`, show it, and keep it as `name`.png and `name`.svg.

    A figure that has NothingToShow leaves its sentence instead; every other error is an error.
    """
    _refuse_poor(name, caption)
    try:
        drawn = function(*args)
    except NothingToShow as nothing:
        _say_missing(name, nothing)
        return
    png, svg = _pictures(drawn)
    display(Image(_for_screen(png), format="png", alt=caption))
    _show_caption(caption)
    _keep(f"figures/{name}.png", png)
    _keep(f"figures/{name}.svg", svg)
    _note(kind="figure", name=name, caption=caption)
    from matplotlib import pyplot  # here: who exports only draws nothing

    pyplot.close(drawn)  # else Jupyter shows it again at the end of the cell


def table(
    name: str, frame: DataFrame | Callable[..., DataFrame], *args: Any, caption: str = ""
) -> None:
    """Show `frame`, or what it makes of `args`, and keep all of it as `name`.csv.

    The CSV has every digit: it is read back to the same floats. The table that is shown is rounded.
    """
    _refuse_poor(name, caption)
    if isinstance(frame, DataFrame) and args:
        raise TypeError(f"table {name}: a DataFrame takes no arguments; write caption=…")
    try:
        made = frame if isinstance(frame, DataFrame) else frame(*args)
    except NothingToShow as nothing:
        _say_missing(name, nothing)
        return
    display(HTML(table_html(made.head(MOST_ROWS))))
    cut = f" The first {MOST_ROWS} of {len(made):,} rows; {name}.csv has them all."
    _show_caption(caption + (cut if len(made) > MOST_ROWS else ""))
    _keep(f"tables/{name}.csv", made.to_csv(index=_has_names(made)).encode())
    _note(kind="table", name=name, caption=caption)


def json(name: str, obj: Any) -> None:
    """Keep `obj` as `name`.json. What JSON has no word for (NaN, inf) is refused: say None."""
    text = json_format.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False)
    _keep(f"{name}.json", text.encode())
    _note(kind="json", name=name, caption="")


def opening(runs: "Runs") -> None:
    """Say what data this is: sweep, machine, sources of energy, and what of it is modelled."""
    display(HTML(facts_html(runs)))


def closing(runs: "Runs") -> None:
    """Say what was left out, and why."""
    display(HTML(remarks_html(runs)))
    if len(runs.left_out):
        columns = ["name", "sweep", "status", "verdict", "reason"]
        display(HTML(table_html(runs.left_out[columns].head(MOST_ROWS))))


def facts_html(runs: "Runs") -> str:
    """What the cells of `runs` are, as a list of terms; loud where energy is modelled."""
    cells = runs.cells
    facts = {
        "sweep": "all of the experiment" if runs.is_whole else ", ".join(runs.sweep_names),
        "experiment": runs.experiment,
        "cells": f"{len(cells):,} measured, {len(runs.left_out):,} left out",
    }
    if runs.where:
        facts["only where"] = runs.where
    if len(cells):
        began_s, ended_s = cells["started_at_s"].min(), cells["ended_at_s"].max()
        facts["run"] = f"{_utc(began_s)} to {_utc(ended_s)} UTC"
        facts["machine"] = _listed(cells["machine"])
        facts |= {name: _listed(cells[name]) for name in ("cpu", "gpus") if any(cells[name])}
        for component in COMPONENTS:
            source = cells[f"source_{component}"].str.replace("modelled", "~modelled")
            facts[f"{component} energy"] = _listed(source)
        facts["models"] = ", ".join(sorted(set(cells["model"].astype(str))))
        versions = {"greenlab": "commit", "torch": "torch"}
        facts["software"] = "; ".join(
            f"{what} {_listed(cells[column])}"
            for what, column in versions.items()
            if any(cells[column])
        )
        facts["verdicts"] = f"{_listed(cells['verdict'])}{_doubts(cells)}"
    told = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in facts.items()
    )
    return f'<dl class="facts">{told}</dl>{_modelled_html(cells)}'


def _doubts(cells: DataFrame) -> str:
    """`: idle_busy_cpu in 3 cells`, the commonest first."""
    codes = cells["doubts"].str.split(", ").explode()
    counted = codes[codes.notna() & (codes != "")].value_counts()
    told = ", ".join(f"{code} in {num:,}" for code, num in counted.items())
    return f"; doubts: {told}" if told else ""


def remarks_html(runs: "Runs") -> str:
    """What was left out and why, as a list."""
    remarks = runs.remarks or ["Nothing was left out."]
    listed = "".join(f"<li>{html.escape(remark)}</li>" for remark in remarks)
    return f'<div class="remarks"><h4>What was left out, and why</h4><ul>{listed}</ul></div>'


def missing_html(sentence: str) -> str:
    """What stands where a figure would: the runs that it needs."""
    return f'<p class="missing">{commands_html(html.escape(sentence, quote=False))}</p>'


def commands_html(escaped: str) -> str:
    """Set greenlab's commands in a sentence as such."""
    return COMMAND.sub(r"<code>\g<0></code>", escaped)


def table_html(frame: DataFrame) -> str:
    """A table for a person: four significant digits, a dash where there is no number."""
    shown = frame.rename(columns=lambda name: str(name).replace("_", "_\N{ZERO WIDTH SPACE}"))
    return shown.to_html(  # long names break at the underscores, their CSV has them plain
        border=0, index=_has_names(frame), na_rep="–", float_format=_rounded, classes="data"
    )


def _modelled_html(cells: DataFrame) -> str:
    modelled = {
        component.upper(): cells[f"source_{component}"].str.startswith("modelled")
        for component in COMPONENTS
        if len(cells)
    }
    components = [component for component, of_cells in modelled.items() if of_cells.any()]
    if not components:
        return ""
    num = int(np.logical_or.reduce(list(modelled.values())).sum())
    return (
        f'<p class="modelled"><strong>~modelled, not measured:</strong> the '
        f"{' and '.join(components)} energy of {num:,} of {len(cells):,} cells. Modelled power "
        "makes energy follow from time and utilisation by construction: no claim about energy is "
        "decided by it.</p>"
    )


def _utc(time_s: float) -> str:
    """A Unix time to the minute; a cell that has no end has no date."""
    return "?" if np.isnan(time_s) else f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M}"


def _listed(values: Any) -> str:
    counted = values.fillna("unknown").value_counts(sort=False)
    if len(counted) == 1:
        return str(counted.index[0])
    return ", ".join(f"{value} ({num:,} cells)" for value, num in counted.items())


def _rounded(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _has_names(frame: DataFrame) -> bool:
    """Whether the rows are named, rather than numbered."""
    return any(name is not None for name in frame.index.names)


def _pictures(drawn: "Figure") -> tuple[bytes, bytes]:
    """PNG and SVG; the same bytes for the same figure: no date, no random ids."""
    import matplotlib as mpl

    drawn.draw_without_rendering()
    drawn.set_layout_engine("none")  # laid out once, not anew for each file
    edge = mpl.rcParams["savefig.pad_inches"]
    outline = drawn.get_tightbbox().padded(edge)
    png, svg = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "greenlab"}):
        drawn.savefig(
            png, format="png", dpi=PRINT_DPI, bbox_inches=outline, metadata={"Software": None}
        )
        drawn.savefig(
            svg, format="svg", bbox_inches=outline, metadata={"Date": None, "Creator": None}
        )
    return png.getvalue(), svg.getvalue()


def _for_screen(png: bytes) -> bytes:
    """A smaller copy; drawing it again would take ten times as long."""
    from PIL import Image as Pixels

    picture = Pixels.open(io.BytesIO(png))
    size = [round(pixels * SCREEN_DPI / PRINT_DPI) for pixels in picture.size]
    smaller = io.BytesIO()
    picture.convert("RGB").resize((size[0], size[1])).save(smaller, "png", optimize=True)
    return smaller.getvalue()


def _refuse_poor(name: str, caption: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"{name!r} becomes a file's name: use letters, digits and _ only")
    if not (caption[:1].strip() and caption.endswith((".", "?", "!"))):
        raise ValueError(
            f"{name}: its caption is read alone, on the index page and in a paper. Write a "
            f"sentence that ends in a full stop, not {caption!r}"
        )


def _show_caption(caption: str) -> None:
    display(HTML(f'<p class="caption">{html.escape(caption)}</p>'))


def _say_missing(name: str, nothing: NothingToShow) -> None:
    display(HTML(missing_html(str(nothing))))
    _note(kind="missing", name=name, caption=str(nothing))


def _keep(path: str, content: bytes) -> None:
    if EXPORT not in os.environ:
        return
    target = Path(os.environ[EXPORT]) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise ValueError(f"{path} is published already: give this one another name") from error


def _note(**entry: str) -> None:
    if EXPORT not in os.environ:
        return
    manifest = Path(os.environ[EXPORT]) / MANIFESTS / f"{os.environ[NOTEBOOK]}.jsonl"
    manifest.parent.mkdir(exist_ok=True)
    with manifest.open("a") as file:
        file.write(json_format.dumps(entry) + "\n")
