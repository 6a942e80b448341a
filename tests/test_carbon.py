"""Grams and money from joules: worked by hand, nothing where nothing is known."""

import dataclasses

import pytest
from conftest import ROOT, make_cell, make_config

from greenlab import carbon, record
from greenlab.carbon import Tariff
from greenlab.config import Config
from greenlab.errors import ConfigError
from greenlab.metrics import metrics


def tariff(**changes: float | None) -> Tariff:
    fields: dict[str, float | None] = {"g_co2e_per_kwh": 400, "price_per_kwh": 0.25, "pue": 1.0}
    return Tariff(**(fields | changes))  # type: ignore[arg-type]


def test_grams_and_money_of_a_kilowatt_hour() -> None:
    assert tariff().metrics(3.6e6) == {"energy/co2e_g": 400, "energy/cost": 0.25}


def test_the_building_draws_more_than_the_machine() -> None:
    # 900 kJ are 0.25 kWh in the machine, and 0.375 kWh at a PUE of 1.5.
    costs = tariff(pue=1.5).metrics(900e3)

    assert costs == pytest.approx({"energy/co2e_g": 150, "energy/cost": 0.09375})


def test_what_is_not_known_has_no_number() -> None:
    assert tariff(g_co2e_per_kwh=None).metrics(3.6e6) == {"energy/cost": 0.25}
    assert tariff(price_per_kwh=None).metrics(3.6e6) == {"energy/co2e_g": 400}
    assert tariff().metrics(None) == {}


def test_free_and_clean_electricity_has_a_number() -> None:
    costs = tariff(g_co2e_per_kwh=0, price_per_kwh=0).metrics(3.6e6)

    assert costs == {"energy/co2e_g": 0, "energy/cost": 0}


# Ember's figures as the Green Web Foundation's co2.js has them: another way from the same source.
@pytest.mark.parametrize(
    ("country", "g_co2e_per_kwh", "year"),
    [
        ("AUT", 110.81, 2023),
        ("DEU", 380.95, 2023),
        ("FRA", 56.04, 2023),
        ("GBR", 237.59, 2023),
        ("ISL", 27.68, 2022),
        ("NOR", 30.08, 2023),
        ("POL", 661.93, 2023),
        ("SWE", 40.70, 2023),
    ],
)
def test_the_table_has_embers_figures(country: str, g_co2e_per_kwh: float, year: int) -> None:
    grid = carbon.find_grid(country)

    assert grid.g_co2e_per_kwh == pytest.approx(g_co2e_per_kwh, abs=0.01)
    assert grid.year == year


def test_every_row_of_the_table_is_plausible() -> None:
    table = carbon.grids()
    rows = len(carbon.TABLE.read_text().splitlines()) - 1

    assert len(table) == rows  # no country twice
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in table)
    assert all(grid.year >= 2021 for grid in table.values())
    # From all hydro to oil and gas with leaks: 20 to 1,400 g.
    assert all(20 <= grid.g_co2e_per_kwh < 1400 for grid in table.values())


@pytest.mark.parametrize(
    ("given", "near"), [("FRN", "FRA (France)"), ("germany", "DEU (Germany)"), ("fra", "FRA")]
)
def test_an_unknown_country_is_refused_with_those_like_it(given: str, near: str) -> None:
    with pytest.raises(ConfigError, match=r"carbon\.country is") as refused:
        make_config(f"carbon.country={given}")

    assert near in str(refused.value)


def test_ones_own_figure_stands_above_the_countrys() -> None:
    french = make_config("carbon.country=FRA").carbon
    green = make_config("carbon.country=FRA", "carbon.g_co2e_per_kwh=12").carbon

    assert french.tariff.g_co2e_per_kwh == pytest.approx(56.039)
    assert green.tariff.g_co2e_per_kwh == 12
    assert make_config().carbon.tariff == tariff(g_co2e_per_kwh=None, price_per_kwh=None)


def measured_with(settings: Config) -> dict[str, float]:
    golden = record.read_record(ROOT / "tests" / "golden")
    cell = make_cell(settings)
    return metrics(dataclasses.replace(golden, cell=cell))


def test_a_cell_costs_its_gross_energy() -> None:
    plain = measured_with(make_config())
    billed = measured_with(
        make_config("carbon.country=DEU", "carbon.price_per_kwh=0.4", "carbon.pue=1.2")
    )
    kwh = plain["energy/gross_j"] / 3.6e6

    assert billed["energy/co2e_g"] == pytest.approx(kwh * 1.2 * 380.95)
    assert billed["energy/cost"] == pytest.approx(kwh * 1.2 * 0.4)
    assert (
        plain.items()
        == {
            metric: value
            for metric, value in billed.items()
            if metric not in ("energy/co2e_g", "energy/cost")
        }.items()
    )


def test_a_record_from_before_there_were_costs_has_none() -> None:
    golden = record.read_record(ROOT / "tests" / "golden")
    cell = dataclasses.replace(golden.cell, config={})

    assert "energy/cost" not in metrics(dataclasses.replace(golden, cell=cell))
