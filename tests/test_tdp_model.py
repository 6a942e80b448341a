"""The table of CPUs, the share of a socket that is a machine's, and the joules that come of it."""

import re

import pytest

from greenlab.config import Hardware, TdpW
from greenlab.doctor import remedies
from greenlab.errors import MeterUnavailableError
from greenlab.meters.cpu_tdp import KnownCpu, find_cpu, known_cpus
from greenlab.meters.tdp_model import (
    ERROR_FRACTION_ASSUMED_TDP,
    ERROR_FRACTION_KNOWN_TDP,
    Cpu,
    TdpModel,
    parse_cpuinfo,
    tdp_basis,
)
from greenlab.record import Source

EPYC = "AMD EPYC 9654 96-Core Processor"

# ----------------------------------------------------------------------------------------- table


def as_shown(cpu: KnownCpu) -> str:
    """The model name that such a CPU gives in /proc/cpuinfo."""
    if cpu.name.startswith("AMD"):
        return f"{cpu.name} {cpu.num_cores}-Core Processor"
    name = cpu.name.replace("Intel", "Intel(R)").replace("Xeon", "Xeon(R)")
    name = name.replace("Core", "Core(TM)")
    name = re.sub(r"Xeon\(R\) (E5|Max)", r"Xeon(R) CPU \1", name)
    if re.search(r"i\d-1[1-4]", name):
        return f"13th Gen {name} @ 2.50GHz"
    return f"{name} CPU @ 3.00GHz"


def test_every_cpu_of_the_table_is_found_by_what_it_calls_itself() -> None:
    assert [find_cpu(as_shown(cpu)) for cpu in known_cpus()] == list(known_cpus())


def test_no_cpu_is_in_the_table_twice() -> None:
    names = [cpu.name.casefold() for cpu in known_cpus()]

    assert len(names) == len(set(names)) >= 150


# From 1.5 W a core (Core i5-1235U: 15 W, 10 cores) to 30 W (Xeon W-2223: 120 W, 4 cores).
def test_watts_and_cores_of_the_table_are_plausible() -> None:
    implausible = [
        cpu
        for cpu in known_cpus()
        if not (4 <= cpu.num_cores <= 192 and 15 <= cpu.tdp_w <= 500)
        or not 1 <= cpu.tdp_w / cpu.num_cores <= 35
    ]

    assert implausible == []


# From the data sheets; the first three are in the paper's Table 1.
@pytest.mark.parametrize(
    ("shown", "tdp_w", "num_cores"),
    [
        ("Intel(R) Core(TM) i7-8700K CPU @ 3.70GHz", 95, 6),
        ("11th Gen Intel(R) Core(TM) i9-11900KF @ 3.50GHz", 125, 8),
        ("12th Gen Intel(R) Core(TM) i5-12500", 65, 6),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", 65, 6),
        ("Intel(R) Core(TM) i7-8700T CPU @ 2.40GHz", 35, 6),
        ("Intel(R) Core(TM) Ultra 7 265K", 125, 20),
        ("Intel(R) Core(TM) Ultra 7 265", 65, 20),
        ("Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", 135, 14),
        ("Intel(R) Xeon(R) Platinum 8480+", 350, 56),
        ("INTEL(R) XEON(R) PLATINUM 8558", 330, 48),
        ("Intel(R) Xeon(R) CPU Max 9480", 350, 56),
        ("Intel(R) Xeon(R) Gold 6248R CPU @ 3.00GHz", 205, 24),
        (EPYC, 360, 96),
        ("AMD EPYC 7763 64-Core Processor", 280, 64),
        ("AMD Ryzen 7 5800X 8-Core Processor", 105, 8),
        ("AMD Ryzen 7 5800X3D 8-Core Processor", 105, 8),
        ("AMD Ryzen 7 7840U w/ Radeon 780M Graphics", 28, 8),
        ("AMD Ryzen Threadripper PRO 3995WX 64-Cores", 280, 64),
    ],
)
def test_the_tdp_is_the_data_sheets(shown: str, tdp_w: float, num_cores: int) -> None:
    found = find_cpu(shown)

    assert found is not None
    assert (found.tdp_w, found.num_cores) == (tdp_w, num_cores)


@pytest.mark.parametrize(
    "shown",
    [
        "",
        "AMD EPYC",
        "AMD EPYC-Milan Processor",
        "AMD EPYC 7R13 Processor",  # made for one cloud: no public data sheet
        "AMD EPYC 9654X 96-Core Processor",
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "Intel(R) Xeon(R) Platinum 8480C",
        "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz",
        "Intel(R) Xeon(R) CPU E5-2690 0 @ 2.90GHz",  # v4 is another CPU
        "Intel Xeon Processor (Skylake, IBRS)",
        "Intel(R) Core(TM) i7-8700B CPU @ 3.20GHz",
        "Cortex-A72",
    ],
)
def test_a_name_that_is_only_alike_is_not_known(shown: str) -> None:
    assert find_cpu(shown) is None


def test_the_longest_of_several_names_is_taken() -> None:
    found = find_cpu("AMD Ryzen 9 7900X or AMD Ryzen Threadripper PRO 5995WX")

    assert found is not None
    assert found.name == "AMD Ryzen Threadripper PRO 5995WX"


# --------------------------------------------------------------------------------------- cpuinfo


def cpuinfo(name: str, *, sockets: int = 1, flags: str = "fpu sse2") -> str:
    return "\n\n".join(
        f"processor\t: {socket}\nmodel name\t: {name}\nphysical id\t: {socket}\nflags\t\t: {flags}"
        for socket in range(sockets)
    )


def test_cpuinfo_names_the_cpu_its_sockets_and_the_hypervisor() -> None:
    cpu = parse_cpuinfo(cpuinfo(EPYC, sockets=2, flags="fpu hypervisor lahf_lm"), num_cores=4)

    assert cpu == Cpu(name=EPYC, num_sockets=2, num_cores=4, is_virtual=True)


def test_without_the_flag_there_is_no_hypervisor() -> None:
    assert not parse_cpuinfo(cpuinfo(EPYC, flags="fpu hypervisors"), num_cores=96).is_virtual


def test_a_system_without_cpuinfo_has_one_cpu_of_no_name() -> None:
    cpu = parse_cpuinfo("", num_cores=8)

    assert cpu == Cpu(name="", num_sockets=1, num_cores=8, is_virtual=False)


# ----------------------------------------------------------------------------------------- share


def machine(
    name: str = EPYC, *, cores: int = 96, sockets: int = 1, is_virtual: bool = False
) -> Cpu:
    return Cpu(name=name, num_sockets=sockets, num_cores=cores, is_virtual=is_virtual)


def test_a_machine_of_its_own_has_the_tdp_of_its_socket() -> None:
    basis = tdp_basis(machine(), Hardware())

    assert basis.full_power_w == 360
    assert basis.detail == (
        "TDP 360 W (AMD EPYC 9654 in greenlab's table) × 1 (not a virtual machine), idle floor 0"
    )
    assert basis.error_fraction == ERROR_FRACTION_KNOWN_TDP


def test_cores_switched_off_leave_the_socket_its_tdp() -> None:
    assert tdp_basis(machine(cores=48), Hardware()).full_power_w == 360


# 2 × 360 W.
def test_two_sockets_have_twice_the_tdp() -> None:
    basis = tdp_basis(machine(cores=192, sockets=2), Hardware())

    assert basis.full_power_w == 720
    assert "TDP 720 W (2 × 360 W, AMD EPYC 9654 in greenlab's table)" in basis.detail


# 360 W × 2 / 96 = 7.5 W: the paper's code took 360 W for such a machine.
def test_a_virtual_machine_has_its_cores_share_of_the_socket() -> None:
    basis = tdp_basis(machine(cores=2, is_virtual=True), Hardware())

    assert basis.full_power_w == pytest.approx(7.5)
    assert basis.detail == (
        "TDP 360 W (AMD EPYC 9654 in greenlab's table) × 2/96 of a socket (virtual machine), "
        "idle floor 0"
    )


# 720 W × 2 / 192 = 7.5 W: hypervisors that show each CPU as a socket change nothing.
def test_a_virtual_machine_of_two_sockets_has_its_share_of_both() -> None:
    basis = tdp_basis(machine(cores=192, sockets=1, is_virtual=True), Hardware())

    assert basis.full_power_w == 720
    assert "× 192/192 of 2 sockets (virtual machine)" in basis.detail


# Hypervisors like to show a socket per core; the two cores are of one socket all the same.
def test_a_virtual_machines_sockets_are_not_believed() -> None:
    shown = machine(cores=2, sockets=2, is_virtual=True)

    assert tdp_basis(shown, Hardware()).full_power_w == pytest.approx(7.5)
    share = Hardware(socket_share_fraction=0.5)
    assert tdp_basis(shown, share).full_power_w == 180


# One core more than a socket has: 720 W × 97 / 192.
def test_a_virtual_machine_may_be_more_than_a_socket() -> None:
    basis = tdp_basis(machine(cores=97, is_virtual=True), Hardware())

    assert basis.full_power_w == pytest.approx(363.75)
    assert "× 97/192 of 2 sockets" in basis.detail


# 400 W, set lower in the firmware than the data sheet's: 400 × 24 / 96 = 100 W.
def test_the_tdp_that_is_set_goes_before_the_table() -> None:
    basis = tdp_basis(machine(cores=24, is_virtual=True), Hardware(tdp_w=TdpW(cpu=400)))

    assert basis.full_power_w == pytest.approx(100)
    assert basis.detail.startswith("TDP 400 W (hardware.tdp_w.cpu) × 24/96 of a socket")


def test_a_virtual_machine_of_an_unknown_cpu_says_that_its_share_is_not_known() -> None:
    cpu = machine("AMD EPYC", cores=2, is_virtual=True)
    basis = tdp_basis(cpu, Hardware(tdp_w=TdpW(cpu=360)))

    assert basis.full_power_w == 360
    assert "share not known: set hardware.socket_share_fraction" in basis.detail
    assert basis.error_fraction == ERROR_FRACTION_ASSUMED_TDP


# 360 W × 0.25 = 90 W, whatever the cores say.
@pytest.mark.parametrize("name", [EPYC, "AMD EPYC"])
@pytest.mark.parametrize("is_virtual", [True, False])
def test_the_share_that_is_set_always_wins(name: str, is_virtual: bool) -> None:
    cpu = machine(name, cores=2, is_virtual=is_virtual)
    basis = tdp_basis(cpu, Hardware(tdp_w=TdpW(cpu=360), socket_share_fraction=0.25))

    assert basis.full_power_w == pytest.approx(90)
    assert "× 0.25 (hardware.socket_share_fraction)" in basis.detail
    assert basis.error_fraction == ERROR_FRACTION_KNOWN_TDP


# 8 W × 2 cores.
@pytest.mark.parametrize("is_virtual", [True, False])
def test_without_a_tdp_one_is_assumed_from_the_cores(is_virtual: bool) -> None:
    basis = tdp_basis(machine("AMD EPYC", cores=2, is_virtual=is_virtual), Hardware())

    assert basis.full_power_w == 16
    assert basis.detail == (
        "TDP 16 W (assumed, 8 W a core; set hardware.tdp_w.cpu) × 1 (for the 2 cores seen), "
        "idle floor 0"
    )
    assert basis.error_fraction == ERROR_FRACTION_ASSUMED_TDP


def test_a_share_of_no_known_tdp_is_refused() -> None:
    with pytest.raises(MeterUnavailableError, match=r"'AMD EPYC' is not known.*hardware\.tdp_w"):
        tdp_basis(machine("AMD EPYC", cores=2), Hardware(socket_share_fraction=0.5))


# ---------------------------------------------------------------------------------------- joules


def model(*, share: float = 1.0, floor: float = 0.0, busy_s: float, time_s: float) -> TdpModel:
    """100 W on 4 CPUs, after `time_s` seconds of which the CPUs were busy for `busy_s` in all."""
    hardware = Hardware(tdp_w=TdpW(cpu=100), socket_share_fraction=share, idle_floor_fraction=floor)
    return TdpModel(
        basis=tdp_basis(machine(), hardware),
        num_logical_cpus=4,
        busy_s=lambda: busy_s,
        clock=lambda: time_s,
    )


# 20 busy seconds over 4 CPUs in 10 s are a utilisation of a half: 100 W × 0.5 × 10 s.
def test_power_is_tdp_times_utilisation() -> None:
    assert model(busy_s=20, time_s=10)() == pytest.approx(500)


# 100 W × 0.25 × (0.2 + 0.8 × 0.5) × 10 s = 25 × 0.6 × 10.
def test_share_and_floor_enter_the_power() -> None:
    assert model(share=0.25, floor=0.2, busy_s=20, time_s=10)() == pytest.approx(150)


# 100 W × 0.2 × 10 s.
def test_a_cpu_at_rest_draws_its_floor() -> None:
    assert model(floor=0.2, busy_s=0, time_s=10)() == pytest.approx(200)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_a_cpu_fully_busy_draws_its_tdp_whatever_the_floor(floor: float) -> None:
    assert model(floor=floor, busy_s=40, time_s=10)() == pytest.approx(1000)


# ---------------------------------------------------------------------------------------- doctor


def cpu_source(hardware: Hardware) -> Source:
    return Source(
        component="cpu",
        provenance="modelled:tdp",
        detail=tdp_basis(machine("AMD EPYC", cores=2), hardware).detail,
        reason="no RAPL",
        parts=["cpu"],
    )


def test_the_doctor_asks_for_a_tdp_that_is_only_assumed() -> None:
    [remedy] = remedies([cpu_source(Hardware())])

    assert "hardware.tdp_w.cpu=65" in remedy


def test_the_doctor_does_not_ask_for_a_tdp_that_is_set() -> None:
    assert remedies([cpu_source(Hardware(tdp_w=TdpW(cpu=65)))]) == []
