"""What `python -m greenlab.server` refuses before it starts anything, and what it tells MLflow.

The server itself, over a PostgreSQL, is in cluster/test_group_server.py (make test-server).
"""

import configparser
import importlib.util
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from test_readme import make

from greenlab import postgres, server

DATABASE = "postgresql+psycopg://ann@127.0.0.1:9/lab"
"""Nobody listens on port 9."""
SECRET = "hunter2hunter2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def refusal(*arguments: str, database: str = DATABASE) -> str:
    with pytest.raises(SystemExit) as refused:
        server.main(["--database", database, *arguments])
    told = str(refused.value)
    assert told.startswith("greenlab: ")
    return told


def service(*arguments: str) -> server.Service:
    return server.read_arguments(
        server.open_parser().parse_args(["--database", DATABASE, *arguments])
    )


# --------------------------------------------------------------------------------- who may reach it


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "lab.example", ""])
def test_other_machines_reach_it_only_where_it_asks_who_they_are(host: str) -> None:
    told = refusal("--host", host)

    assert "--auth" in told
    assert "docs/server.md" in told


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_this_machine_needs_no_password(host: str) -> None:
    assert server.is_loopback(host)


def test_it_listens_on_this_machine_unless_told_otherwise() -> None:
    assert service().host == "127.0.0.1"
    assert service("--workers", "2").options == [
        *("--host", "127.0.0.1", "--port", "5000", "--workers", "2"),
        *("--artifacts-destination", str(Path.cwd() / "mlartifacts")),
    ]


def test_behind_a_proxy_it_knows_its_name_and_its_pages() -> None:
    told = service("--allowed-hosts", "lab.example").options

    hosts = told[told.index("--allowed-hosts") + 1].split(",")
    assert {"lab.example", "lab.example:5000", "localhost:5000"} <= set(hosts)
    assert told[told.index("--cors-allowed-origins") + 1].split(",") == [
        "https://lab.example",
        "http://lab.example:5000",
    ]


def test_an_address_of_its_own_is_a_name_too() -> None:
    told = service("--host", "192.0.2.7", "--port", "81", "--auth").options

    assert "192.0.2.7:81" in told[told.index("--allowed-hosts") + 1].split(",")
    assert told[-2:] == ["--app-name", "basic-auth"]


def test_an_object_store_is_passed_on() -> None:
    assert service("--artefacts", "s3://bucket/lab").options[-1] == "s3://bucket/lab"


# ------------------------------------------------------------------------------------ the database


@pytest.mark.parametrize(
    "database",
    [
        f"postgresql+psycopg://ann:{SECRET}@127.0.0.1/lab",
        f"postgresql://ann@127.0.0.1/lab?password={SECRET}",
    ],
)
def test_a_password_is_no_argument(database: str) -> None:
    told = refusal(database=database)

    assert SECRET not in told
    assert "PGPASSWORD" in told
    assert "~/.pgpass" in told


@pytest.mark.parametrize("database", ["sqlite:////srv/mlflow.db", "mysql://ann@lab/x", "lab"])
def test_other_databases_are_refused(database: str) -> None:
    assert "python -m greenlab.ui" in refusal(database=database)


def test_a_database_that_does_not_answer_is_refused() -> None:
    told = refusal()

    assert f"--database {DATABASE} cannot be opened" in told
    assert "systemctl start postgresql" in told


def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    assert 'pip install "greenlab[server]"' in refusal()


def test_the_driver_is_named_whichever_sqlalchemy_prefers() -> None:
    assert postgres.sqlalchemy_uri("postgres://ann@/lab") == "postgresql+psycopg://ann@/lab"


# ------------------------------------------------------------------------------- port and artefacts


def test_a_port_that_is_taken_is_refused(taken_port: int) -> None:
    assert f"--port {taken_port} cannot be used on 127.0.0.1" in refusal("--port", str(taken_port))


@pytest.mark.parametrize("port", ["-1", "70000"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    assert "--port" in refusal("--port", port)


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    assert "--artefacts /proc/nowhere cannot be written" in refusal("--artefacts", "/proc/nowhere")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert "cannot be written" in refusal("--artefacts", str(tmp_path / "file"))


def test_it_takes_a_worker() -> None:
    assert "--workers 0" in refusal("--workers", "0")


# --------------------------------------------------------------------------------------------- auth


def test_auth_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    told = refusal("--auth")

    assert "MLFLOW_FLASK_SERVER_SECRET_KEY" in told
    assert "secrets.token_hex" in told


def test_auth_needs_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flask_wtf", None)

    assert 'pip install "greenlab[server]"' in refusal("--auth")


def test_its_settings_lie_where_users_do_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "0" * 64)
    told = refusal("--auth", "--artefacts", "files", "--auth-config", "files/auth.ini")

    assert "--auth-config" in told


def test_its_settings_are_written_once_and_stay_as_they_were_changed(tmp_path: Path) -> None:
    path = tmp_path / "auth.ini"
    server.write_auth_config(path, "postgresql://ann@%2Frun%2Fpostgresql/lab")
    written = configparser.ConfigParser()
    written.read(path)

    assert path.stat().st_mode & 0o777 == 0o600
    assert written["mlflow"]["default_permission"] == "EDIT"
    assert written["mlflow"]["database_uri"] == "postgresql+psycopg://ann@%2Frun%2Fpostgresql/lab"

    path.write_text("[mlflow]\n")
    server.write_auth_config(path, DATABASE)
    assert path.read_text() == "[mlflow]\n"


def test_the_settings_for_users_are_those_that_mlflow_reads(tmp_path: Path) -> None:
    shipped = configparser.ConfigParser()
    found = importlib.util.find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    shipped.read(Path(found.origin).parent / "server" / "auth" / "basic_auth.ini")
    server.write_auth_config(tmp_path / "auth.ini", DATABASE)
    written = configparser.ConfigParser()
    written.read(tmp_path / "auth.ini")

    assert shipped["mlflow"].keys() <= written["mlflow"].keys()


# --------------------------------------------------------------------------------------------- make


def checkout(folder: Path) -> Path:
    """A checkout that is set up, and whose Python says what it is given."""
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("pyproject.toml", "uv.lock", "Makefile"):
        shutil.copy(ROOT / name, folder)
    (folder / ".uv" / "bin").mkdir(parents=True)
    (folder / ".uv" / "bin" / "uv").touch()
    (folder / ".venv" / ".ready").touch()
    python = folder / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nfor word; do echo "[$word]"; done\n')
    python.chmod(0o755)
    return folder


def test_make_server_passes_on_what_it_is_given(tmp_path: Path) -> None:
    words = (f"DATABASE={DATABASE}", "ARTEFACTS=my files", "PORT=81", "AUTH=1", "WORKERS=3")
    told = make(checkout(tmp_path / "checkout"), "server", *words)

    assert told.splitlines() == [
        *("[-m]", "[greenlab.server]", "[--database]", f"[{DATABASE}]"),
        *("[--artefacts]", "[my files]", "[--port]", "[81]", "[--workers]", "[3]", "[--auth]"),
    ]


def test_make_server_without_a_database_says_what_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "server"],
        cwd=checkout(tmp_path / "checkout"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode != 0
    assert "make server needs DATABASE=postgresql+psycopg://user@host:5432/name" in done.stderr
    assert "[greenlab.server]" not in done.stdout
