"""Profiles and full runs made up from golden/record.json, whose numbers are known.

The golden run trains resnet18 at batch size 64: 3,000 samples in 15 s, 5 ms each, at 263 W, of
which 73 W are idle: 3945 J gross, 2850 J net.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from greenlab.config import PhaseKind
from greenlab.energy import EnergyWindow
from greenlab.record import Outcome, Pass, Record, Splits, read_record

GOLDEN = Path(__file__).parent / "golden"
STRETCH_S = 0.5
ACTIVE_W = {"gpu": 200.0, "cpu": 60.0, "dram": 3.0}
PART_W = {"gpu0": 140.0, "gpu1": 60.0, "cpu0": 60.0, "dram": 3.0}


def full_run(
    *,
    kind: str = "train",
    started_at_s: float = 1_700_000_000.0,
    uid: str = "full",
    model: str = "resnet18",
    batch_size: int = 64,
    machine: str = "lab-1a2b3c",
    **changes: Any,
) -> Record:
    """The golden run, of any kind and begun at any time; it lasts a minute."""
    record = read_record(GOLDEN)
    assert record.environment is not None
    config = record.cell.config
    settings = config | {
        "model": config["model"] | {"_target_": f"models.{model}"},
        "batch_size": {"size": batch_size},
        "phase": config["phase"] | {"kind": kind},
    }
    choices = record.cell.choices | {
        "model": model,
        "batch_size": str(batch_size),
        "phase": kind,
    }
    cell = replace(
        record.cell, uid=uid, choices=choices, config=settings, started_at_s=started_at_s
    )
    environment = replace(record.environment, machine=machine)
    ended_at_s = started_at_s + 60
    return replace(record, cell=cell, environment=environment, ended_at_s=ended_at_s, **changes)


def profile(
    *,
    train_ms: Sequence[float] = (5.0,) * 4,
    inference_ms: Sequence[float] = (2.0,) * 4,
    **where: Any,
) -> Record:
    """A profile of the golden run's job: milliseconds per sample of each stretch of half a second.

    Stretches draw what the golden run does.
    """
    record = full_run(kind=PhaseKind.profile.name, **({"uid": "profile"} | where))
    assert record.measurement is not None
    passes = []
    for trains, told_ms in ((True, train_ms), (False, inference_ms)):
        for ms in told_ms:
            window = EnergyWindow(
                started_at_s=1_700_000_015 + 0.6 * len(passes),
                duration_s=STRETCH_S,
                energy_j={part: watts * STRETCH_S for part, watts in ACTIVE_W.items()},
                part_energy_j={part: watts * STRETCH_S for part, watts in PART_W.items()},
                edge_s=0.0,
            )
            num_samples = round(1000 * STRETCH_S / ms)
            done = Outcome(num_samples=num_samples, num_batches=1, loss=1.0, accuracy=0.5)
            passes.append(Pass(window=window, outcome=done, trains=trains))
    measured = replace(
        record.measurement, passes=passes, splits=Splits(train_samples=1500, test_samples=300)
    )
    return replace(record, measurement=measured)
