"""A real Slurm of one node with accounting, used by an installed greenlab from another folder."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import (
    DEMO,
    SCRIPTS,
    SHORT,
    User,
    install,
    new_user,
    overlaps,
    statuses,
    told,
    wait_until,
)

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
ON_SLURM = ("-m", "hydra/launcher=slurm")


class Slurm:
    """Its commands, as an operator types them."""

    def __init__(self, settings: Path) -> None:
        self.environment = {"SLURM_CONF": str(settings)}

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    @property
    def node(self) -> str:
        return self.ask("sinfo", "--noheader", "--format=%n")

    def running(self) -> list[str]:
        """Tasks that run now: `17_3`."""
        return self.ask("squeue", "--noheader", "--states=R", "--format=%i").split()

    def queued(self) -> list[str]:
        return self.ask("squeue", "--noheader", "--array", "--format=%i").split()

    def put_back(self) -> None:
        """Into service, whatever was done to the node."""
        if "idle" not in self.ask("sinfo", "--noheader", "--format=%T"):
            with contextlib.suppress(subprocess.CalledProcessError):  # it comes back by itself
                self.ask("scontrol", "update", f"nodename={self.node}", "state=resume")

    def clear(self) -> None:
        """Nothing queued, nothing running, the node in service."""
        if waiting := self.queued():
            self.ask("scancel", *waiting)
        wait_until(lambda: not self.queued())
        wait_until(lambda: self.put_back() or self.is_idle)

    @property
    def is_idle(self) -> bool:
        return self.ask("sinfo", "--noheader", "--format=%T") == "idle"

    def accounts(self) -> dict[str, str]:
        """State of every task that there ever was, as accounting has it."""
        table = self.ask("sacct", "--noheader", "--parsable2", "--format=JobID,State")
        rows = [line.split("|") for line in table.splitlines()]
        return {task: state for task, state in rows if "." not in task}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    pytest.importorskip("submitit", reason="greenlab[slurm] is not installed: make test-slurm")
    folder = tmp_path_factory.mktemp("slurm")
    script = SCRIPTS / "slurm.sh"
    begun = subprocess.run(
        [script, "up", folder],
        check=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if begun.returncode == 3:
        pytest.skip(begun.stderr.strip())
    try:
        assert begun.returncode == 0, begun.stderr
        yield Slurm(folder / "slurm.conf")
    finally:
        subprocess.run([script, "down", folder], check=False)


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def user(binaries: Path, slurm: Slurm, tmp_path: Path) -> User:
    slurm.clear()
    return new_user(binaries, tmp_path / "study", **slurm.environment)


def test_the_demo_grid_runs_with_a_model_of_ones_own(user: User, slurm: Slurm) -> None:
    before = set(slurm.accounts())
    result = user.run(
        "experiment=demo",
        "hydra/launcher=slurm",
        f"hydra.sweeper.params.model='{DEMO}'",
    )

    assert result.returncode == 0, told(result)
    assert "20 of 20 cells finished" in result.stdout
    cells = user.logged()
    assert statuses(cells) == ["FINISHED"] * 20
    assert len({cell.data.tags["greenlab.sweep"] for cell in cells}) == 1
    assert {cell.data.tags["greenlab.node"] for cell in cells} == {slurm.node}
    assert overlaps(user.records()) == []
    # Accounting and MLflow know of the same tasks, and nothing else ran.
    ours = {task: state for task, state in slurm.accounts().items() if task not in before}
    assert set(ours.values()) == {"COMPLETED"}
    assert {f"slurm {task}" for task in ours} == {
        cell.data.tags["greenlab.allocation"] for cell in cells
    }


def test_a_cancelled_task_fails_alone_and_resume_completes_the_grid(
    user: User, slurm: Slurm
) -> None:
    grid = (*ON_SLURM, *SHORT, "batch_size=4,8,16,32")
    with user.start(*grid) as greenlab:
        wait_until(lambda: len(user.records()) == 1)
        wait_until(lambda: len(list(user.folder.glob("multirun/*/*/*/cell.json"))) == 2)
        [task] = slurm.running()
        slurm.ask("scancel", task)

    assert greenlab.returncode == 1, user.said()
    assert "3 of 4 cells finished" in user.said()
    cells = user.logged()
    assert statuses(cells) == ["FAILED", *["FINISHED"] * 3]
    [failed] = [cell for cell in cells if cell.info.status == "FAILED"]
    assert failed.data.tags["greenlab.allocation"] == f"slurm {task}"
    assert slurm.queued() == []

    again = user.run(*grid, "resume=true")

    assert again.returncode == 0, told(again)
    assert "4 of 4 cells finished, 3 of them before" in again.stdout
    assert statuses(user.logged()) == ["FAILED", *["FINISHED"] * 4]
    assert len({cell.data.tags["greenlab.sweep"] for cell in user.logged()}) == 1


def test_a_node_that_goes_down_costs_one_cell_its_first_try(user: User, slurm: Slurm) -> None:
    node = slurm.node
    with user.start(*ON_SLURM, *SHORT, "phase.min_active_s=12", "batch_size=4,8,16") as greenlab:
        wait_until(lambda: len(user.records()) == 1)
        wait_until(slurm.running)
        wait_until(lambda: len(list(user.folder.glob("multirun/*/*/*/cell.json"))) == 2)
        slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        wait_until(lambda: not slurm.running())
        slurm.put_back()

    assert greenlab.returncode == 0, user.said()
    cells = user.logged()
    assert statuses(cells) == [*["FINISHED"] * 3, "KILLED"]
    [killed] = [cell for cell in cells if cell.info.status == "KILLED"]
    again = user.logged(signature=killed.data.tags["greenlab.signature"], attempt="2")
    assert statuses(again) == ["FINISHED"]
    assert overlaps([one for one in user.records() if one.measurement]) == []


def test_a_node_that_is_not_what_the_cells_need_stops_the_sweep_at_once(
    user: User, slurm: Slurm
) -> None:
    result = user.run(*ON_SLURM, *SHORT, "batch_size=4,8", "hardware.cpu_name='Analytical Engine'")

    assert result.returncode == 1, told(result)
    assert f"{slurm.node} cannot run these cells" in result.stdout
    assert "hardware.cpu_name" in result.stdout
    assert user.records() == []
    assert slurm.queued() == []


def test_ctrl_c_leaves_no_task_behind_and_keeps_what_was_measured(user: User, slurm: Slurm) -> None:
    with user.start(*ON_SLURM, *SHORT, "batch_size=4,8,16") as greenlab:
        wait_until(lambda: len(user.records()) == 1)
        wait_until(lambda: len(list(user.folder.glob("multirun/*/*/*/cell.json"))) == 2)
        greenlab.send_signal(signal.SIGINT)

    assert greenlab.returncode == 130, user.said()
    assert slurm.queued() == []
    cells = user.logged()
    assert len(cells) == 2
    assert "FINISHED" in statuses(cells)
    assert "RUNNING" not in statuses(cells)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["machines=[elsewhere]"], "Slurm has no node elsewhere"),
        (["machines=some"], "machines is some"),
        (["plan=true"], "plan=true times cells on the machine where it is started"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_is(
    user: User, slurm: Slurm, arguments: list[str], message: str
) -> None:
    before = slurm.accounts()
    result = user.run(*ON_SLURM, *SHORT, "batch_size=4,8", *arguments)

    assert result.returncode == 1
    assert message in result.stdout + result.stderr
    assert slurm.accounts() == before
