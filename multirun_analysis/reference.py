"""The paper's own measurements on its machine HC-3, as cells to lay beside a sweep.

The numbers in paper_hc3.csv were read off figures stored in the history of the paper's repository
(RTX A2000, 70 W; Core i5-12500, 65 W; 14 networks, batch 128, one epoch of 50,000 images, inference
over 50,000). What to beware of:

- Idle power was never subtracted, whatever Eqs. 1–5 say: there is no net energy here.
- The GPU's power is NVML's; its energy is that power times the duration. CPU power is TDP times
  utilisation and DRAM power a constant: both are modelled.
- The watt-hours *as recorded* hold a unit error in the CPU term, 18.06 W for each percent of
  utilisation where 65 W of TDP make 0.65 W: totals are 2.9 to 5.2 times too high. Ranks survive.
  The columns `…_cpu_corrected_wh` have it mended, and are what `energy/gross_j` is made of.
- Watt-hours are those of 100 epochs or passes, each as long as the one that was timed.
- "VGG (16)" was VGG-19. PNASNet and ShuffleNetV2 were not run. DPN's durations were inferred from
  its totals, so that it cannot contradict them.
- Inference was timed with some of the idle pause before it, and with writing a checkpoint.
"""

from pathlib import Path

import numpy as np
import pandas as pd

SERIES = "paper HC-3 (RTX A2000)"
NUM_SAMPLES = 50_000
"""Per epoch, and per pass of inference."""
DRAM_W = 11.19
"""The paper's constant for two modules: its code's formula, whose unit does not come out as W."""
GPU_LIMIT_W = 70.0
"""NVIDIA's data sheet of the RTX A2000."""
CPU_TDP_W = 65.0
_CSV = Path(__file__).with_name("paper_hc3.csv")
_J_PER_WH = 3600.0
_NUM_PASSES = 100
"""That the recorded watt-hours are of."""


def read_hc3() -> pd.DataFrame:
    """The figures as digitised, one row per model."""
    return pd.read_csv(_CSV, comment="#")


def paper_hc3() -> pd.DataFrame:
    """One row per model and phase, with the columns of a sweep's cells; absent is NaN."""
    table = read_hc3()
    return pd.concat([_cells(table, "train"), _cells(table, "inference")], ignore_index=True)


def _cells(table: pd.DataFrame, phase: str) -> pd.DataFrame:
    pass_name, samples_name = (
        ("train_100_epochs", "epoch") if phase == "train" else ("inference_100_passes", "50k")
    )
    active_s = table[f"{phase}_s_per_{samples_name}"]
    gpu_w = table[f"gpu_{phase}_w"]
    gross_j = table[f"{pass_name}_cpu_corrected_wh"] * _J_PER_WH / _NUM_PASSES
    mean_w = gross_j / active_s
    name = "paper-hc3-" + phase + "-" + table["model"]
    return pd.DataFrame(
        {
            "run_id": name,
            "name": name,
            "sweep": "paper",
            "status": "FINISHED",
            "verdict": "WARN",
            "doubts": "digitised, idle not subtracted",
            "position": np.nan,
            "started_at_s": np.nan,
            "ended_at_s": np.nan,
            "model": table["model"],
            "batch_size": 128.0,
            "phase": phase,
            "dataset": "cifar10",
            "hardware": "hc3",
            "device": "cuda",
            "seed": "",
            "repetition": 0,
            "epochs": 1,
            "power_limit_w": np.nan,
            "machine": "HC-3",
            "coverage": "gpu+cpu+dram",
            "modelled": "cpu+dram",
            "is_modelled": True,
            "source_gpu": "measured:nvml",
            "source_cpu": "modelled:tdp",
            "source_dram": "modelled:dimm",
            "signature": name,
            "cell": name,
            "work": name,
            "commit": "",
            "series": SERIES,
            "energy/gross_j": gross_j,
            "energy/gross_gpu_j": gpu_w * active_s,
            "energy/measured_per_sample_j": np.nan,
            "energy/measured_per_sample_u95_j": np.nan,
            "power/mean_w": mean_w,
            "power/mean_gpu_w": gpu_w,
            "power/mean_cpu_w": mean_w - gpu_w - DRAM_W,
            "power/mean_dram_w": DRAM_W,
            "power/limit_gpu_w": GPU_LIMIT_W,
            "power/tdp_cpu_w": CPU_TDP_W,
            "time/active_s": active_s,
            "time/per_sample_s": active_s / NUM_SAMPLES,
            "time/samples_per_s": NUM_SAMPLES / active_s,
            "utilisation/gpu_percent": table[f"gpu_{phase}_percent"],
            "model/parameters": table["parameters"].astype(float),
            "model/trainable_parameters": table["parameters"].astype(float),
            "model/macs": table["macs"].astype(float),
            "model/macs_exact": table["macs_exact"].astype(float),
            "model/macs_per_parameter": table["macs"] / table["parameters"],
            "task/accuracy": np.nan,  # only of training data, at its best epoch
            "work/samples": float(NUM_SAMPLES),
        }
    )
