"""Doubts about a measurement: what was seen, from where on that matters, and what would mend it.

Pure functions of what was measured. Each doubt has a code that MLflow can be searched for. A cell
without a warning PASSES; one whose joules are wrong is INVALID; all are kept.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from greenlab import energy
from greenlab.config import Quality
from greenlab.record import Cell, CounterHealth, Doubt, Environment, Measurement
from greenlab.stretches import rel_half_width

CPU_TIME_TICK_S = 0.01
"""Linux counts CPU time in steps of a hundredth of a second, and the TDP model with it."""
POLLED_S = 10.0
"""Before that, a power reading that is a mean over the last second tells too much of before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that a doubt may rest on."""

    measured: Measurement
    environment: Environment
    cell: Cell
    limits: Quality

    def limit(self, name: str, unit: str = "") -> str:
        """A threshold as the user would set it."""
        return f"quality.{name}={getattr(self.limits, name):g}{unit}"

    @property
    def counters(self) -> list[CounterHealth]:
        """Those of hardware: they tick, wrap, stick and are reset."""
        counted = ("measured:nvml", "measured:rapl")
        sources = [s for s in self.measured.sources if s.provenance in counted]
        parts = {part for source in sources for part in source.parts}
        return [counter for counter in self.measured.counters if counter.part in parts]

    @property
    def slowest_tick_s(self) -> float:
        """Of everything that is counted; 0 where nothing is."""
        sources = [s for s in self.measured.sources if s.provenance.startswith("measured")]
        parts = {part for source in sources for part in source.parts}
        ticks_s = [
            counter.tick_s
            for counter in self.measured.counters
            # One that stands still has no tick, polled power none while the sampler stands still.
            if counter.part in parts
            and counter.longest_still_s <= self.limits.max_still_s
            and not (self.has_gap and not counter.ticks)
        ]
        if any(source.provenance == "modelled:tdp" for source in self.measured.sources):
            ticks_s.append(CPU_TIME_TICK_S)
        return max(ticks_s, default=0.0)

    @property
    def has_gap(self) -> bool:
        """Whether the sampler missed a stretch that its means therefore say nothing about."""
        return self.measured.trace.longest_gap_s > self.limits.max_gap_s


def doubts(
    measured: Measurement, environment: Environment, cell: Cell, limits: Quality
) -> list[Doubt]:
    """Everything about a measurement that its reader should know."""
    evidence = Evidence(measured=measured, environment=environment, cell=cell, limits=limits)
    return [doubt for check in CHECKS for doubt in check(evidence)]


# ------------------------------------------------------------------------- where joules come from


def _modelled(evidence: Evidence) -> Iterator[Doubt]:
    for source in evidence.measured.sources:
        if source.provenance.startswith("modelled"):
            why = f" ({source.reason})" if source.reason else ""
            error = source.error_fraction
            right_to = "" if error is None else f", right to ± {error:.0%} of its gross joules"
            yield Doubt(
                code=f"modelled_{source.component}",
                seen=f"{source.component} energy is modelled, not measured: {source.detail}"
                f"{right_to}{why}",
                remedy="Do not publish it as measured; python -m greenlab.doctor says what could "
                "be read",
            )
        if source.provenance == "measured:nvml_power":
            yield Doubt(
                code="polled_power",
                seen=f"GPU energy is integrated from polled power: {source.reason or 'as asked'}",
                remedy="Power between two readings is not seen; take a GPU with an energy counter",
            )


def _counters(evidence: Evidence) -> Iterator[Doubt]:
    for counter in evidence.counters:
        if counter.num_resets:
            yield Doubt(
                code="counter_reset",
                seen=f"the counter of {counter.part} ran backwards {counter.num_resets} time(s): "
                "it was reset, and what it counted before is lost",
                remedy="Run the cell again",
                severity="invalid",
            )
        if counter.longest_still_s > evidence.limits.max_still_s:
            yield Doubt(
                code="counter_stuck",
                seen=f"the counter of {counter.part} stood still for "
                f"{counter.longest_still_s:.1f} s: its joules are too few",
                limit=f"{evidence.limit('max_still_s', ' s')}; RAPL ticks a thousand, NVML's "
                "counter ten times a second",
                remedy="Reload the driver, and run the cell again; if it never moves, leave it out "
                f"(hardware.energy_sources.{counter.part.rstrip('0123456789')}=none)",
                severity="invalid",
            )
        if counter.range_j is not None and counter.longest_gap_s * counter.peak_w > counter.range_j:
            yield Doubt(
                code="wrap_missed",
                seen=f"the counter of {counter.part} was not read for {counter.longest_gap_s:.1f} s"
                f", long enough to count through its range of {counter.range_j:.0f} J unseen",
                remedy="Shorten sampler.period_s, or free a CPU for the sampler",
                severity="invalid",
            )


def _sampling(evidence: Evidence) -> Iterator[Doubt]:
    if evidence.has_gap:
        yield Doubt(
            code="sampling_gap",
            seen=f"the sampler was held up for {evidence.measured.trace.longest_gap_s:.1f} s: "
            "polled power and utilisation miss that stretch",
            limit=f"{evidence.limit('max_gap_s', ' s')}, ten of its periods as a rule",
            remedy="Leave a CPU free for it, and do not stop the process",
        )


def _gpu_power(evidence: Evidence) -> Iterator[Doubt]:
    measured = evidence.measured
    counted = any(source.provenance == "measured:nvml" for source in measured.sources)
    polled_w = measured.trace.mean.get("power/polled_gpu_w")
    if not counted or not polled_w or evidence.has_gap or measured.active.duration_s < POLLED_S:
        return
    counted_w = energy.mean_power_w(measured.active)["gpu"]
    if abs(counted_w - polled_w) > evidence.limits.max_power_mismatch_fraction * polled_w:
        yield Doubt(
            code="gpu_counter_against_power",
            seen=f"the GPU's energy counter says {counted_w:.1f} W over the passes, its power "
            f"readings say {polled_w:.1f} W: one of them is wrong",
            limit=f"{evidence.limit('max_power_mismatch_fraction')}, what boards' sensors are "
            "said to differ by",
            remedy="Compare with a wall meter, or with hardware.energy_sources.gpu=nvml_power",
        )


# ----------------------------------------------------------------------------------------- windows


def _is_short(evidence: Evidence, window: energy.EnergyWindow) -> bool:
    return window.duration_s < evidence.limits.min_ticks * evidence.slowest_tick_s


def _windows(evidence: Evidence) -> Iterator[Doubt]:
    measured, tick_s = evidence.measured, evidence.slowest_tick_s
    shortest_idle = min(measured.idle_windows, key=lambda window: window.duration_s)
    for code, what, window, remedy in (
        (
            "short_active",
            "the passes took",
            measured.active,
            "Raise phase.epochs (training), phase.min_active_s (inference) or dataset.num_samples",
        ),
        ("short_idle", "an idle window is", shortest_idle, "Raise idle.window_s"),
    ):
        if _is_short(evidence, window):
            yield Doubt(
                code=code,
                seen=f"{what} {window.duration_s:.1f} s, {window.duration_s / tick_s:.0f} ticks of "
                f"the slowest counter ({tick_s * 1000:.0f} ms)",
                limit=f"{evidence.limit('min_ticks')}; a tick is then "
                f"{100 / evidence.limits.min_ticks:g} % of the window"
                if evidence.limits.min_ticks
                else "",
                remedy=remedy,
            )


def _net(evidence: Evidence) -> Iterator[Doubt]:
    measured = evidence.measured
    net_j = energy.net_energy_j(measured.active, measured.idle_w)
    for source in measured.sources:
        component = source.component
        # A DIMM draws the same at work by the model, so that its net is rounding.
        if component not in net_j or source.provenance == "modelled:dimm":
            continue
        u95_j = 0.0
        if component in measured.measured_components:
            u95_j = measured.net_u95_j(component) or 0.0
        if net_j[component] < -u95_j:
            yield Doubt(
                code=f"negative_net_{component}",
                seen=f"net {component} energy is {net_j[component]:.1f} J: less than idle",
                remedy="Idle was disturbed, or the machine draws less at work: run the cell again",
            )
    metered = [component for component in measured.measured_components if component in net_j]
    if not metered:
        return
    total_j, total_u95_j = sum(net_j[c] for c in metered), measured.net_u95_j(*metered)
    if total_u95_j is None:
        yield Doubt(
            code="no_uncertainty",
            seen="the windows hold too few samples to tell how power wavers: there is no "
            "energy/net_u95_j",
            remedy="Raise idle.window_s, or shorten sampler.period_s",
        )
    elif abs(total_j) <= total_u95_j:
        yield Doubt(
            code="net_within_uncertainty",
            seen=f"the net energy of {', '.join(metered)} is {total_j:.3g} J ± "
            f"{total_u95_j:.3g} J: it may be nothing at all",
            limit="the 95 % interval holds 0",
            remedy="Lengthen the passes (phase.epochs, phase.min_active_s), and idle.window_s",
        )


# ------------------------------------------------------------------------------- the idle machine


def _idle(evidence: Evidence) -> Iterator[Doubt]:
    measured, limits = evidence.measured, evidence.limits
    before_w = energy.mean_power_w(measured.idle_before)
    after_w = energy.mean_power_w(measured.idle_after)
    counted = {s.component for s in measured.sources if s.provenance.startswith("measured")}
    for component in sorted(counted & before_w.keys()):
        mean_w = (before_w[component] + after_w[component]) / 2
        drift_w = after_w[component] - before_w[component]
        if abs(drift_w) > limits.max_idle_drift_fraction * abs(mean_w):
            yield Doubt(
                code=f"idle_drift_{component}",
                seen=f"idle {component} power went from {before_w[component]:.1f} to "
                f"{after_w[component]:.1f} W over the cell",
                limit=f"{evidence.limit('max_idle_drift_fraction')} of it, the usual gate",
                remedy="Raise idle.settle_s, and quieten the machine",
            )
    for load, maximum in (("cpu", "max_idle_cpu_percent"), ("gpu", "max_idle_gpu_percent")):
        percent = measured.trace.idle_mean.get(f"utilisation/{load}_percent", 0.0)
        if percent > getattr(limits, maximum):
            average = measured.conditions[0].load_average
            yield Doubt(
                code=f"idle_busy_{load}",
                seen=f"the {load.upper()} was {percent:.0f} % busy in the idle windows (load "
                f"average {average:.1f}): other work runs on this machine, and its energy is mixed "
                "with the cell's",
                limit=evidence.limit(maximum, " %"),
                remedy="Stop it",
            )
    for part, fall_celsius in measured.trace.idle_fall_celsius.items():
        if fall_celsius > limits.max_idle_cooling_celsius:
            yield Doubt(
                code=f"idle_cooling_{part}",
                seen=f"{part} cooled by {fall_celsius:.0f} °C within an idle window: it had not "
                "settled, and hot silicon leaks more",
                limit=evidence.limit("max_idle_cooling_celsius", " °C"),
                remedy="Raise idle.settle_s",
            )


def _cooling(evidence: Evidence) -> Iterator[Doubt]:
    coolings = zip(("before", "after"), evidence.measured.cooling, strict=True)
    gave_up = [(when, cooling) for when, cooling in coolings if not cooling.reached]
    if not gave_up:
        return
    found = evidence.cell.sweep_first.idle_celsius or evidence.measured.cooling[0].celsius
    idle = evidence.cell.config.get("idle", {})
    seen = "; ".join(
        f"as the idle window {when} the passes began, "
        + ", ".join(
            f"{part} had {celsius:.0f} °C ({found[part]:.0f} °C in the sweep's first)"
            for part, celsius in cooling.celsius.items()
            if part in found
        )
        for when, cooling in gave_up
    )
    yield Doubt(
        code="not_cooled",
        seen=f"GPUs had not cooled down: {seen}",
        limit=f"idle.settle_celsius={idle.get('settle_celsius', 0):g} °C, waited for "
        f"idle.settle_max_s={idle.get('settle_max_s', 0):g} s",
        remedy="Raise idle.settle_max_s; where idle power differs too, idle_drift_gpu says so",
        severity="information",
    )


# ------------------------------------------------------------------ what else the machine was doing


def _company(evidence: Evidence) -> Iterator[Doubt]:
    trace, limits = evidence.measured.trace, evidence.limits
    others = max(
        means.get("utilisation/gpu_other_processes", 0.0) for means in (trace.mean, trace.idle_mean)
    )
    if others > 0:
        yield Doubt(
            code="gpu_shared",
            seen=f"{math.ceil(others)} other process(es) had work on the GPU: the counter meters "
            "the whole board",
            remedy="Stop them (nvidia-smi lists them), or take another GPU with "
            "CUDA_VISIBLE_DEVICES",
        )
    percent = trace.mean.get("utilisation/cpu_others_percent", 0.0)
    if percent > limits.max_others_cpu_percent:
        yield Doubt(
            code="background_load",
            seen=f"other processes kept {percent:.0f} % of the CPUs busy during the passes",
            limit=evidence.limit("max_others_cpu_percent", " %"),
            remedy="Stop them: their energy is counted as the cell's",
        )
    percent = max(
        means.get("utilisation/cpu_stolen_percent", 0.0) for means in (trace.mean, trace.idle_mean)
    )
    if percent > limits.max_stolen_percent:
        yield Doubt(
            code="cpu_stolen",
            seen=f"the hypervisor gave {percent:.1f} % of this machine's CPU time to others",
            limit=evidence.limit("max_stolen_percent", " %"),
            remedy="Take a dedicated machine, or measure when the host is quiet",
        )


def _machine(evidence: Evidence) -> Iterator[Doubt]:
    before, after = evidence.measured.conditions
    swapped_bytes = after.swapped_bytes - before.swapped_bytes
    if swapped_bytes > evidence.limits.max_swapped_bytes:
        yield Doubt(
            code="swapping",
            seen=f"{swapped_bytes / 2**20:.1f} MiB were swapped in or out during the cell",
            limit=f"quality.max_swapped_bytes={evidence.limits.max_swapped_bytes}",
            remedy="Free memory, or take a smaller batch_size",
        )
    if (suspended_s := after.suspended_s - before.suspended_s) > evidence.limits.max_clock_jump_s:
        yield Doubt(
            code="suspended",
            seen=f"the machine was suspended for {suspended_s:.1f} s during the cell",
            remedy="Run the cell again on a machine that stays awake",
            severity="invalid",
        )
    elif abs(jump_s := after.unix_offset_s - before.unix_offset_s) > (
        evidence.limits.max_clock_jump_s
    ):
        yield Doubt(
            code="clock_jump",
            seen=f"the wall clock was set by {jump_s:+.1f} s during the cell; durations come from "
            "the monotonic clock and stand",
            limit=evidence.limit("max_clock_jump_s", " s"),
            remedy="Do not line this cell's time stamps up with another meter's",
        )
    expected = evidence.cell.sweep_first.machine
    if expected and evidence.environment.machine != expected:
        yield Doubt(
            code="other_machine",
            seen=f"the cell ran on {evidence.environment.machine}, the sweep's first on {expected}",
            remedy="Compare it with cells of its own machine only",
        )
    commit = evidence.cell.sweep_first.commit
    if commit and evidence.environment.commit != commit:
        yield Doubt(
            code="other_commit",
            seen=f"greenlab is at {evidence.environment.commit or 'no commit'}, it was at {commit} "
            "for the sweep's first cell",
            remedy="See whether what changed between them matters; measure both with one if so",
        )
    for mismatch in evidence.measured.mismatches:
        yield Doubt(
            code="other_hardware",
            seen=mismatch,
            remedy="Choose the hardware option of this machine",
        )


def _clocks(evidence: Evidence) -> Iterator[Doubt]:
    trace, limits = evidence.measured.trace, evidence.limits
    slowed = trace.mean.get("utilisation/gpu_slowed_fraction", 0.0)
    if slowed > limits.max_slowed_fraction:
        yield Doubt(
            code="gpu_throttled",
            seen=f"the GPU's clocks were slowed by heat or hardware for {slowed:.0%} of the passes",
            limit=evidence.limit("max_slowed_fraction"),
            remedy="Cool it, and compare its speed with care",
        )
    capped = trace.mean.get("utilisation/gpu_power_capped_fraction", 0.0)
    asked_for = evidence.cell.config.get("hardware", {}).get("power_limit_w") is not None
    if capped > limits.max_power_capped_fraction and not asked_for:
        yield Doubt(
            code="gpu_power_capped",
            seen=f"the GPU ran into its power limit for {capped:.0%} of the passes: the limit, not "
            "the workload, decides its watts",
            limit=evidence.limit("max_power_capped_fraction"),
            remedy="Raise the limit, or report it with the result",
        )
    for part, rise_celsius in trace.active_rise_celsius.items():
        if abs(rise_celsius) > limits.max_warming_celsius and not evidence.has_gap:
            yield Doubt(
                code=f"warming_{part}",
                seen=f"{part} went {rise_celsius:+.0f} °C from the start of the passes to their "
                "end: power was not steady, and idle before and after differ",
                limit=evidence.limit("max_warming_celsius", " °C"),
                remedy="Lengthen the passes (phase.epochs, phase.min_active_s), so that most of "
                "them are warm",
            )


def _power_limit(evidence: Evidence) -> Iterator[Doubt]:
    wanted_w = evidence.cell.config.get("hardware", {}).get("power_limit_w")
    for part, limits_w in evidence.measured.trace.power_limits_w.items():
        if len(limits_w) > 1:
            yield Doubt(
                code=f"power_limit_changed_{part}",
                seen=f"the power limit of {part} was changed during the cell: "
                + ", ".join(f"{limit_w:g} W" for limit_w in limits_w),
                remedy="Keep other tools from it (nvidia-smi -pl, DCGM), and run the cell again",
                severity="warning" if wanted_w is None else "invalid",
            )


def _information(evidence: Evidence) -> Iterator[Doubt]:
    environment = evidence.environment
    if environment.is_simulated:
        yield Doubt(
            code="simulated",
            seen="the counters are simulated: these joules are nobody's",
            remedy="Use them to test greenlab, and nothing else",
            severity="information",
        )
    if environment.governor and environment.governor != "performance":
        yield Doubt(
            code="governor",
            seen=f"the CPU frequency governor is {environment.governor}",
            remedy="performance varies least from run to run: sudo cpupower frequency-set -g "
            "performance",
            severity="information",
        )
    if environment.has_turbo:
        yield Doubt(
            code="turbo",
            seen="the CPUs may exceed their base frequency while they are cool",
            remedy="Results vary less with it off, and are those of another machine",
            severity="information",
        )
    if environment.commit.endswith("+"):
        yield Doubt(
            code="dirty_commit",
            seen=f"greenlab's checkout had changes ({environment.commit})",
            remedy="Commit them, so that the code behind the result can be found again",
            severity="information",
        )


# ----------------------------------------------------------------------------------- the workload


def _profile(evidence: Evidence) -> Iterator[Doubt]:
    if not evidence.cell.is_profile:
        return
    measured, phase = evidence.measured, evidence.cell.config["phase"]
    halves = {
        kind: rel_half_width(measured.passes, measured.idle_before, trains=trains)
        for kind, trains in (("training", True), ("inference", False))
        if any(one.trains == trains for one in measured.passes)
    }
    wide = {kind: half for kind, half in halves.items() if not half <= phase["target_rel_ci"]}
    if wide:
        seen = " and ".join(f"of {kind} to ±{half:.1%}" for kind, half in wide.items())
        yield Doubt(
            code="profile_unsettled",
            seen=f"after {phase['max_stretches']} stretches the cost of a sample is known only "
            f"{seen}",
            limit=f"phase.target_rel_ci={phase['target_rel_ci']:g}",
            remedy="Quieten the machine, or raise phase.max_stretches or phase.stretch_s; what is "
            "foretold has a wider interval for it",
        )


def _stopped_early(evidence: Evidence) -> Iterator[Doubt]:
    if (stop := evidence.measured.stopped_early) is None:
        return
    reasons = []
    if stop.rival is not None:
        cost = "did no more work" if stop.least_net_j is None else "took no more energy"
        reasons.append(f"{stop.rival.name} has {stop.rival.accuracy:.1%} and {cost}")
    if stop.below_accuracy is not None:
        reasons.append(f"phase.stop_below_accuracy={stop.below_accuracy:g}")
    yield Doubt(
        code="stopped_early",
        seen=f"training was ended after {stop.after_epochs} of {stop.planned_epochs} epochs: with "
        f"all of them an accuracy of {stop.accuracy:.1%} ({stop.accuracy_low:.1%} to "
        f"{stop.accuracy_high:.1%}) was foretold; {' and '.join(reasons)}",
        limit="the 95 % prediction interval lies below",
        remedy="Its joules and accuracy are those of these epochs, in a cosine schedule cut short: "
        "compare it with no whole training. phase.stop_early=false trains it to the end",
        severity="information",
    )


def _outcome(evidence: Evidence) -> Iterator[Doubt]:
    measured = evidence.measured
    if measured.evaluation.num_samples == 0:
        yield Doubt(
            code="not_evaluated",
            seen="the model could not be evaluated after its training",
            remedy="greenlab.log says why",
        )
    elif not math.isfinite(measured.evaluation.loss):
        yield Doubt(
            code="loss_not_finite",
            seen="the loss is not a finite number",
            remedy="Lower phase.learning_rate",
        )
    if measured.model.uncounted_layers:
        layers = ", ".join(measured.model.uncounted_layers)
        yield Doubt(
            code="macs_incomplete",
            seen=f"thop has no rule for {layers}: model/macs counts them as zero",
            remedy="Use model/macs_exact, which does not",
        )


CHECKS = (
    _modelled,
    _counters,
    _sampling,
    _gpu_power,
    _windows,
    _net,
    _idle,
    _cooling,
    _company,
    _machine,
    _clocks,
    _power_limit,
    _information,
    _profile,
    _stopped_early,
    _outcome,
)
