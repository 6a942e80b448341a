import argparse
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pandas import DataFrame

from multirun_analysis import commands, contrast, pairing
from multirun_analysis import compare as command
from multirun_analysis.contrast import Comparisons
from multirun_analysis.figures import compare as figures
from multirun_analysis.pairing import NotComparableError, Pair
from multirun_analysis.runs import NothingToShow

J = "energy/net_per_sample_j"
S = "time/per_sample_s"
MODELS = ("lenet", "resnet18", "vgg19", "dpn26", "senet18", "googlenet")
CELLS = [(model, phase) for model in MODELS for phase in ("train", "inference")]


def work(model: str, phase: str = "train", num_samples: int = 512) -> str:
    settings = {
        "model": {"name": model},
        "batch_size": {"size": 128},
        "phase": {"kind": phase},
        "dataset": {"name": "cifar10", "num_samples": num_samples},
    }
    return json.dumps(settings, sort_keys=True)


def rows(
    values: Sequence[float], model: str = "lenet", phase: str = "train", **more: Any
) -> list[dict[str, Any]]:
    """One row per repetition, as runs.load would make it."""
    like = {
        "sweep": "sweep",
        "verdict": "PASS",
        "doubts": "",
        "model": model,
        "phase": phase,
        "batch_size": 128.0,
        "machine": "m1",
        "series": "m1",
        "work": work(model, phase),
        "source_gpu": "measured:nvml",
        "source_cpu": "measured:rapl",
        "source_dram": "absent",
        "coverage": "gpu+cpu",
        "modelled": "",
        "work/samples": 1024.0,
    }
    return [{**like, J: value, S: value / 50, **more} for value in values]


def frame(*groups: list[dict[str, Any]], sweep: str = "A") -> DataFrame:
    return DataFrame([row for group in groups for row in group]).assign(sweep=sweep)


def sweep(seed: int, *, factor: float = 1.0, noise: float = 0.02, num: int = 5) -> DataFrame:
    """Twelve cells of different size, each with normal scatter in its logarithm."""
    rng = np.random.default_rng(seed)
    return frame(
        *(
            rows(factor * (at + 1) * np.exp(noise * rng.standard_normal(num)), *cell)
            for at, cell in enumerate(CELLS)
        )
    )


# ------------------------------------------------------------------------------ ratios


# ln(2.0, 2.2) = 0.6931, 0.7885: mean 0.7408; ln(4.0, 4.4) is ln 2 more. Each has variance 0.004542,
# error √(2 · 0.004542 / 2) = 0.06739, 2 degrees: ± 4.3027 · 0.06739 = 0.28997.
def test_ratio_and_interval_by_hand() -> None:
    found = contrast.compare(frame(rows([2.0, 2.2])), frame(rows([4.0, 4.4])), J)
    (cell,) = found.cells
    assert cell.ratio.value == pytest.approx(2)
    assert cell.ratio.low == pytest.approx(2 * math.exp(-0.28997), rel=1e-4)
    assert cell.ratio.high == pytest.approx(2 * math.exp(0.28997), rel=1e-4)
    assert cell.verdict == "more"
    assert (found.name_a, found.name_b) == ("A", "A")
    row = found.table.iloc[0]
    assert (row["a"], row["b"]) == pytest.approx((math.sqrt(4.4), math.sqrt(17.6)))


# Ratios 2, 4 and 8: geometric mean 4; logs in units of ln 2 are 1, 2, 3: 2 ± 2.4841.
def test_all_cells_together_by_hand() -> None:
    a = frame(*(rows([1.0], model) for model in MODELS[:3]))
    b = frame(*(rows([r], model) for r, model in zip((2.0, 4.0, 8.0), MODELS, strict=False)))
    overall = contrast.compare(a, b, J).overall
    bounds = [2 ** (2 - 2.48414), 2 ** (2 + 2.48414)]
    assert [overall.value, overall.low, overall.high] == pytest.approx([4, *bounds], rel=1e-4)
    assert overall.num == 3
    assert contrast.compare(a, b, J).p_wilcoxon == pytest.approx(0.25)  # 2 of 2³ signs


def test_two_cells_have_a_mean_ratio_and_no_interval() -> None:
    a = frame(rows([1.0], "lenet"), rows([1.0], "vgg19"))
    b = frame(rows([2.0], "lenet"), rows([8.0], "vgg19"))
    found = contrast.compare(a, b, J)
    assert found.overall.value == pytest.approx(4)
    assert math.isnan(found.overall.low)
    assert math.isnan(found.p_wilcoxon)


# 10 % and 20 % of uncertainty: √(0.01 + 0.04) = 0.2236 in the logarithm.
def test_single_runs_have_the_interval_of_their_own_uncertainty() -> None:
    u95 = "energy/net_u95_per_sample_j"
    a, b = frame(rows([1.0], **{u95: 0.1})), frame(rows([3.0], **{u95: 0.6}))
    (cell,) = contrast.compare(a, b, J).cells
    assert cell.ratio.high == pytest.approx(3 * math.exp(0.22361), rel=1e-4)
    assert cell.verdict == "not decidable without repetitions"
    assert math.isnan(cell.p_welch)
    assert not cell.is_repeated
    (cell,) = contrast.compare(a, b, S).cells
    assert math.isnan(cell.ratio.low)


def test_negative_energy_has_a_verdict_and_no_ratio() -> None:
    a, b = frame(rows([-0.1, 0.1, 0.05])), frame(rows([3.0, 3.1, 3.05]))
    (cell,) = contrast.compare(a, b, J).cells
    assert math.isnan(cell.ratio.value)
    assert cell.verdict == "more"
    assert "1 more have values ≤ 0" in contrast.compare(a, b, J).summary
    with pytest.raises(NothingToShow, match="above zero"):
        figures.forest(contrast.compare(a, b, J))


# ------------------------------------------------------------------------------ finds


def pair(seed: int, at: int, noise: float) -> Pair:
    values = (at + 1) * np.exp(noise * np.random.default_rng([seed, at]).standard_normal((2, 5)))
    return Pair(
        work=f"{at}",
        label=f"{at}",
        model="",
        phase="",
        batch_size=128.0,
        values_a=tuple(values[0]),
        values_b=tuple(values[1]),
        u95_a=math.nan,
        u95_b=math.nan,
    )


def test_a_sweep_against_itself_differs_in_at_most_one_of_twenty_comparisons() -> None:
    significant = sweeps = 0
    for seed in range(200):
        noise = 0.02 + 0.03 * (seed % 4) / 3
        found = contrast.compare_pairs([pair(seed, at, noise) for at in range(12)])
        num = sum(cell.verdict in {"less", "more"} for cell in found)
        significant, sweeps = significant + num, sweeps + (num > 0)
    assert significant / (200 * 12) <= 0.05
    assert sweeps / 200 <= 0.08  # Holm: 5 % of sweeps have any, give or take 1.5


def test_a_planted_tenth_is_found() -> None:
    found = [
        cell
        for seed in range(25)
        for cell in contrast.compare(sweep(seed), sweep(seed + 500, factor=1.1), J).cells
    ]
    assert np.mean([cell.verdict == "more" for cell in found]) >= 0.95
    assert np.mean([cell.ratio.low <= 1.1 <= cell.ratio.high for cell in found]) >= 0.92


# ------------------------------------------------------------------------------ refusals


def test_other_work_is_left_out_with_what_differs() -> None:
    a = frame(rows([1.0], "vgg19"), rows([1.0], work=work("lenet", num_samples=512)))
    b = frame(rows([1.0], "vgg19"), rows([1.0], work=work("lenet", num_samples=1024)))
    found = contrast.compare(a, b, J)
    assert [cell.pair.model for cell in found.cells] == ["vgg19"]
    assert found.left_out == (
        "1 left out, different work, dataset.num_samples: 512 against 1,024: lenet train 128",
    )


def test_nothing_in_common_is_refused_with_what_differs() -> None:
    a, b = frame(rows([1.0])), frame(rows([1.0], work=work("lenet", num_samples=1024)))
    with pytest.raises(NotComparableError, match=r"dataset\.num_samples: 512 against 1,024"):
        contrast.compare(a, b, J)


def test_cells_of_one_side_only_are_named() -> None:
    a = frame(rows([1.0], "vgg19"), rows([1.0], "lenet"))
    b = frame(rows([1.0], "vgg19"), rows([1.0], "dpn26"))
    assert contrast.compare(a, b, J).left_out == (
        "1 left out, in A only: lenet train 128",
        "1 left out, in B only: dpn26 train 128",
    )


def test_cells_whose_work_is_not_known_are_never_matched() -> None:
    a, b = frame(rows([1.0], work="")), frame(rows([1.0], work=""))
    with pytest.raises(NotComparableError, match="before greenlab kept"):
        contrast.compare(a, b, J)


def test_totals_of_different_numbers_of_samples_are_left_out() -> None:
    total = {"energy/net_j": 5.0}
    a = frame(rows([1.0], **total))
    b = frame(rows([1.0], **{**total, "work/samples": 2048.0}))
    with pytest.raises(NotComparableError, match=r"1,024; 2,048.*energy/net_per_sample_j"):
        contrast.compare(a, b, "energy/net_j")
    assert len(contrast.compare(a, b, J).cells) == 1


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("energy/net_j", True),
        ("energy/net_gpu_j", True),
        ("time/active_s", True),
        (J, False),
        (S, False),
        ("time/samples_per_s", False),
        ("power/mean_w", False),
        ("task/accuracy", False),
    ],
)
def test_which_metrics_are_totals(metric: str, expected: bool) -> None:
    assert pairing.is_total(metric) is expected


def test_several_series_are_refused_unless_one_is_picked() -> None:
    a = frame(rows([1.0]), rows([9.0], machine="m2", series="m2"))
    b = frame(rows([2.0]))
    with pytest.raises(NotComparableError, match=r"A holds 2 series.*m1; m2.*--series-a='m1'"):
        contrast.compare(a, b, J)
    with pytest.raises(NotComparableError, match="B holds 2 series"):
        contrast.compare(b, a, J)
    assert contrast.compare(a, b, J, series_a="m1").cells[0].ratio.value == 2
    with pytest.raises(NotComparableError, match="--series-a=m3: A has no such series"):
        contrast.compare(a, b, J, series_a="m3")


def test_two_machines_are_compared_and_named() -> None:
    a, b = frame(rows([1.0])), frame(rows([2.0], machine="m2", series="m2"))
    found = contrast.compare(a, b, J)
    assert found.heading == ["A: A (m1)", "B: A (m2)", "They differ in machine: m1 against m2."]


def test_totals_of_different_components_are_refused() -> None:
    gpu = {"energy/net_gpu_j": 1.0}
    a, b = frame(rows([1.0], **gpu)), frame(rows([1.0], source_gpu="absent", **gpu))
    with pytest.raises(NotComparableError, match=r"A covers gpu\+cpu, B covers cpu.*net_cpu_j"):
        contrast.compare(a, b, J)
    with pytest.raises(NotComparableError, match="A covers gpu, B covers none"):
        contrast.compare(a, b, "energy/net_gpu_j")
    assert len(contrast.compare(a, b, S).cells) == 1


def test_measured_joules_are_not_compared_with_modelled() -> None:
    gpu = {"energy/net_gpu_j": 1.0, "energy/net_cpu_j": 1.0}
    a = frame(rows([1.0], **gpu))
    b = frame(rows([1.0], source_cpu="modelled:tdp", modelled="cpu", **gpu))
    for metric in (J, "energy/net_cpu_j"):
        with pytest.raises(NotComparableError, match=r"cpu is measured in A and modelled in B"):
            contrast.compare(a, b, metric)
    assert contrast.compare(a, b, "energy/net_gpu_j").modelled == ""
    assert contrast.compare(a, b, S).modelled == ""


def test_modelled_on_both_sides_is_compared_and_said() -> None:
    modelled = {"source_cpu": "modelled:tdp", "modelled": "cpu"}
    a, b = frame(rows([1.0], **modelled)), frame(rows([1.0], **modelled))
    found = contrast.compare(a, b, J)
    assert found.modelled == "cpu"
    assert "~modelled: cpu" in "\n".join(found.heading)


def test_a_metric_that_is_not_there_is_refused_with_those_that_are_close() -> None:
    with pytest.raises(NotComparableError, match="Did you mean energy/net_per_sample_j"):
        contrast.compare(frame(rows([1.0])), frame(rows([1.0])), "energy/net_per_sampel_j")


def test_a_metric_of_one_side_only_is_refused() -> None:
    a, b = frame(rows([1.0], **{"task/loss": 1.0})), frame(rows([1.0]))
    with pytest.raises(NotComparableError, match="B has no task/loss"):
        contrast.compare(a, b, "task/loss")


def test_an_empty_sweep_is_refused() -> None:
    with pytest.raises(NotComparableError, match="B has no finished cell"):
        contrast.compare(frame(rows([1.0])), frame(rows([1.0])).iloc[:0], J)


def test_warnings_are_counted() -> None:
    a = frame(rows([1.0, 1.1], verdict="WARN", doubts="short_window"))
    left_out = contrast.compare(a, frame(rows([1.0])), J).left_out
    assert left_out == (
        "2 of A's 2 cells have warnings (short_window), and are compared all the same",
    )


# ------------------------------------------------------------------------------ gate


def test_the_gate_fails_what_is_worse_and_passes_what_is_not() -> None:
    worse = contrast.compare(sweep(0), sweep(1, factor=1.2), J)
    assert len(contrast.gate(worse, 1.05).worse) == 13  # each cell, and all of them
    assert not contrast.gate(worse, 1.3).worse
    assert not contrast.gate(contrast.compare(sweep(0), sweep(1), J), 1.05).worse
    assert not contrast.gate(contrast.compare(sweep(1, factor=1.2), sweep(0), J), 1.05).worse


def test_a_gate_that_scatter_lets_pass_says_so() -> None:
    unsure = contrast.compare(sweep(0, noise=0.2, num=2), sweep(1, noise=0.2, num=2), J)
    assert contrast.gate(unsure, 1.05).num_unsure > 6
    sure = contrast.compare(sweep(0, noise=0.002), sweep(1, noise=0.002), J)
    assert contrast.gate(sure, 1.05).num_unsure == 0


def test_one_worse_cell_fails_the_gate() -> None:
    a, b = sweep(0), sweep(1)
    b.loc[(b["model"] == "vgg19") & (b["phase"] == "train"), J] *= 1.3
    (reason,) = contrast.gate(contrast.compare(a, b, J), 1.05).worse
    assert reason.startswith("vgg19 train 128: B / A = 1.")


def test_where_more_is_better_less_fails_the_gate() -> None:
    speed = "time/samples_per_s"
    a, b = sweep(0), sweep(1)
    a[speed], b[speed] = 1000 / a[J], 1000 / (1.2 * b[J])  # B is slower by a sixth
    assert len(contrast.gate(contrast.compare(a, b, speed), 1.05).worse) == 13
    assert not contrast.gate(contrast.compare(b, a, speed), 1.05).worse


def test_a_gate_that_lacks_a_cell_does_not_pass() -> None:
    a, b = sweep(0), sweep(1)
    gated = contrast.gate(contrast.compare(a, b[b["model"] != "vgg19"], J), 1.05)
    assert (gated.num_missing, gated.worse, gated.is_decidable) == (2, (), False)
    assert contrast.gate(contrast.compare(a, b, J), 1.05).is_decidable


def test_a_gate_beyond_which_every_interval_reaches_is_not_passed() -> None:
    a, b = frame(rows([1.0, 3.0])), frame(rows([1.1, 2.9]))
    assert not contrast.gate(contrast.compare(a, b, J), 1.05).is_decidable


# Four ratios of 2 within 2 %, of runs that are known to a factor e: so is no mean of them better
# than to e^(1·√2/√4).
def test_the_mean_of_all_cells_is_no_surer_than_they_are() -> None:
    cells = [
        rows([1.0 + 0.01 * at], model, **{"energy/net_u95_per_sample_j": 1.0})
        for at, model in enumerate(MODELS[:4])
    ]
    twice = [
        rows([2.0 + 0.01 * at], model, **{"energy/net_u95_per_sample_j": 2.0})
        for at, model in enumerate(MODELS[:4])
    ]
    overall = contrast.compare(frame(*cells), frame(*twice), J).overall
    assert math.log(overall.high / overall.value) == pytest.approx(math.sqrt(2) / 2, rel=0.03)


def test_modelled_energy_by_other_numbers_is_refused() -> None:
    modelled = {"source_cpu": "modelled:tdp", "modelled": "cpu"}
    a = frame(rows([1.0, 1.1], meters='{"cpu": "TDP 65 W"}', **modelled))
    b = frame(rows([2.0, 2.1], meters='{"cpu": "TDP 125 W"}', **modelled))
    with pytest.raises(NotComparableError, match="what was assumed"):
        contrast.compare(a, b, J)
    assert contrast.compare(a, b, S).overall.value > 1  # seconds are seconds


def test_accuracy_of_weights_that_were_not_trained_is_refused() -> None:
    name = "task/accuracy"
    a, b = (frame(rows([1.0, 1.1], phase="inference", **{name: acc})) for acc in (0.1, 0.12))
    with pytest.raises(NotComparableError, match="not trained"):
        contrast.compare(a, b, name)


def test_single_runs_are_gated_together() -> None:
    a, b = sweep(0, num=1), sweep(1, num=1, factor=1.2)
    gated = contrast.gate(contrast.compare(a, b, J), 1.05)
    assert (gated.num_tested, gated.is_overall_clear) == (0, True)
    assert len(gated.worse) == 1


def test_what_cannot_be_tested_is_not_decidable() -> None:
    found = contrast.compare(frame(rows([1.0])), frame(rows([9.0])), J)
    assert not contrast.gate(found, 1.05).is_decidable


# ------------------------------------------------------------------------------ command


SWEEPS = {
    "before": sweep(0),
    "after": sweep(1, factor=1.2),
    "once": frame(rows([1.0])),
    "model": frame(rows([1.0, 1.01], source_cpu="modelled:tdp", modelled="cpu")),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(command, "_load_both", lambda given: (SWEEPS[given.a], SWEEPS[given.b]))

    def call(*texts: str) -> int:
        parser = argparse.ArgumentParser()
        commands.compare(parser)
        return command.main(parser.parse_args(texts))

    return call


def test_command_prints_energy_beside_time(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("before", "after") == 0
    printed = capsys.readouterr().out
    for metric in (J, S):
        assert re.search(rf"{metric}: B / A = 1\.(19|20)\d .*; 0 less, 12 more after Holm", printed)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["before", "after", "--gate", "1.05"], 1),
        (["after", "before", "--gate", "1.05"], 0),
        (["before", "after", "--gate", "1.3", "--metric", J], 0),
        (["once", "once", "--gate", "1.05"], 2),
        (["before", "after", "--metric", "energy/nett_j"], 2),
        (["before", "model"], 0),  # energy is refused, time is compared
        (["before", "model", "--metric", J], 2),
        (["before", "model", "--gate", "1.05"], 2),
    ],
)
def test_exit_code(run: Any, arguments: list[str], code: int) -> None:
    assert run(*arguments) == code


def test_what_is_refused_says_so_on_stderr(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("before", "model", "--gate", "1.05")
    assert "error: energy/net_per_sample_j: cpu is measured in A" in capsys.readouterr().err


@pytest.mark.parametrize("edge", ["0", "-1", "nan", "inf", "much"])
def test_a_gate_is_a_ratio(run: Any, edge: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("before", "after", f"--gate={edge}")


def test_files_hold_all_of_it(run: Any, tmp_path: Path) -> None:
    assert run("before", "after", f"--json={tmp_path}/c.json", f"--csv={tmp_path}/c.csv") == 0
    pages = json.loads((tmp_path / "c.json").read_text())
    assert [page["metric"] for page in pages] == [J, S]
    assert len(pages[0]["cells"]) == 12
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 25
    assert run("once", "once", f"--json={tmp_path}/c.json") == 0
    (energy, _) = json.loads((tmp_path / "c.json").read_text())
    assert energy["cells"][0]["p_welch"] is None


def test_a_file_that_cannot_be_written_is_refused(run: Any, tmp_path: Path) -> None:
    assert run("before", "after", f"--json={tmp_path}/nowhere/c.json") == 2


@pytest.mark.parametrize("name", ["all", "x,y"])
def test_one_sweep_is_compared_with_one(name: str) -> None:
    with pytest.raises(command.GreenlabError, match="one sweep"):
        command._sweep(name, ["x", "y"])


def test_sweeps_by_age() -> None:
    assert command._sweep("newest", ["y", "x"]) == "y"
    assert command._sweep("previous", ["y", "x"]) == "x"
    with pytest.raises(command.GreenlabError, match="1 sweeps only"):
        command._sweep("previous", ["y"])


# ------------------------------------------------------------------------------ figure


def mixed() -> Comparisons:
    a, b = sweep(0), sweep(1, factor=1.1)
    b.loc[b["model"] == "lenet", J] *= 0.7
    b.loc[b["model"] == "dpn26", J] /= 1.1
    alone = b["model"] != "senet18"
    u95 = {"energy/net_u95_per_sample_j": 0.08}
    b = frame(b[alone].to_dict("records"), rows([11.0], "senet18", **u95), sweep="B")
    return contrast.compare(a.assign(**u95), b, J)


def test_forest_shows_each_cell_and_all_of_them() -> None:
    found = mixed()
    (axes,) = figures.forest(found, 1.05).axes
    assert [text.get_text() for text in axes.get_yticklabels()][-1] == "all cells"
    assert len(axes.get_yticks()) == len(found.cells) + 1
    low, high = axes.get_xlim()
    for cell in found.cells:
        assert low < cell.ratio.low
        assert cell.ratio.high < high


def test_the_notebook_compares_with_the_newest_earlier_sweep_of_the_same_work() -> None:
    a = frame(rows([1.0]), sweep="b")

    class Source:
        def sweeps(self) -> DataFrame:
            return DataFrame({"sweep": ["later", "b", "other", "same", "older"]})

        def runs(self, sweeps: Sequence[str]) -> Any:
            works = {"other": work("vgg19"), "same": work("lenet"), "older": work("lenet")}
            return SimpleNamespace(tags=DataFrame({"greenlab.work": [works[sweeps[0]]]}))

    found: Any = SimpleNamespace(sweep_names=("b",), cells=a, source=Source())
    assert command.earlier_sweep(found) == "same"
    found.cells = frame(rows([1.0], "dpn26"))
    with pytest.raises(NothingToShow, match="an earlier sweep of the same work"):
        command.earlier_sweep(found)
    found.sweep_names = ("b", "same")
    with pytest.raises(NothingToShow, match="AGAINST=before"):
        command.earlier_sweep(found)
