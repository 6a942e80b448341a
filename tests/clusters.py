"""What the tests on real clusters share: an installed greenlab, a user's folder, the checks."""

import itertools
import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conftest import ROOT

from greenlab import record as records
from greenlab import tracking
from greenlab.config import Mlflow
from greenlab.record import Record

SCRIPTS = ROOT / "tests" / "cluster"
DEMO = "lenet,resnet18,mobilenet_v2,vgg16,mine"
"""The demo's models, and one of the user's own."""
SHORT = (
    *("model=mine", "phase=inference", "dataset=synthetic", "dataset.num_samples=64"),
    *(
        "phase.warmup_batches=1",
        "phase.min_active_s=4",
        "idle.settle_s=0",
        "idle.window_s=0.5",
        "order=sequential",
    ),
)
"""Cells that measure for some five seconds: long enough to be hit while they do."""


def install(folder: Path) -> Path:
    """Build the wheel and install it; returns the bin folder of the environment that has it."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    venv.create(folder / "env", with_pip=True)
    [wheel] = folder.glob("*.whl")
    python = folder / "env" / "bin" / "python"
    arguments = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(arguments, check=True)
    # The gigabytes of dependencies are taken from where the tests run; greenlab itself is not.
    [site] = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    return folder / "env" / "bin"


def write_own_model(folder: Path) -> None:
    """A model and its option, as the README says."""
    (folder / "my_models.py").write_text(
        "from torch import nn\n\n\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))\n"
    )
    options = folder / "my_conf" / "model"
    options.mkdir(parents=True)
    (options / "mine.yaml").write_text("_target_: my_models.build\n")


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody with an installed greenlab and a folder, far from any checkout."""

    binaries: Path
    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [str(self.binaries / "greenlab"), "--config-dir", "my_conf", *arguments]

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        log = (self.folder / "started.log").open("w")
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def said(self) -> str:
        return (self.folder / "started.log").read_text()

    def records(self) -> list[Record]:
        """Of every cell that has one, in the order in which they began."""
        found = [
            records.read_record(folder)
            for folder in records.cell_folders(self.folder / "multirun")
            if (folder / records.RECORD_FILE).exists()
        ]
        return sorted(found, key=lambda one: one.cell.started_at_s)

    def logged(self, uri: str | None = None, **tags: str) -> list[Any]:
        """Runs of cells in the store."""
        where = uri or f"sqlite:///{self.folder / 'mlflow.db'}"
        store = tracking.open_store(Mlflow(tracking_uri=where))
        found = store.client.search_runs([store.experiment_id], max_results=1000)
        wanted = {"greenlab.kind": "cell"} | {f"greenlab.{key}": tags[key] for key in tags}
        return [one for one in found if wanted.items() <= one.data.tags.items()]


def new_user(binaries: Path, folder: Path, **environment: str) -> User:
    """Somebody with a model of their own."""
    folder.mkdir()
    write_own_model(folder)
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("MLFLOW_", "PYTEST_", "PYTHONPATH", "OMP_"))
    }
    return User(binaries=binaries, folder=folder, environment=kept | environment)


def wait_until(holds: Callable[[], object], within_s: float = 120.0) -> Any:
    """Whatever `holds` returns, once that is true.

    Raises:
        TimeoutError: it was not, in all that time.
    """
    ends_s = time.monotonic() + within_s
    while time.monotonic() < ends_s:
        if found := holds():
            return found
        time.sleep(0.2)
    raise TimeoutError(f"not within {within_s:.0f} s")


def windows(measured: Sequence[Record]) -> list[tuple[float, float]]:
    """From the first idle window of each cell to the end of its last, Unix time, in order."""
    spans = []
    for record in measured:
        assert record.measurement is not None
        first, last = record.measurement.idle_before, record.measurement.idle_after
        spans.append((first.started_at_s, last.started_at_s + last.duration_s))
    return sorted(spans)


def overlaps(measured: Sequence[Record]) -> list[tuple[float, float]]:
    """Windows that began before the one before them had ended."""
    spans = windows(measured)
    return [later for earlier, later in itertools.pairwise(spans) if later[0] < earlier[1]]


def statuses(runs: Sequence[Any]) -> list[str]:
    return sorted(run.info.status for run in runs)


def told(result: "subprocess.CompletedProcess[str]") -> str:
    """For a failing assertion."""
    return json.dumps(result.args) + "\n" + result.stdout + result.stderr
