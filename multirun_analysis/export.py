"""Executes the notebooks over a sweep and writes what a person reads: `make analysis`.

A folder of pages that need no network, with every figure as PNG and SVG and every table as CSV. It
is made beside its place and moved there whole, so that no half of it is ever found under its name.
"""

import argparse
import contextlib
import difflib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.errors import GreenlabError, OutputError, StoreUnavailableError, first_line
from greenlab.terminal import open_console
from multirun_analysis import execute, pages, publish
from multirun_analysis import runs as mlflow_runs
from multirun_analysis.commands import ALL, PREVIOUS
from multirun_analysis.execute import Executed, Parameters
from multirun_analysis.pages import Section
from multirun_analysis.runs import Runs

NOTEBOOKS = Path(__file__).with_name("notebooks")
ORDER = (
    *("durations", "power", "utilisation", "learning", "macs", "batch_size"),  # Figs. 2-7
    *("claims", "pareto", "advice", "compare", "profiles", "quality"),
)
"""Others in the folder come after these."""
MANIFEST = "manifest.json"
"""What was published, by which notebook; marks a folder as an export that may be replaced."""
LOGGED_UNDER = "analysis"


def main(arguments: argparse.Namespace, notebooks: Path = NOTEBOOKS) -> int:
    """Export; 0 where nothing failed, 1 where a notebook did.

    Raises:
        GreenlabError: the store, the experiment, the sweep, a notebook's name or the output folder
            is not usable; nothing has been done then.
    """
    chosen = _chosen(notebooks, arguments.only)
    runs = mlflow_runs.load(
        arguments.tracking_uri, arguments.experiment, arguments.sweep, arguments.where
    )
    _refuse_empty(runs)
    _refuse_unknown_against(runs, arguments.against)
    sweep = ALL if runs.is_whole else ",".join(runs.sweep_names)
    parameters = Parameters(
        tracking_uri=tracking.resolve_uri(Mlflow(tracking_uri=arguments.tracking_uri)),
        experiment=arguments.experiment,
        sweep=sweep,
        against=arguments.against,
        where=arguments.where,
    )
    logged_to = _sweep_run(runs) if arguments.log else None
    console = open_console()
    part = "-part" if arguments.only or arguments.where else ""
    final = arguments.output / (_folder_name(runs.name) + part)
    with _folder_in_the_making(final) as folder:
        sections = _execute(chosen, parameters, folder, console)
        _write(sections, runs, parameters, folder)
    _report(sections, final, console)
    if logged_to is not None:
        _log(final, logged_to, parameters.tracking_uri)
        console.print(f"logged to the sweep's run, under {LOGGED_UNDER}/")
    return int(any(section.status == "failed" for section in sections))


def _chosen(folder: Path, only: str | None) -> list[Path]:
    """The notebooks to execute, in the paper's order."""
    there = {path.stem: path for path in sorted(folder.glob("*.py"))}
    names = [name for name in ORDER if name in there]
    names += [name for name in there if name not in ORDER]
    wanted = names if only is None else [name.strip() for name in only.split(",")]
    for name in wanted:
        if name not in there:
            raise GreenlabError(f"--only {name}: no such notebook; there are {', '.join(names)}")
    return [there[name] for name in names if name in wanted]


def _refuse_empty(runs: Runs) -> None:
    if len(runs.cells) or len(runs.left_out):
        return
    where = f"sweep={','.join(runs.sweep_names)}" if runs.sweep_names else runs.experiment
    if runs.where:
        raise GreenlabError(f"{where}: no cell of which {runs.where} holds. Ask for less (--where)")
    if (runs.sweeps["status"] == "RUNNING").any():
        raise GreenlabError(
            f"{where}: it is running, and no cell has ended yet. Wait for the first, or take the "
            f"sweep before (--sweep {PREVIOUS})"
        )
    raise GreenlabError(
        f"{where}: there are no cells to analyse. Run a sweep first (make demo), or take the "
        "cells that were run alone (--sweep all)"
    )


def _refuse_unknown_against(runs: Runs, against: str | None) -> None:
    if against is None:
        return
    known = runs.source.sweeps()["sweep"].tolist()
    if against in known and against not in runs.sweep_names:
        return
    others = [name for name in known if name not in runs.sweep_names]
    close = difflib.get_close_matches(against, others, n=3, cutoff=0.5) or others[:3]
    raise GreenlabError(
        f"--against {against}: not another sweep of the experiment {runs.experiment}. "
        + (f"There are {', '.join(close)}" if close else "It has no other; run one first")
    )


def _sweep_run(runs: Runs) -> str:
    """The run to log to."""
    if len(runs.sweeps) != 1:
        raise GreenlabError(
            f"--log needs one sweep, to whose run the pages go; here are {len(runs.sweeps)}. "
            "Name one with --sweep"
        )
    return str(runs.sweeps["run_id"].iloc[0])


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.,+=-]", "_", name).lstrip(".") or "_"


@contextlib.contextmanager
def _folder_in_the_making(final: Path) -> Iterator[Path]:
    """A folder beside `final` that takes its place at the end, and is gone if there is none.

    Raises:
        OutputError: it cannot be written, or what is there is no export.
    """
    if foreign := _foreign(final):
        raise OutputError(
            f"{final} holds what no export has written: {', '.join(foreign[:5])}. Move it away, or "
            "name another --output"
        )
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    except OSError as error:
        raise OutputError(f"--output {final.parent} cannot be written: {error}") from error
    try:
        made = beside / "new"
        made.mkdir()
        yield made
        if final.exists():
            final.rename(beside / "old")
        made.rename(final)
    finally:
        shutil.rmtree(beside)


def _foreign(folder: Path) -> list[str]:
    """Files in a folder that are not in its manifest."""
    found = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    manifest = folder / MANIFEST
    ours = json.loads(manifest.read_text())["files"] if manifest.is_file() else []
    return sorted({*found} - {*ours, MANIFEST})


def _execute(
    notebooks: Sequence[Path], parameters: Parameters, folder: Path, console: Console
) -> list[Section]:
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    watched = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not watched) as progress:
        whole = progress.add_task("", total=len(notebooks))
        running: dict[str, int] = {}
        sections: dict[str, Section] = {}

        def describe() -> None:
            names = ", ".join(running) or "writing"
            progress.update(whole, description=f"{len(sections)}/{len(notebooks)}  {names}")

        def begin(name: str) -> None:
            running[name] = 1
            describe()

        def end(executed: Executed) -> None:
            del running[executed.name]
            section = Section(executed=executed, published=_published(executed.name, folder))
            sections[executed.name] = section
            progress.console.print(_line(section), highlight=False)
            describe()

        ran = execute.execute(notebooks, parameters, folder, on_begin=begin, on_end=end)
    return [sections[executed.name] for executed in ran]


def _published(name: str, folder: Path) -> list[dict[str, str]]:
    manifest = folder / publish.MANIFESTS / f"{name}.jsonl"
    return (
        [json.loads(line) for line in manifest.read_text().splitlines()]
        if manifest.exists()
        else []
    )


def _line(section: Section) -> str:
    colour = {"ok": "green", "nothing to show": "yellow", "failed": "red"}[section.status]
    executed = section.executed
    return f"{executed.name:<12} {executed.duration_s:5.1f} s  [{colour}]{section.status}[/]"


def _write(sections: Sequence[Section], runs: Runs, parameters: Parameters, folder: Path) -> None:
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name in ("cells", "epochs", "left_out"):
        getattr(runs, name).to_csv(tables / f"all_{name}.csv", index=False)
    for section in sections:
        page = pages.notebook_page(section, runs, parameters)
        (folder / f"{section.executed.name}.html").write_text(page, encoding="utf-8")
    claims = folder / "claims.json"
    findings = json.loads(claims.read_text()) if claims.exists() else []
    index = pages.index_page(sections, runs, findings, folder)
    (folder / "index.html").write_text(index, encoding="utf-8")
    manifest = {
        "experiment": runs.experiment,
        "sweeps": list(runs.sweep_names),
        "where": runs.where,
        "notebooks": {
            section.executed.name: {
                "status": section.status,
                "duration_s": round(section.executed.duration_s, 2),
                "published": section.published,
            }
            for section in sections
        },
    }
    shutil.rmtree(folder / publish.MANIFESTS, ignore_errors=True)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    text = json.dumps(manifest | {"files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text)


def _report(sections: Sequence[Section], final: Path, console: Console) -> None:
    for section in sections:
        name = section.executed.name
        for sentence in section.missing:
            console.print(f"[yellow]{name}[/]: {escape(sentence)}", highlight=False, soft_wrap=True)
        if section.executed.error:
            told = escape(section.executed.error)
            console.print(f"[red]{name} failed[/]: {told}", highlight=False, soft_wrap=True)
            console.print(
                f"  {final / name}.html has the traceback", highlight=False, soft_wrap=True
            )
    console.print(f"{final.resolve() / 'index.html'}", highlight=False, soft_wrap=True)


def _log(folder: Path, run_id: str, tracking_uri: str) -> None:
    for key, value in tracking.LIBRARY_SETTINGS.items():
        os.environ.setdefault(key, value)
    from mlflow import MlflowClient  # here: it takes seconds, and only --log needs it

    try:
        MlflowClient(tracking_uri).log_artifacts(run_id, str(folder), LOGGED_UNDER)
    except Exception as error:  # of MLflow, a socket, a disk
        raise StoreUnavailableError(
            f"the export is in {folder}, but cannot be logged: {first_line(error)}"
        ) from error
