"""`plan=true`: says what a grid will take, and measures no more than a few short probes of it.

A cell that was measured on this machine before is taken to cost what it did then. Of the others a
few are probed: the real thing from fork to record, on fewer samples and between shorter windows, in
a temporary folder. What plan.py makes of both is printed; nothing lands in MLflow.
"""

import logging
import math
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from greenlab import config as configuration
from greenlab import run, scaling, survey
from greenlab.agenda import FIRST_REPETITIONS
from greenlab.config import Config, PhaseKind
from greenlab.errors import GreenlabError
from greenlab.plan import Past, Plan, PlannedCell, Probe, estimate
from greenlab.plan_table import label, render
from greenlab.record import Cell
from greenlab.scaling import Work
from greenlab.survey import Surveyed
from greenlab.terminal import open_console

logger = logging.getLogger(__name__)

MAX_PROBES = 8
"""The last of them is the first once more: whether the machine is as it was."""
PROBE_S = 2.0
"""What a probe's passes take, or the cell's where they are shorter."""
PROBE_EPOCHS = 5
"""At most: the test that follows the last one is not to be most of a probe."""
PROBE_WINDOW_S = 1.0
PROBE_SETTLE_S = 0.5

Earlier = Callable[[Collection[str]], Mapping[str, Sequence[Past]]]
"""From `config.cell_signature`s to finished runs of those cells, whichever repetition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planned:
    """A cell with the configuration that it is made from."""

    config: Config
    surveyed: Surveyed
    cell: PlannedCell


def show(grid: Sequence[Config], machine: str, earlier: Earlier | None) -> Plan:
    """Plan `grid`, each entry a cell with its `repetitions`, and print what comes of it.

    The machine's lock must be held, the server that cells are forked from be started, and `grid`
    be checked.

    Raises:
        GreenlabError: a probe that was needed did not work.
    """
    began_s = time.monotonic()
    planned = list(_survey(grid))
    found = earlier([one.cell.signature for one in planned]) if earlier else {}
    here = {
        one.cell.signature: [
            past for past in found.get(one.cell.signature, ()) if past.machine == machine
        ]
        for one in planned
    }
    probes = _probe([one for one in planned if not here[one.cell.signature]])
    plan = estimate([one.cell for one in planned], probes, here)
    open_console().print(render([one.config for one in planned], plan))
    logger.info("planned in %s; nothing was logged", run.clock(time.monotonic() - began_s))
    return plan


def _survey(grid: Sequence[Config]) -> Iterator[_Planned]:
    answers = run.ask("the survey of the cells", survey.survey_grid, list(grid))
    for config, answer in zip(grid, answers, strict=True):
        surveyed = Surveyed(**answer)
        yield _Planned(config=config, surveyed=surveyed, cell=_plan_cell(config, surveyed))


def _plan_cell(config: Config, surveyed: Surveyed) -> PlannedCell:
    phase, batch_size = config.phase, config.batch_size.size
    settings = configuration.to_dict(config)
    trains = phase.kind is PhaseKind.train
    fewest, most = config.repetitions, config.repetitions
    if config.repetitions == "auto":
        fewest, most = FIRST_REPETITIONS, config.max_repetitions
    return PlannedCell(
        signature=configuration.cell_signature(settings),
        work=Work(
            model=repr(config.model), macs=surveyed.macs, batch_size=batch_size, trains=trains
        ),
        hardware=repr((config.hardware, configuration.execution(settings))),
        waiting_s=2 * (config.idle.settle_s + config.idle.window_s),
        num_passes=phase.epochs if trains else 1,
        pass_samples=surveyed.train_samples if trains else surveyed.test_samples,
        min_active_s=0.0 if trains else phase.min_active_s,
        evaluation_samples=surveyed.test_samples if trains else 0,
        warmup_samples=phase.warmup_batches * batch_size,
        repetitions=(fewest, most),
    )


def _probe(planned: Sequence[_Planned]) -> list[Probe]:
    """Probe a few cells for the sake of all: some on each hardware."""
    if not planned:
        return []
    chosen = _choose(planned)
    configs = [one.config for one in chosen]
    logger.info("probing %d cells to plan %d", len(chosen), len(planned))
    batches_s = run.ask("the rehearsal of the probes", survey.rehearse_cells, configs)
    probes: list[Probe] = []
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="greenlab-plan-") as name:
        for number, (one, batch_s) in enumerate(zip(chosen, batches_s, strict=True), 1):
            logger.info("probe %d/%d: %s", number, len(chosen), " ".join(label(one.config)))
            shortened = shorten(one.config, one.surveyed, batch_s or math.inf)
            began_s = time.monotonic()
            record = run.measure_in_own_process(_cell(shortened), Path(name) / str(number))
            if record.measurement is None:
                assert record.failure is not None
                problems[one.cell.hardware] = record.failure.message
                logger.warning("it failed: %s", record.failure.message)
                continue
            probes.append(Probe.of(record, one.cell, time.monotonic() - began_s))
    probed = {probe.hardware for probe in probes}
    for hardware, problem in problems.items():
        if hardware not in probed:
            raise GreenlabError(f"there is no plan: every probe failed, the last with: {problem}")
    return probes


def _choose(planned: Sequence[_Planned]) -> list[_Planned]:
    by_hardware: dict[str, list[_Planned]] = {}
    for one in {(one.cell.hardware, one.cell.work): one for one in planned}.values():
        by_hardware.setdefault(one.cell.hardware, []).append(one)
    number = max(2, MAX_PROBES // len(by_hardware))
    chosen = []
    for there in by_hardware.values():
        works = [one.cell.work for one in there]
        weights = [_weight(one.cell) for one in there]
        best = [there[n] for n in scaling.choose(works, weights, number - 1)]
        chosen += [*best, best[0]]
    return chosen


def _weight(cell: PlannedCell) -> float:
    """About what a cell adds to the sum, by count."""
    return math.exp(cell.work.size) * cell.num_passes * cell.pass_samples * cell.repetitions[1]


def shorten(config: Config, surveyed: Surveyed, batch_s: float) -> Config:
    """The same cell with passes of about `PROBE_S`, where a batch takes `batch_s`."""
    phase, size = config.phase, config.batch_size.size
    trains = phase.kind is PhaseKind.train
    pass_samples = surveyed.train_samples if trains else surveyed.test_samples
    num_batches = max(1, round(PROBE_S / batch_s))
    epochs = min(phase.epochs, PROBE_EPOCHS, num_batches) if trains else 1
    num_samples = min(math.ceil(num_batches / epochs) * size, pass_samples, surveyed.train_samples)
    if trains and num_samples == pass_samples:
        epochs = min(phase.epochs, math.ceil(num_batches * size / pass_samples))
    return replace(
        config,
        phase=replace(phase, epochs=epochs, min_active_s=min(phase.min_active_s, PROBE_S)),
        dataset=replace(config.dataset, num_samples=num_samples),
        idle=replace(
            config.idle,
            settle_s=min(config.idle.settle_s, PROBE_SETTLE_S),
            window_s=min(config.idle.window_s, PROBE_WINDOW_S),
            settle_max_s=0.0,
        ),
    )


def _cell(config: Config) -> Cell:
    model, batch_size, phase = label(config)
    return Cell(
        uid=uuid.uuid4().hex,
        signature=configuration.signature(config),
        choices={"model": model, "batch_size": batch_size, "phase": phase},
        overrides=[],
        sweep="",
        position=1,
        num_cells=1,
        repetition=1,
        started_at_s=time.time(),
        config=configuration.to_dict(config),
    )
