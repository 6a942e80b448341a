"""Lands in MLflow what is on disk and not there yet: `python -m greenlab.sync FOLDER …`.

Goes through every cell folder under the folders named, and the sweeps that have ended there. A cell
that died with the whole of greenlab left no record; it is logged as killed.
"""

import argparse
from pathlib import Path

from greenlab.errors import GreenlabError


def main() -> int:
    """Command line; 0 when every cell is in MLflow."""
    parser = argparse.ArgumentParser(prog="python -m greenlab.sync", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--tracking-uri", help="default: the one that each cell was run with")
    parser.add_argument("--experiment", help="default: the one that each cell was run with")
    arguments = parser.parse_args()
    from greenlab import landing  # a second that --help does not wait for

    try:
        return landing.land_folders(arguments.folders, arguments.tracking_uri, arguments.experiment)
    except GreenlabError as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
