# %% [markdown]
# # From which batch size on nothing is saved
#
# How do energy and time per sample fall as the batch grows (the paper's Fig. 7)? From which batch
# size on does a larger one save hardly anything?

# %%
from multirun_analysis import publish, runs
from multirun_analysis.figures import batch_size

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
# **How to read it.** A panel per model, both axes logarithmic. The curve is a + c/b + d·b, no
# coefficient below zero: c is what a whole batch costs, shared by its samples. The cross is the
# knee, the smallest batch size whose energy is within 10 % of the least; its bar is the 95 %
# interval. A knee outside the batch sizes that were run is in the table only. From three sizes
# there is none: how sure it would be cannot be told. The points are joined then.

# %%
publish.figure(
    "batch_size_energy",
    batch_size.draw_energy,
    loaded.cells,
    caption="Net energy per sample against batch size by model, with the knee and its interval.",
)
publish.table(
    "batch_size_knees",
    batch_size.table,
    loaded.cells,
    caption="Least energy per sample, knee and optimum of each curve, with 95 % intervals.",
)

# %% [markdown]
# Time per sample, where energy follows it or does not.

# %%
publish.figure(
    "batch_size_time",
    batch_size.draw_time,
    loaded.cells,
    caption="Time per sample against batch size by model.",
)

# %%
publish.closing(loaded)
