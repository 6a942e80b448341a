"""What a sweep measures next: orders, repetitions until the mean is known, further tries."""

import math
from collections import Counter
from statistics import fmean

import pytest
from conftest import make_config

from greenlab.agenda import (
    Agenda,
    Result,
    Task,
    arrange,
    relative_half_width,
)
from greenlab.config import Order
from greenlab.uncertainty import mean_half_width


def pairs(tasks: list[Task]) -> list[tuple[int, int]]:
    return [(task.cell, task.repetition) for task in tasks]


def agenda(num_cells: int, *overrides: str, seed: int = 7) -> Agenda:
    return Agenda(num_cells, make_config(*overrides), seed)


def finished(net_j: float | None) -> Result:
    return Result(is_finished=True, net_j=net_j)


FAILED = Result(is_finished=False)
LOST = Result(is_finished=False, is_transient=True)


# ----------------------------------------------------------------------------------------- order


def test_sequential_measures_cell_by_cell() -> None:
    assert pairs(arrange(2, 3, Order.sequential, 0)) == [
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)
    ]  # fmt: skip


def test_blocked_measures_the_grid_in_its_order_again_and_again() -> None:
    assert pairs(arrange(3, 2, Order.blocked, 0)) == [
        (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2)
    ]  # fmt: skip


def test_each_block_of_a_shuffled_sweep_holds_every_cell_once() -> None:
    tasks = arrange(20, 3, Order.shuffle, 7)
    blocks = [tasks[at : at + 20] for at in (0, 20, 40)]

    for repetition, block in enumerate(blocks, start=1):
        assert {task.repetition for task in block} == {repetition}
        assert sorted(task.cell for task in block) == list(range(20))
    orders = [[task.cell for task in block] for block in blocks]
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] != list(range(20))


def test_a_shuffled_order_is_its_seeds_and_does_not_depend_on_what_follows() -> None:
    tasks = arrange(20, 2, Order.shuffle, 7)

    assert tasks == arrange(20, 2, Order.shuffle, 7)
    assert tasks == arrange(20, 5, Order.shuffle, 7)[:40]
    assert tasks != arrange(20, 2, Order.shuffle, 8)


# 4 models × 3 batch sizes, the model varies slowest. Every cell takes 100 J, and each measurement
# 0.2 % more than the one before. As typed, model 0 runs at positions 0 to 2 and model 3 at 9 to 11:
# their means differ by 9 × 0.2 J = 1.8 J, all of it drift.
def test_drift_does_not_pass_for_the_slowest_factor_when_shuffled() -> None:
    def bias_j(order: Order, seed: int) -> float:
        measured: dict[int, list[float]] = {}
        for position, task in enumerate(arrange(12, 1, order, seed)):
            measured.setdefault(task.cell // 3, []).append(100 * (1 + 0.002 * position))
        return fmean(measured[3]) - fmean(measured[0])

    assert bias_j(Order.sequential, 0) == pytest.approx(1.8)
    biases_j = [bias_j(Order.shuffle, seed) for seed in range(400)]
    # Means of 3 of 12 places drawn at random differ by sd = 0.2 × sqrt(2/3 × 13) = 0.59 J.
    assert fmean(biases_j) == pytest.approx(0, abs=3 * 0.59 / math.sqrt(400))
    assert math.sqrt(fmean(bias**2 for bias in biases_j)) == pytest.approx(0.59, rel=0.15)


# ------------------------------------------------------------------------------------ handing out


def test_all_tasks_are_handed_out_once() -> None:
    plan = agenda(3, "repetitions=2")
    handed = [*plan.take(1), *plan.take(2), *plan.take(None)]

    assert Counter(pairs(handed)) == Counter([(c, r) for c in range(3) for r in (1, 2)])
    assert plan.take(None) == []
    assert [plan.position(task) for task in handed] == [1, 2, 3, 4, 5, 6]


def test_what_is_measured_already_is_not_handed_out() -> None:
    plan = agenda(2, "order=sequential")
    plan.settle(Task(cell=0, repetition=1), finished(1.0))

    assert pairs(plan.take(None)) == [(1, 1)]
    assert plan.num_finished == 1


def test_a_lost_task_comes_again_at_once_and_as_often_as_allowed() -> None:
    plan = agenda(2, "order=sequential", "retries=2")
    [first] = plan.take(1)
    assert plan.settle(first, LOST)
    assert plan.take(1) == [first]
    assert plan.settle(first, LOST)
    assert plan.take(1) == [first]
    assert not plan.settle(first, LOST)
    assert pairs(plan.take(None)) == [(1, 1)]
    assert plan.num_failed == 1


def test_what_fails_by_itself_is_not_tried_again() -> None:
    plan = agenda(1, "retries=2")
    [task] = plan.take(1)

    assert not plan.settle(task, FAILED)
    assert plan.take(None) == []


def test_a_sweep_stops_when_too_much_has_failed() -> None:
    plan = agenda(4, "max_failures=2")
    for _ in range(2):
        [task] = plan.take(1)
        plan.settle(task, FAILED)

    assert plan.is_stopped
    assert plan.take(1) == []


# ------------------------------------------------------------------------------- until it is known


# Mean 100, standard deviation 2 (98, 100, 102). Student's t for 2 degrees of freedom, 95 %, is
# 4.3027, so the half-width is 4.3027 × 2 / sqrt(3) = 4.968.
def test_the_half_width_is_students() -> None:
    assert mean_half_width([98, 100, 102]) == pytest.approx(4.968, abs=0.001)
    assert relative_half_width([98, 100, 102]) == pytest.approx(0.04968, abs=0.00001)
    assert relative_half_width([-98, -100, -102]) == pytest.approx(0.04968, abs=0.00001)


@pytest.mark.parametrize("values", [[], [5.0], [1.0, -1.0]])
def test_a_half_width_that_cannot_be_told_is_endless(values: list[float]) -> None:
    assert relative_half_width(values) == math.inf


def run(plan: Agenda, net_j: dict[int, list[float]]) -> list[tuple[int, int]]:
    """Measure until the agenda has enough; values by cell, one per repetition."""
    order = []
    while tasks := plan.take(1):
        order += pairs(tasks)
        plan.settle(tasks[0], finished(net_j[tasks[0].cell][tasks[0].repetition - 1]))
    return order


# Cell 0 is known after three: 4.3027 × 0.0577 / sqrt(3) = 0.14 J of 100. Cell 1 scatters by 1.5 J,
# 3.7 % after three, and 1.9 % after four (3.1824 × 1.2247 / 2 = 1.95). Cell 2 scatters by 10 J and
# never gets there.
def test_repetitions_go_to_the_cells_that_need_them_the_noisiest_first() -> None:
    plan = agenda(3, "repetitions=auto", "max_repetitions=5", "order=blocked")
    quiet, noisier = [100.0, 100.1, 100.0], [98.5, 101.5, 100.0, 100.0]
    values = {0: quiet, 1: noisier, 2: [90.0, 110.0, 100.0, 95.0, 105.0]}
    order = run(plan, values)

    assert order[:9] == [(cell, repetition) for repetition in (1, 2, 3) for cell in range(3)]
    assert order[9:] == [(2, 4), (2, 5), (1, 4)]
    assert plan.capped().keys() == {2}
    assert plan.capped()[2] == pytest.approx(relative_half_width(values[2]))
    assert plan.num_tasks == plan.num_finished == 12


def test_a_sweep_taken_up_again_goes_on_where_it_was() -> None:
    plan = agenda(1, "repetitions=auto", "max_repetitions=5")
    for repetition, net_j in enumerate([90.0, 110.0, 100.0], start=1):
        plan.settle(Task(cell=0, repetition=repetition), finished(net_j))

    assert pairs(plan.take(1)) == [(0, 4)]


def test_cells_without_energy_are_not_repeated_for_nothing() -> None:
    plan = agenda(1, "repetitions=auto")
    tasks = plan.take(None)
    for task in tasks:
        plan.settle(task, finished(None))

    assert len(tasks) == 3
    assert plan.take(None) == []


def test_a_cell_that_fails_is_not_repeated() -> None:
    plan = agenda(1, "repetitions=auto")
    first, second, third = plan.take(None)
    plan.settle(first, finished(1.0))
    plan.settle(second, finished(2.0))
    plan.settle(third, FAILED)

    assert plan.take(None) == []
