"""Trainings that are ended early: by whose front, at what energy, and what a stop leaves behind.

An epoch takes 10 s at 200 W on a machine that idles at 50 W: 2,000 J, 1,500 J of them net. Thirty
of them take 45 kJ net.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from conftest import ROOT, CommandLine, make_config

from greenlab import config as configuration
from greenlab import end_table, multirun, phases, quality, record, workload
from greenlab.config import Quality
from greenlab.description import describe
from greenlab.energy import EnergyWindow
from greenlab.errors import ConfigError
from greenlab.forecast_text import stop_text
from greenlab.metrics import metrics
from greenlab.promise import Rules, comparable, saved, verdict
from greenlab.record import Measurement, Outcome, Pass, Record, Rival, Source, StoppedEarly
from greenlab.rivals import as_rival, rivals_in
from greenlab.run import summary_line
from greenlab.simulated.machine import SimulatedMachine, Zone
from greenlab.uncertainty import PowerSeries
from multirun_analysis import runs

RULES = Rules(
    planned_epochs=30,
    after_epochs=5,
    below_accuracy=None,
    job="own",
    num_classes=10,
    num_tested=10_000,
)
RIVAL = Rival(
    uid="r",
    name="good-32-train",
    machine="lab-1",
    device="cuda:0",
    provenance={"gpu": "measured:nvml"},
    job="of the good",
    num_epochs=30,
    accuracy=0.95,
    training_accuracy=0.97,
    net_j=20_000.0,
    net_u95_j=500.0,
)
GPU = Source(component="gpu", provenance="measured:nvml", detail="", reason="", parts=["gpu0"])
STEADY = PowerSeries(block_s=0.5, part_power_w={"gpu0": [50.0] * 20})
HOPELESS = [0.1] * 30
PROMISING = [0.9 - 0.8 * 0.6**epoch for epoch in range(30)]


def window(duration_s: float, power_w: float | None, started_at_s: float = 0.0) -> EnergyWindow:
    joules = {} if power_w is None else {"gpu": power_w * duration_s}
    return EnergyWindow(
        started_at_s=started_at_s,
        duration_s=duration_s,
        energy_j=joules,
        part_energy_j={f"{component}0": energy_j for component, energy_j in joules.items()},
        edge_s=0.0,
    )


def epochs(accuracies: list[float], power_w: float | None = 200.0) -> list[Pass]:
    return [
        Pass(
            window=window(10.0, power_w, 10.0 * place),
            outcome=Outcome(num_samples=1000, num_batches=10, loss=1.0, accuracy=accuracy),
            trains=True,
        )
        for place, accuracy in enumerate(accuracies)
    ]


IDLE = window(10.0, 50.0)


def stopped_after(accuracies: list[float], rules: Rules = RULES, *rivals: Rival) -> int | None:
    """The first epoch with a verdict."""
    for number in range(1, len(accuracies) + 1):
        if verdict(epochs(accuracies[:number]), IDLE, rules, rivals) is not None:
            return number
    return None


def test_a_training_that_cannot_reach_a_finished_one_is_ended_by_half_of_its_epochs() -> None:
    number = stopped_after(HOPELESS, RULES, RIVAL)

    assert number is not None
    assert 5 <= number <= 15


def test_one_that_may_reach_it_goes_on_to_the_end() -> None:
    assert stopped_after(PROMISING, RULES, replace(RIVAL, accuracy=0.91)) is None


def test_without_a_front_nothing_is_ended() -> None:
    assert stopped_after(HOPELESS) is None


# 30 epochs take 45 kJ net: who took 60 is more accurate and dearer, and leaves it on the front.
def test_a_rival_that_took_more_energy_ends_nothing() -> None:
    assert stopped_after(HOPELESS, RULES, replace(RIVAL, net_j=60_000.0)) is None


def test_a_rival_whose_energy_may_be_more_ends_nothing() -> None:
    assert stopped_after(HOPELESS, RULES, replace(RIVAL, net_j=40_000.0)) is not None
    unsure = replace(RIVAL, net_j=40_000.0, net_u95_j=8_000.0)
    assert stopped_after(HOPELESS, RULES, unsure) is None


def test_a_rival_without_energy_ends_nothing() -> None:
    assert stopped_after(HOPELESS, RULES, replace(RIVAL, net_j=None)) is None


# The same model at another learning rate: what it took differs by noise alone.
def test_a_rival_that_did_the_same_work_took_no_more_whatever_was_measured() -> None:
    same = replace(RIVAL, job="own", net_j=46_000.0)

    assert stopped_after(HOPELESS, RULES, same) is not None
    assert stopped_after(HOPELESS, RULES, replace(same, num_epochs=31)) is None


def test_where_nothing_is_metered_only_the_same_work_tells_the_front() -> None:
    passes, idle = epochs(HOPELESS[:20], power_w=None), window(10.0, None)
    same = replace(RIVAL, job="own", net_j=None)

    assert verdict(passes, idle, RULES, [RIVAL]) is None
    stop = verdict(passes, idle, RULES, [RIVAL, same])
    assert stop is not None
    assert (stop.rival, stop.least_net_j) == (same, None)


# Tested on 40 samples, 0.95 is known to ± 7 points only; on 10,000 to ± 0.4.
def test_an_accuracy_of_few_samples_is_less_sure() -> None:
    level = [0.8] * 28
    rival = replace(RIVAL, accuracy=0.93)
    sure = verdict(epochs(level), IDLE, RULES, [rival])
    unsure = verdict(epochs(level), IDLE, replace(RULES, num_tested=40), [rival])

    assert sure is not None
    assert unsure is None


def test_no_verdict_comes_before_its_time_or_after_the_last_epoch() -> None:
    low = replace(RULES, below_accuracy=1.0)

    assert verdict(epochs(HOPELESS[:4]), IDLE, low, [RIVAL]) is None
    assert verdict(epochs(HOPELESS[:20]), IDLE, low, [RIVAL]) is not None
    assert verdict(epochs(HOPELESS), IDLE, low, [RIVAL]) is None
    assert stopped_after(HOPELESS, replace(RULES, after_epochs=17), RIVAL) == 17


def test_an_accuracy_that_is_out_of_reach_ends_a_cell_run_alone() -> None:
    rules = replace(RULES, below_accuracy=0.5)
    number = stopped_after(HOPELESS, rules)
    assert number is not None
    stop = verdict(epochs(HOPELESS[:number]), IDLE, rules, [])

    assert stop is not None
    assert (stop.rival, stop.below_accuracy, stop.least_net_j) == (None, 0.5, None)
    assert stopped_after(PROMISING, rules) is None


def test_a_verdict_says_what_was_foretold_and_by_whom_it_is_beaten() -> None:
    better = replace(RIVAL, name="better", accuracy=0.97)
    dearer = replace(RIVAL, name="dearer", accuracy=0.99, net_j=60_000.0)
    stop = verdict(epochs(HOPELESS[:20]), IDLE, RULES, [RIVAL, better, dearer])

    assert stop is not None
    assert (stop.after_epochs, stop.planned_epochs) == (20, 30)
    assert stop.rival == better
    assert stop.accuracy_low <= stop.accuracy <= stop.accuracy_high < 0.95
    assert stop.least_net_j is not None
    assert 40_000 < stop.least_net_j < 45_000  # idle power may be off by 5 %, and machines warm up


@pytest.mark.parametrize(
    "other",
    [
        {"machine": "lab-2"},
        {"device": "cpu"},
        {"provenance": {"gpu": "measured:nvml_power"}},
        {"provenance": {"gpu": "measured:nvml", "cpu": "modelled:tdp"}},
    ],
)
def test_only_rivals_measured_alike_count(other: dict[str, Any]) -> None:
    rivals = [RIVAL, replace(RIVAL, **other)]

    assert comparable(rivals, "lab-1", "cuda:0", [GPU]) == [RIVAL]


# ---------------------------------------------------------------------------- what it leaves behind


STOP = StoppedEarly(
    after_epochs=4,
    planned_epochs=30,
    accuracy=0.12,
    accuracy_low=0.1,
    accuracy_high=0.3,
    rival=RIVAL,
    below_accuracy=None,
    least_net_j=43_000.0,
)


@pytest.fixture
def golden() -> Record:
    return record.read_record(ROOT / "tests" / "golden")


@pytest.fixture
def stopped(golden: Record) -> Record:
    """The golden training, ended after 4 of 30 epochs of 1,500 J net each."""
    assert golden.measurement is not None
    measured = replace(
        golden.measurement,
        idle_before=IDLE,
        idle_after=window(10.0, 50.0, 40.0),
        sources=[GPU],
        idle_series=(STEADY, STEADY),
        active_series=STEADY,
        counters=[one for one in golden.measurement.counters if one.part == "gpu0"],
        passes=epochs([0.1] * 4),
        stopped_early=STOP,
    )
    return replace(golden, measurement=measured)


def measurement(of: Record) -> Measurement:
    assert of.measurement is not None
    return of.measurement


# 26 epochs of 10 s are not run: 260 s, 52 kJ gross, 39 kJ net; warming adds two percent or so.
def test_what_a_stop_saves_is_what_its_epochs_would_have_taken(stopped: Record) -> None:
    spared = saved(measurement(stopped))
    assert spared is not None
    assert spared.gross_j is not None
    assert spared.net_j is not None

    for estimate, truth in (
        (spared.time_s, 260.0),
        (spared.gross_j, 52_000.0),
        (spared.net_j, 39_000.0),
    ):
        assert estimate.low < truth < estimate.high
        assert estimate.median == pytest.approx(truth, rel=0.05)


def test_a_stop_has_metrics_and_a_whole_training_has_none(stopped: Record, golden: Record) -> None:
    values = {k: v for k, v in metrics(stopped).items() if k.startswith("stopped/")}

    assert values["stopped/after_epochs"] == 4
    assert values["stopped/planned_epochs"] == 30
    assert values["stopped/predicted_accuracy"] == 0.12
    assert values["stopped/predicted_accuracy_high"] == 0.3
    assert values["stopped/saved_net_j"] == pytest.approx(39_000, rel=0.05)
    assert values["stopped/saved_net_low_j"] < 39_000 < values["stopped/saved_net_high_j"]
    assert values["stopped/saved_time_s"] == pytest.approx(260, rel=0.05)
    assert not [name for name in metrics(golden) if name.startswith("stopped/")]


def test_a_stop_is_said_wherever_the_cell_is_shown(stopped: Record, golden: Record) -> None:
    text = stop_text(stopped)

    assert text.startswith("stopped after 4 of 30 epochs, about ")
    assert text.endswith(" kJ net saved (predicted)")
    assert text in describe(stopped)
    assert text in summary_line(stopped)
    assert text in end_table.markdown("s", [[stopped]])
    assert stop_text(golden) == ""


def test_without_energy_a_stop_saves_time(stopped: Record) -> None:
    measured = measurement(stopped)
    unmetered = replace(
        measured,
        sources=[],
        passes=epochs([0.1] * 4, power_w=None),
        idle_before=window(10.0, None),
        idle_after=window(10.0, None),
    )

    assert "about 4.3" in stop_text(replace(stopped, measurement=unmetered))  # 260 s, in minutes


def test_a_stop_is_a_doubt_that_leaves_the_verdict_alone(stopped: Record) -> None:
    assert stopped.environment is not None
    found = quality.doubts(measurement(stopped), stopped.environment, stopped.cell, Quality())
    [doubt] = [one for one in found if one.code == "stopped_early"]

    assert doubt.severity == "information"
    assert "after 4 of 30 epochs" in doubt.seen
    assert "good-32-train has 95.0% and took no more energy" in doubt.seen
    assert "`stopped_early`" in (ROOT / "docs" / "doubts.md").read_text()


def test_a_stopped_training_is_in_no_mean_with_whole_ones(stopped: Record, golden: Record) -> None:
    whole = replace(golden, cell=replace(golden.cell, signature="1"))
    cut = replace(stopped, cell=replace(stopped.cell, signature="2"))

    assert end_table.by_cell([whole, cut], {}) != [[whole, cut]]
    assert multirun._comparable_j(golden) is not None
    assert multirun._comparable_j(stopped) is None


def test_a_stop_reads_back_equal(stopped: Record, tmp_path: Path) -> None:
    record.write_record(tmp_path, stopped)

    assert record.read_record(tmp_path) == stopped


# ------------------------------------------------------------------------------------- the front


def test_a_finished_training_is_a_rival_with_its_raw_numbers(golden: Record) -> None:
    rival, measured = as_rival(golden), measurement(golden)

    assert rival is not None
    assert rival.accuracy == measured.evaluation.accuracy
    assert rival.gap == measured.evaluation.accuracy - measured.passes[-1].outcome.accuracy
    assert rival.net_j == metrics(golden)["energy/net_j"]
    assert rival.net_u95_j == metrics(golden)["energy/net_u95_j"]


def test_what_is_no_finished_training_is_no_rival(golden: Record, stopped: Record) -> None:
    wrong = record.Doubt(code="x", seen="", remedy="", severity="invalid")
    untested = Outcome(num_samples=0, num_batches=0, loss=np.nan, accuracy=np.nan)
    inferred = replace(golden.cell, config=golden.cell.config | {"phase": {"kind": "inference"}})

    assert as_rival(stopped) is None
    assert as_rival(replace(golden, measurement=None, status="FAILED")) is None
    assert as_rival(replace(golden, doubts=[wrong])) is None
    assert as_rival(replace(golden, cell=inferred)) is None
    assert (
        as_rival(replace(golden, measurement=replace(measurement(golden), evaluation=untested)))
        is None
    )


# Where all is modelled the model's error is in both; where one is measured it tells them apart.
def test_the_error_of_a_model_counts_where_something_is_measured(golden: Record) -> None:
    modelled = [
        replace(one, provenance="modelled:tdp", error_fraction=0.5) if one.parts else one
        for one in measurement(golden).sources
    ]
    all_modelled = as_rival(
        replace(golden, measurement=replace(measurement(golden), sources=modelled))
    )
    one_measured = as_rival(
        replace(
            golden,
            measurement=replace(
                measurement(golden), sources=[measurement(golden).sources[0], *modelled[1:]]
            ),
        )
    )

    assert all_modelled is not None
    assert one_measured is not None
    assert all_modelled.net_u95_j == 0
    assert one_measured.net_u95_j > metrics(golden)["energy/net_u95_j"]


def leave(folder: Path, golden: Record, *overrides: str) -> dict[str, Any]:
    """A finished cell of these settings in `folder`; returns them."""
    settings = configuration.to_dict(make_config(*overrides))
    cell = replace(golden.cell, config=settings, uid=folder.name)
    folder.mkdir()
    record.write_cell(folder, cell)
    record.write_record(folder, replace(golden, cell=cell))
    return settings


def test_rivals_are_other_cells_of_the_same_data(golden: Record, tmp_path: Path) -> None:
    early = ("phase.epochs=30", "phase.stop_early=true")
    leave(tmp_path / "other", golden, "model=vgg16", *early)
    leave(tmp_path / "data", golden, "model=vgg16", "dataset.num_samples=64", *early)
    leave(tmp_path / "seed", golden, "model=lenet", "seed=1", *early)
    leave(tmp_path / "twin", golden, "model=lenet", "repetition=2", *early)
    own = configuration.to_dict(make_config("model=lenet", *early))
    (tmp_path / "unfinished").mkdir()
    record.write_cell(tmp_path / "unfinished", golden.cell)
    (tmp_path / "damaged").mkdir()
    shutil.copy(tmp_path / "other" / record.CELL_FILE, tmp_path / "damaged")
    (tmp_path / "damaged" / record.RECORD_FILE).write_text("{")

    assert [one.uid for one in rivals_in(tmp_path, own)] == ["other"]
    off = configuration.to_dict(make_config("model=lenet", "phase.epochs=30"))
    assert rivals_in(tmp_path, off) == []


# ------------------------------------------------------------------------------------- the setting


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["phase.stop_early=true"], r"phase\.epochs=1.*phase\.stop_after_epochs=5"),
        (["phase.stop_early=true", "phase.epochs=5"], r"phase\.epochs=5"),
        (["phase.stop_after_epochs=2"], r"phase\.stop_after_epochs is 2; it must be 3"),
        (["phase.stop_below_accuracy=0.5"], r"phase\.stop_early=true"),
        (["phase.stop_early=true", "phase.stop_below_accuracy=50"], r"must be a fraction"),
    ],
)
def test_a_stop_that_makes_no_sense_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(*overrides)


def test_a_grid_with_inference_may_stop_its_trainings() -> None:
    make_config("phase=inference", "phase.stop_early=true")


def test_where_it_is_off_signature_and_work_are_what_they_were() -> None:
    plain = configuration.to_dict(make_config("phase.epochs=30"))
    later = configuration.to_dict(make_config("phase.epochs=30", "phase.stop_after_epochs=9"))
    early = configuration.to_dict(make_config("phase.epochs=30", "phase.stop_early=true"))
    kept = {k: v for k, v in plain["phase"].items() if k not in configuration.OF_STOPS}
    before = plain | {"phase": kept}  # as they were before there was such a setting

    assert len(kept) == len(plain["phase"]) - 3
    signatures = {configuration.cell_signature(one) for one in (before, plain, later)}
    assert len(signatures) == 1
    assert configuration.cell_signature(early) not in signatures
    assert len({configuration.work(one) for one in (before, plain, later, early)}) == 1


def test_epochs_end_where_the_verdict_says_so_and_only_if_asked() -> None:
    small = ("dataset.num_samples=64", "phase.epochs=30", "hardware.device=cpu")
    for overrides, ends in ((small, False), ((*small, "phase.stop_early=true"), True)):
        running = workload.build_workload(
            make_config(*overrides), workload.choose_device(configuration.Device.cpu)
        )
        ground = phases.Ground(idle=IDLE, tick_s=0.1, rivals=[RIVAL])
        training = phases.Epochs(running, ground)

        assert training.goes_on(epochs(HOPELESS[:4]))
        assert training.goes_on(epochs(HOPELESS[:20])) is not ends
        assert (training.stopped_early is not None) is ends


# ---------------------------------------------------------------------------------- from end to end


BEACON_ON_DIGITS = (
    "model._target_=greenlab.simulated.beacon.build",
    "+model.kwargs.step_s=0.01",
    "dataset=digits",
    "phase=train",
    "phase.epochs=20",
    "phase.weight_decay=0",
    "phase.stop_early=true",
    "order=sequential",
    "idle.settle_s=0.1",
    "idle.window_s=1",
    "hardware.device=cpu",
)


@pytest.mark.slow
def test_a_sweep_ends_the_hopeless_one_of_its_cells_and_says_so(greenlab: CommandLine) -> None:
    with SimulatedMachine(zones=[Zone("package-0", idle_w=20, active_w=60)]) as machine:
        greenlab.put_on(machine)
        ended = greenlab("-m", *BEACON_ON_DIGITS, "phase.learning_rate=0.2,1e-6", timeout_s=580)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    good, hopeless = greenlab.records()
    first, second = (cast(Any, one).data for one in greenlab.runs())

    assert measurement(good).evaluation.accuracy > 0.7
    assert measurement(good).stopped_early is None
    assert len(measurement(good).passes) == 20
    stop = measurement(hopeless).stopped_early
    assert stop is not None
    assert stop.rival == as_rival(good)
    assert stop.after_epochs == len(measurement(hopeless).passes) <= 15
    assert hopeless.status == "FINISHED"
    assert second.metrics["stopped/after_epochs"] == stop.after_epochs
    assert second.metrics["work/samples"] < first.metrics["work/samples"]
    # Whatever time the spared epochs would have taken, the package draws 40 W more in it.
    spared_s = second.metrics["stopped/saved_time_s"]
    assert second.metrics["stopped/saved_net_j"] == pytest.approx(40 * spared_s, rel=0.05)
    assert second.metrics["stopped/saved_gross_j"] == pytest.approx(60 * spared_s, rel=0.05)
    assert second.tags["greenlab.stopped_early"] == f"{stop.after_epochs}/20 epochs"
    assert "greenlab.stopped_early" not in first.tags
    assert f"stopped after {stop.after_epochs} of 20 epochs" in second.tags["mlflow.note.content"]
    assert f"stopped after {stop.after_epochs} of 20 epochs" in ended.stdout
    read = runs.load(f"sqlite:///{greenlab.folder / 'mlflow.db'}")
    assert len(read.cells) == 1
    assert read.left_out["reason"].tolist() == [
        "stopped early: no whole training, by phase.stop_early"
    ]
