"""What a sweep advises, from beyond its noise only: `python -m greenlab.advise`.

The batch size of least energy that is nearly as fast as the fastest, the power limit of least
energy, the models that no other beats in accuracy and energy, settings that save without losing
accuracy: sentences with numbers, 95 % intervals and runs. What is not advised is said with the
reason, and the command that would decide it. Exits with 0, whether there is advice or none, and
with 2 when the sweep cannot be read.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from greenlab.config import Mlflow
from greenlab.errors import GreenlabError
from greenlab.terminal import open_console

if TYPE_CHECKING:
    from multirun_analysis.advice import Advised

EXAMPLES = """examples:
  python -m greenlab.advise                          the newest sweep
  python -m greenlab.advise --sweep all --within 5   every cell; batch sizes near the best time
  python -m greenlab.advise --inferences 1000000     models by training and a million inferences
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; see the module for the exit code."""
    chosen = _parse(arguments)
    # Here, and not above: they load pandas and SciPy, which --help does without.
    from multirun_analysis import advice, runs

    try:
        loaded = runs.load(chosen.tracking_uri, chosen.experiment, chosen.sweep, chosen.where)
    except GreenlabError as error:
        print(f"python -m greenlab.advise: error: {error}", file=sys.stderr)
        return 2
    for remark in loaded.remarks:
        print(remark, file=sys.stderr)
    advised = advice.advise(
        loaded.cells, within_fraction=chosen.within / 100, num_inferences=chosen.inferences
    )
    if chosen.json:
        print(json.dumps(as_json(loaded.name, advised), indent=2, ensure_ascii=False))
    else:
        _print(loaded.name, len(loaded.cells), advised)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m greenlab.advise",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sweep", help="a sweep's name, `A,B`, `previous` or `all`; default: the newest"
    )
    parser.add_argument(
        "--within",
        type=_not_negative,
        default=10.0,
        metavar="PERCENT",
        help="so much longer than the fastest may an advised batch size take; default: 10",
    )
    parser.add_argument(
        "--inferences",
        type=_not_negative,
        metavar="N",
        help="by which models are judged, beside their training; default: as many as take 70 "
        "parts of energy to 20 of all training (the paper's share)",
    )
    parser.add_argument("--where", help="only some cells: \"model == 'lenet'\"")
    parser.add_argument("--tracking-uri", help="default: $MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--experiment", default=Mlflow().experiment, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the same for programs to read")
    return parser.parse_args(arguments)


def _not_negative(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number of 0 or more is wanted")
    return value


def as_json(sweep: str, advised: "Advised") -> dict[str, object]:
    """Everything in words that JSON has: what is not known is null."""
    return {
        "sweep": sweep,
        "num_comparisons": advised.num_comparisons,
        "advice": [_known(asdict(one)) for one in advised.advice],
        "undecided": [_known(asdict(one)) for one in advised.undecided],
    }


def _known(value: object) -> object:
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(sweep: str, num_cells: int, advised: "Advised") -> None:
    from multirun_analysis.advice import KINDS
    from multirun_analysis.advice_table import together

    lines = [f"{sweep}: {num_cells:,} cells, {advised.num_comparisons:,} comparisons"]
    for kind, title in KINDS.items():
        texts = [one.text for one in advised.advice if one.kind == kind]
        lines += ["", title, *(f"- {text}" for text in texts)] if texts else []
    if not advised.advice:
        lines += ["", "No advice: nothing here is told apart beyond the noise."]
    if advised.undecided:
        lines += ["", "Not advised (to the commands add whatever else the sweep was run with)"]
    for one in together(advised.undecided):
        lines.append(f"- {one.about}: {one.reason}." if one.about else f"- {one.reason}.")
        lines += [f"  decided by: {one.command}"] if one.command else []
    if advised.advice:
        lines += [
            "",
            "In brackets: 95 % intervals, as wide as everything that each advice was picked from "
            f"needs together; differences count after Holm's correction for all "
            f"{advised.num_comparisons:,} comparisons.",
        ]
    console = open_console()
    console.print("\n".join(lines), markup=False, emoji=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(main())
