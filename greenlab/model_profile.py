"""What a model weighs and what one sample costs it: parameters, bytes, multiply-accumulates.

MACs are counted twice. thop counts as the paper's kind of tool does: convolutions and linear
layers by rule, normalisation and pooling on top, a layer type that it does not know as zero.
torch's FlopCounterMode counts exactly, but only convolutions and matrix products; a multiply and
an add are two of its FLOPs. It is used in the forward pass alone, where it is right: in the
backward pass of grouped convolutions it is not.
"""

import copy
import logging
from collections.abc import Iterable

import thop
import torch
from thop.profile import register_hooks as thop_rules
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from greenlab.record import ModelProfile

logger = logging.getLogger(__name__)

# Layers that multiply nothing at inference; thop has no rule for them, and they need none.
_FREE_LAYERS = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.ChannelShuffle,
    nn.modules.dropout._DropoutNd,
)
_FREE_NAMES = ("StochasticDepth",)  # torchvision's: four seconds to import for one isinstance
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def profile_model(model: nn.Module, sample: Tensor) -> ModelProfile:
    """Count `model`; `sample` is one input, shape (1, channels, height, width).

    MACs are counted on copies, in evaluation mode, on the device of the model's parameters: thop
    leaves buffers behind in the modules that it counts.
    """
    parameters, buffers = list(model.parameters()), list(model.buffers())
    if parameters:
        sample = sample.to(parameters[0].device)
    macs_exact = _count_macs_exactly(model, sample)
    uncounted = _uncounted_layers(model)
    if uncounted:
        logger.warning(
            "thop has no rule for %s and counts them as zero: model/macs is too low by their "
            "share, model/macs_exact holds their convolutions and matrix products",
            ", ".join(uncounted),
        )
    return ModelProfile(
        parameters=_count(parameters),
        trainable_parameters=_count(p for p in parameters if p.requires_grad),
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        buffer_bytes=sum(buffer.nbytes for buffer in buffers),
        macs=_count_macs_by_thop(model, sample),
        macs_exact=macs_exact,
        uncounted_layers=uncounted,
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _count_macs_exactly(model: nn.Module, sample: Tensor) -> int:
    counted = copy.deepcopy(model).eval()
    counter = FlopCounterMode(display=False)
    # With gradients on, although none is taken: without, attention layers run as one fused
    # operation that the counter does not know.
    with torch.enable_grad(), counter:
        counted(sample)
    return int(counter.get_total_flops()) // 2


def _count_macs_by_thop(model: nn.Module, sample: Tensor) -> int:
    macs: float = thop.profile(copy.deepcopy(model), inputs=(sample,), verbose=False)[0]
    return round(macs)


def _uncounted_layers(model: nn.Module) -> tuple[str, ...]:
    """Name the types that thop passes over although they may compute something.

    That is every layer without parts of its own, and every one that holds parameters itself: such
    a one computes more than its parts.
    """
    return tuple(
        sorted(
            {
                type(module).__name__
                for module in model.modules()
                if type(module) not in thop_rules
                and not isinstance(module, (*_FREE_LAYERS, *_CONTAINERS))
                and type(module).__name__ not in _FREE_NAMES
                and (not list(module.children()) or list(module.parameters(recurse=False)))
            }
        )
    )
