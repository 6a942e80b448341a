"""Images per second of greenlab's batches and of a DataLoader over PIL images; CIFAR-10's loading.

    python -m benchmarks.data_loading --json data_loading.json

Random bytes of CIFAR-10's shape and file format, batches of 128, on this machine's CPU: the loop
takes batches and does nothing with them. All ways run by turns, so that what drifts meets all; the
streamed one reads a file mapped into memory, which the page cache holds. The DataLoader is what
most code has: PIL images through torchvision's RandomCrop, RandomHorizontalFlip, ToTensor and
Normalize, without workers. Loading is timed in a fresh process, from the call on, with all that it
imports; the first time decodes, the second finds that done.
"""

import argparse
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.paper_loop import Pictures, as_the_paper_does
from benchmarks.results import Figure, open_parser, report
from greenlab import data
from greenlab.config import Dataset
from greenlab.data import Batches, Data, ResidentBatches, StreamedBatches
from greenlab.environment import describe_environment

ROOT = Path(__file__).parent.parent
BATCH_SIZE = 128
LOADER = "greenlab.data.cifar10.load"
UNPACKED = "cifar-10-batches-py"
SUMS_FILE = "sums.json"
LOAD_TARGETS = {"first load of CIFAR-10": "", "second load of CIFAR-10": "≤ 2"}


# --- files of CIFAR-10's format


def write_files(folder: Path) -> None:
    """Random images in CIFAR-10's files, and the sums that torchvision shall find in them."""
    random = np.random.default_rng(0)
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    contents: dict[str, dict[str, Any]] = {
        name: {
            "data": random.integers(0, 256, (10_000, 3072), dtype=np.uint8),
            "labels": random.integers(0, 10, 10_000).tolist(),
        }
        for name in names
    }
    contents["batches.meta"] = {"label_names": list("abcdefghij")}
    (folder / UNPACKED).mkdir()
    sums = {}
    for name, content in contents.items():
        packed = pickle.dumps(content, 2)
        (folder / UNPACKED / name).write_bytes(packed)
        sums[name] = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    (folder / SUMS_FILE).write_text(json.dumps(sums))


def accept_files(folder: Path) -> None:
    """Let torchvision take these files for CIFAR-10."""
    from torchvision.datasets import CIFAR10

    sums = json.loads((folder / SUMS_FILE).read_text())
    meta = CIFAR10.meta | {"md5": sums.pop("batches.meta")}
    pairs = [[name, found] for name, found in sums.items()]
    CIFAR10.train_list, CIFAR10.test_list, CIFAR10.meta = pairs[:-1], pairs[-1:], meta


def time_load(folder: Path) -> float:
    """Seconds of a load in this process, decoding where that is not done yet."""
    began_s = time.monotonic()
    if not any(folder.glob("*.cache")):
        accept_files(folder)  # the import that this takes is one that decoding would do
    loaded = data.load(Dataset(_target_=LOADER, folder=str(folder)), seed=0)
    took_s = time.monotonic() - began_s
    assert (len(loaded.train), len(loaded.test)) == (50_000, 10_000)
    return took_s


def load_in_a_process(folder: Path) -> float:
    """`time_load` in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data_loading", "--load", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return float(done.stdout)


def time_loads(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of first and second loads, by turns."""
    took: dict[str, list[float]] = {name: [] for name in LOAD_TARGETS}
    for _ in range(rounds):
        for cache in folder.glob("*.cache"):
            shutil.rmtree(cache)
        for values in took.values():
            values.append(load_in_a_process(folder))
    return took


# --- ways of feeding


def ways_of_feeding(loaded: Data) -> dict[str, Iterable[Any]]:
    """What yields batches of images and labels, by name."""

    def batches(kind: type[Batches], *, train: bool) -> Batches:
        split = loaded.train if train else loaded.test
        return kind(
            split,
            batch_size=BATCH_SIZE,
            device=torch.device("cpu"),
            mean=loaded.mean,
            std=loaded.std,
            num_samples=len(split),
            shuffle_generator=torch.Generator().manual_seed(0) if train else None,
            augment=train,
        )

    pictures = Pictures(loaded.train, transforms.Compose(as_the_paper_does(loaded, augment=True)))
    return {
        "resident, training": batches(ResidentBatches, train=True),
        "resident, test": batches(ResidentBatches, train=False),
        "streamed, training": batches(StreamedBatches, train=True),
        "streamed, test": batches(StreamedBatches, train=False),
        "DataLoader of PIL images, training": DataLoader(pictures, BATCH_SIZE, shuffle=True),
    }


def feed(batches: Iterable[Any], seconds: float) -> tuple[float, float]:
    """Images per second, and microseconds of CPU (user and system) per image."""
    num_images = 0
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    while (took_s := time.monotonic() - began_s) < seconds:
        for images, _ in batches:
            num_images += len(images)
            if time.monotonic() - began_s >= seconds:
                break
    return num_images / took_s, 1e6 * (time.process_time() - cpu_began_s) / num_images


def feed_by_turns(
    ways: dict[str, Iterable[Any]], rounds: int, seconds: float
) -> dict[str, list[tuple[float, float]]]:
    """What `feed` says of each way, once per round after one that is not counted."""
    fed: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for counted in [False] + [True] * rounds:
        for name, batches in ways.items():
            speed = feed(batches, seconds if counted else seconds / 4)
            if counted:
                fed[name].append(speed)
    return fed


# --- report


def describe_machine() -> str:
    """Processor, cores and torch."""
    here = describe_environment()
    return (
        f"{here.cpu_name}, {here.num_logical_cpus} logical CPUs, torch {torch.__version__} on "
        f"{torch.get_num_threads()} threads"
    )


def measure(rounds: int, seconds: float) -> list[Figure]:
    """All of it, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="greenlab-data-") as place:
        folder = Path(place)
        write_files(folder)
        figures = [
            Figure(name=name, unit="s", values=took, target=LOAD_TARGETS[name])
            for name, took in time_loads(folder, rounds).items()
        ]
        loaded = data.load(Dataset(_target_=LOADER, folder=place), seed=0)
        fed = feed_by_turns(ways_of_feeding(loaded), rounds, seconds)
    for name, speeds in fed.items():
        per_s, cpu_us = (list(values) for values in zip(*speeds, strict=True))
        figures.append(Figure(name=name, unit="images/s", values=per_s))
        figures.append(Figure(name=f"{name}, CPU", unit="µs/image", values=cpu_us))
    return figures


def main() -> int:
    """Measure, print the table, and write it down where that is asked for."""
    parser = open_parser("data_loading", __doc__)
    parser.add_argument("--seconds", type=float, default=0.8, help="per way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)  # of the process within
    options = parser.parse_args()
    if options.load is not None:
        print(time_load(options.load))
        return 0
    figures, machine = measure(options.rounds, options.seconds), describe_machine()
    return report(
        f"Loading and feeding images of CIFAR-10's shape: {machine}", figures, options.json
    )


if __name__ == "__main__":
    raise SystemExit(main())
