"""The self-test: that it finds what is wrong, and that it is quick about it."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CommandLine
from test_record import metering_only

from greenlab.record import Doubt, Measurement, Record, read_record
from greenlab.selftest.__main__ import main
from greenlab.selftest.cases import CASES, Case, one_package
from greenlab.selftest.measuring import Result, judge, measure_cases
from greenlab.simulated.machine import SimulatedMachine, workstation

RESULT = Result(
    name="a case", true_j=200.0, measured_j=199.0, u95_j=1.5, holds=True, verdict="PASS"
)


def test_an_error_is_of_the_truth() -> None:
    assert RESULT.error_percent == -0.5
    assert RESULT.is_inside


def test_a_truth_out_of_reach_is_outside() -> None:
    assert replace(RESULT, measured_j=198.0).is_inside is False


def test_a_case_without_joules_has_no_error() -> None:
    none = replace(RESULT, measured_j=None)
    assert (none.error_percent, none.is_inside) == (None, None)


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_an_unknown_case_is_refused_with_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--case", "unicorn"])
    assert refused.value.code == 2
    assert "steady load" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-3"])
def test_coverage_of_no_cells_is_refused(number: str) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--coverage", number])
    assert refused.value.code == 2


def test_coverage_is_printed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--coverage", "5", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["num_cells"] == 5
    assert printed["coverage"].keys() == {"total", "gpu", "cpu"}


# ----------------------------------------------------------------------------- what a case demands


class Log(SimulatedMachine):
    """A machine whose log says that it worked at full load for 15 s of the golden record's 15 s.

    The golden record's net joules are 1650 and 600 (GPUs) and 600 (CPU) in that time.
    """

    def __init__(self) -> None:
        super().__init__()

    def true_work_j(self, counter: str, unix_from: float, unix_to: float) -> float:
        assert unix_to - unix_from == pytest.approx(15)
        return {"gpu-0": 1650.0, "gpu-1": 600.0, "package-0": 600.0}[counter]

    def true_energy_j(self, counter: str, unix_from: float, unix_to: float) -> float:
        assert unix_to - unix_from == pytest.approx(45)
        return {"gpu-0": 3000.0, "gpu-1": 1500.0, "package-0": 1500.0}[counter]

    def true_active_s(self, unix_from: float, unix_to: float) -> float:
        return 15.0


@pytest.fixture
def golden() -> Record:
    """The golden record without its modelled DRAM."""
    record = metering_only(read_record(Path(__file__).parent / "golden"), "gpu0", "gpu1", "cpu0")
    assert record.measurement is not None
    sources = [s for s in record.measurement.sources if s.component != "dram"]
    return replace(record, doubts=[], measurement=replace(record.measurement, sources=sources))


def with_more(measured: Measurement, **joules: float) -> Measurement:
    """As if the counters of these devices had shown more."""
    first = measured.passes[0]
    window = first.window
    parts, components = dict(window.part_energy_j), dict(window.energy_j)
    for part, more_j in joules.items():
        parts[part] += more_j
        components[part.rstrip("01")] += more_j
    window = replace(window, part_energy_j=parts, energy_j=components)
    return replace(measured, passes=[replace(first, window=window), *measured.passes[1:]])


BOTH = {"gpu": ("gpu-0", "gpu-1"), "cpu": ("package-0",)}
GOLDEN_CASE = Case(name="golden", machine=workstation, counters=BOTH)


def test_right_joules_hold(golden: Record) -> None:
    result = judge(GOLDEN_CASE, golden, Log())
    assert (result.holds, result.error_percent) == (True, 0.0)


def test_joules_off_by_more_than_a_percent_do_not_hold(golden: Record) -> None:
    measured = golden.measurement
    assert measured is not None
    wrong = replace(golden, measurement=with_more(measured, cpu0=6.1))
    result = judge(GOLDEN_CASE, wrong, Log())
    assert not result.holds
    assert "cpu is 606.10 J, in truth 600.00 J" in result.verdict


# 20 J from one GPU to the other: their sum is right.
def test_devices_that_are_mixed_up_do_not_hold(golden: Record) -> None:
    measured = golden.measurement
    assert measured is not None
    wrong = replace(golden, measurement=with_more(measured, gpu0=20.0, gpu1=-20.0))
    assert not judge(GOLDEN_CASE, wrong, Log()).holds


def test_a_truth_outside_the_stated_interval_does_not_hold(golden: Record) -> None:
    measured = golden.measurement
    assert measured is not None
    wrong = replace(golden, measurement=with_more(measured, cpu0=1.0))  # 0.2 % of it, ± 0.06 J
    assert "the total is off by 1 J" in judge(GOLDEN_CASE, wrong, Log()).verdict


def test_an_account_off_by_more_than_two_percent_does_not_hold(golden: Record) -> None:
    assert golden.account is not None
    loading, *others = golden.account.stages
    without_cpu = replace(loading, energy_j=loading.energy_j | {"cpu": 0.0})  # 40 J
    wrong = replace(golden.account, stages=[without_cpu, *others])
    verdict = judge(GOLDEN_CASE, replace(golden, account=wrong), Log()).verdict
    assert verdict == "1460.0 J of cpu are accounted for, of 1500.0 J in truth"


def test_wraps_that_never_came_prove_nothing(golden: Record) -> None:
    wrapping = replace(GOLDEN_CASE, min_wraps=99)
    assert "of 99 and more" in judge(wrapping, golden, Log()).verdict


def test_a_component_that_should_not_be_there_does_not_hold(golden: Record) -> None:
    only_cpu = replace(GOLDEN_CASE, counters={"cpu": ("package-0",)})
    assert "gpu is measured:nvml" in judge(only_cpu, golden, Log()).verdict


def test_a_fault_that_goes_unnoticed_does_not_hold(golden: Record) -> None:
    stuck = replace(GOLDEN_CASE, doubt="counter_stuck")
    assert judge(stuck, golden, Log()).verdict == "no doubt counter_stuck"


def test_an_alarm_without_a_fault_does_not_hold(golden: Record) -> None:
    alarm = Doubt(code="counter_reset", seen="", remedy="", severity="invalid")
    result = judge(GOLDEN_CASE, replace(golden, doubts=[alarm]), Log())
    assert result.verdict == "INVALID for counter_reset"


def test_a_cell_that_should_have_failed_does_not_hold(golden: Record) -> None:
    removed = replace(GOLDEN_CASE, failure="package-0")
    assert judge(removed, golden, Log()).verdict == "measured all the same"


# ------------------------------------------------------------------------------------ all of it


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_case_holds_within_90_seconds(greenlab: CommandLine) -> None:
    began_s = time.monotonic()
    result = greenlab("--json", module="greenlab.selftest", timeout_s=300)
    took_s = time.monotonic() - began_s
    results = json.loads(result.stdout)
    assert [one["case"] for one in results if not one["holds"]] == []
    assert result.returncode == 0
    assert len(results) == len(CASES)
    assert took_s < 90


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_part_of_the_cases_is_enough_to_ask_for(greenlab: CommandLine) -> None:
    result = greenlab("--case", "dram zone", module="greenlab.selftest")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 of 1 cases hold" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_case_that_never_holds_fails_after_three_tries() -> None:
    impossible = Case(
        name="a fault that is not there",
        machine=one_package(),
        counters={"cpu": ("package-0",)},
        work_s=0.3,
        doubt="counter_stuck",
    )
    [result] = measure_cases([impossible])
    assert not result.holds
    assert result.num_tries == 3
    assert "no doubt counter_stuck" in result.verdict
