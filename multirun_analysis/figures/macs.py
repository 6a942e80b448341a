"""What predicts a model's energy: MACs, parameters or MACs per parameter (the paper's Fig. 6)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from multirun_analysis import runs, statistics, style
from multirun_analysis.figures import parts

METRIC = "energy/net_per_sample_j"
PREDICTORS = ("model/macs", "model/parameters", "model/macs_per_parameter")
MIN_MODELS = 3
"""A line through two models predicts nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The models of one series in one phase."""

    series: str
    phase: str
    models: pd.DataFrame
    """Index model; columns value, low, high (energy per sample, J) and the predictors."""

    def columns(self, predictor: str) -> tuple[parts.Floats, parts.Floats]:
        """Predictor and energy per sample, one value per model."""
        return self.models[predictor].to_numpy(float), self.models["value"].to_numpy(float)


def groups(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> list[Group]:
    """Per series and phase one energy per model; the paper's is gross, it has no net energy.

    Raises:
        NothingToShow: no series has three models with MACs and an energy per sample in one phase.
    """
    found = []
    for one, metric in ((parts.choose(cells), METRIC), (paper, "energy/gross_per_sample_j")):
        if one is None or one.empty:
            continue
        known = one
        if one is paper:
            gross_j = runs.column(one, "energy/gross_j") / runs.column(one, "work/samples")
            known = one.assign(**{metric: gross_j})
        found += _groups(known, metric)
    if not any(not group.series.startswith(style.REFERENCE) for group in found):
        raise parts.nothing(
            f"Predictors of energy need {MIN_MODELS} models or more, run in the same phase and "
            "at the same batch size, with their MACs counted."
        )
    return found


def _groups(cells: pd.DataFrame, metric: str) -> list[Group]:
    found = []
    for series in cells["series"].unique():
        own = cells[cells["series"] == series]
        order = style.model_order(own)
        for phase in style.phase_order(own):
            models = parts.by_model(own, metric, series, phase, order)
            for predictor in PREDICTORS:
                values = runs.column(own, predictor).groupby(own["model"]).median()
                models[predictor] = values.reindex(order)
            models = models[models["value"].notna()]
            if models["model/macs"].notna().sum() >= MIN_MODELS:
                found.append(Group(series=series, phase=phase, models=models))
    return found


def table(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Per series, phase and predictor: Pearson, Spearman, median leave-one-model-out error factor.

    Pearson's r is of the plain numbers, as in the paper; the prediction is a straight line in
    logarithms through all other models.

    Raises:
        NothingToShow: as `groups`.
    """
    rows = []
    for group in groups(cells, paper):
        for predictor in PREDICTORS:
            x, y = group.columns(predictor)
            rho = statistics.spearman(x, y)
            rows.append(
                {
                    "series": group.series,
                    "phase": group.phase,
                    "predictor": predictor,
                    "num_models": rho.num,
                }
                | parts.columns_of("pearson_r", statistics.pearson(x, y))
                | parts.columns_of("spearman_rho", rho)
                | parts.columns_of(
                    "median_error_factor", statistics.leave_one_out(x, y).median_error_factor
                )
            )
    return pd.DataFrame(rows)


def predictions(cells: pd.DataFrame) -> pd.DataFrame:
    """Per series, phase, model and predictor: energy per sample and what the others predict (J).

    Raises:
        NothingToShow: as `groups`.
    """
    tables = []
    for group in groups(cells):
        for predictor in PREDICTORS:
            x, y = group.columns(predictor)
            left_out = statistics.leave_one_out(x, y)
            tables.append(
                pd.DataFrame(
                    {
                        "series": group.series,
                        "phase": group.phase,
                        "model": group.models.index,
                        "predictor": predictor,
                        "value_of_predictor": x,
                        "energy_per_sample_j": y,
                        "predicted_per_sample_j": left_out.predicted,
                        "error_factor": left_out.error_factor,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def draw(cells: pd.DataFrame, paper: pd.DataFrame | None = None) -> Figure:
    """Energy per sample against each predictor, a row per phase; numbers name the models.

    Models whose net energy is not above zero have no place on a log axis; the panel counts them.

    Raises:
        NothingToShow: as `groups`.
    """
    found = groups(cells, paper)
    shown = {group.series for group in found}
    chosen = parts.choose(cells, paper)
    chosen = chosen[chosen["series"].isin(shown)]
    order = [m for m in style.model_order(chosen) if any(m in g.models.index for g in found)]
    phases = [p for p in style.phase_order(chosen) if any(g.phase == p for g in found)]
    num_rows, num_columns = len(phases), len(PREDICTORS)
    figure, panels = style.figure(
        num_rows,
        num_columns,
        height_in=1.3 + (2.2 + 0.27 * len(shown)) * num_rows,
        sharex="col",
        sharey="row",
    )
    numbers = parts.number_models(figure, order)
    names = []
    for row, phase in enumerate(phases):
        of_phase = [group for group in found if group.phase == phase]
        in_row = panels[row * num_columns : (row + 1) * num_columns]
        names += _draw_phase(in_row, of_phase, numbers, style.looks(chosen["series"]))
        for axes, predictor in zip(in_row, PREDICTORS, strict=True):
            axes.set_xlabel(style.label(predictor) if row == num_rows - 1 else "")
    parts.legend_of_series(figure, chosen, of_reference=": gross, idle was not subtracted")
    style.mark_modelled(figure, chosen)
    parts.name_points(figure, names, size_pt=6.5)
    return figure


def _draw_phase(
    panels: list[Axes],
    of_phase: list[Group],
    numbers: dict[str, str],
    looks: dict[str, style.Look],
) -> list[parts.Names]:
    scale = style.scale(np.concatenate([group.models["value"] for group in of_phase]), "J")
    names = []
    for axes, predictor in zip(panels, PREDICTORS, strict=True):
        axes.set(xscale="log", yscale="log")
        drawn = []
        for group in of_phase:
            known = group.models[(group.models[predictor] > 0) & (group.models["value"] > 0)]
            _scatter(axes, known, predictor, scale, looks[group.series])
            drawn.append(known.assign(x=known[predictor], y=known["value"] * scale.factor))
        # A model has the same x in every series: its number is written once, at its topmost point.
        top = pd.concat(drawn).sort_values("y").groupby(level=0).tail(1)
        texts = [numbers[model] for model in top.index]
        names.append(
            parts.Names(axes=axes, x=top["x"].to_numpy(), y=top["y"].to_numpy(), texts=texts)
        )
        parts.say_above(
            axes,
            [(_coefficients(group, predictor), looks[group.series].colour) for group in of_phase],
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.12)
    _frame(panels, of_phase, scale)
    panels[0].set_ylabel(
        f"{style.phase_name(of_phase[0].phase)}: net energy\nper sample ({scale.unit})"
    )
    return names


def _frame(panels: list[Axes], of_phase: list[Group], scale: style.Scale) -> None:
    """Let the energies, not their uncertainties, decide what the panels of a row show."""
    values = np.concatenate([group.models["value"] for group in of_phase])
    positive = values[values > 0] * scale.factor
    if len(positive):
        margin = max((positive.max() / positive.min()) ** 0.1, 1.3)
        panels[0].set_ylim(positive.min() / margin, positive.max() * margin)
    style.plain_log(panels[0].yaxis)
    if hidden := len(values) - len(positive):
        panels[0].text(
            0.98,
            0.02,
            f"{hidden} not above 0",
            transform=panels[0].transAxes,
            ha="right",
            fontsize=7,
        )


def _scatter(
    axes: Axes, known: pd.DataFrame, predictor: str, scale: style.Scale, look: style.Look
) -> None:
    lengths = parts.error_lengths(known) * scale.factor
    # A log axis has no zero: a bar that reaches it runs out of the panel instead.
    lengths[0] = np.minimum(lengths[0], (1 - 1e-9) * known["value"].to_numpy() * scale.factor)
    axes.errorbar(
        known[predictor],
        known["value"] * scale.factor,
        yerr=lengths,
        color=look.colour,
        marker=look.marker,
        linestyle="none",
        markersize=4,
    )


def _coefficients(group: Group, predictor: str) -> str:
    x, y = group.columns(predictor)
    rho, r = statistics.spearman(x, y), statistics.pearson(x, y)
    return f"{parts.told('ρ', rho)}\n{parts.told('r', r)}"


def draw_errors(cells: pd.DataFrame) -> Figure:
    """By what factor each predictor misses a model that it was not fitted to: median and interval.

    Raises:
        NothingToShow: as `groups`.
    """
    found = table(cells)
    phases = style.phase_order(found)
    series = list(dict.fromkeys(found["series"]))
    figure, panels = style.figure(
        1, len(phases), height_in=1.3 + 0.35 * len(PREDICTORS) * len(series) ** 0.7,
        sharex=True, sharey=True,
    )  # fmt: skip
    looks = style.looks(series)
    thick = 0.75 / len(series)
    for axes, phase in zip(panels, phases, strict=True):
        for at, name in enumerate(series):
            own = found[(found["series"] == name) & (found["phase"] == phase)]
            own = own.set_index("predictor").reindex(PREDICTORS)
            rows = np.arange(len(PREDICTORS)) + (at - (len(series) - 1) / 2) * thick
            _bars(axes, own, np.asarray(rows, float), thick, looks[name])
        axes.set_xscale("log")  # 1 is its zero, and half as far off as double
        axes.axvline(1, color=style.DARK, linewidth=0.9)
        axes.set_title(style.phase_name(phase), loc="left")
        axes.set_xlabel("median error factor\n(1 is exact, 2 is double or half)")
    panels[0].set_yticks(range(len(PREDICTORS)), [style.label(name) for name in PREDICTORS])
    panels[0].invert_yaxis()
    style.plain_log(panels[0].xaxis)
    chosen = parts.choose(cells)
    parts.legend_of_series(figure, chosen[chosen["series"].isin(series)])
    style.mark_modelled(figure, chosen)
    return figure


def _bars(
    axes: Axes, own: pd.DataFrame, rows: parts.Floats, thick: float, look: style.Look
) -> None:
    name = "median_error_factor"
    factor = own[name].to_numpy(float)
    bounds = np.array([factor - own[f"{name}_low"], own[f"{name}_high"] - factor])
    # A bar begins at 1, where a prediction is exact.
    axes.barh(
        rows, factor - 1, thick, left=1, xerr=bounds, color=look.colour, hatch=look.hatch,
        edgecolor="white", error_kw={"ecolor": style.DARK, "elinewidth": 1},
    )  # fmt: skip
    for row, value, length in zip(rows, factor, np.nan_to_num(bounds[1]), strict=True):
        if np.isfinite(value):
            axes.annotate(
                f"{value:.2f}", (value + length, row), xytext=(4, 0), va="center", fontsize=7.5,
                textcoords="offset points",
            )  # fmt: skip
