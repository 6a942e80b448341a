"""The loops of greenlab beside the paper's on CIFAR-10's shape: how many times as fast and lean.

    python -m benchmarks.training_loop

Each loop has a process of its own, for the allocator and the threads are a process's; both stand
ready and work by turns, so that what drifts meets both. The work is the same: network, number of
samples, distribution of crops and flips, optimiser, batch size (tests/test_paper_loop.py holds
their losses together). Where a counter can be read, the net joules of a sample stand beside the
seconds; modelled ones never do. `--also precision=bf16` adds greenlab's loops with other settings.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.results import Figure, open_parser, report
from greenlab.config import BatchSize, Config, Dataset, Model, Phase, PhaseKind, from_dict, to_dict

PAPER, GREENLAB = "paper", "greenlab"
BATCH_SIZE = 128
SAMPLES = {"lenet": (6400, 3), "mobilenet_v2": (256, 2), "resnet18": (128, 2), "vgg16": (128, 2)}
"""On a CPU: samples of a round of training, and how many times as many one of inference has; a
second or two at least in the slower loop."""
SAMPLES_ON_CUDA = (12_800, 2)
TARGETS = {
    ("lenet", "train"): "≥ 3",
    ("lenet", "inference"): "≥ 4.5",
    ("mobilenet_v2", "train"): "≥ 2.5",
    ("mobilenet_v2", "inference"): "≥ 2.5",
    ("resnet18", "train"): "≥ 1.1",
    ("resnet18", "inference"): "≥ 1.05",
}
"""Times as fast as the paper's loop, in fp32 on two cores of a CPU."""
IDLE_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One of the loops that are held side by side."""

    name: str
    overrides: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What a loop took for one round."""

    seconds: float
    num_samples: int
    net_j: float | None
    """Above idle, of all counters; None without any."""
    gpu_percent: float | None
    """Mean of NVML's utilisation."""


def configure(model: str, num_samples: int, overrides: Sequence[tuple[str, str]]) -> Config:
    """One cell of CIFAR-10's shape."""
    config = Config(
        model=Model(_target_=f"greenlab.models.{model}.{model}"),
        batch_size=BatchSize(size=BATCH_SIZE),
        phase=Phase(kind=PhaseKind.train, epochs=1000),
        dataset=Dataset(
            _target_="greenlab.data.synthetic.load", num_samples=num_samples, augment=True
        ),
    )
    return from_dict(to_dict(config) | dict(overrides))


def serve(asked: Connection, arm: Arm, model: str) -> None:
    """The life of a loop's process: build it, then work whenever asked to."""
    import torch

    from greenlab import data
    from greenlab.phases import infer_samples, train_one_epoch
    from greenlab.workload import build_workload

    on_cuda = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_cuda else torch.device("cpu")
    num_samples, times = SAMPLES_ON_CUDA if on_cuda else SAMPLES[model]
    config = configure(model, num_samples, arm.overrides)
    work: dict[str, Callable[[], object]]
    if arm.name == PAPER:
        from benchmarks.paper_loop import build_paper_loop

        loop = build_paper_loop(config, data.load(config.dataset, config.seed), device)
        work = {"train": loop.train, "inference": loop.test}
    else:
        workload = build_workload(config, device)
        work = {
            "train": lambda: train_one_epoch(workload).outcome(),
            "inference": lambda: infer_samples(workload).outcome(),
        }
    with metering(on_cuda) as metered:
        while (phase := asked.recv()) is not None:
            number = times if phase == "inference" else 1

            def go(phase: str = phase, number: int = number) -> None:
                for _ in range(number):
                    work[phase]()
                if on_cuda:
                    torch.cuda.synchronize()

            asked.send(replace(metered(go), num_samples=number * num_samples))


@contextmanager
def metering(on_cuda: bool) -> Iterator[Callable[[Callable[[], None]], Round]]:
    """A stopwatch with this machine's counters beside it."""
    from greenlab.config import CpuSource, DramSource, EnergySources, Hardware
    from greenlab.meters import open_meter

    sources = EnergySources()
    with open_meter(Hardware(energy_sources=sources), uses_cuda=on_cuda) as probe:
        modelled = set(probe.modelled)
    if "cpu" in modelled:
        sources.cpu = CpuSource.none
    if "dram" in modelled:
        sources.dram = DramSource.none
    with open_meter(Hardware(energy_sources=sources), uses_cuda=on_cuda) as meter:
        meter.begin()
        time.sleep(IDLE_S)
        idle = meter.end()
        idle_w = sum(idle.energy_j.values()) / idle.duration_s

        def measure(work: Callable[[], None]) -> Round:
            meter.begin()
            began_s = time.monotonic()
            work()
            took_s = time.monotonic() - began_s
            percent = gpu_percent() if on_cuda else None
            window = meter.end()
            gross_j = sum(window.energy_j.values()) if window.energy_j else None
            return Round(
                seconds=took_s,
                num_samples=0,
                net_j=None if gross_j is None else gross_j - idle_w * window.duration_s,
                gpu_percent=percent,
            )

        yield measure


def gpu_percent() -> float:
    """NVML's utilisation just now: of the last moments of the work, up to a second of it."""
    import torch

    return float(torch.cuda.utilization())


def compare(model: str, arms: Sequence[Arm], repetitions: int) -> dict[str, dict[str, list[Round]]]:
    """Rounds by phase and arm; the first of each is thrown away."""
    context = multiprocessing.get_context("spawn")
    loops: dict[str, tuple[Any, Connection]] = {}
    rounds: dict[str, dict[str, list[Round]]] = {}
    try:
        for arm in arms:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, arm, model), daemon=False)
            process.start()
            theirs.close()
            loops[arm.name] = process, ours
        for number in range(repetitions + 1):
            for phase in ("train", "inference"):
                by_arm = rounds.setdefault(phase, {arm.name: [] for arm in arms})
                names = list(loops) if number % 2 else list(reversed(loops))
                for name in names:
                    loops[name][1].send(phase)
                    taken = loops[name][1].recv()
                    if number:
                        by_arm[name].append(taken)
    finally:
        for process, ours in loops.values():
            if process.is_alive():
                try:
                    ours.send(None)
                except OSError:
                    process.terminate()
            process.join()
    return rounds


def figures(model: str, phase: str, by_arm: dict[str, list[Round]], on_cuda: bool) -> list[Figure]:
    """Samples per second of each loop, and how it stands to the paper's, turn by turn."""
    found = []
    papers = by_arm[PAPER]
    for name, rounds in by_arm.items():
        about = f"{model} {phase}, {name}"
        found.append(figure(about, "samples/s", [r.num_samples / r.seconds for r in rounds]))
        found.append(figure(about, "GPU %", [r.gpu_percent for r in rounds]))
        found.append(figure(about, "net J/sample", [per_sample_j(r) for r in rounds]))
        if name != PAPER:
            target = TARGETS.get((model, phase), "") if name == GREENLAB and not on_cuda else ""
            pairs = list(zip(papers, rounds, strict=True))
            times = [p.seconds / r.seconds for p, r in pairs]
            found.append(figure(about, "times as fast as the paper's", times, target))
            lean = [
                p.net_j / r.net_j for p, r in pairs if p.net_j is not None and r.net_j is not None
            ]
            found.append(figure(about, "times as few J as the paper's", lean))
    return [one for one in found if one is not None]


def per_sample_j(taken: Round) -> float | None:
    """Net joules."""
    return None if taken.net_j is None else taken.net_j / taken.num_samples


def figure(name: str, unit: str, values: Sequence[float | None], target: str = "") -> Figure | None:
    """None where the machine does not tell."""
    known = [value for value in values if value is not None]
    return Figure(name=name, unit=unit, values=known, target=target) if known else None


def main() -> int:
    """Compare and print; exit code 1 where a ratio falls short of its target."""
    parser = open_parser("training_loop", __doc__)
    parser.add_argument("--models", default=",".join(SAMPLES), help="default: %(default)s")
    parser.add_argument("--repetitions", type=int, default=5, help="default: 5")
    parser.add_argument(
        "--also", action="append", default=[], metavar="K=V[,K=V]", help="another loop of greenlab"
    )
    options = parser.parse_args()
    others = [
        Arm(name=f"greenlab {text}", overrides=tuple(map(split, text.split(","))))
        for text in options.also
    ]
    arms = [Arm(name=PAPER), Arm(name=GREENLAB), *others]
    import torch

    found: list[Figure] = []
    for model in options.models.split(","):
        for phase, by_arm in compare(model, arms, options.repetitions).items():
            found += figures(model, phase, by_arm, torch.cuda.is_available())
    return report("greenlab's loops beside the paper's", found, options.json)


def split(text: str) -> tuple[str, str]:
    """`key=value`, of config.EXECUTION."""
    key, _, value = text.partition("=")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
