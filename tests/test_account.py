"""The account of a cell: its stages add up to what the counters counted, whatever becomes of it."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import BEACON, CommandLine

from greenlab.account import OpenAccount, read_account
from greenlab.errors import MeterReadError
from greenlab.meters import Meter, OpenSource
from greenlab.meters.zeus_counters import CounterSpec
from greenlab.metrics import metrics
from greenlab.record import Account, Record, Source
from greenlab.sampler import Sampler
from greenlab.simulated.machine import SimulatedMachine, workstation
from greenlab.trace_file import complete_trace, read_trace

# --------------------------------------------------------------------------- on a meter by hand


class Machine:
    """A GPU of two boards and a CPU, and time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.joules = {"gpu0": 5.0, "gpu1": 7.0, "cpu0": 11.0}
        self.is_lost = False
        opened = [self._open("gpu", "gpu0", "gpu1"), self._open("cpu", "cpu0"), self._open("dram")]
        self.meter = Meter(opened, lambda: self.now_s)

    def _open(self, component: str, *parts: str) -> OpenSource:
        source = Source(component=component, provenance="", detail="", reason="", parts=list(parts))
        specs = [
            CounterSpec(
                part=part, detail="", read_j=lambda part=part: self._read(part), range_j=None
            )
            for part in parts
        ]
        return OpenSource(source=source, counters=specs)

    def _read(self, part: str) -> float:
        if self.is_lost:
            raise MeterReadError(part)
        return self.joules[part]

    def run(self, seconds: float, **watts: float) -> None:
        self.now_s += seconds
        for part, power_w in watts.items():
            self.joules[part] += power_w * seconds


@dataclass
class Kept:
    machine: Machine
    folder: Path
    account: OpenAccount

    def beat(self) -> None:
        self.account.beat(self.machine.meter.read())

    def names(self) -> list[str]:
        return [stage.name for stage in self.read().stages]

    def read(self) -> Account:
        found = read_account(self.folder)
        assert found is not None
        return found


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    machine = Machine()
    with OpenAccount(tmp_path, machine.meter) as account:
        yield Kept(machine, tmp_path, account)


def test_stages_hold_what_was_drawn_in_them(kept: Kept) -> None:
    kept.machine.run(2.0, gpu0=50, gpu1=30, cpu0=20)
    kept.account.enter("warm_up")
    kept.machine.run(0.5, gpu0=200, gpu1=100, cpu0=60)
    kept.account.enter("settling")
    kept.machine.run(3.0, gpu0=50, gpu1=30, cpu0=20)
    found = kept.account.statement()
    # 80 W × 2 s; 300 W × 0.5 s; 80 W × 3 s. No DRAM: nothing meters it.
    expected = [
        ("loading", 2.0, {"gpu": 160.0, "cpu": 40.0}),
        ("warm_up", 0.5, {"gpu": 150.0, "cpu": 30.0}),
        ("settling", 3.0, {"gpu": 240.0, "cpu": 60.0}),
    ]
    assert [(one.name, one.energy_j) for one in found.stages] == [(n, j) for n, _, j in expected]
    assert [one.duration_s for one in found.stages] == pytest.approx([s for _, s, _ in expected])
    assert found.energy_j == {"gpu": 550.0, "cpu": 130.0}
    assert found.stage_j == {"loading": 200.0, "warm_up": 180.0, "settling": 300.0}
    assert kept.read() == found


def test_a_stage_that_comes_again_is_a_stage_of_its_own(kept: Kept) -> None:
    for stage, watts in (("idle", 20), ("active", 60), ("idle", 22)):
        kept.account.enter(stage)  # type: ignore[arg-type]
        kept.machine.run(10.0, cpu0=watts)
    found = kept.account.statement()
    assert [one.name for one in found.stages] == ["loading", "idle", "active", "idle"]
    assert found.stage_j == {"loading": 0.0, "idle": 420.0, "active": 600.0}


def test_a_beat_shows_how_far_the_stage_has_come(kept: Kept) -> None:
    kept.account.enter("active")
    for _ in range(3):
        kept.machine.run(1.5, cpu0=40)
        kept.beat()
    # 4.5 s at 40 W; and the beats before the last have gone.
    [_, active] = kept.read().stages
    assert (active.name, active.energy_j["cpu"]) == ("active", 180.0)
    assert active.duration_s == pytest.approx(4.5)
    assert len((kept.folder / "account.log").read_text().splitlines()) == 4


def test_there_is_one_beat_a_second(kept: Kept) -> None:
    seen = set()
    for _ in range(40):  # 4.4 s at 10 W, read every 0.11 s
        kept.machine.run(0.11, cpu0=10)
        kept.beat()
        seen |= {round(one.energy_j["cpu"], 3) for one in kept.read().stages}
    assert sorted(seen) == [11, 22, 33, 44]


def test_a_beat_from_before_the_stage_is_left_out(kept: Kept) -> None:
    kept.machine.run(5.0, cpu0=10)
    late = kept.machine.meter.read()
    kept.machine.run(5.0, cpu0=10)
    kept.account.enter("active")
    kept.machine.run(5.0, cpu0=10)
    kept.account._due_s = 0.0
    kept.account.beat(late)
    assert kept.names() == ["loading"]


def test_a_beat_longer_than_what_takes_its_place_leaves_nothing(kept: Kept) -> None:
    kept.machine.run(1.23456789, cpu0=10.987654321, gpu0=1 / 3)
    kept.beat()
    kept.machine.run(0.76543211, cpu0=0)
    kept.machine.joules = {"gpu0": 5.0, "gpu1": 7.0, "cpu0": 31.0}
    kept.account.enter("idle")
    assert kept.names() == ["loading"]
    kept.machine.run(2.0, cpu0=10)
    kept.beat()
    assert kept.names() == ["loading", "idle"]


@pytest.mark.parametrize("num_bytes", [1, 5, 30])
def test_a_line_that_was_being_written_is_left_out(kept: Kept, num_bytes: int) -> None:
    kept.machine.run(2.0, cpu0=10)
    kept.account.enter("warm_up")
    kept.machine.run(2.0, cpu0=10)
    kept.beat()
    path = kept.folder / "account.log"
    path.write_bytes(path.read_bytes()[:-num_bytes])
    whole = ["loading", "warm_up"] if num_bytes == 1 else ["loading"]  # the line's end alone
    assert kept.names() == whole


def test_a_number_that_was_half_written_is_noticed(kept: Kept) -> None:
    kept.machine.run(2.0, cpu0=10)
    kept.account.enter("warm_up")
    kept.machine.run(2.0, cpu0=10)
    kept.beat()
    path = kept.folder / "account.log"
    path.write_bytes(path.read_bytes().replace(b'"cpu": 40.0', b'"cpu": 90.0'))
    assert kept.names() == ["loading"]


def test_a_meter_that_is_lost_leaves_what_was_read_last(tmp_path: Path) -> None:
    machine = Machine()
    with OpenAccount(tmp_path, machine.meter) as account:
        machine.run(3.0, cpu0=20)
        account.beat(machine.meter.read())
        machine.run(0.1, cpu0=20)
        account.beat(machine.meter.read())  # too soon to be written down at once
        machine.is_lost = True
    found = read_account(tmp_path)
    assert found is not None
    assert found.energy_j == {"gpu": 0.0, "cpu": 62.0}


def test_an_exception_leaves_the_joules_until_it_was_raised(tmp_path: Path) -> None:
    machine = Machine()
    with suppress(ZeroDivisionError), OpenAccount(tmp_path, machine.meter):
        machine.run(0.3, cpu0=20)
        raise ZeroDivisionError
    found = read_account(tmp_path)
    assert found is not None
    assert found.energy_j["cpu"] == pytest.approx(6.0)


def test_a_cell_without_a_meter_has_no_account(tmp_path: Path) -> None:
    assert read_account(tmp_path) is None


def test_an_account_starts_afresh(kept: Kept) -> None:
    kept.machine.run(2.0, cpu0=10)
    kept.account.enter("idle")
    again = OpenAccount(kept.folder, Machine().meter)
    assert read_account(kept.folder) == Account(
        sources=kept.machine.meter.sources, started_at_s=again._entries[0].at_s, stages=[]
    )


def test_a_sampler_that_is_slow_beats_once_a_second_all_the_same(kept: Kept) -> None:
    beats = []
    with Sampler(kept.machine.meter, 1.5, beats.append) as sampler:
        sampler.record(kept.folder)
        started_s = time.monotonic()
        while not beats:
            time.sleep(0.01)
        assert time.monotonic() - started_s < 1.0
        sampler.finish()
    complete_trace(kept.folder)
    assert len(read_trace(kept.folder / "trace.parquet")["time_s"]) == 0


# ---------------------------------------------------------------- on a machine of known watts

Run = Callable[..., int | None]
COUNTERS = {"cpu": "package-0", "dram": "package-0/dram", "gpu": "gpu-0"}
WITHIN = 0.01


def assert_true(account: Account | None, machine: SimulatedMachine) -> Account:
    """The account holds what the machine drew in its time, of each component."""
    assert account is not None
    for component, counter in COUNTERS.items():
        truth_j = machine.true_energy_j(counter, account.started_at_s, account.ended_at_s)
        assert account.energy_j[component] == pytest.approx(truth_j, rel=WITHIN), component
    return account


def goes_wrong(fault: str, at_step: int) -> tuple[str, ...]:
    return (
        "model._target_=misbehaving.build",
        f"+model.kwargs.fault={fault}",
        f"+model.kwargs.at_step={at_step}",
    )


@pytest.mark.slow
def test_all_of_a_finished_cell_is_in_its_account(
    measure_on: Callable[..., Record], tmp_path: Path
) -> None:
    with workstation() as machine:
        record = measure_on(machine)
    account = assert_true(record.account, machine)
    assert [stage.name for stage in account.stages] == [
        "loading", "warm_up", "settling", "idle", "active", "settling", "idle", "evaluation",
    ]  # fmt: skip
    assert record.measurement is not None
    by_name = {stage.name: stage for stage in account.stages}  # the second idle window
    for name, window in (
        ("active", record.measurement.active),
        ("idle", record.measurement.idle_after),
    ):
        assert by_name[name].duration_s == pytest.approx(window.duration_s, abs=0.05)
        assert by_name[name].energy_j["cpu"] == pytest.approx(window.energy_j["cpu"], rel=0.05)
    assert account.started_at_s >= record.cell.started_at_s
    assert account.ended_at_s == pytest.approx(record.ended_at_s, abs=0.5)
    assert read_account(tmp_path) is not None
    assert not [name for name in metrics(record) if "wasted" in name]


@pytest.mark.parametrize(
    ("fault", "at_step", "number", "last_stage"),
    [
        ("killed", 25, signal.SIGKILL, "active"),  # 1.2 s after the passes began
        pytest.param("killed", 25, signal.SIGKILL, "warm_up", marks=pytest.mark.slow),
        pytest.param("segfault", 25, signal.SIGSEGV, "active", marks=pytest.mark.slow),
    ],
)
def test_a_cell_that_is_killed_has_an_account_until_a_second_before(
    run_on: Run,
    tmp_path: Path,
    *,
    fault: str,
    at_step: int,
    number: signal.Signals,
    last_stage: str,
) -> None:
    with workstation() as machine:
        num_warm_up = 30 if last_stage == "warm_up" else 1
        warm_up = f"phase.warmup_batches={num_warm_up}"
        assert run_on(machine, *goes_wrong(fault, at_step), warm_up) == -number
        died_s = time.time()
        account = assert_true(read_account(tmp_path), machine)
    assert account.stages[-1].name == last_stage
    assert died_s - 1.5 < account.ended_at_s < died_s
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize(
    ("fault", "at_step", "kind", "says"),
    [
        ("diverges", 2, "nan", "the loss of pass 1 is nan. Lower phase.learning_rate"),
        ("oom", 2, "oom", "can't allocate memory"),
        pytest.param("error", 10, "error", "planted", marks=pytest.mark.slow),
    ],
)
def test_a_cell_that_fails_keeps_its_joules(
    measure_on: Callable[..., Record], fault: str, at_step: int, kind: str, says: str
) -> None:
    with workstation() as machine:
        record = measure_on(machine, *goes_wrong(fault, at_step))
    assert record.failure is not None
    assert (record.status, record.failure.kind) == ("FAILED", kind)
    assert says in record.failure.message
    account = assert_true(record.account, machine)
    assert account.stages[-1].name == "active"
    assert account.ended_at_s == pytest.approx(record.ended_at_s, abs=0.3)
    wasted = metrics(record)
    parts = {f"energy/wasted{part}_j" for part in ("", "_gpu", "_cpu", "_dram")}
    assert wasted.keys() == parts | {"energy/metered_j"}
    assert wasted["energy/wasted_j"] == pytest.approx(sum(account.energy_j.values()))


@pytest.mark.slow
def test_a_cell_of_a_sweep_that_dies_leaves_a_record_with_its_joules(greenlab: CommandLine) -> None:
    with workstation() as machine:
        greenlab.put_on(machine)
        tests = str(Path(__file__).parent)
        path = os.pathsep.join([greenlab.environment["PYTHONPATH"], tests])
        greenlab.environment["PYTHONPATH"] = path
        result = greenlab("-m", "seed=0", *BEACON, *goes_wrong("segfault", 20))
    assert result.returncode == 1, result.stdout + result.stderr
    [record] = greenlab.records()
    assert record.failure is not None
    assert (record.failure.kind, record.failure.is_transient) == ("killed", True)
    assert_true(record.account, machine)
    [run] = greenlab.runs()
    assert run.data.metrics["energy/wasted_j"] == metrics(record)["energy/wasted_j"]  # type: ignore[attr-defined]
