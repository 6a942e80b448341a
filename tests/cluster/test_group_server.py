"""greenlab's server over a real PostgreSQL: nothing is lost, nobody gets in, nothing gets out.

`make test-server`; skipped where PostgreSQL is not installed.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg
import pytest
import requests
from conftest import ROOT, CommandLine
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from test_secrets import BAD, CELLS, GOOD, Planted
from test_tracking import write_folder

from benchmarks import group_server
from benchmarks.group_server import Database, Server
from greenlab.config import Mlflow
from greenlab.errors import StoreUnavailableError
from greenlab.simulated.machine import workstation
from greenlab.tracking import open_store

pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        group_server.programs() is None,
        reason="PostgreSQL is not installed (Debian: apt install postgresql)",
    ),
]

ADMIN, PASSWORD = "admin", "a long enough password"
KEY = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 64}
FIRST_START = KEY | {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
ARTEFACTS = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with group_server.postgres() as one:
        yield one


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that asks nobody."""
    with group_server.serving(database, tmp_path_factory.mktemp("server"), num_workers=1) as one:
        yield one


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Server]]:
    """One that asks who is there, over a database of its own."""
    folder = tmp_path_factory.mktemp("asking")
    with (
        group_server.postgres() as database,
        group_server.serving(
            database, folder, "--auth", num_workers=1, environment=FIRST_START
        ) as one,
    ):
        yield database, one


def own_addresses() -> list[str]:
    """Of this machine: those that others reach it by, and another of its loopback's."""
    found = [one.address for some in psutil.net_if_addrs().values() for one in some
             if one.family == socket.AF_INET and not one.address.startswith("127.")]  # fmt: skip
    return [*found, "127.0.0.2"]


def is_reachable(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def command_lines(pid: int) -> str:
    """What every user of the machine sees of a process and those below it."""
    parent = psutil.Process(pid)
    return " ".join(" ".join(one.cmdline()) for one in [parent, *parent.children(recursive=True)])


# ------------------------------------------------------------------------------------- many writers


def test_32_writers_lose_no_cell_though_the_server_is_killed(tmp_path: Path) -> None:
    answer = tmp_path / "figures.json"
    arguments = ["--writers", "32", "--cells", "3", "--restart", "--json", str(answer)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.server_writers", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {one["name"]: one["median"] for one in json.loads(answer.read_text())["figures"]}
    assert told["lost"] == told["twice"] == told["incomplete"] == 0
    assert told["artefacts missing or altered"] == 0
    assert told["landings that failed"] > 0  # or nothing was in its way


# ------------------------------------------------------------------------------- a fresh database


def test_two_servers_of_several_workers_may_start_on_a_fresh_database(tmp_path: Path) -> None:
    with group_server.postgres() as fresh, ExitStack() as stack:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            servers.append(Server(fresh, tmp_path / name, num_workers=2))
            stack.callback(servers[-1].stop)
        processes = [stack.enter_context(started(one)) for one in servers]
        for one in servers:
            wait_until_it_answers(one)
        assert [process.poll() for process in processes] == [None, None]
        client = MlflowClient(tracking_uri=servers[0].uri)
        [default] = client.search_experiments()
        assert default.artifact_location.startswith("mlflow-artifacts:/")
        for one in servers:
            assert "Traceback" not in one.log.read_text()


class started:  # noqa: N801  # reads as what it does
    """Start it, and do not wait."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def __enter__(self) -> "subprocess.Popen[bytes]":
        with self._server.log.open("a") as log:
            self._server.process = subprocess.Popen(
                self._server.command,
                cwd=self._server.log.parent,
                env=self._server.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._server.process

    def __exit__(self, *_: object) -> None:
        self._server.kill()


def wait_until_it_answers(server: Server) -> None:
    import time

    until_s = time.monotonic() + 120
    while not server.answers():
        assert time.monotonic() < until_s, server.log.read_text()
        time.sleep(0.1)


def refused(database_uri: str, tmp_path: Path, **environment: str) -> str:
    """What the server says that does not start."""
    command = [sys.executable, "-m", "greenlab.server", "--database", database_uri]
    place = ["--port", str(group_server.free_port())]
    done = subprocess.run(
        [*command, *place, "--artefacts", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PGPASSFILE": "/nowhere"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def named(database: Database, name: str) -> str:
    """The address of another database of that server."""
    return f"{database.uri.rpartition('/')[0]}/{name}"


def test_it_says_what_is_wrong_with_the_database(database: Database, tmp_path: Path) -> None:
    known = {"PGPASSWORD": database.password}
    user = f"//{group_server.USER}@"

    nothing = refused(named(database, "nothing"), tmp_path, **known)
    assert "sudo -u postgres createdb --owner=mlflow nothing" in nothing
    assert "Set PGPASSWORD" in refused(database.uri, tmp_path)
    assert "Set PGPASSWORD" in refused(database.uri, tmp_path, PGPASSWORD="wrong")
    assert "Set PGPASSWORD" in refused(database.uri.replace(user, "//who@"), tmp_path, **known)


def test_a_database_of_somebody_elses_is_refused(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.administrator, autocommit=True) as connection:
        connection.execute("CREATE DATABASE foreign_one")
    told = refused(named(database, "foreign_one"), tmp_path, PGPASSWORD=database.password)

    assert 'ALTER DATABASE "foreign_one" OWNER TO "mlflow"' in told


# ----------------------------------------------------------------------------- who can reach it


def test_only_this_machine_reaches_it(server: Server) -> None:
    assert server.process is not None
    assert group_server.listening(server.process.pid) == ["127.0.0.1"]
    assert is_reachable("127.0.0.1", server.port)
    assert [one for one in own_addresses() if is_reachable(one, server.port)] == []


def test_only_this_machine_reaches_the_pages_of_a_local_store(greenlab: CommandLine) -> None:
    port = group_server.free_port()
    process = subprocess.Popen(
        greenlab.command("--port", str(port), module="greenlab.ui"),
        cwd=greenlab.folder,
        env=greenlab.environment,
        start_new_session=True,
    )
    pages = Server.__new__(Server)
    pages.uri, pages.process, pages.log = f"http://127.0.0.1:{port}", process, Path(os.devnull)
    try:
        wait_until_it_answers(pages)
        assert group_server.listening(process.pid) == ["127.0.0.1"]
        assert [one for one in own_addresses() if is_reachable(one, port)] == []
    finally:
        pages.kill()


def test_a_page_that_calls_it_by_another_name_is_refused(server: Server) -> None:
    listed = f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1"

    assert requests.get(listed, timeout=10).status_code == 200
    assert requests.get(listed, headers={"Host": "evil.example"}, timeout=10).status_code == 403


def test_passwords_are_not_in_the_list_of_processes(
    database: Database, server: Server, asking: tuple[Database, Server]
) -> None:
    for known, one in ((database, server), asking):
        assert one.process is not None
        shown = command_lines(one.process.pid)
        assert "uvicorn" in shown
        for secret in (known.password, PASSWORD, KEY["MLFLOW_FLASK_SERVER_SECRET_KEY"]):
            assert secret not in shown
            assert secret not in one.log.read_text()


# ------------------------------------------------------------------------------------- traversal

OUTSIDE = (
    "../planted",
    "../../planted",
    "1/../../planted",
    "/planted",
    "//planted",
    "..%2fplanted",
    "%2e%2e/planted",
    "%2e%2e%2fplanted",
    "%252e%252e%252fplanted",
    "..%5cplanted",
    "..\\planted",
    "1/..%2f..%2fplanted",
    "%2fetc%2fpasswd",
    "/etc/passwd",
    "file:///etc/passwd",
    "file:%2f%2f%2fetc%2fpasswd",
    "..%c0%afplanted",
    "..%00/planted",
)
"""Names that lead out of the artefacts, where `planted` lies beside them."""


def ask(server: Server, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """As it is written: no library tidies the path up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def outside(server: Server) -> dict[str, bytes]:
    """All files around the artefacts; logs grow."""
    around = server.artefacts.parent
    return {
        str(path): path.read_bytes()
        for path in around.rglob("*")
        if path.is_file() and path != server.log and not path.is_relative_to(server.artefacts)
    }


@pytest.fixture
def planted(server: Server) -> bytes:
    """What lies beside the artefacts and must not be read."""
    text = b"planted beside the artefacts"
    (server.artefacts.parent / "planted").write_bytes(text)
    return text


INSIDE = ("..%5cplanted", "..\\planted", "..%c0%afplanted")
"""Those that lead out elsewhere: on Linux they are a file's own name, and it lies in the folder."""


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_artefact_name_does_not_lead_out_of_the_folder(
    server: Server, planted: bytes, name: str
) -> None:
    before, passwd = outside(server), Path("/etc/passwd").read_bytes()
    answers = [ask(server, "GET", f"{ARTEFACTS}/{name}")]
    for one in (name, quote(name, safe="")):
        answers.append(ask(server, "GET", f"{ARTEFACTS}?path={one}"))
    written, _ = ask(server, "PUT", f"{ARTEFACTS}/{name}", b"written")
    inside = [path for path in server.artefacts.rglob("*") if path.is_file()]
    is_there = any(path.read_bytes() == b"written" for path in inside)
    answers.append(ask(server, "DELETE", f"{ARTEFACTS}/{name}"))

    print(name, [code for code, _ in answers], written)
    for _, body in answers:
        assert planted not in body
        assert passwd.splitlines()[0] not in body
        assert b"server.log" not in body
    assert answers[0][0] >= 400
    assert outside(server) == before
    assert Path("/etc/passwd").read_bytes() == passwd
    assert all(path.resolve().is_relative_to(server.artefacts) for path in inside)
    assert (written, is_there) == (200, True) if name in INSIDE else written >= 400


def test_nothing_outside_is_deleted_by_its_full_name(server: Server, planted: bytes) -> None:
    before, path = outside(server), server.artefacts.parent / "planted"
    for name in (f"{path}", f"/{path}", quote(f"{path}", safe=""), f"file://{path}"):
        ask(server, "DELETE", f"{ARTEFACTS}/{name}")
        ask(server, "DELETE", f"{ARTEFACTS}/1/../../{name}")

    assert outside(server) == before


@pytest.mark.parametrize(
    "name", ["../planted", "/etc/passwd", "..%2fplanted", "%252e%252e/planted"]
)
def test_a_runs_own_artefacts_do_not_lead_out_either(
    server: Server, planted: bytes, tmp_path: Path, name: str
) -> None:
    store = open_store(Mlflow(tracking_uri=server.uri, experiment="traversal"))
    run_id = store.client.create_run(store.experiment_id).info.run_id
    before = outside(server)
    for page in ("get-artifact", "ajax-api/2.0/mlflow/get-artifact"):
        status, body = ask(server, "GET", f"/{page}?run_uuid={run_id}&path={name}")
        assert status >= 400
        assert planted not in body
    (tmp_path / "file").write_text("written")
    with pytest.raises((MlflowException, requests.HTTPError)):
        store.client.log_artifact(run_id, str(tmp_path / "file"), name)
    assert outside(server) == before


# ------------------------------------------------------------------------------------------- users


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    def become(name: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    return become


def make_user(server: Server, name: str, password: str) -> None:
    """As docs/server.md has it."""
    answer = requests.post(
        f"{server.uri}/api/2.0/mlflow/users/create",
        json={"username": name, "password": password},
        auth=(ADMIN, PASSWORD),
        timeout=30,
    )
    assert answer.status_code == 200, answer.text


def test_it_lets_in_who_has_a_password(
    asking: tuple[Database, Server], as_user: Callable[[str, str], None]
) -> None:
    _, server = asking
    listed = f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1"

    assert requests.get(listed, timeout=10).status_code == 401
    assert requests.get(listed, auth=(ADMIN, "wrong"), timeout=10).status_code == 401
    assert requests.get(listed, auth=(ADMIN, PASSWORD), timeout=10).status_code == 200
    assert ask(server, "PUT", f"{ARTEFACTS}/1/x/artifacts/y", b"written")[0] == 401
    with pytest.raises(StoreUnavailableError, match="MLFLOW_TRACKING_USERNAME and"):
        open_store(Mlflow(tracking_uri=server.uri))
    as_user(ADMIN, PASSWORD)
    open_store(Mlflow(tracking_uri=server.uri))


def test_a_group_logs_to_one_experiment_and_deletes_none_of_the_others(
    asking: tuple[Database, Server], as_user: Callable[[str, str], None], tmp_path: Path
) -> None:
    _, server = asking
    for name in ("ann", "bob"):
        make_user(server, name, f"the password of {name}")
    settings = Mlflow(tracking_uri=server.uri, experiment="shared")
    as_user("ann", "the password of ann")
    made = open_store(settings)
    anns = made.land(write_folder(tmp_path / "ann"))
    as_user("bob", "the password of bob")
    bobs_folder = write_folder(tmp_path / "bob")
    changed = json.loads((bobs_folder / "record.json").read_text())
    changed["cell"]["uid"] = "b" * 32
    (bobs_folder / "record.json").write_text(json.dumps(changed))
    store = open_store(settings)

    assert store.land(bobs_folder) != anns
    assert store.record_of(anns).cell.uid != "b" * 32
    with pytest.raises(MlflowException, match="403"):
        store.client.delete_experiment(store.experiment_id)


def test_nothing_of_a_sweep_through_it_holds_a_secret(
    asking: tuple[Database, Server], greenlab: CommandLine
) -> None:
    """One cell lands, one fails and lands; each secret is looked for wherever something lies."""
    database, server = asking
    planted = Planted(greenlab)
    user, password = "cat", f"{planted.in_address[:16]} and on"
    make_user(server, user, password)
    greenlab.environment |= {
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password,
        "MLFLOW_TRACKING_URI": server.uri,
    }
    folder = greenlab.folder / "my_conf" / "model"
    folder.mkdir(parents=True)
    (folder / "good.yaml").write_text(GOOD)
    (folder / "bad.yaml").write_text(BAD)
    with workstation() as machine:
        greenlab.put_on(machine)
        greenlab.environment["PYTHONPATH"] += f":{ROOT / 'tests'}"
        result = greenlab(*CELLS, "model=good,bad")
    printed = result.stdout + result.stderr

    assert "1 of 2 cells finished" in printed, printed
    assert "not logged" not in printed
    kept = greenlab.folder / "kept"
    kept.mkdir()
    (kept / "dump.sql").write_text(dumped(database))
    assert planted.found_in(greenlab.folder, server.artefacts.parent, printed=printed) == []


def dumped(database: Database) -> str:
    """All that PostgreSQL holds for the server."""
    programs = group_server.programs()
    assert programs is not None
    where = f"{database.administrator} dbname={group_server.NAME}"
    command: Sequence[Any] = [programs / "pg_dump", "-d", where]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "greenlab.verdict" in done.stdout
    return done.stdout


def test_a_user_whose_password_is_kept_by_the_environment_may_give_it_in_the_address(
    asking: tuple[Database, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, server = asking
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "overruled")
    address = server.uri.replace("//", f"//{ADMIN}:{quote(PASSWORD)}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    store = open_store(Mlflow())

    assert store.run_link("1").startswith(f"{server.uri}/#/")
