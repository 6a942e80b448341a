"""Imported by the server that cells are forked from, for what it does: what each of them would do.

Modules that a cell imports late, and a first picture, whose fonts and layout every process has to
work out once: half a second of each cell. It starts no thread and touches no device.
"""

import ctypes
import importlib
import signal
import sys
from importlib import metadata
from io import BytesIO

LATE = (
    "greenlab.experiment",
    "torch._dynamo",  # the first step of any optimiser imports it
    "greenlab.power_plot",
    "pyarrow.parquet",
    "scipy.special",
    "zeus.device",
)


PR_SET_PDEATHSIG = 1
"""prctl's, from <linux/prctl.h>."""


def _end_with_parent() -> None:
    """A server whose parent is gone would notice after importing: seconds of a busy machine."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _draw() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.stackplot([0, 1], [1, 2], labels=["power"], step="pre")
    axes.set(xlabel="time (s)", ylabel="power (W)", title="title")
    axes.legend()
    figure.savefig(BytesIO(), format="png")


_end_with_parent()
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this one
for _name in LATE:
    importlib.import_module(_name)
_draw()
metadata.version("torch")
