"""What a record comes to: one value per metric name, worked out again whenever one is read.

Names are a contract with whoever reads MLflow; units stand in them.
"""

from collections.abc import Iterator

from greenlab import energy
from greenlab.config import Carbon
from greenlab.prediction import prediction_metrics
from greenlab.promise import stop_metrics
from greenlab.record import Measurement, Record


def metrics(record: Record) -> dict[str, float]:
    """One value per metric name; names are a contract with whoever reads MLflow.

    A cell without a measurement has none but what was metered until it failed.
    """
    if (measured := record.measurement) is None:
        return _account_metrics(record)
    active = measured.active
    named = _energy_metrics(measured)
    named |= Carbon(**record.cell.config.get("carbon", {})).tariff.metrics(
        named.get("energy/gross_j")
    )
    named |= {
        "time/active_s": active.duration_s,
        "time/idle_before_s": measured.idle_before.duration_s,
        "time/idle_after_s": measured.idle_after.duration_s,
        "time/cooling_before_s": measured.cooling[0].waited_s,
        "time/cooling_after_s": measured.cooling[1].waited_s,
        "work/samples": measured.num_samples,
        "model/parameters": measured.model.parameters,
        "model/trainable_parameters": measured.model.trainable_parameters,
        "model/parameter_bytes": measured.model.parameter_bytes,
        "model/buffer_bytes": measured.model.buffer_bytes,
        "model/size_bytes": measured.model.size_bytes,
        "model/macs": measured.model.macs,
        "model/macs_exact": measured.model.macs_exact,
    }
    if measured.model.parameters:
        named["model/macs_per_parameter"] = measured.model.macs_per_parameter
    if measured.model.activation_bytes is not None:
        named["model/activation_bytes"] = measured.model.activation_bytes
    named |= prediction_metrics(record) if record.cell.is_profile else _of_one_kind(measured)
    named |= stop_metrics(measured)
    return named | _limits(record) | _account_metrics(record) | measured.trace.mean


def _of_one_kind(measured: Measurement) -> dict[str, float]:
    """What makes sense only where all samples were processed alike."""
    named = {
        "time/samples_per_s": measured.num_samples / measured.active.duration_s,
        "task/loss": measured.evaluation.loss,
        "task/accuracy": measured.evaluation.accuracy,
        "task/samples": measured.evaluation.num_samples,
    }
    if measured.active.energy_j:
        net_j = energy.total(energy.net_energy_j(measured.active, measured.idle_w))
        named["energy/net_per_sample_j"] = net_j / measured.num_samples
        if (u95_j := measured.net_u95_j(*measured.active.energy_j)) is not None:
            named["energy/net_u95_per_sample_j"] = u95_j / measured.num_samples
    return named


def _limits(record: Record) -> dict[str, float]:
    """What the components may draw, where that is known: GPUs' limits in force, the CPU's TDP."""
    named: dict[str, float] = {}
    if (measured := record.measurement) is None:
        return named
    parts = [part for one in measured.sources if one.component == "gpu" for part in one.parts]
    limits_w = [measured.trace.power_limits_w.get(part, []) for part in parts]
    if parts and all(len(in_force) == 1 for in_force in limits_w):
        named["power/limit_gpu_w"] = sum(watts for [watts] in limits_w)
    hardware = record.cell.config.get("hardware", {})
    tdp_w = hardware.get("tdp_w", {})
    if tdp_w.get("cpu") is not None:
        named["power/tdp_cpu_w"] = tdp_w["cpu"] * (hardware.get("socket_share_fraction") or 1)
    if tdp_w.get("gpu") is not None:
        named["power/tdp_gpu_w"] = tdp_w["gpu"]
    return named


def _account_metrics(record: Record) -> dict[str, float]:
    """All that was metered, from before the model was loaded; wasted where there is no result."""
    metered_j = record.account.energy_j if record.account else {}
    if not metered_j:
        return {}  # no number at all, not a zero
    named = {"energy/metered_j": energy.total(metered_j)}
    if record.measurement is None:
        named["energy/wasted_j"] = named["energy/metered_j"]
        named |= {f"energy/wasted_{component}_j": value for component, value in metered_j.items()}
    return named


def _energy_metrics(measured: Measurement) -> dict[str, float]:
    active, idle_w = measured.active, measured.idle_w
    if not active.energy_j:
        return {}  # nothing was metered: no number at all, not a zero
    by_component = {
        "gross": active.energy_j,
        "net": energy.net_energy_j(active, idle_w),
        "idle": energy.subtracted_idle_j(active, idle_w),
        "net_paper": energy.net_energy_as_printed_j(active, measured.idle_windows),
    }
    mean_w = energy.mean_power_w(active)
    named = {f"energy/{kind}_j": energy.total(joules) for kind, joules in by_component.items()}
    named |= {
        f"energy/{kind}_{component}_j": value
        for kind, joules in by_component.items()
        for component, value in joules.items()
    }
    if len(active.part_energy_j) > len(active.energy_j):  # several devices of one component
        idle = energy.join(measured.idle_windows)
        for part, gross_j in active.part_energy_j.items():
            idle_j = idle.part_energy_j[part] / idle.duration_s * active.duration_s
            named |= {f"energy/gross_{part}_j": gross_j, f"energy/net_{part}_j": gross_j - idle_j}
    if (u95_j := measured.net_u95_j(*active.energy_j)) is not None:
        named["energy/net_u95_j"] = u95_j
        for component in active.energy_j:
            if (own_j := measured.net_u95_j(component)) is not None:
                named[f"energy/net_u95_{component}_j"] = own_j
    named |= {f"power/mean_{component}_w": watts for component, watts in mean_w.items()}
    named |= {f"power/idle_{component}_w": watts for component, watts in idle_w.items()}
    named["power/mean_w"] = energy.total(mean_w)
    named["power/idle_w"] = energy.total(idle_w)
    return named


def describe_net(values: dict[str, float], component: str = "") -> str:
    """`1,234.5 ± 6.7` joules, the half-width to two digits; without it where it is not known."""
    infix = f"_{component}" if component else ""
    net = f"{values[f'energy/net{infix}_j']:,.1f}"
    u95_j = values.get(f"energy/net_u95{infix}_j")
    return net if u95_j is None else f"{net} ± {two_digits(u95_j)}"


def two_digits(value: float) -> str:
    """To two significant digits, never as a power of ten."""
    return f"{float(f'{value:.2g}'):,.10g}"


def pass_metrics(record: Record) -> Iterator[tuple[int, dict[str, float]]]:
    """Metrics of each pass, with its step: 0 for the first."""
    if (measured := record.measurement) is None:
        return
    idle_w = measured.idle_w
    for step, one in enumerate(measured.passes):
        named = {
            "epoch/active_s": one.window.duration_s,
            "epoch/loss": one.outcome.loss,
            "epoch/accuracy": one.outcome.accuracy,
        }
        if one.window.energy_j:
            named["epoch/gross_j"] = energy.total(one.window.energy_j)
            named["epoch/net_j"] = energy.total(energy.net_energy_j(one.window, idle_w))
        yield step, named
