"""How a plan reads: a row for each cell, then the whole of it with its interval."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from greenlab import config as configuration
from greenlab.carbon import J_PER_KWH, Tariff
from greenlab.config import Config
from greenlab.metrics import two_digits
from greenlab.plan import CellPlan, Estimate, Plan
from greenlab.run import clock

COLUMNS = {
    "model": "left",
    "batch": "right",
    "phase": "left",
    "settings": "left",
    "runs": "right",
    "time": "right",
    "energy": "right",
    "known from": "left",
}
OWN_COLUMN = {"model._target_", "batch_size.size", "phase.kind", "repetition"}
"""Settings that the columns show."""


def label(config: Config) -> tuple[str, str, str]:
    """Model, batch size and phase, as people name them."""
    module, _, builder = config.model._target_.rpartition(".")
    model = module.rpartition(".")[2] if builder == "build" else builder
    return model, str(config.batch_size.size), config.phase.kind.name


def render(grid: Sequence[Config], plan: Plan) -> Group:
    """The whole of it; `grid` has the configurations of the plan's cells, in their order."""
    table = Table(title="plan", title_justify="left")
    settings = differing(grid)
    columns = [name for name in COLUMNS if name != "settings" or any(settings)]
    for name in columns:
        table.add_column(name, justify=COLUMNS[name], overflow="fold")  # type: ignore[arg-type]
    mark = "~" if plan.is_modelled else ""
    for config, own, cell in zip(grid, settings, plan.cells, strict=True):
        row = _row(config, cell, mark) | {"settings": own}
        table.add_row(*(escape(row[name]) for name in columns))
    return Group(table, *_summary(plan, mark, grid[0].carbon.tariff, grid[0].carbon.currency))


def differing(grid: Sequence[Config]) -> list[str]:
    """What each configuration has that not all have, and that no column of its own shows."""
    flat = [dict(_flatten(configuration.to_dict(config))) for config in grid]
    keys = sorted({key for one in flat for key in one} - OWN_COLUMN)
    telling = [key for key in keys if len({repr(one.get(key)) for one in flat}) > 1]
    return [" ".join(f"{key}={one[key]}" for key in telling if key in one) for one in flat]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _row(config: Config, plan: CellPlan, mark: str) -> dict[str, str]:
    model, batch_size, phase = label(config)
    fewest, most = plan.cell.repetitions
    earlier = plan.num_earlier
    energy = "–"
    if plan.energy_j is not None:
        energy = f"{mark}{joules(plan.energy_j.median)}{_half_width(plan.energy_j)}"
    return {
        "model": model,
        "batch": batch_size,
        "phase": phase,
        "runs": str(most) if fewest == most else f"{fewest}–{most}",
        "time": clock(plan.time_s.median) + _half_width(plan.time_s),
        "energy": energy,
        "known from": f"{earlier} earlier run{'s' if earlier > 1 else ''}" if earlier else "probes",
    }


def _half_width(estimate: Estimate) -> str:
    """Of the interval, the greater side of it; a factor where that is more than the whole."""
    if not estimate.median:
        return ""
    off = max(estimate.high - estimate.median, estimate.median - estimate.low) / estimate.median
    return f" ± {off:4.0%}" if off < 1 else f" ×/÷ {estimate.high / estimate.median:.1f}"


def _summary(plan: Plan, mark: str, tariff: Tariff, currency: str) -> Iterator[str]:
    runs = sum(cell.cell.repetitions[1] for cell in plan.cells)
    yield f"{len(plan.cells)} cells, {runs} runs, with the 95 % interval of the sum:"
    yield f"  time    {_interval(plan.time_s, clock)}"
    if (energy_j := plan.energy_j) is None:
        yield "  energy  no estimate: not all cells have an energy source"
        return
    yield f"  energy  {_interval(energy_j, lambda j: mark + joules(j))}, gross and with all waits"
    if tariff.g_co2e_per_kwh is not None:
        grams = _per_joule(tariff.co2e_g(J_PER_KWH), mark, "g")
        yield f"  CO2e    {_interval(energy_j, grams)}"
    if tariff.price_per_kwh is not None:
        money = _per_joule(tariff.cost(J_PER_KWH), mark, currency)
        yield f"  cost    {_interval(energy_j, money)}"
    if mark:
        yield "~ holds modelled energy, not measured: python -m greenlab.doctor tells why."


def _interval(estimate: Estimate, show: Callable[[float], str]) -> str:
    between = f"{show(estimate.low)} to {show(estimate.high)}"
    return f"[bold]{show(estimate.median)}[/] ({between})"


def _per_joule(per_kwh: float | None, mark: str, unit: str) -> Callable[[float], str]:
    """Shows what so many joules cost, at a rate that is known."""
    assert per_kwh is not None
    return lambda j: escape(f"{mark}{two_digits(j / J_PER_KWH * per_kwh)} {unit}".rstrip())


def joules(energy_j: float) -> str:
    """`1,234 J`, and from a tenth of a kWh on `0.123 kWh`."""
    kwh = energy_j / J_PER_KWH
    return f"{kwh:,.3f} kWh" if kwh >= 0.1 else f"{energy_j:,.0f} J"
