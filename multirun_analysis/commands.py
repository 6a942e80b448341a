"""What the commands take, and what --help says of them, without pandas and SciPy.

Each is done by the module of its name, which is imported once its options are understood.
"""

import argparse
import math
from pathlib import Path

from greenlab.config import Mlflow

ALL, NEWEST, PREVIOUS = "all", "newest", "previous"
"""What a sweep may be called by instead of its name."""
EXPORTS = Path("multirun_analysis/exports")
METRICS = ("energy/net_per_sample_j", "time/per_sample_s")
"""That sweeps are compared in."""


def export(parser: argparse.ArgumentParser) -> None:
    """Executes the notebooks over a sweep and writes what a person reads: `make analysis`.

    A folder of pages that need no network, with every figure as PNG and SVG and every table as
    CSV. It is made beside its place and moved there whole, so that no half of it is ever found
    under its name.
    """
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--experiment", default=Mlflow().experiment, help="default: %(default)s")
    parser.add_argument("--sweep", help="a sweep's name, `A,B`, or `all`; default: the newest")
    parser.add_argument(
        "--where", help="only some cells: \"model == 'lenet' and batch_size >= 64\""
    )
    parser.add_argument("--against", help="the sweep that `compare` holds it against")
    parser.add_argument("--only", help="some notebooks: macs,claims")
    parser.add_argument(
        "--output", type=Path, default=EXPORTS, help="where <sweep>/ goes; default: %(default)s"
    )
    parser.add_argument(
        "--log", action="store_true", help="log the export to the sweep's run in MLflow as well"
    )


def compare(parser: argparse.ArgumentParser) -> None:
    """One sweep against another, from the command line, and a gate for CI.

    Before and after a change, two machines, two power limits: `python -m multirun_analysis compare
    BEFORE AFTER --gate 1.05` prints the ratios B / A and exits 1 where B is significantly worse
    than the gate, so that a test of energy can stand in CI beside the tests of behaviour.
    """
    named = f"a sweep's name, `{NEWEST}` or `{PREVIOUS}`"
    parser.add_argument("a", metavar="A", help=f"what is compared with: {named}")
    parser.add_argument("b", metavar="B", help=f"what is judged: {named}")
    parser.add_argument(
        "--metric", action="append", help=f"may be repeated; default: {' and '.join(METRICS)}"
    )
    parser.add_argument(
        "--gate",
        type=_factor,
        metavar="RATIO",
        help="exit 1 where B is significantly worse than RATIO times A, 2 where none can tell",
    )
    parser.add_argument("--where", help="some cells of both: \"model == 'lenet'\"")
    parser.add_argument("--series-a", help="which of A's series, where it has several")
    parser.add_argument("--series-b", help="which of B's series, where it has several")
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--experiment", default=Mlflow().experiment)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there too")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there too")


def backtest(parser: argparse.ArgumentParser) -> None:
    """Predictions of profiles held against the full runs that they speak of: how good were they?

    Every full run of an experiment is held against the newest profile (phase=profile) of its job
    on the same machine. Printed are how often the truth lay in the 95 % interval and the mean
    absolute error: over all pairs, by phase, by model, and for shorter profiles, made by leaving
    out the last stretches of each. Machines and sources are never pooled; ~ stands before energy
    that is modelled.
    """
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--experiment", default=Mlflow().experiment, help="default: %(default)s")
    parser.add_argument(
        "--sweep",
        default=ALL,
        help="profiles and full runs of these sweeps alone, `A,B` or `newest`; default: all",
    )
    parser.add_argument("--where", help="some full runs: \"model == 'lenet'\"")
    parser.add_argument("--json", action="store_true", help="print the same for programs to read")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every pair there too")


COMMANDS = {"export": export, "compare": compare, "backtest": backtest}
"""Each declares its options, and is described by its docstring."""
DEFAULT = "export"


def _factor(text: str) -> float:
    value = float(text)
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"{text}: a ratio above 0 is wanted, such as 1.05")
    return value
