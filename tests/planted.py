"""Sweeps made by hand, whose every relation is known: what a test plants, an analysis must find."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

MODELS = tuple(f"m{place:02d}" for place in range(16))


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Models whose cost spans a factor of exp(log_span), and how everything else hangs on it."""

    series: str = "box gpu"
    models: tuple[str, ...] = MODELS
    log_span: float = 5.2
    training_per_inference: float = 3.0
    training_is_unrelated: bool = False
    """To inference: its times are those of other models."""
    spread: float = 0.02
    """Of everything that has noise, as a share of it."""
    energy_noise: float = 0.0
    """Spread of log energy around log time."""
    macs_noise: float = 0.05
    """Spread of log MACs around log energy; large: no relation."""
    macs_per_parameter_noise: float = 0.05
    power_noise: float = 0.05
    """Spread of GPU power around its line over utilisation, as a share."""
    accuracy_follows_energy: bool = False
    batch_sizes: tuple[int, ...] = (4, 128, 256)
    launch_share: float = 4.0
    """Energy per sample is one + this / batch size."""
    late_gain: float = 0.0
    """Share of energy that the largest batch size saves over the best before it."""
    first_epoch_factor: float = 1.0
    num_epochs: int = 4
    idle_share: float = 0.3
    inference_power_share: float = 0.5
    """Of the power limit."""
    cpu_spread: float = 0.05
    repetitions: int = 1
    modelled: str = ""
    scale: float = 1.0
    """Of times and energies."""
    seed: int = 1


def cells(plan: Planted = Planted()) -> pd.DataFrame:
    random = np.random.default_rng(plan.seed)
    num = len(plan.models)
    order = random.permutation(num)  # nothing hangs on the order of the names
    share = (order + 1) / num
    cost = plan.scale * np.exp(plan.log_span * share)
    training_cost = random.permutation(cost) if plan.training_is_unrelated else cost
    per_energy = np.exp(plan.energy_noise * random.standard_normal(num))
    macs = cost * np.exp(plan.macs_noise * random.standard_normal(num)) * 1e7
    per_parameter = cost * np.exp(plan.macs_per_parameter_noise * random.standard_normal(num)) * 10
    luck = share if plan.accuracy_follows_energy else random.permutation(share)
    power_w = 300 * (0.6 + 0.35 * share) * np.exp(plan.power_noise * random.standard_normal(num))
    rows = []
    for place, phase, batch_size, repetition in itertools.product(
        range(num), ("train", "inference"), plan.batch_sizes, range(1, plan.repetitions + 1)
    ):
        noise = np.exp(plan.spread * random.standard_normal(2))
        is_train = phase == "train"
        seconds = training_cost[place] * plan.training_per_inference if is_train else cost[place]
        seconds *= 1e-4 * noise[0] * (1 + plan.launch_share / batch_size)
        seconds *= 1 - plan.late_gain if batch_size == max(plan.batch_sizes) else 1
        rows.append(
            _row(
                plan,
                plan.models[place],
                phase,
                batch_size,
                repetition,
                seconds=seconds,
                joules=200 * seconds * per_energy[place] * noise[1],
                percent=60 + 35 * share[place],
                power_w=power_w[place] * (1 if is_train else plan.inference_power_share),
                cpu_w=30 * math.exp(plan.cpu_spread * random.standard_normal()),
                accuracy=0.7 + 0.2 * luck[place] if is_train else 0.1,
                macs=macs[place],
                parameters=macs[place] / per_parameter[place],
            )
        )
    return pd.DataFrame(rows)


def _row(
    plan: Planted, model: str, phase: str, batch_size: int, repetition: int, **of: float
) -> dict[str, Any]:
    samples = 1000.0 * (plan.num_epochs if phase == "train" else 1)
    name = f"{plan.series}-{model}-{phase}-{batch_size}-{repetition}"
    net_j = of["joules"] * samples
    all_modelled = plan.modelled == "all"
    return {
        "run_id": name,
        "name": name,
        "sweep": "planted",
        "status": "FINISHED",
        "verdict": "PASS",
        "doubts": "",
        "model": model,
        "phase": phase,
        "batch_size": float(batch_size),
        "repetition": repetition,
        "epochs": plan.num_epochs if phase == "train" else 1,
        "series": plan.series,
        "machine": plan.series,
        "coverage": "cpu" if all_modelled else "gpu+cpu+dram",
        "modelled": "cpu" if all_modelled else "",
        "is_modelled": all_modelled,
        "source_gpu": "absent" if all_modelled else "measured:nvml",
        "source_cpu": "modelled:tdp" if all_modelled else "measured:rapl",
        "source_dram": "absent" if all_modelled else "measured:rapl",
        "work/samples": samples,
        "energy/net_per_sample_j": of["joules"],
        "energy/net_u95_per_sample_j": plan.spread * of["joules"],
        "energy/net_j": net_j,
        "energy/idle_j": net_j * plan.idle_share / (1 - plan.idle_share),
        "energy/gross_j": net_j / (1 - plan.idle_share),
        "energy/net_gpu_j": math.nan if all_modelled else 0.8 * net_j,
        "energy/gross_gpu_j": math.nan if all_modelled else 0.8 * net_j / (1 - plan.idle_share),
        "energy/net_cpu_j": net_j if all_modelled else 0.15 * net_j,
        "energy/gross_cpu_j": (net_j if all_modelled else 0.15 * net_j) / (1 - plan.idle_share),
        "energy/net_dram_j": math.nan if all_modelled else 0.05 * net_j,
        "energy/gross_dram_j": math.nan if all_modelled else 0.05 * net_j / (1 - plan.idle_share),
        "energy/measured_per_sample_j": math.nan if all_modelled else of["joules"],
        "energy/measured_per_sample_u95_j": math.nan
        if all_modelled
        else plan.spread * of["joules"],
        "time/active_s": of["seconds"] * samples,
        "time/per_sample_s": of["seconds"],
        "power/mean_gpu_w": math.nan if all_modelled else of["power_w"],
        "power/limit_gpu_w": math.nan if all_modelled else 300.0,
        "power/mean_cpu_w": of["cpu_w"],
        "power/mean_dram_w": math.nan if all_modelled else of["cpu_w"] / 10,
        "utilisation/gpu_percent": math.nan if all_modelled else of["percent"],
        "model/macs": of["macs"],
        "model/parameters": of["parameters"],
        "model/macs_per_parameter": of["macs"] / of["parameters"],
        "task/accuracy": of["accuracy"],
        "task/samples": 10_000.0,
    }


def epochs(cells: pd.DataFrame, plan: Planted = Planted()) -> pd.DataFrame:
    """Per pass of training: the first may cost more, the whole stays what the cell says."""
    rows = []
    for _, cell in cells[cells["phase"] == "train"].iterrows():
        total_s = cell["time/active_s"]
        num = plan.num_epochs
        rest = total_s / (num - 1 + plan.first_epoch_factor)
        for step in range(num):
            active_s = rest * (plan.first_epoch_factor if step == 0 else 1.0)
            share = active_s / total_s
            rows.append(
                {
                    "run_id": cell["run_id"],
                    "model": cell["model"],
                    "phase": "train",
                    "series": cell["series"],
                    "batch_size": cell["batch_size"],
                    "step": step,
                    "epoch/active_s": active_s,
                    "epoch/net_j": cell["energy/net_j"] * share,
                    "epoch/gross_j": cell["energy/gross_j"] * share,
                }
            )
    return pd.DataFrame(rows)
