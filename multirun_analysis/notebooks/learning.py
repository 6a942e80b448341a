# %% [markdown]
# # What an epoch buys
#
# How do loss, accuracy and energy go on from epoch to epoch (the paper's Fig. 5)? And what does
# another percentage point of accuracy cost as training goes on?

# %%
from multirun_analysis import publish, runs
from multirun_analysis.figures import learning

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
# **How to read it.** Thick lines are means over models; the shaded range is from the lowest model
# to the highest and no confidence interval; thin lines are single models. Loss and accuracy are
# those of the samples trained on; the page on accuracy has those of the test. Energy per percentage
# point is an epoch's net energy over the accuracy it gained: it has a gap where accuracy did not
# rise.

# %%
epochs = loaded.epochs
publish.figure(
    "learning",
    learning.draw,
    epochs,
    loaded.cells,
    caption="Loss, accuracy, cumulative energy and energy per point gained, epoch by epoch.",
)
publish.table(
    "learning_by_epoch",
    learning.table,
    epochs,
    caption="Mean, least and most over models, epoch by epoch.",
)

# %%
publish.closing(loaded)
