"""One sweep against another in one metric: a ratio per cell, all cells together, and a gate.

Frames in, frozen dataclasses out; `compare` is the command line of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pandas import DataFrame
from scipy import stats

from multirun_analysis import pairing, statistics
from multirun_analysis.pairing import Pair
from multirun_analysis.statistics import Estimate

MORE_IS_BETTER = ("samples_per_s", "accuracy")
"""How the names of metrics end of which less is worse."""
SIGNIFICANT = 0.05
MIN_CELLS = 3
"""Below it the scatter between cells is not known."""
COLUMNS = {
    "cell": "cell, its model, phase and batch size",
    "verdict": "less, more, no difference found, or not decidable",
    "a": "geometric mean of A",
    "b": "geometric mean of B",
    "num_a": "repetitions",
    "num_b": "repetitions",
    "ratio": "b / a",
    "low": "95 % interval",
    "high": "95 % interval",
    "p_welch": "Welch's t of logarithms",
    "p_holm": "the same, adjusted over cells",
    "p_rank": "Mann–Whitney's U",
    "hedges_g": "effect size, of logarithms",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CellComparison:
    """B against A for one piece of work."""

    pair: Pair
    ratio: Estimate
    """B / A. With a single run on a side its interval is the runs' own uncertainty, where known."""
    p_welch: float
    p_holm: float
    p_rank: float
    hedges_g: float
    verdict: str

    @property
    def is_repeated(self) -> bool:
        """Whether run-to-run scatter is known on both sides, and so is in the interval."""
        return min(len(self.pair.values_a), len(self.pair.values_b)) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparisons:
    """Sweep B against sweep A in one metric."""

    metric: str
    name_a: str
    name_b: str
    series_a: str
    series_b: str
    cells: tuple[CellComparison, ...]
    overall: Estimate
    """Geometric mean of the cells' ratios, Student's t interval over cells; from 3 cells on."""
    p_wilcoxon: float
    """Signed ranks of the cells' log ratios."""
    differences: tuple[str, ...]
    left_out: tuple[str, ...]
    modelled: str
    num_missing: int
    """Cells of A that are not compared."""

    @property
    def more_is_better(self) -> bool:
        """Whether a ratio above 1 is good news."""
        return self.metric.endswith(MORE_IS_BETTER)

    @property
    def table(self) -> DataFrame:
        """A row per cell, with the columns of COLUMNS."""
        rows = [
            (
                cell.pair.label,
                cell.verdict,
                middle(cell.pair.values_a),
                middle(cell.pair.values_b),
                len(cell.pair.values_a),
                len(cell.pair.values_b),
                cell.ratio.value,
                cell.ratio.low,
                cell.ratio.high,
                cell.p_welch,
                cell.p_holm,
                cell.p_rank,
                cell.hedges_g,
            )
            for cell in self.cells
        ]
        return DataFrame(rows, columns=list(COLUMNS))

    @property
    def heading(self) -> list[str]:
        """What is compared, in lines."""
        lines = [
            f"A: {self.name_a} ({self.series_a})",
            f"B: {self.name_b} ({self.series_b})",
        ]
        if self.differences:
            lines.append(f"They differ in {'; '.join(self.differences)}.")
        if self.modelled:
            lines.append(
                f"~modelled: {self.modelled} energy is utilisation × time × a constant on both "
                "sides, so that a ratio of it says little that time does not."
            )
        return lines

    @property
    def summary(self) -> str:
        """The overall ratio in a sentence."""
        counts = [sum(c.verdict == name for c in self.cells) for name in ("less", "more")]
        num, without = self.overall.num, len(self.cells) - self.overall.num
        told = f"{self.metric}: {ratio_text(self.overall)} over {num} cells"
        if without:
            told += f" ({without} more have values ≤ 0, and so no ratio)"
        if not math.isnan(self.p_wilcoxon):
            told += f", Wilcoxon p = {self.p_wilcoxon:.2g}"
        return f"{told}; {counts[0]} less, {counts[1]} more after Holm's correction."


@dataclass(frozen=True, kw_only=True, slots=True)
class Gated:
    """Whether B is worse than a gate allows."""

    edge: float
    """The ratio by which B may be worse."""
    worse: tuple[str, ...]
    """Why B fails, a sentence each; empty where it passes."""
    num_tested: int
    """Cells with repetitions on both sides, and values above 0."""
    num_unsure: int
    """Tested cells that passed although their 95 % interval reaches beyond the gate."""
    is_overall_clear: bool
    """Whether the interval of all cells together ends before the gate, or begins beyond it."""
    num_missing: int
    """Cells of A that B has no usable like of."""

    @property
    def is_decidable(self) -> bool:
        """Whether something was told apart from the gate, and nothing was missing."""
        told = self.num_tested > self.num_unsure or self.is_overall_clear or bool(self.worse)
        return told and not self.num_missing


def compare(
    a: DataFrame,
    b: DataFrame,
    metric: str,
    *,
    series_a: str | None = None,
    series_b: str | None = None,
) -> Comparisons:
    """Compare two sweeps' cells in one metric, work by work.

    Raises:
        NotComparableError: nothing in them is comparable; the message says what differs.
    """
    found = pairing.pair(a, b, metric, series_a=series_a, series_b=series_b)
    cells = compare_pairs(found.pairs)
    overall, p_wilcoxon = _overall(cells)
    return Comparisons(
        metric=metric,
        name_a=", ".join(a["sweep"].unique()),
        name_b=", ".join(b["sweep"].unique()),
        series_a=found.series_a,
        series_b=found.series_b,
        cells=cells,
        overall=overall,
        p_wilcoxon=p_wilcoxon,
        differences=found.differences,
        left_out=found.left_out,
        modelled=found.modelled,
        num_missing=a["work"].nunique() - len(found.pairs),
    )


def compare_pairs(pairs: Sequence[Pair]) -> tuple[CellComparison, ...]:
    """Test each pair, and adjust the p values for their number (Holm)."""
    compared = [statistics.compare_samples(p.values_a, p.values_b) for p in pairs]
    adjusted = statistics.holm([each.p_welch for each in compared])
    return tuple(
        CellComparison(
            pair=one,
            ratio=_with_own_uncertainty(one, each.ratio),
            p_welch=each.p_welch,
            p_holm=float(p_holm),
            p_rank=each.p_rank,
            hedges_g=each.hedges_g,
            verdict=_verdict(one, float(p_holm)),
        )
        for one, each, p_holm in zip(pairs, compared, adjusted, strict=True)
    )


def middle(values: Sequence[float]) -> float:
    """Return the geometric mean; the plain one where a value is ≤ 0."""
    array = np.asarray(values)
    return float(np.exp(np.log(array).mean()) if array.min() > 0 else array.mean())


def _verdict(pair: Pair, p_holm: float) -> str:
    if math.isnan(p_holm):
        return "not decidable without repetitions"
    if p_holm >= SIGNIFICANT:
        return "no difference found"
    return "more" if middle(pair.values_b) > middle(pair.values_a) else "less"


def _with_own_uncertainty(pair: Pair, ratio: Estimate) -> Estimate:
    """Give the ratio of single runs the interval that their own uncertainty leaves.

    Relative half-widths are added in squares, as logarithms: both runs are independent. What
    differs from run to run is not in it.
    """
    if not math.isnan(ratio.low) or math.isnan(ratio.value):
        return ratio
    half = 0.0
    for values, u95 in ((pair.values_a, pair.u95_a), (pair.values_b, pair.u95_b)):
        own = u95 / middle(values)
        if len(values) > 1:
            scatter = statistics.mean(np.log(values))
            own = max(own, scatter.high - scatter.value)
        half = math.hypot(half, own)
    low, high = ratio.value * math.exp(-half), ratio.value * math.exp(half)
    return Estimate(value=ratio.value, low=low, high=high, num=ratio.num)


def _overall(cells: Sequence[CellComparison]) -> tuple[Estimate, float]:
    """Geometric mean of the ratios, and Wilcoxon's signed-rank p (1945)."""
    logs = np.log([cell.ratio.value for cell in cells])
    logs = logs[np.isfinite(logs)]
    mean = statistics.mean(logs)
    told = len(logs) >= MIN_CELLS
    # No surer than its parts: half-widths of independent cells add in squares.
    known = [math.log(c.ratio.high / c.ratio.low) / 2 for c in cells if c.ratio.low > 0]
    of_cells = math.sqrt(sum(half**2 for half in known)) / max(len(logs), 1)
    half = max(mean.high - mean.value, of_cells)
    low, high = (_exp(mean.value - half), _exp(mean.value + half)) if told else (math.nan,) * 2
    p = math.nan
    if told:
        p = float(stats.wilcoxon(logs).pvalue) if np.abs(logs).max() > 1e-12 else 1.0
    return Estimate(value=math.exp(mean.value), low=low, high=high, num=len(logs)), p


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def gate(comparisons: Comparisons, edge: float) -> Gated:
    """Test whether B is worse than `edge` times A: any cell, or all cells together.

    A cell fails where Welch's one-sided t of log(B / A) against log(edge), adjusted over cells
    (Holm), has p < 0.05; the whole where the 95 % interval of the mean ratio lies beyond the edge.
    Of metrics of which more is better, A / B is tested.
    """
    turned = comparisons.more_is_better
    tests = []
    for cell in comparisons.cells:
        sides = (cell.pair.values_a, cell.pair.values_b)
        tests.append(statistics.p_ratio_above(*(sides[::-1] if turned else sides), edge))
    adjusted = statistics.holm(tests)
    worse = [
        f"{cell.pair.label}: {ratio_text(cell.ratio)}, p = {p:.2g} of being beyond the gate"
        for cell, p in zip(comparisons.cells, adjusted, strict=True)
        if p < SIGNIFICANT
    ]
    reaching = [
        p >= SIGNIFICANT and (1 / cell.ratio.low if turned else cell.ratio.high) > edge
        for cell, p in zip(comparisons.cells, adjusted, strict=True)
    ]
    overall = comparisons.overall
    if (1 / overall.high if turned else overall.low) > edge:
        worse.append(f"all {overall.num} cells: {ratio_text(overall)}")
    return Gated(
        edge=edge,
        worse=tuple(worse),
        num_tested=int((~np.isnan(adjusted)).sum()),
        num_unsure=sum(reaching),
        is_overall_clear=(1 / overall.low if turned else overall.high) <= edge
        or (1 / overall.high if turned else overall.low) > edge,
        num_missing=comparisons.num_missing,
    )


def ratio_text(ratio: Estimate) -> str:
    """`B / A = 1.093 [1.071, 1.115]`, without an interval where there is none."""
    if math.isnan(ratio.value):
        return "no ratio"
    if math.isnan(ratio.low):
        return f"B / A = {ratio.value:.3f}"
    return f"B / A = {ratio.value:.3f} [{plain(ratio.low)}, {plain(ratio.high)}]"


def plain(ratio: float) -> str:
    """Three decimals, or three digits where a ratio is known to no more than its size."""
    return f"{ratio:.3f}" if 0.01 <= ratio < 100 else f"{ratio:.2g}"
