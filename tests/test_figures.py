"""What the figures draw, from sweeps made up so that the numbers are known; not how it looks."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from multirun_analysis import statistics, style
from multirun_analysis.figures import (
    batch_size,
    durations,
    learning,
    macs,
    parts,
    power,
    quality,
    utilisation,
)
from multirun_analysis.runs import NothingToShow

MODELS = {"lenet": 1e6, "mobilenet": 5e7, "vgg16": 3e8, "resnet18": 5.5e8, "googlenet": 1.5e9}
"""With their MACs; parameters are 1e6 and 2e6 in turn."""
MARK = "~ modelled power (CPU: TDP × utilisation), not measured"


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are tested elsewhere; here they would take most of the time."""
    monkeypatch.setattr(statistics, "NUM_RESAMPLES", 200)


def cell(**changes: object) -> dict[str, object]:
    """A cell of lenet in training, 1,000 samples in 2 s: 20 W on the GPU of which 5 W are idle."""
    return {
        "run_id": "r",
        "name": "lenet",
        "sweep": "s",
        "status": "FINISHED",
        "verdict": "PASS",
        "doubts": "",
        "started_at_s": 0.0,
        "model": "lenet",
        "batch_size": 128.0,
        "phase": "train",
        "machine": "a",
        "modelled": "",
        "is_modelled": False,
        "source_gpu": "measured:nvml",
        "source_cpu": "absent",
        "source_dram": "absent",
        "repetition": 0,
        "series": "a",
        "energy/gross_j": 40.0,
        "energy/net_j": 30.0,
        "energy/net_u95_j": 3.0,
        "energy/net_per_sample_j": 0.03,
        "energy/net_u95_per_sample_j": 0.003,
        "power/mean_w": 20.0,
        "power/mean_gpu_w": 20.0,
        "power/idle_gpu_w": 5.0,
        "power/limit_gpu_w": 70.0,
        "utilisation/gpu_percent": 50.0,
        "utilisation/gpu_memory_used_bytes": 2e9,
        "time/active_s": 2.0,
        "time/per_sample_s": 0.002,
        "time/idle_before_s": 4.0,
        "time/idle_after_s": 6.0,
        "work/samples": 1000.0,
        "model/macs": 1e6,
        "model/parameters": 1e6,
        "model/macs_per_parameter": 1.0,
    } | changes


def sweep(
    series: str = "a",
    *,
    models: Sequence[str] = tuple(MODELS),
    phases: Sequence[str] = ("train", "inference"),
    faster: float = 1.0,
    repetitions: int = 1,
    **changes: object,
) -> pd.DataFrame:
    """Energy per sample is 1e-9 J per MAC; training takes three times as long as inference."""
    rows = []
    for at, model in enumerate(models):
        num_macs = MODELS[model]
        for phase in phases:
            times = 3.0 if phase == "train" else 1.0
            for repetition in range(repetitions):
                scatter = 1 + 0.1 * repetition
                rows.append(
                    cell(
                        **{
                            "run_id": f"{series}-{model}-{phase}-{repetition}",
                            "model": model,
                            "phase": phase,
                            "repetition": repetition,
                            "series": series,
                            "machine": series,
                            "started_at_s": 3600.0 * len(rows),
                            "energy/net_per_sample_j": num_macs * 1e-9 * times,
                            "energy/net_u95_per_sample_j": num_macs * 1e-10,
                            "time/per_sample_s": 1e-4 * (at + 1) * times * scatter / faster,
                            "model/macs": num_macs,
                            "model/parameters": 1e6 * (1 + at % 2),
                            "model/macs_per_parameter": num_macs / (1e6 * (1 + at % 2)),
                            "power/mean_gpu_w": 20.0 + 10 * at,
                            "power/mean_w": 20.0 + 10 * at,
                            "utilisation/gpu_percent": 20.0 * (at + 1),
                        }
                        | changes
                    )
                )
    return pd.DataFrame(rows)


def modelled(series: str = "b, ~modelled cpu") -> pd.DataFrame:
    """A machine without a GPU, its CPU power a model's."""
    absent = {f"power/{name}_gpu_w": np.nan for name in ("mean", "idle", "limit")}
    absent |= {"utilisation/gpu_percent": np.nan, "utilisation/gpu_memory_used_bytes": np.nan}
    sources = {"source_gpu": "absent", "source_cpu": "modelled:tdp"}
    frame = sweep(series, faster=0.1, modelled="cpu", is_modelled=True, **sources, **absent)
    percent = np.linspace(10, 90, len(frame))
    return frame.assign(
        **{
            "utilisation/cpu_percent": percent,
            "power/mean_cpu_w": 0.65 * percent,
            "power/idle_cpu_w": 1.0,
            "power/tdp_cpu_w": 65.0,
        }
    )


def two() -> pd.DataFrame:
    return pd.concat([sweep(), modelled()], ignore_index=True)


def paper() -> pd.DataFrame:
    frame = sweep("paper HC-3", faster=2.0)
    return frame.drop(columns=[name for name in frame if name.startswith("energy/net")])


def texts(figure: Figure) -> str:
    """All that is written on a figure."""
    own = [figure._supxlabel] if figure._supxlabel else []
    written = [text.get_text() for text in own]
    for legend in figure.legends:
        written += [text.get_text() for text in legend.get_texts()]
    for axes in shown(figure):
        written += [text.get_text() for text in axes.texts]
        written += [axes.get_title(loc=place) for place in ("left", "center")]
        written += [axes.get_xlabel(), axes.get_ylabel()]
    return "\n".join(written)


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def lines(axes: Axes, label: str) -> np.ndarray:
    """Points of the line or error bars drawn under a label, shape (points, 2)."""
    found = [c for c in axes.containers if c.get_label() == label]
    drawn = found[0][0] if found else next(n for n in axes.lines if n.get_label() == label)
    return np.column_stack([np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata())])


def bars(axes: Axes, label: str) -> list[tuple[float, float]]:
    """Begin and length of each horizontal bar under a label."""
    found = next(c for c in axes.containers if c.get_label() == label)
    return [(bar.get_x(), bar.get_width()) for bar in found.patches]


# ----------------------------------------------------------------------------------- style


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("energy/net_j", "net energy (J)"),
        ("energy/net_per_sample_j", "net energy per sample (J)"),
        ("energy/net_u95_per_sample_j", "95 % uncertainty of net energy per sample (J)"),
        ("energy/gross_gpu_j", "gross GPU energy (J)"),
        ("power/mean_w", "mean power (W)"),
        ("power/idle_cpu_w", "idle CPU power (W)"),
        ("power/limit_gpu_w", "GPU power limit (W)"),
        ("time/per_sample_s", "time per sample (s)"),
        ("time/samples_per_s", "samples per second"),
        ("utilisation/gpu_percent", "GPU utilisation (%)"),
        ("utilisation/gpu_memory_used_bytes", "GPU memory used (B)"),
        ("utilisation/gpu_slowed_fraction", "GPU slowed (0–1)"),
        ("model/macs_per_parameter", "MACs per parameter"),
        ("task/accuracy", "accuracy (0–1)"),
        ("epoch/loss", "loss"),
        ("epoch/net_j", "net energy per epoch (J)"),
    ],
)
def test_a_label_is_made_of_the_metrics_name_and_unit(metric: str, expected: str) -> None:
    assert style.label(metric) == expected


@pytest.mark.parametrize(
    ("values", "unit", "factor", "prefixed"),
    [
        ([0.0015, 0.12, 0.004], "J", 1e3, "mJ"),  # the middle, 0.004, is 4 mJ
        ([20_000.0, 3_000_000.0], "J", 1e-6, "MJ"),  # the middle is 1.51 MJ
        ([2e9], "B", 1e-9, "GB"),
        ([0.5], "B", 1, "B"),  # no thousandths of bytes
        ([9000.0], "s", 1, "s"),  # nobody reads kiloseconds
        ([250.0], "W", 1, "W"),
        ([0.01], "%", 1, "%"),
        ([], "J", 1, "J"),
        ([np.nan, 0.0], "J", 1, "J"),
    ],
)
def test_a_prefix_leaves_one_to_three_digits(
    values: list[float], unit: str, factor: float, prefixed: str
) -> None:
    scale = style.scale(values, unit)
    assert (scale.factor, scale.unit) == (pytest.approx(factor), prefixed)
    assert style.label("energy/net_per_sample_j", style.scale([0.004], "J")).endswith("(mJ)")


@pytest.mark.parametrize("ends", [(99.6, 103.0), (12.0, 19.0), (9.0, 40.0), (1.0, 900.0)])
def test_a_log_axis_has_numbers_however_narrow_it_is(ends: tuple[float, float]) -> None:
    figure, (axes,) = style.figure()
    axes.set(yscale="log", ylim=ends)
    style.plain_log(axes.yaxis)
    figure.draw_without_rendering()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert sum(ends[0] <= float(text.replace(",", "")) <= ends[1] for text in labels if text) >= 3


def test_a_legend_that_fits_has_one_row() -> None:
    def columns(*labels: str) -> int:
        figure, _ = style.figure()
        parts.legend_above(figure, [Line2D([], [], label=label) for label in labels])
        return int(figure.legends[0]._ncols)

    assert columns("machine, ~modelled cpu, batch size 32", "training", "inference") == 3
    assert columns("x" * 45, "y" * 45, "training", "inference") == 2
    assert columns("x" * 200) == 1


def test_series_differ_in_colour_and_marker_and_the_papers_is_grey() -> None:
    looks = style.looks(["a", "b", "paper HC-3", "a"])
    assert list(looks) == ["a", "b", "paper HC-3"]
    assert len({look.colour for look in looks.values()}) == 3
    assert len({look.marker for look in looks.values()}) == 3
    assert looks["paper HC-3"].colour == style.GREY
    assert style.looks(name for name in "ab").keys() == {"a", "b"}


def test_models_are_in_order_of_their_macs_and_those_without_come_last() -> None:
    frame = pd.concat([sweep(), pd.DataFrame([cell(model="aaa", **{"model/macs": np.nan})])])
    assert style.model_order(frame) == [*MODELS, "aaa"]


def test_the_mark_names_the_model_and_the_series_that_it_is_true_of() -> None:
    figure, _ = style.figure()
    style.mark_modelled(figure, sweep())
    assert texts(figure).strip() == ""
    style.mark_modelled(figure, modelled())
    assert texts(figure).strip() == MARK
    style.mark_modelled(figure, two())
    assert f"{MARK}\nin the series b, ~modelled cpu" in texts(figure)


# ----------------------------------------------------------------------------------- all figures

EPOCHS = {"epoch/net_j": 10.0, "epoch/loss": 1.0, "epoch/accuracy": 0.5}


def epochs_of(cells: pd.DataFrame, num: int = 3) -> pd.DataFrame:
    """Accuracy rises by a tenth per epoch, each epoch costs 10 J per model before it plus 10 J."""
    columns = ["run_id", "model", "phase", "series", "batch_size", "repetition", "is_modelled"]
    tables = []
    for step in range(num):
        own = cells[columns].assign(step=step, **EPOCHS)
        own["epoch/accuracy"] = 0.3 + 0.1 * step
        own["epoch/net_j"] = 10.0 * (1 + own["model"].map(list(MODELS).index))
        tables.append(own)
    return pd.concat(tables, ignore_index=True)


def batches(cells: pd.DataFrame) -> pd.DataFrame:
    """Energy per sample is 1 J + 8 J / batch size times the model's MACs in billions."""
    tables = []
    for size in (4.0, 8.0, 16.0, 32.0, 64.0):
        joules = cells["model/macs"] / 1e9 * (1 + 8 / size)
        changed = {"energy/net_per_sample_j": joules, "energy/net_u95_per_sample_j": 0.01 * joules}
        tables.append(cells.assign(batch_size=size, **changed))
    return pd.concat(tables, ignore_index=True)


def draw_all(cells: pd.DataFrame, left_out: pd.DataFrame) -> dict[str, Figure]:
    ledger = pd.DataFrame([{"sweep": "s", "ledger/useful_j": 3.0, "ledger/total_j": 4.0}])
    return {
        "durations": durations.draw(cells),
        "power": power.draw(cells),
        "utilisation": utilisation.draw(cells),
        "learning": learning.draw(epochs_of(cells), cells),
        "macs": macs.draw(cells),
        "macs_errors": macs.draw_errors(cells),
        "energy": batch_size.draw_energy(batches(cells)),
        "time": batch_size.draw_time(batches(cells)),
        "verdicts": quality.draw_verdicts(cells, left_out),
        "drift": quality.draw_drift(cells),
        "uncertainty": quality.draw_uncertainty(cells),
        "ledger": quality.draw_ledger(ledger, cells),
    }


NOTHING_LEFT_OUT = pd.DataFrame(columns=["verdict", "status"])


def test_every_figure_of_two_series_marks_the_modelled_and_joins_nothing() -> None:
    """Series b is ten times as slow, and its CPU's power a model's."""
    colours = {to_hex(look.colour).upper() for look in style.looks(two()["series"]).values()}
    cells = two()[two()["model"].isin(["lenet", "vgg16", "googlenet"])]
    for name, drawn in draw_all(cells, NOTHING_LEFT_OUT).items():
        assert MARK in texts(drawn), name
        assert "\nin the series b, ~modelled cpu" in texts(drawn), name
        num = 5 if name in {"energy", "time"} else 6  # batch sizes; models × phases
        for axes in shown(drawn):
            of_series = [n for n in axes.lines if to_hex(n.get_color()).upper() in colours]
            points = [len(n.get_xdata()) for n in of_series if n.get_label() != "fit"]
            assert max(points, default=0) <= num, name


@pytest.mark.parametrize("draw", [power.draw, quality.draw_drift])
def test_measured_power_is_not_marked(draw: Callable[[pd.DataFrame], Figure]) -> None:
    assert "~" not in texts(draw(sweep()))


@pytest.mark.parametrize(
    "draw",
    [
        durations.draw,
        power.draw,
        utilisation.draw,
        macs.draw,
        macs.draw_errors,
        batch_size.draw_energy,
        quality.draw_drift,
        quality.draw_uncertainty,
        lambda cells: learning.draw(epochs_of(sweep()).head(0), cells),
        lambda cells: quality.draw_verdicts(cells, cells),
    ],
)
def test_no_cells_are_told_as_a_sentence_with_a_command(
    draw: Callable[[pd.DataFrame], Figure],
) -> None:
    with pytest.raises(NothingToShow, match=r"\. For example: (python -m greenlab|make demo)"):
        draw(sweep().head(0))


def test_one_single_run_draws_what_can_be_drawn() -> None:
    one = sweep(models=["lenet"], phases=["train"])
    assert len(lines(durations.draw(one).axes[0], "a, training")) == 1
    assert bars(power.draw(one).axes[0], "gpu") == [(0, 20)]
    assert "training: ρ –, 1 model\n" in texts(utilisation.draw(one))
    with pytest.raises(NothingToShow, match="3 models"):
        macs.draw(one)
    with pytest.raises(NothingToShow, match="3 batch sizes"):
        batch_size.draw_energy(one)
    assert np.isnan(quality.drift(one)["w_per_hour"]).all()


def test_metrics_that_are_absent_leave_a_gap_and_no_zero() -> None:
    cells = sweep()
    gone = (cells["model"] == "vgg16") & (cells["phase"] == "train")
    for name in ("time/per_sample_s", "power/mean_gpu_w", "energy/net_per_sample_j"):
        cells.loc[gone, name] = np.nan
    train_s = durations.table(cells).set_index("model")["train_s"]
    assert np.isnan(train_s["vgg16"])
    assert train_s.notna().sum() == 4
    widths = [width for _, width in bars(power.draw(cells).axes[0], "gpu")]
    assert [width for width in widths if width == 0] == []
    assert np.isnan(widths).sum() == 1
    in_training = macs.predictions(cells).query("phase == 'train'")
    assert set(in_training["model"]) == set(MODELS) - {"vgg16"}


# ----------------------------------------------------------------------------------- durations


def test_durations_are_of_fifty_thousand_samples() -> None:
    """lenet: 3e-4 s per sample in training, 15 s for 50,000; 5 s in inference."""
    axes = durations.draw(sweep()).axes
    assert lines(axes[0], "a, training")[0] == pytest.approx([15.0, 0.0])
    assert lines(axes[0], "a, inference")[0] == pytest.approx([5.0, 0.0])
    assert lines(axes[1], "a")[:, 0] == pytest.approx([3.0] * 5)
    assert axes[0].get_xscale() == "linear"  # the slowest takes 15 times as long as the fastest
    assert [text.get_text() for text in axes[0].get_yticklabels()] == list(MODELS)


def test_durations_that_span_much_have_a_log_axis_and_each_series_its_own_rows() -> None:
    drawn = durations.draw(two(), paper())
    assert drawn.axes[0].get_xscale() == "log"
    found = [lines(drawn.axes[0], f"{name}, training") for name in ("a", "paper HC-3")]
    assert found[0][0, 0] == pytest.approx(15)
    assert found[1][0, 0] == pytest.approx(7.5)
    assert found[0][0, 1] != found[1][0, 1]
    assert "paper HC-3, batch size 128" in texts(drawn)


def test_repetitions_give_durations_and_ratios_an_interval() -> None:
    """lenet, training: 15 s and 16.5 s. Mean 15.75, sd 1.0607, t(1) = 12.706: ± 9.53 s."""
    row = durations.table(sweep(repetitions=2)).set_index("model").loc["lenet"]
    assert row["train_s"] == pytest.approx(15.75)
    assert row["train_high_s"] - row["train_s"] == pytest.approx(9.53, rel=1e-3)
    # Both relative half-widths are 9.53 / 15.75 = 0.605: the ratio's factor is exp(0.605 · √2).
    assert row["ratio_high"] / row["ratio"] == pytest.approx(np.exp(0.6051 * 2**0.5), rel=1e-3)
    assert np.isnan(durations.table(sweep())["ratio_high"]).all()


def test_correlation_of_durations_is_within_a_series() -> None:
    found = durations.correlations(two()).set_index("series")
    assert found["num_models"].to_dict() == {"a": 5, "b, ~modelled cpu": 5}
    assert found["pearson_r"].to_numpy() == pytest.approx([1, 1])
    assert found["median_ratio"].to_numpy() == pytest.approx([3, 3])


# ----------------------------------------------------------------------------------- power


def test_power_is_stacked_with_the_idle_share_inside_each_part() -> None:
    cells = sweep(**{"power/mean_cpu_w": 12.0, "power/idle_cpu_w": 9.0})
    axes = power.draw(cells).axes[0]
    assert bars(axes, "gpu") == [(0, 20), (0, 30), (0, 40), (0, 50), (0, 60)]
    assert bars(axes, "gpu idle") == [(0, 5)] * 5
    assert bars(axes, "cpu") == [(20, 12), (30, 12), (40, 12), (50, 12), (60, 12)]
    assert bars(axes, "cpu idle") == [(20, 9), (30, 9), (40, 9), (50, 9), (60, 9)]
    limits = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert limits == [70]


def test_no_idle_is_drawn_where_none_was_metered() -> None:
    drawn = power.draw(sweep(**{"power/idle_gpu_w": np.nan}))
    assert np.isnan([width for _, width in bars(drawn.axes[0], "gpu idle")]).all()
    assert "hatched" not in texts(drawn)


def test_training_and_inference_have_one_axis() -> None:
    drawn = power.draw(sweep())
    left, right = shown(drawn)
    assert left.get_xlim() == right.get_xlim()
    assert "training" in left.get_title(loc="left")
    assert right.get_title(loc="left") == "inference"


def test_each_series_has_a_row_of_power_panels_of_its_own() -> None:
    drawn = power.draw(two())
    assert len(shown(drawn)) == 4
    assert "CPU TDP 65 W" in texts(drawn)
    assert "CPU (~modelled)" in texts(drawn)


# ----------------------------------------------------------------------------------- utilisation


def test_markers_are_as_large_as_the_memory_used() -> None:
    cells = sweep(phases=["train"])
    cells["utilisation/gpu_memory_used_bytes"] = [1e9, 2e9, 2e9, 2e9, 4e9]
    axes = utilisation.draw(cells).axes[0]
    areas = axes.collections[-1].get_sizes()
    assert areas / areas[-1] == pytest.approx([0.25, 0.5, 0.5, 0.5, 1])


def test_a_bend_is_drawn_where_there_is_one() -> None:
    """Power rises by 1 W per percent up to 60 %, then by 0.1 W."""
    percent = np.linspace(5, 100, 20)
    watts = np.where(percent < 60, percent, 60 + 0.1 * (percent - 60))
    table = [
        cell(
            model=f"m{at}",
            **{"utilisation/gpu_percent": percent[at], "power/mean_gpu_w": watts[at]},
        )
        for at in range(20)
    ]
    axes = utilisation.draw(pd.DataFrame(table)).axes[0]
    corner = lines(axes, "bend")
    assert corner[1] == pytest.approx([60, 60], abs=1.5)
    assert corner[[0, 2], 1] == pytest.approx([5, 64], abs=1)
    scattered = sweep(phases=["train"], **{"power/mean_gpu_w": 50.0})
    scattered["power/mean_gpu_w"] = [20.0, 29.0, 42.0, 49.0, 61.0]
    straight = utilisation.draw(scattered).axes[0]
    assert "bend" not in [line.get_label() for line in straight.lines]


def test_a_tdp_models_straight_line_is_called_one() -> None:
    drawn = utilisation.draw(modelled())
    assert "it follows by construction" in texts(drawn)
    assert "CPU utilisation (%)" in texts(drawn)


def test_no_point_lies_under_the_note_that_power_is_modelled() -> None:
    cells = modelled()
    cells["power/mean_cpu_w"] = np.linspace(16.0, 15.0, len(cells))  # the idlest draws most
    drawn = utilisation.draw(cells)
    drawn.draw_without_rendering()
    for axes in drawn.axes:
        [note] = [text for text in axes.texts if "by construction" in text.get_text()]
        [points] = [one for one in axes.collections if isinstance(one, PathCollection)]
        lowest = note.get_window_extent().y0
        assert axes.transData.transform(np.asarray(points.get_offsets()))[:, 1].max() < lowest


# ----------------------------------------------------------------------------------- learning


def test_learning_shows_mean_and_range_over_models() -> None:
    """Five models cost 10, 20, 30, 40, 50 J an epoch: after 3 epochs 90 J on average, 30 to 150."""
    cells = sweep(phases=["train"])
    found = learning.table(epochs_of(cells)).set_index("epoch")
    assert found["cumulative_j_mean"].tolist() == [30, 60, 90]
    last = found.loc[3]
    assert (last["cumulative_j_min"], last["cumulative_j_max"]) == (30, 150)
    # An epoch gains 10 points: 1 to 5 J per point, 3 on average; unknown in the first.
    assert np.isnan(found.loc[1, "j_per_point_mean"])
    assert last["j_per_point_mean"] == pytest.approx(3)
    assert (last["j_per_point_min"], last["j_per_point_max"]) == pytest.approx((1, 5))
    axes = learning.draw(epochs_of(cells), cells).axes[2]
    assert lines(axes, "a")[:, 1].tolist() == [30, 60, 90]
    assert len([line for line in axes.lines if str(line.get_label()).startswith("_")]) == 5


def test_joules_per_point_has_a_gap_where_accuracy_did_not_rise() -> None:
    epochs = epochs_of(sweep(models=["lenet"], phases=["train"]), 4)
    epochs["epoch/accuracy"] = [0.3, 0.5, 0.4, 0.4]
    found = learning.per_model(epochs)["j_per_point"]
    assert found.iloc[1] == pytest.approx(0.5)  # 10 J for 20 points
    assert found.isna().tolist() == [True, False, True, True]


def test_missing_accuracy_leaves_loss_and_energy() -> None:
    cells = sweep(phases=["train"])
    drawn = learning.draw(epochs_of(cells).assign(**{"epoch/accuracy": np.nan}), cells)
    assert [axes.get_ylabel() for axes in drawn.axes] == [
        "training\nloss",
        "cumulative\nnet energy (J)",
    ]


def test_one_epoch_is_no_learning_curve() -> None:
    with pytest.raises(NothingToShow, match=r"two epochs or more\. .*phase\.epochs=10"):
        learning.draw(epochs_of(sweep(), 1), sweep())


# ----------------------------------------------------------------------------------- macs


def test_a_predictor_that_is_exact_has_the_error_factor_one() -> None:
    found = macs.table(sweep()).set_index(["phase", "predictor"])
    exact = found.loc[("train", "model/macs")]
    assert exact["median_error_factor"] == pytest.approx(1)
    assert exact["spearman_rho"] == pytest.approx(1)
    assert found.loc[("train", "model/parameters"), "median_error_factor"] > 1.5


def test_macs_are_drawn_with_numbers_and_a_key() -> None:
    drawn = macs.draw(sweep())
    points = drawn.axes[0].containers[0][0]
    assert np.asarray(points.get_xdata()) == pytest.approx(list(MODELS.values()))
    # Training energies are 3 mJ to 4.5 J, the middle 0.9 J: drawn in mJ.
    assert np.asarray(points.get_ydata()) == pytest.approx([3, 150, 900, 1650, 4500])
    assert "per sample (mJ)" in texts(drawn)
    assert "1  lenet" in texts(drawn)
    assert {text.get_text() for text in drawn.axes[0].texts} >= {"1", "2", "3", "4", "5"}


def test_net_energy_that_is_not_above_zero_is_counted_where_it_cannot_be_drawn() -> None:
    cells = sweep()
    cells.loc[cells["model"] == "lenet", "energy/net_per_sample_j"] = -0.001
    drawn = macs.draw(cells)
    assert len(drawn.axes[0].containers[0][0].get_xdata()) == 4
    assert "1 not above 0" in texts(drawn)


def test_the_papers_energies_are_called_gross() -> None:
    drawn = macs.draw(sweep(), paper())
    assert "paper HC-3, batch size 128: gross, idle was not subtracted" in texts(drawn)
    # 40 J over 1,000 samples, for each of its models.
    assert np.asarray(drawn.axes[0].containers[1][0].get_ydata()) == pytest.approx([40] * 5)


# ----------------------------------------------------------------------------------- batch size


def test_the_knee_is_where_energy_is_within_a_tenth_of_its_floor() -> None:
    """1 + 8 / b is within 10 % of its floor, 1, from b = 80 on: outside the sizes that were run."""
    found = batch_size.table(batches(sweep(models=["googlenet"], phases=["train"]))).iloc[0]
    assert found["floor_per_sample_j"] == pytest.approx(1.5, rel=0.01)
    assert found["knee_batch_size"] == pytest.approx(80, rel=0.05)
    assert found["knee_is_extrapolated"]
    assert found["best_batch_size_run"] == 64


def test_three_batch_sizes_have_no_knee_for_nobody_knows_how_sure() -> None:
    cells = batches(sweep(models=["googlenet"], phases=["train"]))
    three = cells[cells["batch_size"].isin(sorted(cells["batch_size"].unique())[:3])]
    found = batch_size.table(three).iloc[0]
    assert found["num_batch_sizes"] == 3
    assert math.isnan(found["knee_batch_size"])
    assert math.isnan(found["floor_per_sample_j"])
    drawn = batch_size.draw_energy(three)
    assert not {"fit", "knee"} & {line.get_label() for line in shown(drawn)[0].get_lines()}


def test_curves_have_a_panel_per_model_and_a_line_per_phase() -> None:
    drawn = batch_size.draw_energy(batches(two()))
    assert [axes.get_title(loc="left") for axes in shown(drawn)] == list(MODELS)
    first = shown(drawn)[0]
    labels = {container.get_label() for container in first.containers}
    series = ("a", "b, ~modelled cpu")
    assert labels == {f"{name}, {phase}" for name in series for phase in ("train", "inference")}
    # lenet: 1e-3 J · (1 + 8 / 4) = 3 mJ at batch size 4; all energies' middle is 0.6 J: in mJ.
    assert lines(first, "a, train")[0] == pytest.approx([4, 3])


def test_energy_below_zero_gets_a_linear_axis() -> None:
    cells = batches(sweep(models=["lenet"], phases=["train"]))
    cells.loc[0, "energy/net_per_sample_j"] = -0.001
    assert shown(batch_size.draw_energy(cells))[0].get_yscale() == "linear"


# ----------------------------------------------------------------------------------- quality


def test_verdicts_and_doubts_are_counted() -> None:
    cells = sweep(models=["lenet", "vgg16"])
    cells["verdict"] = ["PASS", "PASS", "WARN", "PASS"]
    cells["doubts"] = ["", "hot", "hot, idle_drift_gpu", ""]
    left_out = pd.DataFrame(
        [{"verdict": "INVALID", "status": "FINISHED"}, {"verdict": "", "status": "FAILED"}]
    )
    counts = quality.verdict_counts(cells, left_out).set_index("verdict")["num_cells"]
    assert counts.to_dict() == {"PASS": 3, "WARN": 1, "INVALID": 1, "FAILED": 1}
    doubts = quality.doubt_counts(cells).set_index("doubt")
    assert doubts["num_cells"].to_dict() == {"hot": 2, "idle_drift_gpu": 1}
    assert doubts.loc["hot", "percent_of_cells"] == 50
    above, below = quality.draw_verdicts(cells, left_out).axes
    assert [container.patches[0].get_width() for container in above.containers] == [3, 1, 1, 1]
    assert [bar.get_width() for bar in below.containers[0].patches] == [2, 1]


def test_drift_is_the_slope_of_idle_power_per_hour() -> None:
    """A cell an hour, each idling 0.5 W above the one before; one wild reading changes nothing."""
    cells = sweep()
    cells["power/idle_gpu_w"] = 5 + 0.5 * np.arange(len(cells))
    cells.loc[4, "power/idle_gpu_w"] = 90.0
    found = quality.drift(cells).iloc[0]
    assert found["w_per_hour"] == pytest.approx(0.5)
    assert found["num_cells"] == 10
    axes = quality.draw_drift(cells).axes[0]
    assert lines(axes, "_a")[:, 1] == pytest.approx([5, 9.5])


def test_uncertainty_is_relative_to_the_size_of_net_energy() -> None:
    cells = sweep(models=["lenet"])
    cells["energy/net_j"] = [30.0, -6.0]
    found = quality.uncertainty(cells)
    assert found["u95_percent"].tolist() == pytest.approx([10, 50])
    assert found["idle_s"].tolist() == [10, 10]


def test_the_ledgers_parts_add_up_to_its_total() -> None:
    sweeps = pd.DataFrame(
        [{"sweep": "s", "ledger/warm_up_j": 5.0, "ledger/useful_j": 15.0, "ledger/total_j": 20.0}]
    )
    found = quality.ledger(sweeps)
    assert found["part"].tolist() == ["useful", "warm up"]
    assert found["percent"].tolist() == [75, 25]
    axes = quality.draw_ledger(sweeps, sweep()).axes[0]
    assert bars(axes, "useful") == [(0, 15)]
    assert bars(axes, "warm up") == [(15, 5)]
    with pytest.raises(NothingToShow, match="sweep that has ended"):
        quality.draw_ledger(pd.DataFrame([{"sweep": "s"}]), sweep())


# ----------------------------------------------------------------------------------- names


def test_names_beside_points_that_lie_together_do_not_overlap() -> None:
    figure, (axes,) = style.figure()
    x, y = np.array([1.0, 1.0, 1.01, 5.0]), np.array([1.0, 1.01, 1.0, 5.0])
    axes.plot(x, y, "o")
    names = parts.Names(axes=axes, x=x, y=y, texts=["resnet18", "senet18", "preact", "vgg"])
    parts.name_points(figure, [names])
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the leading line
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[:at])
