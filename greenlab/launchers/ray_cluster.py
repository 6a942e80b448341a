"""Cells as tasks of a Ray cluster, each holding a machine.

Hydra's own launcher hands out results when the last task has ended, and none at all where one was
lost. The tasks are watched here instead; what runs on the machine is Hydra's.
"""

import contextlib
import functools
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_ray_launcher import ray_launcher
from omegaconf import OmegaConf, open_dict

from greenlab import node
from greenlab.errors import ConfigError, GreenlabError, first_line
from greenlab.launchers import Job, failed

logger = logging.getLogger(__name__)

POLL_PERIOD_S = 1.0
CANCELLED_WITHIN_S = 60.0
"""So long a cell has to write down what came of it."""
THREADS_VARIABLE = "OMP_NUM_THREADS"


class RayLauncher(ray_launcher.RayLauncher):  # type: ignore[misc]
    """See conf/hydra/launcher/ray_cluster.yaml for its settings."""

    def check(self, machines: Sequence[str]) -> None:
        """See Cluster."""
        self._connect()
        known = _machines()
        for name in self._options.get("resources") or {}:
            if not any(name in one["Resources"] for one in known.values()):
                raise ConfigError(
                    f"hydra/launcher=ray_cluster: no machine of the cluster offers {name!r}; start "
                    f"Ray on each with --resources '{{\"{name}\": 1}}'"
                )
        for machine in machines:
            if machine not in known:
                raise ConfigError(
                    f"machines: Ray has no machine {machine}; it has {', '.join(sorted(known))} "
                    "(ray start --node-name names them)"
                )

    def run_cells(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, JobReturn]]:
        """See Cluster."""
        import ray

        self._connect()
        waiting: dict[Any, Job] = {}
        try:
            for job in jobs:
                waiting[self._submit(job)] = job
            while waiting:
                ended, _ = ray.wait(list(waiting), timeout=POLL_PERIOD_S)
                for task in ended:
                    job = waiting.pop(task)
                    yield job, _result(job, task)
        finally:
            _cancel(waiting)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        # What the shell that starts greenlab says of threads holds everywhere; where it says
        # nothing, Ray would give torch a single one. Nothing else goes: Ray shows these to anyone.
        threads = {THREADS_VARIABLE: os.environ.get(THREADS_VARIABLE, "")}
        # It warns of hiding GPUs from who asks for none; _place asks wherever there is one.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        settings: Any = OmegaConf.to_container(self.ray_cfg.init, resolve=True)
        logging.getLogger("ray").setLevel(logging.WARNING)
        try:
            ray.init(**settings, runtime_env={"env_vars": threads}, logging_level=logging.WARNING)
        except Exception as error:  # ConnectionError, and others of Ray's
            raise ConfigError(
                f"hydra/launcher=ray_cluster: no cluster answers ({first_line(error)}). Start Ray "
                "on this machine: ray start --head --resources '{\"machine\": 1}'"
            ) from error

    def _submit(self, job: Job) -> Any:
        import ray
        from hydra_plugins.hydra_ray_launcher._launcher_util import _run_job

        assert self.config is not None
        assert self.hydra_context is not None
        composed = self.hydra_context.config_loader.load_sweep_config(
            self.config, list(job.overrides)
        )
        with open_dict(composed):
            composed.hydra.job.id = str(job.number)
            composed.hydra.job.num = job.number
        work = functools.partial(node.run_cell, ticket=job.ticket, whereabouts=whereabouts)
        remote = ray.remote(**self._options | _place(job))(_run_job)
        return remote.remote(self.hydra_context, composed, work, Singleton.get_state())

    @property
    def _options(self) -> dict[str, Any]:
        """What the preset asks Ray for."""
        return dict(OmegaConf.to_container(self.ray_cfg.remote, resolve=True))  # type: ignore[arg-type]


def whereabouts() -> tuple[str, str]:
    """The name that the cluster has for this machine, and what it calls the task that runs here."""
    import ray

    if os.environ.get(THREADS_VARIABLE) == "":
        del os.environ[THREADS_VARIABLE]
    # The measured process would import Ray, as the main module of this one does.
    vars(sys.modules["__main__"]).pop("__file__", None)
    context = ray.get_runtime_context()
    names = {one["NodeID"]: name for name, one in _machines().items()}
    return names[context.get_node_id()], f"ray {context.get_task_id()}"


def _machines() -> dict[str, dict[str, Any]]:
    """What is alive of the cluster, by name."""
    import ray

    return {one["NodeName"]: one for one in ray.nodes() if one["Alive"]}


def _place(job: Job) -> dict[str, Any]:
    """What Ray is asked for besides the preset's: the machine, and its GPU where there is one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known = _machines()
    options: dict[str, Any] = {}
    if job.machine:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
            node_id=known[job.machine]["NodeID"], soft=False
        )
    could = [known[job.machine]] if job.machine else list(known.values())
    has_gpu = any(one["Resources"].get("GPU") for one in could)
    if job.device == "cuda" or (job.device == "auto" and has_gpu):
        options["num_gpus"] = 1  # without it, Ray hides the GPUs of a machine from the cell
    return options


def _result(job: Job, task: Any) -> JobReturn:
    import ray

    try:
        returned: JobReturn = ray.get(task)
        return returned
    except Exception as error:  # Ray's own, and what Hydra lets through on the machine
        return failed(job, GreenlabError(f"Ray lost the cell's process: {first_line(error)}"))


def _cancel(waiting: dict[Any, Job]) -> None:
    """Interrupt the tasks that nobody waits for any more; each writes down what came of it."""
    import ray

    if not waiting:
        return
    logger.warning("cancelling what Ray has yet of these cells: %d", len(waiting))
    for task in waiting:
        with contextlib.suppress(Exception):  # it has ended meanwhile
            ray.cancel(task)
    ray.wait(list(waiting), num_returns=len(waiting), timeout=CANCELLED_WITHIN_S)
