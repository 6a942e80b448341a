"""A real Ray cluster of two nodes on one machine, used by an installed greenlab."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
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

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
ON_RAY = ("-m", "hydra/launcher=ray_cluster", "hydra.launcher.ray.init.address=127.0.0.1:6399")


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def cluster(binaries: Path) -> Iterator[None]:
    pytest.importorskip("ray", reason="greenlab[ray] is not installed: make test-ray")
    # Ray's sockets lie in it, and their paths may have 107 characters.
    folder, script = Path(f"/tmp/greenlab-ray-{os.getpid()}"), SCRIPTS / "ray.sh"
    try:
        subprocess.run([script, "up", folder, binaries], check=True, stdout=subprocess.DEVNULL)
        yield
    finally:
        subprocess.run([script, "down", folder, binaries], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def user(binaries: Path, cluster: None, tmp_path: Path) -> User:
    return new_user(binaries, tmp_path / "study")


@pytest.fixture
def server(user: User) -> Iterator[str]:
    """MLflow's address, served as `make ui` does."""
    port = "15060"
    command = [user.binaries / "python", "-m", "greenlab.ui", "--port", port]
    with (user.folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=user.folder, env=user.environment, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    wait_until(lambda: "startup complete" in (user.folder / "server.log").read_text())
    yield address
    process.terminate()
    process.wait()


def cells_now() -> list[psutil.Process]:
    """Ray's processes that run a cell."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if (one.info["cmdline"] or [""])[0].startswith("ray::_run_job")]


def test_the_demo_grid_runs_with_a_model_of_ones_own(user: User, server: str) -> None:
    result = user.run(
        "experiment=demo",
        *ON_RAY[1:],
        f"hydra.sweeper.params.model='{DEMO}'",
        f"mlflow.tracking_uri={server}",
    )

    assert result.returncode == 0, told(result)
    assert "20 of 20 cells finished" in result.stdout
    cells = user.logged(server)
    assert statuses(cells) == ["FINISHED"] * 20
    assert len({cell.data.tags["greenlab.sweep"] for cell in cells}) == 1
    assert len({cell.data.tags["greenlab.node"] for cell in cells}) == 1  # machines=one
    assert len({cell.data.tags["greenlab.allocation"] for cell in cells}) == 20
    assert overlaps(user.records()) == []


def test_each_machine_runs_its_repetitions_of_the_whole_grid(user: User) -> None:
    result = user.run(
        *ON_RAY, *SHORT, "batch_size=4,8", "repetitions=4", "machines=[b,a]", "order=shuffle"
    )

    assert result.returncode == 0, told(result)
    ran = {
        (one.cell.node, one.cell.repetition, one.cell.choices["batch_size"])
        for one in user.records()
    }
    assert ran == {
        (node, repetition, size)
        for node, repetition in (("b", 1), ("a", 2), ("b", 3), ("a", 4))
        for size in ("4", "8")
    }
    assert overlaps(user.records()) == []  # two nodes, and one machine


def test_torch_has_the_threads_of_the_machine(user: User) -> None:
    result = user.run(*ON_RAY, *SHORT, "batch_size=4,8")

    assert result.returncode == 0, told(result)
    [threads] = {one.measurement.execution.num_threads for one in user.records()}  # type: ignore[union-attr]
    assert threads == psutil.cpu_count(logical=False)


def test_a_killed_worker_fails_its_cell_alone_and_resume_completes_the_grid(user: User) -> None:
    grid = (*ON_RAY, *SHORT, "batch_size=4,8,16,32")
    with user.start(*grid) as greenlab:
        wait_until(lambda: len(user.records()) == 1)
        wait_until(lambda: len(list(user.folder.glob("multirun/*/*/*/cell.json"))) == 2)
        [worker] = wait_until(cells_now)
        worker.kill()

    assert greenlab.returncode == 1, user.said()
    assert "3 of 4 cells finished" in user.said()
    assert statuses(user.logged()) == ["FAILED", *["FINISHED"] * 3]

    again = user.run(*grid, "resume=true")

    assert again.returncode == 0, told(again)
    assert "4 of 4 cells finished, 3 of them before" in again.stdout
    assert statuses(user.logged()) == ["FAILED", *["FINISHED"] * 4]
    assert overlaps([one for one in user.records() if one.measurement]) == []


def test_ctrl_c_leaves_no_task_behind_and_keeps_what_was_measured(user: User) -> None:
    with user.start(*ON_RAY, *SHORT, "batch_size=4,8,16") as greenlab:
        wait_until(lambda: len(user.records()) == 1)
        wait_until(lambda: len(list(user.folder.glob("multirun/*/*/*/cell.json"))) == 2)
        greenlab.send_signal(signal.SIGINT)

    assert greenlab.returncode == 130, user.said()
    assert cells_now() == []
    cells = user.logged()
    assert statuses(cells) == ["FINISHED", "KILLED"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["machines=[elsewhere]"], "Ray has no machine elsewhere; it has a, b"),
        (["hydra.launcher.ray.init.address=127.0.0.1:1"], "no cluster answers"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_anything_is(
    user: User, arguments: list[str], message: str
) -> None:
    result = user.run(*ON_RAY, *SHORT, "batch_size=4,8", *arguments)

    assert result.returncode == 1
    assert message in result.stdout + result.stderr
    assert user.records() == []
