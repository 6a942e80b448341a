"""What is metered: passes of training, of inference, or of both in turn, and the warm-up before.

Nothing here reads a tensor back while batches are on their way, and nothing waits for the device
more often than it must: loss and hits add up on the device and are fetched once the window is
closed.
"""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from greenlab.config import PhaseKind, job_signature, to_dict
from greenlab.data import Batches
from greenlab.energy import EnergyWindow
from greenlab.errors import ModelError, first_line
from greenlab.execution import autocast
from greenlab.promise import Rules, verdict
from greenlab.record import Outcome, Pass, Rival, StoppedEarly
from greenlab.stretches import next_kind
from greenlab.workload import Workload, seed_everything


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
    _train(workload, workload.train, tally)
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
    _infer(workload, workload.test, tally)
    workload.synchronise()  # once per round, or the clock would run ahead of the device
    while time.monotonic() < ends_s:
        _infer(workload, workload.test, tally)
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
        self._train, self._test = _endless(workload.train), _endless(workload.test)
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
        batches, work = (self._train, _train) if self._trains else (self._test, _infer)
        began_s, number = time.monotonic(), 1
        while number:
            work(workload, itertools.islice(batches, number), tally)
            workload.synchronise()
            took_s = time.monotonic() - began_s
            left = (self._stretch_s / took_s - 1) * tally.num_batches
            number = max(0, min(tally.num_batches, math.ceil(left)))
        return tally


def _endless(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    return itertools.chain.from_iterable(itertools.repeat(batches))


def _train(
    workload: Workload, batches: Batches | Iterator[tuple[Tensor, Tensor]], tally: Tally
) -> None:
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
def _infer(
    workload: Workload, batches: Batches | Iterator[tuple[Tensor, Tensor]], tally: Tally
) -> None:
    # Around all batches: weights are rounded once.
    with autocast(workload.config.precision, workload.device):
        for images, labels in batches:
            scores = workload.model(images)
            tally.add(functional.cross_entropy(scores.float(), labels), scores, labels)


def evaluate(workload: Workload) -> Outcome:
    """Loss and accuracy of one pass over the test split."""
    workload.model.eval()
    tally = Tally(workload.device, trains=False)
    _infer(workload, workload.test, tally)
    return tally.outcome()


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A row of the table below."""

    passes: Callable[[Workload, Ground], Passes]
    """What is metered."""
    warm_up: Callable[[Workload, int], object]
    """A number of unmetered steps."""
    evaluates: bool
    """Whether the model is tested, unmetered, after the last pass; else that pass was the test."""


def _warm_up_training(workload: Workload, num_batches: int) -> None:
    workload.model.train()
    batches = itertools.islice(_endless(workload.train), num_batches)
    _train(workload, batches, Tally(workload.device, trains=True))


def _warm_up_inference(workload: Workload, num_batches: int) -> None:
    workload.model.eval()
    batches = itertools.islice(_endless(workload.test), num_batches)
    _infer(workload, batches, Tally(workload.device, trains=False))


def _warm_up_both(workload: Workload, num_batches: int) -> None:
    if workload.config.trains:
        _warm_up_training(workload, num_batches)
    _warm_up_inference(workload, num_batches)


PHASES = {
    PhaseKind.train: Phase(passes=Epochs, warm_up=_warm_up_training, evaluates=True),
    PhaseKind.inference: Phase(passes=Rounds, warm_up=_warm_up_inference, evaluates=False),
    PhaseKind.profile: Phase(passes=Stretches, warm_up=_warm_up_both, evaluates=False),
}


def warm_up(workload: Workload) -> None:
    """Run `phase.warmup_batches` unmetered steps, then put weights, order and seeds back.

    Libraries load, kernels are chosen and memory is allocated here and not in the first pass.
    """
    with _put_back(workload):
        PHASES[workload.config.phase.kind].warm_up(workload, workload.config.phase.warmup_batches)


def compile_model(workload: Workload) -> None:
    """Compile the model (`compile=true`) for every size of batch that the cell will meet.

    Raises:
        ModelError: torch.compile cannot; it takes a C++ compiler on a CPU.
    """
    workload.model.compile(dynamic=False)  # in place: its weights keep their names
    try:
        with _put_back(workload):
            if workload.config.trains:
                workload.model.train()
                sizes = _each_size(workload.train)
                _train(workload, sizes, Tally(workload.device, trains=True))
            workload.model.eval()
            _infer(workload, _each_size(workload.test), Tally(workload.device, trains=False))
    except Exception as error:  # whatever torch's compilers raise
        raise ModelError(
            f"compile=true: torch.compile fails: {type(error).__name__}: {first_line(error)}. "
            "compile=false runs without it"
        ) from error
    finally:
        _end_compilers()  # they would be there in the windows


def _end_compilers() -> None:
    from torch._inductor.async_compile import shutdown_compile_workers  # a second of imports

    shutdown_compile_workers()


def _each_size(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """A full batch, and one as large as the last of a pass."""
    images, labels = next(iter(batches))
    yield images, labels
    if rest := batches.num_samples % len(labels):
        yield images[:rest], labels[:rest]


@contextmanager
def _put_back(workload: Workload) -> Iterator[None]:
    """Undo what the steps within change: weights, order of the samples, seeds."""
    weights = copy.deepcopy(workload.model.state_dict())
    order, scale = workload.order.get_state(), workload.scaler.state_dict()
    yield
    workload.synchronise()
    workload.model.load_state_dict(weights)
    workload.optimiser.zero_grad(set_to_none=True)
    workload.optimiser.state.clear()
    workload.scaler.load_state_dict(scale)
    workload.order.set_state(order)
    seed_everything(workload.config.seed)
