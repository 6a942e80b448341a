"""What the cells of one series say to a claim: one number with its interval, or why there is none.

One value per model, the mean over repetitions at one batch size; a model counts once however often
it was run. Energy is that of measured components alone. `UndecidableError` carries the reason and
the runs that would help.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from multirun_analysis import runs, statistics
from multirun_analysis.known_energy import MODELLED, PER_SAMPLE_J, with_known_energy
from multirun_analysis.statistics import Estimate

COMPONENTS = ("gpu", "cpu", "dram")
PER_SAMPLE_S = "time/per_sample_s"
BY_CONSTRUCTION = "energy is modelled as TDP × utilisation, proportional to time by construction"
MIN_EPOCHS = 3
"""With two, the first is half of what it is held against; our choice."""
MIN_BATCH_SIZES = 3
SMALL_BATCH = 8
TIMES_LARGER = 16
"""So many times the smallest batch size must the largest be: what is small costs, and what is not
does no more."""
LARGE_BATCH = 256
"""The largest that the paper ran."""
ALL_MODELS = "python -m greenlab -m 'model=glob(*)' phase=train,inference"
WITH_COUNTERS = (
    f"{ALL_MODELS} on a machine whose energy counters can be read "
    "(python -m greenlab.doctor says what is missing on this one)"
)
WITH_A_GPU = f"{ALL_MODELS} on a machine with an NVIDIA GPU"


class UndecidableError(Exception):
    """These cells do not say anything to the claim.

    Without `would_decide` it is whatever the claim needs.
    """

    def __init__(self, reason: str, would_decide: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.would_decide = would_decide


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The cells of one series, and the phase that a claim is tried on."""

    phase: str
    """'' where it is about both together."""
    cells: pd.DataFrame
    """At every batch size; energy as `with_known_energy` chose it."""
    energy: str
    epochs: pd.DataFrame

    def of(self, phase: str) -> pd.DataFrame:
        """Cells of a phase, at the one batch size at which models are compared.

        Raises:
            UndecidableError: there is none.
        """
        chosen = runs.at_one_batch_size(self.cells)
        found = chosen[chosen["phase"] == phase]
        if found.empty:
            sizes = "".join(f" at batch size {size:g}" for size in chosen["batch_size"].unique())
            raise UndecidableError(f"no finished cell of phase {phase}{sizes}")
        return found


Evidence = Callable[[Scope], Estimate]


def scope_of(cells: pd.DataFrame, epochs: pd.DataFrame, phase: str) -> Scope:
    """Take the cells of one series, and the passes of these cells."""
    known, energy = with_known_energy(cells)
    own = epochs[epochs["run_id"].isin(cells["run_id"])] if len(epochs) else epochs
    return Scope(phase=phase, cells=known, energy=energy, epochs=own)


def by_model(cells: pd.DataFrame, *metrics: str) -> pd.DataFrame:
    """One row per model of which all these metrics are known: means over repetitions.

    Raises:
        UndecidableError: no model has them.
    """
    table = pd.DataFrame({metric: runs.column(cells, metric) for metric in metrics})
    means = table.groupby(cells["model"]).mean().dropna()
    if means.empty:
        raise UndecidableError(f"no cell has {' and '.join(metrics)}")
    return means


def _need_measured_energy(scope: Scope) -> None:
    if scope.energy == MODELLED:
        raise UndecidableError(BY_CONSTRUCTION, WITH_COUNTERS)


def _need_measured(scope: Scope, component: str, otherwise: str) -> None:
    sources = set(scope.cells[f"source_{component}"])
    if not any(source.startswith("measured") for source in sources):
        found = " or ".join(sorted(filter(None, sources))) or "absent"
        raise UndecidableError(f"{component.upper()} power is {found}, not measured", otherwise)


# ------------------------------------------------------------------------- durations, training


def _durations(scope: Scope) -> pd.DataFrame:
    """Seconds per sample of models that were both trained and used: train, inference."""
    of = {phase: by_model(scope.of(phase), PER_SAMPLE_S) for phase in ("train", "inference")}
    return pd.DataFrame({phase: table[PER_SAMPLE_S] for phase, table in of.items()}).dropna()


def training_per_inference(scope: Scope) -> Estimate:
    """Median over models of time per sample in training over that in inference."""
    durations = _durations(scope)
    return statistics.median(durations["train"] / durations["inference"])


def durations_correlate(scope: Scope) -> Estimate:
    """Pearson's r of time per sample in training and in inference."""
    durations = _durations(scope)
    return statistics.pearson(durations["train"], durations["inference"])


# ------------------------------------------------------------------------- energy over models


def energy_follows_time(scope: Scope) -> Estimate:
    """Pearson's r of energy and time per sample."""
    _need_measured_energy(scope)
    known = by_model(scope.of(scope.phase), PER_SAMPLE_J, PER_SAMPLE_S)
    return statistics.pearson(known[PER_SAMPLE_J], known[PER_SAMPLE_S])


def energy_follows(predictor: str) -> Evidence:
    """Spearman's ρ of energy per sample and a metric of the model."""

    def evidence(scope: Scope) -> Estimate:
        _need_measured_energy(scope)
        known = by_model(scope.of(scope.phase), PER_SAMPLE_J, predictor)
        return statistics.spearman(known[predictor], known[PER_SAMPLE_J])

    return evidence


def better_predictor(better: str, worse: str) -> Evidence:
    """Spearman's ρ of energy with one metric, less that with another, resampled together."""

    def evidence(scope: Scope) -> Estimate:
        _need_measured_energy(scope)
        known = by_model(scope.of(scope.phase), PER_SAMPLE_J, better, worse)
        return statistics.spearman_difference(known[better], known[worse], known[PER_SAMPLE_J])

    return evidence


# ------------------------------------------------------------------------- power


def power_follows_utilisation(scope: Scope) -> Estimate:
    """Spearman's ρ of the GPU's mean power and its utilisation."""
    _need_measured(scope, "gpu", WITH_A_GPU)
    power, utilisation = "power/mean_gpu_w", "utilisation/gpu_percent"
    known = by_model(scope.of(scope.phase), power, utilisation)
    return statistics.spearman(known[utilisation], known[power])


def power_of_limit(scope: Scope) -> Estimate:
    """Median over models of the GPU's mean power as a share of its TDP, or of its own limit."""
    _need_measured(scope, "gpu", WITH_A_GPU)
    cells = scope.of(scope.phase)
    power, limit = "power/mean_gpu_w", "power/limit_gpu_w"
    tdp_w = runs.column(cells, "power/tdp_gpu_w")
    if runs.column(cells, "power_limit_w").notna().any() and tdp_w.isna().any():
        raise UndecidableError(
            "the GPU ran under a limit that was set, which is not its TDP",
            f"{ALL_MODELS} with hardware.tdp_w.gpu, or without hardware.power_limit_w",
        )
    cells = cells.assign(**{limit: tdp_w.fillna(runs.column(cells, limit))})
    known = by_model(cells, power, limit)
    return statistics.median(known[power] / known[limit])


def power_varies(component: str) -> Evidence:
    """Coefficient of variation, over models, of a component's mean power."""

    def evidence(scope: Scope) -> Estimate:
        _need_measured(scope, component, WITH_COUNTERS)
        power = f"power/mean_{component}_w"
        return statistics.variation(by_model(scope.of(scope.phase), power)[power])

    return evidence


def idle_share(scope: Scope) -> Estimate:
    """Median over models of what idle power takes of the gross energy of measured components."""
    cells = scope.of(scope.phase)
    of_measured = {
        kind: sum(
            runs.column(cells, f"energy/{kind}_{component}_j").where(
                cells[f"source_{component}"].str.startswith("measured"), 0.0
            )
            for component in COMPONENTS
        )
        for kind in ("gross", "net")
    }
    gross_j = pd.Series(of_measured["gross"], cells.index, dtype=float)
    share = (1 - of_measured["net"] / gross_j).where(gross_j > 0)
    means = share.groupby(cells["model"]).mean().dropna()
    if means.empty:
        _need_measured_energy(scope)
        raise UndecidableError("idle power was not measured")
    return statistics.median(means)


# ------------------------------------------------------------------------- batch sizes


def _energies_by_batch_size(scope: Scope) -> pd.DataFrame:
    """Energy per sample: a row per model, a column per batch size, in order.

    A model counts that was run at the least and the largest size and at three sizes or more, all
    of which took more than nothing.
    """
    _need_measured_energy(scope)
    cells = scope.cells[scope.cells["phase"] == scope.phase]
    table = (
        runs.column(cells, PER_SAMPLE_J)
        .groupby([cells["model"], cells["batch_size"]])
        .mean()
        .unstack()
        .sort_index(axis=1)
        .dropna(axis=1, how="all")
    )
    if table.shape[1] < MIN_BATCH_SIZES:
        raise UndecidableError(
            f"{table.shape[1]} batch size{'s' * (table.shape[1] != 1)} with an energy, where "
            f"{MIN_BATCH_SIZES} are needed"
        )
    complete = table.iloc[:, [0, -1]].notna().all(axis=1) & (table.count(axis=1) >= MIN_BATCH_SIZES)
    return table[complete & ((table > 0) | table.isna()).all(axis=1)]


def smallest_batch_cost(scope: Scope) -> Estimate:
    """Median over models of energy per sample at the smallest batch size over the least of all."""
    table = _energies_by_batch_size(scope)
    smallest = float(table.columns[0])
    if smallest > SMALL_BATCH:
        raise UndecidableError(
            f"the smallest batch size that was run is {smallest:g}, which is not small"
        )
    if (largest := float(table.columns[-1])) < TIMES_LARGER * smallest:
        raise UndecidableError(
            f"batch sizes from {smallest:g} to {largest:g} are too alike: the largest must be "
            f"{TIMES_LARGER} times the smallest"
        )
    return statistics.median(table[smallest] / table.min(axis=1))


def gain_of_largest_batch(scope: Scope) -> Estimate:
    """Median over models of the share that the largest batch size saves over the best below it."""
    table = _energies_by_batch_size(scope)
    largest = float(table.columns[-1])
    if largest < LARGE_BATCH:
        raise UndecidableError(
            f"the largest batch size that was run is {largest:g}; the paper went to {LARGE_BATCH}"
        )
    return statistics.median(1 - table[largest] / table.iloc[:, :-1].min(axis=1))


# ------------------------------------------------------------------------- short profiling


def first_epoch_error(metric: str) -> Evidence:
    """Median, over model and batch size, of |first epoch × epochs / all epochs − 1|."""

    def evidence(scope: Scope) -> Estimate:
        if metric.endswith("_j") and scope.cells["is_modelled"].any():
            raise UndecidableError(
                "the energy of epochs holds modelled components: TDP × utilisation, proportional "
                "to time by construction",
                WITH_COUNTERS,
            )
        passes = scope.epochs
        if len(passes):
            passes = passes[(passes["phase"] == scope.phase) & runs.column(passes, metric).notna()]
        errors = [
            {"model": group["model"].iloc[0], "batch_size": group["batch_size"].iloc[0]}
            | {"error": _first_epoch_error(group.sort_values("step")[metric])}
            for _, group in (passes.groupby("run_id") if len(passes) else ())
            if len(group) >= MIN_EPOCHS
        ]
        if not errors:
            raise UndecidableError(f"no cell trained for {MIN_EPOCHS} epochs or more")
        table = pd.DataFrame(errors).groupby(["model", "batch_size"])["error"].mean()
        return statistics.median(table.dropna().abs())

    return evidence


def _first_epoch_error(values: "pd.Series[float]") -> float:
    whole = float(values.sum())
    return float(values.iloc[0]) * len(values) / whole - 1 if whole > 0 else float("nan")
