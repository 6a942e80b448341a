# %% [markdown]
# # Power against utilisation
#
# Does a model that keeps the device busier draw more power, and is there a utilisation beyond which
# the relation changes (the paper's Fig. 4)? How much GPU memory goes with it?

# %%
from multirun_analysis import publish, runs
from multirun_analysis.figures import utilisation

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
# **How to read it.** Each point is a model, numbered as in the key; its area is the GPU memory
# used. ρ is Spearman's rank correlation over models with its 95 % interval. A kinked line is drawn
# only where it fits better than a straight one (p < 0.05), the grey band being the interval of the
# kink. Utilisation is the share of time in which anything ran on the device, not how much of it was
# used.

# %%
publish.figure(
    "utilisation",
    utilisation.draw,
    loaded.cells,
    caption="Mean power against utilisation, a point per model, its area the GPU memory used.",
)
publish.table(
    "utilisation_correlations",
    utilisation.correlations,
    loaded.cells,
    caption="Rank correlation of power with utilisation over models, and where the line bends.",
)

# %%
publish.closing(loaded)
