"""greenlab beside other energy meters over one known truth.

    make bench-meters
    python -m benchmarks.meters --case early_wrap --meter greenlab --meter zeus --trials 1

greenlab, ZeusMonitor, CodeCarbon and pyJoules watch the same simulated RAPL counters at the same
time, each in a fresh process, and are held against the joules that the machine logged in each
meter's own window. The counters stand at /sys/class/powercap in a private mount namespace; where
the system does not allow one, this prints `skipped`, says why and exits with 0.

Ranges of counters are shrunk in the cases with wraps, to have them within seconds. A real range is
some 65 to 262 kJ: the error of a wrap that a meter loses is that range, and not the one shown here.
docs/results/meters_side_by_side.csv holds a run, with the version of each meter in every line.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks import powercap
from greenlab.simulated.machine import SimulatedMachine, Zone
from greenlab.terminal import open_console

ROOT = Path(__file__).parent.parent
INSIDE = "--inside"
"""Says that this process is in the namespace already."""
COUNTERS = {"cpu": "package-0", "dram": "package-0/dram"}
"""The simulated machine's counters by component."""

IDLE_W, ACTIVE_W = 20.0, 60.0
REAL_RANGE_J = 262_143.3
"""Of most Intel packages, as the kernel tells it: 2^32 − 1 units of 61.035 μJ."""
SETUP_J = 400.0
"""More than the package draws while the meters are set up: 20 W for up to 20 s."""
STARTING_J = 40.0
"""More than it draws while all but the last meter start: 20 W for up to 2 s."""

PACKAGES = {
    "codecarbon": "codecarbon",
    "pyjoules": "pyJoules",
    "greenlab": "greenlab",
    "zeus": "zeus",
}
"""Meters by distribution, in the order in which they start: the slowest first, and Zeus last, so
that the time from its start to a wrap is the one that a case states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What the machine does: idle until all meters have started, then active for `active_s`."""

    description: str
    active_s: float
    num_trials: int = 1
    range_j: float = REAL_RANGE_J
    wrap_after_s: float | None = None
    """From the start of the last meter to the first wrap of the package's counter."""
    has_dram: bool = False
    has_psys: bool = False


CASES = {
    "steady": Case(description="6 s", active_s=6),
    "dram": Case(description="6 s, DRAM zone", active_s=6, has_dram=True),
    "psys": Case(description="6 s, psys zone", active_s=6, has_psys=True),
    "short": Case(description="0.3 s", active_s=0.3, num_trials=3),
    "one_wrap": Case(
        description="6 s, wrap at 3 s",
        active_s=6,
        num_trials=3,
        range_j=2000,
        wrap_after_s=3,
    ),
    # About when the process by which Zeus watches for wraps has started: it may see this one, or
    # miss it, from trial to trial.
    "early_wrap": Case(
        description="6 s, wrap at 0.5 s",
        active_s=6,
        num_trials=3,
        range_j=2000,
        wrap_after_s=0.5,
    ),
    # At 60 W a range of 300 J takes 5 s: it wraps after 3 s and after 8 s, well within the window.
    "many_wraps": Case(
        description="12 s, range 300 J",
        active_s=12,
        num_trials=3,
        range_j=300,
        wrap_after_s=3,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What a meter reported, and when: Unix times, joules by component."""

    meter: str
    unix_from: float
    unix_to: float
    energy_j: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run of a case; the package's counter showed `counted_j` at Unix time `counted_from`."""

    name: str
    number: int
    machine: SimulatedMachine
    counted_from: float
    counted_j: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """About one component in one window."""

    energy_j: float
    psys_j: float
    """Joules of the platform zone, which holds the package's; 0: the machine has no such zone."""
    range_j: float
    num_wraps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One component of one meter in one trial."""

    case: str
    trial: int
    meter: str
    version: str
    component: str
    window_s: float
    num_wraps: int
    """Of the component's counter, within this meter's window."""
    true_j: float
    reported_j: float | None
    """None: this meter has no number for the component."""
    remark: str

    @property
    def error_percent(self) -> float | None:
        """Reported less true, in per cent of true."""
        return None if self.reported_j is None else error_percent(self.reported_j, self.true_j)


def error_percent(reported_j: float, true_j: float) -> float:
    """Reported less true, in per cent of true."""
    return 100 * (reported_j - true_j) / true_j


def count_wraps(from_j: float, to_j: float, range_j: float) -> int:
    """How often a counter that never started again would have passed a multiple of its range."""
    return int(to_j // range_j) - int(from_j // range_j)


def ranges_off(reported_j: float, true_j: float, range_j: float) -> int:
    """How many wraps too many (above zero) or too few (below) the reported joules hold."""
    return round((reported_j - true_j) / range_j)


# ---------------------------------------------------------------------------- the machine


def build_machine(case: Case) -> SimulatedMachine:
    """Package 20 and 60 W; DRAM 3 and 5 W and psys 40 and 100 W where the case has them."""
    # Far enough from the first wrap that the meters can be set up before it is brought near.
    start_j = 9000.0 if case.wrap_after_s is None else _counter_at_start_j(case) - SETUP_J
    dram = Zone("dram", idle_w=3, active_w=5, start_uj=2_000_000_000)
    package = Zone(
        "package-0",
        idle_w=IDLE_W,
        active_w=ACTIVE_W,
        start_uj=int(start_j % case.range_j * 1e6),
        max_energy_range_uj=int(case.range_j * 1e6),
        children=(dram,) if case.has_dram else (),
    )
    psys = Zone("psys", idle_w=40, active_w=100, start_uj=5_000_000_000)
    return SimulatedMachine(zones=[package, psys] if case.has_psys else [package])


def _counter_at_start_j(case: Case) -> float:
    assert case.wrap_after_s is not None
    return case.range_j - ACTIVE_W * case.wrap_after_s


def read_package_j(machine: SimulatedMachine) -> float:
    """What the package's counter shows."""
    return int((machine.powercap_root / "intel-rapl:0" / "energy_uj").read_text()) / 1e6


def bring_package_to(machine: SimulatedMachine, case: Case, counter_j: float) -> None:
    """Wait until the package's counter shows `counter_j`, working where that is far."""
    rest_j = ACTIVE_W * 0.1  # what a last beat may still draw

    def left_j() -> float:
        return (counter_j - read_package_j(machine)) % case.range_j

    while left_j() > rest_j:
        machine.work(0.01)
    while left_j() < case.range_j / 2:  # once it has passed, nearly a whole range is left
        time.sleep(0.001)


# ----------------------------------------------------------------------------- the meters


class MeterFailedError(Exception):
    """A meter's process ended before it gave its joules."""


class MeterProcess:
    """One meter in a process of its own, on the machine."""

    def __init__(self, name: str, environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self._error_path = folder / f"{name}.stderr"
        with self._error_path.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.one_meter", name],
                env=environment,
                cwd=folder,  # some leave files behind, or read settings from where they are
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def tell(self, word: str) -> None:
        """Send `start` or `stop`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            MeterFailedError: there will be none; the message is the last line of its errors.
        """
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # pyJoules and CodeCarbon may print of their own
                answer: dict[str, Any] = json.loads(line)
                return answer
        lines = self._error_path.read_text().strip().splitlines()
        reason = lines[-1] if lines else "it ended without a word"
        raise MeterFailedError(f"{self.name} failed: {reason}; name the others with --meter")

    def end(self) -> None:
        """Close its input and let it finish what it does at its exit."""
        self._process.communicate()


def is_installed(meter: str) -> bool:
    """Whether the meter's distribution is in this environment."""
    try:
        importlib.metadata.version(PACKAGES[meter])
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def meters_environment(machine: SimulatedMachine) -> dict[str, str]:
    """Variables of the meters' processes: they find the machine's zones at the true path only."""
    environment = os.environ | machine.environment()
    environment["PYTHONPATH"] = os.pathsep.join([environment["PYTHONPATH"], str(ROOT)])
    del environment["GREENLAB_POWERCAP_ROOT"]
    return environment


# ------------------------------------------------------------------------------- one trial


def run_trial(name: str, number: int, meters: Sequence[str]) -> list[Result]:
    """Run all meters side by side through a case, once."""
    case = CASES[name]
    with (
        tempfile.TemporaryDirectory(prefix="greenlab-meters-") as folder,
        build_machine(case) as machine,
        ExitStack() as running,
    ):
        powercap.show(machine.powercap_root)
        environment = meters_environment(machine)
        processes = [MeterProcess(meter, environment, Path(folder)) for meter in meters]
        for process in processes:
            running.callback(process.end)
        for process in processes:
            process.hear()
        if case.wrap_after_s is not None:
            bring_package_to(machine, case, _counter_at_start_j(case) - STARTING_J)
        trial = Trial(
            name=name,
            number=number,
            machine=machine,
            counted_from=time.time(),
            counted_j=read_package_j(machine),
        )
        windows = watch(machine, case, processes)
    return [
        compare(trial, window, component)
        for window in windows
        for component, counter in COUNTERS.items()
        if counter in machine.counters
    ]


def watch(machine: SimulatedMachine, case: Case, processes: Sequence[MeterProcess]) -> list[Window]:
    """Start the meters one after the other, work, stop them all."""
    starts = []
    for process in processes:
        if process is processes[-1] and case.wrap_after_s is not None:
            bring_package_to(machine, case, _counter_at_start_j(case))
        process.tell("start")
        starts.append(process.hear())
    machine.work(case.active_s)
    for process in processes:
        process.tell("stop")
    return [
        Window(meter=process.name, **start, **process.hear())
        for process, start in zip(processes, starts, strict=True)
    ]


def compare(trial: Trial, window: Window, component: str) -> Result:
    """Hold what a meter reported against the machine's log."""
    truth = find_truth(trial, window, component)
    reported_j = window.energy_j.get(component)
    return Result(
        case=trial.name,
        trial=trial.number,
        meter=window.meter,
        version=importlib.metadata.version(PACKAGES[window.meter]),
        component=component,
        window_s=window.unix_to - window.unix_from,
        num_wraps=truth.num_wraps,
        true_j=truth.energy_j,
        reported_j=reported_j,
        remark=remark_on(window.meter, component, reported_j, truth),
    )


def find_truth(trial: Trial, window: Window, component: str) -> Truth:
    """What the machine's log says about a component in a meter's window."""
    case, true_j = CASES[trial.name], trial.machine.true_energy_j
    edges = (window.unix_from, window.unix_to)
    from_j, to_j = (
        trial.counted_j + true_j("package-0", trial.counted_from, unix) for unix in edges
    )
    is_cpu = component == "cpu"
    return Truth(
        energy_j=true_j(COUNTERS[component], *edges),
        psys_j=true_j("psys", *edges) if case.has_psys and is_cpu else 0.0,
        range_j=case.range_j if is_cpu else REAL_RANGE_J,
        num_wraps=count_wraps(from_j, to_j, case.range_j) if is_cpu else 0,
    )


def remark_on(meter: str, component: str, reported_j: float | None, truth: Truth) -> str:
    """What else the number is, where it is not the component's joules."""
    if reported_j is None:
        return "has none"
    if meter == "codecarbon" and component == "dram":
        # codecarbon/external/ram.py: a constant per memory slot; the slots are estimated.
        return "guessed from the memory's size"
    if truth.psys_j and abs(error_percent(reported_j, truth.energy_j + truth.psys_j)) < 5:
        return "counts psys as one more CPU"
    if num_ranges := ranges_off(reported_j, truth.energy_j, truth.range_j):
        return f"wraps lost: {-num_ranges}" if num_ranges < 0 else f"wraps too many: {num_ranges}"
    return ""


# ------------------------------------------------------------------------------- the report


def build_table(results: Sequence[Result]) -> Table:
    """One row per case, component and meter; its trials beside each other, in order."""
    table = Table(title="Joules reported and true, in each meter's own window")
    for heading in ("case", "component", "meter"):
        table.add_column(heading)
    for heading in ("wraps", "true [J]", "reported [J]", "error [%]"):
        table.add_column(heading, justify="right")
    table.add_column("remark")
    rows = {(result.case, result.component, result.meter): None for result in results}
    before = ""
    for key in sorted(rows, key=lambda row: (list(CASES).index(row[0]), row[1], row[2])):
        trials = [r for r in results if (r.case, r.component, r.meter) == key]
        case, component, meter = key
        if case != before:
            table.add_section()
        table.add_row(
            CASES[case].description if case != before else "",
            component,
            f"{meter} {trials[0].version}",
            "  ".join(str(r.num_wraps) for r in trials),
            "  ".join(f"{r.true_j:.1f}" for r in trials),
            "  ".join("–" if r.reported_j is None else f"{r.reported_j:.1f}" for r in trials),
            "  ".join(
                "–" if r.error_percent is None else f"{r.error_percent:+.1f}" for r in trials
            ),
            "; ".join(dict.fromkeys(r.remark for r in trials if r.remark)),
        )
        before = case
    return table


def to_row(result: Result) -> dict[str, str | int | float | None]:
    """A result as a line of the CSV file and as an object of the JSON list."""
    row = asdict(result) | {"error_percent": result.error_percent}
    return {
        name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()
    }


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """One line per result."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(to_row(results[0])), lineterminator="\n")
        table.writeheader()
        table.writerows(map(to_row, results))


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meters", description=__doc__)
    parser.add_argument("--case", action="append", choices=CASES, help="only this one; repeatable")
    parser.add_argument("--meter", action="append", choices=PACKAGES, help="likewise")
    parser.add_argument("--trials", type=int, help="of every case; default: 1, or 3 with wraps")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--csv", type=Path, metavar="PATH", help="write the results there as well")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    """Enter the namespace, run the trials that the command line asks for and print them."""
    options = parse_arguments(sys.argv[1:])
    console = open_console()
    if not options.inside:
        if reason := powercap.refusal():
            console.print(f"skipped: {reason}", highlight=False)
            return 0
        command = [sys.executable, "-m", "benchmarks.meters", INSIDE, *sys.argv[1:]]
        os.execvp(powercap.UNSHARE[0], [*powercap.UNSHARE, *command])
    powercap.cover()
    wanted = [meter for meter in PACKAGES if meter in (options.meter or PACKAGES)]
    meters = [meter for meter in wanted if is_installed(meter)]
    progress = open_console(stderr=True)
    for meter in wanted:
        if meter not in meters:
            progress.print(f"{meter}: not installed (make bench-meters installs it)")
    if not meters:
        return 0
    results = []
    for name in options.case or CASES:
        for trial in range(1, (options.trials or CASES[name].num_trials) + 1):
            progress.print(f"{CASES[name].description}, trial {trial}", highlight=False)
            try:
                results += run_trial(name, trial, meters)
            except MeterFailedError as error:
                progress.print(str(error), highlight=False)
                return 1
    if options.csv:
        write_csv(options.csv, results)
    if options.json:
        print(json.dumps([to_row(result) for result in results], indent=1))
        return 0
    console.print(build_table(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
