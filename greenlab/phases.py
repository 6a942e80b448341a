"""What is metered: passes of training, of inference, or of both in turn.

Nothing here reads a tensor back while batches are on their way, and nothing waits for the device
more often than it must: loss and hits add up on the device and are fetched once the window is
closed.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from greenlab.config import PhaseKind, job_signature, to_dict
from greenlab.data import Batches
from greenlab.energy import EnergyWindow
from greenlab.execution import autocast
from greenlab.promise import Rules, verdict
from greenlab.record import Outcome, Pass, Rival, StoppedEarly
from greenlab.stretches import next_kind
from greenlab.workload import Workload


class Tally:
    """Loss and hits, summed on the device; fetching them waits for it."""

    def __init__(self, device: torch.device, *, trains: bool) -> None:
        self.trains = trains
        self._loss = torch.zeros((), device=device, dtype=torch.float64)
        self._hits = torch.zeros((), device=device, dtype=torch.int64)
        self.num_samples = self.num_batches = 0

    def add(self, mean_loss: Tensor, scores: Tensor, labels: Tensor) -> None:
        """Count one batch."""
        self._loss += mean_loss.detach() * len(labels)
        self._hits += (scores.detach().argmax(1) == labels).sum()
        self.num_samples += len(labels)
        self.num_batches += 1

    def outcome(self) -> Outcome:
        """Fetch the sums."""
        return Outcome(
            num_samples=self.num_samples,
            num_batches=self.num_batches,
            loss=self._loss.item() / self.num_samples,
            accuracy=self._hits.item() / self.num_samples,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What is known before the first pass."""

    idle: EnergyWindow
    """The window before it."""
    tick_s: float
    """Of the slowest counter."""
    rivals: Sequence[Rival] = ()
    """Those that may be held against what is measured here."""


class Passes(Protocol):
    """The metered stretches of a cell."""

    stopped_early: StoppedEarly | None
    """Set by `goes_on` where it ends them before all is done that was planned."""

    def goes_on(self, passes: Sequence[Pass]) -> bool:
        """Whether there is one to come after these."""

    def run_pass(self) -> Tally:
        """Do the work of the next one."""


class Epochs:
    """Gradient descent over the training split, once per pass."""

    def __init__(self, workload: Workload, ground: Ground) -> None:
        config = workload.config
        self._workload, self._ground = workload, ground
        self._rules = Rules(
            planned_epochs=config.phase.epochs,
            after_epochs=config.phase.stop_after_epochs,
            below_accuracy=config.phase.stop_below_accuracy,
            job=job_signature(to_dict(config)),
            num_classes=config.dataset.num_classes,
            num_tested=workload.test.num_distinct,
        )
        self.stopped_early: StoppedEarly | None = None

    def goes_on(self, passes: Sequence[Pass]) -> bool:
        """Until there are as many as were asked for, or (`phase.stop_early`) no use in more."""
        ground = self._ground
        if self._workload.config.phase.stop_early:
            self.stopped_early = verdict(passes, ground.idle, self._rules, ground.rivals)
        return len(passes) < self._rules.planned_epochs and self.stopped_early is None

    def run_pass(self) -> Tally:
        """One epoch."""
        return train_one_epoch(self._workload)


def train_one_epoch(workload: Workload) -> Tally:
    """One pass of gradient descent over the training split."""
    workload.model.train()
    tally = Tally(workload.device, trains=True)
    train_batches(workload, workload.train, tally)
    workload.schedule.step()
    return tally


class Rounds:
    """One pass over the test split, which goes round until `phase.min_active_s` has passed."""

    stopped_early: StoppedEarly | None = None

    def __init__(self, workload: Workload, ground: Ground) -> None:
        self._workload = workload

    def goes_on(self, passes: Sequence[Pass]) -> bool:
        """Once."""
        return not passes

    def run_pass(self) -> Tally:
        """All of it."""
        return infer_samples(self._workload)


def infer_samples(workload: Workload) -> Tally:
    """Go over the test split, again until `phase.min_active_s` has passed."""
    workload.model.eval()
    tally = Tally(workload.device, trains=False)
    ends_s = time.monotonic() + workload.config.phase.min_active_s
    infer_batches(workload, workload.test, tally)
    workload.synchronise()  # once per round, or the clock would run ahead of the device
    while time.monotonic() < ends_s:
        infer_batches(workload, workload.test, tally)
        workload.synchronise()
    return tally


class Stretches:
    """Short pieces of training and of inference by turns, until both are known well enough.

    The batches of one follow those of the one before, so that each has its part in what is done
    once per epoch.
    """

    MIN_TICKS = 10
    """Of the slowest counter, to a stretch. What a tick keeps from one it gives to the next; our
    choice."""

    stopped_early: StoppedEarly | None = None

    def __init__(self, workload: Workload, ground: Ground) -> None:
        self._workload = workload
        self._idle = ground.idle
        self._stretch_s = max(workload.config.phase.stretch_s, self.MIN_TICKS * ground.tick_s)
        self._train, self._test = endless(workload.train), endless(workload.test)
        self._trains: bool | None = None
        import scipy.special  # noqa: F401  # next_kind's; a quarter of a second, now or in a window

    def goes_on(self, passes: Sequence[Pass]) -> bool:
        """Until the interval of the joules per sample of either kind is narrow enough."""
        self._trains = next_kind(passes, self._idle, self._workload.config)
        return self._trains is not None

    def run_pass(self) -> Tally:
        """One stretch, of the kind that is known less well."""
        workload = self._workload
        assert self._trains is not None, "nothing is left to be known"
        workload.model.train(self._trains)
        tally = Tally(workload.device, trains=self._trains)
        work = train_batches if self._trains else infer_batches
        batches = self._train if self._trains else self._test
        began_s, number = time.monotonic(), 1
        while number:
            work(workload, itertools.islice(batches, number), tally)
            workload.synchronise()
            took_s = time.monotonic() - began_s
            left = (self._stretch_s / took_s - 1) * tally.num_batches
            number = max(0, min(tally.num_batches, math.ceil(left)))
        return tally


def endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass after pass."""
    return itertools.chain.from_iterable(itertools.repeat(batches))


def train_batches(
    workload: Workload, batches: Iterable[tuple[Tensor, Tensor]], tally: Tally
) -> None:
    """A step of gradient descent on each, with the model in training."""
    precision, scaler = workload.config.precision, workload.scaler
    for images, labels in batches:
        workload.optimiser.zero_grad(set_to_none=True)
        with autocast(precision, workload.device):
            scores = workload.model(images)
        loss = functional.cross_entropy(scores.float(), labels)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(workload.optimiser)
        scaler.update()
        tally.add(loss, scores, labels)


@torch.inference_mode()
def infer_batches(
    workload: Workload, batches: Iterable[tuple[Tensor, Tensor]], tally: Tally
) -> None:
    """Score each, with the model in evaluation."""
    # Around all batches: weights are rounded once.
    with autocast(workload.config.precision, workload.device):
        for images, labels in batches:
            scores = workload.model(images)
            tally.add(functional.cross_entropy(scores.float(), labels), scores, labels)


def evaluate(workload: Workload) -> Outcome:
    """Loss and accuracy of one pass over the test split."""
    workload.model.eval()
    tally = Tally(workload.device, trains=False)
    infer_batches(workload, workload.test, tally)
    return tally.outcome()


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A row of the table below."""

    passes: Callable[[Workload, Ground], Passes]
    """What is metered."""
    evaluates: bool
    """Whether the model is tested, unmetered, after the last pass; else that pass was the test."""


PHASES = {
    PhaseKind.train: Phase(passes=Epochs, evaluates=True),
    PhaseKind.inference: Phase(passes=Rounds, evaluates=False),
    PhaseKind.profile: Phase(passes=Stretches, evaluates=False),
}
