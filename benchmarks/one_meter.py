"""One energy meter in a process of its own: it starts and stops when its standard input says so.

    python -m benchmarks.one_meter zeus

`benchmarks.meters` runs one for each meter. Each is used as its own documentation shows, in full:
what a user would call the joules of the CPU, and of DRAM where the meter has a word for it. Answers
are lines of JSON with Unix times; the window is what lies between the return of start and the
call of stop, where a user's work would be.
"""

import json
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path

CODECARBON_PERIOD_S = 1.0
"""CodeCarbon's own default is 15 s, far less than a real counter takes to wrap. The benchmark's
ranges are shrunk so that it ends within minutes, and so is this."""
J_PER_KWH = 3.6e6


class Watch(ABC):
    """A meter that is set up; joules are by component, `cpu` and `dram`, where it has them."""

    @abstractmethod
    def start(self) -> None:
        """Open the window."""

    @abstractmethod
    def stop(self) -> dict[str, float]:
        """Close the window; joules by component."""


class GreenlabWatch(Watch):
    """The meter of a cell, followed by the sampler at its default period."""

    def __init__(self) -> None:
        from greenlab import config
        from greenlab.account import OpenAccount
        from greenlab.meters import open_meter
        from greenlab.sampler import Sampler

        sources = config.EnergySources(gpu=config.GpuSource.none)
        self._meter = open_meter(config.Hardware(energy_sources=sources), uses_cuda=False)
        self._folder = tempfile.TemporaryDirectory()
        account = OpenAccount(Path(self._folder.name), self._meter)
        self._sampler = Sampler(self._meter, config.Sampler().period_s, account.beat)
        self._sampler.__enter__()
        self._sampler.record(Path(self._folder.name))

    def start(self) -> None:
        self._meter.begin()

    def stop(self) -> dict[str, float]:
        window = self._meter.end()
        self._sampler.__exit__()
        self._sampler.check()
        return window.energy_j


class ZeusWatch(Watch):
    """ZeusMonitor's window; its dictionaries by CPU index are summed, as its users do."""

    def __init__(self) -> None:
        from zeus.monitor import ZeusMonitor

        self._monitor = ZeusMonitor(gpu_indices=[])

    def start(self) -> None:
        self._monitor.begin_window("window", sync_execution=False)

    def stop(self) -> dict[str, float]:
        measured = self._monitor.end_window("window", sync_execution=False)
        joules = {"cpu": measured.cpu_energy, "dram": measured.dram_energy}
        return {name: sum(by_index.values()) for name, by_index in joules.items() if by_index}


class CodeCarbonWatch(Watch):
    """CodeCarbon's offline tracker, which asks no server; its kWh turned into joules."""

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        self._tracker = OfflineEmissionsTracker(
            country_iso_code="FRA",  # it needs one, for the carbon that is not compared here
            measure_power_secs=CODECARBON_PERIOD_S,
            allow_multiple_runs=True,
            output_methods=[],
            log_level="error",
        )

    def start(self) -> None:
        self._tracker.start()

    def stop(self) -> dict[str, float]:
        self._tracker.stop()
        data = self._tracker.final_emissions_data
        return {"cpu": data.cpu_energy * J_PER_KWH, "dram": data.ram_energy * J_PER_KWH}


class PyJoulesWatch(Watch):
    """pyJoules' meter over every domain that it finds; packages and DRAM summed over sockets."""

    def __init__(self) -> None:
        from pyJoules.device.rapl_device import RaplDevice
        from pyJoules.energy_meter import EnergyMeter

        device = RaplDevice()
        device.configure(RaplDevice.available_domains())
        self._meter = EnergyMeter([device])

    def start(self) -> None:
        self._meter.start()

    def stop(self) -> dict[str, float]:
        self._meter.stop()
        [sample] = self._meter.get_trace()
        joules: dict[str, float] = {}
        for domain, microjoules in sample.energy.items():  # `package_0`, `dram_0`
            component = {"package": "cpu", "dram": "dram"}.get(domain.rpartition("_")[0])
            if component is not None:
                joules[component] = joules.get(component, 0.0) + microjoules / 1e6
        return joules


WATCHES: dict[str, type[Watch]] = {
    "greenlab": GreenlabWatch,
    "zeus": ZeusWatch,
    "codecarbon": CodeCarbonWatch,
    "pyjoules": PyJoulesWatch,
}


def main() -> None:
    """Obey `start` and `stop` for the meter named on the command line."""
    watch = WATCHES[sys.argv[1]]()
    _answer(ready=True)
    if not sys.stdin.readline():  # the benchmark has ended: another meter failed
        return
    watch.start()
    unix_from = time.time()
    _answer(unix_from=unix_from)
    sys.stdin.readline()
    unix_to = time.time()
    joules = watch.stop()
    _answer(unix_to=unix_to, energy_j=joules)


def _answer(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
