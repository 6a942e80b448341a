"""One energy source per component, chosen before the first joule, read together as a `Meter`."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from greenlab.config import CpuSource, DramSource, GpuSource, Hardware
from greenlab.energy import EnergyWindow
from greenlab.errors import MeterUnavailableError
from greenlab.meters import dimm_model, zeus_counters
from greenlab.meters.counter import Counter
from greenlab.meters.tdp_model import open_tdp_model, see_cpu
from greenlab.meters.zeus_counters import CounterSpec
from greenlab.record import CounterHealth, Source

ABSENT = "absent"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenSource:
    """A source and the raw counters behind it."""

    source: Source
    counters: Sequence[CounterSpec]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """All counters at one instant."""

    monotonic_s: float
    took_s: float
    part_energy_j: dict[str, float]
    """Joules by device since the meter was opened."""


class Meter:
    """Reads every source at once; whoever calls `read` also keeps the wraps counted."""

    def __init__(
        self, sources: Sequence[OpenSource], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sources = [opened.source for opened in sources]
        self.modelled = {
            source.component for source in self.sources if source.provenance.startswith("modelled")
        }
        self._clock = clock
        self._unix_offset_s = time.time() - clock()
        self._lock = threading.Lock()
        self._began: Reading | None = None
        self._counters = [
            (opened.source.component, _follow(spec, clock))
            for opened in sources
            for spec in opened.counters
        ]
        self._ticking = [spec.part for opened in sources for spec in opened.counters if spec.ticks]

    def unix_s(self, monotonic_s: float) -> float:
        """Unix time of an instant; one offset for the meter's life, so clock jumps do not show."""
        return monotonic_s + self._unix_offset_s

    def read(self) -> Reading:
        """Read all counters, always in the same order, so that its duration cancels out.

        Raises:
            MeterReadError: a counter that could be read before cannot any more.
        """
        with self._lock:
            before_s = self._clock()
            joules = {counter.part: counter.joules() for _, counter in self._counters}
            took_s = self._clock() - before_s
            return Reading(monotonic_s=before_s + took_s / 2, took_s=took_s, part_energy_j=joules)

    def begin(self) -> None:
        """Open a window. The device must be idle or synchronised."""
        assert self._began is None, "the window before has not ended"
        self._began = self.read()

    def end(self) -> EnergyWindow:
        """Close the window. The device must be synchronised."""
        window = self.lap()
        self._began = None
        return window

    def lap(self) -> EnergyWindow:
        """Close the window and open the next one with the same reading: nothing falls between.

        What a counter's tick keeps from one window it gives to the next.
        """
        end, begin = self.read(), self._began
        assert begin is not None, "no window has begun"
        self._began = end
        part_j = {
            part: joules - begin.part_energy_j[part] for part, joules in end.part_energy_j.items()
        }
        component_j: dict[str, float] = {}
        for component, counter in self._counters:
            component_j[component] = component_j.get(component, 0.0) + part_j[counter.part]
        return EnergyWindow(
            started_at_s=self.unix_s(begin.monotonic_s),
            duration_s=end.monotonic_s - begin.monotonic_s,
            energy_j=component_j,
            part_energy_j=part_j,
            edge_s=max(begin.took_s, end.took_s),
        )

    def observe_ticks(self) -> None:
        """Find out how often each counter advances: half a second for each, at most."""
        with self._lock:
            for _, counter in self._counters:
                if counter.part in self._ticking:
                    counter.observe_tick()

    def restart_health(self) -> None:
        """Forget how the counters behaved while nothing was metered: loading, warming up."""
        with self._lock:
            for _, counter in self._counters:
                counter.restart_health()

    @property
    def slowest_tick_s(self) -> float:
        """Of the counters that tick; 0 where none does."""
        return max((one.tick_s for one in self.health() if one.ticks), default=0.0)

    def health(self) -> list[CounterHealth]:
        """How each counter behaved so far."""
        with self._lock:
            return [counter.health() for _, counter in self._counters]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._counters = []


def _follow(spec: CounterSpec, clock: Callable[[], float]) -> Counter:
    return Counter(
        spec.part, spec.read_j, range_j=spec.range_j, quantum_j=spec.quantum_j, clock=clock
    )


def open_meter(hardware: Hardware, *, uses_cuda: bool) -> Meter:
    """Choose and open a source for each component.

    With `uses_cuda` the GPU that the workload runs on is metered, else every visible one.

    Raises:
        MeterUnavailableError: a source that was asked for by name cannot be read, or the GPU that
            the workload runs on cannot.
    """
    return Meter(choose_sources(hardware, uses_cuda=uses_cuda))


def choose_sources(hardware: Hardware, *, uses_cuda: bool) -> list[OpenSource]:
    """One source per component, in the order gpu, cpu, dram; see `open_meter`."""
    return [
        _choose_gpu(hardware.energy_sources.gpu, uses_cuda=uses_cuda),
        _choose_cpu(hardware.energy_sources.cpu, hardware),
        _choose_dram(hardware.energy_sources.dram, hardware),
    ]


def _choose_gpu(wanted: GpuSource, *, uses_cuda: bool) -> OpenSource:
    if wanted is GpuSource.none:
        return _absent("gpu", "hardware.energy_sources.gpu=none")
    try:
        visible = zeus_counters.visible_gpu_indices()
    except MeterUnavailableError as error:
        if wanted is GpuSource.auto and not uses_cuda:
            return _absent("gpu", str(error))
        raise _gpu_unavailable(wanted, error) from error
    indices = visible[:1] if uses_cuda else visible
    if wanted is GpuSource.nvml_power:
        return _measured("gpu", "measured:nvml_power", zeus_counters.gpu_power_counters(indices))
    try:
        return _measured("gpu", "measured:nvml", zeus_counters.gpu_energy_counters(indices))
    except MeterUnavailableError as error:
        if wanted is not GpuSource.auto:
            raise MeterUnavailableError(f"hardware.energy_sources.gpu=nvml: {error}") from error
        reason = str(error)
    try:
        counters = zeus_counters.gpu_power_counters(indices)
    except MeterUnavailableError as error:
        if not uses_cuda:
            return _absent("gpu", str(error))
        raise _gpu_unavailable(wanted, error) from error
    return _measured("gpu", "measured:nvml_power", counters, reason)


def _gpu_unavailable(wanted: GpuSource, error: MeterUnavailableError) -> MeterUnavailableError:
    """A total without the GPU that did the work would pass for the whole."""
    return MeterUnavailableError(
        f"hardware.energy_sources.gpu={wanted.name}: {error}; hardware.energy_sources.gpu=none "
        "leaves the GPU out of the account"
    )


def _choose_cpu(wanted: CpuSource, hardware: Hardware) -> OpenSource:
    if wanted is CpuSource.none:
        return _absent("cpu", "hardware.energy_sources.cpu=none")
    reason = ""
    if wanted is not CpuSource.tdp_model:
        try:
            return _measured("cpu", "measured:rapl", zeus_counters.rapl_counters("cpu"))
        except MeterUnavailableError as error:
            if wanted is CpuSource.rapl:
                raise MeterUnavailableError(
                    f"hardware.energy_sources.cpu=rapl: {error}; "
                    "hardware.energy_sources.cpu=tdp_model models it instead"
                ) from error
            reason = str(error)
    model = open_tdp_model(hardware)
    source = Source(
        component="cpu",
        provenance="modelled:tdp",
        detail=model.basis.detail,
        reason=reason,
        parts=["cpu"],
        error_fraction=model.basis.error_fraction,
    )
    return _modelled(source, model)


def _choose_dram(wanted: DramSource, hardware: Hardware) -> OpenSource:
    if wanted is DramSource.none:
        return _absent("dram", "hardware.energy_sources.dram=none")
    reason = ""
    if wanted is not DramSource.dimm_model:
        try:
            return _measured("dram", "measured:rapl", zeus_counters.rapl_counters("dram"))
        except MeterUnavailableError as error:
            if wanted is DramSource.rapl:
                raise MeterUnavailableError(
                    f"hardware.energy_sources.dram=rapl: {error}; hardware.energy_sources.dram="
                    "dimm_model models it, none leaves it out"
                ) from error
            reason = str(error)
    # A hypervisor makes its modules up.
    modules = [] if see_cpu().is_virtual else dimm_model.ask_dmidecode()
    try:
        described = dimm_model.describe_model(hardware, modules)
    except MeterUnavailableError as error:
        if wanted is DramSource.auto:
            return _absent("dram", f"{reason}; {error}")
        raise MeterUnavailableError(f"hardware.energy_sources.dram=dimm_model: {error}") from error
    source = Source(
        component="dram",
        provenance="modelled:dimm",
        detail=described.detail,
        reason=reason,
        parts=["dram"],
        error_fraction=dimm_model.ERROR_FRACTION,
    )
    return _modelled(source, described.model)


def _absent(component: str, reason: str) -> OpenSource:
    source = Source(component=component, provenance=ABSENT, detail="", reason=reason, parts=[])
    return OpenSource(source=source, counters=[])


def _measured(
    component: str, provenance: str, counters: Sequence[CounterSpec], reason: str = ""
) -> OpenSource:
    source = Source(
        component=component,
        provenance=provenance,
        detail=", ".join(counter.detail for counter in counters),
        reason=reason,
        parts=[counter.part for counter in counters],
    )
    return OpenSource(source=source, counters=counters)


def _modelled(source: Source, read_j: Callable[[], float]) -> OpenSource:
    [part] = source.parts
    spec = CounterSpec(part=part, detail=source.detail, read_j=read_j, range_j=None, ticks=False)
    return OpenSource(source=source, counters=[spec])
