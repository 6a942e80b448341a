"""How busy the machine is: CPU seconds and memory, from files of the kernel's that stay open.

psutil opens them each time and reads all that they hold: four times what this takes.
"""

import os
from pathlib import Path

from greenlab.meters.kept_file import KeptFile


class CpuTimes:
    """Busy, stolen and all CPU seconds since the machine started, of all CPUs together."""

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._file = KeptFile(path)
        self._tick_s = 1 / os.sysconf("SC_CLK_TCK")

    def read_s(self) -> tuple[float, float, float]:
        """Busy, stolen and all; guest time is part of user time."""
        fields = self._file.read(256).split(None, 9)[1:9]
        user, nice, system, idle, waiting, irq, softirq, stolen = map(int, fields)
        busy = user + nice + system + irq + softirq
        tick_s = self._tick_s
        return busy * tick_s, stolen * tick_s, (busy + stolen + idle + waiting) * tick_s

    def busy_s(self) -> float:
        """CPU seconds that were not spent idle, waiting or stolen."""
        return self.read_s()[0]


class Dram:
    """How much memory the machine uses: what is not available to a new process."""

    def __init__(self, path: Path = Path("/proc/meminfo")) -> None:
        self._file = KeptFile(path)
        self._used_percent = 0.0

    def used_bytes(self) -> float:
        """As it is now."""
        # The first three lines: `MemTotal: 32768 kB`, MemFree and MemAvailable, in KiB.
        words = self._file.read(128).split(None, 8)
        total_kib, available_kib = int(words[1]), int(words[7])
        used_kib = total_kib - available_kib
        self._used_percent = 100 * used_kib / total_kib
        return 1024.0 * used_kib

    def used_percent(self) -> float:
        """As of the last `used_bytes`."""
        return self._used_percent
