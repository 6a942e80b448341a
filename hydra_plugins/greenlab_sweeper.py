"""Hands Hydra's multiruns to greenlab, which orders, repeats and resumes their cells.

Hydra takes sweepers from this package alone, and imports it in every program of the environment:
nothing of greenlab is imported before one of its own sweeps begins.
"""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GreenlabSweeper(Sweeper):
    """Chosen by conf/config.yaml; the multirun has begun when Hydra sets it up."""

    def __init__(self, max_batch_size: int | None, params: dict[str, str] | None) -> None:
        self._max_batch_size = max_batch_size

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Make the launcher that the command line names."""
        from greenlab import launchers

        self.config = config
        self._launcher: Launcher
        if launchers.is_cluster(config.hydra.launcher):
            self._launcher = launchers.make(config)
            self._launcher.setup(
                hydra_context=hydra_context, task_function=task_function, config=config
            )
        else:
            self._launcher = Plugins.instance().instantiate_launcher(
                hydra_context=hydra_context, task_function=task_function, config=config
            )

    def sweep(self, arguments: list[str]) -> Any:
        """Measure everything that the multirun has on its agenda."""
        from greenlab import sweep
        from greenlab.launchers import Cluster

        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        assert sweep.open_sweep is not None
        # One at a time: what comes next may depend on it. Other launchers run cells in parallel.
        alone = 1 if isinstance(self._launcher, BasicLauncher) else None
        launch = self._launcher if isinstance(self._launcher, Cluster) else self._launcher.launch
        sweep.open_sweep.measure(launch, self._max_batch_size or alone)
