"""The main path: one cell, measured from preflight to record, in a process of its own.

Reads top to bottom. Everything heavy is loaded, every kernel chosen and every source opened before
the first idle window; between `meter.begin()` and `meter.end()` runs the workload and nothing else.
The account says where all other joules of the cell went, from opening the meter to the record.
MLflow is not imported in this process: what it writes to disk, the parent logs.
"""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

from greenlab import energy, quality, trace, trace_file
from greenlab.account import OpenAccount
from greenlab.config import Config
from greenlab.environment import describe_environment, read_conditions
from greenlab.errors import LossNotFiniteError
from greenlab.idle import Idling, thermometers
from greenlab.meters import Meter, open_meter
from greenlab.meters.gpu_probe import open_probes
from greenlab.meters.power_limit import limited_power
from greenlab.model_profile import profile_model
from greenlab.phases import PHASES, Ground, evaluate
from greenlab.preflight import Place, preflight
from greenlab.preparation import prepare_model, warm_up
from greenlab.promise import comparable
from greenlab.record import Cell, Measurement, Outcome, Pass, Record, write_record
from greenlab.sampler import Sampler
from greenlab.workload import Workload, build_workload

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """What a cell is measured with, open from before its model is built."""

    folder: Path
    meter: Meter
    account: OpenAccount
    sampler: Sampler


def run_cell(cell: Cell, config: Config, folder: Path) -> Record:
    """Measure one cell and leave its record and trace in `folder`."""
    place = preflight(config)
    logger.info("%s on %s", cell.name, place.environment.machine)
    with (
        open_meter(config.hardware, uses_cuda=place.uses_cuda) as meter,
        OpenAccount(folder, meter) as account,
        Sampler(meter, config.sampler.period_s, account.beat) as sampler,
    ):
        bench = Bench(folder=folder, meter=meter, account=account, sampler=sampler)
        with limited_power(config.hardware, meter.sources):
            environment = describe_environment()  # again: with the power limit that is in force now
            workload = build_workload(config, place.device)
            measured = measure(workload, bench, place, cell)
        record = Record(
            status="FINISHED",
            cell=cell,
            ended_at_s=time.time(),
            environment=environment,
            measurement=measured,
            doubts=quality.doubts(measured, place.environment, cell, config.quality),
            account=account.statement(),
        )
        write_record(folder, record)
    return record


def measure(workload: Workload, bench: Bench, place: Place, cell: Cell) -> Measurement:
    """Profile and warm up; then idle window, passes, idle window, and the trace of all three."""
    config, phase = workload.config, PHASES[workload.config.phase.kind]
    meter, account, sampler = bench.meter, bench.account, bench.sampler
    model = profile_model(workload.model, workload.sample)
    if config.compile or config.cuda_graphs:
        account.enter("compiling")
        prepare_model(workload)
    account.enter("warm_up")
    warm_up(workload)
    meter.observe_ticks()
    meter.restart_health()
    probes = open_probes(meter.sources, uses_cuda=place.uses_cuda)
    conditions_before = read_conditions()
    sampler.record(bench.folder, probes)
    idling = Idling(
        meter=meter,
        account=account,
        settings=config.idle,
        thermometers=thermometers(probes),
        synchronise=workload.synchronise,
    )
    before = idling.measure("idle_before", cell.sweep_first.idle_celsius)
    rivals = comparable(cell.rivals, place.environment.machine, str(place.device), meter.sources)
    ground = Ground(idle=before.window, tick_s=meter.slowest_tick_s, rivals=rivals)
    stretches = phase.passes(workload, ground)
    passes: list[Pass] = []
    workload.synchronise()
    sampler.refresh()
    account.enter("active")
    meter.begin()
    while stretches.goes_on(passes):
        tally = stretches.run_pass()
        workload.synchronise()
        window = meter.lap()
        account.keep("pass", window)
        passes.append(Pass(window=window, outcome=tally.outcome(), trains=tally.trains))
        sampler.check()
        logger.info("pass %d: %s", len(passes), passes[-1].describe(meter.modelled))
        if not math.isfinite(passes[-1].outcome.loss):
            raise LossNotFiniteError(len(passes), passes[-1].outcome.loss)
    meter.end()
    after = idling.measure("idle_after", cell.sweep_first.idle_celsius or before.cooling.celsius)
    account.enter("evaluation")
    sampler.finish()
    conditions_after, counters = read_conditions(), meter.health()
    columns = trace_file.read_trace(trace_file.complete_trace(bench.folder))
    windows, idle = [one.window for one in passes], (before.window, after.window)
    return Measurement(
        device=str(place.device),
        sources=meter.sources,
        model=model,
        idle_before=before.window,
        idle_after=after.window,
        passes=passes,
        evaluation=_evaluate(workload) if phase.evaluates else passes[-1].outcome,
        idle_series=trace.idle_series(columns, *idle),
        active_series=trace.power_series(columns, energy.join(windows)),
        cooling=(before.cooling, after.cooling),
        counters=counters,
        conditions=(conditions_before, conditions_after),
        trace=trace.summarise(columns, windows, idle),
        mismatches=place.mismatches,
        splits=workload.splits,
        stopped_early=stretches.stopped_early,
        execution=workload.execution,
        placement=workload.train.placement,
    )


def _evaluate(workload: Workload) -> Outcome:
    """Test the model; what was measured outlives a failure here."""
    try:
        return evaluate(workload)
    except Exception:  # out of memory, a driver gone: quality.py doubts the empty outcome
        logger.exception("the model could not be evaluated")
        return Outcome(num_samples=0, num_batches=0, loss=math.nan, accuracy=math.nan)
