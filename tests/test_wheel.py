"""The package as others get it: built, installed into an environment of its own, run elsewhere."""

import os
import subprocess
from pathlib import Path

import pytest
from clusters import install, write_own_model
from test_command import QUICK


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds greenlab's wheel, and its dependencies."""
    return install(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_wheel_runs_from_another_folder_with_options_of_ones_own(
    installed: Path, workplace: Path
) -> None:
    write_own_model(workplace)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [installed / "greenlab", "--config-dir", "my_conf", "model=mine", *QUICK],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "mine" in result.stdout
    assert (workplace / "mlflow.db").exists()
    # It ran the wheel's code and options, not the checkout's.
    found = subprocess.run(
        [installed / "python", "-c", "import greenlab.__main__ as m; print(m.CONF)"],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(installed.parent) in found.stdout


def test_the_console_script_completes_options(installed: Path) -> None:
    completion = subprocess.run(
        [installed / "greenlab", "-sc", "query=bash"],
        env={**os.environ, "COMP_LINE": "greenlab model=resnet", "COMP_POINT": "21"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completion.stdout.split() == ["model=resnet18"]
