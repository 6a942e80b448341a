"""How sure a net energy is: the half-width of its 95 % interval, from what its readings are like.

Errors are propagated as distributions, after the Guide to the Expression of Uncertainty in
Measurement (JCGM 100:2008 for the terms, JCGM 101:2008 for adding distributions up), because the
largest of them are not normal. What counts, for a component of gross power P and idle power I over
T seconds of work between idle windows of D seconds each:

- *tick*: a counter that advances every t seconds shows the energy of up to t seconds ago. The last
  reading of the passes misses 0 to P·t, the first 0 to I·t; each reading of an idle window moves
  idle power by up to I·t/2D. Uniform, and so is the counter's quantum.
- *timing*: the clock is read before and after the counters; the reading is somewhere in between.
- *noise*: idle power wavers, in the idle windows and, unseen, below the passes: a variance of
  T²·S/2D + T·S, where S (W²·s) is the long-run variance of idle power, autocorrelation included.
- *drift*: idle power went from one value to another while the passes ran, at once or little by
  little. The mean of the two windows is off by at most half their difference.
- *polling*: where power is polled and not counted, what the work drew between two readings is not
  known; how the readings waver says how much that may be.
- *model*: for a component that is modelled, the model's own error, and nothing of the above.

What is not in it: the error of the sensor itself. A board's power reading may be off by 5 % for
good (Yang et al., *Part-time Power Measurements*, SC24), which cancels between cells of one machine
and does not between machines.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import stdev

import numpy as np
from numpy.typing import NDArray

from greenlab import energy
from greenlab.energy import EnergyWindow

CONFIDENCE = 0.95
NORMAL_95 = 1.959964
"""Half-width of the central 95 % of a normal distribution, in standard deviations."""
LAGS = 4
"""Blocks over which power is taken to remember itself; our choice. With 20 blocks to a window of
10 s these are 2 s, and coverage holds for noise that remembers itself for up to 0.5 s."""
MIN_BLOCKS = 4
"""Of one idle window; fewer say nothing about how it wavers around a straight line."""

Bounds = tuple[float, float]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSeries:
    """The mean power of each device over consecutive blocks of an idle window."""

    block_s: float
    part_power_w: dict[str, list[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Readout:
    """How finely a counter can be read."""

    tick_s: float
    """Time between two advances; of polled power, the longest time between two readings."""
    ticks: bool
    """Whether it counts by itself; polled power knows of the moments of its readings only."""
    quantum_j: float
    """Smallest step of its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bracket:
    """The metered work of one cell between its idle windows."""

    active: EnergyWindow
    """All passes, end to end; one begins with the reading that ends the other."""
    idle: tuple[EnergyWindow, EnergyWindow]
    series: tuple[PowerSeries, PowerSeries]
    """Of the idle windows, before and after."""
    active_series: PowerSeries
    parts: Mapping[str, Sequence[str]]
    """The devices of each component."""
    readouts: Mapping[str, Readout]
    """By device, for those that are counted."""
    model_error_fraction: Mapping[str, float]
    """95 % half-width of what a model says of gross energy, for components that are modelled."""

    @property
    def idle_s(self) -> float:
        """Both idle windows together."""
        return sum(window.duration_s for window in self.idle)


def net_u95_j(bracket: Bracket, components: Sequence[str]) -> float | None:
    """95 % half-width in joules of the net energy of `components` together.

    None where the idle windows were sampled too seldom to tell how idle power wavers.
    """
    modelled = [c for c in components if c in bracket.model_error_fraction]
    counted = [c for c in components if c not in modelled]
    noise_j, polling_j = _noise_j(bracket, counted), _polling_j(bracket, counted)
    if noise_j is None or polling_j is None:
        return None
    model_j = [
        bracket.model_error_fraction[c] * bracket.active.energy_j[c] / NORMAL_95 for c in modelled
    ]
    bounds = [_drift_bounds_j(bracket, counted)]
    bounds += [bound for c in counted for bound in _reading_bounds_j(bracket, c)]
    return half_width(bounds, math.hypot(noise_j, polling_j, *model_j))


def _drift_bounds_j(bracket: Bracket, components: Sequence[str]) -> Bounds:
    """Half of what idle power drifted: components may drift together, so their drifts add up."""
    before_w, after_w = (energy.mean_power_w(window) for window in bracket.idle)
    drift_w = sum(abs(after_w[c] - before_w[c]) for c in components)
    # Widened, so that 95 % of it reaches the worst case: a step as the passes end.
    drift_j = drift_w / 2 * bracket.active.duration_s / CONFIDENCE
    return -drift_j, drift_j


def _reading_bounds_j(bracket: Bracket, component: str) -> list[Bounds]:
    """What each reading adds to net energy (measured less true), uniform between two bounds."""
    active, idle = bracket.active, energy.join(bracket.idle)
    work_s = active.duration_s
    bounds: list[Bounds] = []
    per_idle = work_s / bracket.idle_s
    for part in bracket.parts[component]:
        readout = bracket.readouts[part]
        active_w = active.part_energy_j[part] / work_s
        idle_w = idle.part_energy_j[part] / idle.duration_s
        stale_active_j = active_w * readout.tick_s + readout.quantum_j
        stale_idle_j = idle_w * readout.tick_s + readout.quantum_j
        late_j = active.edge_s / 2 * active_w
        bounds += [(-stale_active_j, 0.0), (0.0, stale_idle_j), (-late_j, late_j)]
        for window in bracket.idle:
            late_idle_j = per_idle * window.edge_s / 2 * idle_w
            bounds += [(-per_idle * stale_idle_j, 0.0), (0.0, per_idle * stale_idle_j)]
            bounds += [(-late_idle_j, late_idle_j)] * 2
    return bounds


def _noise_j(bracket: Bracket, components: Sequence[str]) -> float | None:
    """Standard deviation for idle power's wavering, widened for how few blocks tell of it.

    Estimated on the power of the components together, so that what they share is not lost.
    """
    parts = [part for component in components for part in bracket.parts[component]]
    if not parts:
        return 0.0
    powers_w = [_together(series, parts) for series in bracket.series]
    if min(len(power_w) for power_w in powers_w) < MIN_BLOCKS:
        return None
    form = _quadratic_form(*map(len, powers_w))
    power_w = np.concatenate(powers_w)
    block_s = sum(series.block_s for series in bracket.series) / 2
    # Ticks make neighbouring blocks waver against each other; the readings' bounds hold that.
    idle = energy.join(bracket.idle)
    tick_j2 = sum(
        (bracket.readouts[p].tick_s * idle.part_energy_j[p] / idle.duration_s) ** 2 / 12
        for p in parts
        if bracket.readouts[p].ticks
    )
    seen_w2 = form.of(power_w) - form.of_ticks * tick_j2 / block_s**2
    long_run_w2_s = max(0.0, seen_w2) / form.trace * block_s  # a variance has no sign to lose
    work_s = bracket.active.duration_s
    variance_j2 = long_run_w2_s * (work_s**2 / bracket.idle_s + work_s)
    return math.sqrt(variance_j2) * form.widening


def _polling_j(bracket: Bracket, components: Sequence[str]) -> float | None:
    """Standard deviation for what the work drew between two readings of polled power.

    The sum over T seconds of readings that waver with the long-run variance S wavers by T·S.
    """
    parts = [p for c in components for p in bracket.parts[c] if not bracket.readouts[p].ticks]
    if not parts:
        return 0.0
    power_w = _together(bracket.active_series, parts)
    if len(power_w) < MIN_BLOCKS:
        return None
    form = _quadratic_form(len(power_w))
    long_run_w2_s = form.of(power_w) / form.trace * bracket.active_series.block_s
    return math.sqrt(bracket.active.duration_s * long_run_w2_s) * form.widening


def _together(series: PowerSeries, parts: Sequence[str]) -> Matrix:
    power_w: Matrix = np.array([series.part_power_w[part] for part in parts]).sum(axis=0)
    return power_w


@dataclass(frozen=True, kw_only=True, slots=True)
class _QuadraticForm:
    """Long-run variance of a series x, in one window or two, as xᵀ·matrix·x / trace."""

    matrix: Matrix
    trace: float
    of_ticks: float
    """What it makes of errors that move from one block to its neighbour, per unit variance."""
    widening: float
    """Student's t over the normal quantile, at the form's degrees of freedom."""

    def of(self, values: Matrix) -> float:
        """The form of a series, never below zero but for rounding."""
        return max(0.0, float(values @ self.matrix @ values))


@lru_cache(maxsize=32)
def _quadratic_form(*nums: int) -> _QuadraticForm:
    """Autocovariances with Bartlett's weights, after a straight line is taken from each window.

    Newey and West (1987). Dividing by the trace makes it right on average for white noise; degrees
    of freedom are Satterthwaite's, tr(Q)²/tr(Q²).
    """
    from scipy.special import stdtrit  # a quarter of a second, wanted once a process

    size = sum(nums)
    matrix, ticks = np.zeros((size, size)), np.zeros((size, size))
    for number, num in enumerate(nums):
        window = slice(sum(nums[:number]), sum(nums[: number + 1]))
        place = np.arange(num)
        line = np.stack([np.ones(num), place - place.mean()], axis=1)
        residual = np.eye(num) - line @ np.linalg.pinv(line)
        weights = np.clip(1 - np.abs(place[:, None] - place) / LAGS, 0, None)
        matrix[window, window] = residual @ weights @ residual
        ticks[window, window] = 2 * np.eye(num) - np.eye(num, k=1) - np.eye(num, k=-1)
    trace = float(np.trace(matrix))
    freedom = trace**2 / float(np.trace(matrix @ matrix))
    return _QuadraticForm(
        matrix=matrix,
        trace=trace,
        of_ticks=float(np.trace(matrix @ ticks)),
        widening=float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) / NORMAL_95,
    )


def mean_half_width(values: Sequence[float]) -> float:
    """95 % half-width of the mean of `values` by Student's t; inf for fewer than two."""
    if len(values) < 2:
        return math.inf
    from scipy.special import stdtrit  # a quarter of a second, wanted once a process

    degrees = len(values) - 1
    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(len(values))


def half_width(bounds: Sequence[Bounds], standard_deviation: float) -> float:
    """The h such that a sum of uniform errors and a normal one lies within ±h, 95 % of the time.

    The density of the sum is the Fourier transform of the product of the characteristic functions.
    """
    reach = sum(max(map(abs, bound)) for bound in bounds) + 8 * standard_deviation
    if reach == 0:
        return 0.0
    num_points = 1 << 13
    step = 2.1 * reach / num_points
    frequency = 2 * np.pi * np.fft.fftfreq(num_points, step)
    transform = np.exp(-0.5 * (standard_deviation * frequency) ** 2).astype(complex)
    for low, high in bounds:
        transform *= np.exp(0.5j * frequency * (low + high))
        transform *= np.sinc(frequency * (high - low) / (2 * np.pi))
    density = np.fft.ifft(transform).real  # at 0, step, 2·step, …, then from the other end
    half = num_points // 2
    within = density[:half].copy()
    within[1:] += density[:half:-1]
    cumulated = np.cumsum(within)
    found = np.interp(CONFIDENCE * cumulated[-1], cumulated, (np.arange(half) + 0.5) * step)
    return float(found)
