"""A multirun begins, or takes up again what a dead one left.

A cell is done where a finished run has its signature, in the experiment or in the one sweep that is
named. Everything else is measured under the name, the order and the folder of the sweep that died,
and none of its runs is left running.
"""

import logging
import platform
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from greenlab import config as configuration
from greenlab import landing, run
from greenlab import record as records
from greenlab.config import Config
from greenlab.errors import ConfigError, GreenlabError, first_line
from greenlab.grid import Combination
from greenlab.multirun import Multirun, signatures
from greenlab.record import SweepRun
from greenlab.run import Home, Place
from greenlab.tracking import Landed, Store

logger = logging.getLogger(__name__)

ANY = "any"
"""What conf/resume/true.yaml says: cells of any sweep."""
NUM_SEEDS = 2**32


def begin(
    config: DictConfig,
    grid: Sequence[Combination],
    store: Store | None,
    place: Place,
    home: Home | None = None,
) -> Multirun:
    """Begin a sweep, or take one up again where `resume` says so; `config` has Hydra's part.

    With a `home`, a cluster runs the cells.

    Raises:
        ConfigError: the sweep to resume is not known, or (`resume.strict`) was measured otherwise.
    """
    rules = grid[0].config
    if rules.resume.sweep is None:
        return _begin_anew(config, grid, store, home)
    if store is None:
        raise ConfigError("resume needs the store that knows what is measured; start it")
    return _resume(config, grid, store, place, home)


def _begin_anew(
    config: DictConfig, grid: Sequence[Combination], store: Store | None, home: Home | None
) -> Multirun:
    rules = grid[0].config
    seed = secrets.randbelow(NUM_SEEDS) if rules.order_seed is None else rules.order_seed
    folder = _claim(config)
    begun = SweepRun(
        run_id="",
        name=f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        grid=grid_signature([one.config for one in grid]),
        overrides=" ".join(config.hydra.overrides.task),
        num_cells=len(grid),
        repetitions=str(rules.repetitions),
        order=rules.order.name,
        order_seed=seed,
        folder=str(folder),
        host=platform.node(),
    )
    if store is not None:
        begun = store.begin_sweep(begun)
    return Multirun(grid, begun, folder, home)


def _resume(
    config: DictConfig,
    grid: Sequence[Combination],
    store: Store,
    place: Place,
    home: Home | None,
) -> Multirun:
    rules = grid[0].config
    found = _find(store, rules, grid_signature([one.config for one in grid]))
    if found is not None:
        _close(found, store)
    finished = store.finished_cells(found.name if found and rules.resume.sweep != ANY else None)
    done = {key: finished[key] for key in signatures(grid) if key in finished}
    if home is not None and done:  # the machine that goes on is the one that measured the first
        place = replace(place, machine=next(iter(done.values())).machine)
    measured = {key: _comparable(landed, place) for key, landed in done.items()}
    _compare(measured.values(), place, rules)
    if found is None:
        multirun = _begin_anew(config, grid, store, home)
    else:
        if Path(found.folder).is_dir() and found.host == platform.node():
            _move_to(config, found.folder)
        else:
            _claim(config)
        (Path(config.hydra.sweep.dir) / records.SWEEP_FILE).unlink(missing_ok=True)
        store.reopen_sweep(found.run_id)
        multirun = Multirun(grid, found, Path(config.hydra.sweep.dir).resolve(), home)
    run.hold_against(multirun.folder, measured.values())
    num_skipped = multirun.skip_measured(measured)
    logger.info(
        "%s: %d of %d cells are measured already",
        f"resuming {found.name}" if found else "no sweep of this grid to resume, a new one",
        num_skipped,
        multirun.num_cells,
    )
    return multirun


def _comparable(landed: Landed, place: Place) -> Landed:
    """A cell of another machine is done, and no part of a mean with those to come."""
    return landed if landed.machine == place.machine else replace(landed, net_j=None)


def _claim(config: DictConfig) -> Path:
    folder = run.claim_folder(config, "hydra.sweep.dir")
    _move_to(config, str(folder))
    return folder


def _move_to(config: DictConfig, folder: str) -> None:
    """Let the cells to come lie beside those that are there; each is composed on its own."""
    config.hydra.sweep.dir = folder
    quoted = folder.replace("\\", "\\\\").replace("'", "\\'")
    config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")


def grid_signature(grid: Sequence[Config]) -> str:
    """What two sweeps of the same cells share, whatever their order and repetitions."""
    return configuration.join_signatures(
        configuration.cell_signature(configuration.to_dict(config)) for config in grid
    )


def _find(store: Store, rules: Config, grid: str) -> SweepRun | None:
    sweeps = store.sweeps()
    wanted = rules.resume.sweep
    if wanted == ANY:
        same = [one for one in sweeps if one.grid == grid]
        return next((one for one in same if not _may_be_alive(one, store)), None)
    named = [one for one in sweeps if wanted in (one.name, one.run_id)]
    if not named:
        newest = ", ".join(one.name for one in sweeps[:5]) or "none"
        raise ConfigError(
            f"resume={wanted}: the experiment {rules.mlflow.experiment} has no sweep of that name "
            f"or run id; its newest: {newest}. resume=true takes up the newest of the same grid"
        )
    return named[0]


def _may_be_alive(sweep: SweepRun, store: Store) -> bool:
    """Whether it may be running on another host, where nobody here can look."""
    if sweep.host == platform.node() or not store.is_running(sweep.run_id):
        return False
    logger.warning(
        "%s is said to be running on %s and is left alone; if it is dead, resume=%s takes it up",
        sweep.name,
        sweep.host,
        sweep.name,
    )
    return True


def _close(found: SweepRun, store: Store) -> None:
    """Land what a dead sweep left on disk, and close what it left running in MLflow."""
    for folder in records.cell_folders(Path(found.folder)):
        try:
            landing.sync(folder, store)
        except GreenlabError as error:
            raise ConfigError(f"resume: {folder}: {first_line(error)}") from error
    store.close_running(found.name)


def _compare(measured: Iterable[Landed], place: Place, rules: Config) -> None:
    """Say where what is measured already was measured otherwise than the rest will be."""
    others = {
        f"{what} {theirs or 'unknown'}"
        for one in measured
        for what, theirs, ours in (
            ("commit", one.commit, place.commit),
            ("machine", one.machine, place.machine),
        )
        if theirs != ours
    }
    if not others:
        return
    message = (
        f"some cells were measured on {', '.join(sorted(others))}; this is commit "
        f"{place.commit or 'unknown'} on {place.machine}"
    )
    if rules.resume.strict:
        raise ConfigError(f"resume.strict: {message}. resume=false measures all cells anew")
    logger.warning("resuming: %s", message)
