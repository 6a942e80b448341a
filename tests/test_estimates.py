"""`python -m greenlab.estimate`: which cells tell, what is refused, and sixteen real models."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from test_drawn_results import read
from test_regression import planted

from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.estimate import main
from multirun_analysis import estimate_text, estimates, runs, statistics
from multirun_analysis.estimates import Question, RefusedError, Share
from multirun_analysis.regression import Interval

BOX = "box"
LAW = {"macs": 0.4, "activation_bytes": 0.6}


def work(model: str, phase: str, batch_size: float, **data: object) -> dict[str, Any]:
    shape = {"num_channels": 3, "image_size": 32, "image_width": None, "num_classes": 10}
    return {
        "model": {"_target_": f"own.{model}", "kwargs": {}, "freeze": []},
        "batch_size": {"size": int(batch_size)},
        "phase": {"kind": phase},
        "dataset": {"_target_": "own.data", "augment": False, **shape, **data},
    }


def cells(num: int = 12, phase: str = "inference", sizes: tuple[int, ...] = (128,)) -> DataFrame:
    """Cells of 1,000 samples whose net joules follow LAW, with a tenth more gross, at 100 W."""
    rows = planted(num, LAW, noise=0.05, sizes=sizes)
    net_j = 1000 * rows["cost"]
    return DataFrame(
        {
            "run_id": [f"run {place}" for place in rows.index],
            "model": rows["model"],
            "phase": phase,
            "batch_size": rows["batch_size"],
            "machine": BOX,
            "series": "box gpu",
            "device": "cuda:0",
            "power_limit_w": np.nan,
            "modelled": "",
            "started_at_s": np.arange(len(rows), dtype=float),
            "work": [
                json.dumps(work(model, phase, size))
                for model, size in zip(rows["model"], rows["batch_size"], strict=True)
            ],
            "work/samples": 1000.0,
            "energy/net_j": net_j,
            "energy/gross_j": 1.1 * net_j,
            "time/active_s": net_j / 100,
            **{f"model/{name}": rows[name] for name in estimates.PREDICTORS},
            "model/trainable_parameters": rows["parameters"],
        }
    )


ASKED = {
    "macs": 3e8,
    "macs_exact": 2.9e8,
    "parameters": 3e6,
    "macs_per_parameter": 100.0,
    "activation_bytes": 1e7,
}


def question(phase: str = "inference", batch_size: int = 128, **changes: Any) -> Question:
    asked = Question(
        model="new",
        work=work("new", phase, batch_size),
        predictors=ASKED,
        is_frozen=False,
        machine=BOX,
        device="",
        power_limit_w=None,
        execution={},
        grid="THE GRID",
    )
    return replace(asked, **changes)


def test_an_estimate_is_what_the_planted_law_says() -> None:
    told = estimates.answer(cells(), question()).told
    truth_j = 1e-9 * 3e8**0.4 * 1e7**0.6
    assert told["net_j"].best.value == pytest.approx(truth_j, rel=0.1)
    assert told["net_j"].best.low < truth_j < told["net_j"].best.high
    assert told["gross_j"].best.value == pytest.approx(1.1 * told["net_j"].best.value)
    assert told["time_s"].best.value == pytest.approx(told["net_j"].best.value / 100)
    assert "activation_bytes" in told["net_j"].estimates[0].law.predictors
    papers = told["net_j"].papers
    assert papers is not None
    assert papers.law.predictors == ("macs_per_parameter",)
    assert papers.law.mean_error_factor > told["net_j"].estimates[0].law.mean_error_factor


def test_series_are_never_pooled() -> None:
    other = cells().assign(series="box gpu, limit W 100", started_at_s=-1.0)
    other["energy/net_j"] *= 1000
    both = pd.concat([cells(), other], ignore_index=True)
    alone, chosen = (estimates.answer(one, question()) for one in (cells(), both))
    assert chosen.told["net_j"].best == alone.told["net_j"].best
    assert "limit W 100" in " ".join(chosen.notes)


def test_a_model_that_was_measured_is_estimated_without_its_own_cells() -> None:
    own = {"model": "m03", "work": work("m03", "inference", 128)}
    mine = cells()["model"] == "m03"
    own["predictors"] = {n: float(cells()[f"model/{n}"][mine].iloc[0]) for n in ASKED}
    wrong = cells()
    wrong.loc[mine, "energy/net_j"] *= 50  # whatever was measured, the estimate does not know it
    answer = estimates.answer(wrong, question(**own))
    assert answer.num_measured == 1
    assert answer.told["net_j"].measured == pytest.approx(
        float(wrong["energy/net_j"][mine].iloc[0]) / 1000
    )
    unseen = estimates.answer(cells()[~mine], question(**own))
    assert answer.told["net_j"].best == unseen.told["net_j"].best
    assert unseen.told["net_j"].measured is None
    assert "OUTSIDE" in "\n".join(estimate_text.lines(answer))


def test_repetitions_count_once() -> None:
    """A model measured five times weighs no more than any other."""
    five = pd.concat([cells(), *[cells().iloc[[0]]] * 4], ignore_index=True)
    once, often = (estimates.answer(one, question()) for one in (cells(), five))
    assert often.told["net_j"].best.value == pytest.approx(once.told["net_j"].best.value)


def test_cells_of_the_asked_batch_size_are_used_where_there_are_enough() -> None:
    many = cells(sizes=(32, 128))
    answer = estimates.answer(many, question(batch_size=32))
    assert answer.batch_sizes == (32,)
    assert len(answer.run_ids) == 12


def test_elsewhere_batch_size_is_a_predictor() -> None:
    some = cells(sizes=(32, 128))
    some["energy/net_j"] *= some["batch_size"] ** -0.5
    answer = estimates.answer(some, question(batch_size=64))
    assert answer.batch_sizes == (32, 128)
    best = answer.told["net_j"].estimates[0]
    assert best.law.predictors[-1] == "batch_size"
    truth_j = 1e-9 * 3e8**0.4 * 1e7**0.6 * 64**-0.5
    assert best.cost.value == pytest.approx(truth_j, rel=0.1)
    assert "as a predictor" in " ".join(answer.notes)


def test_a_net_that_is_not_above_zero_is_named_and_not_taken_for_one() -> None:
    odd = cells()
    odd.loc[2, "energy/net_j"] = -1.0
    answer = estimates.answer(odd, question())
    assert "m02" not in answer.told["net_j"].ranking.models
    assert "m02" in answer.told["time_s"].ranking.models
    assert "energy/net_j is not above zero in m02" in " ".join(answer.notes)


def test_without_joules_time_is_told_and_no_energy() -> None:
    bare = cells().drop(columns=["energy/net_j", "energy/gross_j"])
    assert estimates.answer(bare, question()).told.keys() == {"time_s"}


def test_a_predictor_that_older_cells_lack_is_named_and_not_used() -> None:
    older = cells()
    older.loc[older.index < 9, "model/activation_bytes"] = np.nan
    answer = estimates.answer(older, question())
    assert "activation_bytes is recorded of 3 of 12 models" in " ".join(answer.notes)
    assert all("activation_bytes" not in e.law.predictors for e in answer.told["net_j"].estimates)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "lab"}, r"no usable cell of machine lab .* cells of box \(12 models\)"),
        ({"phase": "train"}, "phase=train was never measured on box"),
        ({"device": "cpu"}, "no cell of box has hardware.device=cpu"),
        ({"power_limit_w": 100.0}, "hardware.power_limit_w=100"),
        ({"image_size": 64}, "samples of 3×64×64 were never measured .* those of 3×32×32 were"),
        ({"batch_size": 16}, "batch size 16 was not measured .* 128 alone was"),
        ({"macs": 1e11}, "new lies outside what was measured on box: its macs is 1e.11"),
        (
            {"activation_bytes": 9e5, "macs": 2e9, "macs_exact": 2e9},
            "outside what was measured on box",
        ),
    ],
)
def test_what_cells_cannot_tell_is_refused_with_the_grid_that_would(
    changes: dict[str, Any], message: str
) -> None:
    of_work = {key: changes.pop(key) for key in ("phase", "batch_size") if key in changes}
    predictors = {**ASKED, **{key: changes.pop(key) for key in ASKED if key in changes}}
    asked = question(**of_work, predictors=predictors)
    if "image_size" in changes:
        size = changes.pop("image_size")
        asked = replace(asked, work=work("new", "inference", 128, image_size=size))
    with pytest.raises(RefusedError, match=message) as refused:
        estimates.answer(cells(), replace(asked, **changes))
    assert "THE GRID" in str(refused.value)


def test_a_predictor_that_the_law_has_no_use_for_bounds_it_too() -> None:
    """Of LeNet's size, with as many MACs per parameter as others: a law of these is not asked."""
    law_of_one = cells()
    law_of_one["energy/net_j"] = 1e-3 * law_of_one["model/macs_per_parameter"]
    small = {**ASKED, **{name: ASKED[name] / 300 for name in ("macs", "macs_exact", "parameters")}}
    told = estimates.answer(law_of_one, question()).told["net_j"]
    assert told.estimates[0].law.predictors == ("macs_per_parameter",)
    with pytest.raises(RefusedError, match=r"outside .* its macs is 1e\+06"):
        estimates.answer(law_of_one, question(predictors=small))


def test_five_other_models_are_too_few() -> None:
    asked = question(model="m05")
    with pytest.raises(RefusedError, match=r"5 models other than m05 .* THE GRID"):
        estimates.answer(cells(6), asked)
    assert estimates.answer(cells(6), question()).told


def test_training_of_a_part_is_not_told_from_training_of_all() -> None:
    trained = cells(phase="train")
    with pytest.raises(RefusedError, match="spares a part of the training"):
        estimates.answer(trained, question("train", is_frozen=True))
    trained.loc[0, "model/trainable_parameters"] -= 1
    answer = estimates.answer(trained, question("train"))
    assert "m00" not in answer.told["net_j"].ranking.models


# 100 samples at 2 (1–4) and 10 at 30 (20–50): 500 (300–900).
def test_a_jobs_parts_add_up_at_both_ends() -> None:
    answer = estimates.answer(cells(), question())

    def costing(*cost: float) -> Share:
        best = answer.told["net_j"].estimates[0]
        interval = Interval(value=cost[0], low=cost[1], high=cost[2])
        told = replace(answer.told["net_j"], estimates=(replace(best, cost=interval),))
        return Share(answer=replace(answer, told={"net_j": told}), num_samples=0)

    shares = [
        replace(costing(2, 1, 4), num_samples=100),
        replace(costing(30, 20, 50), num_samples=10),
    ]
    assert estimates.total(shares, "net_j") == Interval(value=500, low=300, high=900)
    assert estimates.total(shares, "time_s") is None


# ----------------------------------------------------------------------- the sixteen, as measured


@pytest.fixture(scope="module")
def sixteen() -> DataFrame:
    return read("sixteen_models_cells.csv")


@pytest.mark.parametrize("phase", ["train", "inference"])
def test_sixteen_real_models_score_as_each_predictor_does_by_itself(
    sixteen: DataFrame, phase: str
) -> None:
    scores = estimates.score(sixteen, "vm-74f9cd", phase)
    own = sixteen[sixteen["phase"] == phase].sort_values("model")
    laws = {law.predictors: law for law in scores.rankings["time_s"].laws}
    for name in ("macs", "parameters", "macs_per_parameter"):
        alone = statistics.leave_one_out(own[f"model/{name}"], own["time/per_sample_s"])
        percent = 100 * np.abs(alone.predicted / own["time/per_sample_s"].to_numpy() - 1)
        assert laws[name,].left_out.median_percent == pytest.approx(float(np.median(percent)))
        assert laws[name,].left_out.mean_percent == pytest.approx(float(np.mean(percent)))
    ranked = list(laws)
    assert ranked[0] == ("macs", "parameters")
    assert ranked[-1] == ("parameters",)


def test_too_few_models_have_no_scores(sixteen: DataFrame) -> None:
    few = sixteen[sixteen["model"].isin(["lenet", "vgg16", "resnet18"])]
    with pytest.raises(RefusedError, match="train on vm-74f9cd: 3 models"):
        estimates.score(few, "vm-74f9cd", "train")


LANDED = (
    *("densenet121", "efficientnet_b0", "googlenet", "mobilenet"),
    *("pnasnet", "resnet18", "simpledla", "vgg16"),
)


@pytest.fixture(scope="module")
def store(sixteen: DataFrame, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An MLflow store that has inference cells of eight of the sixteen."""
    import shutil

    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    path = tmp_path_factory.mktemp("sixteen") / "mlflow.db"
    shutil.copy(empty_store, path)
    uri = f"sqlite:///{path}"
    experiment = tracking.open_store(Mlflow(tracking_uri=uri)).client.get_experiment_by_name(
        "greenlab"
    )
    client = MlflowClient(tracking_uri=uri)
    landed = sixteen[(sixteen["phase"] == "inference") & sixteen["model"].isin(LANDED)]
    for row in landed.to_dict("records"):
        tags = {tag: str(row[name]) for name, tag in runs.TEXTS.items() if row.get(name)}
        run = client.create_run(
            experiment.experiment_id, tags=tags | {"greenlab.kind": "cell"}
        ).info.run_id
        client.log_batch(
            run,
            metrics=[
                Metric(str(name), value, 0, 0)
                for name, value in row.items()
                if "/" in str(name) and isinstance(value, float) and not np.isnan(value)
            ],
            params=[Param(name, str(row[name])) for name in ("model", "dataset", "device")],
        )
        client.set_terminated(run)
    return uri


@pytest.fixture
def ask(store: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Ask on the command line; returns exit code, what was printed, what went wrong."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--tracking-uri", store, "--machine", "vm-74f9cd", *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


ON_THE_DATA = (
    *("batch_size=128", "dataset=synthetic", "dataset.num_samples=512"),
    "allocator=system",  # measured before there was another
)


# Measured: 127.949 mJ and 8.141 ms per sample.
def test_a_model_is_counted_and_estimated_beside_its_measured_value(ask: Any) -> None:
    code, shown, _ = ask("model=resnet18", "phase=inference", *ON_THE_DATA)
    assert code == 0
    assert "resnet18, batch size 128, inference: not run, estimated from 7 other models" in shown
    assert "measured here already (1 run): ~128 mJ" in shown
    assert "(1 run): 8.14 ms" in shown
    assert "the paper's fit, macs_per_parameter alone" in shown
    assert "joules are time in another guise" in shown.replace("\n", " ")


def test_a_job_is_billed(ask: Any) -> None:
    job = ("profile.target_inferences=1000000", "carbon.g_co2e_per_kwh=360")
    arguments = ("model=resnet18", "phase=inference", *ON_THE_DATA, "--json", *job)
    code, shown, _ = ask(*arguments, "carbon.price_per_kwh=0.36", "carbon.pue=2")
    assert code == 0
    [page] = json.loads(shown)
    per_sample = page["estimates"][0]["per_sample"]
    totals = page["totals"]
    assert page["job"] == [{"phase": "inference", "num_samples": 1_000_000}]
    for end in ("value", "low", "high"):
        gross_j = 1e6 * per_sample["gross_j"][end]
        assert totals["gross"][end] == pytest.approx(gross_j)
        # 360 g and 0.36 of a kWh of 3.6 MJ, twice: 0.2 mg and 0.0002 thousandths a joule.
        assert totals["CO2e"][end] == pytest.approx(2e-4 * gross_j)
        assert totals["cost"][end] == pytest.approx(2e-7 * gross_j)
    assert totals["time"]["value"] == pytest.approx(1e6 * per_sample["time_s"]["value"])


def test_what_is_refused_exits_with_1_and_names_the_grid(ask: Any) -> None:
    code, shown, problem = ask("model=lenet", "phase=train", "batch_size=128")
    assert (code, shown) == (1, "")
    assert "phase=train was never measured on vm-74f9cd" in problem
    assert "python -m greenlab -m 'model=glob(*)' batch_size=128 phase=train" in problem


def test_cells_that_were_computed_in_another_way_tell_nothing(ask: Any) -> None:
    code, _, problem = ask("model=resnet18", "phase=inference", *ON_THE_DATA[:-1])
    assert code == 1
    assert "no cell of vm-74f9cd has allocator=keep, but system" in problem


def test_a_model_far_from_all_others_is_refused_and_the_others_are_told(ask: Any) -> None:
    code, shown, problem = ask("model=lenet,vgg16", "phase=inference", "--json", *ON_THE_DATA)
    assert code == 1
    assert [page["estimates"][0]["model"] for page in json.loads(shown)] == ["vgg16"]
    assert "lenet lies outside what was measured on vm-74f9cd" in problem


def test_without_a_model_the_predictors_are_scored(ask: Any) -> None:
    code, shown, problem = ask("--json")
    assert code == 1  # of training there is nothing in the store
    assert "train on vm-74f9cd: 0 models" in problem
    [scores] = json.loads(shown)
    assert scores["phase"] == "inference"
    laws = {tuple(law["predictors"]): law for law in scores["per_sample"]["net_j"]["laws"]}
    assert ("macs_per_parameter",) in laws
    code, shown, _ = ask("phase=inference")
    assert code == 0
    assert "leave-one-model-out over 8 models" in shown
    assert "macs_per_parameter (the paper's)" in shown


def test_a_store_that_is_not_there_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--tracking-uri", f"sqlite:///{tmp_path}/none.db", "model=lenet"]) == 1
    assert "greenlab: " in capsys.readouterr().err
