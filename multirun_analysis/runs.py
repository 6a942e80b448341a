"""MLflow → tables: one row per measured cell, one per epoch, one per sweep.

Where the store is a database its tables are read at once through SQLAlchemy; a server is asked page
by page. Both give the same rows. What cannot be compared is told apart here, once, for all figures:
cells of different machines, sources or settings belong to different `series`, and cells that failed
or whose joules are wrong are set aside, with the reason.
"""

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pandas import DataFrame, Series

from greenlab import tracking
from greenlab.config import EXECUTION
from greenlab.errors import GreenlabError, first_line
from multirun_analysis import statistics, stores
from multirun_analysis.commands import ALL, NEWEST, PREVIOUS
from multirun_analysis.stores import Source, Table

PROFILE = "profile"
PROFILES = "profiles: short stretches of both phases"
"""Why profiles are no cells; the page on profiles holds them against full runs."""
PAPER_BATCH_SIZE = 128
COMPONENTS = ("gpu", "cpu", "dram")
FACTORS = ("model", "hardware", "phase", "dataset", "device", "placement", *EXECUTION)
NUMBERS = ("batch_size", "seed", "repetition", "epochs", "power_limit_w")
TEXTS = {
    "sweep": "greenlab.sweep",
    "verdict": "greenlab.verdict",
    "doubts": "greenlab.doubts",
    "machine": "greenlab.machine",
    "cpu": "greenlab.cpu",
    "gpus": "greenlab.gpus",
    "coverage": "greenlab.coverage",
    "signature": "greenlab.signature",
    "cell": "greenlab.cell",
    "work": "greenlab.work",
    "job": "greenlab.job",
    "meters": "greenlab.meters",
    "commit": "greenlab.commit",
    "torch": "version.torch",
    "failure": "greenlab.failure",
    "stopped_early": "greenlab.stopped_early",
    **{f"source_{component}": f"energy_source.{component}" for component in COMPONENTS},
}
"""Columns and the tags that they are read from."""
OF_SERIES = (
    *("machine", *(f"source_{c}" for c in COMPONENTS), "device", "power_limit_w"),
    *("placement", *EXECUTION),
)
"""What two cells must share to be pooled, besides the settings of their work."""


class NothingToShow(Exception):  # noqa: N818, nothing went wrong
    """These runs do not hold what a figure or a claim is about; the message says which would."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """What an experiment, or some of its sweeps, holds."""

    source: Source = field(repr=False)
    experiment: str
    sweep_names: tuple[str, ...]
    """The newest first."""
    is_whole: bool
    """Whether all of the experiment was asked for, cells run alone included."""
    where: str
    """What was asked of the cells besides; empty where nothing was."""
    cells: DataFrame
    """Finished cells whose joules can be used, in order of time."""
    left_out: DataFrame
    """The others: run_id, name, sweep, status, verdict, reason."""
    sweeps: DataFrame
    """One row per sweep: run_id, sweep, status, started_at_s and the metrics of its ledger."""

    @property
    def name(self) -> str:
        """For titles and folders: the sweep's name, or the experiment's where there are several."""
        if self.is_whole or not self.sweep_names:
            return f"{self.experiment}-all"
        return ",".join(self.sweep_names)

    @property
    def epochs(self) -> DataFrame:
        """One row per cell and pass, read when asked for."""
        points = self.source.epochs(self.cells["run_id"].tolist())
        known = ["run_id", "model", "phase", "series", "batch_size", "repetition", "is_modelled"]
        return points.merge(self.cells[known], on="run_id").sort_values(
            ["run_id", "step"], ignore_index=True
        )

    def trace(self, run_id: str) -> DataFrame:
        """Samples of a cell's whole life, from its trace.parquet."""
        return pd.read_parquet(self.source.artefact(run_id, "trace.parquet"))

    @property
    def remarks(self) -> list[str]:
        """Sentences on what these tables leave out, and what in them must not be pooled."""
        told = [f"Only cells of which {self.where} holds were read."] if self.where else []
        for reason, group in self.left_out.groupby("reason", sort=False):
            names = ", ".join(group["name"].head(5)) + (", …" if len(group) > 5 else "")
            told.append(f"{len(group)} left out, {reason}: {names}.")
        told += self._unfinished
        num_sizes = self.cells["batch_size"].nunique() if len(self.cells) else 0
        if num_sizes > 1:
            told.append(
                f"Of {num_sizes} batch sizes, figures that compare models take the one at which "
                "most were run, and name it; the others are on the page of batch sizes."
            )
        for name, what in (("commit", "greenlab"), ("torch", "torch")):
            found = sorted(filter(None, self.cells[name].unique())) if len(self.cells) else []
            if len(found) > 1:
                told.append(
                    f"These cells are of {len(found)} versions of {what} ({', '.join(found)}), "
                    "which are pooled all the same."
                )
        series = self.cells["series"].unique().tolist() if len(self.cells) else []
        if len(series) > 1:
            told.append(
                f"{len(series)} series that are never pooled, for they differ in machine, sources "
                f"or settings: {'; '.join(series)}."
            )
        return told

    @property
    def _unfinished(self) -> list[str]:
        """Sweeps of which cells are missing, and whether they may come yet."""
        told = []
        for sweep in self.sweeps.to_dict("records"):
            ended = pd.concat([self.cells, self.left_out])
            num = int((ended["sweep"] == sweep["sweep"]).sum()) if len(ended) else 0
            if sweep["status"] == "RUNNING":
                told.append(f"Sweep {sweep['sweep']} is still running: more cells may come.")
            elif not self.where and num < sweep["num_runs"]:
                told.append(
                    f"Sweep {sweep['sweep']} ended before its time: {num:,} of "
                    f"{sweep['num_runs']:,.0f} cells are here (resume={sweep['sweep']} measures "
                    "the others)."
                )
        return told


def load(
    tracking_uri: str | None = None,
    experiment: str = "greenlab",
    sweep: str | None = None,
    where: str | None = None,
) -> Runs:
    """Read cells from an MLflow store.

    Args:
        tracking_uri: default: $MLFLOW_TRACKING_URI, else mlflow.db in the working directory.
        experiment: its name.
        sweep: a sweep's name, several with commas between them, `newest`, `previous`, or `all` for
            every cell of the experiment, cells run alone included; default: the newest sweep.
        where: only cells of which this holds, in the words of `DataFrame.query`, with metrics in
            backticks: "model == 'lenet' and `energy/net_j` > 5"; default: all.

    Raises:
        GreenlabError: no such store, experiment or sweep, or `where` cannot be understood.
    """
    source = stores.open_source(tracking.locate(tracking_uri), experiment)
    known = source.sweeps()
    names = _chosen(known["sweep"].tolist(), sweep, experiment)
    table = source.runs(None if sweep == ALL else names)
    frame = matching(_tidy(table), where)
    reasons = _reasons(frame)
    cells = frame[reasons == ""].sort_values("started_at_s", ignore_index=True)
    cells["series"] = _series(cells)
    outside = ["run_id", "name", "sweep", "status", "verdict", "reason"]
    left_out = frame.assign(reason=reasons)[reasons != ""]
    return Runs(
        source=source,
        experiment=experiment,
        sweep_names=tuple(names),
        is_whole=sweep == ALL,
        where=where or "",
        cells=cells,
        left_out=left_out.reindex(columns=outside).reset_index(drop=True),
        sweeps=known[known["sweep"].isin(names)].reset_index(drop=True),
    )


def _chosen(known: Sequence[str], wanted: str | None, experiment: str) -> list[str]:
    """The sweeps meant, the newest first.

    Raises:
        GreenlabError: there is none of that name.
    """
    if wanted == ALL:
        return list(known)
    if wanted is None or wanted == NEWEST:
        return list(known[:1])
    names = [known[1] if one == PREVIOUS and len(known) > 1 else one for one in wanted.split(",")]
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(known[:3])
            raise GreenlabError(
                f"sweep={name}: the experiment {experiment} has no such sweep. "
                + (f"It has {', '.join(close)}; " if close else "It has none; ")
                + "`all` takes every cell"
            )
    return sorted(set(names), key=list(known).index)


def matching(frame: DataFrame, where: str | None) -> DataFrame:
    """The rows of which `where` holds.

    Raises:
        GreenlabError: it is no condition on these columns.
    """
    if not where:
        return frame
    if "@" in where or "__" in where:
        raise GreenlabError(f"where={where}: a condition on columns has neither @ nor __")
    try:
        holds = frame.eval(where)
        if not (isinstance(holds, Series) and pd.api.types.is_bool_dtype(holds)):
            raise TypeError("it is neither true nor false of a cell")
        return frame.loc[holds].reset_index(drop=True)
    except Exception as error:  # whatever pandas and Python's parser make of a user's text
        raise GreenlabError(
            f"where={where}: {first_line(error)}. Write a condition on columns as model, phase, "
            "batch_size or `energy/net_j` (in backticks): model == 'lenet' and batch_size >= 64"
        ) from error


def _tidy(table: Table) -> DataFrame:
    """One row per run with the columns that the figures know; absent is NaN or ''."""
    frame = table.runs.copy()
    for column, tag in TEXTS.items():
        frame[column] = _text(table.tags, tag, frame)
    for name in FACTORS:
        frame[name] = _text(table.params, name, frame)
    for name in (*NUMBERS,):
        frame[name] = pd.to_numeric(table.params.get(name, Series(dtype=str)), errors="coerce")
        frame[name] = frame[name].astype(float)
    frame["position"] = pd.to_numeric(
        table.tags.get("greenlab.position", Series(dtype=str)), errors="coerce"
    ).astype(float)
    work = frame["work"].map(_settings)
    kinds = work.map(lambda settings: settings.get("phase", {}).get("kind", ""))
    frame["phase"] = kinds.where(kinds != "", frame["phase"])
    sizes = work.map(lambda settings: settings.get("batch_size", {}).get("size", np.nan))
    frame["batch_size"] = sizes.astype(float).fillna(frame["batch_size"])
    frame = frame.join(table.metrics)
    return _derive(frame).reset_index(names="run_id")


def _text(values: DataFrame, name: str, frame: DataFrame) -> Series:
    column = values[name] if name in values else Series(index=frame.index, dtype=object)
    return column.reindex(frame.index).fillna("").astype(str)


def _settings(work: str) -> dict[str, dict[str, object]]:
    return dict(json.loads(work)) if work else {}


def _derive(frame: DataFrame) -> DataFrame:
    """Add what is computed from other columns."""
    samples = column(frame, "work/samples")
    sources = [frame[f"source_{component}"] for component in COMPONENTS]
    modelled = np.array([source.str.startswith("modelled") for source in sources], dtype=bool)
    names = np.array(COMPONENTS)
    frame["modelled"] = ["+".join(names[of_cell]) for of_cell in modelled.T]
    frame["is_modelled"] = frame["modelled"] != ""
    frame["time/per_sample_s"] = column(frame, "time/active_s") / samples
    measured = {c: frame[f"source_{c}"].str.startswith("measured").astype(bool) for c in COMPONENTS}
    for name, stem, join in (
        ("energy/measured_per_sample_j", "energy/net_{}_j", np.nansum),
        # Drifts of components may go together, so half-widths add up.
        ("energy/measured_per_sample_u95_j", "energy/net_u95_{}_j", np.nansum),
    ):
        parts = np.array([column(frame, stem.format(c)).where(measured[c]) for c in COMPONENTS])
        wanted = np.array([measured[c] for c in COMPONENTS])
        whole = wanted.any(axis=0) & ~(wanted & np.isnan(parts)).any(axis=0)
        frame[name] = np.where(whole, join(parts, axis=0), np.nan) / samples
    return frame


def _reasons(frame: DataFrame) -> Series:
    """Why a cell cannot be used; empty where it can."""
    reasons = Series("", index=frame.index)
    reasons[frame["phase"] == PROFILE] = PROFILES
    reasons[frame["stopped_early"] != ""] = "stopped early: no whole training, by phase.stop_early"
    reasons[frame["verdict"] == "INVALID"] = "INVALID: the joules are wrong (its doubts say why)"
    unfinished = frame["status"] != "FINISHED"
    kinds = (
        frame["failure"].str.split(":", n=1).str[0].where(frame["failure"] != "", "no reason known")
    )
    reasons[unfinished] = (frame["status"] + " (" + kinds + ")")[unfinished]
    reasons[frame["status"] == "RUNNING"] = "still running"
    return reasons


def _series(cells: DataFrame) -> Series:
    """A label for what may be pooled; it names only what differs, the machine and the modelled."""
    if cells.empty:
        return Series(dtype=str)
    known = cells.reindex(columns=list(OF_SERIES))
    facets = known.astype(object).where(known.notna(), "")
    limit_w = column(cells, "power/limit_gpu_w").round().astype(object)
    facets["limit in force W"] = limit_w.where(limit_w.notna(), "")
    facets = facets.join(_meters_that_differ(cells)).join(_settings_that_differ(cells))
    names = {"machine": "", "device": "", "power_limit_w": "limit W "}
    telling = [str(n) for n in facets if facets[n].nunique() > 1 and n != "machine"]

    def label(row: Mapping[str, object]) -> str:
        parts = [str(row["machine"]) or "unknown machine"]
        modelled = [c for c in COMPONENTS if str(row[f"source_{c}"]).startswith("modelled")]
        sources = [c for c in COMPONENTS if f"source_{c}" in telling]
        parts += [f"{c} {row[f'source_{c}'] or 'absent'}" for c in sources]
        parts += [
            f"{names.get(name, name.rpartition('.')[2] + ' ')}{_short(row[name])}"
            for name in telling
            if not name.startswith("source_") and row[name] != ""
        ]
        unsaid = [c for c in modelled if c not in sources]
        return ", ".join(parts) + (f", ~modelled {'+'.join(unsaid)}" if unsaid else "")

    labels = {
        tuple(row.values()): label({str(name): value for name, value in row.items()})
        for row in facets.drop_duplicates().to_dict("records")
    }
    return Series([labels[tuple(row)] for row in facets.to_numpy()], index=cells.index)


def _meters_that_differ(cells: DataFrame) -> DataFrame:
    """Devices, numbers of models and idle settings, where not all cells of a machine share them."""
    flat = DataFrame(
        {text: json.loads(text) if text else {} for text in cells["meters"].unique()}, dtype=object
    ).T.reindex(cells["meters"])
    flat.index = cells.index
    flat = flat.fillna("").astype(str)
    return flat[[name for name in flat if flat[name].nunique() > 1]]


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings_that_differ(cells: DataFrame) -> DataFrame:
    """Settings of the work, besides model, batch size and phase, that not all cells share.

    Those of the data set over all cells, those of a phase over the cells of that phase, those of
    a model over the cells of that model: only there do they tell two cells apart. What most cells
    of a phase or a model have is not told, so that these stay one series with the others.
    """
    flat = DataFrame(
        {text: flatten(_settings(text)) for text in cells["work"].unique()}, dtype=object
    ).T.reindex(cells["work"])
    flat.index = cells.index
    found = DataFrame(index=cells.index)
    within: Mapping[str, Callable[[], Series]] = {
        "dataset": lambda: Series("", index=cells.index),
        "phase": lambda: cells["phase"],
        "model": lambda: cells["model"],
    }
    for name in flat.columns if len(flat.columns) else ():
        if (group := str(name).partition(".")[0]) in within and name != "phase.kind":
            values = flat[name].fillna("").map(str)
            by = values.groupby(within[group]())
            if (by.nunique() > 1).any():
                usual = by.transform(lambda own: own.value_counts(sort=False).idxmax())
                is_odd = values != usual if group != "dataset" else Series(True, index=cells.index)
                found[str(name)] = values.where(is_odd, "")
    if "dataset" in cells and cells["dataset"].nunique() > 1:
        found["dataset"] = cells["dataset"]
    return found


def flatten(settings: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """`{"model": {"width": 2}}` as `{"model.width": 2}`."""
    return {
        f"{group}.{key}": value
        for group, values in settings.items()
        for key, value in values.items()
    }


def column(frame: DataFrame, name: str) -> "Series[float]":
    """A column of numbers, NaN throughout where no cell has that metric."""
    if name in frame:
        return frame[name].astype(float)
    return Series(np.nan, index=frame.index, name=name)


def texts(frame: DataFrame, name: str) -> "Series[str]":
    """A column of texts, empty ones where it is absent."""
    if name in frame:
        return frame[name].fillna("").astype(str)
    return Series("", index=frame.index, dtype=str, name=name)


def summarise(
    cells: DataFrame,
    metric: str,
    by: Sequence[str] = ("series", "model", "batch_size", "phase"),
) -> DataFrame:
    """Mean of a metric over repetitions: columns `by`, value, low, high (95 %), num.

    From two repetitions on the interval is Student's t over them; of a single run it is the run's
    own uncertainty where the metric has one, else NaN. Modelled energy keeps the model's own error
    where that is the greater: it is the same for all repetitions.
    """
    values, u95 = column(cells, metric), column(cells, u95_of(metric))
    known = cells.assign(value=values, u95=u95)[values.notna()]
    rows = []
    for key, group in known.groupby(list(by), sort=False, dropna=False):
        estimate = statistics.mean(group["value"].to_numpy())
        half = estimate.high - estimate.value
        own = float(group["u95"].mean()) if group["u95"].notna().any() else np.nan
        if len(group) == 1:
            half = own
        elif group["is_modelled"].any():
            half = float(np.fmax(half, own))
        rows.append(
            (*key, estimate.value, estimate.value - half, estimate.value + half, len(group))
        )
    return DataFrame(rows, columns=[*by, "value", "low", "high", "num"])


def without_common_error(cells: DataFrame) -> DataFrame:
    """Cells for holding against each other: without the error of a model that all of them share.

    Where no component was measured it is one factor on all energies of a machine, the TDP's, and
    cancels in every ratio. A bar that shows it would say that they are not known apart.
    """
    kept = cells.copy()
    measured = [cells[f"source_{c}"].str.startswith("measured").to_numpy(bool) for c in COMPONENTS]
    told = [name for name in cells if "net_u95_" in str(name)]
    kept.loc[~np.any(measured, axis=0), told] = np.nan
    return kept


def u95_of(metric: str) -> str:
    """The metric that holds the 95 % half-width of another; empty where there is none."""
    if metric == "energy/measured_per_sample_j":
        return "energy/measured_per_sample_u95_j"
    return metric.replace("energy/net_", "energy/net_u95_", 1) if "net_" in metric else ""


def at_one_batch_size(cells: DataFrame) -> DataFrame:
    """Of each series the batch size at which most models were run; the paper's wins ties."""
    kept = []
    for _, group in cells.groupby("series", sort=False):
        models = group.groupby("batch_size")["model"].nunique()
        if models.empty:
            kept.append(group)
            continue
        best = models[models == models.max()].index
        chosen = PAPER_BATCH_SIZE if PAPER_BATCH_SIZE in best else max(best)
        kept.append(group[group["batch_size"] == chosen])
    return pd.concat(kept) if kept else cells
