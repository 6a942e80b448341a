# %% [markdown]
# # What each component draws
#
# How much power do GPU, CPU and DRAM draw on average in training and in inference, and how much of
# it would the idle machine have drawn anyway (the paper's Fig. 3)? How close does it come to the
# limit?

# %%
from multirun_analysis import publish, reference, runs
from multirun_analysis.figures import power

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
# **How to read it.** A bar is a model's mean power, stacked by component; its hatched part is idle
# power. A part that is hatched over its whole length drew no more than idle. The dashed line is the
# limit of the component that the bar begins with: compare only that component with it. Both panels
# of a row have one axis, so that training and inference can be held against each other.

# %%
publish.figure(
    "power",
    power.draw,
    loaded.cells,
    caption="Mean power of each component in training and inference by model, idle share hatched.",
)
publish.table(
    "power_by_component",
    power.table,
    loaded.cells,
    caption="Mean and idle power of each component, in W, and its limit where known.",
)

# %% [markdown]
# Below it, what the paper measured on its machine HC-3, where idle power was not measured.

# %%
publish.figure(
    "power_beside_paper",
    power.draw,
    loaded.cells,
    reference.paper_hc3(),
    caption="Mean power by component, beside the paper's measurements on its machine HC-3.",
)

# %%
publish.closing(loaded)
