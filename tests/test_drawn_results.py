"""Figures of cells that were really measured: the sweep kept under docs/results."""

import math
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from pandas import DataFrame

from multirun_analysis import claims, runs
from multirun_analysis.figures import batch_size, durations, learning, macs, pareto, power, quality
from multirun_analysis.figures import claims as claims_figure

RESULTS = ROOT / "docs" / "results"
TEXTS = [*runs.TEXTS, *runs.FACTORS, "name", "status", "series", "modelled"]


def read(name: str) -> DataFrame:
    """A table as `make analysis` wrote it: texts that are absent are '', numbers NaN."""
    frame = pd.read_csv(RESULTS / name)
    texts = [column for column in TEXTS if column in frame]
    return frame.assign(
        **{column: frame[column].astype(object).fillna("").astype(str) for column in texts}
    )


@pytest.fixture(scope="module")
def sixteen() -> DataFrame:
    return read("sixteen_models_cells.csv")


@pytest.fixture(scope="module")
def batches() -> DataFrame:
    return read("batch_sizes_cells.csv")


def test_the_sweep_holds_the_papers_models_in_both_phases(sixteen: DataFrame) -> None:
    assert sixteen.groupby("phase")["model"].nunique().tolist() == [16, 16]
    assert sixteen["series"].nunique() == 1
    assert set(sixteen["source_cpu"]) == {"modelled:tdp"}


# 50,000 × the seconds per sample that the table itself has.
def test_durations_are_drawn_where_they_were_measured(sixteen: DataFrame) -> None:
    drawn = durations.draw(sixteen)

    expected = {round(float(value), 6) for value in 50_000 * sixteen["time/per_sample_s"]}
    points = {
        round(float(x), 6)
        for line in drawn.axes[0].get_lines()
        for x in line.get_xdata()
        if line.get_marker() not in ("", "None", None) and math.isfinite(x)
    }
    assert points == expected
    assert len(points) == 32


def test_every_figure_of_them_can_be_drawn_and_says_modelled(
    sixteen: DataFrame, batches: DataFrame
) -> None:
    epochs = read("demo_epochs.csv")
    demo = read("demo_cells.csv")
    findings = claims.examine(sixteen, epochs)
    figures = [
        durations.draw(sixteen),
        power.draw(sixteen),
        macs.draw(sixteen),
        macs.draw_errors(sixteen),
        pareto.front(demo, "training"),
        learning.draw(epochs, demo),
        batch_size.draw_energy(batches),
        quality.draw_uncertainty(sixteen),
        claims_figure.ledger(sixteen, findings),
    ]
    for drawn in figures:
        told = " ".join(text.get_text() for text in drawn.findobj(lambda a: hasattr(a, "get_text")))
        assert "~ modelled power" in told


def test_no_claim_about_energy_is_decided_by_modelled_joules(sixteen: DataFrame) -> None:
    about_energy = [
        finding for finding in claims.examine(sixteen, DataFrame()) if finding.claim.of_energy
    ]

    assert about_energy
    assert {finding.verdict for finding in about_energy} == {"not decidable"}


def test_the_figure_in_the_readme_is_there() -> None:
    assert Path(RESULTS / "sixteen_models_durations.png").is_file()
