"""Serves MLflow's pages over a local store, leanly: `python -m greenlab.ui`.

One worker, no job runners, no telemetry, this machine only: a quarter of the default server's
processes and memory, for a machine that is there to be measured.
"""

import argparse
import os
import socket
import sys

from greenlab.config import Mlflow
from greenlab.errors import GreenlabError
from greenlab.terminal import open_console


def main() -> None:
    """Print the links and become the server."""
    parser = argparse.ArgumentParser(prog="python -m greenlab.ui", description=__doc__)
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--experiment", default=Mlflow().experiment)
    arguments = parser.parse_args()
    from greenlab import tracking  # half a second that --help does not wait for

    try:
        store = tracking.open_store(
            Mlflow(tracking_uri=arguments.tracking_uri, experiment=arguments.experiment)
        )
    except GreenlabError as error:
        raise SystemExit(f"greenlab: {error}") from error
    if store.uri.startswith("http"):
        raise SystemExit(f"greenlab: {store.uri} is a server already; open it in a browser")
    _refuse_taken(arguments.port)
    console = open_console()
    for name, address in store.view_links().items():
        here = address.replace(tracking.UI_URL, f"http://127.0.0.1:{arguments.port}")
        console.print(f"{name + ':':<24} {here}", highlight=False, soft_wrap=True)
    console.print("Ready in some ten seconds; Ctrl-C stops the server.")
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")
    server = ["server", "--host", "127.0.0.1", "--port", str(arguments.port), "--workers", "1"]
    sys.stdout.flush()
    os.execv(
        sys.executable,
        [sys.executable, "-m", "mlflow", *server, "--backend-store-uri", store.uri],
    )


def _refuse_taken(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        raise SystemExit(f"greenlab: --port {port} cannot be used: {error}") from error


if __name__ == "__main__":
    main()
