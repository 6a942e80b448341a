"""The cases of the self-test: a simulated machine, the work done on it, what must come of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from greenlab.config import (
    BatchSize,
    Config,
    Dataset,
    Device,
    Hardware,
    Idle,
    Model,
    Phase,
    PhaseKind,
    Quality,
    Sampler,
)
from greenlab.simulated.machine import (
    Gpu,
    SimulatedMachine,
    Zone,
    client_with_psys,
    mirrored_dies,
    two_sockets,
    workstation,
)

STEP_S = 0.05
SETTLE_S = 0.3
IDLE_S = 2.5
LONG_S = 5.0
"""From this length on, joules must be within MAX_ERROR_PERCENT; below, within their uncertainty."""
MAX_ERROR_PERCENT = 1.0

CPU = {"cpu": ("package-0",)}
GPU = {"gpu": ("gpu-0",)}
RANGE_UJ = 65_532_610_987
"""65.5 kJ, which many AMD parts count to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One machine, one load, one expectation.

    Without `failure` and `doubt` the joules must be right and nothing may invalidate them; with
    `doubt` that doubt must be found, and if it does not invalidate, the joules must be right too.
    """

    name: str
    machine: Callable[[], SimulatedMachine]
    counters: Mapping[str, tuple[str, ...]]
    """The machine's counters that add up to each component; any other component is absent."""
    work_s: float = LONG_S
    idle_s: float = IDLE_S
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of the beacon: how it loads the machine."""
    sampler_period_s: float = 0.1
    min_wraps: int = 0
    """How often the counters must at least have been seen to start at zero again."""
    doubt: str = ""
    failure: str = ""
    """Counter whose loss must end the cell, and that its message must name."""
    modelled: bool = False
    """The CPU's counter cannot be read: what stands in for it must say so, everywhere."""

    def config(self) -> Config:
        """The cell: a small classifier that sleeps and beats the machine's beacon."""
        return Config(
            model=Model(
                _target_="greenlab.simulated.beacon.build", kwargs={"step_s": STEP_S} | self.model
            ),
            hardware=Hardware(device=Device.cpu),
            batch_size=BatchSize(size=64),
            phase=Phase(kind=PhaseKind.inference, min_active_s=self.work_s, warmup_batches=1),
            dataset=Dataset(_target_="greenlab.data.synthetic.load", num_samples=64, image_size=8),
            idle=Idle(settle_s=SETTLE_S, window_s=self.idle_s),
            sampler=Sampler(period_s=self.sampler_period_s),
            # The real machine is busy with other cases; the simulated one draws known watts.
            quality=Quality(
                max_idle_cpu_percent=100, max_others_cpu_percent=100, max_stolen_percent=100
            ),
        )


def package(**changes: Any) -> Zone:
    """A socket of 20 W idle and 60 W at work."""
    return Zone("package-0", **({"idle_w": 20, "active_w": 60} | changes))


def one_package(**changes: Any) -> Callable[[], SimulatedMachine]:
    """A machine with one socket and nothing else."""
    return lambda: SimulatedMachine(zones=[package(**changes)])


def one_gpu(**changes: Any) -> Callable[[], SimulatedMachine]:
    """A socket and a GPU of 70 W idle and 300 W at work."""
    return lambda: SimulatedMachine(zones=[package()], gpus=[Gpu(**changes)])


def _msr_and_mmio() -> SimulatedMachine:
    return SimulatedMachine(zones=[package(), package(control_type="intel-rapl-mmio")])


def _unlike_gpus() -> SimulatedMachine:
    gpus = [Gpu(idle_w=70, active_w=300), Gpu(idle_w=50, active_w=90)]
    return SimulatedMachine(zones=[package()], gpus=gpus)


# Over settling, idle windows and passes together, 10 to 11 s, idle goes from 40 to 50 W.
_DRIFT_W_PER_S = 10 / (2 * (SETTLE_S + IDLE_S) + LONG_S)
ALL = CPU | GPU | {"dram": ("package-0/dram",)}
BOTH_SOCKETS = {
    "cpu": ("package-0", "package-1"),
    "dram": ("package-0/dram", "package-1/dram"),
}

CASES = (
    Case(name="GPU counter ticking every 100 ms", machine=one_gpu(counter_tick_s=0.1),
         counters=CPU | GPU, work_s=12.0, idle_s=4.0),
    Case(name="window of 10 s", machine=workstation, counters=ALL, work_s=10.0),
    Case(name="steady load", machine=workstation, counters=ALL),
    Case(name="load steps", machine=workstation, counters=ALL,
         model={"loads": [0.25, 1.0, 0.5]}),
    Case(name="idle drifting from 40 to 50 W",
         machine=one_package(idle_w=40, active_w=80, idle_drift_w_per_s=_DRIFT_W_PER_S),
         counters=CPU, doubt="idle_drift_cpu"),
    Case(name="window of 5 s", machine=one_gpu(), counters=CPU | GPU),
    Case(name="window of 1 s", machine=workstation, counters=ALL, work_s=1.0),
    Case(name="window of 0.3 s", machine=workstation, counters=ALL, work_s=0.3),
    # 3 s of idling at 20 W, then 60 W: it wraps some 1.5 s after the passes have begun.
    Case(name="one wrap", machine=one_package(max_energy_range_uj=RANGE_UJ), counters=CPU,
         model={"wrap_after_j": 150.0}, min_wraps=1),
    # 300 J of work and 110 J of idling.
    Case(name="several wraps", machine=one_package(max_energy_range_uj=100_000_000),
         counters=CPU, min_wraps=3),
    # 2 J at 20 W: every 100 ms from the first moment on.
    Case(name="wrap in the first 100 ms",
         machine=one_package(idle_w=10, active_w=20, max_energy_range_uj=2_000_000),
         counters=CPU, sampler_period_s=0.02, min_wraps=50),
    Case(name="range smaller than the run", machine=one_package(max_energy_range_uj=30_000_000),
         counters=CPU, min_wraps=10),
    Case(name="psys beside the package", machine=client_with_psys, counters=CPU),
    Case(name="mirrored dies", machine=mirrored_dies, counters={"cpu": ("package-0-die-0",)}),
    Case(name="msr and mmio duplicates", machine=_msr_and_mmio, counters=CPU),
    Case(name="two sockets", machine=two_sockets, counters=BOTH_SOCKETS),
    Case(name="no DRAM zone", machine=one_package(), counters=CPU),
    Case(name="unreadable zone", machine=one_package(readable=False), counters={}, work_s=1.0,
         modelled=True),
    Case(name="zone that disappears mid-run", machine=one_package(removed_at_active_s=0.5),
         counters=CPU, work_s=2.0, failure="package-0"),
    Case(name="stuck counter", machine=one_package(stuck_at_active_s=1.0), counters=CPU,
         doubt="counter_stuck"),
    Case(name="reset counter",
         machine=one_package(start_uj=9_000_000_000, reset_at_active_s=1.0),
         counters=CPU, work_s=2.0, doubt="counter_reset"),
    Case(name="two GPUs of different load", machine=_unlike_gpus,
         counters=CPU | {"gpu": ("gpu-0", "gpu-1")}),
    Case(name="no GPU counter: power integrated", machine=one_gpu(has_energy_counter=False),
         counters=CPU | GPU, doubt="polled_power"),
    Case(name="sampler starved for 2 s", machine=workstation, counters=ALL,
         work_s=LONG_S, model={"freeze_at_step": 40}, doubt="sampling_gap"),
)  # fmt: skip
"""Longest first, so that none is left alone at the end."""
