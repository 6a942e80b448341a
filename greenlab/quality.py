"""Doubts about a measurement, each with what would mend it: pure functions of what was measured."""

import math
from collections.abc import Iterator

from greenlab import energy
from greenlab.record import CounterHealth, Doubt, Measurement, Source

MIN_ACTIVE_S = 5.0
"""A counter that ticks every 100 ms is off by up to 2 % of a window this long."""
MIN_IDLE_S = 5.0
MAX_IDLE_DRIFT_FRACTION = 0.05
"""Of idle power, between the window before and the window after."""
MAX_IDLE_CPU_PERCENT = 10.0
MAX_IDLE_GPU_PERCENT = 5.0
MAX_SAMPLING_GAP_S = 1.0
MAX_POWER_MISMATCH_FRACTION = 0.10
"""Between the GPU's energy counter and its own power readings."""
MAX_STILL_S = 2.0
"""RAPL ticks every millisecond, NVML's energy counter every 20 to 100 ms."""


def doubts(measured: Measurement) -> list[Doubt]:
    """Everything about a measurement that its reader should know."""
    return [
        *_modelled(measured.sources),
        *_counters(measured),
        *_sampling(measured),
        *_gpu_power(measured),
        *_windows(measured),
        *_idle(measured),
        *_outcome(measured),
    ]


def _modelled(sources: list[Source]) -> Iterator[Doubt]:
    for source in sources:
        if source.provenance.startswith("modelled"):
            why = f" ({source.reason})" if source.reason else ""
            yield Doubt(
                code=f"modelled_{source.component}",
                message=f"{source.component} energy is modelled, not measured: "
                f"{source.detail}{why}",
            )
        if source.provenance == "measured:nvml_power":
            yield Doubt(
                code="polled_power",
                message="GPU energy is integrated from polled power: "
                f"{source.reason or 'as asked'}",
            )


def _sampling(measured: Measurement) -> Iterator[Doubt]:
    if measured.trace.longest_gap_s > MAX_SAMPLING_GAP_S:
        yield Doubt(
            code="sampling_gap",
            message=f"the sampler was held up for {measured.trace.longest_gap_s:.1f} s: polled "
            "power and utilisation miss that stretch. Leave a CPU free for it",
        )


def _counters(measured: Measurement) -> Iterator[Doubt]:
    counted = [s for s in measured.sources if s.provenance in ("measured:nvml", "measured:rapl")]
    parts = {part for source in counted for part in source.parts}
    for counter in measured.counters:
        if counter.part in parts:
            yield from _counter(counter)


def _counter(counter: CounterHealth) -> Iterator[Doubt]:
    if counter.num_resets:
        yield Doubt(
            code="counter_reset",
            message=f"the counter of {counter.part} ran backwards {counter.num_resets} time(s): it "
            "was reset, and what it counted before is lost. Run the cell again",
            invalidates=True,
        )
    if counter.longest_still_s > MAX_STILL_S:
        yield Doubt(
            code="counter_stuck",
            message=f"the counter of {counter.part} stood still for {counter.longest_still_s:.1f} s"
            ": its joules are too few. Reload the driver, and run the cell again",
            invalidates=True,
        )
    if counter.range_j is not None and counter.longest_gap_s * counter.peak_w > counter.range_j:
        yield Doubt(
            code="wrap_missed",
            message=f"the counter of {counter.part} was not read for {counter.longest_gap_s:.1f} s"
            f", long enough to count through its range of {counter.range_j:.0f} J unseen. Shorten "
            "sampler.period_s, or free a CPU for the sampler",
            invalidates=True,
        )


def _gpu_power(measured: Measurement) -> Iterator[Doubt]:
    counted = any(source.provenance == "measured:nvml" for source in measured.sources)
    polled_w = measured.trace.mean.get("power/polled_gpu_w")
    if not counted or polled_w is None or measured.active.duration_s < MIN_ACTIVE_S:
        return
    counted_w = energy.mean_power_w(measured.active)["gpu"]
    if abs(counted_w - polled_w) > MAX_POWER_MISMATCH_FRACTION * polled_w:
        yield Doubt(
            code="gpu_counter_against_power",
            message=f"the GPU's energy counter says {counted_w:.1f} W over the passes, its power "
            f"readings say {polled_w:.1f} W: one of them is wrong. Compare with a wall meter, or "
            "with hardware.energy_sources.gpu=nvml_power",
        )


def _windows(measured: Measurement) -> Iterator[Doubt]:
    active_s = measured.active.duration_s
    if active_s < MIN_ACTIVE_S:
        yield Doubt(
            code="short_active",
            message=f"the passes took {active_s:.1f} s, under {MIN_ACTIVE_S:g} s: raise "
            "phase.epochs (training), phase.min_active_s (inference) or dataset.num_samples",
        )
    idle_s = min(window.duration_s for window in measured.idle_windows)
    if idle_s < MIN_IDLE_S:
        yield Doubt(
            code="short_idle",
            message=f"the idle windows are {idle_s:.1f} s long, under {MIN_IDLE_S:g} s: raise "
            "idle.window_s",
        )


def _idle(measured: Measurement) -> Iterator[Doubt]:
    before_w = energy.mean_power_w(measured.idle_before)
    after_w = energy.mean_power_w(measured.idle_after)
    counted = {s.component for s in measured.sources if s.provenance.startswith("measured")}
    for component in counted & before_w.keys():
        mean_w = (before_w[component] + after_w[component]) / 2
        drift_w = after_w[component] - before_w[component]
        if abs(drift_w) > MAX_IDLE_DRIFT_FRACTION * abs(mean_w):
            yield Doubt(
                code=f"idle_drift_{component}",
                message=f"idle {component} power went from {before_w[component]:.1f} to "
                f"{after_w[component]:.1f} W over the cell: raise idle.settle_s, and quieten the "
                "machine",
            )
    for load, limit_percent in (("cpu", MAX_IDLE_CPU_PERCENT), ("gpu", MAX_IDLE_GPU_PERCENT)):
        percent = measured.trace.idle_mean.get(f"utilisation/{load}_percent", 0.0)
        if percent > limit_percent:
            yield Doubt(
                code=f"idle_busy_{load}",
                message=f"the {load.upper()} was {percent:.0f} % busy in the idle windows: other "
                "work runs on this machine, and its energy is mixed with the cell's. Stop it",
            )
    net_j = energy.net_energy_j(measured.active, measured.idle_w)
    for component in sorted(net_j):
        if net_j[component] < 0:
            yield Doubt(
                code=f"negative_net_{component}",
                message=f"net {component} energy is {net_j[component]:.1f} J: less than idle. The "
                "workload drew nothing above the noise of idle, or idle was disturbed",
            )


def _outcome(measured: Measurement) -> Iterator[Doubt]:
    if measured.evaluation.num_samples == 0:
        yield Doubt(
            code="not_evaluated",
            message="the model could not be evaluated after its training; greenlab.log says why",
        )
    elif not math.isfinite(measured.evaluation.loss):
        yield Doubt(
            code="loss_not_finite",
            message="the loss is not a finite number: lower phase.learning_rate",
        )
    for mismatch in measured.mismatches:
        yield Doubt(code="other_hardware", message=mismatch)
    if measured.model.uncounted_layers:
        layers = ", ".join(measured.model.uncounted_layers)
        yield Doubt(
            code="macs_incomplete",
            message=f"thop has no rule for {layers}: model/macs counts them as zero, "
            "model/macs_exact does not",
        )
