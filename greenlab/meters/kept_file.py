"""A file of the kernel's that stays open between readings."""

import os
from pathlib import Path


class KeptFile:
    """Read from its start as often as needed: opening it anew takes five times the reading."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, num_bytes: int) -> bytes:
        """The first bytes as they are now; OSError where what it showed has gone."""
        return os.pread(self._number, num_bytes, 0)

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)
