# %% [markdown]
# # Whether the numbers can be trusted
#
# Which doubts do the measurements carry, did the machine change while they were made, and how sure
# is each net energy? And where did the joules go that were not useful work?

# %%
from multirun_analysis import publish, runs
from multirun_analysis.figures import quality

# %% tags=["parameters"]
tracking_uri = None
experiment = "greenlab"
sweep = None
against = None
where = None

# %%
loaded = runs.load(tracking_uri, experiment, sweep, where)
publish.opening(loaded)

# %% [markdown]
# **How to read it.** Above, all cells by verdict; what is INVALID or failed is in no other figure.
# Below, how many of the cells that are used carry which doubt.

# %%
publish.figure(
    "quality_verdicts",
    quality.draw_verdicts,
    loaded.cells,
    loaded.left_out,
    caption="Cells by verdict, and how many carry which doubt.",
)

# %% [markdown]
# Idle power of each cell in the order in which they ran. The line is Theil and Sen's: the median of
# the slopes between all pairs. A machine that warms up over the sweep shows here.

# %%
publish.figure(
    "quality_drift",
    quality.draw_drift,
    loaded.cells,
    caption="Idle power of each component over the time of the sweep, with its slope.",
)
publish.table(
    "quality_drifts",
    quality.drift,
    loaded.cells,
    caption="Slope of idle power over time, in W per hour, with its 95 % interval.",
)

# %% [markdown]
# The 95 % uncertainty of each cell's net energy, in percent of it, against how long was measured.
# If points fall to the right, longer windows would help.

# %%
publish.figure(
    "quality_uncertainty",
    quality.draw_uncertainty,
    loaded.cells,
    caption="Relative uncertainty of net energy against the lengths of idle and active windows.",
)
publish.table(
    "quality_uncertainties",
    quality.uncertainty,
    loaded.cells,
    caption="Relative uncertainty and lengths of windows, cell by cell.",
)

# %% [markdown]
# All joules that the meters counted, by what they were spent on. What is useful is the active
# windows of finished cells; the rest is what it took to measure them.

# %%
publish.figure(
    "quality_ledger",
    quality.draw_ledger,
    loaded.sweeps,
    loaded.cells,
    caption="Where the joules of the sweep went.",
)
publish.table(
    "quality_joules",
    quality.ledger,
    loaded.sweeps,
    caption="The ledger of joules, by part.",
)

# %%
publish.closing(loaded)
