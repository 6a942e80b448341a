"""What comes before the first window: the model compiled or recorded where asked, and a warm-up.

All of it is undone as far as results go: the passes begin with the weights, the order of samples
and the seeds that they would have had without.
"""

import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from greenlab import cuda_graphs
from greenlab.data import Batches
from greenlab.errors import ModelError, first_line
from greenlab.execution import autocast
from greenlab.phases import Tally, endless, infer_batches, train_batches
from greenlab.workload import Workload, seed_everything


def prepare_model(workload: Workload) -> None:
    """Compile the model, or record its steps, where the configuration asks for it.

    Raises:
        ModelError: torch cannot.
    """
    if workload.config.compile:
        compile_model(workload)
    if workload.config.cuda_graphs:
        record_graphs(workload)


def warm_up(workload: Workload) -> None:
    """Run `phase.warmup_batches` unmetered steps, then put weights, order and seeds back.

    Libraries load, kernels are chosen and memory is allocated here and not in the first pass.
    """
    with _put_back(workload):
        run_batches(workload, workload.config.phase.warmup_batches)


def run_batches(workload: Workload, number: int) -> None:
    """So many of each kind that the cell has."""
    if workload.config.trains:
        _train(workload, itertools.islice(endless(workload.train), number))
    if workload.config.infers:
        _infer(workload, itertools.islice(endless(workload.test), number))


def _train(workload: Workload, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    workload.model.train()
    train_batches(workload, batches, Tally(workload.device, trains=True))


def _infer(workload: Workload, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    workload.model.eval()
    infer_batches(workload, batches, Tally(workload.device, trains=False))


def compile_model(workload: Workload) -> None:
    """Compile the model for every size of batch that the cell will meet.

    Raises:
        ModelError: torch.compile cannot; it takes a C++ compiler on a CPU.
    """
    workload.model.compile(dynamic=False)  # in place: its weights keep their names
    try:
        with _put_back(workload):
            if workload.config.trains:
                _train(workload, _each_size(workload.train))
            _infer(workload, _each_size(workload.test))  # after training, too
    except Exception as error:  # whatever torch's compilers raise
        raise ModelError(
            f"compile=true: torch.compile fails: {type(error).__name__}: {first_line(error)}. "
            "compile=false runs without it"
        ) from error
    finally:
        _end_compilers()  # they would be there in the windows


def record_graphs(workload: Workload) -> None:
    """Let full batches be replayed as CUDA graphs."""
    config = workload.config
    with _put_back(workload), autocast(config.precision, workload.device, keeps_weights=False):
        if config.trains:
            cuda_graphs.record_training(workload.model, next(iter(workload.train))[0])
        if config.infers:
            cuda_graphs.record_inference(workload.model, next(iter(workload.test))[0])


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
