"""Where the joules of a sweep went: what the cells were measured for, and what that took besides.

Pure. Every stage of every cell is in exactly one part, so the parts add up to what the meters
counted while they were open: from before a cell's model is built until its record is written.
Between cells nothing is metered.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from greenlab.carbon import J_PER_KWH, Tariff
from greenlab.metrics import two_digits
from greenlab.record import Record, StageName

PARTS: dict[StageName, str] = {
    "active": "useful",
    "idle": "idle windows",
    "settling": "settling",
    "compiling": "compiling",
    "warm_up": "warm-up",
    "loading": "loading",
    "evaluation": "evaluation",
}
"""Of finished cells, by stage."""
FAILED = "failed"
"""All stages of cells that did not finish, tries that were repeated included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One line of the ledger."""

    duration_s: float
    energy_j: dict[str, float]
    """Joules by component."""

    @property
    def total_j(self) -> float:
        """All components together."""
        return sum(self.energy_j.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """The parts by name, the useful one first; those that no cell came to are left out."""

    parts: dict[str, Part]
    is_modelled: bool
    """Whether some joules are a model's."""
    is_mixed: bool
    """Whether not all cells metered the same components."""

    @property
    def total_j(self) -> float:
        """What the meters counted in all cells together."""
        return sum(part.total_j for part in self.parts.values())

    @property
    def metrics(self) -> dict[str, float]:
        """`ledger/useful_j` and so on, and `ledger/total_j`."""
        named = {
            f"ledger/{name.replace(' ', '_').replace('-', '_')}_j": part.total_j
            for name, part in self.parts.items()
            if part.energy_j  # nothing was metered: no number, not a zero
        }
        return named | {"ledger/total_j": self.total_j} if named else {}


def settle(records: Sequence[Record]) -> Ledger:
    """Sum up the accounts of cells; those that ended before their meter was open have none."""
    parts: dict[str, Part] = {}
    for name in [*PARTS.values(), FAILED]:
        stages = [stage for part, stage in _stages(records) if part == name]
        if stages:
            components = dict.fromkeys(c for _, joules in stages for c in joules)
            parts[name] = Part(
                duration_s=sum(duration_s for duration_s, _ in stages),
                energy_j={c: sum(joules.get(c, 0.0) for _, joules in stages) for c in components},
            )
    metered = {tuple(sorted(one.account.energy_j)) for one in records if one.account}
    return Ledger(
        parts=parts,
        is_modelled=any(record.mark for record in records),
        is_mixed=len(metered) > 1,
    )


def _stages(records: Sequence[Record]) -> Iterator[tuple[str, tuple[float, dict[str, float]]]]:
    for record in records:
        for stage in record.account.stages if record.account else ():
            part = PARTS[stage.name] if record.status == "FINISHED" else FAILED
            yield part, (stage.duration_s, stage.energy_j)


def describe(ledger: Ledger, tariff: Tariff, currency: str) -> list[str]:
    """For the end of a sweep: one line on the joules, and one on what they cost where known."""
    total_j = ledger.total_j
    if not any(part.energy_j for part in ledger.parts.values()):
        return []
    mark = "~" if ledger.is_modelled else ""
    shares = ", ".join(
        f"{name} {part.total_j / total_j:.1%}" for name, part in ledger.parts.items() if total_j
    )
    mixed = " Not all cells metered the same components." if ledger.is_mixed else ""
    lines = [f"Metered in all cells: {mark}{total_j:,.0f} J. {shares}.{mixed}"]
    prices = []
    if (grams := tariff.co2e_g(total_j)) is not None:
        prices.append(f"{mark}{two_digits(grams)} g CO2e")
    if (cost := tariff.cost(total_j)) is not None:
        prices.append(f"a cost of {mark}{two_digits(cost)} {currency}".strip())
    if told := ", ".join(prices):
        lines.append(
            f"That is {mark}{total_j / J_PER_KWH:.4g} kWh, with PUE {tariff.pue:g}: {told}."
        )
    return lines
