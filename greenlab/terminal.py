"""How greenlab speaks on a terminal, and into a file or a pipe instead of one."""

import os
import sys
from typing import Any

from rich.console import Console

PIPE_COLUMNS = 160
"""Where there is no terminal to ask: wide enough that a line stays a line."""


class LastingConsole(Console):
    """Falls silent where nobody listens any more; what is being measured goes on.

    A connection that breaks takes its terminal away, Ctrl-C ends the `tee` behind a pipe as well.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, unless the terminal is gone."""
        try:
            super().print(*objects, **options)
        except OSError:
            self._fall_silent()

    def on_broken_pipe(self) -> None:
        """Instead of an exit in the midst of whatever is being done, which is rich's way."""
        self._fall_silent()

    def _fall_silent(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        # Else the interpreter fails at its end, when it writes what is left in the buffer.
        os.dup2(nowhere, (sys.stderr if self.stderr else sys.stdout).fileno())
        os.close(nowhere)


def open_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or as a line needs where there is none."""
    console = LastingConsole(stderr=stderr)
    return console if console.is_terminal else LastingConsole(stderr=stderr, width=PIPE_COLUMNS)
