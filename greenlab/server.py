"""MLflow's server for a group, on PostgreSQL: `python -m greenlab.server --database URI`.

Runs are kept in the database, artefacts in one folder that the server alone reads and writes;
clients need neither. It listens on this machine only, unless it asks who is there (--auth). No
password is an argument: PostgreSQL's is PGPASSWORD or a line of ~/.pgpass. docs/server.md has all
of it: PostgreSQL, users, TLS, backup.
"""

import argparse
import configparser
import importlib.util
import ipaddress
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from greenlab import postgres
from greenlab.errors import GreenlabError
from greenlab.serving import become_server, place, refuse_taken
from greenlab.terminal import open_console

MOST_WORKERS = 4
LEAST_PASSWORD_CHARACTERS = 12
"""MLflow's own rule for the passwords of its users."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
AUTH_CONFIG = """\
# Who may do what on this server, read when it starts; written by greenlab.server --auth.
[mlflow]
# What every user may do with experiments that others have made: NO_PERMISSIONS, READ, EDIT or
# MANAGE. Who makes one may MANAGE it. EDIT: log cells there, and delete nothing.
default_permission = EDIT
database_uri = {database_uri}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
# So long a password that was right stays right in each worker, changed or not, and is not hashed
# for every request.
auth_cache_ttl_seconds = 60
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What is served, where and to whom; checked one by one before anything starts."""

    database: str
    artefacts: str
    """A folder, or the address of an object store."""
    host: str
    port: int
    num_workers: int
    allowed_hosts: tuple[str, ...]
    auth_config: Path | None
    """None: nobody is asked who they are."""

    @property
    def names(self) -> list[str]:
        """What other machines call it; empty where it is not said, or none can."""
        everywhere = self.host in ("0.0.0.0", "::")
        own = [] if everywhere or is_loopback(self.host) else [self.host]
        return [*self.allowed_hosts, *own]

    @property
    def options(self) -> list[str]:
        """What `mlflow server` is told beside its store."""
        told = place(self.host, self.port, self.num_workers)
        told += ["--artifacts-destination", self.artefacts]
        if self.names:
            # A request by another name comes from a page that has had its own rebound to us.
            called = [*self.names, *LOOPBACK_NAMES]
            addresses = [address for name in called for address in (name, f"{name}:{self.port}")]
            pages = [f"https://{name}" for name in self.names]
            pages += [f"http://{name}:{self.port}" for name in self.names]
            told += ["--allowed-hosts", ",".join(addresses)]
            told += ["--cors-allowed-origins", ",".join(pages)]
        return told if self.auth_config is None else [*told, "--app-name", "basic-auth"]


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, out of reach for others."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m greenlab.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--database",
        required=True,
        metavar="URI",
        help=f"{postgres.EXAMPLE}: of PostgreSQL, without a password; its user owns the database",
    )
    add(
        "--artefacts",
        default="mlartifacts",
        metavar="FOLDER",
        help="where files are kept, or an object store (s3://bucket/path); default: ./mlartifacts",
    )
    add("--host", default="127.0.0.1", help="address to listen on; default: %(default)s")
    add("--port", type=int, default=5000, help="default: %(default)s")
    add(
        "--workers",
        type=int,
        default=min(MOST_WORKERS, os.cpu_count() or 1),
        help="processes that answer, some 300 MB each; default: one per CPU, at most "
        f"{MOST_WORKERS} (here %(default)s)",
    )
    add(
        "--allowed-hosts",
        default="",
        metavar="NAME,NAME",
        help="names that clients call this server by, as mlflow.lab.example behind a proxy",
    )
    add(
        "--auth",
        action="store_true",
        help="ask for user and password. MLFLOW_FLASK_SERVER_SECRET_KEY must be set, and "
        "MLFLOW_AUTH_ADMIN_PASSWORD (MLFLOW_AUTH_ADMIN_USERNAME) the first time",
    )
    add(
        "--auth-config",
        type=Path,
        default=Path("auth.ini"),
        metavar="FILE",
        help="who may do what; written where it is missing; default: ./auth.ini",
    )
    return parser


def read_arguments(arguments: argparse.Namespace) -> Service:
    """What was asked for."""
    is_folder = "://" not in arguments.artefacts
    return Service(
        database=arguments.database,
        artefacts=str(Path(arguments.artefacts).resolve()) if is_folder else arguments.artefacts,
        host=arguments.host,
        port=arguments.port,
        num_workers=arguments.workers,
        allowed_hosts=tuple(name for name in arguments.allowed_hosts.split(",") if name),
        auth_config=arguments.auth_config.resolve() if arguments.auth else None,
    )


def check(service: Service) -> None:
    """Refuse what cannot work, or would let anybody in, before anything is opened.

    Raises:
        GreenlabError: it says what to do instead.
    """
    postgres.check_address(service.database)
    if not is_loopback(service.host) and service.auth_config is None:
        raise GreenlabError(
            f"--host {service.host} is reachable from other machines, and whoever reaches MLflow "
            "may change, delete and write everything in it. Add --auth, or leave --host out and "
            "let a proxy with TLS on this machine pass on what comes in (docs/server.md)"
        )
    if service.num_workers < 1:
        raise GreenlabError(f"--workers {service.num_workers}: it takes 1 or more")
    if service.auth_config is not None:
        _check_auth(service, service.auth_config)
    refuse_taken(service.host, service.port)
    if "://" not in service.artefacts:
        _check_folder(Path(service.artefacts))


def _check_auth(service: Service, auth_config: Path) -> None:
    if importlib.util.find_spec("flask_wtf") is None:
        raise GreenlabError(f"--auth needs Flask-WTF, which is not installed: {postgres.INSTALL}")
    if not os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY"):
        raise GreenlabError(
            "--auth signs its forms with MLFLOW_FLASK_SERVER_SECRET_KEY, which is not set. Make a "
            "key once, and keep it where the server alone reads it: "
            "python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    if auth_config.is_relative_to(service.artefacts):
        raise GreenlabError(
            f"--auth-config {auth_config} lies among the artefacts, where users write; name a file "
            "elsewhere"
        )


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise GreenlabError(
            f"--artefacts {folder} cannot be written: {error.strerror}. Name a folder that the "
            "server's user owns"
        ) from error


def _check_first_user(auth_config: Path) -> None:
    """MLflow makes its administrator when it starts without any user."""
    if auth_config.exists():
        given = configparser.ConfigParser()
        given.read(auth_config)
        if given.get("mlflow", "admin_password", fallback=""):
            return  # MLflow judges it
    if len(os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", "")) < LEAST_PASSWORD_CHARACTERS:
        raise GreenlabError(
            "--auth has no user yet, and makes an administrator, admin or "
            "MLFLOW_AUTH_ADMIN_USERNAME. Set MLFLOW_AUTH_ADMIN_PASSWORD for this start, "
            f"{LEAST_PASSWORD_CHARACTERS} characters or more"
        )


def write_auth_config(path: Path, database: str) -> None:
    """Leave MLflow's settings for users at `path`, where there are none: they are there to change.

    Raises:
        GreenlabError: it cannot be written.
    """
    uri = postgres.sqlalchemy_uri(database).replace("%", "%%")  # configparser's own sign
    text = AUTH_CONFIG.format(database_uri=uri)
    try:
        path.touch(0o600, exist_ok=False)
        path.write_text(text)
    except FileExistsError:
        return
    except OSError as error:
        raise GreenlabError(
            f"--auth-config {path} cannot be written: {error.strerror}. Name another file"
        ) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Check, set up, and become the server."""
    service = read_arguments(open_parser().parse_args(argv))
    environment: dict[str, str] = {}
    try:
        check(service)
        is_with_users = postgres.prepare(service.database)
        if service.auth_config is not None:
            if not is_with_users:
                _check_first_user(service.auth_config)
            write_auth_config(service.auth_config, service.database)
            environment["MLFLOW_AUTH_CONFIG_PATH"] = str(service.auth_config)
    except GreenlabError as error:
        raise SystemExit(f"greenlab: {error}") from error
    address = f"http://{service.host}:{service.port}"
    for line in (
        f"Serving {service.database} and {service.artefacts} at {address}, ready in ten seconds.",
        f"Clients on this machine: export MLFLOW_TRACKING_URI={address}",
    ):
        open_console().print(line, highlight=False, soft_wrap=True)
    become_server(postgres.sqlalchemy_uri(service.database), service.options, environment)


if __name__ == "__main__":
    main()
