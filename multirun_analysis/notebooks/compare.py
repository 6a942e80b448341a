# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # One sweep against another
# Does this sweep take more or less energy and time than an earlier one, cell by cell and over all,
# and is that more than scatter? Only cells that did the same work are compared; what differs
# otherwise (machine, power limit, commit) is named, for it is what the ratio is of.

# %%
from matplotlib.figure import Figure
from pandas import DataFrame

from multirun_analysis import publish
from multirun_analysis.compare import earlier_sweep, for_notebook
from multirun_analysis.figures.compare import forest
from multirun_analysis.runs import load

# %% tags=["parameters"]
tracking_uri = None
experiment = "greenlab"
sweep = None
against = None
where = None

# %%
this = load(tracking_uri, experiment, sweep, where)
before = load(tracking_uri, experiment, against or earlier_sweep(this), where)
publish.opening(this)

# %% [markdown]
# This sweep is B. It is compared with A:

# %%
publish.opening(before)


# %%
def table(metric: str) -> DataFrame:
    """Say what is compared, above the table."""
    compared = for_notebook(before.cells, this.cells, metric)
    print("\n".join([*compared.heading, "", compared.summary, *compared.left_out]))
    return compared.table


def figure(metric: str) -> Figure:
    """Draw the ratios of one metric."""
    return forest(for_notebook(before.cells, this.cells, metric))


# %% [markdown]
# ## Energy
# A point left of 1 is less energy than before. Its line is the 95 % interval, and the colour the
# verdict after correction for the number of cells (Holm); the diamond is the geometric mean of all.

# %%
publish.figure(
    "compare_energy",
    figure,
    "energy/net_per_sample_j",
    caption="Net energy per sample of this sweep (B) over that of the earlier one (A), with 95 % "
    "intervals.",
)

# %%
publish.table(
    "compare_energy",
    table,
    "energy/net_per_sample_j",
    caption="Net energy per sample of both sweeps (geometric means over repetitions), their ratio "
    "b / a, Welch's and the rank test's p, and Hedges' g.",
)

# %% [markdown]
# ## Time
# Energy that falls as time does is speed; energy that falls alone is power.

# %%
publish.figure(
    "compare_time",
    figure,
    "time/per_sample_s",
    caption="Time per sample of this sweep (B) over that of the earlier one (A), with 95 % "
    "intervals.",
)

# %%
publish.table(
    "compare_time",
    table,
    "time/per_sample_s",
    caption="Time per sample of both sweeps (geometric means over repetitions), their ratio b / a, "
    "Welch's and the rank test's p, and Hedges' g.",
)

# %%
publish.closing(this)
