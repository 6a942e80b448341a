"""Where a sweep's joules went: parts by hand, from the golden cell's account of 6,135 J."""

from dataclasses import replace

import pytest
from conftest import ROOT

from greenlab import ledger
from greenlab.carbon import Tariff
from greenlab.record import Account, Record, read_record

GOLDEN = read_record(ROOT / "tests" / "golden")
FAILED = replace(GOLDEN, status="FAILED", measurement=None)
FREE = Tariff(g_co2e_per_kwh=None, price_per_kwh=None, pue=1.0)


def account() -> Account:
    assert GOLDEN.account is not None
    return GOLDEN.account


def metering(*components: str) -> Record:
    stages = [
        replace(one, energy_j={c: one.energy_j[c] for c in components}) for one in account().stages
    ]
    sources = [
        replace(one, parts=one.parts if one.component in components else [])
        for one in account().sources
    ]
    return replace(GOLDEN, account=replace(account(), stages=stages, sources=sources))


# One finished and one failed: 3945 J of passes are useful once, all 6135 J of the other are lost.
def test_every_joule_is_in_one_part() -> None:
    assert ledger.settle([GOLDEN, FAILED]).metrics == {
        "ledger/useful_j": 3945,
        "ledger/idle_windows_j": 584,
        "ledger/settling_j": 1314,
        "ledger/warm_up_j": 73,
        "ledger/loading_j": 146,
        "ledger/evaluation_j": 73,
        "ledger/failed_j": 6135,
        "ledger/total_j": 2 * 6135,
    }


def test_what_was_not_metered_is_no_zero() -> None:
    settled = ledger.settle([metering()])

    assert settled.metrics == {}
    assert ledger.describe(settled, FREE, "") == []


def test_a_total_over_different_components_says_so() -> None:
    mixed, same = ledger.settle([GOLDEN, metering("cpu")]), ledger.settle([GOLDEN, GOLDEN])

    assert "Not all cells metered the same components" in ledger.describe(mixed, FREE, "")[0]
    assert "Not all cells" not in ledger.describe(same, FREE, "")[0]


# 6135 J are 0.0017042 kWh; with PUE 2 and 0.5 a kWh that costs 0.0017.
def test_free_of_emissions_is_not_unknown() -> None:
    tariff = Tariff(g_co2e_per_kwh=0.0, price_per_kwh=0.5, pue=2.0)
    [_, costs] = ledger.describe(ledger.settle([GOLDEN]), tariff, "EUR")

    assert "~0 g CO2e, a cost of ~0.0017 EUR" in costs
    assert len(ledger.describe(ledger.settle([GOLDEN]), FREE, "EUR")) == 1


@pytest.mark.parametrize("records", [[], [replace(FAILED, account=None)]])
def test_a_cell_that_ended_before_its_meter_was_open_has_no_joules(records: list[Record]) -> None:
    assert ledger.settle(records).metrics == {}
