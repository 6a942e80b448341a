"""What a profile foretells, and what a stop saved, in words and as a table."""

from collections.abc import Sequence

from rich.table import Table

from greenlab.config import from_dict
from greenlab.metrics import metrics, two_digits
from greenlab.prediction import described_job
from greenlab.record import Record

LEGEND = (
    "Foretold from short stretches, none of it measured; in brackets 95 % prediction intervals. "
    "python -m greenlab.backtest holds them against full runs."
)
_UNITS_OF_TIME = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))
_UNITS_OF_ENERGY = ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"))
COLUMNS = ("model", "batch", "the whole job", "net", "gross", "time", "CO2e g", "cost", "profile")


def sentence(record: Record) -> str:
    """The whole job in a line: `1 epoch and 360 inferences: net ~12.1 kJ (11–13), …`."""
    values = metrics(record)
    told = [
        f"{name} {text}" for name in ("net", "gross") if (text := _joules(record, values, name))
    ]
    told.append(_time(values))
    for name, unit in (("co2e", "g CO2e"), ("cost", _currency(record))):
        if text := _bill(values, name):
            told.append(f"{text} {unit}".strip())
    return f"{job_text(record)}: {', '.join(told)}"


def stop_text(record: Record) -> str:
    """`stopped after 4 of 30 epochs, about 1.2 kJ saved (predicted)`; empty where it was not."""
    if record.measurement is None or record.measurement.stopped_early is None:
        return ""
    values = metrics(record)
    if "stopped/after_epochs" not in values:
        return ""
    done, planned = (f"{values[f'stopped/{name}_epochs']:.0f}" for name in ("after", "planned"))
    if "stopped/saved_net_j" in values:
        joules = _scaled(values["stopped/saved_net_j"], _UNITS_OF_ENERGY, "J")
        spared = f"{record.mark}{joules} net"
    else:
        spared = _scaled(values["stopped/saved_time_s"], _UNITS_OF_TIME, "s")
    return f"stopped after {done} of {planned} epochs, about {spared} saved (predicted)"


def job_text(record: Record) -> str:
    """The job that the configuration describes: `100 epochs and 50,000 inferences`."""
    job, epochs = described_job(record), from_dict(record.cell.config).target_epochs
    parts = [f"{epochs:,} epoch{'s' * (epochs > 1)}"] * (epochs > 0)
    parts += [f"{job.inference_samples:,.0f} inferences"] * (job.inference_samples > 0)
    return " and ".join(parts)


def build_table(profiles: Sequence[Record]) -> Table:
    """What the profiles of a sweep foretell, for the terminal."""
    table = Table(title="Foretold by profiles", title_justify="left")
    columns, rows = _rows(profiles)
    for name in columns:
        is_text = name in ("model", "the whole job")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(profiles: Sequence[Record]) -> str:
    """The same for MLflow."""
    columns, rows = _rows(profiles)
    lines = ["| " + " | ".join(row) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    return "\n\n".join(["Foretold by profiles", "\n".join(lines), LEGEND])


def _rows(profiles: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    rows = [_row(record) for record in profiles]
    used = [
        place
        for place, name in enumerate(COLUMNS)
        if name not in ("CO2e g", "cost") or any(row[place] for row in rows)
    ]
    return [COLUMNS[place] for place in used], [
        [row[place] or "–" for place in used] for row in rows
    ]


def _row(record: Record) -> list[str]:
    values, chosen = metrics(record), record.cell.choices
    cost = _bill(values, "cost")
    spent = values.get("profile/spent_j")
    return [
        chosen.get("model", ""),
        chosen.get("batch_size", ""),
        job_text(record),
        _joules(record, values, "net"),
        _joules(record, values, "gross"),
        _time(values),
        _bill(values, "co2e"),
        f"{cost} {_currency(record)}".strip() if cost else "",
        f"{values.get('profile/spent_s', 0.0):.0f} s"
        + (f", {record.mark}{_scaled(spent, _UNITS_OF_ENERGY, 'J')}" if spent is not None else ""),
    ]


def _currency(record: Record) -> str:
    return str(record.cell.config.get("carbon", {}).get("currency", ""))


def _joules(record: Record, values: dict[str, float], name: str) -> str:
    """`~12.1 kJ (11.0–13.4)`; empty where nothing was metered."""
    if f"predicted/{name}_j" not in values:
        return ""
    three = [values[f"predicted/{name}{suffix}_j"] for suffix in ("", "_low", "_high")]
    return record.mark + _interval(three, _UNITS_OF_ENERGY, "J")


def _time(values: dict[str, float]) -> str:
    three = [values[f"predicted/time{suffix}_s"] for suffix in ("", "_low", "_high")]
    return _interval(three, _UNITS_OF_TIME, "s")


def _bill(values: dict[str, float], name: str) -> str:
    unit = "_g" if name == "co2e" else ""
    if f"predicted/{name}{unit}" not in values:
        return ""
    middle, low, high = (values[f"predicted/{name}{s}{unit}"] for s in ("", "_low", "_high"))
    return f"{two_digits(middle)} ({two_digits(low)}–{two_digits(high)})"


def _interval(three: Sequence[float], units: Sequence[tuple[float, str]], plain: str) -> str:
    """Middle, low and high in the unit that fits the middle."""
    size, unit = _unit(three[0], units, plain)
    middle, low, high = (_three_digits(value / size) for value in three)
    return f"{middle} {unit} ({low}–{high})"


def _scaled(value: float, units: Sequence[tuple[float, str]], plain: str) -> str:
    size, unit = _unit(value, units, plain)
    return f"{_three_digits(value / size)} {unit}"


def _unit(value: float, units: Sequence[tuple[float, str]], plain: str) -> tuple[float, str]:
    return next(((size, unit) for size, unit in units if abs(value) >= 2 * size), (1.0, plain))


def _three_digits(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.10g}"
