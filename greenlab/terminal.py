"""How greenlab speaks on a terminal, and into a file or a pipe instead of one."""

import logging
import sys
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

PIPE_COLUMNS = 160
"""Where there is no terminal to ask: wide enough that a line stays a line."""


def open_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or as a line needs where there is none."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=PIPE_COLUMNS)


class LogHandler(RichHandler):
    """Log lines with a clock; the level shows in colour only."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            console=open_console(), show_path=False, show_level=False, keywords=[], **options
        )


class LogFile(logging.FileHandler):
    """A log that says nothing of its own on the terminal when its disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)
