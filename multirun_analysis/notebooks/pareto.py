# %% [markdown]
# # Accuracy against energy
#
# Which models are worth their energy, and which are beaten in both by another beyond all
# uncertainty? From how many inferences on does a costlier training pay, and which model to take?

# %%
from pandas import DataFrame

from multirun_analysis import pareto, publish, runs
from multirun_analysis.figures import pareto as figures

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
# **How to read it.** A hollow model is dominated: another is more accurate *and* takes less energy,
# each by more than the uncertainty of the difference. Accuracy is that of the trained models on
# test data; its bar is the larger of the scatter over repetitions and of what so few test samples
# leave open. Energy of training is that of the training as it was run, with its epochs and samples:
# all that is said here holds for that training.

# %%
for axis, words in figures.LABELS.items():
    publish.figure(
        f"pareto_{axis}",
        figures.front,
        loaded.cells,
        axis,
        caption=f"Accuracy against {words}, with 95 % intervals; dominated models are hollow.",
    )

# %% [markdown]
# The number of inferences is that at which inference takes 70 parts of energy to 20 of training,
# summed over the models. The paper cites 20 : 70 as the split of compute (Sec. 3.1); here it is
# taken for that of energy. Models whose energy is not above zero are left out of advice.

# %%
publish.table(
    "pareto",
    pareto.pareto_table,
    loaded.cells,
    caption="Accuracy, energies and who dominates a model, on each of the three energies.",
)

# %% [markdown]
# ## Which to take

# %%
try:
    print(pareto.recommend(pareto.pareto_table(loaded.cells)))
except runs.NothingToShow as nothing:
    print(nothing)

# %% [markdown]
# ## Break-even
# Where two lines cross, the model with the costlier training has made up for it by its cheaper
# inferences. A bar that runs off the panel is open: it may well never pay.

# %%
publish.figure(
    "pareto_break_even",
    figures.break_even,
    loaded.cells,
    caption="Energy of training and inferences against the number of inferences, with the numbers "
    "from which on a costlier training pays.",
)


# %%
def break_even() -> DataFrame:
    """Every two models of a series."""
    return pareto.break_even_table(pareto.pareto_table(loaded.cells))


publish.table(
    "pareto_break_even_pairs",
    break_even,
    caption="The number of inferences from which `model` pays instead of the other, with its 95 % "
    "interval; none where the other is cheaper in training and in inference.",
)

# %%
publish.closing(loaded)
