"""Sweeps with a choice whose best option is known: batch sizes, limits, models, settings."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pandas import DataFrame

from multirun_analysis import runs

SAMPLES = 1000.0


class Sweep:
    """Cells with normal scatter in the logarithms of their energy and time."""

    def __init__(self, seed: int = 0, *, noise: float = 0.02, repetitions: int = 3) -> None:
        self._random = np.random.default_rng(seed)
        self._noise = noise
        self._repetitions = repetitions
        self._rows: list[dict[str, Any]] = []

    def add(
        self,
        joules: float,
        seconds: float,
        *,
        model: str = "lenet",
        phase: str = "train",
        batch_size: int = 128,
        accuracy: float = 0.9,
        accuracy_noise: float = 0.0,
        settings: dict[str, Any] | None = None,
        u95: float = math.nan,
        is_modelled: bool = False,
        **more: Any,
    ) -> None:
        """Repetitions of one cell; joules and seconds per sample, `u95` a share of the joules."""
        work = {
            "model": {"_target_": f"models.{model}"},
            "batch_size": {"size": batch_size},
            "phase": {"kind": phase, **(settings or {})},
            "dataset": {"num_samples": 512},
        }
        for repetition in range(1, self._repetitions + 1):
            energy, time = np.exp(self._noise * self._random.standard_normal(2))
            found = accuracy + accuracy_noise * self._random.standard_normal()
            net_j = math.nan if is_modelled else joules * energy
            run_id = f"{len(self._rows):08x}{'f' * 24}"
            self._rows.append(
                {
                    "run_id": run_id,
                    "name": run_id,
                    "sweep": "planted",
                    "status": "FINISHED",
                    "verdict": "PASS",
                    "doubts": "",
                    "model": model,
                    "phase": phase,
                    "batch_size": float(batch_size),
                    "repetition": repetition,
                    "dataset": "digits",
                    "hardware": "auto",
                    "device": "cuda",
                    "machine": "box",
                    "meters": "",
                    "coverage": "cpu" if is_modelled else "gpu",
                    "modelled": "cpu" if is_modelled else "",
                    "is_modelled": is_modelled,
                    "source_gpu": "absent" if is_modelled else "measured:nvml",
                    "source_cpu": "modelled:tdp" if is_modelled else "absent",
                    "source_dram": "absent",
                    "work": json.dumps(work),
                    "work/samples": SAMPLES,
                    "energy/net_per_sample_j": joules * energy,
                    "energy/net_u95_per_sample_j": u95 * joules,
                    "energy/measured_per_sample_j": net_j,
                    "energy/measured_per_sample_u95_j": math.nan if is_modelled else u95 * joules,
                    "time/per_sample_s": seconds * time,
                    "power_limit_w": math.nan,
                    "power/limit_gpu_w": 300.0,
                    "task/accuracy": found if phase == "train" else 0.1,
                    "task/samples": 10_000.0,
                    **more,
                }
            )

    @property
    def cells(self) -> DataFrame:
        """As `runs.load` has them, series included."""
        frame = DataFrame(self._rows)
        frame["series"] = runs._series(frame)
        return frame


def batch_sizes(
    seed: int = 0,
    *,
    sizes: Sequence[int] = (8, 16, 32, 64, 128, 256),
    optimum: float = 64.0,
    depth: float = 0.5,
    slow_below: float = 0.0,
    **how: Any,
) -> DataFrame:
    """Energy per sample least at `optimum`, and `depth` times ln²(size / optimum) above it.

    Time is the same at all sizes, but for those below `slow_below`, which take half as much again.
    """
    of_cell = {name: how.pop(name) for name in ("u95", "is_modelled", "model") if name in how}
    sweep = Sweep(seed, **how)
    for size in sizes:
        joules = 0.01 * (1 + depth * math.log(size / optimum) ** 2)
        seconds = 1e-3 * (1.5 if size < slow_below else 1.0)
        sweep.add(joules, seconds, batch_size=size, **of_cell)
    return sweep.cells


def power_limits(
    seed: int = 0, *, limits_w: Sequence[float] = (100, 150, 200, 250, 300), **how: Any
) -> DataFrame:
    """Least energy per sample at 150 W; time falls as the limit rises."""
    sweep = Sweep(seed, **how)
    for limit_w in limits_w:
        joules = 0.02 * (1 + 0.8 * math.log(limit_w / 150) ** 2)
        sweep.add(
            joules,
            1e-3 * (300 / limit_w) ** 0.3,
            phase="inference",
            power_limit_w=float(limit_w),
            **{"power/limit_gpu_w": float(limit_w)},
        )
    return sweep.cells


FRONT = {"small": (0.80, 0.01), "medium": (0.88, 0.03), "large": (0.94, 0.12)}
BEATEN = {"bulky": (0.86, 0.08), "old": (0.78, 0.05)}
"""Accuracy, joules per sample of training; inference takes a third."""


def models(
    seed: int = 0, *, of: dict[str, tuple[float, float]] | None = None, **how: Any
) -> DataFrame:
    """Models of which three are on the front, and two are beaten by far."""
    sweep = Sweep(seed, **how)
    for model, (accuracy, joules) in (of or FRONT | BEATEN).items():
        sweep.add(joules, joules / 200, model=model, accuracy=accuracy, accuracy_noise=0.003)
        sweep.add(joules / 3, joules / 600, model=model, phase="inference")
    return sweep.cells


def precisions(
    seed: int = 0, *, accuracies: dict[str, float] | None = None, saved: float = 0.3, **how: Any
) -> DataFrame:
    """Training in 32 bits, and in 16 bits with `saved` less energy."""
    found = accuracies or {"fp32": 0.92, "fp16": 0.92}
    sweep = Sweep(seed, **how)
    for place, (name, accuracy) in enumerate(found.items()):
        joules = 0.02 * (1 - saved if place else 1)
        sweep.add(
            joules, joules / 20, accuracy=accuracy, accuracy_noise=0.002,
            settings={"precision": name},
        )  # fmt: skip
    return sweep.cells
