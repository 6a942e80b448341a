"""A simulated machine: RAPL zones and GPUs that draw known watts, read by the real Zeus.

    package = Zone("package-0", idle_w=20, active_w=60)
    with SimulatedMachine(zones=[package], gpus=[Gpu()]) as machine:
        subprocess.run([...], env=os.environ | machine.environment())
        truth_j = machine.true_energy_j("package-0", unix_from, unix_to)

Everything draws `active_w` while the workload beats the machine's beacon and for 50 ms after its
last beat, and `idle_w` otherwise; at a load of a half, what lies half-way between. Counters are
named by zone (`package-0`), by zone and subzone (`package-0/dram`) or by GPU (`gpu-0`). `writer.py`
advances them in a process of its own, and remembers the exact joules, without wraps, faults or
rounding. Standard library and NumPy only.
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from greenlab.simulated.writer import BEACON_FIELDS, GPU_FIELDS, map_file

HERE = Path(__file__).parent
SITE = HERE / "sitecustomize"
BEAT_PERIOD_S = 0.01
WRITER_TIMEOUT_S = 10.0

Fault = Literal["stuck", "reset", "removed"]
"""`stuck`: shows the same value for ever. `reset`: starts again at zero. `removed`: the files of a
zone and its subzones disappear; a GPU answers that it is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metered:
    """What a zone and a GPU have in common."""

    idle_w: float
    active_w: float
    idle_drift_w_per_s: float = 0.0
    """Watts more for every second since the machine started, idle and active alike."""
    stuck_at_active_s: float | None = None
    """When this fault strikes, in seconds of activity since the machine started."""
    reset_at_active_s: float | None = None
    removed_at_active_s: float | None = None

    def writer_spec(self) -> dict[str, Any]:
        faults = {
            "stuck": self.stuck_at_active_s,
            "reset": self.reset_at_active_s,
            "removed": self.removed_at_active_s,
        }
        return {
            "idle_w": self.idle_w,
            "active_w": self.active_w,
            "idle_drift_w_per_s": self.idle_drift_w_per_s,
            "faults": {fault: at_s for fault, at_s in faults.items() if at_s is not None},
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Zone(Metered):
    """A RAPL zone; its `children` are its subzones."""

    name: str = field(kw_only=False)
    children: tuple["Zone", ...] = ()
    start_uj: int = 0
    """Two zones with the same start and the same watts show the same value, as mirrored dies do."""
    max_energy_range_uj: int = 262_143_328_850
    """Where the counter starts again at zero; this one takes over an hour at 60 W."""
    control_type: str = "intel-rapl"
    """`intel-rapl-mmio` shows a package of a laptop a second time, beside `intel-rapl`."""
    readable: bool = True
    """False: opening `energy_uj` raises PermissionError in processes given `environment()`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu(Metered):
    """An NVIDIA GPU."""

    idle_w: float = 70.0
    active_w: float = 300.0
    name: str = "NVIDIA Simulated"
    start_uj: int = 5_000_000_000_000
    counter_tick_s: float = 0.0
    """How long the energy counter shows the same value; 0: it follows the writer, every 2 ms."""
    thermal_time_s: float = 0.0
    """Time in which 63 % of the way to another temperature is gone; 0: none. Idle it goes to 35 °C,
    at work to 65 °C."""
    has_energy_counter: bool = True
    """False: NVML answers that reading energy is not supported; power can still be read."""
    power_limit_w: float = 400.0
    """Found when the machine starts, and the board's default; power is never above what is set."""
    min_power_limit_w: float = 100.0
    max_power_limit_w: float = 400.0
    may_set_power_limit: bool = True
    """False: NVML answers that this user may not, as it does to all but root."""
    memory_bytes: int = 16 << 30


class SimulatedMachine:
    """Runs from `with` to the end of the block; the truth can still be asked for afterwards."""

    def __init__(self, *, zones: Sequence[Zone] = (), gpus: Sequence[Gpu] = ()) -> None:
        self.zones = tuple(zones)
        self.gpus = tuple(gpus)
        self.counters: tuple[str, ...] = ()
        self._unreadable: list[Path] = []
        self._truth: npt.NDArray[np.float64] | None = None

    def __enter__(self) -> Self:
        # Memory rather than disk, where there is such a folder: the files change all the time.
        shared_memory = Path("/dev/shm")
        self._temporary = tempfile.TemporaryDirectory(
            prefix="simulated_machine_", dir=shared_memory if shared_memory.is_dir() else None
        )
        self._folder = Path(self._temporary.name)
        self.powercap_root.mkdir()
        self._beacon_path.write_bytes(bytes(8 * len(BEACON_FIELDS)))
        self._log_path.touch()
        self._beacon = map_file(self._beacon_path).cast("d")
        self._start_writer()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._writer.communicate("end\n", WRITER_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._writer.kill()
            raise
        finally:
            self._truth = self._read_truth()
            self._temporary.cleanup()

    @property
    def writer_pid(self) -> int:
        """The process that advances the counters."""
        return self._writer.pid

    @property
    def powercap_root(self) -> Path:
        """The folder that holds `intel-rapl:0`, laid out like /sys/class/powercap/intel-rapl."""
        return self._folder / "intel-rapl"

    def environment(self) -> dict[str, str]:
        """Variables to add to a process's own, so that it finds itself on this machine."""
        python_path = [str(SITE), os.environ.get("PYTHONPATH", "")]
        return {
            "GREENLAB_POWERCAP_ROOT": str(self.powercap_root),
            "GREENLAB_LOCK_FOLDER": str(self._folder),  # another machine, measured on its own
            "PYTHONPATH": os.pathsep.join(filter(None, python_path)),
            # Empty: a machine without GPUs, whatever the real one has.
            "SIMULATED_NVML": str(self._gpu_memory_path) if self.gpus else "",
            "SIMULATED_BEACON": str(self._beacon_path),
            "SIMULATED_UNREADABLE": "\n".join(map(str, self._unreadable)),
        }

    # ------------------------------------------------------------------ what happens on it

    def beat(self, load: float = 1.0) -> None:
        """Be active for the next 50 ms."""
        self._beacon[1] = load
        self._beacon[0] = time.monotonic()

    def work(self, duration_s: float, load: float = 1.0) -> None:
        """Beat for so long, from this process."""
        until_s = time.monotonic() + duration_s
        while (left_s := until_s - time.monotonic()) > 0:
            self.beat(load)
            time.sleep(min(BEAT_PERIOD_S, left_s))

    def is_idle(self, for_s: float) -> bool:
        """Whether it has worked, and not for so long."""
        return 0 < self._beacon[0] < time.monotonic() - for_s

    def set_wall_clock(self, ahead_s: float) -> None:
        """Set the clock of the processes on this machine."""
        self._beacon[3] = ahead_s

    def set_gpu(self, index: int, field: str, value: int) -> None:
        """Let NVML answer `value` from now on: `clock_event_reasons`, `num_other_processes`."""
        words = map_file(self._gpu_memory_path).cast("q")
        words[index * len(GPU_FIELDS) + GPU_FIELDS.index(field)] = value

    def break_counter(self, counter: str, fault: Fault) -> None:
        """Let a fault strike now; returns when it has."""
        self._column(counter)
        assert self._writer.stdin is not None
        self._writer.stdin.write(f"{fault} {counter}\n")
        self._writer.stdin.flush()
        self._wait_for("done")

    # ------------------------------------------------------------------ what is true about it

    def true_energy_j(self, counter: str, unix_from: float, unix_to: float) -> float:
        """Exact joules of a counter between two Unix times at which the machine was running."""
        return self._difference(self._column(counter), unix_from, unix_to)

    def true_work_j(self, counter: str, unix_from: float, unix_to: float) -> float:
        """Exact joules that the work added to what the machine draws idle."""
        self._column(counter)
        name = counter.removeprefix("intel-rapl-mmio/")
        drawn = {f"gpu-{index}": gpu for index, gpu in enumerate[Metered](self.gpus)}
        for zone in self.zones:
            drawn |= {zone.name: zone}
            drawn |= {f"{zone.name}/{child.name}": child for child in zone.children}
        above_idle_w = drawn[name].active_w - drawn[name].idle_w
        return above_idle_w * self.true_active_s(unix_from, unix_to)

    def true_active_s(self, unix_from: float, unix_to: float) -> float:
        """For how long of that time the machine was active; at half load it counts half."""
        return self._difference(1, unix_from, unix_to)

    def power_limit_w(self, counter: str) -> float:
        """The power limit that is set on a GPU now, whoever set it."""
        words = np.fromfile(self._gpu_memory_path, np.int64).reshape(-1, len(GPU_FIELDS))
        index = int(counter.removeprefix("gpu-"))
        return float(words[index, GPU_FIELDS.index("power_limit_mw")]) / 1000

    def _column(self, counter: str) -> int:
        if counter not in self.counters:
            raise KeyError(f"no counter {counter}; this machine has {', '.join(self.counters)}")
        return 2 + self.counters.index(counter)

    def _difference(self, column: int, unix_from: float, unix_to: float) -> float:
        truth = self._truth_until(unix_to)
        if not truth[0, 0] <= unix_from <= unix_to <= truth[-1, 0]:
            raise ValueError(
                f"{unix_from} to {unix_to} is not within the machine's life, "
                f"{truth[0, 0]} to {truth[-1, 0]}"
            )
        at_from, at_to = np.interp([unix_from, unix_to], truth[:, 0], truth[:, column])
        return float(at_to - at_from)

    def _truth_until(self, unix_to: float) -> npt.NDArray[np.float64]:
        if self._truth is not None:
            return self._truth
        give_up_s = time.monotonic() + 1.0
        while (truth := self._read_truth())[-1, 0] < unix_to and time.monotonic() < give_up_s:
            time.sleep(0.005)
        return truth

    def _read_truth(self) -> npt.NDArray[np.float64]:
        """One row per record: Unix time, seconds active, then joules per counter."""
        words = np.fromfile(self._log_path)
        num_columns = 2 + len(self.counters)
        return words[: len(words) // num_columns * num_columns].reshape(-1, num_columns)

    # ------------------------------------------------------------------ how it is built

    @property
    def _beacon_path(self) -> Path:
        return self._folder / "beacon"

    @property
    def _log_path(self) -> Path:
        return self._folder / "truth"

    @property
    def _gpu_memory_path(self) -> Path:
        return self._folder / "nvml"

    def _start_writer(self) -> None:
        specs = [*self._build_zones(), *self._build_gpus()]
        self.counters = tuple(spec["name"] for spec in specs)
        spec = {
            "counters": specs,
            "beacon": str(self._beacon_path),
            "log": str(self._log_path),
            "gpu_memory": str(self._gpu_memory_path) if self.gpus else None,
        }
        spec_path = self._folder / "writer.json"
        spec_path.write_text(json.dumps(spec))
        self._writer = subprocess.Popen(
            [sys.executable, "-I", "-S", HERE / "writer.py", spec_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test
        )
        self._wait_for("ready")

    def _wait_for(self, word: str) -> None:
        assert self._writer.stdout is not None
        answer = self._writer.stdout.readline().strip()
        if answer != word:
            raise RuntimeError(f"the simulated machine's writer answered {answer!r}, not {word!r}")

    def _build_zones(self) -> Iterator[dict[str, Any]]:
        numbers: dict[str, int] = {}
        for zone in self.zones:
            kind = zone.control_type
            number = numbers[kind] = numbers.get(kind, -1) + 1
            folder = self._folder / kind / f"{kind}:{number}"
            name = zone.name if kind == "intel-rapl" else f"{kind}/{zone.name}"
            yield self._build_zone(zone, folder, name)
            for child_number, child in enumerate(zone.children):
                child_folder = folder / f"{folder.name}:{child_number}"
                yield self._build_zone(child, child_folder, f"{name}/{child.name}")

    def _build_zone(self, zone: Zone, folder: Path, counter: str) -> dict[str, Any]:
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{zone.name}\n")
        (folder / "max_energy_range_uj").write_text(f"{zone.max_energy_range_uj}\n")
        (folder / "energy_uj").write_text(f"{zone.start_uj:020d}\n")
        if not zone.readable:
            self._unreadable.append(folder / "energy_uj")
        return zone.writer_spec() | {
            "name": counter,
            "folder": str(folder),
            "start_uj": zone.start_uj,
            "max_energy_range_uj": zone.max_energy_range_uj,
        }

    def _build_gpus(self) -> Iterator[dict[str, Any]]:
        if self.gpus:
            words = np.zeros((len(self.gpus), len(GPU_FIELDS)), np.int64)
            words[:, GPU_FIELDS.index("power_limit_mw")] = [
                round(gpu.power_limit_w * 1000) for gpu in self.gpus
            ]
            self._gpu_memory_path.write_bytes(words.tobytes())
            boards = [
                asdict(gpu) | {"uuid": f"GPU-00000000-0000-0000-0000-{index:012d}"}
                for index, gpu in enumerate(self.gpus)
            ]
            layout = {"fields": GPU_FIELDS, "gpus": boards}
            self._gpu_memory_path.with_suffix(".json").write_text(json.dumps(layout))
        for index, gpu in enumerate(self.gpus):
            yield gpu.writer_spec() | {
                "name": f"gpu-{index}",
                "index": index,
                "start_uj": gpu.start_uj,
                "max_energy_range_uj": 1000 << 64,  # 64 bits of millijoules: never reached
                "counter_tick_s": gpu.counter_tick_s,
                "thermal_time_s": gpu.thermal_time_s,
            }


def enter(environment: Mapping[str, str]) -> None:
    """Put this process on the machine whose `environment()` is given, as if started there."""
    os.environ.update(environment)
    sys.path.insert(0, str(SITE))
    runpy.run_path(str(SITE / "sitecustomize.py"))
    if "pynvml" in sys.modules:  # torch had it before this process was forked
        simulated_nvml = importlib.import_module("simulated_nvml")
        simulated_nvml.install(sys.modules["pynvml"], environment["SIMULATED_NVML"])


def workstation() -> SimulatedMachine:
    """One socket of 20 W idle and 60 W active, DRAM of 3 and 5 W, one GPU of 70 and 300 W."""
    dram = Zone("dram", idle_w=3, active_w=5, start_uj=2_000_000_000)
    core = Zone("core", idle_w=8, active_w=45, start_uj=1_000_000_000)
    package = Zone(
        "package-0", idle_w=20, active_w=60, start_uj=9_000_000_000, children=(core, dram)
    )
    return SimulatedMachine(zones=[package], gpus=[Gpu()])


def two_sockets() -> SimulatedMachine:
    """Two sockets with DRAM, each like the workstation's; no GPU."""
    zones = [
        Zone(
            f"package-{socket}",
            idle_w=20,
            active_w=60,
            start_uj=(9 + 4 * socket) * 1_000_000_000,
            children=(
                Zone("dram", idle_w=3, active_w=5, start_uj=(2 + 3 * socket) * 1_000_000_000),
            ),
        )
        for socket in range(2)
    ]
    return SimulatedMachine(zones=zones)


def mirrored_dies() -> SimulatedMachine:
    """One socket of 20 and 60 W; both its dies show the socket's counter, as on early AMD EPYC."""
    return SimulatedMachine(
        zones=[
            Zone(f"package-0-die-{die}", idle_w=20, active_w=60, start_uj=7_000_000_000)
            for die in range(2)
        ]
    )


def client_with_psys() -> SimulatedMachine:
    """A laptop: a package of 5 and 25 W inside a whole-platform zone, psys, of 12 and 40 W."""
    return SimulatedMachine(
        zones=[
            Zone("package-0", idle_w=5, active_w=25, start_uj=3_000_000_000),
            Zone("psys", idle_w=12, active_w=40, start_uj=8_000_000_000),
        ]
    )
