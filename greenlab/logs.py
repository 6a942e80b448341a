"""Where log lines go, as conf/hydra names it: to the terminal, and to the cell's greenlab.log."""

import logging
import sys
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.logging import RichHandler


class LogHandler(logging.Handler):
    """Log lines with a clock on the terminal; the level shows in colour only."""

    @cached_property
    def _rich(self) -> "RichHandler":
        # At the first line: --help and refused options set logging up, and log nothing.
        from rich.logging import RichHandler

        from greenlab.terminal import open_console

        handler = RichHandler(
            console=open_console(), show_path=False, show_level=False, keywords=[]
        )
        handler.setFormatter(self.formatter)
        return handler

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        self._rich.emit(record)


class LogFile(logging.FileHandler):
    """A log that says nothing of its own on the terminal when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
