"""CPU energy without a counter: thermal design power times utilisation (paper, Sec. 4.1).

    P = TDP · share · (floor + (1 − floor) · utilisation)

`share` is the part of the socket that a virtual machine was given, `floor` the part of TDP that is
drawn at rest: 0 is the paper's model. The operating system counts busy CPU seconds, so the integral
of utilisation over time is exact to a tick (10 ms of one CPU); the proportionality to TDP may be
off by a factor of two and more. Every number made from it is marked `modelled:tdp`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from greenlab.config import Hardware
from greenlab.errors import MeterUnavailableError
from greenlab.meters.cpu_tdp import KnownCpu, find_cpu
from greenlab.meters.machine_load import CpuTimes

ASSUMED_TDP_PER_CORE_W = 8.0
"""Where no TDP is given. TDP over cores is 16 W on the paper's i7-8700K (95 W, 6 cores) and 4 W on
an EPYC 9654 (360 W, 96 cores); this is about their geometric mean."""

ERROR_FRACTION_KNOWN_TDP = 0.5
"""Half-width of a 95 % interval over the modelled gross energy, where the TDP is known: our choice.

External meters found an estimator that falls back on TDP up to 40 % off (Fischer 2025, a validation
of CodeCarbon). CodeCarbon's load profiles of four machines (January 2025: Xeon E3-1240 v2, two Xeon
E5-2620 v3, EPYC 8024P, Threadripper 1950X), worked out against the makers' TDP, show RAPL at 0.51
to 0.93 of TDP × utilisation under full load, at 0.41 to 1.34 of it at half load, and at 0.64 to 2.1
of it at a tenth: a half holds for a busy CPU, as in training on it, and not for one nearly idle.
ML.ENERGY's best practices advise against TDP as an estimate; the paper says that it oversimplifies
(Sec. 4.1), and finds GPU power that follows utilisation up to a point only (Sec. 5.2: ρ ≈ 0.81 on
one machine, 0.55 on another)."""

ERROR_FRACTION_ASSUMED_TDP = 1.0
"""The same where the TDP, or the share of it that is this machine's, is not known: our choice.

Two estimators gave one virtual machine CPU powers 45-fold apart, 360 W and 8 W, each by a guess of
this kind (our own trial of two published tools); TDP per core alone varies from 4 to 16 W. Nothing
narrower than the whole can be defended, and the interval is still no guarantee."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cpu:
    """The CPUs as the operating system shows them."""

    name: str
    """Empty where the system does not tell."""
    num_sockets: int
    num_cores: int
    """Of all sockets; threads, where cores are not told."""
    is_virtual: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TdpBasis:
    """The constants of the model, and where each came from."""

    tdp_w: float
    """Of all sockets together."""
    share_fraction: float
    idle_floor_fraction: float
    error_fraction: float
    origin: str
    """Where the TDP came from."""
    share_origin: str
    """Where the share came from."""

    @property
    def full_power_w(self) -> float:
        """What the model says is drawn at full utilisation."""
        return self.tdp_w * self.share_fraction

    @property
    def detail(self) -> str:
        """The whole working, for the record."""
        return (
            f"TDP {self.tdp_w:g} W ({self.origin}) × {self.share_origin}, "
            f"idle floor {self.idle_floor_fraction:g}"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TdpModel:
    """A cumulative counter of modelled joules: call it to read it."""

    basis: TdpBasis
    num_logical_cpus: int
    busy_s: Callable[[], float]
    """CPU seconds of all CPUs together."""
    clock: Callable[[], float] = time.monotonic

    def __call__(self) -> float:
        """Joules since the start: full power × (floor · time + (1 − floor) · busy time per CPU)."""
        floor = self.basis.idle_floor_fraction
        busy_s = self.busy_s() / self.num_logical_cpus
        return self.basis.full_power_w * (floor * self.clock() + (1 - floor) * busy_s)


def parse_cpuinfo(text: str, *, num_cores: int) -> Cpu:
    """What /proc/cpuinfo says; a system without the file gives an empty text."""
    names, sockets, flags = [], set(), ""
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            names.append(value)
        elif key == "physical id":
            sockets.add(value)
        elif key == "flags":
            flags = value
    return Cpu(
        name=names[0] if names else "",
        num_sockets=len(sockets) or 1,
        num_cores=num_cores,
        is_virtual="hypervisor" in flags.split(),
    )


def see_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Cpu:
    """This machine's CPUs."""
    return parse_cpuinfo(
        cpuinfo.read_text() if cpuinfo.exists() else "",
        num_cores=psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
    )


def tdp_basis(cpu: Cpu, hardware: Hardware) -> TdpBasis:
    """The TDP and this machine's share of it.

    The TDP is `hardware.tdp_w.cpu`, else the table's for every socket seen, else 8 W for every core
    seen. On a virtual machine the share is cores seen over cores of the sockets, and at most 1; a
    hypervisor that shows threads as cores makes it twice too large. Elsewhere it is 1, in a
    container too: a limit on what a container may use does not change what the socket draws.

    Raises:
        MeterUnavailableError: a share is set and there is no TDP to take it of.
    """
    known = find_cpu(cpu.name)
    if cpu.is_virtual and known is not None:  # its sockets are the hypervisor's invention
        cpu = replace(cpu, num_sockets=math.ceil(cpu.num_cores / known.num_cores))
    if hardware.tdp_w.cpu is not None:
        tdp_w, origin = hardware.tdp_w.cpu, "hardware.tdp_w.cpu"
        share = _share_of_sockets(cpu, known, hardware.socket_share_fraction)
    elif known is not None:
        tdp_w, origin = known.tdp_w * cpu.num_sockets, f"{known.name} in greenlab's table"
        if cpu.num_sockets > 1:
            origin = f"{cpu.num_sockets} × {known.tdp_w:g} W, {origin}"
        share = _share_of_sockets(cpu, known, hardware.socket_share_fraction)
    elif hardware.socket_share_fraction is None:
        tdp_w = ASSUMED_TDP_PER_CORE_W * cpu.num_cores
        origin = f"assumed, {ASSUMED_TDP_PER_CORE_W:g} W a core; set hardware.tdp_w.cpu"
        cores = "core" if cpu.num_cores == 1 else "cores"
        share = _Share(fraction=1.0, origin=f"1 (for the {cpu.num_cores} {cores} seen)")
    else:  # a share of what is assumed for the cores seen would take it twice
        raise MeterUnavailableError(
            f"hardware.socket_share_fraction is a share of a TDP, and that of '{cpu.name}' is not "
            "known: give it, all sockets together, as hardware.tdp_w.cpu, or leave the share out "
            f"to have {ASSUMED_TDP_PER_CORE_W:g} W assumed for each core seen"
        )
    is_known = share.is_known
    return TdpBasis(
        tdp_w=tdp_w,
        share_fraction=share.fraction,
        idle_floor_fraction=hardware.idle_floor_fraction,
        error_fraction=ERROR_FRACTION_KNOWN_TDP if is_known else ERROR_FRACTION_ASSUMED_TDP,
        origin=origin,
        share_origin=share.origin,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """The part of a TDP that is this machine's; not known where either is only assumed."""

    fraction: float
    origin: str
    is_known: bool = False


def _share_of_sockets(cpu: Cpu, known: KnownCpu | None, set_fraction: float | None) -> _Share:
    if set_fraction is not None:
        origin = f"{set_fraction:g} (hardware.socket_share_fraction)"
        return _Share(fraction=set_fraction, origin=origin, is_known=True)
    if not cpu.is_virtual:
        return _Share(fraction=1.0, origin="1 (not a virtual machine)", is_known=True)
    if known is None:
        origin = "1 (virtual machine, its share not known: set hardware.socket_share_fraction)"
        return _Share(fraction=1.0, origin=origin)
    num_cores = known.num_cores * cpu.num_sockets
    given = min(cpu.num_cores, num_cores)  # more are threads shown as cores: it has the whole
    sockets = "a socket" if cpu.num_sockets == 1 else f"{cpu.num_sockets} sockets"
    origin = f"{given}/{num_cores} of {sockets} (virtual machine)"
    return _Share(fraction=given / num_cores, origin=origin)  # twice as much, if cores are threads


def open_tdp_model(hardware: Hardware) -> TdpModel:
    """The model of this machine; raises what `tdp_basis` raises."""
    return TdpModel(
        basis=tdp_basis(see_cpu(), hardware),
        num_logical_cpus=psutil.cpu_count() or 1,
        busy_s=CpuTimes().busy_s,
    )
