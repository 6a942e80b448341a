"""Power laws found again where they were planted, errors as scikit-learn's refits have them."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import sklearn
from pandas import DataFrame
from scipy import stats
from sklearn.linear_model import LinearRegression

from multirun_analysis import regression
from multirun_analysis.regression import BATCH_SIZE, CANDIDATES, Law

NAMES = ("macs", "macs_exact", "parameters", "macs_per_parameter", "activation_bytes")


def planted(
    num: int,
    law: dict[str, float],
    *,
    noise: float = 0.0,
    sizes: Sequence[int] = (128,),
    heavy: bool = False,
    seed: int = 0,
) -> DataFrame:
    """Models of all kinds whose cost is a law, times what is peculiar to each."""
    random = np.random.default_rng(seed)
    macs = np.exp(random.uniform(np.log(3e7), np.log(2e9), num))
    parameters = np.exp(random.uniform(np.log(5e5), np.log(2e7), num))
    peculiar = random.standard_t(3, num) / 3**0.5 if heavy else random.standard_normal(num)
    models = DataFrame(
        {
            "model": [f"m{place:02d}" for place in range(num)],
            "macs": macs,
            "macs_exact": macs * random.uniform(0.94, 1.0, num),
            "parameters": parameters,
            "macs_per_parameter": macs / parameters,
            "activation_bytes": 10 * macs**0.7 * np.exp(0.6 * random.standard_normal(num)),
            "factor": 1e-9 * np.exp(noise * peculiar),
        }
    )
    rows = models.merge(DataFrame({BATCH_SIZE: [float(size) for size in sizes]}), how="cross")
    logs = sum(exponent * np.log(rows[name]) for name, exponent in law.items())
    return rows.assign(cost=rows["factor"] * np.exp(logs)).drop(columns="factor")


def law_of(rows: DataFrame, *predictors: str) -> Law:
    return next(law for law in regression.rank(rows).laws if law.predictors == predictors)


@pytest.mark.parametrize("name", NAMES)
def test_the_predictor_that_was_planted_is_the_best_of_all_single_ones(name: str) -> None:
    laws = regression.rank(planted(16, {name: 0.8}, noise=0.01)).laws
    single = next(law for law in laws if len(law.predictors) == 1)
    assert single.predictors == (name,)
    assert single.exponents[0] == pytest.approx(0.8, abs=0.02)
    assert single.left_out.mean_percent < 2


def test_a_law_of_two_predictors_is_found_with_its_coefficients() -> None:
    law = {"macs": 0.4, "activation_bytes": 0.6}
    best = regression.rank(planted(16, law, noise=0.01)).laws[0]
    exponents = dict(zip(best.predictors, best.exponents, strict=True))
    assert exponents.keys() >= {"activation_bytes"}
    exact = law_of(planted(16, law), "macs", "activation_bytes")
    assert exact.exponents == pytest.approx((0.4, 0.6))
    assert exact.factor == pytest.approx(1e-9)
    assert exact.left_out.mean_percent == pytest.approx(0, abs=1e-6)


def test_batch_size_is_a_predictor_where_several_were_seen() -> None:
    law = {"macs": 0.9, BATCH_SIZE: -0.25}
    exact = law_of(planted(8, law, sizes=(8, 32, 128)), "macs", BATCH_SIZE)
    assert exact.exponents == pytest.approx((0.9, -0.25))


# --------------------------------------------------------------- against scikit-learn's own refits


class Refits:
    """ln(estimate / truth) of models left out, by scikit-learn on the rows of the others."""

    def __init__(self, rows: DataFrame) -> None:
        self.models = rows["model"].to_numpy()
        self.logs = {name: np.log(rows[name].to_numpy()) for name in (*NAMES, BATCH_SIZE, "cost")}

    def errors(self, predictors: Sequence[str], held: str, *without: str) -> np.ndarray:
        x = np.column_stack([self.logs[name] for name in predictors])
        y, seen = self.logs["cost"], ~np.isin(self.models, [held, *without])
        weight = [1 / np.sum(self.models == model) for model in self.models[seen]]
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            fitted = LinearRegression().fit(x[seen], y[seen], sample_weight=weight)
            own = self.models == held
            return np.asarray(fitted.predict(x[own]) - y[own])


@pytest.fixture
def uneven() -> DataFrame:
    """Six models, four of which lack a batch size or two."""
    rows = planted(6, {"macs": 0.8, BATCH_SIZE: -0.2}, noise=0.4, sizes=(8, 32, 128), seed=3)
    rows["cost"] *= np.exp(0.1 * np.random.default_rng(5).standard_normal(len(rows)))
    return rows.drop(index=[1, 4, 5, 9, 13])


def percent_of(errors: np.ndarray) -> float:
    return float(100 * np.abs(np.expm1(errors)).mean())


def test_errors_of_models_left_out_are_those_of_a_refit_without_them(uneven: DataFrame) -> None:
    refits = Refits(uneven)
    for law in regression.rank(uneven).laws:
        for model, percent in law.left_out.percent.items():
            assert percent == pytest.approx(percent_of(refits.errors(law.predictors, model)))


def test_nested_errors_are_those_of_choosing_again_without_the_model(uneven: DataFrame) -> None:
    refits = Refits(uneven)
    ranking = regression.rank(uneven)
    for model in ranking.models:
        inner = {
            law.predictors: np.mean(
                [
                    np.abs(refits.errors(law.predictors, other, model)).mean()
                    for other in ranking.models
                    if other != model
                ]
            )
            for law in ranking.laws
        }
        best = min(inner, key=lambda predictors: inner[predictors])
        expected = percent_of(refits.errors(best, model))
        assert ranking.nested.percent[model] == pytest.approx(expected)


# With a single candidate nothing is chosen: the textbook's interval, of deleted residuals.
def test_the_interval_of_a_single_predictor_is_the_textbooks() -> None:
    rows = planted(9, {"macs": 0.7}, noise=0.3, seed=2)[["model", BATCH_SIZE, "macs", "cost"]]
    x, y = np.log(rows["macs"]), np.log(rows["cost"])
    line = stats.linregress(x, y)
    away = x - x.mean()
    leverage = 1 / 9 + away**2 / (away**2).sum()
    residual = y - line.intercept - line.slope * x
    variance = max((residual**2).sum() / 7, (residual**2 / (1 - leverage)).mean())
    asked = 3e8
    h = 1 / 9 + (np.log(asked) - x.mean()) ** 2 / (away**2).sum()
    half = stats.t.ppf(0.975, 6) * np.sqrt(variance * (1 + h))

    _, (only,) = regression.estimate(rows, {"macs": asked})

    assert only.leverage == pytest.approx(h)
    assert np.log(only.cost.value) == pytest.approx(line.intercept + line.slope * np.log(asked))
    assert np.log(only.cost.high / only.cost.value) == pytest.approx(half)
    assert np.log(only.cost.value / only.cost.low) == pytest.approx(half)


# ----------------------------------------------------------------------------------- honest errors

LAWS = {
    "one predictor": {"macs": 0.9},
    "two": {"macs": 0.5, "activation_bytes": 0.5},
    "none of them": {},
}


def try_out(num: int, law: dict[str, float], num_seeds: int, **of: bool) -> DataFrame:
    """Fit `num` models, and hold the estimate against one that was not among them."""
    tried = []
    for seed in range(num_seeds):
        drawn = planted(num + 1, law, noise=0.3, seed=seed, **of)  # type: ignore[arg-type]
        asked = drawn.iloc[-1]
        ranking, (best, *_) = regression.estimate(
            drawn.iloc[:-1], {name: float(asked[name]) for name in NAMES}
        )
        truth = float(asked["cost"])
        tried.append(
            {
                "is_inside": best.cost.low <= truth <= best.cost.high,
                "percent": 100 * abs(best.cost.value / truth - 1),
                "nested": ranking.nested.mean_percent,
                "flattering": ranking.laws[0].left_out.mean_percent,
            }
        )
    return DataFrame(tried)


def check_honesty(tried: DataFrame) -> None:
    assert tried["is_inside"].mean() >= 0.9
    assert tried["flattering"].mean() < tried["nested"].mean()
    standard_error = tried["percent"].std() / len(tried) ** 0.5
    assert tried["nested"].mean() > tried["percent"].mean() - 2 * standard_error


def test_of_a_few_models_intervals_hold_and_errors_are_not_flattered() -> None:
    check_honesty(try_out(6, LAWS["two"], 40))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "num", "heavy"), list(itertools.product(LAWS, (6, 9, 16), (False, True)))
)
def test_intervals_hold_for_more_models_and_for_heavy_tails(
    law: str, num: int, heavy: bool
) -> None:
    tried = try_out(num, LAWS[law], 200, heavy=heavy)
    print(f"{law}, {num} models, heavy {heavy}: {tried.mean().round(3).to_dict()}")
    check_honesty(tried)


# -------------------------------------------------------------------------------- what is not tried


@pytest.mark.parametrize(("num", "most"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3)])
def test_three_models_are_wanted_for_each_coefficient(num: int, most: int) -> None:
    candidates = regression.candidates_for(planted(num, {"macs": 1}))
    assert max(map(len, candidates)) == most
    assert len(candidates) == sum(len(one) <= most for one in CANDIDATES)


def test_a_predictor_that_a_model_lacks_is_not_tried() -> None:
    rows = planted(12, {"macs": 1})
    rows.loc[3, "activation_bytes"] = np.nan
    assert not [c for c in regression.candidates_for(rows) if "activation_bytes" in c]


def test_two_predictors_that_are_one_are_no_fit() -> None:
    rows = planted(12, {"macs": 1}, noise=0.1)
    twins = regression.rank(rows.assign(activation_bytes=rows["macs"] ** 2)).laws
    assert ("macs",) in {law.predictors for law in twins}
    assert ("macs", "activation_bytes") not in {law.predictors for law in twins}


def test_models_that_are_all_alike_fit_no_law() -> None:
    rows = planted(8, {"macs": 1}).assign(**dict.fromkeys(NAMES, 1e6))
    with pytest.raises(ValueError, match="no candidate"):
        regression.rank(rows)
