"""Measures the self-test's cases, several at a time, and judges what came of each."""

import math
import multiprocessing
import os
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from greenlab import cell_process, config, run
from greenlab.errors import GreenlabError
from greenlab.metrics import metrics
from greenlab.record import LOG_FILE, Cell, Measurement, Record, read_record, write_cell
from greenlab.selftest.cases import LONG_S, MAX_ERROR_PERCENT, Case
from greenlab.simulated.machine import SimulatedMachine, enter

AT_ONCE = 12
"""Cases measured at a time: they sleep, as their work is pretended."""
TRIES = 3
"""A 95 % interval misses the truth once in twenty times, and a busy machine delays the simulated
counters: a case that does not hold is measured again, alone. One that is wrong is wrong each time.
"""
MOST_AGAIN = 6
MAX_U95_FRACTION = 0.15
"""Of the truth: an interval that is wide enough always holds it."""
MAX_OUTSIDE_S = 0.15
"""The simulated machine works on for 50 ms after its last beat."""
MAX_ACCOUNT_ERROR_PERCENT = 2.0
"""Gross, over all of a cell: a reading of polled power stands for a tenth of a second."""
LATEST_S = 60.0
"""A case that takes so much longer than its windows has hung."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a case; joules are net of idle, over the components that it is about."""

    name: str
    true_j: float | None
    measured_j: float | None
    """None where the cell rightly has no number, or none that could be right."""
    u95_j: float | None
    holds: bool
    verdict: str
    """What was found, in words."""
    num_tries: int = 1

    @property
    def error_percent(self) -> float | None:
        """Of the truth."""
        if self.measured_j is None or not self.true_j:
            return None
        return 100 * (self.measured_j - self.true_j) / self.true_j

    @property
    def is_inside(self) -> bool | None:
        """Whether the truth lies inside the stated uncertainty."""
        if self.measured_j is None or self.true_j is None or self.u95_j is None:
            return None
        return abs(self.measured_j - self.true_j) <= self.u95_j


def measure_cases(cases: Sequence[Case]) -> Iterator[Result]:
    """Measure every case and yield each result as soon as it is known."""
    os.environ["OMP_NUM_THREADS"] = "1"  # torch's threads in many processes wait for each other
    run.start_server([case.config() for case in cases])
    with tempfile.TemporaryDirectory(prefix="greenlab-selftest-") as name, _Cells() as cells:
        attempt = _Attempt(cells=cells, folder=Path(name))
        waiting = {cells.pool.submit(attempt.measure, case): case for case in cases}
        again: list[tuple[Case, Result]] = []
        for future in as_completed(waiting):
            if (result := future.result()).holds:
                yield result
            else:
                again.append((waiting[future], result))
        tries = TRIES if len(again) <= MOST_AGAIN else 1  # so many are no chance
        for case, first in again:
            result = first
            for number in range(2, tries + 1):
                if (result := attempt.measure(case, number)).holds:
                    break
            yield result


class _Cells:
    """The processes that measure now; leaving ends them all, however it is left."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="case")
        self._running: set[ForkServerProcess] = set()
        self._is_over = False

    def __enter__(self) -> "_Cells":
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in tuple(self._running):
            process.kill()
        self.pool.shutdown()

    @contextmanager
    def running(self, process: ForkServerProcess) -> Iterator[None]:
        process.start()
        self._running.add(process)
        try:
            if self._is_over:
                process.kill()
            yield
        finally:
            self._running.discard(process)
            process.kill()
            process.join()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Attempt:
    """Measures a case in a process of its own, on a machine of its own."""

    cells: _Cells
    folder: Path

    def measure(self, case: Case, number: int = 1) -> Result:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        settings = case.config()
        write_cell(folder, _cell(case, settings))
        context = multiprocessing.get_context("forkserver")
        with case.machine() as machine:
            process = context.Process(target=_measure, args=(machine.environment(), folder))
            with self.cells.running(process):
                process.join(case.work_s + LATEST_S)
            try:
                record = read_record(folder)
            except (GreenlabError, FileNotFoundError):
                return _missing(case, number, folder)
            return judge(case, record, machine, number)


def _measure(environment: Mapping[str, str], folder: Path) -> None:
    """What runs in the process of a case; from measure_record on, it is what any cell runs."""
    cell_process.end_with_parent()
    cell_process.log_to_file(folder / LOG_FILE)
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # it is about the real GPUs
    enter(environment)
    cell_process.measure_record(folder)


def _cell(case: Case, settings: config.Config) -> Cell:
    return Cell(
        uid=uuid.uuid4().hex,
        signature=config.signature(settings),
        choices={"model": case.name},
        overrides=[],
        sweep="",
        position=1,
        num_cells=1,
        repetition=1,
        started_at_s=time.time(),
        config=config.to_dict(settings),
    )


def _missing(case: Case, number: int, folder: Path) -> Result:
    log = folder / LOG_FILE
    last = log.read_text().splitlines()[-1:] if log.exists() else []
    return _without_joules(case, number, holds=False, found=" ".join(["no record left", *last]))


def _without_joules(case: Case, number: int, *, holds: bool, found: str) -> Result:
    return Result(
        name=case.name,
        true_j=None,
        measured_j=None,
        u95_j=None,
        holds=holds,
        verdict=found,
        num_tries=number,
    )


def judge(case: Case, record: Record, machine: SimulatedMachine, num_tries: int = 1) -> Result:
    """Hold a record against what its case must come to, and against the machine's own log."""
    if case.failure or record.measurement is None:
        message = record.failure.message if record.failure else "measured all the same"
        holds = bool(case.failure) and case.failure in message and record.status == "FAILED"
        found = f"FAILED, naming {case.failure}" if holds else message
        return _without_joules(case, num_tries, holds=holds, found=found)
    measured = record.measurement
    codes = {doubt.code: doubt.severity for doubt in record.doubts}
    problems = [*_wrong_doubts(case, codes), *_wrong_sources(case, measured)]
    is_right = "invalid" not in codes.values()  # else the number is wrong, and says so
    joules = [
        one
        for component in case.counters
        for one in _joules(case, record, machine, component)
        if is_right
    ]
    if joules and not problems:
        problems += _wrong_joules(record, joules)
        problems += _wrong_window(measured, machine)
        problems += _wrong_account(case, record, machine)
        if (wraps := max(c.num_wraps for c in measured.counters)) < case.min_wraps:
            problems.append(f"{wraps} wraps seen, of {case.min_wraps} and more")
    found = ", ".join([record.verdict, *(doubt.code for doubt in record.warnings)])
    return Result(
        name=case.name,
        true_j=sum(one.true_j for one in joules if one.name in case.counters) if joules else None,
        measured_j=metrics(record).get("energy/net_j") if joules else None,
        u95_j=metrics(record).get("energy/net_u95_j") if joules else None,
        holds=not problems,
        verdict="; ".join(problems) or found,
        num_tries=num_tries,
    )


def _wrong_doubts(case: Case, codes: Mapping[str, str]) -> Iterator[str]:
    if case.doubt and case.doubt not in codes:
        yield f"no doubt {case.doubt}"
    for code, severity in codes.items():
        if severity == "invalid" and code != case.doubt:
            yield f"INVALID for {code}"


def _wrong_sources(case: Case, measured: Measurement) -> Iterator[str]:
    for source in measured.sources:
        kind = source.provenance.partition(":")[0]
        wanted = "measured" if source.component in case.counters else "absent"
        if case.modelled and source.component == "cpu":
            wanted = "modelled"
        if kind != wanted:
            yield f"{source.component} is {source.provenance}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Joules:
    """Net energy of a component or of one of its devices: true, as reported, and how sure."""

    name: str
    true_j: float
    measured_j: float
    u95_j: float


def _joules(
    case: Case, record: Record, machine: SimulatedMachine, component: str
) -> Iterator[_Joules]:
    """The component, then its devices where it has several; what users are told of each."""
    assert record.measurement is not None
    reported, window = metrics(record), record.measurement.active
    ends_at_s = window.started_at_s + window.duration_s
    counters = case.counters[component]
    true_j = [machine.true_work_j(one, window.started_at_s, ends_at_s) for one in counters]
    names = [component]
    if len(counters) > 1:
        names += [f"{component}{number}" for number in range(len(counters))]
    for name, j in zip(names, [sum(true_j), *true_j], strict=False):
        yield _Joules(
            name=name,
            true_j=j,
            measured_j=reported.get(f"energy/net_{name}_j", math.nan),
            u95_j=reported.get(f"energy/net_u95_{component}_j", 0.0),
        )


def _wrong_joules(record: Record, joules: Sequence[_Joules]) -> Iterator[str]:
    assert record.measurement is not None
    is_long = record.measurement.active.duration_s >= LONG_S
    for one in joules:
        off_j = abs(one.measured_j - one.true_j)
        allowed_j = MAX_ERROR_PERCENT / 100 * one.true_j if is_long else one.u95_j
        if not off_j <= allowed_j:
            yield (
                f"{one.name} is {one.measured_j:.2f} J, in truth {one.true_j:.2f} J: off by more "
                f"than {allowed_j:.2g} J"
            )
    reported = metrics(record)
    total_j = sum(one.true_j for one in joules if not one.name[-1].isdecimal())
    off_j, u95_j = abs(reported["energy/net_j"] - total_j), reported.get("energy/net_u95_j", 0.0)
    if not off_j <= u95_j:
        yield f"the total is off by {off_j:.2g} J, and ± {u95_j:.2g} J is stated"
    elif u95_j > MAX_U95_FRACTION * total_j:
        yield f"an uncertainty of {u95_j:.2g} J says nothing about {total_j:.2f} J"


def _wrong_account(case: Case, record: Record, machine: SimulatedMachine) -> Iterator[str]:
    """Joules of the cell's whole life, from opening its meter to its record."""
    if case.min_wraps:
        return  # such counters are set forward, or wrap faster than a cell loads
    assert record.account is not None
    begins_s, ends_s = record.account.started_at_s, record.account.ended_at_s
    for component, counters in case.counters.items():
        true_j = sum(machine.true_energy_j(one, begins_s, ends_s) for one in counters)
        found_j = record.account.energy_j[component]
        if not abs(found_j - true_j) <= MAX_ACCOUNT_ERROR_PERCENT / 100 * true_j:
            yield f"{found_j:.1f} J of {component} are accounted for, of {true_j:.1f} J in truth"


def _wrong_window(measured: Measurement, machine: SimulatedMachine) -> Iterator[str]:
    """Work that the passes' window leaves out: the truth is taken over that window."""
    before, after = measured.idle_before, measured.idle_after
    window = measured.active
    all_s = machine.true_active_s(before.started_at_s + before.duration_s, after.started_at_s)
    inside_s = machine.true_active_s(window.started_at_s, window.started_at_s + window.duration_s)
    if not all_s - inside_s <= MAX_OUTSIDE_S:
        yield f"{all_s - inside_s:.2f} s of work lie outside the passes' window"
