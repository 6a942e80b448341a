"""What a model costs, told from models that were measured: power laws, and how far they err.

Pure: rows in, numbers out. The logarithm of the cost per sample is taken to be linear in the
logarithms of one predictor or of a few (a power law), fitted by scipy's least squares; every model
counts once, however many rows it has. Which predictors: those whose errors are smallest for models
that were left out of the fit (leave-one-model-out: all rows of a model at once).

Of many candidates the best has been lucky, and its own leave-one-out error flatters it. So the
whole choice is left out too: without model i, the best candidate for the others is chosen by their
errors (each from a fit without it and without i), fitted to them, and held against i. These
*nested* errors are those of the procedure that a user gets, choice included; they are what is told
beside an estimate, and what its interval is made of.

The interval: a model that is not in the fit errs with variance σ²·(1 + h), h being its leverage, as
in any regression. σ² is the mean of the nested errors' squares, each divided by its own 1 + h, or
the fit's own residual variance where that is larger, and the quantile is Student's t with as many
degrees of freedom as there are models less coefficients, less one more for the choice. A quantile
of a handful of errors would promise more than they hold: the 95 % point of sixteen is beyond the
largest.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pandas import DataFrame
from scipy import linalg, stats

Floats = npt.NDArray[np.float64]

BATCH_SIZE = "batch_size"
CANDIDATES = (
    ("macs_per_parameter",),
    ("macs",),
    ("macs_exact",),
    ("parameters",),
    ("activation_bytes",),
    ("macs", "parameters"),
    ("macs", "activation_bytes"),
    ("macs_exact", "activation_bytes"),
    ("parameters", "activation_bytes"),
    ("macs", "parameters", "activation_bytes"),
)
"""Of those that err alike the first is taken. MACs and parameters together hold MACs per parameter,
which in logarithms is their difference."""
PAPERS = ("macs_per_parameter",)
MODELS_PER_COEFFICIENT = 3
"""The fewest; our choice. A candidate with more coefficients is not tried."""
MIN_LEFT = 1e-9
"""Of I − H over the rows left out, its least eigenvalue: below it there is no fit without them."""
MAX_CONDITION = 1e8
"""Of the predictors, standardised: beyond it two of them are the same, and no fit tells them
apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An estimate with a 95 % prediction interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """How far models were off that had been left out."""

    percent: dict[str, float]
    """By model, |estimate / truth − 1| · 100; the mean where it has several rows."""

    @property
    def median_percent(self) -> float:
        """Of the models."""
        return float(np.median(list(self.percent.values())))

    @property
    def mean_percent(self) -> float:
        """Of the models."""
        return float(np.mean(list(self.percent.values())))

    @property
    def worst(self) -> str:
        """The model that was furthest off."""
        return max(self.percent, key=lambda model: self.percent[model])


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """`cost = factor · Π predictor ** exponent`, and its errors."""

    predictors: tuple[str, ...]
    exponents: tuple[float, ...]
    factor: float
    left_out: Errors
    """Leave-one-model-out, the predictors being given."""
    mean_error_factor: float
    """exp of the mean of |ln estimate / truth|, left out: what the choice is made by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What one law says of the model that was asked about."""

    law: Law
    cost: Interval
    leverage: float
    """How unlike the models seen it is: their own mean is coefficients / models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """All laws that could be fitted, the best first, and what choosing among them is worth."""

    models: tuple[str, ...]
    laws: tuple[Law, ...]
    nested: Errors
    """Of the best law, chosen anew without each model."""


def candidates_for(rows: DataFrame) -> list[tuple[str, ...]]:
    """The candidates that these rows can tell of.

    A predictor that a row lacks, or that is not above zero, has no logarithm there: its candidates
    are not tried. Where there are several batch sizes, batch size joins every candidate.
    """
    num_models = rows["model"].nunique()
    by_size = (BATCH_SIZE,) if rows[BATCH_SIZE].nunique() > 1 else ()
    return [
        (*candidate, *by_size)
        for candidate in CANDIDATES
        if num_models >= MODELS_PER_COEFFICIENT * (1 + len(candidate))
        and all(name in rows and bool((rows[name] > 0).all()) for name in candidate)
    ]


def rank(rows: DataFrame) -> Ranking:
    """Fit every candidate and tell how far each errs.

    `rows` has the columns model, cost, batch_size and the predictors, all numbers above zero.

    Raises:
        ValueError: no candidate can be fitted.
    """
    return _rank(rows, _hold_out(rows))


def estimate(rows: DataFrame, asked: Mapping[str, float]) -> tuple[Ranking, tuple[Estimate, ...]]:
    """Tell the cost of a model that is not in `rows`, by every law, in the order of the ranking.

    The first has the interval of the nested errors. That of each other law is its own alone: as
    if it had been settled on beforehand.

    Raises:
        ValueError: no candidate can be fitted.
    """
    held = _hold_out(rows)
    ranking = _rank(rows, held)
    by_name = {one.fit.predictors: one for one in held}
    found = []
    for place, law in enumerate(ranking.laws):
        one = by_name[law.predictors]
        scatter = _Scatter(
            variance=max(float(np.mean(np.diag(one.square))), one.fit.variance),
            freedom=one.fit.freedom,
        )
        if place == 0:
            nested = np.mean([chosen.square[i, i] for i, chosen in _nested(held)])
            scatter = _Scatter(
                variance=max(scatter.variance, float(nested)),
                freedom=max(scatter.freedom - 1, 1),
            )
        found.append(_tell(law, one.fit, asked, scatter))
    return ranking, tuple(found)


# ------------------------------------------------------------------------------------------ fits


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fit:
    predictors: tuple[str, ...]
    coefficients: Floats
    """The constant first."""
    spread: Floats
    """(X' W X)⁻¹, weights adding up to the number of models."""
    variance: float
    """Of the residuals, a model's own mean over its rows; over the degrees of freedom."""
    freedom: int

    def leverage(self, x: Floats) -> Floats:
        """Of rows of logarithms, the constant first."""
        return np.asarray(np.einsum("ij,jk,ik->i", x, self.spread, x))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    """A candidate's errors for model j from fits without models i and j, at [i, j].

    On the diagonal one model alone is left out. All are means over the rows of j.
    """

    fit: _Fit
    """To all models."""
    size: Floats
    """|ln estimate / truth|."""
    square: Floats
    """(ln estimate / truth)² / (1 + leverage)."""
    percent: Floats
    """Of |estimate / truth − 1|."""


def _hold_out(rows: DataFrame) -> list[_Held]:
    """Every candidate that can be fitted without any two of the models."""
    held = [_hold_out_candidate(rows, candidate) for candidate in candidates_for(rows)]
    found = [one for one in held if one is not None]
    if not found:
        raise ValueError("no candidate can be fitted")
    return found


def _hold_out_candidate(rows: DataFrame, predictors: tuple[str, ...]) -> _Held | None:
    """Errors without each pair of models, in closed form (Allen 1974, for several rows at once).

    With residuals e and hat matrix H of the weighted rows, those of rows S in a fit without them
    are (I − H_SS)⁻¹ e_S, and 1 + leverage is the diagonal of (I − H_SS)⁻¹, the weights put back.
    """
    model, x, y = _logarithms(rows, predictors)
    if (fit := _fit(predictors, model, x, y)) is None:
        return None
    weight = _weights(model)
    root = np.sqrt(weight)
    weighted = x * root[:, None]
    hat = weighted @ fit.spread @ weighted.T
    residuals = root * (y - x @ fit.coefficients)
    place, is_row = _padded(model)
    num, most = place.shape
    j, i = (np.ravel(one) for one in np.meshgrid(range(num), range(num)))
    out = np.concatenate([place[j], place[i]], axis=1)  # of each pair: rows of j, then of i
    is_out = np.concatenate([is_row[j], is_row[i] & (i != j)[:, None]], axis=1)
    both = is_out[:, :, None] & is_out[:, None, :]
    left = np.eye(2 * most) - np.where(both, hat[out[:, :, None], out[:, None, :]], 0.0)
    if np.linalg.eigvalsh(left)[:, 0].min() < MIN_LEFT:
        return None
    inverse = np.linalg.inv(left)
    deleted = np.einsum("pab,pb->pa", inverse, np.where(is_out, residuals[out], 0.0))
    errors = -deleted[:, :most] / root[place[j]]
    leverage = (np.einsum("paa->pa", inverse)[:, :most] - 1) / weight[place[j]]

    def mean(values: Floats) -> Floats:
        own = np.where(is_row[j], values, 0.0).sum(axis=1) / is_row[j].sum(axis=1)
        return np.asarray(own.reshape(num, num))

    return _Held(
        fit=fit,
        size=mean(np.abs(errors)),
        square=mean(errors**2 / (1 + leverage)),
        percent=mean(100 * np.abs(np.expm1(errors))),
    )


def _padded(model: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Each model's rows, (models, most rows), and which of them are rows and not padding."""
    own = [np.flatnonzero(model == one) for one in range(int(model.max()) + 1)]
    most = max(map(len, own))
    place = np.array([np.resize(rows, most) for rows in own])
    return place, np.arange(most) < np.array([[len(rows)] for rows in own])


def _logarithms(
    rows: DataFrame, predictors: Sequence[str]
) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Number of each row's model, logarithms of the predictors behind a 1, and of the cost."""
    _, model = np.unique(rows["model"].to_numpy(dtype=str), return_inverse=True)
    x = np.column_stack(
        [np.ones(len(rows)), np.log(rows[list(predictors)].to_numpy(dtype=np.float64))]
    )
    return model, x, np.log(rows["cost"].to_numpy(dtype=np.float64))


def _weights(model: npt.NDArray[np.intp]) -> Floats:
    """A model's add up to 1: it counts once, however many rows it has."""
    return np.asarray(1 / np.bincount(model)[model])


def _fit(
    predictors: tuple[str, ...], model: npt.NDArray[np.intp], x: Floats, y: Floats
) -> _Fit | None:
    """Weighted least squares, each model's weights adding up to 1; None where there is no one fit.

    Predictors are centred and scaled for the solver, and put back.
    """
    weight = _weights(model)
    num_models = len(np.unique(model))
    freedom = num_models - x.shape[1]
    centre = np.average(x[:, 1:], axis=0, weights=weight)
    scale = np.sqrt(np.average((x[:, 1:] - centre) ** 2, axis=0, weights=weight))
    if freedom < 1 or not (scale > 0).all():
        return None
    back = np.eye(x.shape[1])  # from standardised coefficients to those of the logarithms
    back[1:, 1:] = np.diag(1 / scale)
    back[0, 1:] = -centre / scale
    root = np.sqrt(weight)
    standard = (x @ back) * root[:, None]
    solved, _, rank_found, _ = linalg.lstsq(standard, y * root, cond=1 / MAX_CONDITION)
    if rank_found < x.shape[1]:
        return None
    residuals = y * root - standard @ solved
    spread = linalg.inv(standard.T @ standard)
    return _Fit(
        predictors=predictors,
        coefficients=back @ solved,
        spread=back @ spread @ back.T,
        variance=float(residuals @ residuals) / freedom,
        freedom=freedom,
    )


# ---------------------------------------------------------------------------------------- choice


def _rank(rows: DataFrame, held: Sequence[_Held]) -> Ranking:
    models = tuple(str(name) for name in np.unique(rows["model"].to_numpy(dtype=str)))
    laws = [_law(one, models) for one in held]
    return Ranking(
        models=models,
        laws=tuple(sorted(laws, key=lambda law: law.mean_error_factor)),
        nested=Errors(
            percent={models[i]: float(chosen.percent[i, i]) for i, chosen in _nested(held)}
        ),
    )


def _law(one: _Held, models: Sequence[str]) -> Law:
    constant, *exponents = one.fit.coefficients.tolist()
    return Law(
        predictors=one.fit.predictors,
        exponents=tuple(exponents),
        factor=math.exp(constant),
        left_out=Errors(percent=dict(zip(models, np.diag(one.percent).tolist(), strict=True))),
        mean_error_factor=math.exp(float(np.diag(one.size).mean())),
    )


def _nested(held: Sequence[_Held]) -> list[tuple[int, _Held]]:
    """For each model, the candidate that the others choose without it."""
    chosen = []
    for i in range(len(held[0].size)):
        others = np.arange(len(held[0].size)) != i
        errors = [float(one.size[i, others].mean()) for one in held]
        chosen.append((i, held[int(np.argmin(errors))]))
    return chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scatter:
    """Of models about a law, natural logarithms."""

    variance: float
    freedom: int


def _tell(law: Law, fit: _Fit, asked: Mapping[str, float], scatter: _Scatter) -> Estimate:
    x = np.array([[1.0, *(math.log(asked[name]) for name in fit.predictors)]])
    middle = float(x[0] @ fit.coefficients)
    leverage = float(fit.leverage(x)[0])
    quantile = float(stats.t.ppf(0.975, scatter.freedom))
    half = quantile * math.sqrt(scatter.variance * (1 + leverage))
    return Estimate(
        law=law,
        cost=Interval(
            value=math.exp(middle), low=math.exp(middle - half), high=math.exp(middle + half)
        ),
        leverage=leverage,
    )
