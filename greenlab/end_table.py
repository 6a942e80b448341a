"""The table that a sweep ends with: one row per cell, its repetitions together."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from greenlab import forecast_text
from greenlab.config import UNSIGNED, cell_signature
from greenlab.metrics import metrics, two_digits
from greenlab.record import Record
from greenlab.uncertainty import mean_half_width

MODELLED = (
    "~ holds modelled energy, not measured: a TDP or DIMM model stands in for a counter (python -m "
    "greenlab.doctor tells why). Do not publish it as measured."
)
REPEATED = (
    "Of cells measured n times, J, W and accuracy are means, and ± is the 95 % half-width of that "
    "mean by the scatter (Student's t), or a model's own error where that is more; INVALID runs "
    "are left out, runs on another machine or of other sources have a row of their own."
)
COLUMNS = {
    "model": "left",
    "batch": "right",
    "phase": "left",
    "net J": "right",
    "± J": "right",
    "J/sample": "right",
    "samples": "right",
    "mean W": "right",
    "samples/s": "right",
    "accuracy": "right",
    "verdict": "left",
    "doubts": "left",
}
OWN_COLUMN = {"model", "model._target_", "batch_size", "batch_size.size", "phase", "repetition"}
"""Keys whose values the columns above show."""
COLOURS = {"PASS": "green", "WARN": "yellow"}
WORST_FIRST = ["INVALID", "WARN", "PASS"]

Group = Sequence[Record]
"""The repetitions of one cell that may be averaged, the last try of each."""


def by_cell(cells: Sequence[Record], grid_order: Mapping[str, int]) -> list[Group]:
    """Records grouped by cell, in the order of the grid (cell signatures by place).

    Runs of a cell on another machine, metered by other sources, or stopped early, are a group of
    their own; those without a measurement stand with the first.
    """
    latest: dict[str, Record] = {}
    for record in sorted(cells, key=lambda record: record.cell.started_at_s):
        latest[record.cell.signature] = record
    groups: dict[str, list[Record]] = {}
    for record in latest.values():
        groups.setdefault(cell_signature(record.cell.config), []).append(record)
    for group in groups.values():
        group.sort(key=lambda record: record.cell.repetition)
    last = len(grid_order)
    in_order = sorted(groups, key=lambda key: grid_order.get(key, last))
    return [group for key in in_order for group in _by_origin(groups[key])]


def _by_origin(repetitions: Sequence[Record]) -> list[Group]:
    groups: dict[tuple[tuple[str, ...], bool], list[Record]] = {}
    unmeasured = [record for record in repetitions if record.measurement is None]
    for record in repetitions:
        if record.measurement is not None:
            is_cut_short = record.measurement.stopped_early is not None
            groups.setdefault((record.origin, is_cut_short), []).append(record)
    first, *others = list(groups.values()) or [[]]
    return [[*first, *unmeasured], *others]


def build_table(name: str, groups: Sequence[Group]) -> Table:
    """For the terminal."""
    table = Table(title=f"sweep {name}", title_justify="left")
    columns, rows = _rows(groups)
    for column, justify in columns.items():
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for plain in rows:
        row = [escape(text) for text in plain]  # model.freeze=[conv1] is no colour
        row[-2] = f"[{COLOURS.get(row[-2], 'red')}]{row[-2]}[/]"
        table.add_row(*row)
    return table


def markdown(name: str, groups: Sequence[Group]) -> str:
    """For MLflow."""
    columns, rows = _rows(groups)
    rules = ["--:" if justify == "right" else "---" for justify in columns.values()]
    lines = ["| " + " | ".join(row) + " |" for row in (list(columns), rules, *rows)]
    foretold = [forecast_text.markdown(found)] if (found := profiles(groups)) else []
    return "\n\n".join([f"Sweep `{name}`", "\n".join(lines), *legend(groups), *foretold])


def profiles(groups: Sequence[Group]) -> list[Record]:
    """The finished profiles among them, which foretell something."""
    finished = [record for group in groups for record in group if record.measurement]
    return [record for record in finished if record.cell.is_profile]


def legend(groups: Sequence[Group]) -> list[str]:
    """What the signs in the table mean, where it has any."""
    marked = any(record.measurement and record.measurement.mark for g in groups for record in g)
    repeated = any(len(group) > 1 for group in groups)
    return [MODELLED] * marked + [REPEATED] * repeated


def _rows(groups: Sequence[Group]) -> tuple[dict[str, str], list[list[str]]]:
    """Columns with their alignment, and one row per cell."""
    columns, rows = list(COLUMNS.items()), [_row(group) for group in groups]
    place = list(COLUMNS).index("phase") + 1
    if any(len(group) > 1 for group in groups):
        columns.insert(place, ("n", "right"))
        for row, group in zip(rows, groups, strict=True):
            row.insert(place, str(len(_averaged(group))))
    settings = _settings([group[0] for group in groups])
    if any(settings):
        columns.insert(place, ("settings", "left"))
        for row, own in zip(rows, settings, strict=True):
            row.insert(place, own)
    return dict(columns), rows


def _settings(cells: Sequence[Record]) -> list[str]:
    """What each cell was given that not all were, and that no column of its own shows."""
    given = [record.cell.overrides for record in cells]
    shared = set.intersection(*map(set, given)) if given else set()
    return [
        " ".join(
            override
            for override in own
            if (key := override.lstrip("+~").partition("=")[0]) not in OWN_COLUMN
            and key.partition(".")[0] not in UNSIGNED
            and override not in shared
        )
        for own in given
    ]


def _averaged(group: Group) -> Group:
    """Those that a mean may hold: a single one whatever its verdict, which stands beside it."""
    if len(group) == 1:
        return group
    return [one for one in group if one.status == "FINISHED" and one.verdict != "INVALID"]


def _row(group: Group) -> list[str]:
    chosen, averaged = group[0].cell.choices, _averaged(group)
    values = [metrics(record) for record in averaged]

    def known(metric: str) -> list[float]:
        return [one[metric] for one in values if metric in one]

    def number(metric: str, form: str) -> str:
        return format(fmean(known(metric)), form) if known(metric) else "–"

    mark = next((one.measurement.mark for one in averaged if one.measurement), "")

    def joules(metric: str, form: str) -> str:
        return mark + number(metric, form) if known(metric) else "–"

    return [
        chosen.get("model", ""),
        chosen.get("batch_size", ""),
        chosen.get("phase", ""),
        joules("energy/net_j", ",.1f"),
        _half_width(group, known("energy/net_j"), known("energy/net_u95_j")),
        joules("energy/net_per_sample_j", ".4g"),
        number("work/samples", ",.0f"),
        joules("power/mean_w", ".1f"),
        number("time/samples_per_s", ",.0f"),
        number("task/accuracy", ".3f"),
        _verdict(group),
        _why(group),
    ]


def _half_width(group: Group, net_j: Sequence[float], u95_j: Sequence[float]) -> str:
    if len(group) == 1:
        return two_digits(u95_j[0]) if u95_j else "–"
    if len(net_j) < 2:
        return "–"
    scatter_j = mean_half_width(net_j)
    modelled = any(record.measurement and record.measurement.is_modelled for record in group)
    return two_digits(max([scatter_j, *u95_j]) if modelled else scatter_j)


def _verdict(group: Group) -> str:
    """The worst of those that were measured; else how they ended."""
    verdicts = {record.verdict for record in group if record.measurement}
    return next((one for one in WORST_FIRST if one in verdicts), group[-1].status)


def _why(group: Group) -> str:
    codes = dict.fromkeys(doubt.code for record in group for doubt in record.warnings)
    stops = dict.fromkeys(text for one in group if (text := forecast_text.stop_text(one)))
    failures = [f"{one.failure.kind}: {one.failure.message}" for one in group if one.failure]
    if failures and len(group) > 1:
        failures = [f"{len(failures)} of {len(group)} failed: {failures[-1]}"]
    return ", ".join([*stops, *codes, *failures])
