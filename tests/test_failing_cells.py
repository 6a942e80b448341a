"""Failure is data: a cell that goes wrong has a run that says how, and what it cost."""

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ROOT, CommandLine, greenlab_processes
from test_interruption import measuring_process

from greenlab.metrics import metrics
from greenlab.record import Record
from greenlab.simulated.machine import SimulatedMachine, workstation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

CELL = (
    "--config-dir=my_conf",
    "-m",
    "batch_size=32",
    "dataset=synthetic",
    "dataset.num_samples=64",
    "dataset.image_size=8",
    "phase=inference",
    "phase.min_active_s=0.5",
    "phase.warmup_batches=1",
    "idle.settle_s=0",
    "idle.window_s=0.5",
    "order=sequential",
)
GOOD = "_target_: greenlab.simulated.beacon.build\nkwargs: {step_s: 0.05}\n"
BAD = "_target_: misbehaving.build\nkwargs: {step_s: 0.05, at_step: 5, fault: %s}\n"
FINE = GOOD.replace("0.05", "0.06")  # another cell
MODELS = {
    "good": GOOD,
    "fine": FINE,
    "hungry": BAD % "oom",
    "diverging": BAD % "diverges",
    "sleeping": BAD % "hangs",
    "crashing": BAD % "segfault",
}
COUNTERS = {"gpu": "gpu-0", "cpu": "package-0", "dram": "package-0/dram"}
"""Of the workstation, by component."""


@pytest.fixture
def machine(greenlab: CommandLine) -> Iterator[SimulatedMachine]:
    """A workstation with the models above to choose from."""
    folder = greenlab.folder / "my_conf" / "model"
    folder.mkdir(parents=True)
    for name, text in MODELS.items():
        (folder / f"{name}.yaml").write_text(text)
    with workstation() as simulated:
        greenlab.put_on(simulated)
        greenlab.environment["PYTHONPATH"] += f":{ROOT / 'tests'}"
        yield simulated


def by_model(greenlab: CommandLine) -> dict[str, tuple[Record, Any]]:
    """Record and run of each model's one cell."""
    runs: dict[str, Any] = {run.data.tags["greenlab.uid"]: run for run in greenlab.runs()}  # type: ignore[attr-defined]
    return {one.cell.choices["model"]: (one, runs[one.cell.uid]) for one in greenlab.records()}


def true_j(machine: SimulatedMachine, record: Record) -> float:
    """What the machine drew while the cell's account was kept."""
    assert record.account is not None
    begin_s = record.account.started_at_s
    end_s = begin_s + sum(stage.duration_s for stage in record.account.stages)
    assert record.ended_at_s - end_s < 2.5  # a beat is kept once a second
    return sum(machine.true_energy_j(name, begin_s, end_s) for name in COUNTERS.values())


def test_each_failure_has_its_kind_and_its_joules_and_the_others_finish(
    greenlab: CommandLine, machine: SimulatedMachine
) -> None:
    result = greenlab(
        *CELL, "model=good,hungry,diverging,sleeping,crashing,fine", "timeout_s=20", timeout_s=380
    )
    printed = result.stdout + result.stderr
    assert result.returncode == 1, printed
    assert "2 of 6 cells finished" in printed
    assert "Traceback" not in printed
    found = by_model(greenlab)
    kinds = {
        model: (record.status, record.failure.kind if record.failure else "")
        for model, (record, _) in found.items()
    }
    assert kinds == {
        "good": ("FINISHED", ""),
        "hungry": ("FAILED", "oom"),
        "diverging": ("FAILED", "nan"),
        "sleeping": ("FAILED", "timeout"),
        "crashing": ("FAILED", "killed"),
        "fine": ("FINISHED", ""),
    }
    for record, run in found.values():
        assert run.info.status == record.status
        told = run.data.tags.get("greenlab.failure", "")
        assert told.partition(":")[0] == (record.failure.kind if record.failure else "")
        wasted_j = run.data.metrics.get("energy/wasted_j")
        if record.status == "FINISHED":
            assert wasted_j is None
        else:
            assert wasted_j == pytest.approx(true_j(machine, record), rel=0.05)
    sleeping, _ = found["sleeping"]
    # 20 s, of which the machine idles for most: it draws 93 W then.
    assert metrics(sleeping)["energy/wasted_j"] > 93 * 10
    [sweep] = greenlab.runs("sweep")
    failed_j = sum(metrics(one).get("energy/wasted_j", 0.0) for one, _ in found.values())
    assert sweep.data.metrics["ledger/failed_j"] == pytest.approx(failed_j)  # type: ignore[attr-defined]
    assert not greenlab_processes(greenlab.folder)


def test_a_sweep_stops_when_as_many_cells_as_allowed_have_failed(
    greenlab: CommandLine, machine: SimulatedMachine
) -> None:
    result = greenlab(*CELL, "model=crashing,good,diverging,fine,hungry", "max_failures=2")
    printed = result.stdout + result.stderr
    assert result.returncode == 1
    assert "stopped: 2 cells have failed" in printed
    assert "max_failures=2" in printed
    assert "1 of 5 cells finished" in printed
    assert [run.info.status for run in greenlab.runs()] == ["FAILED", "FINISHED", "FAILED"]  # type: ignore[attr-defined]


def test_a_cell_that_was_killed_once_finishes_at_the_second_try(
    greenlab: CommandLine, machine: SimulatedMachine
) -> None:
    with greenlab.start(*CELL, "model=good", "phase.min_active_s=5", "retries=1") as main:
        measuring_process(greenlab, main.pid, cell=0).kill()
        printed, _ = main.communicate()
    assert main.returncode == 0, printed
    assert "trying it again (1 of 1)" in printed
    runs: list[Any] = greenlab.runs()
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED"]
    assert runs[0].data.tags["greenlab.failure"].startswith("killed:")
    assert runs[1].data.tags["greenlab.attempt"] == "2"
    assert len({run.data.tags["greenlab.signature"] for run in runs}) == 1
    [sweep] = greenlab.runs("sweep")
    spent_j = sweep.data.metrics["ledger/failed_j"]  # type: ignore[attr-defined]
    assert spent_j == runs[0].data.metrics["energy/wasted_j"] > 0
    failed = next(one for one in greenlab.records() if one.status == "FAILED")
    assert spent_j == pytest.approx(true_j(machine, failed), rel=0.05)
