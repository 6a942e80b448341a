"""The measured window beside the same steps in a bare loop: what measuring adds.

    python -m benchmarks.overhead

One process holds one workload. By turns an epoch runs as a cell runs it (greenlab's loop, the meter
open, the sampler at 10 Hz, the account) and in a bare loop over the same batches, with no greenlab
but what makes these. Batches are made in both: cropping, flipping and normalising are work that was
asked for; their part is told by itself, from a bare loop over batches that lie ready. Exits with 1
where the median of the pairs exceeds 1 %.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.results import Figure, open_parser, report
from benchmarks.training_loop import configure
from greenlab.account import OpenAccount
from greenlab.config import Hardware
from greenlab.meters import open_meter
from greenlab.meters.gpu_probe import open_probes
from greenlab.phases import infer_samples, train_one_epoch
from greenlab.sampler import Sampler
from greenlab.workload import Workload, build_workload

SAMPLES = {"lenet": 8192, "resnet18": 128}
"""Of an epoch on a CPU: a second or more."""
SAMPLES_ON_CUDA = 25_600
ROUNDS_OF_INFERENCE = 3
MOST = 1.01
"""Of the bare loop's time."""
PERIOD_S = 0.1
Batch = tuple[Tensor, Tensor]


def train_bare(workload: Workload, batches: Iterable[Batch]) -> None:
    """What anyone would write."""
    workload.model.train()
    for images, labels in batches:
        workload.optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(workload.model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        workload.optimiser.step()
    workload.synchronise()


@torch.inference_mode()
def infer_bare(workload: Workload, batches: Iterable[Batch]) -> None:
    """Scores, and their loss."""
    workload.model.eval()
    for images, labels in batches:
        functional.cross_entropy(workload.model(images), labels)
    workload.synchronise()


def take(work: Callable[[], object]) -> float:
    """Seconds."""
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def measured(workload: Workload, epoch: Callable[[], object], folder: Path) -> float:
    """Seconds of an epoch under meter, sampler and account, as experiment.py has it."""
    uses_cuda = workload.device.type == "cuda"
    with (
        open_meter(Hardware(), uses_cuda=uses_cuda) as meter,
        OpenAccount(folder, meter) as account,
        Sampler(meter, PERIOD_S, account.beat) as sampler,
    ):
        sampler.record(folder, open_probes(meter.sources, uses_cuda=uses_cuda))
        meter.begin()
        epoch()
        workload.synchronise()
        window = meter.lap()
        account.keep("pass", window)
        meter.end()
        sampler.finish()
    return window.duration_s


def compare(model: str, repetitions: int, folder: Path) -> list[Figure]:
    """Ratios of neighbouring rounds, in training and in inference."""
    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_cuda else torch.device("cpu")
    workload = build_workload(
        configure(model, SAMPLES_ON_CUDA if on_cuda else SAMPLES[model], []), device
    )
    found = []
    for phase, ours, bare, batches in (
        ("train", train_one_epoch, train_bare, workload.train),
        ("inference", infer_samples, infer_bare, workload.test),
    ):
        ready = list(batches)
        go_round = 1 if phase == "train" else ROUNDS_OF_INFERENCE

        def again(work: Callable[[], object], number: int = go_round) -> None:
            for _ in range(number):
                work()

        arms: dict[str, Callable[[], float]] = {
            "measured": partial(
                measured, workload, partial(again, partial(ours, workload)), folder
            ),
            "bare": partial(take, partial(again, partial(bare, workload, batches))),
            "ready": partial(take, partial(again, partial(bare, workload, ready))),
        }
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(repetitions + 1):
            for name in arms if number % 2 else reversed(arms):
                taken[name].append(arms[name]())
        for values in taken.values():
            del values[0]  # the first warms up
        pairs = [m / b for m, b in zip(taken["measured"], taken["bare"], strict=True)]
        making = [b / r - 1 for b, r in zip(taken["bare"], taken["ready"], strict=True)]
        about = f"{model} {phase}"
        rate = go_round * workload.train.num_samples / statistics.median(taken["bare"])
        found += [
            Figure(
                name=f"{about}, measured window",
                unit="of the bare loop's time",
                values=pairs,
                target=f"≤ {MOST}",
            ),
            Figure(name=f"{about}, making batches", unit="of the steps' time", values=making),
            Figure(name=f"{about}, bare loop", unit="samples/s", values=[rate]),
        ]
    return found


def main() -> int:
    """Compare and print; see the module for the exit code."""
    parser = open_parser("overhead", __doc__)
    parser.add_argument("--models", default=",".join(SAMPLES), help="default: %(default)s")
    parser.add_argument("--repetitions", type=int, default=7, help="default: 7")
    options = parser.parse_args()
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="greenlab-") as folder:
        for model in options.models.split(","):
            found += compare(model, options.repetitions, Path(folder))
    return report("What measuring adds", found, options.json)


if __name__ == "__main__":
    sys.exit(main())
