"""What kind of failure an error is, by what libraries really raise."""

import errno
from collections.abc import Callable

import numpy as np
import pytest
import torch

from greenlab.cell_process import failure_kind
from greenlab.config import Model
from greenlab.errors import LossNotFiniteError, MeterReadError, ModelError
from greenlab.network import build_model

MORE_THAN_ANY_MACHINE = 1 << 50


def raised(action: Callable[[], object]) -> BaseException:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: torch.empty(MORE_THAN_ANY_MACHINE),
        lambda: torch.nn.Linear(1 << 25, 1 << 25),
        lambda: torch.ones(1).expand(MORE_THAN_ANY_MACHINE).contiguous(),
        lambda: np.ones(MORE_THAN_ANY_MACHINE),
        lambda: bytearray(MORE_THAN_ANY_MACHINE),
    ],
)
def test_more_memory_than_there_is(ask: Callable[[], object]) -> None:
    assert failure_kind(raised(ask)) == "oom"


def test_a_model_that_cannot_be_built_for_want_of_memory() -> None:
    target = "torch.nn.Linear"
    sizes = {"in_features": MORE_THAN_ANY_MACHINE, "out_features": 1}
    error = raised(lambda: build_model(Model(_target_=target, kwargs=sizes), num_classes=10))
    assert isinstance(error, ModelError)
    assert failure_kind(error) == "oom"


# As torch 2 words them; no GPU is needed to raise them here.
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough "
                     "memory: you tried to allocate 4000000000000 bytes."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)  # fmt: skip
def test_out_of_memory_in_other_words(error: Exception) -> None:
    assert failure_kind(error) == "oom"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (32x784 and 400x10)"),
        OSError(errno.ENOSPC, "No space left on device"),
        MeterReadError("package-0"),
        KeyError("planted"),
    ],
)
def test_anything_else_is_an_error(error: Exception) -> None:
    assert failure_kind(error) == "error"


def test_a_loss_that_is_no_number() -> None:
    assert failure_kind(LossNotFiniteError(3, float("nan"))) == "nan"
