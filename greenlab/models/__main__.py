"""What every model of the configuration weighs: `python -m greenlab.models`.

Networks are built and counted on the CPU, nothing is measured. Exits with 1 when a model cannot be
built or counted; the others are shown all the same.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  python -m greenlab.models                                   every model, at the data's shape
  python -m greenlab.models model=resnet18                    one, with its MACs by layer type
  python -m greenlab.models --config-dir my_conf --json       your own too, for a program
  python -m greenlab.models dataset=synthetic dataset.image_size=64 dataset.num_classes=100
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the cards; see the module for the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m greenlab.models",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="options of your own")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument(
        "overrides", nargs="*", help="as for python -m greenlab: model=… dataset=… key=value"
    )
    chosen = parser.parse_args(arguments)
    if chosen.config_dir is not None and not chosen.config_dir.is_dir():
        parser.error(f"--config-dir {chosen.config_dir} is no folder")
    from greenlab import model_cards  # torch: seconds that --help does not wait for

    return model_cards.show(chosen.overrides, chosen.config_dir, as_json=chosen.json)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
