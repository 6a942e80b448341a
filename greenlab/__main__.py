"""The front door: `python -m greenlab`, and the console script `greenlab`."""

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType

import hydra
from hydra._internal.hydra import Hydra

from greenlab import sweep
from greenlab.grid import CONF

SWEEP_SETTINGS = {"repetitions", "resume", "plan"}


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends a sweep as cleanly as Ctrl-C does."""


def main() -> None:
    """Run what the command line asks for; the exit code is 1 if a cell failed."""
    sys.path.insert(
        0, str(Path.cwd())
    )  # models of one's own; `python -m` does it, a script does not
    if {"-m", "--multirun"} & set(sys.argv):
        # Hydra would compose everything once more to find out; told nothing, it goes by -m.
        Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    else:
        _ask_for_multirun()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        hydra.main(version_base=None, config_path=str(CONF), config_name="config")(sweep.run_cell)()
    except KeyboardInterrupt as interrupt:
        if sweep.open_sweep is not None:
            sweep.end("KILLED")
        with contextlib.suppress(OSError):  # the terminal may be what is gone
            print("greenlab: stopped; what was measured is kept", file=sys.stderr, flush=True)
        sys.exit(143 if isinstance(interrupt, Terminated) else 130)
    finally:
        if sweep.open_sweep is not None:  # something broke outside the cells
            sweep.end("FAILED")


def _ask_for_multirun() -> None:
    """Where a setting means a sweep, if of a single cell."""
    for place, argument in enumerate(sys.argv):
        if argument.partition("=")[0] in SWEEP_SETTINGS:
            # Beside it: an override that comes after an option like --config-dir is not understood.
            sys.argv.insert(place, "hydra.mode=MULTIRUN")
            break


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


if __name__ == "__main__":
    main()
