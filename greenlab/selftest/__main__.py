"""Hold greenlab's joules against known watts: cells over simulated counters, measured as any cell.

Needs no hardware and no rights. Exits with 0 when every case holds, else with 1.
"""

import argparse
import sys
from collections.abc import Sequence

NUM_CELLS = 600
"""That --coverage makes up."""

EXAMPLES = """examples:
  python -m greenlab.selftest                 all cases, in about a minute
  python -m greenlab.selftest --case wrap     those whose name has "wrap" in it
  python -m greenlab.selftest --json          the same for a program
  python -m greenlab.selftest --coverage      do 95 % intervals hold the truth 95 % of the time?
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; see the module for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m greenlab.selftest",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--case", metavar="TEXT", default="", help="only cases with TEXT in a name")
    parser.add_argument(
        "--coverage",
        type=int,
        nargs="?",
        const=NUM_CELLS,
        metavar="N",
        help=f"how often intervals hold the truth, over N made-up cells (default {NUM_CELLS})",
    )
    chosen = parser.parse_args(arguments)
    if chosen.coverage is not None:
        if chosen.coverage < 1:
            parser.error(f"--coverage {chosen.coverage}: 1 or more cells")
        if chosen.case:
            parser.error("--coverage has no cases: leave out --case")
    # Here, and not above: what measures a cell takes a second to load, --help does without.
    from greenlab.selftest import report
    from greenlab.selftest.cases import CASES

    if chosen.coverage is not None:
        return report.cover(chosen.coverage, as_json=chosen.json)
    cases = [case for case in CASES if chosen.case.lower() in case.name.lower()]
    if not cases:
        names = "\n  ".join(case.name for case in CASES)
        parser.error(f"no case has {chosen.case!r} in its name; there are:\n  {names}")
    return report.hold(cases, as_json=chosen.json)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
