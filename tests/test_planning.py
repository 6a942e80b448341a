"""`plan=true` from end to end: what is probed, what is printed, whether the grid then costs it."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import BEACON, CommandLine, make_config
from rich.console import Console

from greenlab import plan_table
from greenlab.config import Config
from greenlab.plan import CellPlan, Estimate, Plan, PlannedCell
from greenlab.planning import shorten
from greenlab.scaling import Work
from greenlab.simulated.machine import SimulatedMachine, Zone
from greenlab.survey import Surveyed

DIGITS = Surveyed(macs=650_000, train_samples=512, test_samples=512)
DEMO = ("experiment=demo", "batch_size=16")


@pytest.mark.parametrize(
    ("batch_s", "num_samples", "epochs"),
    [
        (0.05, 14 * 16, 3),  # 40 batches in three epochs
        (0.001, 512, 3),  # 2,000 would be more than the cell has: all of it
        (0.02, 34 * 16, 3),  # 100 batches in three epochs are 34 each, and there are 32
        (10.0, 16, 1),  # one takes longer than a probe should
        (math.inf, 16, 1),  # it is not known what one takes
    ],
)
def test_a_training_probe_takes_two_seconds(batch_s: float, num_samples: int, epochs: int) -> None:
    probe = shorten(make_config(*DEMO, "phase=train"), DIGITS, batch_s)

    assert probe.dataset.num_samples == min(num_samples, 512)
    assert probe.phase.epochs == epochs


def test_an_inference_probe_goes_over_what_there_is() -> None:
    cell = make_config(*DEMO, "phase=inference", "phase.min_active_s=30")
    probe = shorten(cell, replace(DIGITS, train_samples=100, test_samples=5000), 0.01)

    assert probe.dataset.num_samples == 100  # a split has no more
    assert probe.phase.min_active_s == 2.0


def test_a_probe_waits_no_longer_than_it_must() -> None:
    patient = shorten(make_config("idle.window_s=60", "idle.settle_s=20"), DIGITS, 0.01)
    hasty = shorten(make_config(*DEMO, "idle.window_s=0.3"), DIGITS, 0.01)

    assert (patient.idle.settle_s, patient.idle.window_s) == (0.5, 1.0)
    assert (hasty.idle.settle_s, hasty.idle.window_s, hasty.idle.settle_max_s) == (0.5, 0.3, 0.0)


def plan_of(grid: Sequence[Config], energy_j: Estimate | None, *, is_modelled: bool = True) -> Plan:
    work = Work(model="m", macs=1, batch_size=1, trains=True)
    cell = PlannedCell(
        signature="",
        work=work,
        hardware="",
        waiting_s=0.0,
        num_passes=1,
        pass_samples=1,
        min_active_s=0.0,
        evaluation_samples=0,
        warmup_samples=0,
        repetitions=(2, 2),
    )
    time_s = Estimate(low=3000.0, median=3600.0, high=5400.0)
    one = CellPlan(cell=cell, time_s=time_s, energy_j=energy_j, num_earlier=0)
    return Plan(cells=[one] * len(grid), time_s=time_s, energy_j=energy_j, is_modelled=is_modelled)


def shown(grid: Sequence[Config], plan: Plan) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(plan_table.render(grid, plan))
    return captured.get()


def test_a_plan_says_time_energy_grams_and_money_with_their_intervals() -> None:
    # 0.5 kWh, between 0.4 and 1; at a PUE of 1.5, 200 g and 0.4 EUR for a kWh.
    carbon = ("carbon.g_co2e_per_kwh=200", "carbon.price_per_kwh=0.4", "carbon.currency=EUR")
    grid = [make_config(*carbon, "carbon.pue=1.5")]
    text = shown(grid, plan_of(grid, Estimate(low=1.44e6, median=1.8e6, high=3.6e6)))

    assert "1:00:00 (50:00 to 1:30:00)" in text
    assert "~0.500 kWh (~0.400 kWh to ~1.000 kWh)" in text
    assert "~150 g (~120 g to ~300 g)" in text
    assert "~0.3 EUR (~0.24 EUR to ~0.6 EUR)" in text
    assert "modelled" in text


def test_a_plan_is_silent_on_what_is_not_known() -> None:
    grid = [make_config()]
    measured = shown(
        grid, plan_of(grid, Estimate(low=1.0, median=2.0, high=3.0), is_modelled=False)
    )

    assert "~" not in measured
    assert "CO2e" not in measured
    assert "cost" not in measured
    assert "no estimate" in shown(grid, plan_of(grid, None))


def test_settings_that_differ_tell_cells_apart() -> None:
    grid = [make_config("model=vgg16", "batch_size=64"), make_config(f"seed={5}")]

    assert [plan_table.label(config) for config in grid] == [
        ("vgg16", "64", "train"),
        ("lenet", "32", "train"),
    ]
    assert plan_table.differing(grid) == ["seed=0", "seed=5"]
    assert "settings" in shown(grid, plan_of(grid, None))
    assert "settings" not in shown(grid[:1], plan_of(grid[:1], None))


PLAN = """
import json, sys
from greenlab import grid, planning, run
from greenlab.plan import Past

if __name__ == "__main__":
    with grid.open_options(None):
        cells = [grid.compose_one(chosen) for chosen in grid.split(sys.argv[1:])]
    run.start_server(cells)
    elsewhere = Past(machine="elsewhere", wall_s=9999.0, gross_j=1.0, is_modelled=False)
    plan = planning.show(cells, "here", lambda signatures: {one: [elsewhere] for one in signatures})
    bounds = [(one.low, one.high) for one in (plan.time_s, plan.energy_j)]
    print(json.dumps({"bounds": bounds, "modelled": plan.is_modelled}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_grid_then_costs_what_its_plan_says(greenlab: CommandLine) -> None:
    """On a machine of 20 W idle and 60 W busy, the joules are the machine's own, not greenlab's."""
    grid = [
        *[one for one in BEACON if not one.startswith("phase")],
        "phase=train,inference",
        "phase.min_active_s=3",
        "phase.epochs=30",
        "phase.warmup_batches=1",
        "hardware.energy_sources.dram=none",
    ]
    with SimulatedMachine(zones=[Zone("package-0", idle_w=20, active_w=60)]) as machine:
        greenlab.put_on(machine)
        planned = subprocess.run(
            [sys.executable, "-c", PLAN, *grid],
            cwd=greenlab.folder,
            env=greenlab.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert planned.returncode == 0, planned.stdout + planned.stderr
        result = greenlab("-m", *grid, timeout_s=400)
        assert result.returncode == 0, result.stdout + result.stderr
    answer = json.loads(planned.stdout.splitlines()[-1])
    time_s, energy_j = answer["bounds"]
    cells = greenlab.records()
    took_s = cells[-1].ended_at_s - cells[0].cell.started_at_s
    true_j = sum(
        machine.true_energy_j("package-0", one.cell.started_at_s, one.ended_at_s) for one in cells
    )

    assert len(cells) == 2
    assert time_s[0] <= took_s <= time_s[1]
    assert energy_j[0] <= true_j <= energy_j[1]
    assert (energy_j[1] - energy_j[0]) / 2 < 0.35 * true_j
    assert answer["modelled"] is False
