"""What becomes of a sweep whose terminal, or the reader of its pipe, is gone: it goes on."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest
from conftest import ROOT

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
