"""A profile: how long it goes on, what it says of the whole job, and how that is held to account.

The profile made by hand, on a machine that draws 100 W at rest and no counter but the GPU's:

    stretch   kind       s   J    samples   net J per sample
    1         train      1   300  100       2
    2         inference  1   200  400       0.25
    3, 4, …   the same again
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_cell, make_config

from greenlab import config, end_table, phases
from greenlab.description import describe
from greenlab.energy import EnergyWindow
from greenlab.errors import ConfigError, ModelError
from greenlab.extrapolation import Job
from greenlab.forecast_text import job_text, sentence
from greenlab.metrics import metrics
from greenlab.prediction import backtest, described_job, profiled
from greenlab.record import Account, Outcome, Pass, Record, Splits, Stage, read_record
from greenlab.run import summary_line
from greenlab.simulated.machine import Gpu, SimulatedMachine, Zone
from greenlab.stretches import costs_per_sample, next_kind, rel_half_width
from greenlab.workload import Workload, build_workload


def window(duration_s: float, gross_j: float, started_at_s: float = 0.0) -> EnergyWindow:
    return EnergyWindow(
        started_at_s=started_at_s,
        duration_s=duration_s,
        energy_j={"gpu": gross_j},
        part_energy_j={"gpu0": gross_j},
        edge_s=0.0,
    )


IDLE = window(2, 200)


def stretch(
    *, trains: bool, gross_j: float | None = None, samples: int = 0, at_s: float = 0
) -> Pass:
    joules = (300 if trains else 200) if gross_j is None else gross_j
    outcome = Outcome(
        num_samples=samples or (100 if trains else 400), num_batches=1, loss=1, accuracy=0.5
    )
    return Pass(window=window(1, joules, at_s), outcome=outcome, trains=trains)


def by_turns(number: int) -> list[Pass]:
    return [stretch(trains=place % 2 == 0, at_s=place) for place in range(number)]


# ----------------------------------------------------------------------------- how long it goes on

SETTINGS = (
    "phase=profile",
    "phase.min_stretches=3",
    "phase.max_stretches=5",
    "phase.target_rel_ci=0.05",
)


def kinds_until_the_end(of_kind: Callable[[bool, int], Pass], *overrides: str) -> list[bool]:
    passes: list[Pass] = []
    settings = make_config(*SETTINGS, *overrides)
    while (trains := next_kind(passes, IDLE, settings)) is not None:
        own = sum(one.trains == trains for one in passes)
        passes.append(of_kind(trains, own))
    return [bool(one.trains) for one in passes]


def test_training_and_inference_take_turns_until_each_has_the_fewest_stretches() -> None:
    kinds = kinds_until_the_end(lambda trains, _: stretch(trains=trains))

    assert kinds == [True, False, True, False, True, False]


def test_the_kind_that_is_not_known_well_enough_goes_on_alone_and_not_for_ever() -> None:
    # Net of inference by turns 0.2 and 0.3 J: ±26 % after five. Training is the same each time.
    wavering = [180.0, 220.0]
    kinds = kinds_until_the_end(
        lambda trains, own: stretch(trains=trains, gross_j=None if trains else wavering[own % 2])
    )

    assert kinds == [True, False, True, False, True, False, False, False]


def test_without_training_to_come_there_is_inference_alone() -> None:
    kinds = kinds_until_the_end(lambda trains, _: stretch(trains=trains), "profile.target_epochs=0")

    assert kinds == [False, False, False]


def test_the_half_width_is_students_over_the_mean_of_net_joules_per_sample() -> None:
    # Net 98, 100, 102 J for 100 samples each: s = 2, t(2) = 4.303, so ±4.968 of 100.
    passes = [stretch(trains=True, gross_j=100.0 + net) for net in (98, 100, 102)]

    assert costs_per_sample(passes, IDLE, trains=True) == pytest.approx([0.98, 1.0, 1.02])
    assert rel_half_width(passes, IDLE, trains=True) == pytest.approx(0.04968, abs=1e-5)
    assert rel_half_width(passes[:1], IDLE, trains=True) == math.inf
    assert rel_half_width(passes, IDLE, trains=False) == math.inf


def test_work_that_draws_no_more_than_idle_is_never_known_well_enough() -> None:
    passes = [stretch(trains=True, gross_j=100.0 - net) for net in (1, 1, 1)]

    assert rel_half_width(passes, IDLE, trains=True) == math.inf


def test_seconds_count_where_nothing_is_metered() -> None:
    nothing = replace(IDLE, energy_j={}, part_energy_j={})
    passes = [
        replace(one, window=replace(one.window, energy_j={}, part_energy_j={}, duration_s=s))
        for one, s in zip(by_turns(6), (0.98, 1, 1, 1, 1.02, 1), strict=True)
    ]

    assert rel_half_width(passes, nothing, trains=True) == pytest.approx(0.04968, abs=1e-5)


def running(*overrides: str) -> tuple[Workload, phases.Stretches]:
    settings = make_config(
        "phase=profile",
        "dataset.num_samples=96",
        "batch_size=32",
        "phase.stretch_s=0.001",
        *overrides,
    )
    workload = build_workload(settings, torch.device("cpu"))
    return workload, phases.Stretches(workload, phases.Ground(idle=IDLE, tick_s=0.0))


def test_the_batches_of_a_stretch_follow_those_of_the_one_before() -> None:
    workload, stretches = running("profile.target_epochs=0", "phase.stretch_s=1e-9")
    seen: list[torch.Tensor] = []
    workload.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for number in range(4):
        assert stretches.goes_on([stretch(trains=False)] * min(number, 2))
        assert stretches.run_pass().num_batches == 1
    with torch.inference_mode():
        own = [images for images, _ in workload.test]

    assert [any(torch.equal(one, of) for of in own) for one in seen] == [True] * 4
    assert torch.equal(seen[3], seen[0])  # three batches make a pass over 96 samples
    assert not torch.equal(seen[1], seen[0])


def test_a_stretch_is_as_long_as_asked_or_ten_ticks_of_the_slowest_counter() -> None:
    workload, _ = running("phase.stretch_s=0.05")
    for tick_s, least_s in ((0.0, 0.05), (0.02, 0.2)):
        stretches = phases.Stretches(workload, phases.Ground(idle=IDLE, tick_s=tick_s))
        assert stretches.goes_on([])
        began_s = phases.time.monotonic()
        tally = stretches.run_pass()
        assert phases.time.monotonic() - began_s >= least_s
        assert tally.trains
        assert tally.num_batches >= 1


# -------------------------------------------------------------------- what it says of the whole job


def profile(number: int = 8, *overrides: str) -> Record:
    """The one above, of a data set of 1,000 images to train and 500 to test."""
    golden = read_record(ROOT / "tests" / "golden")
    assert golden.measurement is not None
    settings = make_config("phase=profile", "phase.epochs=10", *overrides)
    passes = by_turns(number)
    sources = [
        replace(one, parts=["gpu0"])
        if one.component == "gpu"
        else replace(one, parts=[], provenance="absent", error_fraction=None)
        for one in golden.measurement.sources
    ]
    series = replace(golden.measurement.active_series, part_power_w={"gpu0": [100.0] * 8})
    counters = [replace(golden.measurement.counters[0], part="gpu0")]
    stages = [
        Stage(name="loading", duration_s=3.0, energy_j={"gpu": 330.0}),
        Stage(name="warm_up", duration_s=1.0, energy_j={"gpu": 250.0}),
        Stage(name="idle", duration_s=4.0, energy_j={"gpu": 400.0}),
        Stage(name="active", duration_s=8.0, energy_j={"gpu": 2000.0}),
    ]
    return Record(
        status="FINISHED",
        cell=make_cell(
            settings, choices={"model": "lenet", "batch_size": "32", "phase": "profile"}
        ),
        ended_at_s=20.0,
        environment=golden.environment,
        account=Account(sources=sources, started_at_s=0.0, stages=stages),
        measurement=replace(
            golden.measurement,
            sources=sources,
            passes=passes,
            idle_before=IDLE,
            idle_after=IDLE,
            idle_series=(series, series),
            active_series=series,
            counters=counters,
            splits=Splits(train_samples=1000, test_samples=500),
        ),
    )


def test_the_job_is_the_epochs_their_test_and_one_pass_of_inference() -> None:
    assert described_job(profile()) == Job(
        train_samples=10_000, evaluation_samples=500, inference_samples=500
    )
    asked = profile(8, "profile.target_epochs=3", "profile.target_inferences=1_000_000")
    assert described_job(asked) == Job(
        train_samples=3000, evaluation_samples=500, inference_samples=1_000_000
    )
    assert job_text(asked) == "3 epochs and 1,000,000 inferences"
    untrained = profile(8, "profile.target_epochs=0", "profile.target_inferences=7")
    assert described_job(untrained) == Job(inference_samples=7)
    assert job_text(untrained) == "7 inferences"


def test_a_profile_is_read_off_its_record() -> None:
    told = profiled(profile())

    assert [one.trains for one in told.stretches] == [True, False] * 4
    assert told.stretches[2].started_s == 2.0
    assert told.idle_w == pytest.approx(100)
    assert (told.once_s, told.once_j) == (4.0, 580.0)  # loading and warming up


def test_the_metrics_are_those_of_the_rates_times_the_job() -> None:
    # 10,000 samples at 10 ms and 300 W, 500 and 500 at 2.5 ms and 200 W; once 4 s and 580 J. The
    # machine may get slower by half a per cent and hotter by two while it warms up.
    values = metrics(profile(8, "carbon.g_co2e_per_kwh=360", "carbon.price_per_kwh=0.36"))

    parts = {
        "train": (100, 30_000, 20_000),
        "evaluation": (1.25, 250, 125),
        "inference": (1.25, 250, 125),
    }
    for part, (time_s, gross_j, net_j) in parts.items():
        assert values[f"predicted/{part}_time_s"] == pytest.approx(time_s, rel=0.015)
        assert values[f"predicted/{part}_gross_j"] == pytest.approx(gross_j, rel=0.04)
        assert values[f"predicted/{part}_net_j"] == pytest.approx(net_j, rel=0.06)
    assert values["predicted/loading_gross_j"] == pytest.approx(580, rel=0.02)
    assert values["predicted/time_s"] == pytest.approx(106.5, rel=0.02)
    assert values["predicted/gross_j"] == pytest.approx(31_080, rel=0.04)
    assert values["predicted/net_j"] == pytest.approx(20_250, rel=0.06)
    for name in ("net", "gross"):
        low, high = values[f"predicted/{name}_low_j"], values[f"predicted/{name}_high_j"]
        assert low < values[f"predicted/{name}_j"] < high
    # A kWh is 3.6 MJ: 360 g of it are 0.1 g per kJ.
    assert values["predicted/co2e_g"] == pytest.approx(values["predicted/gross_j"] / 10_000)
    assert values["predicted/cost"] == pytest.approx(values["predicted/gross_j"] / 1e7)
    assert values["profile/train_net_per_sample_j"] == pytest.approx(2)
    assert values["profile/inference_net_per_sample_j"] == pytest.approx(0.25)
    assert values["profile/train_per_sample_s"] == pytest.approx(0.01)
    assert values["profile/train_stretches"] == values["profile/inference_stretches"] == 4
    assert values["profile/spent_s"] == 16
    assert values["profile/spent_j"] == 2980


def test_what_mixes_training_and_inference_has_no_metric() -> None:
    values = metrics(profile())

    assert values["energy/gross_j"] == 2000
    mixed = {"energy/net_per_sample_j", "time/samples_per_s", "task/accuracy", "task/loss"}
    assert not mixed & values.keys()


def test_people_read_the_job_its_joules_and_what_the_profile_took() -> None:
    record = profile()

    told = sentence(record)
    assert told.startswith("10 epochs and 500 inferences: net 20.")
    assert " kJ (" in told
    assert " s (" in told
    assert told in " ".join(summary_line(record).split("  "))
    description = describe(record)
    assert told in description
    assert "16.0 s and 2,980.0 J" in description
    table = end_table.markdown("s", [[record]])
    [row] = [line for line in table.splitlines() if line.startswith("| lenet | 32 | 10 epochs")]
    assert row.endswith("| 16 s, 2.98 kJ |")


def test_a_profile_that_settled_is_not_doubted_for_it_and_another_is() -> None:
    from greenlab import quality

    for wavers, expected in ((False, False), (True, True)):
        record = profile()
        assert record.measurement is not None
        assert record.environment is not None
        passes = [
            replace(one, window=replace(one.window, energy_j={"gpu": 150.0 + 40 * place}))
            if wavers
            else one
            for place, one in enumerate(record.measurement.passes)
        ]
        found = quality.doubts(
            replace(record.measurement, passes=passes),
            record.environment,
            record.cell,
            make_config().quality,
        )
        assert ("profile_unsettled" in {doubt.code for doubt in found}) == expected


# ------------------------------------------------------------------------- held against a full run


def full_run(
    kind: str, samples: int, duration_s: float, gross_j: float, parts: Sequence[float] = (1.0,)
) -> Record:
    """A run of that kind on the same machine, its passes sharing samples and joules as `parts`."""
    base = profile()
    assert base.measurement is not None
    passes = [
        Pass(
            window=window(part * duration_s, part * gross_j),
            outcome=Outcome(num_samples=round(part * samples), num_batches=1, loss=1, accuracy=0.5),
            trains=kind == "train",
        )
        for part in parts
    ]
    return replace(
        base,
        cell=make_cell(make_config(f"phase={kind}")),
        measurement=replace(base.measurement, passes=passes),
    )


def test_a_full_run_tells_how_far_the_prediction_was_off() -> None:
    # Foretold for 5,000 samples: 50 s and (300 − 100) W × 50 s; it took 50 s at 280 W, 9,000 J net.
    found = backtest(profile(), full_run("train", 5000, 50, 14_000, (0.5, 0.5)))

    assert found is not None
    assert found.net_j is not None
    assert found.gross_j is not None
    assert found.headline is found.net_j
    assert found.net_j.truth == pytest.approx(9000)
    assert found.net_j.error_percent == pytest.approx(100 / 9, abs=4)
    assert found.gross_j.error_percent == pytest.approx(100 / 14, abs=3)
    assert found.time_s.error_percent == pytest.approx(0, abs=1.5)
    assert found.time_s.is_inside
    assert not found.net_j.is_inside or found.net_j.predicted.low <= 9000
    assert found.share_percent == pytest.approx(8)  # 4 s of 50 s
    values = found.metrics()
    assert values["predicted/error_percent"] == found.net_j.error_percent
    assert values["predicted/time_is_inside"] == 1.0
    assert found.metrics("train_")["predicted/train_error_percent"] == found.net_j.error_percent


def test_a_truth_far_outside_the_interval_is_outside() -> None:
    found = backtest(profile(), full_run("inference", 40_000, 100, 40_000))

    assert found is not None
    assert found.net_j is not None
    assert not found.net_j.is_inside  # 10 kJ foretold, 30 kJ spent
    assert found.metrics()["predicted/is_inside"] == 0.0


def test_the_beginning_of_a_profile_can_be_judged_alone() -> None:
    run = full_run("train", 5000, 50, 15_000)
    short, long_ = backtest(profile(), run, 2), backtest(profile(), run)

    assert short is not None
    assert long_ is not None
    assert (short.num_stretches, long_.num_stretches) == (2, 4)
    assert short.profile_s == 2
    width = [one.time_s.predicted.high - one.time_s.predicted.low for one in (short, long_)]
    assert width[0] > width[1]


def test_a_kind_that_was_not_profiled_is_not_held_against_anything() -> None:
    untrained = profile()
    assert untrained.measurement is not None
    only = [one for one in untrained.measurement.passes if not one.trains]
    untrained = replace(untrained, measurement=replace(untrained.measurement, passes=only))

    assert backtest(untrained, full_run("train", 5000, 50, 15_000)) is None


# ---------------------------------------------------------------------------- settings, signatures


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("profile.target_epochs=0", "profile.target_inferences=0"), "there is no job"),
        (("profile.target_epochs=-1",), r"profile\.target_epochs is -1"),
        (("phase.max_stretches=2",), r"phase\.max_stretches is 2; it must be 3 or more"),
        (("phase.min_stretches=1",), r"phase\.min_stretches is 1; it must be 2 or more"),
        (("phase.target_rel_ci=0",), r"phase\.target_rel_ci is 0"),
        (("phase.stretch_s=0",), r"phase\.stretch_s is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: Sequence[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_config("phase=profile", *overrides)


def test_settings_of_profiles_change_no_other_cells_signature() -> None:
    own = ("profile.target_epochs=7", "phase.stretch_s=2", "phase.max_stretches=9")

    def signed(*overrides: str) -> str:
        return config.signature(make_config(*overrides))

    assert signed("phase=train") == signed("phase=train", *own)
    assert signed("phase=profile") != signed("phase=profile", "profile.target_epochs=7")
    assert signed("phase=profile") != signed("phase=profile", "phase.stretch_s=2")


def test_a_profile_and_the_runs_that_it_foretells_share_a_job() -> None:
    def job(*overrides: str) -> str:
        return config.job_signature(config.to_dict(make_config(*overrides)))

    same = job("phase=profile")
    assert same == job("phase=train", "phase.epochs=9", "seed=3", "idle.window_s=1")
    assert same == job("phase=inference", "dataset.folder=elsewhere")
    for other in ("model=vgg16", "batch_size=64", "dataset.num_samples=64", "hardware=cpu"):
        assert same != job("phase=train", other)


def test_what_cannot_be_trained_can_still_be_profiled_for_inference() -> None:
    with pytest.raises(ModelError, match="freeze"):
        running("model.freeze=['*']")
    workload, _ = running("model.freeze=['*']", "profile.target_epochs=0")
    assert not workload.config.trains


# -------------------------------------------------------------------------------- the whole of it


def test_a_profile_on_a_machine_of_known_watts_foretells_them(
    measure_on: Callable[..., Record], tmp_path: Path
) -> None:
    # The machine's own log tells what each stretch took, and what idle took of it: 90 W.
    package = Zone("package-0", idle_w=20, active_w=60)
    with SimulatedMachine(zones=[package], gpus=[Gpu()]) as machine:
        record = measure_on(
            machine,
            "phase=profile",
            "batch_size=8",
            "phase.stretch_s=0.4",
            "phase.max_stretches=3",
            "profile.target_epochs=40",
            "profile.target_inferences=6400",
        )
    assert record.measurement is not None, record.failure
    assert [one.trains for one in record.measurement.passes] == [True, False] * 3
    values = metrics(record)
    sample_j = {}
    for kind, trains in (("train", True), ("inference", False)):
        own = [one for one in record.measurement.passes if one.trains == trains]
        drawn_j = sum(
            machine.true_energy_j(
                counter,
                one.window.started_at_s,
                one.window.started_at_s + one.window.duration_s,
            )
            for one in own
            for counter in ("gpu-0", "package-0")
        )
        above_idle_j = drawn_j - 90 * sum(one.window.duration_s for one in own)
        sample_j[kind] = above_idle_j / sum(one.outcome.num_samples for one in own)
        measured_j = values[f"profile/{kind}_net_per_sample_j"]
        assert measured_j == pytest.approx(sample_j[kind], rel=0.03)
    # 40 epochs of 64, their test of 64, and 6,400 inferences.
    net_j = sample_j["train"] * 40 * 64 + sample_j["inference"] * (64 + 6400)
    assert values["predicted/net_low_j"] < net_j < values["predicted/net_high_j"]
    assert values["predicted/net_j"] == pytest.approx(net_j, rel=0.1)
