"""What joules cost: grams of CO2 equivalent, and money. Reckoned from energy, never mixed with it.

`carbon.csv` beside this file has, by country, the greenhouse gases of a year's electricity
generation over that generation, in grams of CO2 equivalent per kWh: Ember, *Yearly Electricity
Data*, as processed by *Our World in Data* (a release of 2024, CC BY 4.0), for the latest year that
it has: 2023, or 2022, or 2021 for four French overseas departments. The figures were taken from
codecarbon 3.3.2's `global_energy_mix.json`. Of the 198 that the Green Web Foundation's co2.js has
from Ember too, 155 are the same to 0.01 g; the other 43 are those of 2023 here, of 2022 there.

They are averages over a year and a country, of what is generated there, imports left out; those of
an hour differ by a factor of two and more, and they fall by several per cent a year. Where you know
better, say so with `carbon.g_co2e_per_kwh`. Ember rounds to 0.01 TWh and 0.01 Mt: countries that
generate less than 0.1 TWh, and one whose emissions round to nothing, are left out.
"""

import csv
import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from greenlab.errors import ConfigError

TABLE = Path(__file__).with_name("carbon.csv")
J_PER_KWH = 3.6e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A country's electricity."""

    country: str
    """ISO 3166-1 alpha-3."""
    name: str
    year: int
    g_co2e_per_kwh: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Tariff:
    """What a kWh costs at the socket, and how many it takes there for one in the machine."""

    g_co2e_per_kwh: float | None
    price_per_kwh: float | None
    pue: float

    def co2e_g(self, gross_j: float) -> float | None:
        """Grams of CO2 equivalent of this much energy; None where the intensity is not known."""
        if self.g_co2e_per_kwh is None:
            return None
        return gross_j / J_PER_KWH * self.pue * self.g_co2e_per_kwh

    def cost(self, gross_j: float) -> float | None:
        """Money for this much energy; None where the price is not known."""
        if self.price_per_kwh is None:
            return None
        return gross_j / J_PER_KWH * self.pue * self.price_per_kwh

    def metrics(self, gross_j: float | None) -> dict[str, float]:
        """`energy/co2e_g` and `energy/cost`, those that are known.

        Gross energy and not net: the idle machine is on the bill too, and it idled for this work.
        """
        if gross_j is None:
            return {}
        named = {"energy/co2e_g": self.co2e_g(gross_j), "energy/cost": self.cost(gross_j)}
        return {metric: value for metric, value in named.items() if value is not None}


@cache
def grids() -> dict[str, Grid]:
    """The table, by country."""
    with TABLE.open(newline="") as file:
        return {
            row["country"]: Grid(
                country=row["country"],
                name=row["name"],
                year=int(row["year"]),
                g_co2e_per_kwh=float(row["g_co2e_per_kwh"]),
            )
            for row in csv.DictReader(file)
        }


def find_grid(country: str) -> Grid:
    """The electricity of a country by its three letters.

    Raises:
        ConfigError: it is not in the table.
    """
    if country in grids():
        return grids()[country]
    near = " or ".join(f"{grid.country} ({grid.name})" for grid in _near(country))
    raise ConfigError(
        f"carbon.country is {country}; it must be three letters of ISO 3166-1"
        + (f": {near}?" if near else ", for example FRA.")
        + f" Of {len(grids())} countries the emissions are known (greenlab/carbon.csv); set "
        "carbon.g_co2e_per_kwh for another"
    )


def _near(country: str) -> list[Grid]:
    """Countries whose letters or name look like `country`, the nearest first."""
    spelled = {grid.name.casefold(): grid for grid in grids().values()}
    spelled |= {code.casefold(): grid for code, grid in grids().items()}
    alike = difflib.get_close_matches(country.casefold(), spelled, n=3, cutoff=0.6)
    return list({spelled[text].country: spelled[text] for text in alike}.values())
