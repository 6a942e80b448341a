"""Cells as tasks of Slurm's job arrays, each with a node to itself; submitit speaks to Slurm.

Hydra's own launcher hands out results when the last task has ended, and none at all where one was
lost; it does not cancel what it has begun. So that a grid shows its progress, goes on when a node
dies and leaves no task behind, the tasks are watched here; what runs on the node is Hydra's.
"""

import contextlib
import copy
import functools
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from omegaconf import DictConfig, OmegaConf

from greenlab import node
from greenlab.errors import ConfigError, GreenlabError, first_line
from greenlab.launchers import Job, failed

logger = logging.getLogger(__name__)

POLL_PERIOD_S = 1.0
"""Between looks at the files that tasks leave."""
ASK_PERIOD_S = 10.0
"""Between questions to Slurm's accounting, which tell of tasks that leave none."""
REQUEUED_WITHIN_S = 30.0
"""A task of a node that died is done, for accounting, until Slurm has put it back in its queue."""
COMING_BACK = ("NODE_FAIL", "PREEMPTED", "REQUEUED")
CANCELLED_WITHIN_S = 60.0
"""Slurm kills what does not end within its KillWait, 30 s by default."""


class SlurmLauncher(submitit_launcher.SlurmLauncher):  # type: ignore[misc]
    """See conf/hydra/launcher/slurm.yaml for its settings."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Hydra's protocol."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._settings = {key: _plain(value) for key, value in self.params.items()}

    def check(self, machines: Sequence[str]) -> None:
        """See Cluster."""
        for command in ("sbatch", "sacct", "scancel", "sinfo"):
            if shutil.which(command) is None:
                raise ConfigError(
                    f"hydra/launcher=slurm: {command} is not on this machine; start greenlab on "
                    "one of the cluster's own, its login node for example"
                )
        known = _ask("sinfo", "--noheader", "--format=%n").split()
        _ask("sacct", "--noheader", "--jobs=1")  # without accounting a lost task is never noticed
        for machine in machines:
            if machine not in known:
                raise ConfigError(
                    f"machines: Slurm has no node {machine}; it has {', '.join(sorted(known))}"
                )

    def run_cells(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, JobReturn]]:
        """See Cluster."""
        waiting: dict[Any, Job] = {}
        try:
            for (machine, device), alike in _groups(jobs).items():
                waiting |= self._submit(alike, machine, device)
            yield from self._as_they_end(waiting)
        finally:
            _cancel(waiting)

    def _submit(self, jobs: Sequence[Job], machine: str, device: str) -> dict[Any, Job]:
        """One job array; its tasks wait for the node where they must run."""
        import submitit

        settings = dict(self._settings)
        folder = Path(settings.pop("submitit_folder")).resolve()
        more = settings.pop("additional_parameters") or {}
        parallel = settings.pop("array_parallelism")
        if settings["gpus_per_node"] is None and device == "cuda":
            settings["gpus_per_node"] = 1
        own = {"exclusive": True, "mem": "0"}  # all of the node: what else ran there would count
        if machine:
            own["nodelist"] = machine
        base = {"timeout_min", "cpus_per_task", "gpus_per_node", "name"}
        executor = submitit.AutoExecutor(folder=folder / "%j", slurm_max_num_timeout=0)
        executor.update_parameters(
            nodes=1,
            tasks_per_node=1,
            stderr_to_stdout=True,
            slurm_array_parallelism=1 if machine else parallel,
            slurm_additional_parameters=own | more,
            **{
                key if key in base else f"slurm_{key}": value
                for key, value in settings.items()
                if value not in (None, [])
            },
        )
        with executor.batch():
            begun = [executor.submit(*self._call(job)) for job in jobs]
        logger.info(
            "Slurm's job %s%s: cells that wait for their turn: %d",
            begun[0].job_id.partition("_")[0],
            f" on {machine}" if machine else "",
            len(jobs),
        )
        return dict(zip(begun, jobs, strict=True))

    def _call(self, job: Job) -> tuple[Any, ...]:
        """What Hydra runs on the node, and its arguments; it takes no ticket but its own there."""
        there = copy.copy(self)
        there.task_function = functools.partial(
            node.run_cell, ticket=job.ticket, whereabouts=whereabouts
        )
        state = Singleton.get_state()
        return there, list(job.overrides), "hydra.sweep.dir", job.number, str(job.number), state

    def _as_they_end(self, waiting: dict[Any, Job]) -> Iterator[tuple[Job, JobReturn]]:
        """Take each task from `waiting` as it ends."""
        asked_s = time.monotonic()
        lost_since_s: dict[str, float] = {}
        while waiting:
            if time.monotonic() - asked_s > ASK_PERIOD_S:
                asked_s = time.monotonic()
                next(iter(waiting)).watcher.update()  # of all tasks at once
            for task in [task for task in waiting if task.done()]:
                if not task.paths.result_pickle.exists() and _may_come_back(task, lost_since_s):
                    continue
                job = waiting.pop(task)
                yield job, _result(job, task)
            if waiting:
                time.sleep(POLL_PERIOD_S)


def whereabouts() -> tuple[str, str]:
    """The name that the cluster has for this machine, and what it calls the task that runs here."""
    task = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        task = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURMD_NODENAME"], f"slurm {task}"


def _groups(jobs: Sequence[Job]) -> dict[tuple[str, str], list[Job]]:
    """Jobs that ask Slurm for the same, in their order."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.machine, job.device), []).append(job)
    return groups


def _may_come_back(task: Any, lost_since_s: dict[str, float]) -> bool:
    """Whether a task that left no result may be one that Slurm is about to run again."""
    since_s = lost_since_s.setdefault(task.job_id, time.monotonic())
    is_recent = time.monotonic() - since_s < REQUEUED_WITHIN_S
    return is_recent and any(state in task.state.upper() for state in COMING_BACK)


def _result(job: Job, task: Any) -> JobReturn:
    try:
        returned: JobReturn = task.result()
        return returned
    except Exception as error:  # submitit's own kinds, or what unpickling raises
        log = task.paths.stdout
        return failed(
            job,
            GreenlabError(f"Slurm's task {task.job_id} ended as {task.state}; its output: {log}")
            if not task.paths.result_pickle.exists()
            else GreenlabError(f"Slurm's task {task.job_id}: {_last_line(error)}; see {log}"),
        )


def _last_line(error: Exception) -> str:
    """Of a traceback that submitit quotes: what was raised."""
    quoted = str(error).split("-" * 10)
    lines = [line for part in quoted for line in part.splitlines() if line.strip(" -")]
    raised = [line for line in lines if not line.startswith((" ", "You can", "or at", "Job (task"))]
    return raised[-1] if raised else first_line(error)


def _cancel(waiting: dict[Any, Job]) -> None:
    """End tasks that nobody waits for any more, so that each can still write what came of it."""
    if not waiting:
        return
    logger.warning("cancelling what Slurm has yet of these cells: %d", len(waiting))
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # it says so itself
        subprocess.run(["scancel", *(task.job_id for task in waiting)], check=True)
    jobs = ",".join({task.job_id.partition("_")[0] for task in waiting})
    ends_s = time.monotonic() + CANCELLED_WITHIN_S
    while time.monotonic() < ends_s:  # they are in its queue until their last process has ended
        time.sleep(POLL_PERIOD_S)
        queue = ["squeue", "--noheader", "--format=%i", f"--jobs={jobs}"]
        done = subprocess.run(queue, capture_output=True, text=True, check=False)
        if not done.stdout.strip():  # or an error: it has forgotten them
            return


def _ask(*command: str) -> str:
    """What Slurm answers.

    Raises:
        ConfigError: it does not.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ConfigError(
            f"hydra/launcher=slurm: {command[0]} says: {done.stderr.strip() or 'nothing'}. Is the "
            "cluster up, with accounting (slurmdbd)?"
        )
    return done.stdout


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
