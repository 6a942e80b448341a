"""Serves MLflow's pages over a local store, leanly: `python -m greenlab.ui`.

One worker, no job runners, no telemetry, this machine only: a quarter of the default server's
processes and memory, for a machine that is there to be measured.
"""

import argparse

from greenlab.config import Mlflow
from greenlab.errors import GreenlabError
from greenlab.serving import become_server, place, refuse_taken
from greenlab.terminal import open_console

HOST = "127.0.0.1"


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
        if store.uri.startswith("http"):
            raise GreenlabError(f"{store.uri} is a server already; open it in a browser")
        refuse_taken(HOST, arguments.port)
    except GreenlabError as error:
        raise SystemExit(f"greenlab: {error}") from error
    console = open_console()
    for name, address in store.view_links().items():
        here = address.replace(tracking.UI_URL, f"http://{HOST}:{arguments.port}")
        console.print(f"{name + ':':<24} {here}", highlight=False, soft_wrap=True)
    console.print("Ready in some ten seconds; Ctrl-C stops the server.")
    become_server(store.uri, place(HOST, arguments.port, num_workers=1))


if __name__ == "__main__":
    main()
