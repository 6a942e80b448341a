"""What becomes of a sweep whose terminal, or the reader of its pipe, is gone: it goes on."""

import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime

import pytest
from conftest import ROOT

from greenlab.logs import LogHandler

SPEAKS_TWICE = """
import logging, sys
from greenlab.logs import LogHandler
from greenlab.terminal import open_console
logging.basicConfig(level="INFO", handlers=[LogHandler()])
sys.stdin.readline()
logging.info("a cell has ended")
open_console().print("the end table")
sys.exit(7)
"""


@pytest.mark.parametrize("open_ends", [os.pipe, pty.openpty], ids=["pipe", "terminal"])
def test_a_sweep_outlives_whoever_listened(open_ends: Callable[[], tuple[int, int]]) -> None:
    listening, speaking = open_ends()
    with subprocess.Popen(
        [sys.executable, "-c", SPEAKS_TWICE],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=speaking,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(speaking)
        os.close(listening)
        _, complaints = process.communicate(b"go on\n")

    assert process.returncode == 7, complaints
    assert complaints == b""


def test_a_log_line_has_its_clock(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogHandler()
    handler.setFormatter(logging.Formatter("%(message)s", datefmt="%H.%M"))
    line = logging.LogRecord("greenlab", logging.INFO, "", 0, "cell %d has ended", (7,), None)
    line.created = datetime(2026, 11, 21, 17, 5).timestamp()
    handler.handle(line)

    assert capsys.readouterr().out.split() == ["17.05", "cell", "7", "has", "ended"]
