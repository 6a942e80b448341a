"""A PostgreSQL to throw away and greenlab's server over it, for benchmarks and tests."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
START_WITHIN_S = 120.0
USER = NAME = "mlflow"


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian keeps off the path; None without them."""
    if (config := shutil.which("pg_config")) is not None:
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        if (Path(told.stdout.strip()) / "initdb").exists():
            return Path(told.stdout.strip())
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    return found[-1].parent if found else None


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True, slots=True)
class Database:
    """An empty database, owned by a user who is nobody else there."""

    uri: str
    """Without the password."""
    password: str = field(repr=False)
    administrator: str
    """How libpq reaches the server as its superuser, through a socket."""
    postmaster: int
    """Process id."""

    @property
    def full_uri(self) -> str:
        """With the password, for what runs in this process."""
        return self.uri.replace("@", f":{self.password}@")


@contextmanager
def postgres() -> Iterator[Database]:
    """A server on a free port of this machine, as its own user where we are root.

    Durable as Debian has it: what makes commits cheap is left off.
    """
    found = programs()
    assert found is not None, "PostgreSQL is not installed (Debian: apt install postgresql)"
    switch = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    password, port = secrets.token_hex(16), free_port()
    with tempfile.TemporaryDirectory(prefix="greenlab-") as place:
        if switch:
            shutil.chown(place, "postgres")
        made = ["-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256"]
        data = f"{place}/data"
        _run(*switch, found / "initdb", "-D", data, *made, "-E", "UTF8", "--locale=C.UTF-8")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place}"
        control = [*switch, found / "pg_ctl", "-D", data, "-l", f"{place}/log", "-w"]
        _run(*control, "-o", options, "start")
        try:
            administrator = f"host={place} port={port} user=postgres dbname=postgres"
            sql = [found / "psql", "-q", "-v", "ON_ERROR_STOP=1", administrator, "-c"]
            _run(*sql, f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'")
            _run(*sql, f"CREATE DATABASE {NAME} OWNER {USER}")
            yield Database(
                uri=f"postgresql+psycopg://{USER}@127.0.0.1:{port}/{NAME}",
                password=password,
                administrator=administrator,
                postmaster=int(Path(data, "postmaster.pid").read_text().split()[0]),
            )
        finally:
            _run(*control, "-m", "immediate", "stop")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr


class Server:
    """`python -m greenlab.server` over a database, its files and its log in a folder."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        *options: str,
        num_workers: int = 2,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.artefacts = folder / "artefacts"
        self.log = folder / "server.log"
        self._folder = folder
        place = ["--port", str(self.port), "--workers", str(num_workers)]
        kept = ["--database", database.uri, "--artefacts", str(self.artefacts)]
        self.command = [sys.executable, "-m", "greenlab.server", *kept, *place, *options]
        self.environment = (
            {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
            | {"PYTHONPATH": str(ROOT), "PGPASSWORD": database.password}
            | dict(environment)
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self._folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until_s = time.monotonic() + START_WITHIN_S
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until_s, self.log.read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it is up."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """End all of it at once, as a power cut does."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it as systemd does; what is left of it then is killed."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def serving(database: Database, folder: Path, *options: str, **others: Any) -> Iterator[Server]:
    """A server that answers; it is ended afterwards."""
    server = Server(database, folder, *options, **others)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def cpu_s(pid: int) -> float:
    """CPU seconds of a process and all below it, those that have ended included."""
    parent = psutil.Process(pid)
    spent_s = 0.0
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent_s += times.user + times.system + times.children_user + times.children_system
    return spent_s


def listening(pid: int) -> Sequence[str]:
    """The addresses that a process, or one below it, listens on."""
    parent = psutil.Process(pid)
    found = set()
    for process in [parent, *parent.children(recursive=True)]:
        found |= {
            one.laddr.ip
            for one in process.net_connections("tcp")
            if one.status == psutil.CONN_LISTEN
        }
    return sorted(found)
