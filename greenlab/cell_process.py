"""What runs in a cell's own process: measuring the cell, or checking a grid before its first cell.

A process is forked for each cell from a server that has imported torch and nothing more: it has no
CUDA context, thread pool or random state of the cells before it. It ends when its parent does.
"""

import contextlib
import errno
import faulthandler
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from pathlib import Path
from typing import Any

from greenlab.account import read_account
from greenlab.config import Config, execution, from_dict, to_dict
from greenlab.errors import GreenlabError, LossNotFiniteError
from greenlab.logs import LogFile
from greenlab.machine_lock import measuring_lock
from greenlab.record import (
    LOG_FILE,
    POWER_FILE,
    TRACE_FILE,
    Cell,
    Failure,
    FailureKind,
    Record,
    read_cell,
    write_record,
)

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 30.0


def preload_for(grid: Sequence[Config]) -> list[str]:
    """Modules that the server is to import: seconds that every cell would spend otherwise.

    Of the builders that the cells name, greenlab's own alone: what a user's module does when it is
    imported is for each cell to find out.
    """
    targets = {target for one in grid for target in (one.model._target_, one.dataset._target_)}
    named = {target.rpartition(".")[0] for target in targets if target.startswith("greenlab.")}
    return ["greenlab.warm", *sorted(named)]


def measure_folder(folder: Path) -> None:
    """Measure the cell described in `folder` and draw its power; exit with 1 where that failed."""
    end_with_parent()
    log_to(folder / LOG_FILE)
    cell = read_cell(folder)
    with measuring_lock(from_dict(cell.config).lock):
        with limited_time(cell, folder):
            record = measure_record(folder)
        if record.status != "FINISHED":
            sys.exit(1)
        _draw(record, folder)


@contextmanager
def limited_time(cell: Cell, folder: Path) -> Iterator[None]:
    """Let the system end this process after `timeout_s`, whatever it is doing then.

    Its log says where it hung.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    timeout_s = cell.config["timeout_s"] or 0.0
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    with (folder / LOG_FILE).open("a") as log:
        if timeout_s:  # where it hangs, just before
            faulthandler.dump_traceback_later(0.98 * timeout_s, file=log)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def measure_record(folder: Path) -> Record:
    """Measure the cell described in `folder`; a failure becomes a record too."""
    cell = read_cell(folder)
    try:
        from greenlab.experiment import run_cell  # torch: after the parent is being watched

        return run_cell(cell, from_dict(cell.config), folder)
    except Exception as error:  # whatever a model, a driver or a disk may raise: it is data
        expected = isinstance(error, GreenlabError)
        logger.info("%s failed: %s", cell.name, error, exc_info=None if expected else error)
        name = type(error).__name__
        record = Record(
            status="FAILED",
            cell=cell,
            ended_at_s=time.time(),
            failure=Failure(kind=failure_kind(error), message=str(error) or name, exception=name),
            account=read_account(folder),
        )
        with contextlib.suppress(OSError):  # a full disk; the parent says so, once for both
            write_record(folder, record)
        return record


def _draw(record: Record, folder: Path) -> None:
    try:
        from greenlab.power_plot import draw_power
        from greenlab.trace_file import read_trace

        draw_power(folder / POWER_FILE, record, read_trace(folder / TRACE_FILE))
    except Exception:  # a picture less is no reason to lose a measured cell
        logger.exception("power.png could not be drawn")


OUT_OF_MEMORY = (
    "out of memory",  # CUDA's driver; torch's own error for its GPU allocator has a class as well
    "DefaultCPUAllocator: ",  # torch's CPU allocator: can't allocate memory, not enough memory
    "std::bad_alloc",  # C++
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)
"""How RuntimeErrors of libraries say that memory was asked for and not there."""


def failure_kind(error: BaseException) -> FailureKind:
    """What went wrong, by the error or by one that it was raised from."""
    if isinstance(error, LossNotFiniteError):
        return "nan"
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    return "oom" if any(map(_is_out_of_memory, causes)) else "error"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in OUT_OF_MEMORY)
    return isinstance(error, MemoryError)


def preflight_elsewhere(grid: Sequence[Config], answer: Path) -> None:
    """As `preflight_grid`, of what does not depend on the machine: data and models."""
    preflight_grid(grid, answer, here=False)


def preflight_grid(grid: Sequence[Config], answer: Path, *, here: bool = True) -> None:
    """Check hardware, sources, data and models of all cells, each distinct one once.

    Writes to `answer` what stands in the way (`problems`: each names key and way out), and on which
    machine and by which commit of greenlab the cells would be measured.
    """
    end_with_parent()
    from greenlab import data
    from greenlab.environment import describe_environment
    from greenlab.execution import choose_layout
    from greenlab.meters import choose_sources
    from greenlab.meters.power_limit import check_power_limit
    from greenlab.network import build_model, check_output, check_training, contained
    from greenlab.preflight import preflight

    images: dict[str, Any] = {}
    untrainable: dict[str, GreenlabError] = {}

    def check_hardware(config: Config) -> None:
        if not here:
            return
        place = preflight(config)
        chosen = choose_sources(config.hardware, uses_cuda=place.uses_cuda)
        check_power_limit(config.hardware, [opened.source for opened in chosen])

    def check_data(config: Config) -> None:
        loaded = data.load(config.dataset, config.seed)
        images[repr(config.dataset)] = loaded.test.images[:1].float() / 255

    def check_model(config: Config) -> None:
        image = images.get(repr(config.dataset))
        if image is not None:  # else its absence is a problem already
            with contained():
                model = build_model(config.model, config.dataset.num_classes)
                layout = choose_layout(config, model, image)
                check_output(model, image.to(memory_format=layout), config)
                try:  # while the model is there; whether it matters depends on the phase
                    check_training(model, image, config)
                except GreenlabError as error:
                    untrainable[repr((config.model, config.dataset))] = error

    def check_phase(config: Config) -> None:
        problem = untrainable.get(repr((config.model, config.dataset)))
        if problem is not None and config.trains:
            raise problem

    problems: list[str] = []
    checked: set[str] = set()
    for config in grid:
        for check, part in (
            (check_hardware, (config.hardware, execution(to_dict(config)))),
            (check_data, config.dataset),  # whatever the seed draws from it
            (check_model, (config.model, config.dataset, config.memory_format)),
            (check_phase, (config.model, config.dataset, config.trains)),
        ):
            if (key := f"{check.__name__} {part}") in checked:
                continue
            checked.add(key)
            try:
                check(config)
            except GreenlabError as error:
                problems.append(str(error))
    place = describe_environment()
    machine = place.machine if here else ""
    answer.write_text(
        json.dumps({"problems": problems, "machine": machine, "commit": place.commit})
    )


def end_with_parent() -> None:
    """End this process, and all that it started, as soon as its parent is gone."""
    os.setsid()  # Ctrl-C on the terminal is for the parent alone, which then stops this one
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="greenlab-parent-watch", daemon=True).start()


class _Sparse(logging.Filter):
    """Lets warnings through, and of anything else one message in half a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = time.monotonic() + PROGRESS_EVERY_S

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return True
        if time.monotonic() < self._next_s:
            return False
        self._next_s = time.monotonic() + PROGRESS_EVERY_S
        return True


def log_to(path: Path) -> None:
    """Everything to the cell's log; warnings, and progress on long work, to the terminal."""
    log_to_file(path)
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("         %(message)s"))
    terminal.addFilter(_Sparse())
    logging.getLogger().addHandler(terminal)


def log_to_file(path: Path) -> None:
    """Everything to the cell's log."""
    file = LogFile(path)
    file.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file])
    logging.getLogger("zeus").setLevel(logging.ERROR)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
