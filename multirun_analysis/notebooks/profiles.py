# %% [markdown]
# # What a short profile foretells
#
# How far is a whole run's energy and time from what a few short stretches of it foretold, and does
# the truth lie in the 95 % interval as often as it should? How short a profile is short enough?

# %%
from pandas import DataFrame

from multirun_analysis import hits, predictions, publish, runs
from multirun_analysis.figures import profiles

# %% tags=["parameters"]
tracking_uri = None
experiment = "greenlab"
sweep = None
against = None
where = None

# %%
loaded = runs.load(tracking_uri, experiment, sweep)
publish.opening(loaded)

# %% [markdown]
# **How to read it.** A pair is a full run of training or inference (`phase=train`, `inference`) and
# the newest profile (`phase=profile`) of the same model, batch size, data and hardware on the same
# machine, in these sweeps. The profile's first 1, 2, 3 … stretches of that kind are taken as if it
# had ended there. The left end of a curve is the shortest profile; where the curves are flat, more
# stretches bring nothing. Coverage is to lie at the dashed 95 %; bars on it are Wilson's 95 %
# intervals, for pairs are few. Filled markers are training, hollow ones inference.

# %%
pairs = predictions.read_pairs(loaded, where)
publish.figure(
    "profiles_length",
    profiles.draw_lengths,
    pairs,
    caption="Mean absolute error of the prediction and coverage of its 95 % interval, against the "
    "length of the profile.",
)

# %%
publish.figure(
    "profiles_net",
    profiles.draw_pairs,
    pairs,
    "net",
    caption="Net energy as profiles foretold it and as the full runs came out, with 95 % "
    "prediction intervals.",
)
publish.figure(
    "profiles_time",
    profiles.draw_pairs,
    pairs,
    "time",
    caption="The same for time.",
)


# %%
def scores() -> DataFrame:
    """All pairs, by phase."""
    hits.refuse_empty(pairs)
    return hits.scores(hits.whole(pairs), ["phase"])


publish.table(
    "profiles_scores",
    scores,
    caption="Coverage of the 95 % intervals and errors in percent of the truth, by phase.",
)
publish.table(
    "profiles_by_length",
    profiles.lengths,
    pairs,
    caption="The same for shorter profiles, made by leaving out the last stretches of each.",
)

# %% [markdown]
# Where energy is modelled, its error follows that of time, and what the model itself is wrong by is
# in the profile and in the run alike: it shows in neither error nor interval.

# %%
publish.closing(loaded)
