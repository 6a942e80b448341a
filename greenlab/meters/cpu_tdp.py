"""Thermal design power and cores of the CPUs that people train on, found by their model names.

`cpu_tdp.csv` beside this file has the figures of the makers' data sheets: "Processor Base Power"
or TDP at Intel, "Default TDP" at AMD, for one socket; performance and efficiency cores together.
Only parts for which the maker states one figure are in it. Parts made for one cloud (Xeon 8175M,
8259CL, 8375C, 8488C; EPYC 7R13, 7B12, 9R14 …) have no public data sheet, and some have a range
(the first EPYCs' 155/170 W, most Ryzen of 35–54 W): they are left out.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("cpu_tdp.csv")


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownCpu:
    """One socket's CPU as its data sheet describes it."""

    name: str
    tdp_w: float
    num_cores: int


@cache
def known_cpus() -> tuple[KnownCpu, ...]:
    """The table."""
    with TABLE.open(newline="") as file:
        return tuple(
            KnownCpu(name=row["name"], tdp_w=float(row["tdp_w"]), num_cores=int(row["num_cores"]))
            for row in csv.DictReader(file)
        )


def find_cpu(model_name: str) -> KnownCpu | None:
    """The CPU whose whole name stands in `model_name`, the longest if several do; else None.

    Never the nearest: a name that is only alike belongs to another part. `AMD EPYC`, as a virtual
    machine may call its CPU, names none.
    """
    shown = _words(model_name)
    found = [cpu for cpu in known_cpus() if _words(cpu.name) in shown]
    return max(found, key=lambda cpu: len(cpu.name), default=None)


def _words(name: str) -> str:
    """Words between single spaces: `Intel(R) Xeon(R) CPU E5-2690 v4` is ` intel xeon e5-2690 v4 `.

    Upper and lower case vary between generations of one maker.
    """
    plain = name.casefold().replace("(r)", " ").replace("(tm)", " ")
    return f" {' '.join(word for word in plain.split() if word != 'cpu')} "
