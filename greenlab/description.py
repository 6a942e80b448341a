"""What a person reads first on a run's page: what ran, its joules, and what to mind about them."""

from greenlab.forecast_text import sentence, stop_text
from greenlab.metrics import describe_net, metrics
from greenlab.record import Cell, Record


def describe(record: Record) -> str:
    """What a person reads first on a run's page, in Markdown; the first lines show at once."""
    parts = [_headline(record), _what_ran(record.cell), _components(record), _what_to_mind(record)]
    return "\n\n".join(part for part in parts if part)


def _headline(record: Record) -> str:
    verdict = f"**{record.verdict}**"
    if record.failure is not None:
        return (
            f"**{record.status}**, {record.failure.kind}: {record.failure.message}{_wasted(record)}"
        )
    values, measured = metrics(record), record.measurement
    if record.cell.is_profile:
        spent_j = values.get("profile/spent_j")
        spent = "" if spent_j is None else f" and {record.mark}{spent_j:,.1f} J"
        modelled = " (~: modelled in part or in whole, not measured)" if record.mark else ""
        return (
            f"{verdict}: foretold for **{sentence(record)}** (95 % prediction intervals), from a "
            f"profile that took {values['profile/spent_s']:,.1f} s{spent}{modelled}"
        )
    if measured is None or "energy/net_j" not in values:
        return f"{verdict}: no component was metered, there is no energy to report."
    gross_j = values["energy/gross_j"]
    share = f" ({values['energy/idle_j'] / gross_j:.0%} of it idle)" if gross_j else ""
    mark = measured.mark
    modelled = " (~: modelled in part or in whole, not measured)" if mark else ""
    stopped = f"; **{text}**" if (text := stop_text(record)) else ""
    return (
        f"{verdict}: **{mark}{describe_net(values)} J net** of {mark}{gross_j:,.1f} J "
        f"gross{share} in {values['time/active_s']:,.1f} s; "
        f"{mark}{values['energy/net_per_sample_j']:.4g} J per sample over "
        f"{measured.num_samples:,} samples; accuracy {values['task/accuracy']:.1%}"
        f"{stopped}{modelled}"
    )


def _wasted(record: Record) -> str:
    wasted_j = metrics(record).get("energy/wasted_j")
    return "" if wasted_j is None else f" ({record.mark}{wasted_j:,.1f} J gross were spent on it)"


def _what_ran(cell: Cell) -> str:
    chosen = cell.choices
    alone = (
        "" if not cell.sweep else f", cell {cell.position} of {cell.num_cells} of `{cell.sweep}`"
    )
    return (
        f"**{chosen.get('model')}**, {chosen.get('phase')} on {chosen.get('dataset')}, batch size "
        f"{chosen.get('batch_size')}, hardware {chosen.get('hardware')}{alone}"
    )


def _components(record: Record) -> str:
    if (measured := record.measurement) is None:
        return ""
    values = metrics(record)
    lines = [
        "| component | net J | gross J | idle W | source |",
        "| --- | --: | --: | --: | --- |",
    ]
    for source in measured.sources:
        c = source.component
        mark = "~" if source.provenance.startswith("modelled") else ""
        numbers = "– | – | –"
        if c in measured.active.energy_j:
            numbers = (
                f"{mark}{describe_net(values, c)} | "
                f"{mark}{values[f'energy/gross_{c}_j']:,.1f} | "
                f"{mark}{values[f'power/idle_{c}_w']:.1f}"
            )
        lines.append(f"| {c} | {numbers} | {source.provenance} {source.detail or source.reason} |")
    return "\n".join(lines)


def _what_to_mind(record: Record) -> str:
    notes = [f"- `{doubt.code}` {doubt.message}" for doubt in record.doubts]
    if record.cell.config["phase"]["kind"] == "inference":
        notes.append(
            "- Inference ran on the weights that the builder initialises; random ones answer by "
            "chance."
        )
    return "\n".join(notes)
