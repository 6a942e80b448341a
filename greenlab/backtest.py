"""Holds profiles against the full runs that they speak of: `python -m greenlab.backtest`.

The same as `python -m multirun_analysis backtest`, which reads MLflow and does the arithmetic; here
for whoever knows greenlab's commands alone. Exits with 2 where there is no pair to score.
"""

import sys

from multirun_analysis.__main__ import main as analyse


def main() -> int:
    """Hand the command line over."""
    return analyse(["backtest", *sys.argv[1:]], door="greenlab.backtest")


if __name__ == "__main__":
    raise SystemExit(main())
