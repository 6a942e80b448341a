# %% [markdown]
# # How long training and inference take
#
# How long does each model train and infer over the paper's 50,000 samples, and is training three
# times as long as inference (the paper's Fig. 2)? Can the one duration be told from the other?

# %%
from multirun_analysis import publish, reference, runs
from multirun_analysis.figures import durations

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
# **How to read it.** Each row is a model, the one with the fewest MACs on top. The filled marker is
# training, the hollow one inference; where the axis is logarithmic, the length between them is
# their ratio, drawn again on the right beside the paper's rule of three. Times are those per sample
# of the runs, times 50,000. Bars are 95 % intervals over repetitions; one run alone has none.

# %%
publish.figure(
    "durations",
    durations.draw,
    loaded.cells,
    caption="Time for 50,000 samples in training and inference by model, and their ratio.",
)

# %% [markdown]
# Pearson's r and Spearman's ρ, over models, of the training with the inference duration, each with
# its 95 % bootstrap interval, and the median ratio. The paper has r ≈ 0.9 and a ratio of 3.

# %%
publish.table(
    "durations_correlations",
    durations.correlations,
    loaded.cells,
    caption="Training against inference duration: correlation over models, and their ratio.",
)
publish.table(
    "durations_by_model",
    durations.table,
    loaded.cells,
    caption="Seconds for 50,000 samples, by model, with 95 % intervals.",
)

# %% [markdown]
# The same with what the paper measured on its own machine HC-3, in grey. Two machines are laid side
# by side, never averaged.

# %%
publish.figure(
    "durations_beside_paper",
    durations.draw,
    loaded.cells,
    reference.paper_hc3(),
    caption="Time for 50,000 samples, beside the paper's measurements on its machine HC-3.",
)

# %%
publish.closing(loaded)
