"""How the work is computed: precision, layout, compilation, threads, and what freed memory does.

Each is a setting of its own, set before the first tensor is made and recorded as it came to be.
None changes what is computed, but for its rounding.
"""

import ctypes
import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from greenlab.config import Allocator, Config, MemoryFormat, Precision
from greenlab.errors import ConfigError, HardwareMismatchError, first_line
from greenlab.record import Execution

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""mallopt's, from <malloc.h>."""
_NUM_THREADS = torch.get_num_threads()
"""Torch's own choice."""
_LOWER = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
_LAYOUTS = {
    MemoryFormat.contiguous: torch.contiguous_format,
    MemoryFormat.channels_last: torch.channels_last,
}


def check_execution(config: Config, device: torch.device) -> None:
    """Refuse settings that have no meaning on `device`.

    Raises:
        HardwareMismatchError: they are of CUDA, or the GPU lacks them.
    """
    if device.type == "cuda":
        if config.precision is Precision.bf16 and not torch.cuda.is_bf16_supported(False):
            name = torch.cuda.get_device_name(device)
            raise HardwareMismatchError(
                f"precision=bf16: {name} does not compute in it; take fp32 or fp16"
            )
        if config.precision is Precision.tf32 and torch.cuda.get_device_capability(device) < (8, 0):
            name = torch.cuda.get_device_name(device)
            raise HardwareMismatchError(
                f"precision=tf32: {name} has no tensor cores for it; take fp32 or fp16"
            )
        return
    for key, is_set in (
        ("precision=tf32", config.precision is Precision.tf32),
        ("cuda_graphs=true", config.cuda_graphs),
        ("cudnn_benchmark=true", config.cudnn_benchmark),
    ):
        if is_set:
            raise HardwareMismatchError(f"{key} is of CUDA, and this cell runs on a CPU: leave it")


def prepare_process(config: Config) -> None:
    """Set what holds for the whole process; before anything large is allocated.

    Raises:
        ConfigError: the C library has no such setting.
    """
    if config.allocator is Allocator.keep:
        keep_blocks()
    num_threads = config.num_threads or _NUM_THREADS
    if num_threads != torch.get_num_threads():  # setting it changes more than the number
        torch.set_num_threads(num_threads)
    rounds = config.precision is Precision.tf32
    torch.backends.cuda.matmul.allow_tf32 = rounds
    torch.backends.cudnn.allow_tf32 = rounds  # PyTorch's own default is to round in convolutions
    torch.backends.cudnn.benchmark = config.cudnn_benchmark


def keep_blocks() -> None:
    """Make malloc take large blocks from its heap, and leave that as large as it once was.

    As it is, each block of 32 MB or more is mapped for one use and unmapped after it, and the
    kernel clears every page of the next one: half of the time of MobileNetV2 on a CPU.

    Raises:
        ConfigError: the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError as error:
        raise ConfigError(
            "allocator=keep takes glibc's mallopt, and this machine's C library has none: "
            "allocator=system goes without"
        ) from error
    done = mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    if not done:
        raise ConfigError("allocator=keep: mallopt refuses; allocator=system goes without")


def choose_layout(config: Config, model: nn.Module, sample: Tensor) -> torch.memory_format:
    """The memory format of images and weights, `memory_format=auto` decided.

    On a CPU channels_last is the faster one; a model takes it whose forward does not insist on
    contiguous tensors, as `view` does. On CUDA it pays with tensor cores, so not in fp32. `sample`
    has shape (1, channels, height, width).
    """
    if config.memory_format is not MemoryFormat.auto:
        return _LAYOUTS[config.memory_format]
    if sample.device.type == "cuda" and config.precision is Precision.fp32:
        return torch.contiguous_format
    try:
        with torch.no_grad():
            model.eval()(sample.to(memory_format=torch.channels_last))
    except Exception as error:  # whatever a user's forward raises; check_output tries it again
        logger.info("contiguous: channels_last is not what the model takes: %s", first_line(error))
        return torch.contiguous_format
    return torch.channels_last


def describe_execution(config: Config, layout: torch.memory_format) -> Execution:
    """What is in force, for the record."""
    return Execution(
        precision=config.precision.name,
        memory_format=next(one.name for one, known in _LAYOUTS.items() if known is layout),
        compile=config.compile,
        cuda_graphs=config.cuda_graphs,
        cudnn_benchmark=config.cudnn_benchmark,
        num_threads=torch.get_num_threads(),
        allocator=config.allocator.name,
    )


def autocast(
    precision: Precision, device: torch.device, *, keeps_weights: bool = True
) -> AbstractContextManager[object]:
    """Within it, matrix products and convolutions run in the lower precision, where one is set.

    `keeps_weights`: each is rounded once, and not at each use.
    """
    if (lower := _LOWER.get(precision)) is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=lower, cache_enabled=keeps_weights)


def build_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Keeps small gradients of fp16 from vanishing; does nothing in any other precision."""
    return torch.amp.GradScaler(device.type, enabled=precision is Precision.fp16)
