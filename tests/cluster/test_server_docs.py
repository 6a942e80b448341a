"""docs/server.md keeps its word: its commands are run, from a PostgreSQL without users to a backup.

What they name, folders, ports and the server's name, is put in this test's own places.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
import requests
from conftest import ROOT
from test_tracking import write_folder, write_trace_of

from benchmarks import group_server
from benchmarks.group_server import Database
from greenlab.config import Mlflow
from greenlab.tracking import Store, open_store

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        group_server.programs() is None,
        reason="PostgreSQL is not installed (Debian: apt install postgresql)",
    ),
]

DOCS = (ROOT / "docs" / "server.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", DOCS, re.DOTALL)
COMMANDS = [
    line.split("   #")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
]
ADMINISTRATORS = (
    "sudo apt-get install postgresql",
    "sudo useradd --system",
    "sudo -u mlflow python3 -m venv",
    "sudo -u mlflow /srv/mlflow/venv/bin/pip install",
    "sudo install -m 600",
    "sudo systemctl",
    "journalctl",
)
"""What changes the machine itself; the rest is run below."""
NAME = "mlflow.lab.example"
ADDRESS = "mlflow@/mlflow?host=/var/run/postgresql"
PASSWORDS = {"admin": "the first password", "ann": "the password of ann"}


def command(*beginning: str, number: int = 0) -> str:
    """The one command that begins like this."""
    found = [one for one in COMMANDS if one.startswith(" ".join(beginning))]
    return found[number]


def block(title: str) -> str:
    """The file that is shown under this first line."""
    [found] = [text for _, text in BLOCKS if text.startswith(f"# {title}\n")]
    return found


class Place:
    """Where the commands find what they name."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        known = dict(part.split("=") for part in database.administrator.split())
        self._address = f"mlflow@/mlflow?host={known['host']}&port={known['port']}"
        self.environment = os.environ | {
            "PGHOST": known["host"],
            "PGPORT": known["port"],
            "PGUSER": "postgres",
            "PYTHONPATH": str(ROOT),
        }
        self.port = group_server.free_port()

    def adapt(self, text: str) -> str:
        """Its own places for those of the page."""
        programs = group_server.programs()
        assert programs is not None
        text = text.replace(ADDRESS, self._address)
        text = text.replace("/srv/mlflow/venv/bin/python", sys.executable)
        text = text.replace("/srv/mlflow", str(self.folder)).replace("/etc/", f"{self.folder}/")
        for name in ("createuser", "createdb", "pg_dump", "pg_restore"):
            text = re.sub(rf"(?<![/\w]){name}(?= )", f"{programs}/{name}", text)
        return re.sub(r"sudo (-u \w+ )?", "", text)

    def run(self, line: str, **others: str) -> str:
        """Run a command of the page; what it prints."""
        done = subprocess.run(
            ["bash", "-c", self.adapt(line)],
            cwd=self.folder,
            env=self.environment | others,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout + done.stderr)
        return done.stdout

    @contextmanager
    def serving(self, line: str, **environment: str) -> Iterator[str]:
        """The server as the page starts it, on a port of its own; yields its address."""
        words = [*shlex.split(self.adapt(line)), "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("a") as log:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{self.port}"
        try:
            wait_for(f"{address}/health", process, self.folder / "server.log")
            yield address
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_for(
    address: str, process: "subprocess.Popen[bytes]", log: Path, verify: str | bool = True
) -> None:
    until_s = time.monotonic() + 120
    while True:
        try:
            if requests.get(address, timeout=2, verify=verify).status_code == 200:
                return
        except requests.RequestException:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until_s, log.read_text()
            time.sleep(0.1)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A PostgreSQL as it comes, without any user but its own."""
    with group_server.postgres() as database:
        with psycopg.connect(database.administrator, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {group_server.NAME}")
            connection.execute(f"DROP ROLE {group_server.USER}")
        yield Place(tmp_path, database)


def unit_command() -> str:
    [found] = re.findall(r"^ExecStart=(.*)$", DOCS, re.MULTILINE)
    return str(found)


def land_one(uri: str, folder: Path, experiment: str) -> tuple[Store, str]:
    """A cell whose trace is longer than what nginx lets pass by itself."""
    write_folder(folder)
    watts = np.random.default_rng(0).normal(200, 20, 300_000)
    write_trace_of(folder, watts)
    assert (folder / "trace.parquet").stat().st_size > 2_000_000
    store = open_store(Mlflow(tracking_uri=uri, experiment=experiment))
    return store, store.land(folder)


def test_every_command_is_run_here_or_an_administrators() -> None:
    run = [
        "sudo -u postgres createuser mlflow",
        command("sudo -u postgres createdb"),
        command("sudo -u mlflow /srv/mlflow/venv/bin/python -m greenlab.server"),
        *(command("python3 -c 'import secrets", number=number) for number in (0, 1)),
        *(command("curl", number=number) for number in range(3)),
        command("openssl"),
        *(command("export", number=number) for number in range(4)),
        *(command(f"sudo -u mlflow {name}") for name in ("pg_dump", "pg_restore")),
        *(command("sudo -u mlflow tar", number=number) for number in (0, 1)),
        command("sudo -u mlflow /srv/mlflow/venv/bin/python -m mlflow db upgrade"),
        command("sudo -u mlflow /srv/mlflow/venv/bin/python -m mlflow.server.auth db upgrade"),
    ]
    others = [one for one in COMMANDS if one not in run]

    assert all(one.startswith(ADMINISTRATORS) for one in others), others


def test_from_an_empty_postgresql_to_a_backup_and_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        place.run(command("sudo -u postgres create", number=number))
    begin = command("sudo -u mlflow /srv/mlflow/venv/bin/python -m greenlab.server")
    with place.serving(begin) as address:
        store, run_id = land_one(address, place.folder / "cell", "kept")
        landed = store.record_of(run_id)

    for number in (0, 1):
        written = place.run(command("python3 -c 'import secrets", number=number))
    settings = dict(
        line.split("=") for line in (place.folder / "greenlab-server.env").read_text().split()
    )
    assert len(settings["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64
    assert settings["MLFLOW_AUTH_ADMIN_PASSWORD"] in written
    settings["MLFLOW_AUTH_ADMIN_PASSWORD"] = PASSWORDS["admin"]
    with place.serving(unit_command(), **settings) as address:
        administer(place, address)
        assert requests.get(address, auth=("ann", PASSWORDS["ann"]), timeout=9).status_code == 401
        assert (place.folder / "auth.ini").exists()

    place.run(command("sudo -u mlflow pg_dump"))
    place.run(command("sudo -u mlflow tar --create"))
    shutil.rmtree(place.folder / "artefacts")
    (place.folder / "auth.ini").unlink()
    with psycopg.connect(dbname="postgres", **libpq(place), autocommit=True) as connection:
        connection.execute("DROP DATABASE mlflow")
    place.run(command("sudo -u postgres createdb"))
    place.run(command("sudo -u mlflow pg_restore"))
    place.run(command("sudo -u mlflow tar --extract"))
    place.run(command("sudo -u mlflow /srv/mlflow/venv/bin/python -m mlflow db upgrade"))
    place.run(command("sudo -u mlflow /srv/mlflow/venv/bin/python -m mlflow.server.auth db"))
    del settings["MLFLOW_AUTH_ADMIN_PASSWORD"]  # as the page says
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
    with place.serving(unit_command(), **settings) as address:
        again = open_store(Mlflow(tracking_uri=address, experiment="kept"))
        assert again.record_of(run_id) == landed


def libpq(place: Place) -> dict[str, str]:
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER"}
    return {name: place.environment[key] for name, key in names.items()}


def administer(place: Place, address: str) -> None:
    """Make ann, let her change her password, and take her away."""
    ann = {"username": "ann", "password": PASSWORDS["ann"]}
    changed = {"password": "another password of ann", "current_password": PASSWORDS["ann"]}
    (place.folder / "ann.json").write_text(json.dumps(ann))
    (place.folder / "new.json").write_text(json.dumps(ann | changed))
    for number, user in enumerate(("admin", "ann", "admin")):
        line = command("curl", number=number).replace(f"https://{NAME}", address)
        assert f"--user {user} " in line
        with_password = f"--user '{user}:{PASSWORDS[user]}' --fail "
        place.run(line.replace(f"--user {user} ", with_password))


@contextmanager
def nginx(place: Place) -> Iterator[tuple[int, Path]]:
    """Serve by nginx with the page's configuration; yields its port and its certificate."""
    openssl, program = shutil.which("openssl"), shutil.which("nginx")
    if openssl is None or program is None:
        pytest.skip("nginx or openssl is not installed (Debian: apt install nginx openssl)")
    place.run(command("openssl").replace(NAME, "localhost"))
    port = group_server.free_port()
    site = (
        block("/etc/nginx/conf.d/mlflow.conf")
        .replace("listen 443", f"listen 127.0.0.1:{port}")
        .replace("/etc/ssl", str(place.folder))
        .replace(NAME, "localhost")
        .replace("127.0.0.1:5000", f"127.0.0.1:{place.port}")
    )
    own = " ".join(
        f"{name}_temp_path {place.folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place.folder / "nginx.conf").write_text(
        f"daemon off; pid {place.folder}/nginx.pid; error_log {place.folder}/nginx.log;\n"
        f"user root; events {{}}\nhttp {{ access_log off; {own}\n{site}\n}}\n"
    )
    process = subprocess.Popen([program, "-c", str(place.folder / "nginx.conf")])
    try:
        certificate = place.folder / "localhost.pem"
        wait_for(
            f"https://localhost:{port}/health",
            process,
            place.folder / "nginx.log",
            verify=str(certificate),
        )
        yield port, certificate
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_cells_land_through_nginx_with_tls_and_a_password(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        place.run(command("sudo -u postgres create", number=number))
    secrets = {
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
    }
    begin = unit_command().replace(NAME, "localhost")
    with place.serving(begin, **secrets), nginx(place) as (port, certificate):
        address = f"https://localhost:{port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS["admin"])
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
        store, run_id = land_one(address, place.folder / "cell", "tls")
        assert store.record_of(run_id).status == "FINISHED"
        # What MLflow's pages send when something is changed in them.
        changed = requests.post(
            f"{address}/ajax-api/2.0/mlflow/runs/set-tag",
            json={"run_id": run_id, "key": "seen", "value": "yes"},
            headers={"Origin": "https://localhost"},
            auth=("admin", PASSWORDS["admin"]),
            verify=str(certificate),
            timeout=10,
        )
        assert changed.status_code == 200, changed.text


def test_the_unit_is_one(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd is not installed")
    path = tmp_path / "greenlab-server.service"
    unit = block("/etc/systemd/system/greenlab-server.service")
    path.write_text(unit.replace("/srv/mlflow/venv/bin/python", sys.executable))
    done = subprocess.run(
        [program, "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.strip() == ""


def test_the_other_proxy_understands_its_file(tmp_path: Path) -> None:
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed (Debian: apt install caddy)")
    path = tmp_path / "Caddyfile"
    path.write_text(block("/etc/caddy/Caddyfile"))
    subprocess.run([program, "validate", "--config", path, "--adapter", "caddyfile"], check=True)
