"""What makes a measurement doubtful, and that nothing else does.

The clean measurement: two idle windows of 10 s at 50 W (GPU) and 20 W (CPU), 20 s of training at
200 W and 60 W between them.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import ROOT

from greenlab import quality
from greenlab.config import Quality
from greenlab.energy import EnergyWindow
from greenlab.record import (
    Cell,
    Claim,
    Conditions,
    Cooling,
    CounterHealth,
    Doubt,
    Environment,
    Measurement,
    ModelProfile,
    Outcome,
    Pass,
    Record,
    Source,
    TraceSummary,
)
from greenlab.uncertainty import PowerSeries


def window(duration_s: float, **watts: float) -> EnergyWindow:
    joules = {component: power_w * duration_s for component, power_w in watts.items()}
    return EnergyWindow(
        started_at_s=0.0,
        duration_s=duration_s,
        energy_j=joules,
        part_energy_j={f"{component}0": energy_j for component, energy_j in joules.items()},
        edge_s=0.0,
    )


def source(component: str, provenance: str, reason: str = "") -> Source:
    absent = provenance == "absent"
    return Source(
        component=component,
        provenance=provenance,
        detail="what is read",
        reason=reason,
        parts=[] if absent else [f"{component}0"],
    )


def counter(part: str, **changes: object) -> CounterHealth:
    fields: dict[str, object] = {
        "part": part,
        "range_j": None,
        "tick_s": 0.1,
        "ticks": True,
        "quantum_j": 0.0,
        "num_wraps": 0,
        "num_resets": 0,
        "longest_gap_s": 0.1,
        "longest_still_s": 0.1,
        "peak_w": 210.0,
    }
    return CounterHealth(**(fields | changes))  # type: ignore[arg-type]


def trained(active: EnergyWindow) -> Pass:
    return Pass(window=active, outcome=OUTCOME)


OUTCOME = Outcome(num_samples=1000, num_batches=32, loss=0.5, accuracy=0.9)
MODEL = ModelProfile(
    parameters=100,
    trainable_parameters=100,
    parameter_bytes=400,
    buffer_bytes=0,
    macs=1000,
    macs_exact=1000,
    uncounted_layers=(),
)
TRACE = TraceSummary(
    num_samples=400,
    longest_gap_s=0.12,
    mean={"utilisation/cpu_percent": 80.0},
    idle_mean={"utilisation/cpu_percent": 2.0, "utilisation/gpu_percent": 0.0},
    active_rise_celsius={"gpu0": 10.0},
    idle_fall_celsius={"gpu0": 1.0},
    power_limits_w={"gpu0": [300.0]},
)
STEADY = PowerSeries(block_s=0.5, part_power_w={"gpu0": [50.0] * 20, "cpu0": [20.0] * 20})
CONDITIONS = Conditions(
    unix_offset_s=1.7e9, suspended_s=100.0, swapped_bytes=4096, load_average=0.1
)
ENVIRONMENT = Environment(
    machine="lab-1",
    hostname="lab",
    platform="Linux",
    cpu_name="CPU",
    num_cores=8,
    num_logical_cpus=16,
    memory_bytes=2**34,
    gpus=[],
    driver="570",
    versions={},
    commit="0123456789ab",
    is_virtual=False,
    governor="performance",
    has_turbo=False,
)
CELL = Cell(
    uid="1",
    signature="",
    choices={},
    overrides=[],
    sweep="",
    position=1,
    num_cells=1,
    repetition=1,
    started_at_s=0.0,
    config={},
)
COOL = Cooling(waited_s=0.0, reached=True, celsius={"gpu0": 35.0})
CLEAN = Measurement(
    device="cuda:0",
    sources=[
        source("gpu", "measured:nvml"),
        source("cpu", "measured:rapl"),
        source("dram", "absent"),
    ],
    model=MODEL,
    idle_before=window(10, gpu=50.0, cpu=20.0),
    idle_after=window(10, gpu=50.0, cpu=20.0),
    passes=[trained(window(20, gpu=200.0, cpu=60.0))],
    evaluation=OUTCOME,
    idle_series=(STEADY, STEADY),
    active_series=PowerSeries(
        block_s=1.0, part_power_w={"gpu0": [200.0] * 20, "cpu0": [60.0] * 20}
    ),
    cooling=(COOL, COOL),
    counters=[counter("gpu0"), counter("cpu0", tick_s=0.001, range_j=262_143.0, num_wraps=1)],
    trace=TRACE,
    conditions=(CONDITIONS, CONDITIONS),
    mismatches=[],
)


def doubts(measured: Measurement, environment: Environment = ENVIRONMENT) -> list[Doubt]:
    return quality.doubts(measured, environment, CELL, Quality())


def only_doubt(measured: Measurement) -> Doubt:
    [doubt] = doubts(measured)
    return doubt


def verdict(measured: Measurement) -> str:
    record = Record(
        status="FINISHED",
        cell=CELL,
        ended_at_s=0.0,
        measurement=measured,
        doubts=doubts(measured),
    )
    return record.verdict


def with_counter(**changes: object) -> Measurement:
    return replace(CLEAN, counters=[counter("gpu0"), counter("cpu0", **changes)])


def with_sources(*sources: Source) -> Measurement:
    return replace(CLEAN, sources=list(sources))


def with_idle_mean(metric: str, value: float) -> Measurement:
    return replace(CLEAN, trace=replace(TRACE, idle_mean={metric: value}))


def with_mean(metric: str, value: float) -> Measurement:
    return replace(CLEAN, trace=replace(TRACE, mean={metric: value}))


def ending_in(**changes: float) -> Measurement:
    """As the machine was found afterwards."""
    after = replace(CONDITIONS, **changes)  # type: ignore[arg-type]
    return replace(CLEAN, conditions=(CONDITIONS, after))


GPU, CPU, DRAM = CLEAN.sources

DOUBTFUL: dict[str, Measurement] = {
    "modelled_cpu": with_sources(GPU, source("cpu", "modelled:tdp"), DRAM),
    "modelled_dram": with_sources(GPU, CPU, source("dram", "modelled:dimm")),
    "polled_power": with_sources(source("gpu", "measured:nvml_power"), CPU, DRAM),
    "counter_reset": with_counter(num_resets=1),
    "counter_stuck": with_counter(longest_still_s=2.1),
    # 210 W for 1.5 s are 315 J: more than once through a range of 300 J.
    "wrap_missed": with_counter(range_j=300.0, longest_gap_s=1.5),
    "sampling_gap": replace(CLEAN, trace=replace(TRACE, longest_gap_s=1.1)),
    # The counter says 200 W; 5 % of 190 W is less than the 10 W between them.
    "gpu_counter_against_power": replace(
        CLEAN, trace=replace(TRACE, mean={"power/polled_gpu_w": 190.0})
    ),
    "short_active": replace(CLEAN, passes=[trained(window(4.9, gpu=200.0, cpu=60.0))]),
    "short_idle": replace(CLEAN, idle_before=window(4.9, gpu=50.0, cpu=20.0)),
    # From 50 W to 53 W: 3 W of a mean of 51.5 W are 5.8 %.
    "idle_drift_gpu": replace(CLEAN, idle_after=window(10, gpu=53.0, cpu=20.0)),
    "idle_drift_cpu": replace(CLEAN, idle_after=window(10, gpu=50.0, cpu=18.0)),
    "idle_busy_cpu": with_idle_mean("utilisation/cpu_percent", 10.5),
    "idle_busy_gpu": with_idle_mean("utilisation/gpu_percent", 5.5),
    # 45 W of 50 W idle.
    "negative_net_gpu": replace(CLEAN, passes=[trained(window(20, gpu=45.0, cpu=60.0))]),
    "negative_net_cpu": replace(CLEAN, passes=[trained(window(20, gpu=200.0, cpu=19.0))]),
    # 0.5 J above idle. A tick of the GPU is 5 J at its last reading.
    "net_within_uncertainty": replace(CLEAN, passes=[trained(window(20, gpu=50.025, cpu=20.0))]),
    "idle_cooling_gpu0": replace(CLEAN, trace=replace(TRACE, idle_fall_celsius={"gpu0": 3.1})),
    "warming_gpu0": replace(CLEAN, trace=replace(TRACE, active_rise_celsius={"gpu0": 15.1})),
    "gpu_shared": with_mean("utilisation/gpu_other_processes", 0.4),
    "background_load": with_mean("utilisation/cpu_others_percent", 10.1),
    "cpu_stolen": with_mean("utilisation/cpu_stolen_percent", 1.1),
    "gpu_throttled": with_mean("utilisation/gpu_slowed_fraction", 0.06),
    "gpu_power_capped": with_mean("utilisation/gpu_power_capped_fraction", 0.06),
    "swapping": ending_in(swapped_bytes=4096 + 1_000_001),
    "power_limit_changed_gpu0": replace(
        CLEAN, trace=replace(TRACE, power_limits_w={"gpu0": [200.0, 300.0]})
    ),
    "no_uncertainty": replace(
        CLEAN, idle_series=(PowerSeries(block_s=0.0, part_power_w={"gpu0": [], "cpu0": []}), STEADY)
    ),
    "clock_jump": ending_in(unix_offset_s=1.7e9 - 0.6),
    "suspended": ending_in(suspended_s=100.6),
    "loss_not_finite": replace(CLEAN, evaluation=replace(OUTCOME, loss=math.nan)),
    "other_hardware": replace(CLEAN, mismatches=["hardware.gpu_name is 'A', this has 'B'"]),
    "macs_incomplete": replace(CLEAN, model=replace(MODEL, uncounted_layers=("GELU",))),
}
INVALIDATING = {"counter_reset", "counter_stuck", "wrap_missed", "suspended"}


def test_a_clean_measurement_has_no_doubt() -> None:
    assert doubts(CLEAN) == []


def test_a_measurement_without_doubt_passes() -> None:
    assert verdict(CLEAN) == "PASS"


@pytest.mark.parametrize("code", DOUBTFUL)
def test_a_doubtful_measurement_has_its_own_doubt_and_no_other(code: str) -> None:
    assert [doubt.code for doubt in doubts(DOUBTFUL[code])] == [code]


@pytest.mark.parametrize("code", DOUBTFUL)
def test_a_doubt_invalidates_only_where_joules_are_wrong(code: str) -> None:
    assert verdict(DOUBTFUL[code]) == ("INVALID" if code in INVALIDATING else "WARN")


REMEDIES = {
    "counter_reset": "Run the cell again",
    "counter_stuck": "Reload the driver",
    "wrap_missed": "sampler.period_s",
    "sampling_gap": "Leave a CPU free",
    "short_active": "phase.min_active_s",
    "short_idle": "idle.window_s",
    "idle_drift_gpu": "idle.settle_s",
    "idle_busy_cpu": "Stop it",
    "loss_not_finite": "phase.learning_rate",
    "macs_incomplete": "model/macs_exact",
}


@pytest.mark.parametrize(("code", "remedy"), REMEDIES.items())
def test_a_doubt_says_what_would_mend_it(code: str, remedy: str) -> None:
    assert remedy in only_doubt(DOUBTFUL[code]).message


AT_THE_LIMIT: dict[str, Callable[[], Measurement]] = {
    "active 5 s": lambda: replace(CLEAN, passes=[trained(window(5, gpu=200.0, cpu=60.0))]),
    "idle 5 s": lambda: replace(
        CLEAN,
        idle_before=window(5, gpu=50.0, cpu=20.0),
        idle_after=window(5, gpu=50.0, cpu=20.0),
    ),
    # 2 W of a mean of 51 W are 3.9 %.
    "drift under 5 %": lambda: replace(CLEAN, idle_after=window(10, gpu=52.0, cpu=20.0)),
    "idle CPU 10 % busy": lambda: with_idle_mean("utilisation/cpu_percent", 10.0),
    "sampling gap 1 s": lambda: replace(CLEAN, trace=replace(TRACE, longest_gap_s=1.0)),
    "counter still 2 s": lambda: with_counter(longest_still_s=2.0),
    # 210 W for 1 s are 210 J of 300 J.
    "wrap seen": lambda: with_counter(range_j=300.0, longest_gap_s=1.0, num_wraps=40),
    "zero net": lambda: replace(CLEAN, passes=[trained(window(20, gpu=50.0, cpu=60.0))]),
}


@pytest.mark.parametrize("case", AT_THE_LIMIT)
def test_up_to_a_limit_there_is_no_doubt(case: str) -> None:
    assert doubts(AT_THE_LIMIT[case]()) == []


# Two passes of 3 s make 6 s of metered work.
def test_the_active_time_is_that_of_all_passes_together() -> None:
    short = trained(window(3, gpu=200.0, cpu=60.0))

    assert doubts(replace(CLEAN, passes=[short, short])) == []


# A model has no noise to average out: idle it may read 0 W, then 1 W, and that says nothing.
def test_a_modelled_component_is_doubted_for_being_modelled_alone() -> None:
    measured = replace(
        with_sources(GPU, source("cpu", "modelled:tdp"), DRAM),
        idle_after=window(10, gpu=50.0, cpu=25.0),
        counters=[counter("gpu0"), counter("cpu0", longest_still_s=30.0, num_resets=1)],
    )

    assert [doubt.code for doubt in doubts(measured)] == ["modelled_cpu"]


def test_a_negative_net_is_doubted_where_it_is_modelled_too() -> None:
    measured = replace(
        with_sources(GPU, source("cpu", "modelled:tdp"), DRAM),
        passes=[trained(window(20, gpu=200.0, cpu=1.0))],
    )

    assert [doubt.code for doubt in doubts(measured)] == ["modelled_cpu", "negative_net_cpu"]


def test_a_modelled_component_says_why_it_was_not_measured() -> None:
    modelled = source("cpu", "modelled:tdp", reason="no RAPL on this machine")

    assert "no RAPL on this machine" in only_doubt(with_sources(GPU, modelled, DRAM)).message


def test_polled_power_is_drift_checked_as_measured() -> None:
    measured = replace(
        with_sources(source("gpu", "measured:nvml_power"), CPU, DRAM),
        idle_after=window(10, gpu=53.0, cpu=20.0),
    )

    assert {doubt.code for doubt in doubts(measured)} == {"polled_power", "idle_drift_gpu"}


INFORMATION = {
    "governor": replace(ENVIRONMENT, governor="powersave"),
    "turbo": replace(ENVIRONMENT, has_turbo=True),
    "dirty_commit": replace(ENVIRONMENT, commit="0123456789ab+"),
    "simulated": replace(ENVIRONMENT, machine="simulated-lab-1"),
}


@pytest.mark.parametrize("code", INFORMATION)
def test_information_is_no_reason_to_warn(code: str) -> None:
    found = doubts(CLEAN, INFORMATION[code])

    assert [doubt.code for doubt in found] == [code]
    record = Record(status="FINISHED", cell=CELL, ended_at_s=0, measurement=CLEAN, doubts=found)
    assert (record.verdict, record.warnings) == ("PASS", [])


def test_a_cell_on_another_machine_than_its_sweep_is_doubted() -> None:
    elsewhere = replace(CELL, sweep_first=Claim(machine="lab-2"))
    [doubt] = quality.doubts(CLEAN, ENVIRONMENT, elsewhere, Quality())
    assert doubt.code == "other_machine"
    at_home = replace(CELL, sweep_first=Claim(machine="lab-1"))
    assert quality.doubts(CLEAN, ENVIRONMENT, at_home, Quality()) == []


def test_a_cell_measured_by_other_code_than_its_sweep_is_doubted() -> None:
    older = replace(CELL, sweep_first=Claim(machine="lab-1", commit="fedcba987654"))
    [doubt] = quality.doubts(CLEAN, ENVIRONMENT, older, Quality())
    assert doubt.code == "other_commit"
    assert "it was at fedcba987654" in doubt.seen
    same = replace(CELL, sweep_first=Claim(commit=ENVIRONMENT.commit))
    assert quality.doubts(CLEAN, ENVIRONMENT, same, Quality()) == []


def test_a_gpu_that_did_not_cool_down_is_named_and_leaves_the_verdict_alone() -> None:
    warm = Cooling(waited_s=120.0, reached=False, celsius={"gpu0": 48.0, "gpu1": 30.0})
    cell = replace(CELL, sweep_first=Claim(idle_celsius={"gpu0": 35.0}))
    measured = replace(CLEAN, cooling=(COOL, warm))
    [doubt] = quality.doubts(measured, ENVIRONMENT, cell, Quality())
    assert (doubt.code, doubt.severity) == ("not_cooled", "information")
    assert "window after the passes began, gpu0 had 48 °C (35 °C in" in doubt.seen
    assert "gpu1" not in doubt.seen


# The sampler saw 1.1 s less than the counter did: its mean power is of other moments.
def test_a_trace_with_a_gap_is_no_witness_against_the_counter() -> None:
    measured = replace(
        CLEAN,
        trace=replace(TRACE, longest_gap_s=1.1, mean={"power/polled_gpu_w": 100.0}),
    )

    assert only_doubt(measured).code == "sampling_gap"


def test_a_power_limit_that_was_asked_for_may_be_reached() -> None:
    capped = replace(CELL, config={"hardware": {"power_limit_w": 150.0}})

    assert quality.doubts(DOUBTFUL["gpu_power_capped"], ENVIRONMENT, capped, Quality()) == []


def test_a_limit_that_was_to_be_held_and_was_not_makes_the_cell_invalid() -> None:
    capped = replace(CELL, config={"hardware": {"power_limit_w": 200.0}})
    changed = DOUBTFUL["power_limit_changed_gpu0"]
    [doubt] = quality.doubts(changed, ENVIRONMENT, capped, Quality())
    assert doubt.severity == "invalid"


# The model of DIMMs draws the same at work: its net is what rounding leaves of zero.
def test_a_modelled_dram_is_never_negative() -> None:
    dram = source("dram", "modelled:dimm")
    measured = replace(
        with_sources(GPU, CPU, dram),
        idle_before=window(10, gpu=50.0, cpu=20.0, dram=3.0),
        idle_after=window(10, gpu=50.0, cpu=20.0, dram=3.0),
        passes=[trained(window(20, gpu=200.0, cpu=60.0, dram=2.9999))],
    )
    assert [doubt.code for doubt in doubts(measured)] == ["modelled_dram"]


# 49.9 W of 50 W idle: 2 J less, where a tick alone is 5 J. The CPU's 800 J are beyond doubt.
def test_a_net_below_zero_within_its_uncertainty_is_nothing_to_doubt() -> None:
    passes = [trained(window(20, gpu=49.9, cpu=60.0))]

    assert doubts(replace(CLEAN, passes=passes)) == []


# What the GPU drew above idle is in doubt, whatever a model says of the CPU.
def test_a_model_does_not_vouch_for_what_is_measured() -> None:
    measured = replace(
        with_sources(GPU, source("cpu", "modelled:tdp"), DRAM),
        passes=[trained(window(20, gpu=50.05, cpu=60.0))],
    )
    codes = [doubt.code for doubt in doubts(measured)]
    assert codes == ["modelled_cpu", "net_within_uncertainty"]


# A counter that never moves shows no tick: it is stuck, and its windows are none too short.
def test_a_stuck_counter_is_not_called_slow_as_well() -> None:
    measured = with_counter(longest_still_s=30.0, tick_s=0.5)

    assert [doubt.code for doubt in doubts(measured)] == ["counter_stuck"]


def test_every_doubt_and_every_threshold_is_documented() -> None:
    documented = (ROOT / "docs" / "doubts.md").read_text()
    for code in [*DOUBTFUL, *INFORMATION, "not_evaluated", "other_machine", "other_commit"]:
        assert f"`{code}`" in documented or f"`{re.sub(r'(gpu0|gpu|cpu)$', '', code)}" in documented
    for name, limit in vars(Quality()).items():
        assert f"`quality.{name}={limit:g}`" in documented


def test_thresholds_are_settings() -> None:
    lenient = Quality(max_idle_drift_fraction=0.2)

    assert quality.doubts(DOUBTFUL["idle_drift_gpu"], ENVIRONMENT, CELL, lenient) == []


@pytest.mark.parametrize("limit", [name for name in vars(Quality()) if name != "min_ticks"])
def test_a_threshold_that_was_passed_is_named(limit: str) -> None:
    doubtful = [doubt for one in DOUBTFUL.values() for doubt in doubts(one)]

    assert [
        doubt
        for doubt in doubtful
        if f"quality.{limit}=" in doubt.limit
        or (limit == "max_clock_jump_s" and doubt.code == "suspended")
    ]


def test_several_doubts_are_all_kept() -> None:
    measured = replace(
        CLEAN,
        passes=[trained(window(1, gpu=40.0, cpu=60.0))],
        evaluation=replace(OUTCOME, loss=math.inf),
    )

    assert {doubt.code for doubt in doubts(measured)} == {
        "short_active",
        "negative_net_gpu",
        "loss_not_finite",
    }


def test_a_measurement_without_any_energy_source_is_judged_on_the_rest() -> None:
    measured = replace(
        CLEAN,
        sources=[source(component, "absent") for component in ("gpu", "cpu", "dram")],
        idle_before=window(10),
        idle_after=window(10),
        passes=[trained(window(20))],
        counters=[],
    )

    assert doubts(measured) == []


def test_a_model_that_could_not_be_evaluated_is_doubted_once() -> None:
    empty = Outcome(num_samples=0, num_batches=0, loss=math.nan, accuracy=math.nan)
    found = {doubt.code for doubt in doubts(replace(CLEAN, evaluation=empty))}
    assert found == {"not_evaluated"}
