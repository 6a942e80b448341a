# %% [markdown]
# # The paper's claims, tried on these runs
#
# Does what the paper claims of training and inference energy hold in this sweep: confirmed,
# contradicted, or not decidable from it? And where it is not, which runs would decide it?

# %%
import pandas as pd

from multirun_analysis import claims, publish, reference, runs
from multirun_analysis.figures import claims as figures

# %% tags=["parameters"]
tracking_uri = None
experiment = "greenlab"
sweep = None
against = None
where = None

# %%
loaded = runs.load(tracking_uri, experiment, sweep, where)
publish.opening(loaded)

# %%
findings = claims.examine(loaded.cells, loaded.epochs)
paper = claims.examine(reference.paper_hc3(), pd.DataFrame())
publish.json("claims", claims.as_json(findings))

# %% [markdown]
# **How to read it.** Each strip is a claim, with the section of the paper that makes it. The blue
# range is what the claim is taken to mean; a bar is the 95 % interval of what these runs say, over
# models. Wholly inside the range, the claim is confirmed; wholly outside, contradicted; else these
# runs do not decide it. The thin grey bars are the paper's own machine HC-3, put through the same
# mill. The interval says what other models of the same kind might have given: sixteen models leave
# it wide. No claim about energy is decided by modelled energy, which is time in other words.

# %%
publish.figure(
    "claims",
    figures.ledger,
    loaded.cells,
    findings,
    paper,
    caption="What these runs say to each claim of the paper, with 95 % intervals over models, "
    "against the range that the claim means (blue) and the paper's machine HC-3 (grey).",
)

# %%
NUMBERS = ["claim", "section", "series", "phase", "value", "low", "high", "num", "range", "verdict"]
REASONS = ["claim", "series", "phase", "verdict", "reason", "would_decide"]
ledger = claims.ledger(findings)
publish.table(
    "claims_ledger",
    ledger.reindex(columns=NUMBERS),
    caption="The ledger: value, 95 % interval, number of models, claimed range, verdict.",
)

# %% [markdown]
# Why each was decided as it was; and, of those that these runs do not decide, which would. Numbers
# of models are those at which the interval leaves the edge out four times of five, if the value
# stays what it is.

# %%
publish.table(
    "claims_reasons",
    ledger.reindex(columns=REASONS),
    caption="Why each claim was decided or not, and which runs would decide it.",
)

# %% [markdown]
# ## What each claim is taken to mean
# The ranges were chosen from what the paper prints, not from these runs.

# %%
publish.table(
    "claims_definitions",
    claims.definitions(),
    caption="Each claim in our words, its statistic, the range that confirms it, and why that one.",
)

# %% [markdown]
# ## The paper's own measurements
# On its machine HC-3 (RTX A2000), read off stored figures of its repository. Idle power was never
# subtracted there, so energy is the GPU's gross energy, and CPU and DRAM power are modelled.

# %%
publish.table(
    "claims_of_the_paper",
    claims.ledger(paper)[[*NUMBERS, "reason"]],
    caption="The same ledger from the paper's measurements on its machine HC-3.",
)

# %%
publish.closing(loaded)
