"""Grids composed factor by factor are what Hydra composes cell by cell, whatever the overrides.

The truth is Hydra's own composition of every cell. How often Hydra is asked tells which way was
taken: a grid of independent factors takes fewer compositions than it has cells.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from greenlab import config as configuration
from greenlab import grid
from greenlab.config import Config
from greenlab.errors import ConfigError
from greenlab.factors import Factory

OWN = {
    "model/as_wide.yaml": "_target_: tiny.build\nkwargs: {width: '${batch_size.size}'}\n",
    "model/wide.yaml": "_target_: tiny.build\nkwargs: {width: 16}\n",
    "model/taller.yaml": "defaults:\n  - wide\n  - _self_\nkwargs: {height: 2}\n",
    "dataset/quick.yaml": (
        "# @package _global_\n"
        "dataset: {_target_: greenlab.data.digits.load, num_classes: 10}\nphase: {epochs: 1}\n"
    ),
    "phase/thorough.yaml": "kind: train\nepochs: 7\n",
    "extra/one.yaml": "epochs: 3\n",
    "extra/two.yaml": "epochs: 5\n",
    "experiment/referring.yaml": "# @package _global_\nprofile: {target_epochs: '${seed}'}\n",
    "experiment/quiet.yaml": "# @package _global_\nidle: {window_s: 3}\n",
    "experiment/wider.yaml": "# @package _global_\nmodel: {kwargs: {width: 3}}\nseed: 8\n",
}
INDEPENDENT = [
    pytest.param(["model=lenet,vgg16,googlenet", "batch_size=32,100,7"], id="groups"),
    pytest.param(
        ["batch_size=range(8,21,4)", "phase=train,inference"], id="ranges", marks=pytest.mark.slow
    ),
    pytest.param(["seed=range(0,6)", "model=glob(d*)"], id="globs", marks=pytest.mark.slow),
    pytest.param(
        ["precision=fp32,bf16", "seed=1,2", "idle.window_s=1,2.5"],
        id="values",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["phase.epochs=1,2,3", "phase=train,profile", "phase.learning_rate=0.1"], id="of one part"
    ),
    pytest.param(
        ["phase.epochs=2", "phase.epochs=3,4", "seed=1,2,3"],
        id="the last one counts",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        [
            "model=wide",
            "model.kwargs={width:1},{width:2}",
            "++model.kwargs={height:1},{height:2}",
            "seed=3,4",
        ],
        id="nested",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["+model.kwargs.width=2,3", "seed=1,2,3"], id="added keys", marks=pytest.mark.slow
    ),
    pytest.param(
        ["++model.kwargs.width=2,3", "model=lenet,wide", "seed=1,2"],
        id="forced keys",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["model=wide", "~model.kwargs.width", "+model.kwargs.width=1,2,3", "seed=1,2"],
        id="taken and given back",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["experiment=wider", "model=lenet,wide", "seed=1,2,3"],
        id="under a preset",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["hydra.job.name=other", "model=lenet,wide", "seed=1,2,3"],
        id="beside hydra's",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["model=lenet,wide", "num_threads=null,2", "seed=1,2"], id="null", marks=pytest.mark.slow
    ),
    pytest.param(
        ["hardware=auto,cpu", "mlflow.experiment='a b',c", "seed=1,2"],
        id="quoted",
        marks=pytest.mark.slow,
    ),
]
ENTANGLED = [
    pytest.param(["model=as_wide,wide", "batch_size=8,16"], id="a value refers to another part"),
    pytest.param(["profile.target_epochs=${seed},2", "seed=1,2"], id="so does an override"),
    pytest.param(
        ["experiment=referring", "seed=1,2,3"], id="so does a preset", marks=pytest.mark.slow
    ),
    pytest.param(["dataset=quick,digits", "phase=train,thorough"], id="an option of all parts"),
    pytest.param(
        ["model=taller,wide", "seed=1,2"],
        id="an option with a defaults list",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["experiment=wider,quiet", "model=wide,lenet"], id="presets", marks=pytest.mark.slow
    ),
    pytest.param(["+extra@phase=one,two", "phase=train,inference"], id="packages"),
    pytest.param(
        ["experiment=wider,referring", "seed=1,2", "model=lenet,wide"],
        id="two presets",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        ["hydra.searchpath=[file://FAR]", "model=lenet,far", "seed=1,2"],
        id="paths",
        marks=pytest.mark.slow,
    ),
]


FAR = {"model/far.yaml": "_target_: tiny.build\nkwargs: {width: '${seed}'}\n"}
REFUSED = [
    pytest.param(["model=lenet,no_such", "seed=1,2"], id="no such option"),
    pytest.param(["batch_size=8,none", "seed=1,2"], id="no such size", marks=pytest.mark.slow),
    pytest.param(["seed=1,-1", "model=lenet,vgg16"], id="out of range", marks=pytest.mark.slow),
    pytest.param(
        ["seed=1,many", "model=lenet,vgg16"], id="of a wrong type", marks=pytest.mark.slow
    ),
    pytest.param(["phase.epoch=1,2", "seed=1,2"], id="no such key", marks=pytest.mark.slow),
    pytest.param(["+model.depth=1,2", "seed=1,2"], id="a key of no field", marks=pytest.mark.slow),
    pytest.param(["hardware=cpu,auto", "precision=tf32,fp32"], id="two that do not go together"),
    pytest.param(["model=lenet,wide", "model.kwargs.width=1,2"], id="a key of one option alone"),
]


def write(folder: Path, options: dict[str, str]) -> Path:
    for name, text in options.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


class Loader(ConfigLoaderImpl):
    """Hydra's own, which counts its compositions."""

    num_composed = 0

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        self.num_composed += 1
        return super().load_sweep_config(master_config, sweep_overrides)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("far"), FAR)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """On greenlab's options and our own."""
    with grid.open_options(write(tmp_path_factory.mktemp("own"), OWN)):
        yield Loader(GlobalHydra.instance().config_loader().get_search_path())


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A grid, composed both ways; a refusal stands for a cell that is refused."""

    by_hydra: list[Config | str]
    by_factors: list[Config | str]
    num_compositions: int
    """That the factors took."""


def compose_both_ways(loader: Loader, overrides: list[str]) -> Composed:
    master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
    cells = grid.split(overrides)

    def by_hydra(cell: Sequence[str]) -> Config:
        return configuration.from_omegaconf(loader.load_sweep_config(master, list(cell)))

    truth = [settings_or_refusal(by_hydra, cell) for cell in cells]
    factory, before = Factory(loader, master, cells), loader.num_composed
    return Composed(
        by_hydra=truth,
        by_factors=[settings_or_refusal(factory.compose, cell) for cell in cells],
        num_compositions=loader.num_composed - before,
    )


def settings_or_refusal(
    compose: Callable[[Sequence[str]], Config], cell: Sequence[str]
) -> Config | str:
    try:
        return compose(cell)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("overrides", INDEPENDENT)
def test_independent_factors_are_composed_once_each(loader: Loader, overrides: list[str]) -> None:
    composed = compose_both_ways(loader, overrides)

    assert composed.by_factors == composed.by_hydra
    assert composed.num_compositions < len(composed.by_hydra)


@pytest.mark.parametrize("overrides", ENTANGLED)
def test_what_depends_on_another_part_goes_hydras_way(
    loader: Loader, far: Path, overrides: list[str]
) -> None:
    composed = compose_both_ways(loader, [one.replace("FAR", str(far)) for one in overrides])

    assert not any(isinstance(one, str) for one in composed.by_hydra)
    assert composed.by_factors == composed.by_hydra


@pytest.mark.parametrize("overrides", REFUSED)
def test_a_refusal_is_hydras_own(loader: Loader, overrides: list[str]) -> None:
    composed = compose_both_ways(loader, overrides)

    assert any(isinstance(one, str) for one in composed.by_hydra)
    assert composed.by_factors == composed.by_hydra


# 3 models and 3 sizes: one composition for the first cell, one without its factors' values, and
# one for each further option, 2 and 2.
def test_a_grid_takes_as_many_compositions_as_it_has_options(loader: Loader) -> None:
    factors = ["model=lenet,vgg16,wide", "batch_size=4,8,16", "seed=range(0,100)"]
    master = loader.load_configuration("config", factors, RunMode.MULTIRUN)
    cells, before = grid.split(factors), loader.num_composed
    factory = Factory(loader, master, cells)

    composed = [factory.compose(cell) for cell in cells]

    assert len({configuration.signature(one) for one in composed}) == 900
    assert loader.num_composed - before == 2 + 2 + 2
