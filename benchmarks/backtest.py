"""Short profiles held against whole jobs on this machine, model by model.

    python -m benchmarks.backtest --folder results --model lenet resnet18 --batch-size 16 32

Each model at each batch size is profiled first (`phase=profile`); a whole job of training and one
of inference follow, as long as `--job-s` asks and at least twenty times as long as the profile of
their kind, so that a profile is 5 % of its job at most. All land in one MLflow store in `--folder`;
at the end the back-test of that store is printed and every pair written to `pairs.csv`. In an order
drawn by `--seed`; what is there already is not measured again, so that a run that was stopped can
go on. Half an hour for the default on two cores. On a GPU:

    python -m benchmarks.backtest --folder results --batch-size 128 --num-samples 50000 \\
        --job-s 60 --hardware cuda
"""

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from greenlab.prediction import profiled
from greenlab.record import Record, cell_folders, read_record

ROOT = Path(__file__).parent.parent
MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
SHARE = 20
"""A job is this many times as long as the profile of its kind, at least."""
STEADY = ("idle.settle_s=1", "idle.window_s=2", "seed=0")


def run_greenlab(folder: Path, *arguments: str) -> None:
    """Run cells in `folder`, without their output unless they fail."""
    done = subprocess.run(
        [sys.executable, "-m", "greenlab", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}")


def read_cell(folder: Path) -> Record:
    """The record of the only cell there."""
    [found] = cell_folders(folder)
    return read_record(found)


def seconds_per_sample(record: Record, *, trains: bool) -> tuple[float, float]:
    """Of the stretches of one kind: seconds per sample, and their length together."""
    own = [one for one in profiled(record).stretches if one.trains == trains]
    active_s = sum(one.duration_s for one in own)
    return active_s / sum(one.num_samples for one in own), active_s


def measure(folder: Path, shared: list[str], options: argparse.Namespace) -> None:
    """Profile one model at one batch size, then train it and let it infer."""
    run_greenlab(
        folder,
        *shared,
        "phase=profile",
        f"phase.stretch_s={options.stretch_s}",
        f"phase.min_stretches={options.stretches}",
        f"phase.max_stretches={options.stretches}",
        "hydra.run.dir=profile",
    )
    record = read_cell(folder / "profile")
    assert record.measurement is not None, "the profile failed"
    assert record.measurement.splits is not None
    train_sample_s, train_s = seconds_per_sample(record, trains=True)
    epoch_s = train_sample_s * record.measurement.splits.train_samples
    epochs = math.ceil(max(options.job_s, SHARE * train_s) / epoch_s)
    _, inference_s = seconds_per_sample(record, trains=False)
    job_s = max(options.job_s, SHARE * inference_s)
    run_greenlab(folder, *shared, "phase=train", f"phase.epochs={epochs}", "hydra.run.dir=train")
    run_greenlab(
        folder,
        *shared,
        "phase=inference",
        f"phase.min_active_s={job_s:.0f}",
        "hydra.run.dir=inference",
    )


def main() -> int:
    """Measure what is missing, then print the back-test."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where all of it goes")
    parser.add_argument("--model", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[16, 32], metavar="N")
    parser.add_argument("--num-samples", type=int, default=256, help="of an epoch; default: 256")
    parser.add_argument("--job-s", type=float, default=30.0, help="least length; default: 30")
    parser.add_argument("--stretch-s", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--stretches", type=int, default=3, help="of each kind; default: 3")
    parser.add_argument("--hardware", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    options = parser.parse_args()
    folder = options.folder.resolve()
    store = f"sqlite:///{folder / 'mlflow.db'}"
    grid = [(model, size) for model in options.model for size in options.batch_size]
    random.Random(options.seed).shuffle(grid)
    began_s = time.monotonic()
    for number, (model, size) in enumerate(grid, start=1):
        place = folder / f"{model}-{size}"
        if (place / "done").exists():
            continue
        shutil.rmtree(place, ignore_errors=True)  # begun, and stopped half-way
        place.mkdir(parents=True)
        shared = [
            f"model={model}",
            f"batch_size={size}",
            f"hardware={options.hardware}",
            "dataset=synthetic",
            f"dataset.num_samples={options.num_samples}",
            f"mlflow.tracking_uri={store}",
            *STEADY,
        ]
        measure(place, shared, options)
        (place / "done").touch()
        minutes = (time.monotonic() - began_s) / 60
        print(f"{number} of {len(grid)}: {model}, batch size {size}; {minutes:.1f} min", flush=True)
    return subprocess.run(
        [sys.executable, "-m", "greenlab.backtest", "--tracking-uri", store, "--sweep", "all"],
        cwd=ROOT,
        check=False,
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
