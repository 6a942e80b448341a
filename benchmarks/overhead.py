"""What greenlab's meter and sampler cost: CPU seconds of a process that does nothing else.

    python -m benchmarks.overhead --seconds 60

A fresh process reads a simulated machine at 10 Hz, the default, and at 1 Hz, and counts its own CPU
time between begin and end, the trace and the account included: a workstation (a socket with DRAM
and a GPU), and a server (two of each). The simulated machine's writer is another process and is not
in it. The GPUs answer from Python here, where NVML would ask a driver: `--real` meters the counters
of this machine instead.
Threads and child processes are those alive at the end of the window; a child would cost what is not
counted, so there may be none. Exits with 1 where there is one, or where the workstation costs more
than 0.5 % of a core at 10 Hz.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.table import Table

from greenlab.account import OpenAccount
from greenlab.config import Hardware
from greenlab.meters import open_meter
from greenlab.meters.gpu_probe import open_probes
from greenlab.sampler import Sampler
from greenlab.simulated.machine import Gpu, SimulatedMachine, two_sockets, workstation
from greenlab.terminal import open_console

ROOT = Path(__file__).parent.parent
MACHINES: dict[str, Callable[[], SimulatedMachine]] = {
    "workstation": workstation,
    "server": lambda: SimulatedMachine(zones=two_sockets().zones, gpus=[Gpu(), Gpu()]),
    "this machine": lambda: SimulatedMachine(zones=[]),
}
SETTINGS = (("workstation", 0.1), ("workstation", 1.0), ("server", 0.1))
"""Machine and the sampler's period in seconds."""
MOST_PERCENT = 0.5
"""Of one core, at the default period: what the sampler costs shall be lost in the idle power that
is subtracted. Our choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one window of metering took."""

    cpu_s: float
    """Of the measuring process, user and system."""
    wall_s: float
    counters: list[str]
    threads: list[str]
    """Python's, by name."""
    num_native_threads: int
    """Of the kernel's threads those that Python did not start, such as a BLAS pool's."""
    children: list[str]

    @property
    def core_percent(self) -> float:
        """Of one core."""
        return 100 * self.cpu_s / self.wall_s


def spend(period_s: float, seconds: float) -> Cost:
    """Meter this process's machine for so long, and do nothing else."""
    meter = open_meter(Hardware(), uses_cuda=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        OpenAccount(Path(folder), meter) as account,
        Sampler(meter, period_s, account.beat) as sampler,
    ):
        sampler.record(open_probes(meter.sources, uses_cuda=False))
        cpu_from_s, wall_from_s = time.process_time(), time.monotonic()
        meter.begin()
        time.sleep(seconds)
        window = meter.end()
        cpu_s, wall_s = time.process_time() - cpu_from_s, time.monotonic() - wall_from_s
        threads = [thread.name for thread in threading.enumerate()]
        num_tasks = len(list(Path("/proc/self/task").iterdir()))
        children = [child.name() for child in psutil.Process().children(recursive=True)]
    sampler.check()
    return Cost(
        cpu_s=cpu_s,
        wall_s=wall_s,
        counters=list(window.part_energy_j),
        threads=threads,
        num_native_threads=num_tasks - len(threads),
        children=children,
    )


def spend_in_a_process(period_s: float, seconds: float, variables: dict[str, str]) -> Cost:
    """`spend` in a fresh process with these variables on top of our own."""
    arguments = ["--period", str(period_s), "--seconds", str(seconds)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", *arguments],
        env=os.environ | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return Cost(**json.loads(done.stdout))


def machine_environment(machine: SimulatedMachine) -> dict[str, str]:
    """Variables of a process that sees the simulated machine and both its GPUs."""
    seen = ",".join(str(index) for index in range(len(machine.gpus)))
    return machine.environment() | {"CUDA_VISIBLE_DEVICES": seen}


Costs = dict[tuple[str, float], list[Cost]]
"""By machine and period, as in SETTINGS; repetitions in order."""


def build_table(costs: Costs) -> Table:
    """One row per setting, its repetitions beside each other."""
    table = Table(title="What metering costs the measuring process")
    table.add_column("machine")
    for heading in ("period [s]", "window [s]", "CPU [s]", "median [% of a core]"):
        table.add_column(heading, justify="right")
    for heading in ("counters", "threads", "children"):
        table.add_column(heading)
    for (machine, period_s), repetitions in costs.items():
        last = repetitions[-1]
        native = f" + {last.num_native_threads} native" if last.num_native_threads else ""
        table.add_row(
            machine,
            f"{period_s:g}",
            f"{last.wall_s:.0f}",
            "  ".join(f"{cost.cpu_s:.3f}" for cost in repetitions),
            f"{median_percent(repetitions):.2f}",
            " ".join(last.counters),
            ", ".join(last.threads) + native,
            ", ".join(last.children) or "none",
        )
    return table


def median_percent(repetitions: Sequence[Cost]) -> float:
    """Of one core."""
    return statistics.median(cost.core_percent for cost in repetitions)


def is_light(costs: Costs) -> bool:
    """Whether 10 Hz stays within its share of a core, with no child process in any setting."""
    has_children = any(cost.children for repetitions in costs.values() for cost in repetitions)
    return median_percent(next(iter(costs.values()))) <= MOST_PERCENT and not has_children


def main() -> int:
    """Measure at each period and print the table; see the module for the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="per window; default: 60")
    parser.add_argument("--repetitions", type=int, default=3, help="per period; default: 3")
    parser.add_argument("--real", action="store_true", help="this machine's own counters")
    parser.add_argument("--period", type=float, help=argparse.SUPPRESS)  # of the process within
    options = parser.parse_args()
    if options.period is not None:
        print(json.dumps(asdict(spend(options.period, options.seconds))))
        return 0
    costs: Costs = {("this machine" if options.real else name, s): [] for name, s in SETTINGS}
    for _ in range(options.repetitions):  # the settings by turns: what drifts meets all
        for (name, period_s), repetitions in costs.items():
            with MACHINES[name]() as machine:
                simulated = {} if options.real else machine_environment(machine)
                repetitions.append(spend_in_a_process(period_s, options.seconds, simulated))
    open_console().print(build_table(costs))
    return 0 if is_light(costs) else 1


if __name__ == "__main__":
    raise SystemExit(main())
