"""The PostgreSQL database that a group's server keeps its runs in: reached, judged, set up once.

Its password is no part of its address: libpq takes it from PGPASSWORD or ~/.pgpass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from greenlab.errors import GreenlabError, first_line, without_password

if TYPE_CHECKING:
    import psycopg

EXAMPLE = "postgresql+psycopg://mlflow@127.0.0.1:5432/mlflow"
SCHEMES = ("postgresql+psycopg", "postgresql", "postgres")
INSTALL = 'pip install "greenlab[server]"'
CONNECT_WITHIN_S = 5
SETTING_UP = 0x67726565
"""The advisory lock of whoever makes the tables: any number that nobody else uses."""


def check_address(uri: str) -> None:
    """Refuse what is not PostgreSQL's, or tells a password.

    Raises:
        GreenlabError: it says what to give instead.
    """
    if without_password(uri) != uri:
        raise GreenlabError(
            "--database has a password in it, which everybody on this machine can read in the list "
            "of processes. Leave it out and set PGPASSWORD in the environment, or write it into "
            "~/.pgpass (host:port:database:user:password, chmod 600)"
        )
    if urlsplit(uri).scheme not in SCHEMES or "://" not in uri:
        raise GreenlabError(
            f"--database {uri} is not PostgreSQL's: {EXAMPLE}. Over an SQLite file of your own "
            "there is python -m greenlab.ui"
        )


def sqlalchemy_uri(uri: str) -> str:
    """The address with its driver named: which one SQLAlchemy takes by itself has changed."""
    return SCHEMES[0] + uri[uri.index("://") :]


def prepare(uri: str) -> bool:
    """Reach the database, and make its tables where there are none, while no other server does.

    Returns whether it has users of MLflow's in it.

    Raises:
        GreenlabError: it is not there, does not let us in, or belongs to somebody else.
    """
    with _connected(uri) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [SETTING_UP])  # until we disconnect
        if not _has_table(connection, "alembic_version"):
            from greenlab import tracking  # with MLflow, seconds

            try:
                tracking.create_tables(sqlalchemy_uri(uri))
            except Exception as error:  # of MLflow, Alembic, SQLAlchemy or psycopg
                user, name = _user_and_name(uri)
                raise GreenlabError(
                    f"--database {uri} cannot be set up: {first_line(error)}. Its user has to own "
                    f'it: sudo -u postgres psql -c \'ALTER DATABASE "{name}" OWNER TO "{user}"\''
                ) from error
        return _has_table(connection, "alembic_version_auth")


@contextmanager
def _connected(uri: str) -> "Iterator[psycopg.Connection]":
    try:
        import psycopg  # optional: greenlab alone does without
    except ImportError as error:
        raise GreenlabError(f"psycopg is not installed, or not whole: {INSTALL}") from error
    plain = SCHEMES[1] + uri[uri.index("://") :]
    try:
        connection = psycopg.connect(plain, connect_timeout=CONNECT_WITHIN_S, autocommit=True)
    except psycopg.Error as error:
        raise GreenlabError(
            f"--database {uri} cannot be opened: {first_line(error)}. {_way_in(uri, str(error))}"
        ) from error
    with connection:
        yield connection


def _way_in(uri: str, reason: str) -> str:
    user, name = _user_and_name(uri)
    if "password" in reason:
        return "Set PGPASSWORD in the environment, or write the password into ~/.pgpass (chmod 600)"
    if f'database "{name}" does not exist' in reason:
        return f"Make it: sudo -u postgres createdb --owner={user} {name}"
    if f'role "{user}" does not exist' in reason:
        return f"Make the user: sudo -u postgres createuser --pwprompt {user}"
    return "Start PostgreSQL (systemctl start postgresql), or correct the address"


def _user_and_name(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.username or "USER", parts.path.lstrip("/") or "NAME"


def _has_table(connection: "psycopg.Connection", name: str) -> bool:
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone() == (True,)
