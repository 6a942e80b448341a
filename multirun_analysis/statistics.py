"""The statistics of the analysis: arrays in, frozen dataclasses out, no frames and no files.

Every estimate carries a 95 % interval, and NaN bounds where the numbers given cannot tell one: a
figure then shows no error bar, and a claim is not decided. Values that are absent (NaN) are left
out, pairwise where two arrays belong together; what was used is counted in `num`. Whatever is drawn
at random takes a seed, so that the same data give the same interval.

Intervals of correlations, medians and bends are percentile bootstraps (Efron 1979, "Bootstrap
methods: another look at the jackknife"); those of means and ratios are Student's and Welch's.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

NUM_RESAMPLES = 5000
MAX_DRAWS = 5_000_000  # resamples × values: many values need fewer resamples, and memory is finite
MIN_FOR_BOOTSTRAP = 4  # below it a resample says nothing about the scatter
MIN_PAIRS = 6  # of correlations: four points in order stay in order in all of their resamples
CONFIDENCE = 0.95
NUM_BREAKS = 101  # places tried for a bend
KNEE_MARGIN = 0.10  # our choice: within 10 % of the floor, a larger batch hardly saves energy
ROUNDING = 1e-12  # a relative spread below it is rounding, no scatter


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its 95 % interval, from `num` values; NaN bounds where it cannot be told."""

    value: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveOneOut:
    """What each point is predicted to be from a log-log line through all the others."""

    predicted: Floats  # NaN where a point could not be predicted
    error_factor: Floats  # 1 is exact; 2 is twice or half the truth
    median_error_factor: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Bend:
    """A continuous line of two pieces, and whether it is better than one straight line."""

    at: Estimate
    slope_below: Estimate
    slope_above: Estimate
    p_value: float  # of an improvement as large, had the truth been one straight line
    r_squared_line: float
    r_squared_bend: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Coefficients:
    """Energy per sample at batch size b is `constant + per_batch / b + growth · b`."""

    constant: float
    per_batch: float
    growth: float

    def at(self, batch_size: npt.ArrayLike) -> Floats:
        """Return the curve's energy per sample at these batch sizes."""
        b = np.asarray(batch_size, dtype=float)
        return np.asarray(self.constant + self.per_batch / b + self.growth * b)


@dataclass(frozen=True, kw_only=True, slots=True)
class Knee:
    """Where a larger batch stops saving energy, in the unit of the batch size.

    Bounds are inf where the data allow that it never stops (`at`), or that energy never rises
    again (`optimum`).
    """

    floor: Estimate
    at: Estimate
    optimum: Estimate | None  # None where the fitted curve never rises
    coefficients: Coefficients
    is_extrapolated: bool  # the knee lies outside the batch sizes that were run


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Sample b against sample a. Where a value is ≤ 0 there is no ratio; p is of the difference."""

    ratio: Estimate  # b / a, of geometric means
    p_welch: float
    p_rank: float
    hedges_g: float  # of the logarithms where there is a ratio; > 0: b is the larger
    num_a: int
    num_b: int


# ------------------------------------------------------------------------------ bootstrap


def _paired(*columns: npt.ArrayLike) -> list[Floats]:
    """Leave out the positions at which any column is absent or infinite, and sort the others.

    Sorted, so that the same values in another order have the same bootstrap.
    """
    arrays = [np.asarray(column, dtype=float).ravel() for column in columns]
    if len({len(array) for array in arrays}) > 1:
        raise ValueError("columns that belong together differ in length")
    kept = np.flatnonzero(np.all([np.isfinite(array) for array in arrays], axis=0))
    order = kept[np.lexsort([array[kept] for array in arrays[::-1]])]
    return [array[order] for array in arrays]


def _resamples(num: int, seed: int) -> npt.NDArray[np.intp]:
    """Positions of each resample, shape (resamples, num)."""
    rows = min(NUM_RESAMPLES, max(500, MAX_DRAWS // max(num, 1)))
    return np.random.default_rng(seed).integers(0, num, size=(rows, num))


def _with_three_distinct(x: Floats, drawn: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Drop resamples with fewer than three different x: any line fits two points."""
    distinct = 1 + (np.diff(np.sort(x[drawn], axis=1), axis=1) > 0).sum(axis=1)
    return np.asarray(drawn[distinct >= 3])


def _percentile(value: float, resampled: Floats, num: int) -> Estimate:
    """Put the percentile interval of `resampled` around `value`; infinite draws are kept."""
    told = resampled[~np.isnan(resampled)]
    low = high = math.nan
    if not math.isnan(value) and len(told) > NUM_RESAMPLES // 20:
        edge = (1 - CONFIDENCE) / 2
        # not interpolated: between a number and inf there is nothing
        low = float(np.quantile(told, edge, method="inverted_cdf"))
        high = float(np.quantile(told, 1 - edge, method="inverted_cdf"))
    return Estimate(value=value, low=low, high=high, num=num)


def _correlations(x: Floats, y: Floats) -> Floats:
    """Pearson's r of each row; NaN where x or y does not vary."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    # scaled first: the squares of energies of 1e-200 J would be no numbers
    sizes = [np.abs(each).max(axis=-1, keepdims=True, initial=0.0) for each in (x, y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y = x / sizes[0], y / sizes[1]
        r = (x * y).sum(axis=-1) / np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.asarray(np.clip(r, -1.0, 1.0))


def _ranks(values: Floats) -> Floats:
    return np.asarray(stats.rankdata(values, axis=-1), dtype=float)


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool(np.ptp(values) > ROUNDING * np.abs(values).max())


def _correlation(x: Floats, y: Floats, *, ranked: bool, seed: int) -> Estimate:
    num = len(x)
    if not (_varies(x) and _varies(y)):
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=num)
    prepare = _ranks if ranked else np.asarray
    value = float(_correlations(prepare(x), prepare(y)))
    if num < MIN_PAIRS:
        return Estimate(value=value, low=math.nan, high=math.nan, num=num)
    drawn = _with_three_distinct(x, _resamples(num, seed))
    return _percentile(value, _correlations(prepare(x[drawn]), prepare(y[drawn])), num)


def pearson(x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0) -> Estimate:
    """Pearson's r, with the percentile interval of a pairs bootstrap (Efron 1979).

    Near 1 that is too narrow for few pairs, so that it spans Fisher's interval (1921), tanh(atanh r
    ± 1.96 / √(n − 3)), too. NaN where x or y is constant; NaN bounds for fewer than 6 pairs.
    """
    drawn = _correlation(*_paired(x, y), ranked=False, seed=seed)
    if math.isnan(drawn.low) or abs(drawn.value) == 1:
        return drawn
    z, half = (
        math.atanh(drawn.value),
        stats.norm.ppf((1 + CONFIDENCE) / 2) / math.sqrt(drawn.num - 3),
    )
    fisher = Estimate(
        value=drawn.value, low=math.tanh(z - half), high=math.tanh(z + half), num=drawn.num
    )
    return _spanning(drawn, fisher)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0) -> Estimate:
    """Spearman's ρ (1904), ties by mean rank, with a pairs bootstrap that ranks each resample anew.

    NaN where x or y is constant; NaN bounds for fewer than 6 pairs.
    """
    return _correlation(*_paired(x, y), ranked=True, seed=seed)


def spearman_difference(
    better: npt.ArrayLike, worse: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0
) -> Estimate:
    """ρ(better, y) − ρ(worse, y), all three resampled together.

    Both correlations share y and the models, so that their own intervals may overlap although the
    difference is certain; only the interval of the difference decides which predicts better.
    """
    b, w, target = _paired(better, worse, y)
    num = len(target)
    if not (_varies(b) and _varies(w) and _varies(target)):
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=num)
    ranks = _ranks(target)
    value = float(_correlations(_ranks(b), ranks) - _correlations(_ranks(w), ranks))
    if num < MIN_PAIRS:
        return Estimate(value=value, low=math.nan, high=math.nan, num=num)
    drawn = _with_three_distinct(w, _with_three_distinct(b, _resamples(num, seed)))
    ranks = _ranks(target[drawn])
    differences = _correlations(_ranks(b[drawn]), ranks) - _correlations(_ranks(w[drawn]), ranks)
    return _percentile(value, differences, num)


def median(values: npt.ArrayLike, *, seed: int = 0) -> Estimate:
    """Return the median with a bootstrap interval; NaN bounds for fewer than 4 values."""
    (kept,) = _paired(values)
    num = len(kept)
    value = float(np.median(kept)) if num else math.nan
    if num < MIN_FOR_BOOTSTRAP:
        return Estimate(value=value, low=math.nan, high=math.nan, num=num)
    return _percentile(value, np.median(kept[_resamples(num, seed)], axis=1), num)


def variation(values: npt.ArrayLike) -> Estimate:
    """Coefficient of variation (standard deviation over mean), with its interval.

    That of values whose logarithms are normal: √(exp σ² − 1), with σ² between (n − 1)·s² over the
    quantiles of χ². A bootstrap of a standard deviation is too narrow for so few values. NaN bounds
    for fewer than 4 values, NaN where one is not above zero.
    """
    (kept,) = _paired(values)
    num = len(kept)
    if num < 2 or kept.min() <= 0:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=num)
    value = float(kept.std(ddof=1) / kept.mean())
    low = high = math.nan
    if num >= MIN_FOR_BOOTSTRAP:
        squares = float(np.log(kept).var(ddof=1)) * (num - 1)
        edges = stats.chi2.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], num - 1)
        low, high = np.sqrt(np.expm1(squares / edges)).tolist()
    return Estimate(value=value, low=min(low, value), high=max(high, value), num=num)


# ------------------------------------------------------------------------------ means and tests


def mean(values: npt.ArrayLike) -> Estimate:
    """Return the mean with Student's t interval (1908); NaN bounds for one value."""
    (kept,) = _paired(values)
    num = len(kept)
    if not num:
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
    value = float(kept.mean())
    half = math.nan
    if num > 1:
        half = float(_t(num - 1) * kept.std(ddof=1) / math.sqrt(num))
    return Estimate(value=value, low=value - half, high=value + half, num=num)


def share(is_so: npt.ArrayLike) -> Estimate:
    """Fraction of the values (1 or 0) that are 1, with Wilson's interval (1927)."""
    values = np.asarray(is_so, dtype=float).ravel()
    known = values[np.isfinite(values)]
    if not len(known):
        return Estimate(value=math.nan, low=math.nan, high=math.nan, num=0)
    test = stats.binomtest(round(float(known.sum())), len(known))
    interval = test.proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return Estimate(
        value=float(known.mean()),
        low=float(interval.low),
        high=float(interval.high),
        num=len(known),
    )


def _t(degrees: float) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Welch:
    difference: float  # mean of b − mean of a
    error: float  # its standard error; NaN with one value on a side
    degrees: float

    def p_above(self, edge: float) -> float:
        """One-sided p of the difference being above `edge`."""
        beyond = self.difference - edge
        if math.isnan(self.error):
            return math.nan
        if self.error == 0:  # no scatter at all: the numbers say it themselves
            return 0.5 if beyond == 0 else float(beyond < 0)
        return float(stats.t.sf(beyond / self.error, self.degrees))


def _welch(a: Floats, b: Floats) -> _Welch:
    """Welch's unequal variances t (1947), degrees of freedom after Satterthwaite (1946)."""
    if not (len(a) and len(b)):
        return _Welch(difference=math.nan, error=math.nan, degrees=math.nan)
    difference = float(b.mean() - a.mean())
    size = max(np.abs(a).max(), np.abs(b).max(), 1e-300)
    if abs(difference) < ROUNDING * size:
        difference = 0.0
    if min(len(a), len(b)) < 2:
        return _Welch(difference=difference, error=math.nan, degrees=math.nan)
    parts = [float((x / size).var(ddof=1) / len(x)) if _varies(x) else 0.0 for x in (a, b)]
    if sum(parts) == 0:
        return _Welch(difference=difference, error=0.0, degrees=float(len(a) + len(b) - 2))
    spread = parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1)
    error = float(size * math.sqrt(sum(parts)))
    return _Welch(difference=difference, error=error, degrees=sum(parts) ** 2 / spread)


def _logged(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Floats, Floats, bool]:
    """Both samples as logarithms, and whether that could be done."""
    (x,), (y,) = _paired(a), _paired(b)
    positive = bool(len(x) and len(y) and x.min() > 0 and y.min() > 0)
    return (np.log(x), np.log(y), True) if positive else (x, y, False)


def compare_samples(a: npt.ArrayLike, b: npt.ArrayLike) -> Comparison:
    """Compare b with a: ratio, Welch's t (1947), Mann–Whitney's U (1947), Hedges' g (1981).

    The ratio is that of geometric means, and the t test is made on logarithms: scatter of energy
    and time is proportional. Where any value is ≤ 0 (net energy may be) there is no ratio, and t
    and g are of the plain differences. With one value on a side there is a ratio, and nothing else.
    """
    x, y, is_log = _logged(a, b)
    welch = _welch(x, y)
    half = math.nan if math.isnan(welch.error) else _t(welch.degrees) * welch.error
    bounds = np.array([welch.difference, welch.difference - half, welch.difference + half])
    ratio = np.exp(bounds) if is_log else np.full(3, math.nan)
    told = min(len(x), len(y)) >= 2
    return Comparison(
        ratio=Estimate(
            value=float(ratio[0]), low=float(ratio[1]), high=float(ratio[2]), num=len(x) + len(y)
        ),
        p_welch=2 * min(welch.p_above(0.0), 1 - welch.p_above(0.0)) if told else math.nan,
        p_rank=_p_rank(x, y, welch) if told else math.nan,
        hedges_g=_hedges_g(x, y, welch.difference) if told else math.nan,
        num_a=len(x),
        num_b=len(y),
    )


def p_ratio_above(a: npt.ArrayLike, b: npt.ArrayLike, edge: float) -> float:
    """One-sided p of b / a being above `edge`, by Welch's t on logarithms.

    NaN with one value on a side, or with a value ≤ 0.
    """
    x, y, is_log = _logged(a, b)
    return _welch(x, y).p_above(math.log(edge)) if is_log else math.nan


def _p_rank(x: Floats, y: Floats, welch: _Welch) -> float:
    if welch.difference == 0 and welch.error == 0:
        return 1.0  # they differ by rounding at most, which ranks would take for a difference
    return float(stats.mannwhitneyu(y, x, alternative="two-sided").pvalue)


def _hedges_g(x: Floats, y: Floats, difference: float) -> float:
    """Difference in pooled standard deviations, freed of its small-sample bias (Hedges 1981)."""
    degrees = len(x) + len(y) - 2
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in (x, y) if _varies(each))
    if squares == 0:
        return math.nan
    half = degrees / 2
    bias = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
    return bias * difference / math.sqrt(squares / degrees)


def holm(p_values: npt.ArrayLike) -> Floats:
    """Adjust p values for their number, step-down (Holm 1979); NaN stays NaN and does not count."""
    p = np.asarray(p_values, dtype=float).ravel()
    adjusted = np.full(p.shape, math.nan)
    told = np.flatnonzero(~np.isnan(p))
    order = told[np.argsort(p[told], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


def num_needed(r: float, edge: float, *, power_fraction: float = 0.8) -> int | None:
    """How many models would tell a correlation of `r` from `edge`, by Fisher's z (1921).

    So many that the 95 % interval leaves out `edge` with a chance of `power_fraction`. None where
    no number would do: r equals the edge, or one of them is absent.
    """
    if math.isnan(r) or math.isnan(edge) or r == edge:
        return None
    if abs(r) >= 1 or abs(edge) >= 1:
        return MIN_PAIRS
    wanted = stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(power_fraction)
    num = 3 + (wanted / (math.atanh(r) - math.atanh(edge))) ** 2
    return max(MIN_PAIRS, math.ceil(float(num)))


# ------------------------------------------------------------------------------ curves


def leave_one_out(x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0) -> LeaveOneOut:
    """Predict each point from a straight line, in logarithms, through all the others.

    In closed form: the deleted residual is e / (1 − h), with h the leverage (Allen 1974). Points
    that are absent or ≤ 0 have no logarithm and are neither used nor predicted.
    """
    truth, given = np.asarray(y, dtype=float).ravel(), np.asarray(x, dtype=float).ravel()
    predicted = np.full(truth.shape, math.nan)
    used = np.isfinite(given) & np.isfinite(truth) & (given > 0) & (truth > 0)
    if used.sum() >= 3 and _varies(given[used]):
        u, v = np.log(given[used]), np.log(truth[used])
        away = u - u.mean()
        leverage = 1 / len(u) + away**2 / (away**2).sum()
        residual = v - v.mean() - away * (away @ v) / (away**2).sum()
        # the only point off a column of equal x: without it there is no slope
        deleted = np.where(leverage < 1 - 1e-9, 1 - leverage, math.nan)
        predicted[used] = np.exp(v - residual / deleted)
    with np.errstate(invalid="ignore", divide="ignore"):
        factor = np.exp(np.abs(np.log(predicted) - np.log(np.where(used, truth, math.nan))))
    return LeaveOneOut(
        predicted=predicted, error_factor=factor, median_error_factor=median(factor, seed=seed)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _TwoPieces:
    """Sums of squares of the best bends, one per row of weights."""

    at: Floats
    below: Floats
    above: Floats
    line: Floats  # squares left by one straight line
    gain: Floats  # squares less with the bend


def _two_pieces(x: Floats, y: Floats, weights: Floats, breaks: Floats) -> _TwoPieces:
    """Fit 1, x, max(x − break, 0) by weighted least squares, for each row of weights.

    `y` is one row, or one row per row of weights. The hinge is freed of its part along 1 and x
    (Frisch and Waugh 1933), so that each break needs only sums and no solver.
    """
    hinge = np.maximum(x[:, None] - breaks, 0.0)
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, (weights * y).sum(axis=1) / total
    mean_h = weights @ hinge / total[:, None]
    xx = weights @ x**2 - total * mean_x**2
    xy = (weights * y) @ x - total * mean_x * mean_y
    yy = (weights * y**2).sum(axis=1) - total * mean_y**2
    hh = weights @ hinge**2 - total[:, None] * mean_h**2
    hx = (weights * x) @ hinge - (total * mean_x)[:, None] * mean_h
    hy = (weights * y) @ hinge - (total * mean_y)[:, None] * mean_h
    with np.errstate(invalid="ignore", divide="ignore"):
        own = hh - hx**2 / xx[:, None]
        change = (hy - hx * (xy / xx)[:, None]) / np.where(own > 1e-9 * hh, own, math.nan)
        gain = np.where(np.isnan(change), -1.0, change**2 * own)
        best = gain.argmax(axis=1)
        rows = np.arange(len(best))
        change, gain = change[rows, best], np.maximum(gain[rows, best], 0.0)
        below = (xy - change * hx[rows, best]) / xx
        at = np.where(np.isnan(change), math.nan, breaks[best])
        return _TwoPieces(at=at, below=below, above=below + change, line=yy - xy**2 / xx, gain=gain)


def bend(x: npt.ArrayLike, y: npt.ArrayLike, *, seed: int = 0) -> Bend:
    """Find where a continuous line of two pieces bends, and whether it does.

    The break is the best by least squares of 101 places between the second and the last but one
    different x (Quandt 1958). A break that was searched for always improves the fit, so the F table
    does not hold: p_value is the share of straight lines with normal scatter, drawn at the same x,
    that gain as much (Monte Carlo test, Barnard 1963). Five different x are needed.
    """
    u, v = _paired(x, y)
    num = len(u)
    distinct = np.unique(u)
    absent = Estimate(value=math.nan, low=math.nan, high=math.nan, num=num)
    if len(distinct) < 5 or not _varies(v):
        return Bend(
            at=absent,
            slope_below=absent,
            slope_above=absent,
            p_value=math.nan,
            r_squared_line=math.nan,
            r_squared_bend=math.nan,
        )
    centre, width, steepness = float(u.mean()), float(np.ptp(u)), float(np.ptp(v) / np.ptp(u))
    u, v = (u - centre) / width, (v - v.mean()) / np.ptp(v)
    breaks = (np.linspace(distinct[1], distinct[-2], NUM_BREAKS) - centre) / width
    fit = _two_pieces(u, v, np.ones((1, num)), breaks)
    drawn = _resamples(num, seed)[: NUM_RESAMPLES // 2]
    counts = np.stack([(drawn == i).sum(axis=1) for i in range(num)], axis=1).astype(float)
    again = _two_pieces(u, v, counts, breaks)
    noise = np.random.default_rng(seed + 1).standard_normal((NUM_RESAMPLES // 2, num))
    straight = _two_pieces(u, noise, np.ones_like(noise), breaks)
    is_straight = bool(fit.line[0] <= ROUNDING * (v @ v))  # nothing is left for a bend to explain
    with np.errstate(divide="ignore", invalid="ignore"):
        reached = straight.gain / straight.line >= float(fit.gain[0] / fit.line[0])
    return Bend(
        at=_percentile(float(fit.at[0] * width + centre), again.at * width + centre, num),
        slope_below=_percentile(float(fit.below[0] * steepness), again.below * steepness, num),
        slope_above=_percentile(float(fit.above[0] * steepness), again.above * steepness, num),
        p_value=1.0 if is_straight else float((1 + reached.sum()) / (1 + len(reached))),
        r_squared_line=float(1 - fit.line[0] / (v @ v)),
        r_squared_bend=float(1 - (fit.line[0] - fit.gain[0]) / (v @ v)),
    )


_TERMS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


def _non_negative(design: Floats, y: Floats) -> Floats:
    """Least squares with coefficients ≥ 0, for each column of y; shape (3, columns).

    Three terms have seven ways of being zero: all are tried, and the best that is ≥ 0 is the
    solution that Lawson and Hanson (1974) would find, for all columns at once.
    """
    best = np.zeros((3, y.shape[1]))
    least = (y**2).sum(axis=0)
    for terms in _TERMS:
        part = design[:, terms]
        found = np.linalg.pinv(part) @ y
        squares = ((y - part @ found) ** 2).sum(axis=0)
        better = (found >= 0).all(axis=0) & (squares < least)
        least = np.where(better, squares, least)
        best[:, better] = 0.0
        best[np.ix_(terms, better)] = found[:, better]
    return best


def _landmarks(coefficients: Floats) -> tuple[Floats, Floats, Floats]:
    """Floor, knee and optimum of each column of (constant, per batch, growth); from b = 1 up."""
    constant, per_batch, growth = coefficients
    with np.errstate(invalid="ignore", divide="ignore"):
        optimum = np.where(growth > 0, np.maximum(np.sqrt(per_batch / growth), 1.0), math.inf)
        lowest = constant + per_batch / optimum + np.where(growth > 0, growth * optimum, 0.0)
        room = (1 + KNEE_MARGIN) * lowest - constant
        root = np.sqrt(np.maximum(room**2 - 4 * per_batch * growth, 0.0))
        knee = np.where(per_batch > 0, 2 * per_batch / (room + root), 0.0)
    return lowest, np.maximum(knee, 1.0), optimum


def _around(design: Floats, energies: Floats, back: Floats, values: list[float]) -> list[Estimate]:
    """Intervals of floor, knee and optimum from curves fitted to each column of `energies`."""
    drawn, num = _landmarks(_non_negative(design, energies) * back), len(design)
    return [_percentile(value, each, num) for value, each in zip(values, drawn, strict=True)]


def _spanning(one: Estimate, other: Estimate) -> Estimate:
    low, high = min(one.low, other.low), max(one.high, other.high)
    return Estimate(value=one.value, low=low, high=high, num=one.num)


def knee(
    batch_size: npt.ArrayLike,
    energy: npt.ArrayLike,
    u95: npt.ArrayLike | None = None,
    *,
    seed: int = 0,
) -> Knee:
    """Fit energy per sample = constant + per_batch / b + growth · b, no coefficient below zero.

    A batch costs a fixed part that its samples share, a sample costs its own; growth is what memory
    traffic may add. Residuals are relative to the energy, unless one is ≤ 0: then all weigh alike.
    The floor is the least of the curve, the knee the smallest batch size within 10 % of it, the
    optimum where the curve is least. Intervals are a parametric bootstrap: each energy is drawn
    around the curve by its own uncertainty (`u95`, half a 95 % interval, in the energy's unit) or
    by the curve's misfit, whichever is the larger, the misfit itself being uncertain by its degrees
    of freedom. A bootstrap fails at the edge of what a coefficient may be (Andrews 2000): where it
    is not certain that energy rises again, the curve without growth is drawn around too, and the
    intervals span both. NaN below three different batch sizes, NaN bounds below four.
    """
    given = np.asarray(energy, dtype=float).ravel()
    own = np.zeros_like(given) if u95 is None else np.asarray(u95, dtype=float).ravel()
    b, e, u = _paired(batch_size, given, np.where(np.isfinite(own), own, 0.0))
    num, num_sizes = len(b), len(np.unique(b))
    absent = Estimate(value=math.nan, low=math.nan, high=math.nan, num=num)
    if num_sizes < 3 or not b.min() > 0 or not np.abs(e).max() > 0:
        nothing = Coefficients(constant=math.nan, per_batch=math.nan, growth=math.nan)
        return Knee(
            floor=absent, at=absent, optimum=None, coefficients=nothing, is_extrapolated=False
        )
    unit = e if e.min() > 0 else np.full(num, np.abs(e).max())
    size = float(b.max())  # columns of like size: batch sizes as parts of the largest
    design = np.stack([np.ones(num), size / b, b / size], axis=1) / unit[:, None]
    back = np.array([[1.0], [size], [1 / size]])
    scaled = _non_negative(design, (e / unit)[:, None])
    fitted = design @ scaled
    degrees = num - max(int((scaled > 0).sum()), 1)
    found = scaled * back
    values = [float(each[0]) for each in _landmarks(found)]
    drawn = [_percentile(value, np.array([]), num) for value in values]
    if num_sizes > 3 and degrees > 0:
        rng = np.random.default_rng(seed)
        misfit = math.sqrt(float(((e / unit - fitted[:, 0]) ** 2).sum()) / degrees)
        spread = misfit * np.sqrt(degrees / rng.chisquare(degrees, NUM_RESAMPLES))
        sigma = np.maximum(spread, (u / unit / stats.norm.ppf((1 + CONFIDENCE) / 2))[:, None])
        noise = sigma * rng.standard_normal((num, NUM_RESAMPLES))
        drawn = _around(design, fitted + noise, back, values)
        if math.isinf(drawn[2].high):
            level = design * [1, 1, 0]  # the curve that never rises
            unrisen = level @ _non_negative(level, (e / unit)[:, None])
            both = zip(drawn, _around(level, unrisen + noise, back, values), strict=True)
            drawn = [_spanning(one, other) for one, other in both]
    floor, at, optimum = drawn
    constant, per_batch, growth = (float(each) for each in found[:, 0])
    return Knee(
        floor=floor,
        at=at,
        optimum=optimum if growth > 0 else None,
        coefficients=Coefficients(constant=constant, per_batch=per_batch, growth=growth),
        is_extrapolated=not b.min() <= at.value <= size,
    )
