"""How good predictions were: coverage of their intervals, and their errors.

Pure. A row of `pairs` is a full run held against the first stretches of its profile, and tells of
net energy, gross energy and time what was predicted (with a 95 % interval) and what it came to.
Pairs of different series (machines, sources, settings) are never pooled.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pandas import DataFrame

from multirun_analysis import runs, statistics

QUANTITIES = {"net": "j", "gross": "j", "time": "s"}
"""With their units."""
WORDS = {"net": "net energy", "gross": "gross energy", "time": "time"}
FACTS = (
    *("profile_id", "run_id", "series", "modelled", "is_modelled", "model", "batch_size", "phase"),
    *("num_stretches", "is_whole", "profile_s", "run_s", "share_percent"),
)
TOLD = ("true", "predicted", "low", "high")
COLUMNS = (
    *FACTS,
    *(f"{name}_{told}_{unit}" for name, unit in QUANTITIES.items() for told in TOLD),
    *(f"{name}_{told}" for name in QUANTITIES for told in ("error_percent", "is_inside")),
)
EXAMPLE = "python -m greenlab -m 'model=glob(*)' phase=profile,train,inference"


def whole(pairs: DataFrame) -> DataFrame:
    """Each pair once, with all of its profile."""
    return pairs[pairs["is_whole"].astype(bool)]


def at_most(pairs: DataFrame, num_stretches: int) -> DataFrame:
    """Each pair once, as if no profile had more than so many stretches of a kind."""
    kept = pairs[pairs["num_stretches"] <= num_stretches]
    longest = kept.groupby(["profile_id", "run_id"])["num_stretches"].transform("max")
    return kept[kept["num_stretches"] == longest]


def scores(pairs: DataFrame, by: Sequence[str] = ()) -> DataFrame:
    """Per series, columns `by` and quantity: how often and how far predictions were right.

    A row of `pairs` counts once: take `whole` or `at_most` of them. Columns: num_pairs;
    inside_fraction, of truths in their 95 % interval, with its own 95 % interval; the mean
    absolute error (MAPE), the mean error, the largest one and the mean half-width of the
    intervals, all in percent of the truth; share_percent and profile_s, means of the profiles.
    """
    rows = []
    keys = ["series", *by]
    for key, group in pairs.groupby(keys, sort=False, dropna=False):
        for name, unit in QUANTITIES.items():
            own = group[group[f"{name}_error_percent"].notna()]
            if own.empty:
                continue
            error = own[f"{name}_error_percent"].to_numpy(dtype=float)
            inside = statistics.share(own[f"{name}_is_inside"])
            width = own[f"{name}_high_{unit}"] - own[f"{name}_low_{unit}"]
            half = 50 * width / own[f"{name}_true_{unit}"].abs()
            rows.append(
                dict(zip(keys, key, strict=True))
                | {
                    "quantity": name,
                    "is_modelled": bool(name != "time" and own["is_modelled"].any()),
                    "num_pairs": len(own),
                    "inside_fraction": inside.value,
                    "inside_low_fraction": inside.low,
                    "inside_high_fraction": inside.high,
                    "mean_abs_error_percent": float(np.abs(error).mean()),
                    "mean_error_percent": float(error.mean()),
                    "largest_error_percent": float(error[np.abs(error).argmax()]),
                    "mean_half_width_percent": float(half.mean()),
                    "share_percent": float(own["share_percent"].mean()),
                    "profile_s": float(own["profile_s"].mean()),
                }
            )
    return DataFrame(rows)


def scores_by_length(pairs: DataFrame) -> DataFrame:
    """`scores` for profiles of at most 1, 2, 3 … stretches of a kind (column max_stretches).

    Every pair is in every row: one whose profile had fewer is there with all it had.
    """
    longest = int(pairs["num_stretches"].max()) if len(pairs) else 0
    tables = [
        scores(at_most(pairs, number).assign(max_stretches=number), ["max_stretches"])
        for number in range(1, longest + 1)
    ]
    return pd.concat(tables, ignore_index=True) if tables else scores(pairs)


def refuse_empty(pairs: DataFrame) -> None:
    """Say which runs are needed.

    Raises:
        NothingToShow: there is no pair.
    """
    if pairs.empty:
        raise runs.NothingToShow(
            "No full run here has a profile of the same job: the same model, batch size, data and "
            f"hardware, on the same machine. For example: {EXAMPLE}"
        )
