"""From what sweeps left in MLflow to figures, statistics and verdicts that a paper can quote.

`runs` reads a store into one row per cell; `statistics`, `pareto`, `claims` and `compare` work on
arrays and frames alone; `figures` draws frames; the notebooks hold the story, and `export` writes
them as pages, pictures and tables. Start with `make analysis`.
"""
