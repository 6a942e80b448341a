"""Predictions scored: from made-up pairs by hand, and from a store of profiles and full runs."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from profiled import full_run, profile

from greenlab import record
from greenlab.backtest import main
from greenlab.config import Mlflow
from greenlab.record import Record
from greenlab.tracking import open_store
from multirun_analysis import hits, predictions, runs, statistics
from multirun_analysis.figures import profiles
from multirun_analysis.runs import NothingToShow

Backtest = Callable[..., tuple[int, str, str]]


def pair(percent: float, *, half_percent: float = 5.0, **changes: object) -> dict[str, object]:
    """100 J and 10 s in truth, predicted with this error, ± so many per cent of the truth."""
    told: dict[str, object] = {}
    for name, unit in hits.QUANTITIES.items():
        truth = 10.0 if name == "time" else 100.0
        predicted = truth * (1 + percent / 100)
        half = truth * half_percent / 100
        told |= {
            f"{name}_true_{unit}": truth,
            f"{name}_predicted_{unit}": predicted,
            f"{name}_low_{unit}": predicted - half,
            f"{name}_high_{unit}": predicted + half,
            f"{name}_error_percent": percent,
            f"{name}_is_inside": float(abs(percent) <= half_percent),
        }
    fields = {
        "profile_id": "p",
        "run_id": f"r{percent}",
        "series": "a",
        "modelled": "",
        "is_modelled": False,
        "model": "lenet",
        "batch_size": 8.0,
        "phase": "train",
        "num_stretches": 3,
        "is_whole": True,
        "profile_s": 1.5,
        "run_s": 30.0,
        "share_percent": 5.0,
    }
    return fields | told | changes


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(hits.COLUMNS))


def of(table: pd.DataFrame, quantity: str) -> pd.Series:
    [row] = table[table["quantity"] == quantity].to_dict("records")
    return pd.Series(row)


# Errors of 1, −3 and 8 %: 4 % on average without their signs, 2 % with them; ± 5 % holds two.
def test_scores_are_coverage_and_errors_by_hand() -> None:
    found = of(hits.scores(frame(pair(1.0), pair(-3.0), pair(8.0))), "net")

    assert found["num_pairs"] == 3
    assert found["inside_fraction"] == pytest.approx(2 / 3)
    assert found["mean_abs_error_percent"] == pytest.approx(4)
    assert found["mean_error_percent"] == pytest.approx(2)
    assert found["largest_error_percent"] == pytest.approx(8)
    assert found["mean_half_width_percent"] == pytest.approx(5)


# Wilson (1927) for 8 of 10: (8 + z²/2 ± z √(8·2/10 + z²/4)) / (10 + z²), z = 1.96.
def test_a_share_of_few_has_wilsons_interval() -> None:
    z = 1.959964
    middle, half = 8 + z**2 / 2, z * math.sqrt(1.6 + z**2 / 4)

    found = statistics.share([1.0] * 8 + [0.0] * 2 + [math.nan])

    assert (found.value, found.num) == (0.8, 10)
    assert found.low == pytest.approx((middle - half) / (10 + z**2), rel=1e-5)
    assert found.high == pytest.approx((middle + half) / (10 + z**2), rel=1e-5)


def test_machines_are_never_pooled() -> None:
    found = hits.scores(frame(pair(1.0), pair(-9.0, series="b", is_modelled=True)))

    net = found[found["quantity"] == "net"].set_index("series")
    assert net["mean_abs_error_percent"].to_dict() == {"a": 1.0, "b": 9.0}
    assert net["is_modelled"].to_dict() == {"a": False, "b": True}
    assert not found[found["quantity"] == "time"]["is_modelled"].any()


def test_what_was_not_metered_is_left_out_and_not_zero() -> None:
    unmetered = pair(2.0, run_id="x") | {
        f"{name}_{told}": math.nan
        for name in ("net", "gross")
        for told in ("error_percent", "is_inside", "true_j", "predicted_j", "low_j", "high_j")
    }

    found = hits.scores(frame(pair(4.0), unmetered))

    assert of(found, "net")["num_pairs"] == 1
    assert of(found, "time")["num_pairs"] == 2
    assert "net" not in set(hits.scores(frame(unmetered))["quantity"])


# One profile had two stretches, the other four: with at most three, the first one keeps its two.
def test_every_pair_is_in_every_length() -> None:
    rows = [pair(10.0, run_id="x", num_stretches=1, is_whole=False)]
    rows += [pair(2.0, run_id="x", num_stretches=2)]
    rows += [
        pair(error, run_id="y", num_stretches=number, is_whole=number == 4)
        for number, error in ((1, 20.0), (2, 8.0), (3, 6.0), (4, 4.0))
    ]

    found = hits.scores_by_length(frame(*rows))
    net = found[found["quantity"] == "net"].set_index("max_stretches")

    assert net["num_pairs"].tolist() == [2, 2, 2, 2]
    assert net["mean_abs_error_percent"].tolist() == pytest.approx([15, 5, 4, 3])


# ------------------------------------------------------------------------------ out of a store


def land(database: Path, folder: Path, *landed: Record) -> dict[str, str]:
    store = open_store(Mlflow(tracking_uri=f"sqlite:///{database}"))
    ids = {}
    for one in landed:
        place = folder / one.cell.uid
        place.mkdir()
        record.write_cell(place, one.cell)
        record.write_record(place, one)
        ids[one.cell.uid] = store.land(place)
    return ids


@pytest.fixture
def backtest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Backtest:
    """`python -m greenlab.backtest`: its exit code, and what it wrote to both outputs."""

    def run(database: Path, *arguments: str) -> tuple[int, str, str]:
        typed = ["greenlab.backtest", "--tracking-uri", f"sqlite:///{database}", *arguments]
        monkeypatch.setattr(sys, "argv", typed)
        capsys.readouterr()
        code = main()
        return code, *capsys.readouterr()

    return run


def test_an_experiment_is_scored(workplace: Path, tmp_path: Path, backtest: Backtest) -> None:
    database = workplace / "mlflow.db"
    ids = land(
        database,
        tmp_path,
        profile(train_ms=[5.5, 5.0, 5.0, 5.0]),
        full_run(),
        full_run(uid="other", kind="inference", batch_size=128),
    )

    loaded = runs.load(f"sqlite:///{database}", sweep="all")
    pairs = predictions.read_pairs(loaded)

    # The run took 5 ms per sample: one stretch foretold 10 % more, all four about as much.
    assert pairs["num_stretches"].tolist() == [1, 2, 3, 4]
    assert set(pairs["run_id"]) == {ids["full"]}
    assert set(pairs["profile_id"]) == {ids["profile"]}
    assert pairs["time_error_percent"].iloc[0] == pytest.approx(10, abs=1.5)
    assert pairs["time_error_percent"].iloc[-1] == pytest.approx(1, abs=2.5)
    assert pairs["share_percent"].tolist() == pytest.approx(
        [100 * 0.5 * n / 15 for n in range(1, 5)]
    )
    assert hits.whole(pairs)["net_true_j"].tolist() == [2850.0]
    assert set(pairs["modelled"]) == {"dram"}
    assert set(pairs["series"]) == {
        "lab-1a2b3c on cuda:0, gpu measured:nvml, cpu measured:rapl, dram ~modelled:dimm"
    }

    code, output, _ = backtest(database, "--json")
    told = json.loads(output)
    assert code == 0
    assert [row["num_pairs"] for row in told["overall"]] == [1, 1, 1]
    assert len(told["by_length"]) == 4 * 3
    code, output, _ = backtest(database)
    assert code == 0
    assert "1 full runs held against 1 profiles" in output
    assert "~net energy" in output
    whole = hits.scores(hits.whole(pairs)).set_index("quantity")
    assert told["overall"][0]["mean_abs_error_percent"] == pytest.approx(
        whole.loc["net", "mean_abs_error_percent"]
    )


def test_without_a_pair_it_names_the_command_that_makes_one(
    workplace: Path, tmp_path: Path, backtest: Backtest
) -> None:
    database = workplace / "mlflow.db"

    land(database, tmp_path, full_run())
    missing = runs.load(f"sqlite:///{database}", sweep="all")
    assert predictions.read_pairs(missing).empty
    assert "-m model=resnet18 batch_size=64 dataset=digits phase=profile" in (
        predictions.what_is_missing(missing)
    )

    land(database, tmp_path, profile(batch_size=128))
    code, output, told = backtest(database)
    assert (code, output) == (2, "")
    assert told.startswith("greenlab.backtest: ")
    assert "phase=train,inference" in told
    assert "batch_size=128" in told


# ------------------------------------------------------------------------------ drawn


def drawn_texts(drawn: Figure) -> str:
    return " ".join(text.get_text() for text in drawn.findobj(lambda a: hasattr(a, "get_text")))


def test_an_interval_that_misses_the_truth_is_drawn_in_another_colour() -> None:
    drawn = profiles.draw_pairs(frame(pair(1.0), pair(9.0)))

    [lines] = [one for one in drawn.axes[1].collections if hasattr(one, "get_segments")]
    ends = [segment[:, 1].tolist() for segment in lines.get_segments()]
    assert ends == [pytest.approx([0.96, 1.06]), pytest.approx([1.04, 1.14])]
    colours = {tuple(colour) for colour in lines.get_colors()}
    assert len(colours) == 2


def test_the_error_is_drawn_against_the_length_of_the_profile() -> None:
    rows = [
        pair(12.0 / number, run_id="x", num_stretches=number, profile_s=0.5 * number)
        | {"is_whole": number == 3}
        for number in (1, 2, 3)
    ]

    axes = profiles.draw_lengths(frame(*rows)).axes[0]

    curve = next(line for line in axes.get_lines() if len(line.get_xdata()) == 3)
    assert list(curve.get_xdata()) == pytest.approx([0.5, 1.0, 1.5])
    assert list(curve.get_ydata()) == pytest.approx([12, 6, 4])


def test_modelled_energy_is_marked_in_both_figures() -> None:
    modelled = frame(pair(1.0, modelled="cpu", is_modelled=True))

    assert "~ modelled power" in drawn_texts(profiles.draw_pairs(modelled))
    assert "~ modelled power" in drawn_texts(profiles.draw_lengths(modelled))


@pytest.mark.parametrize("draw", [profiles.draw_lengths, profiles.draw_pairs, profiles.lengths])
def test_without_pairs_there_is_nothing_to_show(draw: Callable[..., object]) -> None:
    with pytest.raises(NothingToShow, match="phase=profile,train,inference"):
        draw(frame())
