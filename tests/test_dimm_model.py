"""Memory modules as dmidecode lists them, and where each number of their model comes from."""

import os
from pathlib import Path

import pytest

from greenlab.config import (
    CpuSource,
    DimmGeneration,
    DramSource,
    EnergySources,
    GpuSource,
    Hardware,
)
from greenlab.errors import MeterUnavailableError
from greenlab.meters import choose_sources
from greenlab.meters.dimm_model import (
    DEFAULTS,
    ERROR_FRACTION,
    DimmModel,
    Module,
    ask_dmidecode,
    describe_model,
    parse_modules,
)

HEADER = """\
# dmidecode 3.3
Getting SMBIOS data from sysfs.
SMBIOS 3.3.0 present.

Handle 0x0010, DMI type 16, 23 bytes
Physical Memory Array
\tLocation: System Board Or Motherboard
\tMaximum Capacity: 128 GB
\tNumber Of Devices: 4
"""


def slot(**facts: str) -> str:
    """One slot of the board; `Configured_Voltage` stands for the line `Configured Voltage`."""
    lines = [f"\t{key.replace('_', ' ')}: {value}" for key, value in facts.items()]
    return "\nHandle 0x0011, DMI type 17, 92 bytes\nMemory Device\n" + "\n".join(lines) + "\n"


DDR4_SLOT = slot(
    Total_Width="64 bits",
    Size="16 GB",
    Form_Factor="DIMM",
    Locator="DIMM_A2",
    Type="DDR4",
    Type_Detail="Synchronous Unbuffered (Unregistered)",
    Speed="3200 MT/s",
    Part_Number="A: B",
    Rank="2",
    Configured_Memory_Speed="2933 MT/s",
    Minimum_Voltage="1.2 V",
    Maximum_Voltage="1.2 V",
    Configured_Voltage="1.35 V",
    Volatile_Size="16 GB",
)
EMPTY_SLOT = slot(
    Total_Width="Unknown",
    Size="No Module Installed",
    Form_Factor="DIMM",
    Locator="DIMM_A1",
    Type="Unknown",
    Speed="Unknown",
    Configured_Memory_Speed="Unknown",
    Configured_Voltage="Unknown",
)
DDR5_SLOT = slot(
    Size="32 GB",
    Form_Factor="DIMM",
    Type="DDR5",
    Speed="5600 MT/s",
    Configured_Memory_Speed="4800 MT/s",
    Configured_Voltage="1.1 V",
)
MAPPED_ADDRESS = """
Handle 0x0020, DMI type 20, 35 bytes
Memory Device Mapped Address
\tStarting Address: 0x00000000000
\tRange Size: 16 GB
"""

DDR4 = Module(generation=DimmGeneration.ddr4, voltage_v=1.35, frequency_hz=2.933e9)
DDR5 = Module(generation=DimmGeneration.ddr5, voltage_v=1.1, frequency_hz=4.8e9)

# ------------------------------------------------------------------------------------- dmidecode


def test_modules_are_counted_and_empty_slots_are_not() -> None:
    text = HEADER + EMPTY_SLOT + DDR4_SLOT + EMPTY_SLOT + DDR4_SLOT + MAPPED_ADDRESS

    assert parse_modules(text) == [DDR4, DDR4]


def test_ddr5_is_told_from_ddr4() -> None:
    assert parse_modules(HEADER + DDR5_SLOT) == [DDR5]


def test_soldered_low_power_memory_is_told_by_its_package() -> None:
    soldered = slot(Size="4 GB", Form_Factor="Row Of Chips", Type="LPDDR5", Speed="6400 MT/s")

    [module] = parse_modules(HEADER + 4 * soldered)[:1]
    assert module.generation is DimmGeneration.lpddr5
    assert len(parse_modules(HEADER + 4 * soldered)) == 4


# Until dmidecode 3.1 the lines were called `Configured Clock Speed: 2133 MHz`.
def test_an_old_dmidecode_says_mhz_for_the_same_transfers() -> None:
    old = slot(Size="8192 MB", Type="DDR4", Speed="2400 MHz", Configured_Clock_Speed="2133 MHz")

    assert [module.frequency_hz for module in parse_modules(HEADER + old)] == [2.133e9]


def test_an_unknown_configured_speed_gives_way_to_the_modules_own() -> None:
    unknown = slot(Size="16 GB", Type="DDR4", Speed="3200 MT/s", Configured_Memory_Speed="Unknown")

    assert [module.frequency_hz for module in parse_modules(HEADER + unknown)] == [3.2e9]


def test_unknown_speed_and_voltage_are_not_told() -> None:
    unknown = slot(Size="16 GB", Type="DDR4", Speed="Unknown", Configured_Voltage="Unknown")

    assert parse_modules(HEADER + unknown) == [
        Module(generation=DimmGeneration.ddr4, voltage_v=None, frequency_hz=None)
    ]


# QEMU's modules, persistent memory, and a generation that the model has no defaults for.
@pytest.mark.parametrize("kind", ["RAM", "Logical non-volatile device", "DDR2", "Unknown"])
def test_memory_of_no_known_generation_is_left_out(kind: str) -> None:
    assert parse_modules(HEADER + slot(Size="16 GB", Type=kind, Speed="Unknown")) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# dmidecode 3.4\nScanning /dev/mem for entry point.\n",
        "# dmidecode 3.4\n# No SMBIOS nor DMI entry point found, sorry.\n",
    ],
)
def test_a_dmidecode_that_may_not_look_lists_no_modules(text: str) -> None:
    assert parse_modules(text) == []


def install_dmidecode(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    command = folder / "dmidecode"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))


def test_dmidecode_is_asked_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answer").write_text(HEADER + DDR4_SLOT)
    script = f'[ "$*" = "--type memory" ] && cat {tmp_path}/answer'
    install_dmidecode(tmp_path, monkeypatch, script)

    assert ask_dmidecode() == [DDR4]


def test_a_dmidecode_that_refuses_is_taken_for_no_answer() -> None:
    assert ask_dmidecode() == []  # conftest puts one that refuses into every test's way


def test_a_dmidecode_that_cannot_start_is_taken_for_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_dmidecode(tmp_path, monkeypatch, "")
    (tmp_path / "dmidecode").write_text("#!/no/such/shell\n")

    assert ask_dmidecode() == []


# ------------------------------------------------------------------------------------ the numbers


# A module: ½ × 1.3 nF × 1.2² V² × 3.2 GHz = 3.0 W, and so on for the others.
@pytest.mark.parametrize(
    ("generation", "power_w"),
    [("ddr3", 5.04), ("ddr4", 2.9952), ("ddr5", 2.904), ("lpddr4", 0.51619), ("lpddr5", 0.5292)],
)
def test_the_default_power_of_a_module_is_its_generations(generation: str, power_w: float) -> None:
    defaults = DEFAULTS[DimmGeneration[generation]]
    module = DimmModel(
        num_dimms=1,
        voltage_v=defaults.voltage_v,
        frequency_hz=defaults.frequency_hz,
        capacitance_f=defaults.capacitance_f,
    )

    assert module.power_w == pytest.approx(power_w, rel=1e-4)


def test_every_generation_has_its_defaults() -> None:
    assert DEFAULTS.keys() == set(DimmGeneration)


# 2 × ½ × 1.3 nF × 1.2² × 3.2 GHz = 5.9904 W.
def test_a_number_of_modules_alone_is_modelled_by_the_defaults() -> None:
    described = describe_model(Hardware(num_dimms=2), [])

    assert described.model.power_w == pytest.approx(5.9904)
    assert described.detail == (
        "2 DIMMs (as set) of ddr4 (assumed), C 1.3 nF (ddr4's default), V 1.2 V (ddr4's default), "
        "f 3.2 GHz (ddr4's default): 5.99 W"
    )


# 2 × ½ × 1.3 nF × 1.35² × 2.933 GHz = 6.949 W.
def test_what_dmidecode_finds_goes_before_the_defaults() -> None:
    described = describe_model(Hardware(), [DDR4, DDR4])

    assert described.model.power_w == pytest.approx(1.3 * 1.8225 * 2.933)
    assert described.detail == (
        "2 DIMMs (dmidecode) of ddr4 (dmidecode), C 1.3 nF (ddr4's default), "
        "V 1.35 V (dmidecode), f 2.933 GHz (dmidecode): 6.95 W"
    )


# 4 × ½ × 2 nF × 1.1² × 3 GHz = 14.52 W.
def test_what_is_set_goes_before_all() -> None:
    hardware = Hardware(
        num_dimms=4,
        dimm_generation=DimmGeneration.ddr5,
        dimm_voltage_v=1.1,
        dimm_frequency_hz=3e9,
        dimm_capacitance_f=2e-9,
    )
    described = describe_model(hardware, [DDR4, DDR4])

    assert described.model.power_w == pytest.approx(14.52)
    assert described.detail.count("(as set)") == 5


def test_the_generation_found_chooses_the_defaults() -> None:
    silent = Module(generation=DimmGeneration.ddr5, voltage_v=None, frequency_hz=None)
    model = describe_model(Hardware(), [silent]).model

    assert (model.voltage_v, model.frequency_hz, model.capacitance_f) == (1.1, 4.8e9, 1.0e-9)


# No module speaks for another of a different speed.
def test_modules_that_differ_are_modelled_by_the_default() -> None:
    slower = Module(generation=DimmGeneration.ddr4, voltage_v=1.35, frequency_hz=2.4e9)
    described = describe_model(Hardware(), [DDR4, slower])

    assert described.model.frequency_hz == 3.2e9
    assert "V 1.35 V (dmidecode), f 3.2 GHz (ddr4's default)" in described.detail


def test_an_unknown_number_of_modules_names_both_ways_out() -> None:
    with pytest.raises(MeterUnavailableError, match=r"hardware\.num_dimms.*dmidecode answers"):
        describe_model(Hardware(), [])


# ---------------------------------------------------------------------------------- as a source


ONLY_DRAM = EnergySources(gpu=GpuSource.none, cpu=CpuSource.none, dram=DramSource.dimm_model)


def test_the_dimm_model_asked_for_by_name_needs_their_number() -> None:
    with pytest.raises(MeterUnavailableError, match=r"dram=dimm_model: .*hardware\.num_dimms"):
        choose_sources(Hardware(energy_sources=ONLY_DRAM), uses_cuda=False)


def test_modelled_sources_say_how_far_they_may_be_off() -> None:
    hardware = Hardware(num_dimms=2, energy_sources=ONLY_DRAM)
    opened = choose_sources(hardware, uses_cuda=False)[2]

    assert opened.source.provenance == "modelled:dimm"
    assert opened.source.error_fraction == ERROR_FRACTION
    assert "2 DIMMs (as set)" in opened.source.detail
    assert [counter.part for counter in opened.counters] == ["dram"]
