"""A machine that drifts biases the factor that varies slowest, unless the order is random."""

import shutil
from statistics import fmean, stdev
from typing import Any

import pytest
from conftest import ROOT, CommandLine
from test_outage import CELLS

from greenlab.agenda import arrange
from greenlab.config import Order
from greenlab.simulated.machine import workstation

DRIFT_PER_CELL = 0.002
NUM_SEEDS, NUM_REPETITIONS = 3, 2
"""Faster than the batch size, the slowest factor, of two levels: 16, then 64."""
NET_W = 272.0
"""Of the workstation: 60 + 5 + 300 W at work, less 20 + 3 + 70 W idle."""
ORDER_SEED = 5


def bias_by_order(order: Order, order_seed: int) -> float:
    """By how much, as a fraction, the second level draws more on average than the first."""
    num_cells = 2 * NUM_SEEDS
    tasks = arrange(num_cells, NUM_REPETITIONS, order, order_seed)
    levels: tuple[list[int], list[int]] = ([], [])
    for position, task in enumerate(tasks):
        levels[task.cell // NUM_SEEDS].append(position)
    return DRIFT_PER_CELL * (fmean(levels[1]) - fmean(levels[0]))


def test_in_random_order_drift_goes_to_no_factor() -> None:
    # In order, the second level's six cells come six places after the first's: 6 × 0.2 %.
    assert bias_by_order(Order.sequential, 0) == pytest.approx(0.012)
    biases = [bias_by_order(Order.shuffle, seed) for seed in range(2000)]
    # Each block of six places three cells at random: the means of their places then differ by
    # 0 on average, with variance 35/12 × (6/5) × (2/3) = 7/3, of the two blocks' mean 7/6.
    assert fmean(biases) == pytest.approx(0, abs=4 * stdev(biases) / 2000**0.5)
    assert stdev(biases) == pytest.approx(DRIFT_PER_CELL * (7 / 6) ** 0.5, rel=0.05)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_planted_drift_biases_the_slowest_factor_in_sequential_order_alone(
    greenlab: CommandLine,
) -> None:
    bias = {order: measured_bias(greenlab, order) for order in ("sequential", "shuffle")}
    print(", ".join(f"{order}: {value:+.2%}" for order, value in bias.items()))
    assert bias["sequential"] == pytest.approx(0.012, abs=0.004)
    assert bias["shuffle"] == pytest.approx(bias_by_order(Order.shuffle, ORDER_SEED), abs=0.004)
    assert abs(bias["shuffle"]) < 0.005


def measured_bias(greenlab: CommandLine, order: str) -> float:
    """The same on the drifting machine, by MLflow; each cell stands where its seed says."""
    with workstation() as machine:
        greenlab.put_on(machine)
        greenlab.environment["PYTHONPATH"] += f":{ROOT / 'tests'}"
        result = greenlab(
            *[setting for setting in CELLS if not setting.startswith("phase.min_active_s")],
            "model._target_=drifting.build",
            "+model.kwargs.drift_per_cell=0.002",
            "model.kwargs.step_s=0.02",
            "phase.min_active_s=2",
            "batch_size=16,64",
            f"seed={','.join(map(str, range(NUM_SEEDS)))}",
            f"repetitions={NUM_REPETITIONS}",
            f"order={order}",
            f"order_seed={ORDER_SEED}",
            timeout_s=400,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    shutil.rmtree(greenlab.folder / "multirun")  # the next machine begins without drift
    sweep = next(run for run in sweeps(greenlab) if run.data.tags["greenlab.order"] == order)
    tags = sweep.data.tags
    tasks = arrange(2 * NUM_SEEDS, NUM_REPETITIONS, Order[order], int(tags["greenlab.order_seed"]))
    net_w: tuple[list[float], list[float]] = ([], [])
    for run in cells(greenlab, tags["greenlab.sweep"]):
        task = tasks[int(run.data.tags["greenlab.position"]) - 1]
        level, seed = divmod(task.cell, NUM_SEEDS)
        assert run.data.params["batch_size"] == ("16", "64")[level]
        assert run.data.params["seed"] == str(seed)
        assert run.data.params["repetition"] == str(task.repetition)
        net_w[level].append(run.data.metrics["energy/net_j"] / run.data.metrics["time/active_s"])
    assert len(net_w[0]) == len(net_w[1]) == NUM_SEEDS * NUM_REPETITIONS
    return (fmean(net_w[1]) - fmean(net_w[0])) / NET_W


def sweeps(greenlab: CommandLine) -> list[Any]:
    return list(greenlab.runs("sweep"))


def cells(greenlab: CommandLine, sweep: str) -> list[Any]:
    runs: list[Any] = greenlab.runs()
    return [run for run in runs if run.data.tags["greenlab.sweep"] == sweep]
