"""What the tests share.

Configurations composed as Hydra would, cells measured on a machine of known watts, the command line
as a user runs it, and MLflow stores that need no setting up.
"""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from greenlab import cell_process, config, machine_lock, record, tracking
from greenlab.config import Config, Mlflow
from greenlab.record import Cell, Record
from greenlab.simulated.machine import SimulatedMachine, enter

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"

if "PYTEST_XDIST_WORKER" in os.environ:  # more threads than cores would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
LONGEST_FIRST = [
    "test_command",
    "test_multirun",
    "test_simulated_cells",
    "test_readme",
    "test_tracking",
    "test_interruption",
    "test_models",
    "test_situations",
    "test_runs",
    "test_export",
    "test_machine_lock",
    "test_account",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no worker is left with one at the end."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def make_config(*overrides: str) -> Config:
    """Compose and check a configuration."""
    with initialize_config_dir(str(CONF), version_base=None):
        return config.from_omegaconf(compose("config", list(overrides)))


def make_cell(settings: Config, **changes: object) -> Cell:
    """A cell that was run alone."""
    fields: dict[str, object] = {
        "uid": os.urandom(8).hex(),
        "signature": config.signature(settings),
        "choices": {"model": "lenet", "batch_size": "32", "phase": "train", "dataset": "digits"},
        "overrides": [],
        "sweep": "",
        "position": 1,
        "num_cells": 1,
        "repetition": 1,
        "started_at_s": time.time(),
        "config": config.to_dict(settings),
    }
    return Cell(**(fields | changes))  # type: ignore[arg-type]


BEACON = (
    "model._target_=greenlab.simulated.beacon.build",
    "+model.kwargs.step_s=0.05",
    "dataset=synthetic",
    "dataset.num_samples=64",
    "dataset.image_size=8",
    "phase=inference",
    "phase.min_active_s=1.5",
    "phase.warmup_batches=1",
    "idle.settle_s=0.1",
    "idle.window_s=0.6",
)
"""A cell that works for a second and a half by sleeping, and tells the simulated machine when."""


def _measure_on(environment: dict[str, str], folder: Path) -> None:
    enter(environment)
    cell_process.measure_folder(folder)


@pytest.fixture
def run_on(tmp_path: Path) -> Callable[..., int | None]:
    """Run a cell on a simulated machine in a fresh process, as a multirun does; its exit code."""

    def run(machine: SimulatedMachine, *overrides: str, **changes: object) -> int | None:
        settings = make_config(*BEACON, *overrides)
        record.write_cell(tmp_path, make_cell(settings, **changes))
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(cell_process.preload_for([settings]))
        process = context.Process(target=_measure_on, args=(machine.environment(), tmp_path))
        process.start()
        process.join()
        return process.exitcode

    return run


@pytest.fixture
def measure_on(run_on: Callable[..., int | None], tmp_path: Path) -> Callable[..., Record]:
    """The same; its record."""

    def measure(machine: SimulatedMachine, *overrides: str, **changes: object) -> Record:
        run_on(machine, *overrides, **changes)
        return record.read_record(tmp_path)

    return measure


@pytest.fixture(scope="session", autouse=True)
def _own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test waits for a real greenlab on this machine, nor for the tests beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(machine_lock.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh mlflow.db, complete without its write-ahead log: MLflow takes seconds to make one."""
    import sqlite3

    folder = tmp_path_factory.mktemp("store")
    tracking.open_store(Mlflow(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}"))
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "mlflow.db"


@pytest.fixture
def workplace(tmp_path: Path, empty_store: Path) -> Path:
    """A folder to run greenlab in, its database set up already."""
    import sqlite3

    folder = tmp_path / "workplace"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:  # the copy keeps its own artefacts
        location = (folder / "mlartifacts" / "greenlab").as_uri()
        database.execute(
            "UPDATE experiments SET artifact_location = ? WHERE name = 'greenlab'", [location]
        )
    return folder


class CommandLine:
    """`python -m greenlab …` in a folder of its own, as a user types it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")
        }
        self.environment["PYTHONPATH"] = str(ROOT)

    def command(self, *arguments: str, module: str = "greenlab") -> list[str]:
        """What is typed."""
        return [sys.executable, "-m", module, *arguments]

    def __call__(
        self, *arguments: str, module: str = "greenlab", timeout_s: float = 150
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments, module=module),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start it and return at once."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def put_on(self, machine: SimulatedMachine) -> None:
        """Run on a simulated machine from now on."""
        simulated = machine.environment()
        simulated["PYTHONPATH"] = os.pathsep.join([simulated["PYTHONPATH"], str(ROOT)])
        self.environment |= simulated

    def runs(self, kind: str = "cell") -> list[object]:
        """MLflow's runs of a kind, oldest first."""
        return self._search(f"tags.`greenlab.kind` = '{kind}'")

    def all_runs(self) -> list[object]:
        """Whatever their kind, if they have one."""
        return self._search("")

    def _search(self, condition: str) -> list[object]:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("greenlab")
        return list(
            client.search_runs(
                [experiment.experiment_id],
                condition,
                order_by=["attributes.start_time"],
            )
        )

    def records(self) -> list[Record]:
        """The records under this folder, in order of their cells."""
        folders = [path.parent for path in self.folder.rglob(record.RECORD_FILE)]
        found = [
            record.read_record(folder) for folder in folders if "mlartifacts" not in str(folder)
        ]
        return sorted(found, key=lambda one: one.cell.position)


@pytest.fixture
def greenlab(workplace: Path) -> CommandLine:
    return CommandLine(workplace)


def greenlab_processes(folder: Path) -> Sequence[str]:
    """Command lines of the processes whose working directory is `folder`."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if (process / "cwd").resolve() == folder.resolve():
                state = re.search(r"\) (\w)", (process / "stat").read_text())
                if state is not None and state[1] != "Z":
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@pytest.fixture(autouse=True)
def _no_foreign_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes to a tracking server that the developer has set."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(autouse=True)
def _no_foreign_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the memory modules of the machine that it runs on."""
    refused = ROOT / "tests" / "refused"
    monkeypatch.setenv("PATH", os.pathsep.join([str(refused), os.environ["PATH"]]))
