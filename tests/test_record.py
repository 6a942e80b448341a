"""Records: what is written can be read for good, and what is derived from it is right.

golden/record.json is a finished cell on two GPUs, two epochs. Its numbers, in joules:

                 gpu0   gpu1   cpu    dram
    idle    4 s   120     80    80     12      each of two windows: 30, 20, 20 and 3 W
    pass 1 10 s  1400    600   600     30
    pass 2  5 s   700    300   300     15
    active 15 s  2100    900   900     45
    idle share    450    300   300     45      watts × 15 s
    net          1650    600   600      0

Idle power never wavers and counters do not tick, but reading them took 2 ms at a pass's slower
edge: the energy of each is off by up to ± 1 ms × 140, 60 and 60 W. DRAM is modelled, ± 60 %.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_cell, make_config

from greenlab import config, record
from greenlab.energy import EnergyWindow
from greenlab.errors import GreenlabError
from greenlab.metrics import metrics, pass_metrics
from greenlab.record import Account, Doubt, Failure, FailureKind, Measurement, Record

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Record:
    return record.read_record(GOLDEN)


def measured_in(read: Record) -> Measurement:
    assert read.measurement is not None
    return read.measurement


def with_measurement(read: Record, **changes: object) -> Record:
    return replace(read, measurement=replace(measured_in(read), **changes))  # type: ignore[arg-type]


def only(window: EnergyWindow, *parts: str) -> EnergyWindow:
    """The window as it is where nothing but `parts` is metered."""
    component_j: dict[str, float] = {}
    for part in parts:
        component = part.rstrip("0123456789")
        component_j[component] = component_j.get(component, 0) + window.part_energy_j[part]
    return replace(
        window,
        energy_j=component_j,
        part_energy_j={part: window.part_energy_j[part] for part in parts},
    )


def metering_only(read: Record, *parts: str) -> Record:
    measured = measured_in(read)
    return with_measurement(
        read,
        idle_before=only(measured.idle_before, *parts),
        idle_after=only(measured.idle_after, *parts),
        passes=[replace(one, window=only(one.window, *parts)) for one in measured.passes],
        sources=[
            replace(source, parts=[part for part in source.parts if part in parts])
            for source in measured.sources
        ],
    )


# ---------------------------------------------------------------------------------------- metrics

METRICS = {
    "energy/metered_j": 6135,  # 73 W for 30 s, and the passes
    "energy/gross_j": 3945,  # 3000 + 900 + 45
    "energy/gross_gpu_j": 3000,  # 2100 + 900
    "energy/gross_cpu_j": 900,
    "energy/gross_dram_j": 45,
    "energy/idle_j": 1095,  # 73 W × 15 s
    "energy/idle_gpu_j": 750,
    "energy/idle_cpu_j": 300,
    "energy/idle_dram_j": 45,
    "energy/net_j": 2850,  # 3945 − 1095
    "energy/net_gpu_j": 2250,
    "energy/net_cpu_j": 600,
    "energy/net_dram_j": 0,
    "energy/net_paper_j": 3653,  # 3945 − 200 − 80 − 12: one idle window, unscaled
    "energy/net_paper_gpu_j": 2800,
    "energy/net_paper_cpu_j": 820,
    "energy/net_paper_dram_j": 33,
    "energy/net_per_sample_j": 0.95,  # 2850 / 3000
    # Of a and b uniform in ± 0.14 and ± 0.06 J: P(|a + b| > h) = (0.2 − h)² / (4 · 0.14 · 0.06).
    "energy/net_u95_gpu_j": 0.2 - math.sqrt(0.05 * 4 * 0.14 * 0.06),
    "energy/net_u95_cpu_j": 0.95 * 0.06,
    "energy/net_u95_dram_j": 0.6 * 45,
    # Next to the normal error of the model the variances of the others, 0.0089 J², hardly count.
    "energy/net_u95_j": 27.0006,
    "energy/net_u95_per_sample_j": 27.0006 / 3000,
    "energy/gross_gpu0_j": 2100,
    "energy/gross_gpu1_j": 900,
    "energy/gross_cpu0_j": 900,
    "energy/net_gpu0_j": 1650,
    "energy/net_gpu1_j": 600,
    "energy/net_cpu0_j": 600,
    "power/mean_w": 263,  # 3945 J / 15 s
    "power/mean_gpu_w": 200,
    "power/mean_cpu_w": 60,
    "power/mean_dram_w": 3,
    "power/limit_gpu_w": 700,  # 350 W each
    "power/idle_w": 73,
    "power/idle_gpu_w": 50,
    "power/idle_cpu_w": 20,
    "power/idle_dram_w": 3,
    "time/active_s": 15,
    "time/idle_before_s": 4,
    "time/idle_after_s": 4,
    "time/cooling_before_s": 0,
    "time/cooling_after_s": 12,
    "time/samples_per_s": 200,  # 3000 / 15 s
    "utilisation/cpu_percent": 40,
    "utilisation/dram_percent": 25,
    "utilisation/gpu_percent": 90,
    "utilisation/gpu_memory_percent": 30,
    "model/parameters": 1000,
    "model/trainable_parameters": 800,
    "model/parameter_bytes": 4000,
    "model/buffer_bytes": 24,
    "model/size_bytes": 4024,
    "model/macs": 40_000,
    "model/macs_exact": 39_000,
    "model/macs_per_parameter": 50,  # 40,000 / 800 trainable
    "task/loss": 0.25,
    "task/accuracy": 0.9,
    "task/samples": 360,
    "work/samples": 3000,
}


def test_a_record_of_this_schema_can_still_be_read(golden: Record) -> None:
    assert (golden.status, golden.cell.name) == ("FINISHED", "resnet18-64-train")


def test_a_finished_cell_has_every_metric_and_no_other(golden: Record) -> None:
    assert metrics(golden).keys() == METRICS.keys()


@pytest.mark.parametrize(("name", "value"), METRICS.items())
def test_metrics_are_right(name: str, value: float, golden: Record) -> None:
    assert metrics(golden)[name] == pytest.approx(value, rel=1e-4 if "u95" in name else 1e-6)


# Pass 1: 2630 J − 73 W × 10 s. Pass 2: 1315 J − 73 W × 5 s.
def test_each_pass_is_a_step(golden: Record) -> None:
    expected = [
        (0, (10, 2630, 1900, 0.5, 0.8)),
        (1, (5, 1315, 950, 0.375, 0.875)),
    ]
    names = ("active_s", "gross_j", "net_j", "loss", "accuracy")

    found = [
        (step, tuple(values[f"epoch/{name}"] for name in names))
        for step, values in pass_metrics(golden)
    ]

    assert found == expected


def test_the_passes_add_up_to_the_whole(golden: Record) -> None:
    net_j = sum(values["epoch/net_j"] for _, values in pass_metrics(golden))

    assert net_j == pytest.approx(metrics(golden)["energy/net_j"])


def test_coverage_names_the_components_of_the_totals(golden: Record) -> None:
    assert measured_in(golden).coverage == "gpu+cpu+dram"


# gpu0 and cpu0 alone: 2100 + 900 J gross, less (30 + 20) W × 15 s.
def test_totals_hold_the_components_present(golden: Record) -> None:
    read = metering_only(golden, "gpu0", "cpu0")

    assert metrics(read)["energy/net_j"] == pytest.approx(2250)
    assert measured_in(read).coverage == "gpu+cpu"


def test_a_component_that_was_not_metered_has_no_metric(golden: Record) -> None:
    assert not [name for name in metrics(metering_only(golden, "gpu0", "cpu0")) if "dram_j" in name]


def test_one_device_per_component_gets_no_metrics_of_its_own(golden: Record) -> None:
    assert "energy/net_gpu0_j" not in metrics(metering_only(golden, "gpu0", "cpu0"))


def test_without_any_energy_source_there_is_no_energy_and_no_power(golden: Record) -> None:
    named = metrics(replace(metering_only(golden), account=None))

    assert not [name for name in named if name.startswith(("energy/", "power/"))]
    assert named["time/samples_per_s"] == 200


def test_without_any_energy_source_a_pass_has_no_joules(golden: Record) -> None:
    [first, _] = pass_metrics(metering_only(golden))

    assert first[1].keys() == {"epoch/active_s", "epoch/loss", "epoch/accuracy"}


# Idle at 50 W for the GPUs, and 45 W while "working": 675 − 750 J.
def test_a_negative_net_is_reported_as_it_is(golden: Record) -> None:
    read = metering_only(golden, "gpu0", "gpu1")
    lazy = [
        replace(one, window=replace(one.window, energy_j={"gpu": 45 * one.window.duration_s}))
        for one in measured_in(read).passes
    ]

    assert metrics(with_measurement(read, passes=lazy))["energy/net_j"] == pytest.approx(-75)


def test_activations_are_a_metric_where_they_were_counted(golden: Record) -> None:
    model = measured_in(golden).model
    assert model.activation_bytes is None  # of before they were counted: not zero, no number
    assert "model/activation_bytes" not in metrics(golden)
    counted = with_measurement(golden, model=replace(model, activation_bytes=60_008))
    assert metrics(counted)["model/activation_bytes"] == 60_008


def test_a_model_with_nothing_to_train_is_taken_over_all_its_parameters(golden: Record) -> None:
    frozen = replace(measured_in(golden).model, trainable_parameters=0)

    assert frozen.macs_per_parameter == 40  # 40,000 / 1000


# ---------------------------------------------------------------------------------------- verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ([], "PASS"),
        ([Doubt(code="short_idle", seen="", remedy="")], "WARN"),
        (
            [
                Doubt(code="short_idle", seen="", remedy=""),
                Doubt(code="counter_reset", seen="", remedy="", severity="invalid"),
            ],
            "INVALID",
        ),
    ],
)
def test_the_worst_doubt_is_the_verdict(found: list[Doubt], verdict: str, golden: Record) -> None:
    assert replace(golden, doubts=found).verdict == verdict


def failed() -> Record:
    return Record(
        status="FAILED",
        cell=make_cell(make_config()),
        ended_at_s=1.0,
        failure=Failure(kind="oom", message="out of memory"),
    )


def test_a_cell_without_a_measurement_is_invalid() -> None:
    assert failed().verdict == "INVALID"


def test_a_cell_that_ended_before_it_was_metered_has_no_metrics() -> None:
    assert (metrics(failed()), list(pass_metrics(failed()))) == ({}, [])


# ------------------------------------------------------------------------- what a failure wasted


def account_of(read: Record) -> Account:
    assert read.account is not None
    return read.account


# 73 W over 2 + 1 + 3 + 4 + 15 + 4 + 1 s of idling, and the 3945 J of the passes.
def test_the_stages_of_a_cell_add_up(golden: Record) -> None:
    account = account_of(golden)
    assert account.energy_j == {"gpu": 4500, "cpu": 1500, "dram": 135}
    assert account.stage_j == {
        "loading": 146,
        "warm_up": 73,
        "settling": 1314,  # 3 s, and 3 + 12 s
        "idle": 584,
        "active": 3945,
        "evaluation": 73,
    }
    assert account.duration_s == 45


def test_a_cell_that_failed_wasted_all_that_it_drew(golden: Record) -> None:
    wasted = metrics(replace(failed(), account=golden.account))
    assert wasted == {
        "energy/metered_j": 6135,
        "energy/wasted_j": 6135,
        "energy/wasted_gpu_j": 4500,
        "energy/wasted_cpu_j": 1500,
        "energy/wasted_dram_j": 135,
    }


def test_a_cell_that_nothing_metered_wasted_no_known_joules(golden: Record) -> None:
    absent = [replace(one, provenance="absent", parts=[]) for one in account_of(golden).sources]
    stages = [replace(one, energy_j={}) for one in account_of(golden).stages]
    account = replace(account_of(golden), sources=absent, stages=stages)
    assert metrics(replace(failed(), account=account)) == {}


def test_modelled_joules_are_marked_whether_useful_or_wasted(golden: Record) -> None:
    assert (golden.mark, replace(failed(), account=golden.account).mark) == ("~", "~")
    measured = [one for one in golden.sources if one.provenance != "modelled:dimm"]
    account = replace(account_of(golden), sources=measured)
    assert (replace(failed(), account=account).mark, failed().mark) == ("", "")


@pytest.mark.parametrize(
    ("kind", "exception", "is_transient"),
    [
        ("killed", "", True),
        ("timeout", "", True),
        ("error", "MeterReadError", True),
        ("error", "MeterUnavailableError", True),
        ("error", "ModelError", False),
        ("error", "KeyError", False),
        ("oom", "OutOfMemoryError", False),
        ("nan", "LossNotFiniteError", False),
    ],
)
def test_a_failure_is_transient_where_a_second_try_may_succeed(
    kind: FailureKind, exception: str, is_transient: bool
) -> None:
    failure = Failure(kind=kind, exception=exception, message="")
    assert failure.is_transient is is_transient


# ---------------------------------------------------------------------------------------- storage


def test_what_is_written_reads_back_equal(golden: Record, tmp_path: Path) -> None:
    record.write_record(tmp_path, golden)

    assert record.read_record(tmp_path) == golden


def test_a_failed_cell_reads_back_equal(golden: Record, tmp_path: Path) -> None:
    written = replace(failed(), account=golden.account)
    record.write_record(tmp_path, written)

    assert record.read_record(tmp_path) == written


def test_a_cell_reads_back_equal(tmp_path: Path) -> None:
    written = make_cell(make_config())
    record.write_cell(tmp_path, written)

    assert record.read_cell(tmp_path) == written


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_survives(loss: float, golden: Record, tmp_path: Path) -> None:
    outcome = replace(measured_in(golden).evaluation, loss=loss)
    record.write_record(tmp_path, with_measurement(golden, evaluation=outcome))

    assert str(metrics(record.read_record(tmp_path))["task/loss"]) == str(loss)


def test_a_record_holds_no_derived_number(golden: Record, tmp_path: Path) -> None:
    record.write_record(tmp_path, golden)
    stored = json.loads((tmp_path / "record.json").read_text())["measurement"]

    assert stored["passes"][0]["window"].keys() == {
        "started_at_s",
        "duration_s",
        "energy_j",
        "part_energy_j",
        "edge_s",
    }
    assert not stored.keys() & {"active", "idle_w", "num_samples", "coverage"}


def test_another_schema_is_refused(tmp_path: Path) -> None:
    stored = json.loads((GOLDEN / "record.json").read_text())
    (tmp_path / "record.json").write_text(json.dumps(stored | {"schema_version": 999}))

    with pytest.raises(GreenlabError, match="schema version 999, this greenlab reads 3"):
        record.read_record(tmp_path)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"status": "FINISHED"}'])
def test_a_damaged_file_is_refused_by_its_path(damage: str, tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(damage)

    with pytest.raises(GreenlabError, match=str(tmp_path / "record.json")):
        record.read_record(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_leaves_the_old_record(golden: Record, tmp_path: Path) -> None:
    record.write_record(tmp_path, golden)
    (tmp_path / "record.partial").symlink_to("/dev/full")  # the write gets as far as the flush

    with pytest.raises(OSError, match="No space left"):
        record.write_record(tmp_path, failed())

    assert record.read_record(tmp_path) == golden


def test_nothing_but_the_record_is_left_behind(golden: Record, tmp_path: Path) -> None:
    record.write_record(tmp_path, golden)

    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


# -------------------------------------------------------------------------------------- signature


@pytest.mark.parametrize("override", ["mlflow.experiment=mine", "mlflow.tracking_uri=http://lab"])
def test_where_results_land_does_not_change_the_signature(override: str) -> None:
    assert config.signature(make_config(override)) == config.signature(make_config())


@pytest.mark.parametrize(
    "override", ["seed=1", "idle.window_s=11", "batch_size=64", "model=vgg16", "phase=inference"]
)
def test_what_shapes_the_result_changes_the_signature(override: str) -> None:
    assert config.signature(make_config(override)) != config.signature(make_config())


def test_a_configuration_is_the_same_after_a_trip_through_a_record() -> None:
    settings = make_config("hardware=hc1", "phase.epochs=3")

    assert config.from_dict(config.to_dict(settings)) == settings


def test_the_power_limits_of_all_gpus_add_up(golden: Record) -> None:
    measured = golden.measurement
    assert measured is not None
    trace = replace(measured.trace, power_limits_w={"gpu0": [350.0], "gpu1": [250.0]})
    limited = replace(golden, measurement=replace(measured, trace=trace))

    assert metrics(limited)["power/limit_gpu_w"] == 600


def test_a_power_limit_that_changed_or_is_not_known_is_no_number(golden: Record) -> None:
    measured = golden.measurement
    assert measured is not None
    for limits_w in ({"gpu0": [350.0]}, {"gpu0": [350.0], "gpu1": [200.0, 250.0]}):
        trace = replace(measured.trace, power_limits_w=limits_w)
        limited = replace(golden, measurement=replace(measured, trace=trace))

        assert "power/limit_gpu_w" not in metrics(limited)


# Half of a socket of 65 W; the GPU's data sheet.
def test_what_components_may_draw_is_as_configured(golden: Record) -> None:
    hardware = {"tdp_w": {"cpu": 65, "gpu": 350}, "socket_share_fraction": 0.5}
    told = replace(golden, cell=replace(golden.cell, config={"hardware": hardware}))

    values = metrics(told)

    assert (values["power/tdp_cpu_w"], values["power/tdp_gpu_w"]) == (32.5, 350)
