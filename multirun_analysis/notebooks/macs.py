# %% [markdown]
# # What predicts a model's energy
#
# Which of MACs, parameters and MACs per parameter tells a model's energy per sample best (the
# paper's Fig. 6)? How far off is a prediction from each, for a model that was not measured?

# %%
from multirun_analysis import publish, reference, runs
from multirun_analysis.figures import macs

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
# **How to read it.** Both axes are logarithmic; numbers name the models. ρ is Spearman's and r
# Pearson's coefficient of the plain numbers, each with its 95 % bootstrap interval. Intervals that
# overlap do not say that two predictors are equally good, for they share the models: the claims
# page tests their difference. Bars at the points are the energies' own 95 % intervals; where all
# energy is modelled there is none, for the model's error is one factor on all of them, and what
# disturbed a cell besides stands on the page on quality.

# %%
publish.figure(
    "macs",
    macs.draw,
    loaded.cells,
    caption="Net energy per sample against MACs, parameters and MACs per parameter, by model.",
)
publish.table(
    "macs_predictors",
    macs.table,
    loaded.cells,
    caption="Each predictor of energy per sample: correlations and leave-one-model-out error.",
)

# %% [markdown]
# Each model is predicted from all the others by a straight line in logarithms. The bar ends at the
# median factor by which the prediction misses, with its 95 % interval: shorter is better.

# %%
publish.figure(
    "macs_errors",
    macs.draw_errors,
    loaded.cells,
    caption="By what factor each predictor misses the energy of a model that it was not fitted to.",
)
publish.table(
    "macs_predictions",
    macs.predictions,
    loaded.cells,
    caption="Energy per sample of each model, and what the other models predict for it.",
)

# %% [markdown]
# Beside it, in grey, the paper's machine HC-3. Its energies are gross: idle was never subtracted.

# %%
publish.figure(
    "macs_beside_paper",
    macs.draw,
    loaded.cells,
    reference.paper_hc3(),
    caption="Energy per sample against its predictors, beside the paper's gross energy on HC-3.",
)

# %%
publish.closing(loaded)
