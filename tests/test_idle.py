"""Idle windows begin when the GPUs have cooled down: on a clock by hand, and in whole cells."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import BEACON, CommandLine

from greenlab.config import Idle
from greenlab.idle import cool_down
from greenlab.metrics import metrics
from greenlab.record import Claim, Record, read_claim
from greenlab.simulated.machine import Gpu, SimulatedMachine, Zone


class Gpus:
    """Each falls by a degree a second, from the degrees given; time passes by sleeping."""

    def __init__(self, **celsius: float) -> None:
        self.celsius = celsius
        self.now_s = 0.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def thermometers(self) -> dict[str, Callable[[], float]]:
        return {part: lambda part=part: self.celsius[part] - self.now_s for part in self.celsius}  # type: ignore[misc]


def wait(gpus: Gpus, found: dict[str, float], **settings: float) -> tuple[float, bool]:
    cooling = cool_down(Idle(**settings), gpus.thermometers(), found, gpus.sleep, gpus.clock)
    assert cooling.waited_s == gpus.now_s
    return cooling.waited_s, cooling.reached


# From 60 to 35 + 5 °C at 1 °C a second.
def test_it_waits_until_the_gpu_is_close_to_what_it_was() -> None:
    assert wait(Gpus(gpu0=60), {"gpu0": 35}, settle_celsius=5) == (20, True)


def test_it_waits_for_the_one_that_takes_longest() -> None:
    assert wait(Gpus(gpu0=50, gpu1=60), {"gpu0": 35, "gpu1": 30}, settle_celsius=3) == (27, True)


@pytest.mark.parametrize("found", [{"gpu0": 80.0}, {"gpu0": 56.0}, {}, {"gpu7": 20.0}])
def test_it_does_not_wait_for_nothing(found: dict[str, float]) -> None:
    assert wait(Gpus(gpu0=60), found, settle_celsius=5) == (0, True)


def test_it_does_not_wait_where_no_temperature_can_be_read() -> None:
    assert wait(Gpus(), {"gpu0": 35}) == (0, True)


def test_it_gives_up_in_time() -> None:
    assert wait(Gpus(gpu0=60), {"gpu0": 20}, settle_celsius=5, settle_max_s=7.5) == (7.5, False)


def test_it_does_not_wait_at_all_where_it_must_not() -> None:
    assert wait(Gpus(gpu0=60), {"gpu0": 20}, settle_max_s=0) == (0, False)


def test_a_reading_that_fails_is_no_sign_of_having_cooled() -> None:
    gpus, readings = Gpus(), iter([math.nan, math.nan, 36.0])
    cooling = cool_down(
        Idle(), {"gpu0": lambda: next(readings)}, {"gpu0": 35}, gpus.sleep, gpus.clock
    )
    assert (cooling.waited_s, cooling.reached, cooling.celsius) == (2, True, {"gpu0": 36.0})


def test_what_is_not_known_is_not_written_down() -> None:
    assert cool_down(Idle(), {"gpu0": lambda: math.nan}, {}).celsius == {}


def test_a_long_wait_says_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        wait(Gpus(gpu0=63), {"gpu0": 35}, settle_celsius=5, settle_max_s=100)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "cooling down: gpu0 60 °C, to go to 40 °C; 97 s at most",
        "cooling down: gpu0 50 °C, to go to 40 °C; 87 s at most",
    ]


# --------------------------------------------------------------------- whole cells that warm up

SLOW_TO_COOL = Gpu(thermal_time_s=1.0)
"""35 °C idle, 65 °C at work; in between 63 % of the way in a second."""
ZONE = Zone("package-0", idle_w=20, active_w=60)


@pytest.mark.slow
def test_the_second_window_waits_for_what_the_first_had(measure_on: Callable[..., Record]) -> None:
    with SimulatedMachine(zones=[ZONE], gpus=[SLOW_TO_COOL]) as machine:
        record = measure_on(machine, "phase.min_active_s=1", "idle.settle_celsius=3")
    assert record.measurement is not None, record.failure
    before, after = record.measurement.cooling
    assert before.waited_s < 0.01
    # 1 s at work: from T0 to 65 − (65 − T0)/e, shown rounded; then down again until T0 + 3.5 °C.
    found = before.celsius["gpu0"]
    hot = 65 - (65 - found) / math.e
    expected_s = math.log((hot - 35) / (found + 3.5 - 35)) - 0.15  # settled for 0.1 s, a beat 0.05
    assert expected_s < after.waited_s < expected_s + 1.3  # it looks once a second
    assert after.reached
    assert after.celsius["gpu0"] <= found + 3
    values = metrics(record)
    assert values["time/cooling_after_s"] == after.waited_s
    assert record.account is not None
    waits = [stage.duration_s for stage in record.account.stages if stage.name == "settling"]
    assert waits[1] == pytest.approx(0.1 + after.waited_s, abs=0.1)


@pytest.mark.slow  # the waiting itself is tested above
def test_a_cell_of_a_sweep_waits_for_what_the_first_cell_had(
    measure_on: Callable[..., Record],
) -> None:
    gpu = Gpu(thermal_time_s=1000.0)  # 35 °C, for as long as this takes
    with SimulatedMachine(zones=[ZONE], gpus=[gpu]) as machine:
        record = measure_on(
            machine,
            "phase.min_active_s=0",
            "idle.settle_celsius=5",
            "idle.settle_max_s=0.4",
            sweep_first=Claim(idle_celsius={"gpu0": 29.0}),
        )
    assert record.measurement is not None, record.failure
    assert [one.reached for one in record.measurement.cooling] == [False, False]
    assert [one.waited_s for one in record.measurement.cooling] == pytest.approx(
        [0.4, 0.4], abs=0.1
    )
    [doubt] = [doubt for doubt in record.doubts if doubt.code == "not_cooled"]
    assert "gpu0 had 35 °C (29 °C in the sweep's first)" in doubt.seen


@pytest.mark.slow
def test_a_sweep_hands_on_what_its_first_cell_found(greenlab: CommandLine) -> None:
    with SimulatedMachine(zones=[ZONE], gpus=[SLOW_TO_COOL]) as machine:
        greenlab.put_on(machine)
        result = greenlab("-m", "seed=0,1", *BEACON, "phase.min_active_s=1")
    assert result.returncode == 0, result.stdout + result.stderr
    first, second = greenlab.records()
    assert first.cell.sweep_first == Claim()
    assert first.measurement is not None
    assert first.environment is not None
    found = first.measurement.cooling[0].celsius
    assert second.cell.sweep_first.idle_celsius == found
    assert second.cell.sweep_first.machine == first.environment.machine
    [claim] = greenlab.folder.glob("multirun/*/*/.greenlab")
    assert read_claim(claim) == Claim(
        machine=first.environment.machine, commit=first.environment.commit, idle_celsius=found
    )
    assert json.loads(claim.read_text())["machine"] == first.environment.machine
    assert second.measurement is not None
    goal = found["gpu0"] + 5
    assert all(one.celsius["gpu0"] <= goal for one in second.measurement.cooling)


def test_a_folder_that_is_claimed_and_holds_no_cell_names_no_machine(tmp_path: Path) -> None:
    (tmp_path / "claim").touch()
    assert read_claim(tmp_path / "claim") == Claim()
