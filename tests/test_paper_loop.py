"""The loop of greenlab learns what the paper's does: the same work, faster."""

import statistics
from dataclasses import replace

import pytest
import torch
from conftest import make_config

from benchmarks.paper_loop import build_paper_loop
from benchmarks.training_loop import Round, configure, figures
from greenlab import data, phases
from greenlab.config import Config
from greenlab.workload import build_workload

CPU = torch.device("cpu")
SEEDS = range(5)
EPOCHS = 4


def make(seed: int) -> Config:
    return make_config(
        *("model=lenet", "dataset=synthetic", "dataset.num_samples=256", "batch_size=32"),
        *("dataset.augment=true", "hardware=cpu", f"seed={seed}"),
        *(f"phase.epochs={EPOCHS}", "phase.learning_rate=0.02"),
    )


def papers(config: Config) -> list[float]:
    loop = build_paper_loop(config, data.load(config.dataset, config.seed), CPU)
    return [loop.train() for _ in range(EPOCHS)]


def greenlabs(config: Config) -> list[float]:
    running = build_workload(config, CPU)
    rates = running.optimiser.param_groups
    losses = []
    for _ in range(EPOCHS):
        losses.append(phases.train_one_epoch(running).outcome().loss)
        rates[0]["lr"] = config.phase.learning_rate  # the paper's loop is built without schedule
    return losses


def differences(ours: list[list[float]], theirs: list[list[float]]) -> tuple[float, float]:
    """Mean over seeds of the difference in all epochs' mean loss, and its standard error."""
    each = [statistics.mean(a) - statistics.mean(b) for a, b in zip(ours, theirs, strict=True)]
    return statistics.mean(each), statistics.stdev(each) / len(each) ** 0.5


# Order, crops and flips are drawn anew in each; weights begin the same. Five seeds tell a slower
# learner by far, and the same one within three standard errors.
def test_the_two_loops_learn_alike() -> None:
    theirs = [papers(make(seed)) for seed in SEEDS]
    ours = [greenlabs(make(seed)) for seed in SEEDS]
    other = make(0).phase
    slower = [
        greenlabs(replace(make(seed), phase=replace(other, learning_rate=0.005))) for seed in SEEDS
    ]

    mean, error = differences(ours, theirs)
    assert abs(mean) < 3 * error
    mean, error = differences(slower, theirs)
    assert abs(mean) > 3 * error
    assert all(losses[-1] < losses[0] for losses in theirs)


def test_both_score_the_same_network_alike() -> None:
    config = make(3)
    running = build_workload(config, CPU)
    loop = build_paper_loop(config, data.load(config.dataset, config.seed), CPU)

    assert phases.infer_samples(running).outcome().loss == pytest.approx(loop.test(), rel=1e-4)


def test_a_benchmark_trains_as_the_paper_does() -> None:
    config = configure("lenet", 256, [("precision", "bf16")])

    assert (config.batch_size.size, config.dataset.augment) == (128, True)
    assert config.precision.name == "bf16"
    assert config.phase.learning_rate == 0.001


# 100 samples: 2 s and 8 J against 0.5 s and 1 J; then 4 s and 8 J against 1 s and 4 J.
def test_ratios_are_taken_turn_by_turn() -> None:
    def rounds(*taken: tuple[float, float]) -> list[Round]:
        return [Round(seconds=s, num_samples=100, net_j=j, gpu_percent=None) for s, j in taken]

    by_arm = {"paper": rounds((2.0, 8.0), (4.0, 8.0)), "greenlab": rounds((0.5, 1.0), (1.0, 4.0))}
    found = {(one.name, one.unit): one.values for one in figures("lenet", "train", by_arm, False)}

    assert found["lenet train, greenlab", "times as fast as the paper's"] == [4.0, 4.0]
    assert found["lenet train, greenlab", "times as few J as the paper's"] == [8.0, 2.0]
    assert found["lenet train, paper", "net J/sample"] == [0.08, 0.08]
    assert found["lenet train, paper", "samples/s"] == [50.0, 25.0]

    below_idle = {"paper": rounds((2.0, 8.0)), "greenlab": rounds((0.5, -1.0))}
    [lean] = [f for f in figures("lenet", "train", below_idle, False) if "few J" in f.unit]
    assert lean.values == [-8.0]  # nonsense, and to be seen as such: a negative is not left out
