"""What is metered: one pass of training or of inference, and the warm-up before it.

Nothing here waits for the device or reads a tensor back while batches are on their way: loss and
hits add up on the device and are fetched once the window is closed.
"""

import copy
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from greenlab.config import PhaseKind
from greenlab.data import Batches
from greenlab.record import Outcome
from greenlab.workload import Workload, seed_everything


class Tally:
    """Loss and hits, summed on the device; fetching them waits for it."""

    def __init__(self, device: torch.device) -> None:
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


def train_one_epoch(workload: Workload) -> Tally:
    """One pass of gradient descent over the training split."""
    workload.model.train()
    tally = _train(workload, workload.train)
    workload.schedule.step()
    return tally


def _train(workload: Workload, batches: Batches | Iterator[tuple[Tensor, Tensor]]) -> Tally:
    tally = Tally(workload.device)
    for images, labels in batches:
        workload.optimiser.zero_grad(set_to_none=True)
        scores = workload.model(images)
        loss = functional.cross_entropy(scores, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        workload.optimiser.step()
        tally.add(loss, scores, labels)
    return tally


def infer_samples(workload: Workload) -> Tally:
    """Go over the test split, again until `phase.min_active_s` has passed."""
    workload.model.eval()
    tally = Tally(workload.device)
    ends_s = time.monotonic() + workload.config.phase.min_active_s
    _infer(workload, workload.test, tally)
    workload.synchronise()  # once per round, or the clock would run ahead of the device
    while time.monotonic() < ends_s:
        _infer(workload, workload.test, tally)
        workload.synchronise()
    return tally


@torch.inference_mode()
def _infer(
    workload: Workload, batches: Batches | Iterator[tuple[Tensor, Tensor]], tally: Tally
) -> None:
    for images, labels in batches:
        scores = workload.model(images)
        tally.add(functional.cross_entropy(scores, labels), scores, labels)


def evaluate(workload: Workload) -> Outcome:
    """Loss and accuracy of one pass over the test split."""
    workload.model.eval()
    tally = Tally(workload.device)
    _infer(workload, workload.test, tally)
    return tally.outcome()


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """A row of the table below."""

    run_pass: Callable[[Workload], Tally]
    """One metered stretch."""
    num_passes: Callable[[Workload], int]
    warm_up: Callable[[Workload, int], object]
    """A number of unmetered steps."""
    evaluates: bool
    """Whether the model is tested, unmetered, after the last pass; else that pass was the test."""


def _warm_up_training(workload: Workload, num_batches: int) -> None:
    workload.model.train()
    _train(workload, _some(workload.train, num_batches))


def _warm_up_inference(workload: Workload, num_batches: int) -> None:
    workload.model.eval()
    _infer(workload, _some(workload.test, num_batches), Tally(workload.device))


def _some(batches: Batches, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`number` batches, from the start again where there are fewer."""
    return itertools.islice(itertools.chain.from_iterable(itertools.repeat(batches)), number)


PHASES = {
    PhaseKind.train: Phase(
        run_pass=train_one_epoch,
        num_passes=lambda workload: workload.config.phase.epochs,
        warm_up=_warm_up_training,
        evaluates=True,
    ),
    PhaseKind.inference: Phase(
        run_pass=infer_samples,
        num_passes=lambda workload: 1,
        warm_up=_warm_up_inference,
        evaluates=False,
    ),
}


def warm_up(workload: Workload) -> None:
    """Run `phase.warmup_batches` unmetered steps, then put weights, order and seeds back.

    Libraries load, kernels are chosen and memory is allocated here and not in the first pass.
    """
    phase = PHASES[workload.config.phase.kind]
    weights = copy.deepcopy(workload.model.state_dict())
    order = workload.order.get_state()
    phase.warm_up(workload, workload.config.phase.warmup_batches)
    workload.synchronise()
    workload.model.load_state_dict(weights)
    workload.optimiser.zero_grad(set_to_none=True)
    workload.optimiser.state.clear()
    workload.order.set_state(order)
    seed_everything(workload.config.seed)
