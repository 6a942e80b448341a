"""Credentials come from the environment and stay there: nothing that greenlab leaves holds one.

Each is planted as a text of its own, and looked for, also as HTTP sends it, in every file that a
sweep leaves, in the store, and in what is printed. Through a server that asks who is there, on
PostgreSQL: cluster/test_group_server.py.
"""

import base64
import contextlib
import secrets
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import ROOT, CommandLine

from greenlab.machine_lock import FOLDER_VARIABLE
from greenlab.simulated.machine import SimulatedMachine, workstation

USER = "ann"
NAMES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "HF_TOKEN"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_FLASK_SERVER_SECRET_KEY"),
)
CELLS = (
    *("--config-dir=my_conf", "-m", "batch_size=32", "dataset=synthetic", "dataset.num_samples=64"),
    *("dataset.image_size=8", "phase=inference", "phase.min_active_s=0.3", "order=sequential"),
    *("phase.warmup_batches=1", "idle.settle_s=0", "idle.window_s=0.3"),
)
GOOD = "_target_: greenlab.simulated.beacon.build\nkwargs: {step_s: 0.02}\n"
BAD = "_target_: misbehaving.build\nkwargs: {step_s: 0.02, at_step: 3, fault: error}\n"


class Planted:
    """Secrets in the environment of a command line."""

    def __init__(self, greenlab: CommandLine) -> None:
        # A sign that addresses write otherwise, and one that ends a user's name.
        self.of = {name: f"{secrets.token_hex(8)}%{secrets.token_hex(4)}" for name in NAMES}
        self.in_address = f"{secrets.token_hex(8)}@{secrets.token_hex(4)}"
        greenlab.environment |= self.of | {"MLFLOW_TRACKING_USERNAME": USER}

    def address(self, port: int) -> str:
        """Of a server, with user and password."""
        return f"http://{USER}:{quote(self.in_address, safe='')}@127.0.0.1:{port}"

    def marks(self) -> list[bytes]:
        """What none of them may be found by: whole, half, as an address, as HTTP's header."""
        told = []
        for secret in (*self.of.values(), self.in_address):
            told += [secret, quote(secret, safe=""), secret[:16]]
            told.append(base64.b64encode(f"{USER}:{secret}".encode()).decode().rstrip("="))
        return [text.encode() for text in told]

    def found_in(self, *places: Path, printed: str = "") -> list[str]:
        """Where one is."""
        files = [file for place in places for file in files_under(place)]
        named = []
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # SQLite's own come and go
                named.append((str(file), file.read_bytes()))
        contents = [*named, ("printed", printed.encode())]
        return [name for name, text in contents if any(mark in text for mark in self.marks())]


def files_under(place: Path) -> Iterable[Path]:
    return [path for path in place.rglob("*") if path.is_file() and not path.is_symlink()]


@pytest.fixture
def planted(greenlab: CommandLine) -> Planted:
    return Planted(greenlab)


@pytest.fixture
def machine(greenlab: CommandLine) -> Iterator[SimulatedMachine]:
    """With a model that works and one that fails."""
    folder = greenlab.folder / "my_conf" / "model"
    folder.mkdir(parents=True)
    (folder / "good.yaml").write_text(GOOD)
    (folder / "bad.yaml").write_text(BAD)
    locks = greenlab.folder / "locks"
    locks.mkdir()
    with workstation() as simulated:
        greenlab.put_on(simulated)
        greenlab.environment["PYTHONPATH"] += f":{ROOT / 'tests'}"
        greenlab.environment[FOLDER_VARIABLE] = str(locks)
        yield simulated


class Refusing(BaseHTTPRequestHandler):
    """Lets nobody in, and keeps what it was told of them."""

    told: list[str]

    def _refuse(self) -> None:
        self.told.append(self.headers.get("Authorization", ""))
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = do_PUT = do_PATCH = _refuse  # noqa: N815  # names of http.server's

    def log_message(self, format: str, *args: object) -> None:
        """Nobody wants to know."""


@pytest.fixture
def refusing() -> Iterator[tuple[int, list[str]]]:
    """The port of a server that refuses whoever comes, and the credentials that it was shown."""
    handler = type("Handler", (Refusing,), {"told": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, handler.told  # type: ignore[attr-defined]
        server.shutdown()


def test_the_marks_would_be_found(planted: Planted, tmp_path: Path) -> None:
    header = base64.b64encode(f"{USER}:{planted.of['PGPASSWORD']}".encode())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "log").write_bytes(b"Authorization: Basic " + header)
    (tmp_path / "b").write_text(planted.address(80))

    assert len(planted.found_in(tmp_path / "a", printed=planted.in_address)) == 2
    assert planted.found_in(tmp_path / "a" / "..", printed="")


def test_a_sweep_leaves_no_secret_in_files_store_or_output(
    greenlab: CommandLine, machine: SimulatedMachine, planted: Planted
) -> None:
    """One cell lands, one fails and lands."""
    result = greenlab(*CELLS, "model=good,bad")
    printed = result.stdout + result.stderr

    assert "1 of 2 cells finished" in printed, printed
    assert len(greenlab.runs()) == 2
    assert planted.found_in(greenlab.folder, printed=printed) == []


@pytest.mark.slow
def test_a_server_that_is_gone_costs_no_secret(
    greenlab: CommandLine, machine: SimulatedMachine, planted: Planted
) -> None:
    greenlab.environment["MLFLOW_TRACKING_URI"] = planted.address(9)
    refused = greenlab(*CELLS, "model=good")
    assert refused.returncode == 1
    assert "mlflow.required=false" in refused.stderr

    result = greenlab(*CELLS, "model=good", "mlflow.required=false")
    synced = greenlab("multirun", module="greenlab.sync")
    printed = "".join(one.stdout + one.stderr for one in (refused, result, synced))
    assert "1 of 1 cells finished" in printed, printed
    assert "ann:***@127.0.0.1:9" in printed
    assert planted.found_in(greenlab.folder, printed=printed) == []


@pytest.mark.slow
@pytest.mark.parametrize("is_in_address", [False, True])
def test_a_server_that_lets_nobody_in_costs_no_secret(
    greenlab: CommandLine,
    machine: SimulatedMachine,
    planted: Planted,
    refusing: tuple[int, list[str]],
    is_in_address: bool,
) -> None:
    port, told = refusing
    address = planted.address(port) if is_in_address else f"http://127.0.0.1:{port}"
    greenlab.environment["MLFLOW_TRACKING_URI"] = address
    result = greenlab(*CELLS, "model=good", "mlflow.required=false")
    printed = result.stdout + result.stderr

    assert "1 of 1 cells finished" in printed, printed
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in printed
    assert planted.found_in(greenlab.folder, printed=printed) == []
    password = planted.in_address if is_in_address else planted.of["MLFLOW_TRACKING_PASSWORD"]
    sent = base64.b64encode(f"{USER}:{password}".encode()).decode()
    assert set(told) == {f"Basic {sent}"}


@pytest.mark.parametrize("arguments", [(), ("-m", "model=good,bad")], ids=["cell", "sweep"])
def test_a_password_on_the_command_line_is_refused_before_anything_is_kept(
    greenlab: CommandLine,
    machine: SimulatedMachine,
    planted: Planted,
    arguments: tuple[str, ...],
) -> None:
    address = planted.address(9)
    result = greenlab("--config-dir=my_conf", *arguments, f"mlflow.tracking_uri={address}")

    assert result.returncode == 1
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in result.stderr
    assert not list(greenlab.folder.rglob("overrides.yaml"))
    assert planted.found_in(greenlab.folder, printed=result.stdout + result.stderr) == []


def test_a_password_in_ones_own_yaml_is_refused(
    greenlab: CommandLine, machine: SimulatedMachine, planted: Planted
) -> None:
    folder = greenlab.folder / "my_conf" / "experiment"
    folder.mkdir()
    (folder / "lab.yaml").write_text(
        f"# @package _global_\nmlflow:\n  tracking_uri: {planted.address(9)}\n"
    )
    result = greenlab("--config-dir=my_conf", "experiment=lab")

    assert result.returncode == 1
    assert "MLFLOW_TRACKING_PASSWORD" in result.stderr
    left = planted.found_in(greenlab.folder, printed=result.stdout + result.stderr)
    assert left == [str(folder / "lab.yaml")]
