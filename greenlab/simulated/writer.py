"""The process that advances a simulated machine's counters at known watts.

`machine.py` starts it as a process of its own, so that no busy test delays a counter. Every two
milliseconds it integrates watts over the time that really passed (a late tick loses nothing),
publishes the counters where Zeus and the simulated NVML read them, and logs the exact joules. The
machine is active while its beacon, a time.monotonic() that the workload keeps writing, is fresh.
It ends when it is told to, or when its standard input does because the test was killed; then it
removes the machine's folder as well. Standard library only: it runs under `python -I -S`.
"""

import json
import math
import mmap
import os
import shutil
import struct
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

TICK_S = 0.002
ACTIVE_AFTER_BEAT_S = 0.05
TICKS_PER_RECORD = 2
"""Between two records power is constant, so that a straight line between them is exact."""

BEACON_FIELDS = ("beat_s", "load", "approach_wrap_j", "wall_clock_s")
"""One double each: time.monotonic() of the last beat, the load since then (0 to 1), how many joules
before the end of its range each counter is to go to at once (0: nowhere), and by how much the wall
clock of processes on this machine is wrong."""
GPU_FIELDS = (
    "energy_mj",
    "power_mw",
    "utilisation_percent",
    "memory_used_bytes",
    "temperature_celsius",
    "sm_clock_mhz",
    "nvml_error",
    "clock_event_reasons",
    "num_other_processes",
    "power_limit_mw",
)
"""One 64-bit integer each, per GPU: the live part of what the simulated NVML answers."""
IDLE_GPU = (0, 1 << 30, 35, 210)
ACTIVE_GPU = (97, 4 << 30, 65, 1410)
"""Utilisation, memory, temperature and clock, in the order and units of GPU_FIELDS."""
TEMPERATURE = GPU_FIELDS.index("temperature_celsius")
NVML_ERROR_GPU_IS_LOST = 15


def map_file(path: Path) -> "memoryview[int]":
    """Map a file that processes share, to be cast to words of 8 bytes: `d` or `q`.

    Such a word is stored in one go, so that another process never sees half of it.
    """
    with path.open("r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), 0))


class Counter(ABC):
    """One energy counter: its truth in joules, and the value that it shows."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.name: str = spec["name"]
        self.energy_j = 0.0
        self.power_w = 0.0
        self._idle_w: float = spec["idle_w"]
        self._active_w: float = spec["active_w"]
        self._drift_w_per_s: float = spec["idle_drift_w_per_s"]
        self._start_uj: int = spec["start_uj"]
        self._range_uj: int = spec["max_energy_range_uj"]
        self._stuck_uj: int | None = None

    def advance(self, from_s: float, duration_s: float, load: float) -> None:
        """Add the joules of a stretch that began `from_s` after the start of the machine."""
        drift_w = self._drift_w_per_s * (from_s + duration_s / 2)
        wanted_w = self._idle_w + load * (self._active_w - self._idle_w) + drift_w
        self.power_w = min(wanted_w, self.limit_w())
        self.energy_j += self.power_w * duration_s

    def limit_w(self) -> float:
        """Power that is never exceeded."""
        return math.inf

    def shown_uj(self) -> int:
        if self._stuck_uj is not None:
            return self._stuck_uj
        return (self._start_uj + int(self.energy_j * 1e6)) % self._range_uj

    def stick(self) -> None:
        self._stuck_uj = self.shown_uj()

    def approach_wrap(self, left_j: float) -> None:
        """Go to where so many joules are left until the counter starts at zero again."""
        self._start_uj = self._range_uj - int((left_j + self.energy_j) * 1e6)

    def reset(self) -> None:
        self._start_uj = -int(self.energy_j * 1e6)

    @abstractmethod
    def remove(self) -> None:
        """Take the counter away from whoever reads it; its truth goes on."""

    @abstractmethod
    def publish(self, now_s: float, active: bool) -> None:
        """Show the counter to whoever reads it."""


class ZoneFile(Counter):
    """A RAPL zone: a file that holds microjoules."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self._folder = Path(spec["folder"])
        self._file = os.open(self._folder / "energy_uj", os.O_WRONLY)
        self._is_removed = False

    def publish(self, now_s: float, active: bool) -> None:
        if self._is_removed:
            return
        # The width never changes, so that a reader never sees half a number.
        os.pwrite(self._file, b"%020d\n" % self.shown_uj(), 0)

    def remove(self) -> None:
        self._is_removed = True
        os.ftruncate(self._file, 0)  # who holds it open cannot read it any more either
        shutil.rmtree(self._folder)


class GpuWords(Counter):
    """A GPU: its words in the memory that the simulated NVML reads."""

    def __init__(self, spec: dict[str, Any], memory: "memoryview[int]") -> None:
        super().__init__(spec)
        first = spec["index"] * len(GPU_FIELDS)
        self._words = memory[first : first + len(GPU_FIELDS)]
        self._counter_tick_s: float = spec["counter_tick_s"]
        self._energy_due_s = 0.0
        self._thermal_time_s: float = spec["thermal_time_s"]
        self._celsius, self._warmed_at_s = float(IDLE_GPU[2]), 0.0

    def publish(self, now_s: float, active: bool) -> None:
        if now_s >= self._energy_due_s:
            self._words[0] = self.shown_uj() // 1000
            if self._counter_tick_s:
                self._energy_due_s += self._counter_tick_s
        self._words[1] = int(self.power_w * 1000)
        for word, value in enumerate(ACTIVE_GPU if active else IDLE_GPU, start=2):
            if word != TEMPERATURE:
                self._words[word] = value
        self._words[TEMPERATURE] = round(self._warm(now_s, (ACTIVE_GPU if active else IDLE_GPU)[2]))

    def _warm(self, now_s: float, towards_celsius: float) -> float:
        """Newton's law of cooling: what is left of the way shrinks by 1/e in the thermal time."""
        left = 0.0
        if self._thermal_time_s:
            left = math.exp((self._warmed_at_s - now_s) / self._thermal_time_s)
        self._celsius = towards_celsius + (self._celsius - towards_celsius) * left
        self._warmed_at_s = now_s
        return self._celsius

    def limit_w(self) -> float:
        return self._words[GPU_FIELDS.index("power_limit_mw")] / 1000

    def remove(self) -> None:
        self._words[GPU_FIELDS.index("nvml_error")] = NVML_ERROR_GPU_IS_LOST


class Writer:
    """All counters of a machine, the beacon that drives them and the log of the truth."""

    def __init__(self, spec: dict[str, Any]) -> None:
        gpu_memory = map_file(Path(spec["gpu_memory"])).cast("q") if spec["gpu_memory"] else None
        self._counters: list[Counter] = []
        for counter in spec["counters"]:
            if "folder" in counter:
                self._counters.append(ZoneFile(counter))
            else:
                assert gpu_memory is not None
                self._counters.append(GpuWords(counter, gpu_memory))
        self._beacon = map_file(Path(spec["beacon"])).cast("d")  # see BEACON_FIELDS
        self._folder = Path(spec["log"]).parent
        self._log = os.open(spec["log"], os.O_WRONLY | os.O_APPEND)
        self._record = struct.Struct(f"={2 + len(self._counters)}d")
        self._active_s = 0.0
        # (seconds of full load after which it happens, fault, counter), the next one first
        self._pending: list[tuple[float, str, str]] = sorted(
            (at_active_s, fault, counter["name"])
            for counter in spec["counters"]
            for fault, at_active_s in counter["faults"].items()
        )

    def run(self) -> None:
        """Advance the counters until it is told to end."""
        start_s = before_s = due_s = time.monotonic()
        load, num_ticks = 0.0, 0
        self._log_truth()
        while num_ticks % TICKS_PER_RECORD or self._obey_commands():
            due_s = max(due_s + TICK_S, before_s)
            time.sleep(max(0.0, due_s - time.monotonic()))
            now_s = time.monotonic()
            for counter in self._counters:
                counter.advance(before_s - start_s, now_s - before_s, load)
                counter.publish(now_s - start_s, load > 0)
            self._active_s += (now_s - before_s) * load
            num_ticks += 1
            next_load = self._beacon[1] if now_s - self._beacon[0] < ACTIVE_AFTER_BEAT_S else 0.0
            if next_load != load or num_ticks % TICKS_PER_RECORD == 0:
                self._log_truth()
            before_s, load = now_s, next_load
            if left_j := self._beacon[2]:
                self._beacon[2] = 0.0
                for counter in self._counters:
                    counter.approach_wrap(left_j)
            while self._pending and self._active_s >= self._pending[0][0]:
                _, fault, name = self._pending.pop(0)
                self._break(fault, name)

    def _log_truth(self) -> None:
        energies_j = (counter.energy_j for counter in self._counters)
        os.write(self._log, self._record.pack(time.time(), self._active_s, *energies_j))

    def _obey_commands(self) -> bool:
        """Carry out `fault counter` lines from standard input; False when it is time to end."""
        try:
            text = os.read(0, 4096)
        except BlockingIOError:
            return True
        if not text:
            shutil.rmtree(self._folder)
            return False
        for line in text.decode().splitlines():
            if line == "end":
                return False
            self._break(*line.split(" ", 1))
            print("done", flush=True)
        return True

    def _break(self, fault: str, name: str) -> None:
        counter = next(counter for counter in self._counters if counter.name == name)
        {"stuck": counter.stick, "reset": counter.reset, "removed": counter.remove}[fault]()


def main() -> None:
    """Say "ready", then advance the counters of the machine described in the file named."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    os.set_blocking(0, False)
    with suppress(OSError):  # ahead of a busy workload, where the user may ask for that
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    writer = Writer(spec)
    print("ready", flush=True)
    writer.run()


if __name__ == "__main__":
    main()
