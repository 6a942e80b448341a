"""What the sampler costs: CPU time of a process that does nothing else, jitter, and memory.

    python -m benchmarks.sampler

A fresh process reads a simulated machine at 10 Hz, the default, and at 100 Hz, and counts its own
CPU time between begin and end, the trace and the account included: a workstation (a socket with
DRAM and a GPU), and a server (two of each). The simulated machine's writer is another process and
is not in it. The GPUs answer from Python here, where NVML would ask a driver: `--real` meters the
counters of this machine instead. Jitter is by how much the time between two samples differs from
the period. Then a workstation's trace of ten hours is recorded without waiting for them, and
completed. Its readings are random numbers, which do not compress: no trace is larger.

Child processes are those alive at the end of the window; a child would cost what is not counted, so
there may be none. Exits with 1 where there is one, or where another target is missed.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.results import Figure, open_parser, report
from greenlab import trace
from greenlab.account import OpenAccount
from greenlab.config import Hardware
from greenlab.energy import EnergyWindow
from greenlab.meters import open_meter
from greenlab.meters.gpu_probe import open_probes
from greenlab.record import TRACE_FILE
from greenlab.sampler import Recording, Sampler
from greenlab.simulated.machine import Gpu, SimulatedMachine, two_sockets, workstation
from greenlab.trace_file import RowFile, complete_trace, read_trace

ROOT = Path(__file__).parent.parent
MACHINES: dict[str, Callable[[], SimulatedMachine]] = {
    "workstation": workstation,
    "server": lambda: SimulatedMachine(zones=two_sockets().zones, gpus=[Gpu(), Gpu()]),
    "this machine": lambda: SimulatedMachine(zones=[]),
}
SETTINGS = (("workstation", 0.1), ("workstation", 0.01), ("server", 0.1))
"""Machine and the sampler's period in seconds; the first is held against MOST_PERCENT."""
MOST_PERCENT = 0.5
"""Of one core, at the default period: what the sampler costs shall be lost in the idle power that
is subtracted. Our choice."""
LONG_S, LONG_PERIOD_S = 36_000.0, 0.1
MOST_KEPT_KIB = 1024
"""Of ten hours, while they are measured; allocators round up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one window of metering took."""

    cpu_s: float
    """Of the measuring process, user and system."""
    wall_s: float
    threads: list[str]
    """Python's, by name."""
    children: list[str]
    deviations_s: list[float]
    """For each sample of the window but the first: by how much it was not a period later."""

    @property
    def core_percent(self) -> float:
        """Of one core."""
        return 100 * self.cpu_s / self.wall_s

    @property
    def sample_us(self) -> float:
        """CPU microseconds for one sample, all that is done once a second shared out."""
        return 1e6 * self.cpu_s / len(self.deviations_s)

    def jitter_ms(self, percent: float) -> float:
        """What so many per cent of the deviations stay within."""
        ordered = sorted(self.deviations_s)
        return 1000 * ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))]


def spend(period_s: float, seconds: float) -> Cost:
    """Meter this process's machine for so long, and do nothing else."""
    meter = open_meter(Hardware(), uses_cuda=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            OpenAccount(folder, meter) as account,
            Sampler(meter, period_s, account.beat) as sampler,
        ):
            sampler.record(folder, open_probes(meter.sources, uses_cuda=False))
            cpu_from_s, wall_from_s = time.process_time(), time.monotonic()
            meter.begin()
            time.sleep(seconds)
            window = meter.end()
            cpu_s, wall_s = time.process_time() - cpu_from_s, time.monotonic() - wall_from_s
            threads = [thread.name for thread in threading.enumerate()]
            children = [child.name() for child in psutil.Process().children(recursive=True)]
            sampler.finish()
        complete_trace(folder)
        time_s = read_trace(folder / TRACE_FILE)[trace.TIME]
    inside = time_s[(time_s >= window.started_at_s)].tolist()
    return Cost(
        cpu_s=cpu_s,
        wall_s=wall_s,
        threads=threads,
        children=children,
        deviations_s=[abs(after - before - period_s) for before, after in pairwise(inside)],
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LongTrace:
    """What ten hours of samples took."""

    kept_kib: float
    """Resident memory after the last sample, above that after the first minute."""
    flush_us: float
    """CPU time in which a second's samples go to disk; median."""
    completing_mib: float
    """The most memory from there to the end of the summary."""
    completing_s: float
    """CPU time of the same."""
    row_groups: int
    file_mb: float


def record_long_trace() -> LongTrace:
    """On a workstation whose clock jumps to the next sample."""
    import pyarrow.parquet as pq  # here: what a cell's process has imported before it measures

    meter = open_meter(Hardware(), uses_cuda=False)
    [probe] = open_probes(meter.sources, uses_cuda=False)
    draw = random.Random(7).random
    probe.fast, probe.slow = dict.fromkeys(probe.fast, draw), dict.fromkeys(probe.slow, draw)
    first = meter.read()
    num_samples, num_before = round(LONG_S / LONG_PERIOD_S), round(60 / LONG_PERIOD_S)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = Recording(folder, list(first.part_energy_j), [probe])
        resident_bytes = 0
        for number in range(num_samples):
            if number == num_before:
                resident_bytes = psutil.Process().memory_info().rss
            at_s = first.monotonic_s + LONG_PERIOD_S * number
            joules = {part: draw() + 20 * number for part in first.part_energy_j}
            reading = replace(first, monotonic_s=at_s, part_energy_j=joules)
            recording.add(reading, meter.unix_s(at_s))
        kept_bytes = psutil.Process().memory_info().rss - resident_bytes
        recording.close()
        started_s = time.process_time()
        complete_trace(folder)
        began_s = meter.unix_s(first.monotonic_s)
        edge = EnergyWindow(
            started_at_s=began_s, duration_s=10, energy_j={}, part_energy_j={}, edge_s=0
        )
        active = replace(edge, started_at_s=began_s + 10, duration_s=LONG_S - 20)
        after = replace(edge, started_at_s=began_s + LONG_S - 10)
        columns = read_trace(folder / TRACE_FILE)
        trace.idle_series(columns, edge, after)
        trace.power_series(columns, active)
        trace.summarise(columns, [active], [edge, after])
        return LongTrace(
            kept_kib=kept_bytes / 1024,
            flush_us=_flush_us(folder, len(columns)),
            completing_s=time.process_time() - started_s,
            completing_mib=(high_water_bytes() - resident_bytes - kept_bytes) / 2**20,
            row_groups=pq.ParquetFile(folder / TRACE_FILE).num_row_groups,
            file_mb=(folder / TRACE_FILE).stat().st_size / 1e6,
        )


def _flush_us(folder: Path, num_columns: int) -> float:
    rows = RowFile(folder, [str(number) for number in range(num_columns)])
    took_s = []
    for _ in range(1000):
        for _ in range(round(1 / LONG_PERIOD_S)):
            rows.add([0.0] * num_columns)
        started_s = time.thread_time()
        rows.flush()
        took_s.append(time.thread_time() - started_s)
    return 1e6 * statistics.median(took_s)


def high_water_bytes() -> int:
    """The most resident memory that this process has had."""
    [line] = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


def in_a_process(variables: dict[str, str], *arguments: str) -> str:
    """What this benchmark prints in a fresh process with these variables on top of our own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sampler", *arguments],
        env=os.environ | variables,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout


def machine_environment(machine: SimulatedMachine) -> dict[str, str]:
    """Variables of a process that sees the simulated machine and all its GPUs."""
    seen = ",".join(str(index) for index in range(len(machine.gpus)))
    return machine.environment() | {"CUDA_VISIBLE_DEVICES": seen}


Costs = dict[tuple[str, float], list[Cost]]
"""By machine and period, as in SETTINGS; repetitions in order."""


def cost_figures(costs: Costs) -> list[Figure]:
    """CPU time and jitter of each setting, repetitions beside each other.

    Of fewer than a hundred samples, 99 % are all of them.
    """
    figures = []
    for number, ((machine, period_s), windows) in enumerate(costs.items()):
        where = f"{machine}, {1 / period_s:g} Hz"
        values: tuple[tuple[str, str, Callable[[Cost], float], str], ...] = (
            ("CPU time", "% of a core", lambda cost: cost.core_percent, f"≤ {MOST_PERCENT}"),
            ("CPU time of a sample", "µs", lambda cost: cost.sample_us, ""),
            ("jitter, median", "ms", lambda cost: cost.jitter_ms(50), ""),
            ("jitter, 99 % within", "ms", lambda cost: cost.jitter_ms(99), ""),
            ("jitter, most", "ms", lambda cost: cost.jitter_ms(100), ""),
            ("child processes", "", lambda cost: float(len(cost.children)), "≤ 0"),
        )
        figures += [
            Figure(
                name=f"{where}: {name}",
                unit=unit,
                values=[value(cost) for cost in windows],
                target=target if number == 0 or target == "≤ 0" else "",
            )
            for name, unit, value, target in values
            if "99" not in name or len(windows[0].deviations_s) >= 100
        ]
    return figures


def long_figures(found: LongTrace) -> list[Figure]:
    """Of ten hours."""
    values = (
        ("memory kept while measuring", "KiB", found.kept_kib, f"≤ {MOST_KEPT_KIB}"),
        ("a second's samples to disk, CPU time", "µs", found.flush_us, ""),
        ("completing and summing up, memory", "MiB", found.completing_mib, ""),
        ("completing and summing up, CPU time", "s", found.completing_s, ""),
        ("trace.parquet", "MB", found.file_mb, ""),
        ("its row groups", "", float(found.row_groups), ""),
    )
    return [
        Figure(name=f"10 h at 10 Hz: {name}", unit=unit, values=[value], target=target)
        for name, unit, value, target in values
    ]


def measure(seconds: float, repetitions: int, settings: Sequence[tuple[str, float]]) -> Costs:
    """The settings by turns: what drifts meets all."""
    costs: Costs = {setting: [] for setting in settings}
    for _ in range(repetitions):
        for (name, period_s), windows in costs.items():
            with MACHINES[name]() as machine:
                is_real = not machine.zones
                told = in_a_process(
                    {} if is_real else machine_environment(machine),
                    *("--period", str(period_s), "--seconds", str(seconds)),
                )
            windows.append(Cost(**json.loads(told)))
    return costs


def main() -> int:
    """Measure each setting and the long trace; see the module for the exit code."""
    parser = open_parser("sampler", __doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="per window; default: 4")
    parser.add_argument("--repetitions", type=int, default=5, help="per setting; default: 5")
    parser.add_argument("--real", action="store_true", help="this machine's own counters")
    parser.add_argument("--period", type=float, help=argparse.SUPPRESS)  # of the process within
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)  # likewise
    options = parser.parse_args()
    if options.period is not None:
        print(json.dumps(asdict(spend(options.period, options.seconds))))
        return 0
    if options.long:
        print(json.dumps(asdict(record_long_trace())))
        return 0
    settings = [("this machine", 0.1), ("this machine", 0.01)] if options.real else SETTINGS
    costs = measure(options.seconds, options.repetitions, settings)
    with workstation() as machine:
        told = in_a_process(machine_environment(machine), "--long")
    figures = cost_figures(costs) + long_figures(LongTrace(**json.loads(told)))
    threads = {", ".join(cost.threads) for windows in costs.values() for cost in windows}
    print(f"threads: {'; '.join(sorted(threads))}")
    return report("What the sampler costs", figures, options.json)


if __name__ == "__main__":
    raise SystemExit(main())
