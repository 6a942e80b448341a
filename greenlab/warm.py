"""Imported by the server that cells are forked from, for what it does: what each of them would do.

Modules that a cell imports late, and a first picture, whose fonts and layout every process has to
work out once: half a second of each cell. It starts no thread and touches no device.
"""

import importlib
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


for _name in LATE:
    importlib.import_module(_name)
_draw()
metadata.version("torch")
