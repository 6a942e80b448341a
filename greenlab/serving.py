"""Becoming MLflow's server, leanly: no job runners, no telemetry, and no address by surprise."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NoReturn

from greenlab.errors import GreenlabError

LEAN = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""A quarter of the default server's processes and memory."""


def refuse_taken(host: str, port: int) -> None:
    """Refuse a port that cannot be bound: MLflow's workers would be started again and again.

    Raises:
        GreenlabError: another program has it, or the address is not this machine's.
    """
    try:
        # Its port by itself: getaddrinfo takes 70000 for 4464.
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, kind, _, _, (address, _, *others) = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port, *others))
    except (OSError, OverflowError) as error:
        raise GreenlabError(
            f"--port {port} cannot be used on {host}: {error}. Name another one"
        ) from error


def place(host: str, port: int, num_workers: int) -> list[str]:
    """The options of where it listens, in how many processes."""
    return ["--host", host, "--port", str(port), "--workers", str(num_workers)]


def become_server(
    store_uri: str,
    options: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> NoReturn:
    """Turn this process into `mlflow server` over a store.

    The store's address goes by the environment: every user of the machine sees the options.
    """
    os.environ.update(LEAN | {"MLFLOW_BACKEND_STORE_URI": store_uri} | dict(environment))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *options])
