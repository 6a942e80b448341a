"""From a few short stretches of work to a whole job: time and energy, with a prediction interval.

Pure. For a kind of work (training, inference) the logarithm of seconds per sample is taken to be a
level plus what is not the same in the job as in the profile, and so is that of either gross power
or energy per sample above idle. A processor that is busy all the time draws the same power however
fast it gets on; a GPU that waits for its host draws less while it waits, and a sample costs it the
same. Which of the two it is here, the stretches say: both are weighed by how likely they make them.

What is not the same:

- *warming*: machines start cold. Power, and time a little, go towards another value as
  1 − exp(−t/τ); by how much, a profile of seconds hardly sees, so that most of it is assumed;
- *wavering*: other users, clocks, the hypervisor: an Ornstein–Uhlenbeck process. A long job
  averages over it, a short profile has one moment of it;
- *the first stretch*: kernels that are still chosen, pages not yet there; a job has it once;
- *the occasion*: all of a job is a little faster or slower than all of its profile was;
- *noise* of each stretch, a counter's ticks included.

How strong the noise is, and how strong and long the wavering for it, is not known either: all are
tried on a grid and weighed by how likely they make the stretches (Rasmussen and Williams, *Gaussian
Processes for Machine Learning*, 2006, ch. 2 and Sec. 5.2). What comes out is drawn many times;
the parts of a job are drawn together, for what they share they are wrong about together.

The error that a modelled component has (its TDP's) is in the profile and in the run alike, and in
no interval here.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from greenlab.plan import Estimate
from greenlab.scaling import TRAINING_MACS
from greenlab.uncertainty import NORMAL_95

NUM_DRAWS = 4000

NOISES = tuple(0.001 * 2.0**n for n in range(8))
"""Standard deviations of a second of work, natural logarithms, that are tried: 0.1 to 13 %."""
WAVERING_OVER_NOISE = (0.15, 0.4, 1.0)
"""Standard deviation of the wavering over that noise. On a shared machine with two cores, seconds
of work scattered by 5 to 18 % and means of ten seconds by 1 to 10 %."""
WAVERING = 0.01
"""Its least standard deviation, which a profile of seconds hardly sees. Our choice, for a machine
of one's own: none was seen to be steadier over minutes."""
WAVERING_VIRTUAL = 0.15
"""The same of time on a virtual machine, whose host has other guests. On one with two cores, epochs
of five seconds scattered by 10 % within a run, and the second half of a run of 25 s was told from
its first with a mean error of 9 %: docs/results/backtest_vm.csv."""
MEMORY_S = (10.0, 100.0)
"""For how long the wavering remembers itself; as above, and our choice."""
THERMAL_S = (20.0, 60.0, 180.0)
"""Time constants of warming: from a small cooler's to a large heat sink's. Our choice."""
FIRST = 0.05
"""Standard deviation of what is peculiar to the first stretch of a kind. Our choice."""
OCCASION = 0.01
"""Standard deviation from one occasion to another. Our choice, for a machine of one's own."""
TRAIN_OVER_INFERENCE = 0.25
"""Standard deviation of the logarithm of a training step's cost over three times a forward pass's:
where evaluation must be told from training alone. Sixteen models on two cores: 0.2."""
ONCE = 0.15
"""Standard deviation of the logarithm of what loading takes from one time to the next."""
MIN_STRETCHES_FOR_CORRELATION = 5

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Warming:
    """By how much a quantity changes from cold to warm, natural logarithm."""

    mean: float
    standard_deviation: float

    def times(self, factor: float) -> "Warming":
        """So much stronger."""
        return Warming(mean=factor * self.mean, standard_deviation=factor * self.standard_deviation)


TIME_WARMING = Warming(mean=0.005, standard_deviation=0.015)
"""Clocks that sink; our choice."""
POWER_WARMING = Warming(mean=0.02, standard_deviation=0.025)
"""Hot silicon leaks more: a few percent. Our choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """A short piece of training or of inference, metered."""

    trains: bool
    started_s: float
    """By any clock that all stretches share."""
    duration_s: float
    num_samples: int
    gross_j: float | None
    """All components together; None where nothing was metered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Profiled:
    """What a profile found."""

    stretches: tuple[Stretch, ...]
    """In order of time."""
    idle_w: float | None
    """All components together; None where nothing was metered."""
    idle_u95_w: float
    """95 % half-width of idle power, as far as counters leave it open."""
    once_s: float
    """Loading and warming up, once a job."""
    once_j: float | None
    """Gross."""
    wavering: float = WAVERING
    """Least standard deviation of the wavering of time, natural logarithm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be done, in this order."""

    train_samples: float = 0.0
    """Of all epochs together; none: 0."""
    evaluation_samples: float = 0.0
    inference_samples: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a job, or a part of it, will take; each a 95 % prediction interval."""

    time_s: Estimate
    gross_j: Estimate | None
    """None where nothing is metered, and so below."""
    net_j: Estimate | None
    """Of training, evaluation and inference; loading and warming up have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Extrapolation:
    """A job, part by part; a part that the job has not is None."""

    train: Forecast | None
    inference: Forecast | None
    evaluation: Forecast | None
    once: Forecast
    """Loading and warming up."""
    whole: Forecast
    """All parts together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A piece of the job, of one kind of work."""

    name: str
    trains: bool
    """The kind whose stretches tell of it."""
    num_samples: float
    spread: float = 0.0
    """Standard deviation of the logarithm of its time that comes on top."""
    factor: float = 1.0
    """Its time per sample over that of the kind."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawn:
    time_s: Array
    gross_j: Array | None
    net_j: Array | None


@lru_cache(maxsize=1024)
def extrapolate(profiled: Profiled, job: Job) -> Extrapolation:
    """Say what `job` will take on the machine that was profiled.

    Raises:
        ValueError: the job has training or inference, and there is no stretch of it.
    """
    parts = _parts(profiled, job)
    random = np.random.default_rng(0)  # the same question has the same answer
    drawn = _draw(profiled, parts, random) if parts else {}
    once = _draw_once(profiled, random)

    def forecast(name: str) -> Forecast | None:
        return _forecast(drawn[name]) if name in drawn else None

    return Extrapolation(
        train=forecast("train"),
        inference=forecast("inference"),
        evaluation=forecast("evaluation"),
        once=_forecast(once),
        whole=_forecast(_together([*drawn.values(), once])),
    )


def _parts(profiled: Profiled, job: Job) -> list[_Part]:
    kinds = {stretch.trains for stretch in profiled.stretches}
    parts = []
    if job.train_samples > 0:
        if True not in kinds:
            raise ValueError("the job trains and no training was profiled")
        parts.append(_Part(name="train", trains=True, num_samples=job.train_samples))
    if job.evaluation_samples > 0 and kinds:
        told = _Part(name="evaluation", trains=False, num_samples=job.evaluation_samples)
        if False not in kinds:
            told = _Part(
                name="evaluation",
                trains=True,
                num_samples=job.evaluation_samples,
                spread=TRAIN_OVER_INFERENCE,
                factor=1 / TRAINING_MACS,
            )
        parts.append(told)
    if job.inference_samples > 0:
        if False not in kinds:
            raise ValueError("the job infers and no inference was profiled")
        parts.append(_Part(name="inference", trains=False, num_samples=job.inference_samples))
    return parts


def _draw(
    profiled: Profiled, parts: Sequence[_Part], random: np.random.Generator
) -> dict[str, _Drawn]:
    stretches = profiled.stretches
    sample_s = np.array([one.duration_s / one.num_samples for one in stretches])
    windows = _windows(stretches, sample_s, parts)
    normal = random.standard_normal((2, len(parts), NUM_DRAWS))
    place = _Place(stretches=stretches, parts=parts, windows=windows)
    time = _carry_over(place, np.log(sample_s), TIME_WARMING, profiled.wavering)
    spread = np.array([[part.spread] for part in parts])
    amount = np.array([[part.num_samples * part.factor] for part in parts])
    amount = amount * np.exp(spread * random.standard_normal((len(parts), NUM_DRAWS)))
    time_s = amount * np.exp(time.draw(normal[0], random))
    joules = [one.gross_j for one in stretches]
    known = [value for value in joules if value is not None]
    if len(known) < len(joules) or min(known) <= 0 or profiled.idle_w is None:
        return {
            part.name: _Drawn(time_s=one, gross_j=None, net_j=None)
            for part, one in zip(parts, time_s, strict=True)
        }
    power_w = np.array(known) / np.array([one.duration_s for one in stretches])

    def second(logarithms: Array, warming: Warming) -> tuple[Array, float]:
        """Logarithms of what goes with time, drawn; and the logarithm of how likely that is."""
        together = _correlation(stretches, np.log(sample_s), logarithms)
        mixed = together * normal[0] + math.sqrt(1 - together**2) * normal[1]
        told = _carry_over(place, logarithms, warming, WAVERING)
        return told.draw(mixed, random), told.evidence

    log_w, evidence = second(np.log(power_w), POWER_WARMING)
    gross_j = time_s * np.exp(log_w)
    above_w = power_w - profiled.idle_w
    if np.all(above_w > 0):
        share = above_w / power_w
        warming = POWER_WARMING.times(1 / float(share.mean()))
        log_j, other = second(np.log(above_w * sample_s), warming)
        other -= float(np.log(share).sum())  # of the same data: d log W = share · d log J
        steady_j = amount * np.exp(log_j) + profiled.idle_w * time_s
        chance = 1 / (1 + math.exp(min(evidence - other, 700.0)))
        gross_j = np.where(random.random(NUM_DRAWS) < chance, steady_j, gross_j)
    idle_sd_w = profiled.idle_u95_w / NORMAL_95
    idle_w = profiled.idle_w + idle_sd_w * random.standard_normal(NUM_DRAWS)
    net_j = gross_j - idle_w * time_s
    return {
        part.name: _Drawn(time_s=time_s[n], gross_j=gross_j[n], net_j=net_j[n])
        for n, part in enumerate(parts)
    }


def _windows(
    stretches: Sequence[Stretch], sample_s: Array, parts: Sequence[_Part]
) -> list[tuple[float, float]]:
    """About when each part begins and ends, in seconds of work from a cold machine on."""
    begins_s, windows = 0.0, []
    for part in parts:
        own = [s for s, one in zip(sample_s, stretches, strict=True) if one.trains == part.trains]
        ends_s = begins_s + part.num_samples * part.factor * float(np.mean(own))
        windows.append((begins_s, ends_s))
        begins_s = ends_s
    return windows


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where stretches and parts lie in time."""

    stretches: Sequence[Stretch]
    parts: Sequence[_Part]
    windows: Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Told:
    """What the stretches tell of the parts."""

    draw: Callable[[Array, np.random.Generator], Array]
    """Standard normal numbers, one row for each part, in; logarithms of the quantity out."""
    evidence: float
    """Logarithm of how likely all of this makes the stretches, but for a constant."""


def _carry_over(place: _Place, logarithms: Array, warming: Warming, least_wavering: float) -> _Told:
    """A mixture over how noise and heat may be."""
    stretches, parts, windows = place.stretches, place.parts, place.windows
    grid = list(itertools.product(NOISES, WAVERING_OVER_NOISE, MEMORY_S, THERMAL_S))
    noise, wavering, memory_s, thermal_s = np.array(grid).T[:, :, None, None]
    wavering = np.hypot(least_wavering, wavering * noise)
    start_s = stretches[0].started_s
    middle_s = np.array([one.started_s - start_s + one.duration_s / 2 for one in stretches])
    length_s = np.array([one.duration_s for one in stretches])
    kinds = np.array([one.trains for one in stretches])
    asked = np.array([part.trains for part in parts])
    edges_s = np.array(windows).T
    first = _is_first(kinds)
    warm, warm_asked = 1 - np.exp(-middle_s / thermal_s[..., 0]), _warmth(edges_s, thermal_s)

    same = kinds[:, None] == kinds[None, :]
    seen = (
        noise**2 * np.diag(1 / length_s)
        + wavering**2 * np.exp(-np.abs(middle_s[:, None] - middle_s[None, :]) / memory_s)
        + _outer(warm, warm) * warming.standard_deviation**2
        + FIRST**2 * np.outer(first, first) * same
    )
    shared = _outer(warm_asked, warm) * warming.standard_deviation**2
    own = (
        _outer(warm_asked, warm_asked) * warming.standard_deviation**2
        + OCCASION**2
        + _wavering_of_means(edges_s, wavering, memory_s)
        + noise**2 * np.diag(1 / np.maximum(edges_s[1] - edges_s[0], 1e-9))
    )
    # A level of each kind, of which nothing is known: generalised least squares.
    level = np.stack([kinds == trains for trains in sorted(set(kinds.tolist()))], axis=1) * 1.0
    level_asked = np.stack([asked == t for t in sorted(set(kinds.tolist()))], axis=1) * 1.0
    residual = logarithms - warming.mean * warm
    inverse = np.linalg.inv(seen)
    precision = level.T @ inverse @ level
    found = np.linalg.inv(precision)
    levels = np.einsum("gkl,ln,gnm,gm->gk", found, level.T, inverse, residual)
    weights = shared @ inverse
    reach = level_asked - weights @ level
    mean = (
        warming.mean * warm_asked
        + levels @ level_asked.T
        + np.einsum("gpn,gn->gp", weights, residual - levels @ level.T)
    )
    covariance = own - weights @ shared.swapaxes(1, 2) + reach @ found @ reach.swapaxes(1, 2)
    left = residual - levels @ level.T
    misfit = np.einsum("gn,gnm,gm->g", left, inverse, left)
    logs = -(misfit + np.linalg.slogdet(seen)[1] + np.linalg.slogdet(precision)[1]) / 2
    chances = np.exp(logs - logs.max())
    evidence = float(logs.max() + np.log(chances.mean()))
    chances /= chances.sum()
    roots = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(parts)))

    def draw(normal: Array, random: np.random.Generator) -> Array:
        which = random.choice(len(chances), size=normal.shape[1], p=chances)
        return np.asarray(mean[which].T + np.einsum("dpq,qd->pd", roots[which], normal))

    return _Told(draw=draw, evidence=evidence)


def _is_first(kinds: NDArray[np.bool_]) -> Array:
    """1 for the first stretch of each kind, else 0."""
    first = np.zeros(len(kinds))
    for kind in set(kinds.tolist()):
        first[int(np.argmax(kinds == kind))] = 1.0
    return first


def _warmth(edges_s: Array, thermal_s: Array) -> Array:
    """Mean of 1 − exp(−t/τ) over each part's window."""
    begin_s, end_s = edges_s
    length_s = np.maximum(end_s - begin_s, 1e-9)
    tau_s = thermal_s[..., 0]
    cold = tau_s / length_s * (np.exp(-begin_s / tau_s) - np.exp(-end_s / tau_s))
    return np.asarray(1 - cold)


def _wavering_of_means(edges_s: Array, wavering: Array, memory_s: Array) -> Array:
    """Covariance of the means of an Ornstein–Uhlenbeck process over the parts' windows."""
    begin_s, end_s = edges_s
    length_s = np.maximum(end_s - begin_s, 1e-9)
    ratio = memory_s[..., 0] / length_s
    own = 2 * ratio * (1 - ratio * (1 - np.exp(-1 / ratio)))
    # ∫∫ exp(−(u − t)/τ) over t in one window and u in a later one, by their edges.
    gap = np.maximum(begin_s[None, :] - end_s[:, None], 0.0)  # from the one to the other
    fades = 1 - np.exp(-1 / ratio)
    later = _outer(ratio * fades, ratio * fades) * np.exp(-gap / memory_s)
    earlier = begin_s[:, None] < begin_s[None, :]
    covariance = np.where(earlier, later, later.swapaxes(1, 2))
    num_parts = len(length_s)
    covariance[:, np.arange(num_parts), np.arange(num_parts)] = own
    return np.asarray(wavering**2 * covariance)


def _outer(ones: Array, others: Array) -> Array:
    return ones[:, :, None] * others[:, None, :]


def _correlation(stretches: Sequence[Stretch], log_s: Array, log_w: Array) -> float:
    """How power goes with time per sample, from stretch to stretch of a kind; 0 for a few."""
    time, power = log_s.copy(), log_w.copy()
    kinds = np.array([one.trains for one in stretches])
    for kind in set(kinds.tolist()):
        time[kinds == kind] -= time[kinds == kind].mean()
        power[kinds == kind] -= power[kinds == kind].mean()
    scale = math.sqrt(float(time @ time) * float(power @ power))
    num = len(stretches)
    if num < MIN_STRETCHES_FOR_CORRELATION or scale == 0:
        return 0.0
    return float(time @ power) / scale * (1 - 3 / num)  # a few stretches correlate by chance


def _draw_once(profiled: Profiled, random: np.random.Generator) -> _Drawn:
    times = np.exp(ONCE * random.standard_normal(NUM_DRAWS))
    joules = None if profiled.once_j is None else profiled.once_j * times
    return _Drawn(time_s=profiled.once_s * times, gross_j=joules, net_j=None)


def _together(drawn: Sequence[_Drawn]) -> _Drawn:
    gross = [one.gross_j for one in drawn if one.gross_j is not None]
    net = [one.net_j for one in drawn if one.net_j is not None]
    return _Drawn(
        time_s=np.sum([one.time_s for one in drawn], axis=0),
        gross_j=np.sum(gross, axis=0) if len(gross) == len(drawn) else None,
        net_j=np.sum(net, axis=0) if net and len(net) == len(drawn) - 1 else None,
    )


def _forecast(drawn: _Drawn) -> Forecast:
    return Forecast(
        time_s=Estimate.of(drawn.time_s),
        gross_j=None if drawn.gross_j is None else Estimate.of(drawn.gross_j),
        net_j=None if drawn.net_j is None else Estimate.of(drawn.net_j),
    )
