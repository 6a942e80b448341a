"""The front door: `python -m multirun_analysis [export] …`, `… compare A B …` and `… backtest`.

Exit code 2 is for what was asked wrongly, 130 for Ctrl-C; 0 and 1 are the command's own.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

from greenlab.errors import GreenlabError
from multirun_analysis.commands import COMMANDS, DEFAULT

NEEDED = ("IPython", "ipykernel", "jupytext", "nbclient", "nbconvert", "sqlalchemy")
"""What greenlab's `analysis` extra brings."""


def main(argv: Sequence[str], door: str = "") -> int:
    """Run a command and return the exit code; `door` is the module that was typed instead."""
    name, rest = (argv[0], argv[1:]) if argv and argv[0] in COMMANDS else (DEFAULT, argv)
    if missing := [library for library in NEEDED if find_spec(library) is None]:
        print(
            f"{door or 'multirun_analysis'}: {', '.join(missing)} missing. Install them with "
            "pip install 'greenlab[analysis]' (in a checkout: make setup)",
            file=sys.stderr,
        )
        return 2
    parser = argparse.ArgumentParser(
        prog=f"python -m {door or f'multirun_analysis {name}'}",
        description=COMMANDS[name].__doc__,
        epilog=None if door else "Commands: " + ", ".join(f"{other} --help" for other in COMMANDS),
    )
    COMMANDS[name](parser)
    arguments = parser.parse_args(rest)
    command = import_module(f"multirun_analysis.{name}")  # seconds, for pandas and SciPy
    try:
        return int(command.main(arguments))
    except GreenlabError as error:
        print(f"{door or 'multirun_analysis'}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("multirun_analysis: stopped; nothing half-made is left", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
