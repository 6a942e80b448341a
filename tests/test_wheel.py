"""The package as others get it: built, installed into an environment of its own, run elsewhere."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT
from test_command import QUICK


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds greenlab's wheel, and its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "env", with_pip=True)
    [wheel] = folder.glob("*.whl")
    python = folder / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    # The gigabytes of dependencies are taken from where the tests run; greenlab itself is not.
    [site] = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return folder / "env" / "bin"


@pytest.mark.slow
def test_the_wheel_runs_from_another_folder_with_options_of_ones_own(
    installed: Path, workplace: Path
) -> None:
    (workplace / "my_models.py").write_text(
        "from torch import nn\n\n\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))\n"
    )
    options = workplace / "my_conf" / "model"
    options.mkdir(parents=True)
    (options / "mine.yaml").write_text("_target_: my_models.build\n")
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
