"""Figures of cells that were really measured: the sweep kept under docs/results."""

import json
import math
import re
from pathlib import Path
from statistics import median

import pandas as pd
import pytest
from conftest import ROOT
from pandas import DataFrame

from multirun_analysis import claims, estimates, runs
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


# ------------------------------------------------------------------------ an H200, real joules


@pytest.fixture(scope="module")
def h200() -> DataFrame:
    return read("h200_cells.csv")


def readme_says(*texts: str) -> None:
    section = (ROOT / "README.md").read_text().partition("## Knowing the bill")[2]
    told = " ".join(section.partition("\n## ")[0].split())
    for text in texts:
        assert text in told


def test_what_readme_says_of_the_h200s_profiles_is_in_the_file_that_it_names() -> None:
    pairs = pd.read_csv(RESULTS / "h200_backtest.csv")
    train = pairs[(pairs["phase"] == "train") & pairs["is_whole"]]
    assert len(train) == train["model"].nunique() == 16
    assert train["net_is_inside"].all()
    error = train["net_error_percent"].abs()
    # LeNet took 9.5 J, and the counter is sure of them to 17 J: run's own doubt.
    others = error[train["model"] != "lenet"]
    readme_says(
        f"to {error.mean():.1f} % on average",
        f"{others.mean():.1f} % without LeNet",
        f"{train['time_error_percent'].abs().mean():.1f} %: small models wait",
    )


def test_what_readme_says_of_predictors_on_the_h200_is_in_the_file_that_it_names(
    h200: DataFrame,
) -> None:
    assert set(h200["source_gpu"]) == {"measured:nvml"}
    idle_w = h200["power/idle_gpu_w"]
    train = h200[h200["phase"] == "train"]
    rho = train["energy/net_per_sample_j"].corr(train["model/macs_per_parameter"], "spearman")
    scores = estimates.score(h200, h200["machine"].iloc[0], "train")
    laws = {law.predictors: law for law in scores.rankings["net_j"].laws}
    best = laws["macs", "activation_bytes"]
    papers = laws[("macs_per_parameter",)]
    readme_says(
        f"{idle_w.median():.0f} W of idle",
        f"ρ = {rho:.2f} [",
        f"not seen to {best.left_out.median_percent:.0f} % in the median",
        f"MACs per parameter to {papers.left_out.median_percent:.0f} %",
    )


@pytest.mark.parametrize("name", ["backtest_simulated", "backtest_vm", "h200_backtest"])
def test_what_readme_says_of_profiles_is_in_the_files_that_it_names(name: str) -> None:
    [line] = [
        line
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| [") and f"{name}.csv" in line
    ]
    shown = [cell.strip(" ~%") for cell in line.split("|")[2:8]]
    pairs = pd.read_csv(RESULTS / f"{name}.csv")
    whole = pairs[pairs["is_whole"]]
    assert int(shown[0]) == len(whole)
    columns = ["share_percent", "net_error_percent", "net_is_inside"]
    for text, column in zip(
        shown[1:], [*columns, "time_error_percent", "time_is_inside"], strict=True
    ):
        scale = 100 if column.endswith("is_inside") else 1
        digits = len(text.partition(".")[2])
        assert float(text) == pytest.approx(
            scale * whole[column].abs().mean(), abs=0.51 * 10**-digits
        )


# -------------------------------------------------------------------------- greenlab's own speed


def test_what_limits_a_forward_pass_is_what_was_measured() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    [path] = [RESULTS / name for name in re.findall(r"results/(limits-\S+?\.json)", page)]
    figures = {one["name"]: median(one["values"]) for one in json.loads(path.read_text())}

    assert f"{figures['matrix product']:.0f} GFLOP/s" in page
    assert f"{figures['copy']:.1f} GB/s" in page
    for name, shown in (
        ("lenet", "LeNet"),
        ("mobilenet_v2", "MobileNetV2"),
        ("resnet18", "ResNet-18"),
        ("vgg16", "VGG-16"),
    ):
        pass_ms = figures[f"{name}, forward pass"]
        arithmetic_ms, memory_ms = figures[f"{name}, by arithmetic"], figures[f"{name}, by memory"]
        digits = 1 if name == "lenet" else 0
        row = " | ".join(f"{ms:,.{digits}f} ms" for ms in (pass_ms, arithmetic_ms, memory_ms))
        reached = 100 * max(arithmetic_ms, memory_ms) / pass_ms
        assert f"| {shown} | {row} | {reached:.0f} % |" in page


def test_readmes_table_of_speed_is_what_was_measured() -> None:
    section = (ROOT / "README.md").read_text().partition("## Speed")[2].partition("\n## ")[0]
    [path] = [RESULTS / name for name in re.findall(r"results/(benchmarks-\S+?\.json)", section)]
    measured = {
        f"{one['name']}, {one['unit']}".strip(): f"{one['median']:.3g}"
        for figures in json.loads(path.read_text())["benchmarks"].values()
        for one in figures
    }
    table = section.partition("| median |")[2].splitlines()[2:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table if "|" in line]

    assert len(rows) >= 10
    assert {row[0]: row[1] for row in rows}.items() <= measured.items()
