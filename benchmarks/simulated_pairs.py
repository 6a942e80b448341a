"""Profiles and full runs on simulated machines: known watts that drift, work that wavers.

Each pair has a machine of its own: a socket with its memory and a GPU of random watts, idle power
that drifts, and a cell that gets slower and draws more as it warms, wavers and scatters, by random
amounts (greenlab/simulated/restless.py). Zeus and pynvml are the real ones. The cells sleep, so
that many are measured at a time.
"""

import math
import multiprocessing
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.pair_cells import DONE_FILE, SHARE, active_s, make_cell
from greenlab import cell_process, run
from greenlab.config import (
    BatchSize,
    Config,
    Dataset,
    Device,
    Hardware,
    Idle,
    Model,
    Phase,
    PhaseKind,
    Quality,
)
from greenlab.record import LOG_FILE, Record, read_record, write_cell
from greenlab.simulated.machine import Gpu, SimulatedMachine, Zone, enter
from greenlab.simulated.restless import OCCASION_VARIABLE, Nature

AT_ONCE = 12
NUM_SAMPLES = 256
LATEST_S = 120.0
"""A cell that takes so much longer than its work has hung."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One pair, drawn."""

    number: int
    kind: PhaseKind
    nature: Nature
    machine: SimulatedMachine


def draw_plan(number: int, seed: int) -> Plan:
    """A machine and the nature of its cell; training and inference by turns.

    Amounts are those that greenlab's own runs on shared machines and the literature on GPUs show:
    wandering of 0.5 to 3 %, a few per cent more time and power when warm.
    """
    random = np.random.default_rng((seed, number))
    between = random.uniform

    def any_size(low: float, high: float) -> float:
        return math.exp(between(math.log(low), math.log(high)))

    nature = Nature(
        step_s=any_size(0.015, 0.06),
        train_times=between(2.2, 3.2),
        load=between(0.5, 0.9),
        noise=any_size(0.02, 0.15),
        time_wavering=any_size(0.005, 0.03),
        load_wavering=any_size(0.005, 0.03),
        memory_s=any_size(5, 60),
        time_warming=between(-0.005, 0.03),
        load_warming=between(0.0, 0.05),
        thermal_s=any_size(15, 120),
        occasion=0.007,
    )

    def drawn(idle_w: float, work_w: float) -> dict[str, float]:
        return {
            "idle_w": idle_w,
            "active_w": idle_w + work_w,
            "idle_drift_w_per_s": idle_w * between(-0.0005, 0.001),
        }

    dram = Zone("dram", **drawn(between(2, 6), between(1, 6)))
    package = Zone("package-0", **drawn(between(8, 40), between(20, 120)), children=(dram,))
    gpu = Gpu(**drawn(between(15, 80), between(60, 250)))
    kind = (PhaseKind.train, PhaseKind.inference)[number % 2]
    machine = SimulatedMachine(zones=[package], gpus=[gpu])
    return Plan(number=number, kind=kind, nature=nature, machine=machine)


def profile_config(plan: Plan, stretch_s: float, max_stretches: int) -> Config:
    """The cell that is profiled."""
    return Config(
        model=Model(_target_="greenlab.simulated.restless.build", kwargs=asdict(plan.nature)),
        hardware=Hardware(device=Device.cpu),
        batch_size=BatchSize(size=8),
        phase=Phase(
            kind=PhaseKind.profile,
            stretch_s=stretch_s,
            max_stretches=max_stretches,
            warmup_batches=2,
        ),
        dataset=Dataset(
            _target_="greenlab.data.synthetic.load", num_samples=NUM_SAMPLES, image_size=8
        ),
        idle=Idle(settle_s=0.3, window_s=2.0),
        # The real machine is busy with other cells; the simulated one draws known watts.
        quality=Quality(
            max_idle_cpu_percent=100, max_others_cpu_percent=100, max_stolen_percent=100
        ),
    )


def full_config(profiled: Config, record: Record, kind: PhaseKind) -> Config:
    """The run that a profile is held against: a profile of its kind is 5 % of it at most."""
    assert record.measurement is not None
    profile_s, sample_s = active_s(record, trains=kind is PhaseKind.train)
    phase = Phase(
        kind=kind,
        warmup_batches=profiled.phase.warmup_batches,
        epochs=math.ceil(SHARE * profile_s / (sample_s * NUM_SAMPLES)),
        min_active_s=SHARE * profile_s if kind is PhaseKind.inference else 0.0,
    )
    return replace(profiled, phase=phase)


def measure_pairs(
    folder: Path, number: int, *, seed: int, stretch_s: float, max_stretches: int
) -> Iterator[tuple[Path, Path]]:
    """Measure those of so many pairs that are not there yet.

    Yields the folders of profile and full run as soon as they are there.

    Raises:
        RuntimeError: a cell left no measurement.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # torch's threads in many processes wait for each other
    plans = [draw_plan(one, seed) for one in range(number)]
    run.start_server([profile_config(plans[0], stretch_s, max_stretches)])
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pair") as pool:
        waiting = [
            pool.submit(_measure_pair, folder, plan, profile_config(plan, stretch_s, max_stretches))
            for plan in plans
        ]
        for done in as_completed(waiting):
            yield done.result()


def _measure_pair(folder: Path, plan: Plan, config: Config) -> tuple[Path, Path]:
    name = f"restless{plan.number:02}"
    short, full = folder / f"{name}-profile", folder / f"{name}-{plan.kind.name}"
    if (full / DONE_FILE).exists():
        return short, full
    for begun in (short, full):
        shutil.rmtree(begun, ignore_errors=True)
    with plan.machine as machine:
        record = _measure(short, config, name, machine, occasion=2 * plan.number)
        told = full_config(config, record, plan.kind)
        _measure(full, told, name, machine, occasion=2 * plan.number + 1)
    (full / DONE_FILE).touch()
    return short, full


def _measure(
    folder: Path, config: Config, name: str, machine: SimulatedMachine, *, occasion: int
) -> Record:
    folder.mkdir(parents=True)
    write_cell(folder, make_cell(config, model=name, uid=uuid.uuid4().hex, at_s=time.time()))
    environment = machine.environment() | {OCCASION_VARIABLE: str(occasion)}
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_in_process, args=(environment, folder))
    process.start()
    try:
        process.join(LATEST_S + 300)
    finally:
        process.kill()
        process.join()
    record = read_record(folder)
    if record.measurement is None:
        raise RuntimeError(f"{folder}: {record.failure}")
    return record


def _in_process(environment: Mapping[str, str], folder: Path) -> None:
    cell_process.end_with_parent()
    cell_process.log_to_file(folder / LOG_FILE)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # it is about the real GPUs
    enter(environment)
    cell_process.measure_record(folder)
