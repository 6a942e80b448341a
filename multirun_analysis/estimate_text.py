"""Estimates in words, as tables and as JSON."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from multirun_analysis.estimates import (
    MAX_BEYOND,
    Answer,
    Scores,
    Told,
    is_papers,
)
from multirun_analysis.regression import BATCH_SIZE, Errors, Interval, Law

QUANTITIES = {"net_j": ("net", "J"), "gross_j": ("gross", "J"), "time_s": ("time", "s")}
_PREFIXES = {1e9: "G", 1e6: "M", 1e3: "k", 1.0: "", 1e-3: "m", 1e-6: "µ", 1e-9: "n"}
_TIMES = {86_400.0: "d", 3600.0: "h", 60.0: "min"}
LEGEND = (
    "Errors are of models left out of the fit, |estimate / truth − 1|; the order is that of the "
    "mean |ln estimate / truth|, to which half is as wrong as twice. `chosen anew` leaves each "
    "model out of the choice of predictors as well: the error of an estimate made here."
)
IN_ANOTHER_GUISE = (
    "~ Power of {components} is modelled from TDP and utilisation: joules are time in another "
    "guise, and the error of the TDP, the same for all models, is in no interval here."
)


def headline(answer: Answer) -> str:
    """What is estimated from what."""
    question, best = answer.question, next(iter(answer.told.values()))
    sizes = ", ".join(map(str, answer.batch_sizes))
    return (
        f"{question.model}, batch size {question.batch_size}, {question.phase}: not run, estimated "
        f"from {len(best.ranking.models)} other models at batch size {sizes} ({answer.series})"
    )


def lines(answer: Answer) -> Iterator[str]:
    """Each quantity per sample with its interval, what it rests on, and what was measured."""
    for quantity, told in answer.told.items():
        name, unit = QUANTITIES[quantity]
        best = told.estimates[0]
        yield (
            f"  {name:<5} {_mark(answer, quantity)}{interval(best.cost, unit)} per sample, by "
            f"{_names(best.law)}; models left out: {_errors(told.ranking.nested)}"
        )
        yield f"        {_papers(answer, quantity, told)}"
        if told.measured is not None:
            off = best.cost.value / told.measured - 1
            inside = "in" if best.cost.low <= told.measured <= best.cost.high else "OUTSIDE"
            runs = f"{answer.num_measured} run{'s' * (answer.num_measured > 1)}"
            yield (
                f"        measured here already ({runs}): {_mark(answer, quantity)}"
                f"{scaled(told.measured, unit)}; the estimate, made without it, is {off:+.0%}, and "
                f"the measured value lies {inside} its interval"
            )


def _papers(answer: Answer, quantity: str, told: Told) -> str:
    one = told.papers
    if one is None:
        return "the paper's fit, MACs per parameter alone: not possible with these cells"
    text = f"the paper's fit, {_names(one.law)} alone: "
    if why := told.outside.get(one.law.predictors):
        return f"{text}none, {why}"
    _, unit = QUANTITIES[quantity]
    return (
        f"{text}{_mark(answer, quantity)}{interval(one.cost, unit)}; models left out: "
        f"{_errors(one.law.left_out)}"
    )


def notes(answer: Answer) -> Iterator[str]:
    """What else a reader must know."""
    yield (
        "In brackets 95 % prediction intervals for a model like those measured, up to a factor of "
        f"{MAX_BEYOND:g} beyond them, on the machine as it was then. phase=profile measures half a "
        "minute and tells far more closely."
    )
    if answer.modelled:
        yield IN_ANOTHER_GUISE.format(components=answer.modelled)
    yield from answer.notes


def predictors_table(answer: Answer) -> Table:
    """Every law's estimate and error, of net energy, else of time."""
    quantity, told = next(iter(answer.told.items()))
    name, unit = QUANTITIES[quantity]
    table = _table(f"{name} {unit} per sample, by every predictor")
    for column in ("estimate", "95 %", "median error", "mean error", "worst"):
        table.add_column(column, justify="right" if column != "worst" else "left")
    for place, one in enumerate(told.estimates):
        why = told.outside.get(one.law.predictors)
        cost = one.cost
        table.add_row(
            _named(one.law, is_best=place == 0),
            _law(one.law),
            "outside" if why else _mark(answer, quantity) + scaled(cost.value, unit),
            "" if why else f"{scaled(cost.low, unit)} – {scaled(cost.high, unit)}",
            *_error_cells(one.law.left_out),
        )
    table.add_row("chosen anew", "", "", "", *_error_cells(told.ranking.nested))
    return table


def scores_table(scores: Scores) -> Iterator[Table]:
    """Every law's error, of net energy and of time."""
    for quantity, ranking in scores.rankings.items():
        if quantity == "gross_j":
            continue
        name = {"net_j": "net joules", "time_s": "seconds"}[quantity]
        mark = "~" if scores.modelled and quantity != "time_s" else ""
        sizes = ", ".join(map(str, scores.batch_sizes))
        table = _table(
            f"{scores.phase}, {mark}{name} per sample: leave-one-model-out over "
            f"{len(ranking.models)} models, batch size {sizes} ({scores.series})"
        )
        for column in ("median error", "mean error", "worst"):
            table.add_column(column, justify="right" if column != "worst" else "left")
        for place, law in enumerate(ranking.laws):
            row = _named(law, is_best=place == 0), _law(law), *_error_cells(law.left_out)
            table.add_row(*row)
        table.add_row("chosen anew", "", *_error_cells(ranking.nested))
        yield table


def job_line(name: str, cost: Interval, unit: str, mark: str) -> str:
    """One total of a job."""
    return f"  {name:<5} {mark}{interval(cost, unit)}"


def to_json(answer: Answer) -> dict[str, Any]:
    """Everything, for a program."""
    question = answer.question
    return {
        "model": question.model,
        "batch_size": question.batch_size,
        "phase": question.phase,
        "machine": question.machine,
        "series": answer.series,
        "modelled": answer.modelled,
        "predictors": dict(question.predictors),
        "batch_sizes": list(answer.batch_sizes),
        "run_ids": list(answer.run_ids),
        "num_measured": answer.num_measured,
        "notes": list(answer.notes),
        "per_sample": {
            quantity: {
                **asdict(told.best),
                "measured": told.measured,
                "chosen_anew": _errors_json(told.ranking.nested),
                "laws": [
                    {
                        **_law_json(one.law),
                        **asdict(one.cost),
                        "outside": told.outside.get(one.law.predictors),
                    }
                    for one in told.estimates
                ],
            }
            for quantity, told in answer.told.items()
        },
    }


def scores_json(scores: Scores) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "phase": scores.phase,
        "series": scores.series,
        "modelled": scores.modelled,
        "batch_sizes": list(scores.batch_sizes),
        "per_sample": {
            quantity: {
                "models": list(ranking.models),
                "chosen_anew": _errors_json(ranking.nested),
                "laws": [_law_json(law) for law in ranking.laws],
            }
            for quantity, ranking in scores.rankings.items()
        },
    }


def interval(cost: Interval, unit: str) -> str:
    """`8.14 ms (4.2–15.8)`, low and high in the unit of the middle."""
    size, name = _unit(cost.value, unit)
    middle, low, high = (three_digits(v / size) for v in (cost.value, cost.low, cost.high))
    return f"{middle} {name} ({low}–{high})"


def scaled(value: float, unit: str) -> str:
    """`8.14 ms`."""
    size, name = _unit(value, unit)
    return f"{three_digits(value / size)} {name}"


def three_digits(value: float) -> str:
    """To three significant digits, never as a power of ten."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _unit(value: float, unit: str) -> tuple[float, str]:
    if unit == "s":
        for size, name in _TIMES.items():
            if value >= 2 * size:
                return size, name
    if unit not in ("s", "J"):
        return 1.0, unit
    sizes = [size for size in _PREFIXES if size <= 1 or unit == "J"]
    size = next((size for size in sizes if abs(value) >= size), min(sizes))
    return size, f"{_PREFIXES[size]}{unit}"


def _mark(answer: Answer, quantity: str) -> str:
    return "~" if answer.modelled and quantity != "time_s" else ""


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("predictors")
    table.add_column("law")
    return table


def _named(law: Law, *, is_best: bool) -> str:
    remark = " (the paper's)" if is_papers(law) else ""
    return f"{_names(law)}{remark}{' ← best' if is_best else ''}"


def _names(law: Law) -> str:
    return " + ".join(law.predictors)


def _law(law: Law) -> str:
    """`∝ macs^0.41 · activation_bytes^0.61`."""
    short = {"activation_bytes": "bytes", "macs_per_parameter": "MACs/par", BATCH_SIZE: "batch"}
    short |= {"macs": "MACs", "macs_exact": "exact", "parameters": "par"}
    pairs = zip(law.predictors, law.exponents, strict=True)
    return "∝ " + " · ".join(f"{short[name]}^{exponent:.2f}" for name, exponent in pairs)


def _errors(errors: Errors) -> str:
    return (
        f"median error {errors.median_percent:.0f} %, mean {errors.mean_percent:.0f} %, worst "
        f"{errors.percent[errors.worst]:,.0f} % ({errors.worst})"
    )


def _error_cells(errors: Errors) -> Sequence[str]:
    return (
        f"{errors.median_percent:.0f} %",
        f"{errors.mean_percent:.0f} %",
        f"{errors.worst} {errors.percent[errors.worst]:,.0f} %",
    )


def _errors_json(errors: Errors) -> dict[str, Any]:
    return {
        "median_percent": errors.median_percent,
        "mean_percent": errors.mean_percent,
        "percent_by_model": errors.percent,
    }


def _law_json(law: Law) -> dict[str, Any]:
    return {
        "predictors": list(law.predictors),
        "exponents": list(law.exponents),
        "factor": law.factor if math.isfinite(law.factor) else None,
        "mean_error_factor": law.mean_error_factor,
        "left_out": _errors_json(law.left_out),
    }
