"""Whole cells on a machine of known watts, under the real Zeus and the real pynvml.

Truth is the closed form: power above idle, times the length of the passes, both stated by the
simulated machine. Faults that leave a truth must not move it; the others must be named.
"""

import json
from collections.abc import Callable
from pathlib import Path

import fake_zeusd
import numpy as np
import pytest

from greenlab import tracking
from greenlab.metrics import metrics
from greenlab.record import Record
from greenlab.simulated.machine import (
    Gpu,
    SimulatedMachine,
    Zone,
    client_with_psys,
    mirrored_dies,
    two_sockets,
    workstation,
)
from greenlab.trace_file import read_trace

Measure = Callable[..., Record]
WITHIN = 0.01


def provenance(record: Record) -> dict[str, str]:
    assert record.measurement is not None
    return {source.component: source.provenance for source in record.measurement.sources}


def codes(record: Record) -> set[str]:
    return {doubt.code for doubt in record.doubts}


def assert_net(
    record: Record, component: str, watts_above_idle: float, rel: float = WITHIN
) -> None:
    assert record.measurement is not None, record.failure
    active_s = record.measurement.active.duration_s
    net_j = metrics(record)[f"energy/net_{component}_j"]
    assert net_j == pytest.approx(watts_above_idle * active_s, rel=rel)


def package(**changes: object) -> Zone:
    return Zone("package-0", idle_w=20, active_w=60, **changes)  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_component_is_within_one_percent_of_the_closed_form(
    measure_on: Measure, tmp_path: Path
) -> None:
    with workstation() as machine:
        record = measure_on(machine)
        window = record.measurement and record.measurement.active
    assert window is not None
    assert_net(record, "cpu", 60 - 20)
    assert_net(record, "dram", 5 - 3)
    assert_net(record, "gpu", 300 - 70)
    values = metrics(record)
    assert values["energy/net_j"] == pytest.approx((40 + 2 + 230) * window.duration_s, rel=WITHIN)
    assert values["power/idle_gpu_w"] == pytest.approx(70, rel=WITHIN)
    assert values["power/idle_cpu_w"] == pytest.approx(20, rel=WITHIN)
    assert provenance(record) == {
        "gpu": "measured:nvml",
        "cpu": "measured:rapl",
        "dram": "measured:rapl",
    }
    trace = read_trace(tmp_path / "trace.parquet")
    steady = (trace["time_s"] > window.started_at_s + 0.3) & (
        trace["time_s"] < window.started_at_s + window.duration_s
    )
    for column, watts in {"cpu0_power_w": 60, "dram0_power_w": 5, "gpu0_power_w": 300}.items():
        assert trace[column][steady].mean() == pytest.approx(watts, rel=0.03)
    for column in ("gpu0_utilisation_percent", "cpu_percent"):
        assert np.isfinite(trace[column][1:]).all(), column
    for column in (
        "gpu0_memory_used_bytes", "gpu0_temperature_celsius", "gpu0_sm_clock_hz",
        "gpu0_power_limit_w", "gpu0_clock_event_reasons", "dram_used_bytes",
    ):  # fmt: skip
        assert np.isfinite(trace[column]).sum() >= 3, column  # once a second
    assert record.measurement is not None
    # Read as the passes begin, and not what it was when the machine idled.
    assert values["utilisation/gpu_temperature_celsius"] == 65
    assert (tmp_path / "power.png").stat().st_size > 5000
    # The window's own stamps, held against the machine's log of what it drew between them.
    truth_j = machine.true_energy_j(
        "package-0", window.started_at_s, window.started_at_s + window.duration_s
    )
    assert window.energy_j["cpu"] == pytest.approx(truth_j, rel=0.005)


@pytest.mark.slow  # the self-test has wraps, too
def test_a_wrap_inside_the_window_costs_nothing(measure_on: Measure) -> None:
    # From the warm-up on it idles through some 25 J until the passes begin, at 60 W then.
    with SimulatedMachine(zones=[package(max_energy_range_uj=65_532_610_987)]) as machine:
        record = measure_on(machine, "+model.kwargs.wrap_after_j=60")
    assert_net(record, "cpu", 40)
    assert record.measurement is not None
    assert [counter.num_wraps for counter in record.measurement.counters] == [1]


@pytest.mark.slow  # the self-test has its like
def test_a_range_smaller_than_the_run_wraps_many_times(measure_on: Measure) -> None:
    with SimulatedMachine(zones=[package(max_energy_range_uj=30_000_000)]) as machine:
        record = measure_on(machine)
    assert_net(record, "cpu", 40)
    assert record.measurement is not None
    assert record.measurement.counters[0].num_wraps >= 4  # 120 J and more at 30 J each
    assert not codes(record) & {"counter_reset", "wrap_missed"}


@pytest.mark.slow  # the self-test has its like
def test_psys_is_never_counted(measure_on: Measure) -> None:
    with client_with_psys() as machine:
        record = measure_on(machine)
    assert_net(record, "cpu", 25 - 5)


@pytest.mark.slow  # the self-test has its like
def test_mirrored_dies_are_counted_once(measure_on: Measure) -> None:
    with mirrored_dies() as machine:
        record = measure_on(machine)
    assert_net(record, "cpu", 40)


@pytest.mark.slow  # the self-test has its like
def test_two_sockets_add_up_and_are_told_apart(measure_on: Measure) -> None:
    with two_sockets() as machine:
        record = measure_on(machine)
    assert_net(record, "cpu", 2 * 40)
    assert_net(record, "dram", 2 * 2)
    assert_net(record, "cpu0", 40)
    assert_net(record, "cpu1", 40)


@pytest.mark.slow
def test_a_missing_dram_zone_is_absent_and_not_zero(measure_on: Measure) -> None:
    with SimulatedMachine(zones=[package()]) as machine:
        record = measure_on(machine)
    assert provenance(record) == {"gpu": "absent", "cpu": "measured:rapl", "dram": "absent"}
    assert not [name for name in metrics(record) if "dram_j" in name]
    assert record.measurement is not None
    assert record.measurement.coverage == "cpu"
    assert "set hardware.num_dimms" in record.measurement.sources[2].reason
    assert_net(record, "cpu", 40)


@pytest.mark.slow  # the self-test has its like
def test_an_unreadable_dram_zone_leaves_the_package_measured(measure_on: Measure) -> None:
    dram = Zone("dram", idle_w=3, active_w=5, readable=False)
    with SimulatedMachine(zones=[package(children=(dram,))]) as machine:
        record = measure_on(machine)
    assert provenance(record)["cpu"] == "measured:rapl"
    assert provenance(record)["dram"] == "absent"
    assert record.measurement is not None
    assert "not readable" in record.measurement.sources[2].reason


@pytest.mark.slow  # the doctor says it too
def test_unreadable_packages_are_modelled_and_say_so(measure_on: Measure) -> None:
    with SimulatedMachine(zones=[package(readable=False)]) as machine:
        record = measure_on(machine)
    assert provenance(record)["cpu"] == "modelled:tdp"
    assert "modelled_cpu" in codes(record)
    [doubt] = [doubt for doubt in record.doubts if doubt.code == "modelled_cpu"]
    assert "python -m greenlab.doctor prints the commands" in doubt.message


@pytest.mark.slow
def test_zeusd_reads_what_this_user_may_not_and_costs_no_gpu(
    measure_on: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The package wraps before the passes begin (9 J at 20 W idle), psys is there to be left out,
    # and the daemon serves no GPU: one that Zeus's own list of GPUs would then be without.
    dram = Zone("dram", idle_w=3, active_w=5, readable=False)
    zone = package(
        readable=False,
        children=(dram,),
        start_uj=262_143_328_850 - 9_000_000,
    )
    psys = Zone("psys", idle_w=50, active_w=90, readable=False)
    gpu = Gpu(idle_w=70, active_w=300)
    with SimulatedMachine(zones=[zone, psys], gpus=[gpu]) as machine:
        tree = fake_zeusd.Tree(machine.powercap_root)
        with fake_zeusd.serve(tree.numbers(), tree.read_uj) as socket_path:
            environment = machine.environment() | {"ZEUSD_SOCK_PATH": socket_path}
            monkeypatch.setattr(machine, "environment", lambda: environment)
            record = measure_on(machine)
    assert_net(record, "cpu", 40)
    assert_net(record, "dram", 2)
    assert_net(record, "gpu", 230)
    assert provenance(record) == {
        "gpu": "measured:nvml",
        "cpu": "measured:rapl",
        "dram": "measured:rapl",
    }
    assert record.measurement is not None
    for source in record.measurement.sources[1:]:
        assert "through zeusd" in source.detail
        assert len(source.parts) == 1
    assert not codes(record) & {"counter_reset", "wrap_missed"}


def test_rapl_asked_for_and_unreadable_is_refused(measure_on: Measure) -> None:
    with SimulatedMachine(zones=[package(readable=False)]) as machine:
        record = measure_on(machine, "hardware.energy_sources.cpu=rapl")
    assert record.status == "FAILED"
    assert record.failure is not None
    assert record.failure.exception == "MeterUnavailableError"
    assert "hardware.energy_sources.cpu=rapl" in record.failure.message
    assert "tdp_model" in record.failure.message


@pytest.mark.slow  # the self-test has its like
def test_a_counter_that_is_reset_makes_the_cell_invalid(measure_on: Measure) -> None:
    zone = package(start_uj=9_000_000_000, reset_at_active_s=1.0)
    with SimulatedMachine(zones=[zone]) as machine:
        record = measure_on(machine)
    assert record.verdict == "INVALID"
    assert "counter_reset" in codes(record)


@pytest.mark.slow  # the self-test has its like
def test_a_counter_that_sticks_makes_the_cell_invalid(measure_on: Measure) -> None:
    with SimulatedMachine(zones=[package(stuck_at_active_s=0.5)]) as machine:
        record = measure_on(machine, "phase.min_active_s=2.5")
    assert record.verdict == "INVALID"
    assert "counter_stuck" in codes(record)


def test_a_zone_that_disappears_fails_the_cell_with_its_name(
    measure_on: Measure, tmp_path: Path
) -> None:
    with SimulatedMachine(zones=[package(removed_at_active_s=0.5)]) as machine:
        record = measure_on(machine)
    assert record.status == "FAILED"
    assert record.failure is not None
    assert (record.failure.kind, record.failure.exception) == ("error", "MeterReadError")
    assert record.failure.is_transient
    # Until the sampler's last look before, 0.1 s at most: from then on nothing is known.
    assert record.account is not None
    assert record.account.stages[-1].name == "active"
    account = record.account
    truth_j = machine.true_energy_j("package-0", account.started_at_s, account.ended_at_s)
    assert account.energy_j["cpu"] == pytest.approx(truth_j, rel=0.01)
    assert "package-0" in record.failure.message
    # What was measured before is kept: 20 W over the first idle window, and nothing after it.
    [line] = (tmp_path / "windows.jsonl").read_text().splitlines()
    kept = json.loads(line)
    assert kept["window"] == "idle_before"
    assert kept["energy_j"]["cpu"] == pytest.approx(20 * kept["duration_s"], rel=0.02)


@pytest.mark.slow  # the self-test has its like
def test_two_gpus_are_summed_and_told_apart(measure_on: Measure) -> None:
    gpus = [Gpu(idle_w=70, active_w=300), Gpu(idle_w=50, active_w=150)]
    with SimulatedMachine(zones=[package()], gpus=gpus) as machine:
        record = measure_on(machine)
    assert_net(record, "gpu", 230 + 100)
    assert_net(record, "gpu0", 230)
    assert_net(record, "gpu1", 100)


@pytest.mark.slow
def test_a_power_limit_shows_in_the_joules_and_is_gone_after_the_cell(measure_on: Measure) -> None:
    with SimulatedMachine(zones=[package()], gpus=[Gpu(idle_w=70, active_w=300)]) as machine:
        record = measure_on(machine, "hardware.device=cpu", "hardware.power_limit_w=150")
        assert machine.power_limit_w("gpu-0") == 400
    assert_net(record, "gpu", 150 - 70)  # it would draw 300 W, and may draw 150 W
    assert metrics(record)["power/idle_gpu_w"] == pytest.approx(70, rel=WITHIN)
    assert record.environment is not None
    assert [gpu.power_limit_w for gpu in record.environment.gpus] == [150]
    assert tracking._params(record)["power_limit_w"] == "150"


@pytest.mark.slow
def test_a_power_limit_is_gone_after_a_cell_that_fails(measure_on: Measure) -> None:
    limited = ("hardware.device=cpu", "hardware.power_limit_w=150", "+model.kwargs.no_such=1")
    with SimulatedMachine(zones=[package()], gpus=[Gpu()]) as machine:
        record = measure_on(machine, *limited)
        assert machine.power_limit_w("gpu-0") == 400
    assert record.failure is not None
    assert record.failure.exception == "ModelError"  # models are built when the limit is set


@pytest.mark.slow
def test_a_gpu_without_an_energy_counter_is_integrated_from_its_power(measure_on: Measure) -> None:
    gpu = Gpu(idle_w=70, active_w=300, has_energy_counter=False)
    with SimulatedMachine(zones=[package()], gpus=[gpu]) as machine:
        record = measure_on(machine)
    assert provenance(record)["gpu"] == "measured:nvml_power"
    assert "polled_power" in codes(record)
    assert_net(record, "gpu", 230, rel=0.02)  # one reading in 0.1 s, of a window of 2 s


@pytest.mark.slow  # the self-test has its like
def test_an_energy_counter_that_ticks_slowly_is_off_by_a_tick_at_most(measure_on: Measure) -> None:
    gpu = Gpu(idle_w=70, active_w=300, counter_tick_s=0.1)
    with SimulatedMachine(zones=[package()], gpus=[gpu]) as machine:
        record = measure_on(machine)
    assert record.measurement is not None
    active_s = record.measurement.active.duration_s
    # A tick of 0.1 s holds 30 J; idle power is off by a tick of 7 J over 1 s, twice.
    tolerance_j = 30 + 7 * active_s
    assert metrics(record)["energy/net_gpu_j"] == pytest.approx(230 * active_s, abs=tolerance_j)


@pytest.mark.slow  # the self-test has its like
def test_an_idle_that_drifts_is_averaged_over_both_windows_and_doubted(measure_on: Measure) -> None:
    # 40 W at the start, 2 W more each second, working or not: idle before and after differ, and
    # their mean is what idle would have been in the middle of the passes.
    zone = Zone("package-0", idle_w=40, active_w=80, idle_drift_w_per_s=2)
    with SimulatedMachine(zones=[zone]) as machine:
        record = measure_on(machine)
    assert_net(record, "cpu", 40, rel=0.02)
    assert "idle_drift_cpu" in codes(record)


@pytest.mark.slow
@pytest.mark.parametrize("visible", ["", "-1"])
def test_a_gpu_that_cuda_may_not_see_is_absent(
    measure_on: Measure, monkeypatch: pytest.MonkeyPatch, visible: str
) -> None:
    with SimulatedMachine(zones=[package()], gpus=[Gpu(idle_w=70, active_w=300)]) as machine:
        environment = machine.environment() | {"CUDA_VISIBLE_DEVICES": visible}
        monkeypatch.setattr(machine, "environment", lambda: environment)
        record = measure_on(machine, "phase.min_active_s=0")
    assert provenance(record)["gpu"] == "absent"


@pytest.mark.slow
def test_another_machine_than_the_named_one_is_refused_or_doubted(measure_on: Measure) -> None:
    elsewhere = ("hardware.device=cpu", "hardware.cpu_name=i9-11900KF", "phase.min_active_s=0")
    with SimulatedMachine(zones=[package()]) as machine:
        refused = measure_on(machine, *elsewhere)
        doubted = measure_on(machine, *elsewhere, "hardware.strict=false")
    assert refused.failure is not None
    assert refused.failure.exception == "HardwareMismatchError"
    assert "hardware.strict=false" in refused.failure.message
    assert doubted.status == "FINISHED"
    assert "other_hardware" in codes(doubted)
