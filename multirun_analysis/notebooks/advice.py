# %% [markdown]
# # What this sweep advises
#
# Which batch size, which power limit, which models and settings take least energy, what do they
# cost in time or accuracy, and what can this sweep not tell?

# %%
from multirun_analysis import publish, runs
from multirun_analysis.advice import advise
from multirun_analysis.advice_table import table, together
from multirun_analysis.figures import advice as figures

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
# **How to read it.** Nothing is advised from within the noise. Two options are told apart where
# Welch's t of their repetitions says so after Holm's correction for every comparison that this
# sweep offers, and where the interval of their difference, as wide as all pairs of the options
# together need, excludes none at all. A single run counts with its own uncertainty, where that is
# known. An advised batch size is within 10 % of the best time. Where energy is modelled it decides
# nothing: what is said then is of time. `python -m greenlab.advise` prints the same, for any
# number of inferences and any allowance of time.

# %%
advised = advise(loaded.cells)
publish.table(
    "advice",
    table,
    advised.advice,
    "No advice: nothing in this sweep is told apart beyond the noise.",
    caption="What is advised, with what it saves and its 95 % interval, and its equals.",
)

# %% [markdown]
# ## Not advised
# And what would decide it.

# %%
publish.table(
    "advice_undecided",
    table,
    together(advised.undecided),
    "Everything that this sweep offers a choice of is decided.",
    caption="Where this sweep has no advice to give, why, and the runs that would decide it.",
)

# %% [markdown]
# ## Batch sizes and power limits
# Energy and time per sample as multiples of the least. A dark ring is what is advised, a grey one
# what cannot be told from it; bars are the 95 % intervals of each point by itself.

# %%
publish.figure(
    "advice_batch_size",
    figures.draw,
    loaded.cells,
    "batch_size",
    caption="Energy and time per sample by batch size, with the one that is advised and those that "
    "cannot be told from it.",
)

# %%
publish.figure(
    "advice_power_limit",
    figures.draw,
    loaded.cells,
    "power_limit_w",
    caption="Energy and time per sample by power limit, with the one that is advised and those "
    "that cannot be told from it.",
)

# %%
publish.closing(loaded)
