"""The main path: one cell, measured from preflight to record, in a process of its own.

Reads top to bottom. Everything heavy is loaded, every kernel chosen and every source opened before
the first idle window; between `meter.begin()` and `meter.end()` runs the workload and nothing else.
MLflow is not imported in this process: what it writes to disk, the parent logs.
"""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from greenlab import energy, quality, trace
from greenlab.config import Config
from greenlab.environment import check_hardware, describe_environment, read_conditions
from greenlab.idle import measure_idle
from greenlab.meters import Meter, open_meter
from greenlab.meters.gpu_probe import open_probes
from greenlab.meters.power_limit import limited_power
from greenlab.model_profile import profile_model
from greenlab.phases import PHASES, evaluate, warm_up
from greenlab.record import (
    TRACE_FILE,
    Cell,
    Environment,
    Measurement,
    Outcome,
    Pass,
    Record,
    append_window,
    write_record,
)
from greenlab.sampler import Sampler
from greenlab.workload import Workload, build_workload, choose_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a cell runs, once it is known that it can."""

    device: torch.device
    environment: Environment
    mismatches: list[str]


def preflight(config: Config) -> Place:
    """Check that the hardware named is the hardware here.

    Raises:
        HardwareMismatchError: it is not.
    """
    environment = describe_environment()
    check_hardware(config.hardware, environment, gpu_name=None)  # another machine altogether?
    device = choose_device(config.hardware.device)
    gpu_name = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    mismatches = check_hardware(config.hardware, environment, gpu_name=gpu_name)
    return Place(device=device, environment=environment, mismatches=mismatches)


def run_cell(cell: Cell, config: Config, folder: Path) -> Record:
    """Measure one cell and leave its record and trace in `folder`."""
    place = preflight(config)
    logger.info("%s on %s", cell.name, place.environment.machine)
    hardware, uses_cuda = config.hardware, place.device.type == "cuda"
    with open_meter(hardware, uses_cuda=uses_cuda) as meter, limited_power(hardware, meter.sources):
        environment = describe_environment()  # again: with the power limit that is in force now
        workload = build_workload(config, place.device)
        measured = measure(workload, meter, place, folder)
    record = Record(
        status="FINISHED",
        cell=cell,
        ended_at_s=time.time(),
        environment=environment,
        measurement=measured,
        doubts=quality.doubts(measured, place.environment, cell, config.quality),
    )
    write_record(folder, record)
    return record


def measure(workload: Workload, meter: Meter, place: Place, folder: Path) -> Measurement:
    """Profile and warm up; then idle window, passes, idle window, with the sampler running."""
    config, phase = workload.config, PHASES[workload.config.phase.kind]
    model = profile_model(workload.model, workload.sample)
    warm_up(workload)
    meter.observe_ticks()
    meter.restart_health()
    probes = open_probes(meter.sources, uses_cuda=place.device.type == "cuda")
    conditions_before = read_conditions()
    with Sampler(meter, config.sampler.period_s, probes) as sampling:
        idle_before = measure_idle(meter, config.idle, workload.synchronise)
        append_window(folder, "idle_before", idle_before)
        logger.info("idle before: %s", energy.describe(idle_before, meter.modelled))
        passes, num_passes = [], phase.num_passes(workload)
        workload.synchronise()
        sampling.refresh()
        meter.begin()
        for number in range(1, num_passes + 1):
            tally = phase.run_pass(workload)
            workload.synchronise()
            window = meter.end() if number == num_passes else meter.lap()
            append_window(folder, "pass", window)
            passes.append(Pass(window=window, outcome=tally.outcome()))
            sampling.check()
            logger.info("pass %d: %s", number, passes[-1].describe(meter.modelled))
        idle_after = measure_idle(meter, config.idle, workload.synchronise)
        append_window(folder, "idle_after", idle_after)
        logger.info("idle after: %s", energy.describe(idle_after, meter.modelled))
        sampling.check()
    conditions_after, counters = read_conditions(), meter.health()
    columns = sampling.columns()
    trace.write_trace(folder / TRACE_FILE, columns)
    windows = [one.window for one in passes]
    return Measurement(
        device=str(place.device),
        sources=meter.sources,
        model=model,
        idle_before=idle_before,
        idle_after=idle_after,
        passes=passes,
        evaluation=_evaluate(workload) if phase.evaluates else passes[-1].outcome,
        idle_series=trace.idle_series(columns, idle_before, idle_after),
        active_series=trace.power_series(columns, energy.join(windows)),
        counters=counters,
        conditions=(conditions_before, conditions_after),
        trace=trace.summarise(columns, windows, [idle_before, idle_after]),
        mismatches=place.mismatches,
    )


def _evaluate(workload: Workload) -> Outcome:
    """Test the model; what was measured outlives a failure here."""
    try:
        return evaluate(workload)
    except Exception:  # out of memory, a driver gone: quality.py doubts the empty outcome
        logger.exception("the model could not be evaluated")
        return Outcome(num_samples=0, num_batches=0, loss=math.nan, accuracy=math.nan)
