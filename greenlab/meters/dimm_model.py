"""DRAM energy without a counter: N_DIMM × ½·C·V²·f (paper, Sec. 4.1).

The model's power does not depend on what memory does, so its energy above idle is zero by
construction: it belongs in gross energy only. Every number made from it is marked `modelled:dimm`.

N, V and f come from the settings, else from dmidecode where it answers this user, else (V and f)
from the generation of the memory. A hypervisor makes up the modules that it shows, so a virtual
machine is not asked.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from greenlab.config import DimmGeneration, Hardware
from greenlab.errors import MeterUnavailableError

ERROR_FRACTION = 0.6
"""Half-width of a 95 % interval over the modelled gross energy: our choice.

Per module of 8 GB, 3.0 W was measured under load (below), 1.5 W for one of 4 GB, and Crucial counts
on 5 W when it comes to power supplies: −50 to +67 % of 3 W. Registered modules of servers draw more
still (HP: 10 W for 8 GB of DDR3 under load), modules at rest less (adding one of 16 GB raised the
power at the wall by less than 0.4 W: issue 14 of the Green Algorithms tool): the interval is no
guarantee. What published tools guess for one machine's memory differs threefold."""

DMIDECODE_TIMEOUT_S = 10.0
SET = "as set"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class DimmDefaults:
    """What stands in for V, f and C of a module of one generation."""

    voltage_v: float
    frequency_hz: float
    """Transfers per second."""
    capacitance_f: float


DEFAULTS = {
    DimmGeneration.ddr3: DimmDefaults(voltage_v=1.5, frequency_hz=1.6e9, capacitance_f=2.8e-9),
    DimmGeneration.ddr4: DimmDefaults(voltage_v=1.2, frequency_hz=3.2e9, capacitance_f=1.3e-9),
    DimmGeneration.ddr5: DimmDefaults(voltage_v=1.1, frequency_hz=4.8e9, capacitance_f=1.0e-9),
    DimmGeneration.lpddr4: DimmDefaults(voltage_v=1.1, frequency_hz=4.266e9, capacitance_f=0.2e-9),
    DimmGeneration.lpddr5: DimmDefaults(voltage_v=1.05, frequency_hz=6.4e9, capacitance_f=0.15e-9),
}
"""V is JEDEC's supply voltage, f a common grade of the generation, and C is what makes a module of
these draw a power that has been seen; it has no meaning beyond that. The paper states no C.

- ddr4, 3.0 W: Tom's Hardware measured 2.98 W per module of 8 GB under load (2014, DDR4-2133).
- ddr5, 2.9 W: taken as DDR4's; we know of no measurement of single modules.
- ddr3, 5.0 W: what Crucial counts on for a module, half of what HP gives for a registered 8 GB one
  under load.
- lpddr4 and lpddr5, 0.5 W for each package that dmidecode lists: the weakest of the five, taken
  from one laptop's reading of 1.8 W for four packages of LPDDR3."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Module:
    """A memory module that is there, as the firmware describes it."""

    generation: DimmGeneration
    voltage_v: float | None
    frequency_hz: float | None
    """Transfers per second as configured, else the module's own; None: neither is told."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DimmModel:
    """A cumulative counter of modelled joules: call it to read it."""

    num_dimms: int
    voltage_v: float
    frequency_hz: float
    capacitance_f: float
    clock: Callable[[], float] = time.monotonic

    @property
    def power_w(self) -> float:
        """Of all modules together."""
        return self.num_dimms * 0.5 * self.capacitance_f * self.voltage_v**2 * self.frequency_hz

    def __call__(self) -> float:
        """Joules since the clock's origin."""
        return self.power_w * self.clock()


@dataclass(frozen=True, kw_only=True, slots=True)
class DescribedModel:
    """The model and, in words, where each of its numbers came from."""

    model: DimmModel
    detail: str


def parse_modules(text: str) -> list[Module]:
    """The modules in what `dmidecode --type memory` prints; empty where it lists or may list none.

    Slots without a module and memory of no generation that the model knows are left out.
    """
    modules = []
    for block in re.split(r"\n\s*\n", text):
        lines = block.splitlines()
        if "Memory Device" not in lines:  # its title; `Memory Device Mapped Address` is another
            continue
        facts = dict(_fact(line) for line in lines if ":" in line)
        generation = DimmGeneration.__members__.get(facts.get("Type", "").lower())
        if generation is None or not re.match(r"\d", facts.get("Size", "")):
            continue
        configured = ("Configured Memory Speed", "Configured Clock Speed", "Speed")  # new, old
        speeds = [_number(facts.get(key, "")) for key in configured]
        rate_mhz = next((speed for speed in speeds if speed), None)
        modules.append(
            Module(
                generation=generation,
                voltage_v=_number(facts.get("Configured Voltage", "")),
                frequency_hz=None if rate_mhz is None else rate_mhz * 1e6,  # old ones say MHz
            )
        )
    return modules


def _fact(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _number(value: str) -> float | None:
    """`3200 MT/s` and `1.2 V` as numbers; None for `Unknown` and for zero, which means it too."""
    found = re.match(r"\d+(\.\d+)?", value)
    return (float(found[0]) or None) if found else None


def ask_dmidecode() -> list[Module]:
    """The modules that dmidecode finds; none where it is missing or refuses this user."""
    # Debian keeps it where a user's PATH does not reach; sudo is the user's to call, not ours.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if (command := shutil.which("dmidecode", path=path)) is None:
        return []
    try:
        answer = subprocess.run(
            [command, "--type", "memory"],
            check=False,
            capture_output=True,
            text=True,
            timeout=DMIDECODE_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_modules(answer.stdout)


def describe_model(hardware: Hardware, modules: Sequence[Module]) -> DescribedModel:
    """The model of the machine that has these `modules`, as far as `hardware` does not set it.

    Raises:
        MeterUnavailableError: the number of modules is neither set nor found.
    """
    if hardware.num_dimms is None and not modules:
        raise MeterUnavailableError(
            "the number of memory modules is not known: set hardware.num_dimms (sudo dmidecode "
            "--type memory lists them), or run where dmidecode answers without sudo, not on a "
            "virtual machine"
        )
    found = "dmidecode"
    num_dimms, num_from = _first((hardware.num_dimms, SET), (len(modules) or None, found))
    generation, generation_from = _first(
        (hardware.dimm_generation, SET),
        (_common([module.generation for module in modules]), found),
        (DimmGeneration.ddr4, "assumed"),
    )
    defaults, default = DEFAULTS[generation], f"{generation.name}'s default"
    capacitance_f, capacitance_from = _first(
        (hardware.dimm_capacitance_f, SET), (defaults.capacitance_f, default)
    )
    voltage_v, voltage_from = _first(
        (hardware.dimm_voltage_v, SET),
        (_common([module.voltage_v for module in modules]), found),
        (defaults.voltage_v, default),
    )
    frequency_hz, frequency_from = _first(
        (hardware.dimm_frequency_hz, SET),
        (_common([module.frequency_hz for module in modules]), found),
        (defaults.frequency_hz, default),
    )
    model = DimmModel(
        num_dimms=num_dimms,
        voltage_v=voltage_v,
        frequency_hz=frequency_hz,
        capacitance_f=capacitance_f,
    )
    detail = (
        f"{num_dimms} DIMMs ({num_from}) of {generation.name} ({generation_from}), "
        f"C {capacitance_f * 1e9:g} nF ({capacitance_from}), V {voltage_v:g} V ({voltage_from}), "
        f"f {frequency_hz / 1e9:g} GHz ({frequency_from}): {model.power_w:.3g} W"
    )
    return DescribedModel(model=model, detail=detail)


def _first(*candidates: tuple[T | None, str]) -> tuple[T, str]:
    """The first value that is known, and where it came from."""
    return next((value, origin) for value, origin in candidates if value is not None)


def _common(values: Sequence[T | None]) -> T | None:
    """The value that all share; None where they differ, or are not told."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None
