"""Executes notebooks that are kept as text, two at a time, each in a fresh kernel of its own.

The kernel is this interpreter, reached over sockets in a folder that goes with it: no kernelspec
has to be installed, no port is opened, nothing of the user's Jupyter or IPython set-up is read.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from greenlab.errors import without_password
from multirun_analysis import publish
from multirun_analysis.runs import NothingToShow

MOST_AT_ONCE = 2
START_TIMEOUT_S = 120
CELL_TIMEOUT_S = 1200


@dataclass(frozen=True, kw_only=True, slots=True)
class Executed:
    """A notebook that ran, to its end or to an error."""

    name: str
    content: Any
    """The notebook with its outputs, an nbformat NotebookNode; None where it could not be read."""
    duration_s: float
    error: str
    """What stopped it; empty where nothing did."""
    nothing: str
    """What the notebook as a whole would need to have something to show; empty where it has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """What each notebook's `parameters` cell is overridden with."""

    tracking_uri: str
    experiment: str
    sweep: str
    against: str | None
    where: str | None

    def source(self) -> str:
        """The injected cell. A URI with a password stays out of it: the environment has it too."""
        secret = without_password(self.tracking_uri) != self.tracking_uri
        return "\n".join(
            [
                f"tracking_uri = {None if secret else self.tracking_uri!r}",
                f"experiment = {self.experiment!r}",
                f"sweep = {self.sweep!r}",
                f"against = {self.against!r}",
                f"where = {self.where!r}",
            ]
        )


def execute(
    notebooks: Sequence[Path],
    parameters: Parameters,
    folder: Path,
    *,
    on_begin: Callable[[str], None],
    on_end: Callable[[Executed], None],
) -> list[Executed]:
    """Run `notebooks`, which publish into `folder`; an error in one does not stop the others.

    Ctrl-C and SIGTERM kill the kernels and raise KeyboardInterrupt.
    """

    async def one(path: Path, turn: asyncio.Semaphore) -> Executed:
        async with turn:
            on_begin(path.stem)
            executed = await _execute_one(path, parameters, folder)
            on_end(executed)
            return executed

    async def every() -> list[Executed]:
        turn = asyncio.Semaphore(_num_at_once())
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(path, turn)) for path in notebooks]
        return [task.result() for task in tasks]

    return asyncio.run(_until_interrupted(every))


async def _until_interrupted(
    work: Callable[[], Coroutine[Any, Any, list[Executed]]],
) -> list[Executed]:
    task = asyncio.create_task(work())
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted:  # a second Ctrl-C would cut the killing of the kernels short
            interrupted = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def _execute_one(path: Path, parameters: Parameters, folder: Path) -> Executed:
    began_s = time.monotonic()
    content, error, nothing = None, "", ""
    try:
        content = _read(path, parameters)
        async with _client(content, _environment(path.stem, parameters, folder)) as client:
            for place, cell in enumerate(content.cells):
                await client.async_execute_cell(cell, place)
    except Exception as stopped:  # a notebook's error, or its kernel's: the others go on
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # nbclient takes Ctrl-C for a dead kernel
            raise asyncio.CancelledError from stopped
        if getattr(stopped, "ename", "") == NothingToShow.__name__:
            nothing = str(getattr(stopped, "evalue", ""))
            _end_with(content, nothing)
        else:
            error = _told(stopped)
    return Executed(
        name=path.stem,
        content=content,
        duration_s=time.monotonic() - began_s,
        error=error,
        nothing=nothing,
    )


def _read(path: Path, parameters: Parameters) -> Any:
    import jupytext  # here: `compare` and --help do without
    import nbformat

    notebook = jupytext.read(path, fmt="py:percent")
    injected = nbformat.v4.new_code_cell(parameters.source(), metadata={"tags": ["injected"]})
    tagged = [
        place
        for place, cell in enumerate(notebook.cells)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    notebook.cells.insert(tagged[0] + 1 if tagged else 0, injected)
    return notebook


@asynccontextmanager
async def _client(content: Any, environment: dict[str, str]) -> AsyncIterator[Any]:
    """A kernel that is killed at the end, whatever the end.

    NotebookClient's own way of starting one takes over the signals, which here belong to all
    notebooks at once.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    with TemporaryDirectory(prefix="greenlab-") as place:
        manager = AsyncKernelManager(
            kernel_name="python3",  # with no folder to look in, ipykernel's own: sys.executable
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            transport="ipc",
            ip=f"{place}/kernel",
            connection_file=f"{place}/kernel.json",
        )
        client = NotebookClient(content, km=manager, timeout=CELL_TIMEOUT_S, record_timing=False)
        client.reset_execution_trackers()
        try:
            await manager.start_kernel(
                extra_arguments=["--HistoryManager.hist_file=:memory:"],
                cwd=place,
                env={**environment, "IPYTHONDIR": f"{place}/ipython"},
            )
            client.kc = manager.client()
            client.kc.start_channels()
            await client.kc.wait_for_ready(timeout=START_TIMEOUT_S)
            client.kc.allow_stdin = False
            yield client
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            await manager.shutdown_kernel(now=True)


def _environment(name: str, parameters: Parameters, folder: Path) -> dict[str, str]:
    here = str(Path(__file__).parents[1])
    search = os.environ.get("PYTHONPATH")
    threads = max(1, _num_cpus() // _num_at_once())
    return {
        "OMP_NUM_THREADS": str(threads),  # else the kernels' threads wait for each other
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, search] if search else [here]),
        "MPLBACKEND": "agg",
        "MLFLOW_TRACKING_URI": parameters.tracking_uri,
        publish.EXPORT: str(folder.resolve()),
        publish.NOTEBOOK: name,
    }


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _num_at_once() -> int:
    return min(MOST_AT_ONCE, _num_cpus())


def _told(error: Exception) -> str:
    """In one line: the exception inside the notebook, where it was one."""
    kind = getattr(error, "ename", type(error).__name__)
    told = without_password(str(getattr(error, "evalue", error))) or ""
    lines = told.strip().splitlines()
    return f"{kind}: {lines[0]}" if lines else str(kind)


def _end_with(content: Any, sentence: str) -> None:
    """Put the sentence where the traceback is, and leave out the headings of what did not run."""
    import nbformat

    for at, cell in enumerate(content.cells):
        for place, output in enumerate(cell.get("outputs", [])):
            if output.output_type == "error":
                cell.outputs[place] = nbformat.v4.new_output(
                    "display_data", {"text/html": publish.missing_html(sentence)}
                )
                del content.cells[at + 1 :]
                return
