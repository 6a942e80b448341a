"""Joule arithmetic, and nothing else: pure functions over metered windows.

A window is a stretch of time over which cumulative counters were differenced. Everything derived
(power, net energy, joules per sample) is computed from windows and can be computed again from a
stored record. Equation numbers refer to Mavromatis et al., *Computing Within Limits* (2024),
Sec. 4.2.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

JoulesByComponent = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyWindow:
    """The energy that each component drew between two readings of its counter."""

    started_at_s: float
    """Unix time of the first reading, to hold the window against any other meter afterwards."""
    duration_s: float
    """Length on the monotonic clock, the device synchronised at both edges."""
    energy_j: dict[str, float]
    """Joules by component (`gpu`, `cpu`, `dram`); a component that was not measured has no key."""
    part_energy_j: dict[str, float]
    """Joules by device (`gpu0`, `cpu1`, …); the devices of a component add up to it."""
    edge_s: float
    """How long reading all counters took at the slower of its two edges; an edge is its middle."""


def describe(window: EnergyWindow, modelled: Collection[str]) -> str:
    """A window for the log, `~` before what is modelled."""
    joules = ", ".join(
        f"{component} {'~' if component in modelled else ''}{j:.2f} J"
        for component, j in window.energy_j.items()
    )
    return f"{window.duration_s:.3f} s, gross {joules or 'not metered'}"


def total(energy_j: JoulesByComponent) -> float:
    """Sum over the components present, Eq. (3)."""
    return sum(energy_j.values())


def join(windows: Sequence[EnergyWindow]) -> EnergyWindow:
    """Put windows of the same components end to end: energies and durations add up."""
    assert windows, "nothing to join"
    first = windows[0]
    for window in windows:
        assert window.energy_j.keys() == first.energy_j.keys(), "windows of different components"
    return EnergyWindow(
        started_at_s=first.started_at_s,
        duration_s=sum(window.duration_s for window in windows),
        energy_j={c: sum(w.energy_j[c] for w in windows) for c in first.energy_j},
        part_energy_j={p: sum(w.part_energy_j[p] for w in windows) for p in first.part_energy_j},
        edge_s=max(window.edge_s for window in windows),
    )


def mean_power_w(window: EnergyWindow) -> dict[str, float]:
    """Watts by component, averaged over the window."""
    return {c: energy_j / window.duration_s for c, energy_j in window.energy_j.items()}


def idle_power_w(idle_windows: Sequence[EnergyWindow]) -> dict[str, float]:
    """Watts by component of the idle machine: idle energy over idle time, all windows together."""
    return mean_power_w(join(idle_windows))


def subtracted_idle_j(window: EnergyWindow, idle_w: Mapping[str, float]) -> dict[str, float]:
    """Joules that the idle machine would have drawn in the time of `window`."""
    return {c: idle_w[c] * window.duration_s for c in window.energy_j}


def net_energy_j(window: EnergyWindow, idle_w: Mapping[str, float]) -> dict[str, float]:
    """Joules by component above idle: gross − idle power × duration. May be negative."""
    idle_j = subtracted_idle_j(window, idle_w)
    return {c: gross_j - idle_j[c] for c, gross_j in window.energy_j.items()}


def net_energy_as_printed_j(
    window: EnergyWindow, idle_windows: Sequence[EnergyWindow]
) -> dict[str, float]:
    """Joules by component by Eqs. (1)-(5) as printed: the idle window's energy, unscaled.

    The paper has one idle window of fixed length; with several, their mean energy stands for it.
    Equals `net_energy_j` only where the idle windows are as long as the active one.
    """
    idle = join(idle_windows)
    return {
        c: gross_j - idle.energy_j[c] / len(idle_windows) for c, gross_j in window.energy_j.items()
    }
