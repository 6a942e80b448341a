"""Where Hydra hands over: a run or multirun is checked as a whole before its first cell.

Hydra calls this callback before the first cell and after the last one on the launching machine, and
around each cell in whichever process runs it; the tickets travel there with it.
"""

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from greenlab import config as configuration
from greenlab import grid as grids
from greenlab import launchers
from greenlab.config import Config, PhaseKind
from greenlab.errors import (
    ConfigError,
    GreenlabError,
    OutputError,
    StoreUnavailableError,
    first_line,
    without_password,
)
from greenlab.grid import Combination

if TYPE_CHECKING:  # half a second, with pydantic and NumPy: not for --help or a refused option
    from greenlab.multirun import Multirun
    from greenlab.record import Record, Status
    from greenlab.run import Home, Ticket
    from greenlab.tracking import Store

logger = logging.getLogger(__name__)

open_sweep: "Multirun | None" = None
"""The multirun that this process has begun and not ended, for whoever must end it early."""
_machine = contextlib.ExitStack()
"""Holds the machine's lock while this process checks, and while it launches cells itself."""
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
ONE_FOLDER_EACH = re.compile(r"hydra[.:]job\.(num|id)\b")
"""In hydra.sweep.subdir; override_dirname is the same for each try of a cell."""
SWEEPER = "hydra_plugins.greenlab_sweeper.GreenlabSweeper"


class Sweep(Callback):
    """See the module; Hydra makes one from conf/config.yaml."""

    def __init__(self) -> None:
        self.tickets: dict[int, Ticket] = {}

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a single cell that cannot be run or stored, before it starts."""
        with _refusals():
            grids.adopt_own_options(config)
            cell = configuration.from_omegaconf(config)
            _refuse_sweep_settings(cell)
            _check_writable(Path(config.hydra.run.dir), "hydra.run.dir")
            _refuse_job_settings(config)
            # Here, and not above: what its options alone refuse does not wait for them.
            from greenlab import run
            from greenlab.machine_lock import machine_lock

            _check_store(cell)
            _machine.enter_context(machine_lock(cell.lock))
            run.start_server([cell])
            _open_store(cell)
            run.preflight([cell])
            run.claim_folder(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Refuse a grid with a cell that cannot be run, before any cell starts; else begin it."""
        global open_sweep
        with _refusals():
            grids.adopt_own_options(config)
            _refuse_other_sweeper(config)
            grid = grids.compose_sweep(config)
            rules = grid[0].config
            _check_grid(config, grid)
            _check_launcher(config, rules)
            _check_writable(Path(config.hydra.sweep.dir), "hydra.sweep.dir")
            _refuse_job_settings(config)
            # As for a single cell.
            from greenlab import planning, resume, run
            from greenlab.machine_lock import machine_lock

            cells = [one.config for one in grid]
            _check_store(rules)
            home = None
            if launchers.is_cluster(config.hydra.launcher):
                launchers.make(config).check(rules.machine_names)
                home = _home(cells)
            else:
                _machine.enter_context(machine_lock(rules.lock))
            run.start_server(cells)
            store = _open_store(rules)
            logger.info("checking %d cells", len(grid))
            place = run.preflight(cells, here=home is None)
            if rules.plan:
                earlier = store.earlier_runs if store else None
                planning.show(cells, place.machine, earlier)
                raise SystemExit(0)
            open_sweep = resume.begin(config, grid, store, place, home)
        if config.hydra.launcher._target_ != BASIC_LAUNCHER:
            _machine.close()  # cells run elsewhere, or take turns in processes of their own
        self.tickets = open_sweep.tickets
        logger.info(
            "sweep %s: %d cells, results in %s",
            open_sweep.name,
            open_sweep.num_cells,
            open_sweep.folder,
        )

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Tell the process that is about to run a cell which one it is."""
        from greenlab import run

        grids.adopt_own_options(config)
        run.ticket = self.tickets.get(config.hydra.job.get("num"))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print the end table; exit with 1 if any cell failed."""
        with _refusals():
            complete = end("FINISHED")
        if not complete:
            raise SystemExit(1)


def run_cell(composed: DictConfig) -> "Record":
    """What Hydra calls for each cell; see greenlab/run.py."""
    from greenlab import run

    return run.run(composed)


def end(status: "Status") -> bool:
    """End the open sweep; returns whether all of its cells are done and logged."""
    global open_sweep
    assert open_sweep is not None
    ending, open_sweep = open_sweep, None
    with _machine:
        try:
            return ending.end(status)
        except KeyboardInterrupt:
            if status == "FINISHED":  # whoever stops greenlab closes it yet, and tries once
                open_sweep = ending
            raise


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn greenlab's errors into an exit with their message: Hydra would swallow them here."""
    try:
        yield
    except GreenlabError as error:
        raise SystemExit(f"greenlab: {error}") from error
    except Exception as error:
        logger.exception("greenlab failed outside its cells")
        raise SystemExit(f"greenlab: {first_line(error)}") from error


def _home(grid: Sequence[Config]) -> "Home":
    """What the machines of a cluster must know of this one."""
    from greenlab import tracking
    from greenlab.run import Home

    uri = tracking.resolve_uri(grid[0].mlflow)
    distinct = {
        repr((cell.hardware, configuration.execution(asdict(cell)), cell.dataset)): cell
        for cell in grid
    }
    return Home(
        working_directory=Path.cwd(),
        # A password is not to lie in the files that jobs are handed over in.
        tracking_uri=uri if without_password(uri) == uri else "",
        lands=tracking.sqlite_path(uri) is not None,
        checks=list(distinct.values()),
    )


def _check_store(cell: Config) -> None:
    from greenlab import tracking

    with _unless_optional(cell):
        tracking.check_reachable(cell.mlflow)


def _open_store(cell: Config) -> "Store | None":
    from greenlab import tracking

    with _unless_optional(cell):
        return tracking.open_store(cell.mlflow)
    return None


@contextmanager
def _unless_optional(cell: Config) -> Iterator[None]:
    try:
        yield
    except StoreUnavailableError as error:
        if cell.mlflow.required:
            raise StoreUnavailableError(
                f"{error}. mlflow.required=false measures all the same, and keeps results on disk "
                "until it answers"
            ) from error
        logger.warning("%s. Results stay on disk until it answers", error)


def _refuse_sweep_settings(cell: Config) -> None:
    """Settings of a sweep in a run of one cell, whose presence __main__ has not seen."""
    if cell.repetitions != 1 or cell.resume.sweep is not None or cell.plan:
        raise ConfigError(
            "repetitions, resume and plan are settings of a multirun: add -m, or hydra.mode: "
            "MULTIRUN where a preset holds them"
        )


def _refuse_other_sweeper(config: DictConfig) -> None:
    if config.hydra.sweeper._target_ != SWEEPER:
        raise ConfigError(
            f"hydra/sweeper={config.hydra.runtime.choices['hydra/sweeper']}: greenlab orders and "
            "repeats the cells of a grid itself; leave hydra/sweeper out"
        )


def _check_grid(config: DictConfig, grid: Sequence[Combination]) -> None:
    rules = grid[0].config
    for key in sorted(configuration.UNSIGNED - {"quality", "carbon"}):
        if any(getattr(one.config, key) != getattr(rules, key) for one in grid):
            raise ConfigError(f"{key} is a setting of the whole sweep; give it one value")
    if rules.plan and any(one.config.phase.kind is PhaseKind.profile for one in grid):
        raise ConfigError(
            "plan=true and phase=profile: a profile takes seconds and is itself a plan of its job; "
            "run it, or plan phase=train,inference"
        )
    again = rules.repetitions != 1 or rules.retries > 0 or rules.resume.sweep is not None
    if again and any(one.config.repetition != 1 for one in grid) and rules.repetitions != 1:
        raise ConfigError("repetition is set by greenlab; repetitions=3 measures each cell 3 times")
    subdir = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]  # type: ignore[index,call-overload]
    if again and not ONE_FOLDER_EACH.search(str(subdir)):
        raise ConfigError(
            f"hydra.sweep.subdir={subdir} is the same for all runs of a cell; end it with "
            "${hydra.job.num}"
        )


def _refuse_job_settings(config: DictConfig) -> None:
    if config.hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true: each cell would look for mlflow.db and data in its own folder; "
            "leave it out, results lie in that folder all the same"
        )
    if config.hydra.job.env_set:
        raise ConfigError(
            "hydra.job.env_set comes too late for the processes that cells are forked from; set "
            "the variables in the shell that starts greenlab"
        )


def _check_launcher(config: DictConfig, rules: Config) -> None:
    """Refuse settings that do not go with where the cells run."""
    if not launchers.is_cluster(config.hydra.launcher):
        if rules.machines != "one":
            raise ConfigError(
                f"machines={rules.machines} is for cells that a cluster runs: add "
                "hydra/launcher=slurm or hydra/launcher=ray_cluster, or leave it out"
            )
    elif rules.plan:
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        raise ConfigError(
            "plan=true times cells on the machine where it is started, and "
            f"hydra/launcher={chosen} runs them on others; ask for the plan there, without it"
        )


def _check_writable(folder: Path, key: str) -> None:
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if is_new:
            folder.rmdir()  # what is refused, planned or resumed elsewhere leaves no empty folder
    except OSError as error:
        raise OutputError(
            f"{key}={folder} cannot be written ({error.strerror}); name a folder that can, for "
            f"example {key}={Path(tempfile.gettempdir()) / 'greenlab'}"
        ) from error
