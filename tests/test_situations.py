"""Every notebook on stores that are odd in one way: a sensible page, and no wrong pooled number.

Notebooks run in this process, without a kernel, over cells that greenlab itself has landed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas import DataFrame
from test_runs import Lab, golden_environment, settings, without_source

from greenlab import record as records
from greenlab.energy import EnergyWindow
from greenlab.record import Doubt, Failure, Measurement
from multirun_analysis import publish
from multirun_analysis.export import NOTEBOOKS, ORDER
from multirun_analysis.runs import NothingToShow

MACS = {"lenet": 1, "mobilenet": 7, "vgg16": 50, "resnet18": 90, "dpn26": 110, "googlenet": 240}
BATCH_SIZES = (32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a notebook left."""

    tables: dict[str, DataFrame]
    figures: list[str]
    missing: list[str]


def read(lab: Lab, folder: Path, monkeypatch: pytest.MonkeyPatch, sweep: str) -> dict[str, Page]:
    """Execute all notebooks over a sweep."""
    pages = {}
    for name in ORDER:
        place = folder / name
        place.mkdir(parents=True)
        monkeypatch.setenv(publish.EXPORT, str(place))
        monkeypatch.setenv(publish.NOTEBOOK, name)
        source = (NOTEBOOKS / f"{name}.py").read_text()
        told = f"tracking_uri, sweep = {lab.uri!r}, {sweep!r}\n"
        source, count = re.subn(
            r'(# %% tags=\["parameters"\].*?)(?=# %%)', rf"\1{told}", source, flags=re.DOTALL
        )
        assert count == 1
        missing = []
        try:
            exec(compile(source, name, "exec"), {"__name__": "notebook"})
        except NothingToShow as nothing:
            missing = [str(nothing)]
        manifest = place / publish.MANIFESTS / f"{name}.jsonl"
        if manifest.exists():
            notes = pd.read_json(manifest, lines=True)
            missing += notes.loc[notes["kind"] == "missing", "caption"].tolist()
        pages[name] = Page(
            tables={path.stem: pd.read_csv(path) for path in place.glob("tables/*.csv")},
            figures=[path.stem for path in place.glob("figures/*.png")],
            missing=missing,
        )
    return pages


def scaled(measured: Measurement, factor: float) -> Measurement:
    """The same measurement with so many times the joules, in so many times the seconds."""

    def grown(window: EnergyWindow) -> EnergyWindow:
        return replace(
            window,
            duration_s=window.duration_s * factor,
            energy_j={c: joules * factor for c, joules in window.energy_j.items()},
            part_energy_j={c: joules * factor for c, joules in window.part_energy_j.items()},
        )

    passes = [replace(one, window=grown(one.window)) for one in measured.passes]
    profile = replace(measured.model, macs=round(measured.model.macs * factor))
    return replace(measured, passes=passes, model=profile)


def land_grid(lab: Lab, sweep: str, factor: float = 1.0, **changes: Any) -> None:
    """Six models × training and inference × three batch sizes."""
    lab.sweep(sweep)
    measured = changes.pop("measurement", None) or records.read_record(GOLDEN).measurement
    for number, (model, cost) in enumerate(MACS.items()):
        for phase, share in (("train", 3.0 + number % 2), ("inference", 1.0)):
            for size in BATCH_SIZES:
                grown = cost * share * factor * (1 + 20 / size)
                lab.land(
                    sweep=sweep,
                    choices={"model": model, "phase": phase, "batch_size": str(size)},
                    config={
                        "model": {"_target_": model, "kwargs": {}},
                        "phase": {**settings("phase"), "kind": phase},
                        "batch_size": {"size": size},
                    },
                    measurement=scaled(measured, grown),
                    **changes,
                )


GOLDEN = Path(__file__).parent / "golden"


def other_machine(lab: Lab) -> None:
    land_grid(lab, "s", factor=3.0, environment=golden_environment(machine="other-9"))


def other_sources(lab: Lab) -> None:
    land_grid(lab, "s", factor=3.0, measurement=without_source("cpu"))


@pytest.fixture
def lab(workplace: Path, tmp_path: Path) -> Lab:
    (tmp_path / "landed").mkdir()
    return Lab(f"sqlite:///{workplace / 'mlflow.db'}", tmp_path / "landed")


Read = Callable[[str], dict[str, Page]]


@pytest.fixture
def read_pages(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.setattr(publish, "display", lambda *_: None)
    return lambda sweep: read(lab, tmp_path / f"pages-{sweep}", monkeypatch, sweep)


def numbers(table: DataFrame, series: str = "") -> DataFrame:
    """The rows of one series, or all, without what names runs, in an order of their own."""
    rows = table[table["series"] == series] if series else table
    kept = rows.drop(columns=["series", "run_id", "sweep"], errors="ignore")
    texts = [n for n in kept if n in KEYS or not pd.api.types.is_numeric_dtype(kept[n])]
    return kept.sort_values(texts or list(kept), ignore_index=True)


KEYS = ("batch_size", "epoch", "step", "repetition")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("add", [other_machine, other_sources])
def test_a_second_machine_or_source_changes_no_number_of_the_first(
    lab: Lab, read_pages: Read, add: Callable[[Lab], None]
) -> None:
    land_grid(lab, "alone")
    land_grid(lab, "s")
    add(lab)

    alone, together = read_pages("alone"), read_pages("s")

    compared = 0
    for name, page in alone.items():
        for title, table in page.tables.items():
            both = together[name].tables[title]
            if "series" not in table or table["series"].str.startswith("paper").all():
                continue
            [series] = table["series"].unique()
            same = [one for one in both["series"].unique() if is_first(one)]
            assert len(same) == 1, (title, both["series"].unique())
            assert both["series"].nunique() == 2, title
            pd.testing.assert_frame_equal(numbers(table, series), numbers(both, same[0]))
            compared += len(table)
    assert compared > 100


def is_first(series: str) -> bool:
    return series.startswith("lab-1a2b3c") and "cpu modelled:tdp" not in series


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_failed_or_is_invalid_is_in_no_figure(lab: Lab, read_pages: Read) -> None:
    land_grid(lab, "clean")
    land_grid(lab, "s")
    wrong = Doubt(code="no_joules", seen="0 J", remedy="look", severity="invalid")
    measured = records.read_record(GOLDEN).measurement
    assert measured is not None
    lab.land(sweep="s", doubts=[wrong], measurement=scaled(measured, 1000))
    failure = Failure(kind="oom", message="full")
    lab.land(sweep="s", status="FAILED", measurement=None, failure=failure)

    clean, found = read_pages("clean"), read_pages("s")

    for name, page in clean.items():
        if name in ("quality", "compare"):  # quality counts them; compare has an earlier sweep
            continue
        for title, table in page.tables.items():
            pd.testing.assert_frame_equal(numbers(table), numbers(found[name].tables[title]))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_missing_accuracy_is_no_accuracy(lab: Lab, read_pages: Read) -> None:
    measured = records.read_record(GOLDEN).measurement
    assert measured is not None
    nothing = replace(measured.evaluation, accuracy=float("nan"), loss=float("nan"))
    land_grid(lab, "s", measurement=replace(measured, evaluation=nothing))

    pages = read_pages("s")

    assert pages["macs"].figures
    assert pages["durations"].figures
    claims = pages["claims"].tables["claims_ledger"]
    accuracy = claims[claims["claim"] == "accuracy_unrelated_to_energy"]
    assert accuracy["verdict"].tolist() == ["not decidable"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_single_run_says_which_runs_are_missing(lab: Lab, read_pages: Read) -> None:
    lab.sweep("s")
    lab.land(sweep="s")

    pages = read_pages("s")

    for name in ("macs", "batch_size", "compare"):
        assert pages[name].missing, name
        assert all("python -m" in said or "AGAINST" in said for said in pages[name].missing)
    verdicts = set(pages["claims"].tables["claims_ledger"]["verdict"])
    assert verdicts == {"not decidable"}
    assert pages["power"].figures


def test_an_empty_sweep_says_so_everywhere(lab: Lab, read_pages: Read) -> None:
    lab.sweep("s")

    pages = read_pages("s")

    assert all(page.missing for page in pages.values()), {n: p.missing for n, p in pages.items()}
    assert not any(page.figures for page in pages.values())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_that_runs_is_shown_as_far_as_it_is(lab: Lab, read_pages: Read) -> None:
    lab.sweep("s", num_cells=48)
    for size in BATCH_SIZES:
        lab.land(
            sweep="s",
            choices={"batch_size": str(size)},
            config={"batch_size": {"size": size}},
        )

    pages = read_pages("s")

    assert pages["power"].figures
    assert pages["batch_size"].figures
