"""CPU energy without a counter: thermal design power times utilisation (paper, Sec. 4.1).

The operating system counts busy CPU seconds, so the integral of utilisation over time is exact to a
tick (10 ms of one CPU); the proportionality to TDP may be off by a factor of two and more. Every
number made from it is marked `modelled:tdp`.
"""

from dataclasses import dataclass

import psutil

ASSUMED_TDP_PER_CORE_W = 8.0
"""Where no TDP is given. TDP over cores is 16 W on the paper's i7-8700K (95 W, 6 cores) and 4 W on
an EPYC 9654 (360 W, 96 cores); this is about their geometric mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TdpModel:
    """A cumulative counter of modelled joules: call it to read it."""

    tdp_w: float
    num_logical_cpus: int

    def __call__(self) -> float:
        """Joules since the machine started: TDP × busy CPU time / number of CPUs."""
        return self.tdp_w * busy_cpu_s() / self.num_logical_cpus


def busy_cpu_s() -> float:
    """CPU seconds since start that the CPUs did not spend idle, waiting or stolen."""
    times = psutil.cpu_times()
    names = ("user", "nice", "system", "irq", "softirq")  # guest time is part of user
    return float(sum(getattr(times, name, 0.0) for name in names))


def assumed_tdp_w() -> float:
    """A stand-in for the TDP of this machine's CPUs."""
    return ASSUMED_TDP_PER_CORE_W * (psutil.cpu_count(logical=False) or psutil.cpu_count() or 1)


def open_tdp_model(tdp_w: float | None) -> TdpModel:
    """The model for this machine; `tdp_w` null assumes a TDP from the number of cores."""
    return TdpModel(
        tdp_w=assumed_tdp_w() if tdp_w is None else tdp_w,
        num_logical_cpus=psutil.cpu_count() or 1,
    )
