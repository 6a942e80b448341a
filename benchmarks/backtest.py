"""Short profiles held against full runs, on this machine or on simulated ones.

    python -m benchmarks.backtest --folder results --model lenet mobilenet --batch-size 4 8

Each model at each batch size is profiled first (`phase=profile`); a full run of training and one of
inference follow, as long as `--job-s` asks and more than twenty times as long as the profile of
their kind, so that a profile is 5 % of its job at most. All land in one MLflow store in `--folder`;
at the end the back-test of that store is printed and every pair written to `pairs.csv`. In an order
drawn by `--seed`; what is there already is not measured again, so that a run that was stopped goes
on with the same command. Half an hour for the default, 44 pairs, on two quiet cores. On a GPU:

    python -m benchmarks.backtest --folder results --batch-size 128 --job-s 60 --hardware cuda

`--simulated N` measures N pairs on simulated machines that drift instead: simulated_pairs.py.
"""

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir

from benchmarks.pair_cells import DONE_FILE, SHARE, active_s, make_cell
from benchmarks.simulated_pairs import measure_pairs
from greenlab import config as configuration
from greenlab import run, survey, tracking
from greenlab.config import Config, Mlflow, Phase, PhaseKind
from greenlab.machine_lock import machine_lock
from greenlab.record import Record

ROOT = Path(__file__).parent.parent
MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
LIGHT = (
    *("lenet", "mobilenet", "mobilenet_v2", "shufflenet_v2", "regnetx_200mf", "efficientnet_b0"),
    *("pnasnet", "resnet18", "preact_resnet18", "senet18", "dpn26"),
)
"""The default: those of which a step of a few samples is short on two cores."""
PASSES = 4
"""A full run of training has about so many epochs, or more."""
SAMPLES = (128, 8192)
"""The fewest and the most that an epoch has: each is metered by itself, and costs a reading."""


def base_config(model: str, batch_size: int, options: argparse.Namespace) -> Config:
    """What profile and full runs of a model at a batch size share, as greenlab composes it."""
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        composed = compose(
            "config",
            [
                *(f"model={model}", f"batch_size={batch_size}", f"hardware={options.hardware}"),
                *("dataset=synthetic", "phase=train", "seed=0"),
                *(f"idle.settle_s={options.settle_s}", f"idle.window_s={options.window_s}"),
            ],
        )
    return configuration.from_omegaconf(composed)


def size_epoch(config: Config, batch_s: float, options: argparse.Namespace) -> Config:
    """So many samples that a full run has about `PASSES` epochs."""
    size = config.batch_size.size
    fewest, most = SAMPLES
    num_batches = max(1, round(options.job_s / PASSES / batch_s))
    num_samples = min(max(num_batches * size, fewest), most)
    return replace(config, dataset=replace(config.dataset, num_samples=num_samples))


def profile_phase(options: argparse.Namespace) -> Phase:
    """Short stretches of both kinds, always the same number of them."""
    return Phase(
        kind=PhaseKind.profile,
        stretch_s=options.stretch_s,
        min_stretches=options.stretches,
        max_stretches=options.stretches,
    )


def full_phases(profile: Record, options: argparse.Namespace) -> list[Phase]:
    """Training and inference, each so long that the profile is a twentieth of it at most."""
    assert profile.measurement is not None
    assert profile.measurement.splits is not None
    train_s, sample_s = active_s(profile, trains=True)
    epoch_s = sample_s * profile.measurement.splits.train_samples
    inference_s, _ = active_s(profile, trains=False)
    return [
        Phase(
            kind=PhaseKind.train,
            epochs=math.ceil(max(options.job_s, SHARE * train_s) / epoch_s),
        ),
        Phase(kind=PhaseKind.inference, min_active_s=max(options.job_s, SHARE * inference_s)),
    ]


def measure_group(folder: Path, config: Config, model: str, options: argparse.Namespace) -> None:
    """Profile one model at one batch size, then train it and let it infer; land all three.

    Raises:
        SystemExit: a cell failed.
    """
    store = tracking.open_store(settings(options.folder))
    profile = measure(folder / "profile", replace(config, phase=profile_phase(options)), model)
    store.land(folder / "profile")
    for phase in full_phases(profile, options):
        measure(folder / phase.kind.name, replace(config, phase=phase), model)
        store.land(folder / phase.kind.name)


def measure(folder: Path, config: Config, model: str) -> Record:
    """One cell, in a process of its own, as `python -m greenlab` has it measured."""
    cell = make_cell(config, model=model, uid=uuid.uuid4().hex, at_s=time.time())
    record = run.measure_in_own_process(cell, folder)
    if record.measurement is None:
        raise SystemExit(f"{folder}: {record.failure}")
    return record


def settings(folder: Path) -> Mlflow:
    """The store of a folder of pairs."""
    return Mlflow(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def measure_here(options: argparse.Namespace) -> None:
    """Measure what is missing of the grid on this machine."""
    grid = [(model, size) for model in options.model for size in options.batch_size]
    random.Random(options.seed).shuffle(grid)
    missing = [
        (model, size)
        for model, size in grid
        if not (options.folder / f"{model}-{size}" / DONE_FILE).exists()
    ]
    if not missing:
        return
    configs = [base_config(model, size, options) for model, size in missing]
    with machine_lock(configs[0].lock):
        run.start_server(configs)
        batches_s = run.ask("the rehearsal", survey.rehearse_cells, configs)
        began_s = time.monotonic()
        for number, ((model, size), config, batch_s) in enumerate(
            zip(missing, configs, batches_s, strict=True), start=1
        ):
            place = options.folder / f"{model}-{size}"
            shutil.rmtree(place, ignore_errors=True)  # begun, and stopped half-way
            measure_group(place, size_epoch(config, batch_s or math.inf, options), model, options)
            (place / DONE_FILE).touch()
            minutes = (time.monotonic() - began_s) / 60
            name = f"{model}, batch size {size}"
            print(f"{number} of {len(missing)}: {name}; {minutes:.1f} min", flush=True)


def measure_simulated(options: argparse.Namespace) -> None:
    """Measure so many pairs on simulated machines; the store has each cell once."""
    store = tracking.open_store(settings(options.folder))
    began_s = time.monotonic()
    pairs = measure_pairs(
        options.folder,
        options.simulated,
        seed=options.seed,
        stretch_s=options.stretch_s,
        max_stretches=2 * options.stretches,
    )
    for number, folders in enumerate(pairs, start=1):
        for folder in folders:
            store.land(folder)
        minutes = (time.monotonic() - began_s) / 60
        print(f"{number} of {options.simulated}: {folders[1].name}; {minutes:.1f} min", flush=True)


def main() -> int:
    """Measure what is missing, then print the back-test."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backtest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--folder", type=Path, required=True, help="where all of it goes")
    parser.add_argument("--model", nargs="+", default=LIGHT, choices=MODELS, metavar="NAME")
    parser.add_argument("--batch-size", nargs="+", type=int, default=[4, 8], metavar="N")
    parser.add_argument("--job-s", type=float, default=20.0, help="least length; default: 20")
    parser.add_argument("--stretch-s", type=float, default=0.3, help="default: 0.3")
    parser.add_argument("--stretches", type=int, default=3, help="of each kind; default: 3")
    parser.add_argument("--settle-s", type=float, default=0.5, help="default: 0.5")
    parser.add_argument("--window-s", type=float, default=1.0, help="of idle; default: 1")
    parser.add_argument("--hardware", default="auto")
    parser.add_argument("--seed", type=int, default=0, help="of the order, and of what is drawn")
    parser.add_argument("--simulated", type=int, metavar="N", help="pairs on simulated machines")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.simulated:
        measure_simulated(options)
    else:
        measure_here(options)
    return subprocess.run(
        [
            *(sys.executable, "-m", "greenlab.backtest"),
            *("--tracking-uri", str(settings(options.folder).tracking_uri)),
            *("--csv", str(options.folder / "pairs.csv")),
        ],
        cwd=ROOT,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main())
