"""From a command line to its cells: every combination of options, composed and checked."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from greenlab import config as configuration
from greenlab import targets
from greenlab.config import Config
from greenlab.errors import ConfigError
from greenlab.factors import Factory

_HERE = Path(__file__).parent
CONF = next(conf for conf in (_HERE / "conf", _HERE.parent / "conf") if conf.is_dir())
"""Inside an installed package, or beside it in a checkout."""


@contextmanager
def open_options(config_dir: Path | None) -> Iterator[None]:
    """Make Hydra know greenlab's options, and those of `config_dir`, outside its own main."""
    search_path = create_config_search_path(str(CONF))
    if config_dir is not None:
        before = SearchPathQuery(provider="schema")
        search_path.prepend("command-line", f"file://{config_dir.resolve()}", before)
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2(task_name="greenlab", config_search_path=search_path)
    try:
        yield
    finally:
        GlobalHydra.instance().clear()


def split(overrides: Sequence[str]) -> list[list[str]]:
    """The cells that `overrides` stand for: commas, ranges and globs taken apart.

    Raises:
        ConfigError: an override cannot be read, or a glob matches no option.
    """
    loader = GlobalHydra.instance().config_loader()
    try:
        parsed = OverridesParser.create(loader).parse_overrides(list(overrides))
        [cells] = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise ConfigError(str(error).strip()) from error
    if not cells:
        raise ConfigError(
            f"no cell matches {' '.join(overrides)}: a glob found no option. python -m greenlab "
            "--help lists the options of every group"
        )
    return [list(cell) for cell in cells]


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """One cell of a grid: what the command line chose for it, and what that composes to."""

    overrides: list[str]
    config: Config


def compose_sweep(config: DictConfig) -> list[Combination]:
    """Every cell of the multirun that Hydra is about to run, checked.

    Raises:
        ConfigError: a cell's settings break a rule, there is no cell at all, or one is there twice.
    """
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, ConfigLoaderImpl)
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    given = OmegaConf.to_container(config.hydra.overrides.task)  # a reference is each cell's own
    cells = split([*params, *cast(list[str], given)])
    factory = Factory(loader, config, cells)
    grid: dict[str, Combination] = {}
    for chosen in cells:
        with _refusals(chosen):
            settings = factory.compose(chosen)
        same = grid.setdefault(
            configuration.signature(settings), Combination(overrides=chosen, config=settings)
        )
        if same.overrides is not chosen:
            raise ConfigError(
                f"{' '.join(chosen)} and {' '.join(same.overrides)} are the same cell; "
                "repetitions=2 measures every cell twice"
            )
    return list(grid.values())


def compose_hydra(overrides: Sequence[str]) -> DictConfig:
    """Hydra's own part of a composition, within `open_options`, for overrides of it alone.

    Raises:
        ConfigError: it does not compose.
    """
    own = [override for override in overrides if override.startswith("hydra.")]
    with _refusals(own):
        return compose("config", own, return_hydra_config=True)


def compose_one(overrides: Sequence[str]) -> Config:
    """One cell, within `open_options`.

    Raises:
        ConfigError: it does not compose, or breaks a rule.
    """
    with _refusals(overrides):
        return configuration.from_omegaconf(compose("config", list(overrides)))


@contextmanager
def _refusals(chosen: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{' '.join(chosen)}: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:  # they name the cell's option
        raise ConfigError(str(error).strip()) from error


def adopt_own_options(config: DictConfig) -> None:
    """Make files beside the user's own YAML importable; `config` is composed, with Hydra's part.

    Raises:
        ConfigError: an option of theirs has the name of one of greenlab's, which Hydra would take.
    """
    folders = _own_folders(config)
    for folder in folders:
        for own in folder.glob("*/*.yaml"):
            hidden_by = CONF / own.relative_to(folder)
            if hidden_by.exists() and hidden_by.read_bytes() != own.read_bytes():
                raise ConfigError(
                    f"{own}: {own.parent.name}={own.stem} is one of greenlab's own options, which "
                    "comes first; give yours another name"
                )
    targets.import_from(folders)


def _own_folders(config: DictConfig) -> list[Path]:
    """The user's configuration folders: all on Hydra's search path that are not greenlab's."""
    paths = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]
    return [path for path in paths if path.resolve() != CONF.resolve()]
