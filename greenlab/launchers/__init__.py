"""Cells on other machines: one at a time on each, by engines that run there already.

Slurm takes them as tasks of job arrays, through submitit; Ray as tasks that each hold a machine.
What is common to both is here: which cell goes where, and what comes back of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from hydra.core.utils import JobReturn, JobStatus

from greenlab.errors import ConfigError

if TYPE_CHECKING:  # half a second: not for --help or a refused option
    from greenlab.run import Ticket

HERE = "greenlab.launchers."
"""What the `_target_` of each begins with, in conf/hydra/launcher/."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One cell to be run, as a launcher gets it."""

    number: int
    overrides: list[str]
    ticket: "Ticket"
    machine: str = ""
    """Where it must run, by the name that the cluster has for it; empty: anywhere."""
    device: str = "cpu"
    """As hardware.device has it: auto takes a GPU where there is one."""


@runtime_checkable
class Cluster(Protocol):
    """A launcher that has machines of its own."""

    def run_cells(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, JobReturn]]:
        """Run `jobs`, and yield each as it ends.

        Whoever closes this before its end, or is interrupted, leaves none of them running.
        """
        ...

    def check(self, machines: Sequence[str]) -> None:
        """Refuse what cannot be launched from here, before anything is.

        Raises:
            ConfigError: the engine is not installed or does not answer, or has no such machine.
        """
        ...


def is_cluster(launcher: Any) -> bool:
    """Whether a launcher, as it is configured, has machines of its own."""
    return str(launcher._target_).startswith(HERE)


def make(config: Any) -> Any:
    """The launcher that `config.hydra.launcher` describes, not yet set up.

    Raises:
        ConfigError: what it needs is not installed.
    """
    from hydra.utils import instantiate

    try:
        return instantiate(config.hydra.launcher)
    except Exception as error:  # Hydra wraps the ImportError
        chosen = config.hydra.runtime.choices["hydra/launcher"]
        if _is_missing(error):
            extra = chosen.partition("_")[0]
            raise ConfigError(
                f"hydra/launcher={chosen} needs packages that are not installed here: "
                f'pip install "greenlab[{extra}]", on every machine that runs cells too'
            ) from error
        raise ConfigError(f"hydra/launcher={chosen}: {error}") from error


def _is_missing(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def failed(job: Job, error: BaseException) -> JobReturn:
    """What comes back of a job that its engine has lost."""
    returned = JobReturn()
    returned.overrides = job.overrides
    returned.status = JobStatus.FAILED
    returned.return_value = error
    return returned
