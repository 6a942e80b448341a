"""What a model weighs and what one sample costs it: parameters, bytes, multiply-accumulates.

MACs are counted twice. thop counts as the paper's kind of tool does: convolutions and linear
layers by rule, normalisation and pooling on top, a layer type that it does not know as zero.
torch's FlopCounterMode counts exactly, but only convolutions and matrix products; a multiply and
an add are two of its FLOPs. It is used in the forward pass alone, where it is right: in the
backward pass of grouped convolutions it is not.
"""

import copy
import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import thop
import torch
from thop.profile import register_hooks as thop_rules
from thop.vision.basic_hooks import zero_ops
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from greenlab.record import ModelProfile

logger = logging.getLogger(__name__)

# Layers that move values or change each by itself; like ReLU, for which thop has this rule, they
# count as no multiply-accumulate.
_FREE_LAYERS = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.ChannelShuffle,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Mish,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softplus,
    nn.Tanh,
)
_RULES = thop_rules | dict.fromkeys(_FREE_LAYERS, zero_ops)
_FREE_NAMES = ("StochasticDepth",)  # torchvision's: four seconds to import for one comparison
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
    return _count_flops(copy.deepcopy(model).eval(), sample).get_total_flops() // 2


def _count_flops(model: nn.Module, sample: Tensor) -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    # With gradients on, although none is taken: without, attention layers run as one fused
    # operation that the counter does not know.
    with torch.enable_grad(), counter:
        model(sample)
    return counter


def _count_macs_by_thop(model: nn.Module, sample: Tensor) -> int:
    counted = copy.deepcopy(model)
    macs: float = thop.profile(counted, (sample,), custom_ops=_RULES, verbose=False)[0]
    return round(macs)


@dataclass(kw_only=True, slots=True)
class LayerMacs:
    """What all layers of one type cost one sample, by either count."""

    macs: int = 0
    """By thop."""
    macs_exact: int = 0
    """Convolutions and matrix products."""


def count_macs_by_layer_type(model: nn.Module, sample: Tensor) -> dict[str, LayerMacs]:
    """Tell where the MACs of `profile_model` are, and where its two counts part.

    Layer types that cost nothing by either count are left out; a module that computes something
    beside its parts is a layer of its own type.
    """
    found: defaultdict[str, LayerMacs] = defaultdict(LayerMacs)
    counted = copy.deepcopy(model).eval()
    flops = _count_flops(counted, sample).get_flop_counts()
    whole = {name: sum(by_operation.values()) for name, by_operation in flops.items()}
    root = type(counted).__name__
    for name, module in counted.named_modules():
        path = f"{root}.{name}" if name else root
        parts = sum(whole.get(f"{path}.{part}", 0) for part, _ in module.named_children())
        found[type(module).__name__].macs_exact += (whole.get(path, 0) - parts) // 2

    def walk(module: nn.Module, macs: float, parts: dict[str, Any]) -> None:
        if not parts:
            found[type(module).__name__].macs += round(macs)
        for name, (macs_of_part, _, parts_of_part) in parts.items():
            walk(module.get_submodule(name), macs_of_part, parts_of_part)

    thopped = copy.deepcopy(model)
    macs, _, parts = thop.profile(
        thopped, (sample,), custom_ops=_RULES, verbose=False, ret_layer_info=True
    )
    walk(thopped, macs, parts)
    return {name: macs for name, macs in sorted(found.items()) if macs.macs or macs.macs_exact}


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
                if type(module) not in _RULES
                and not isinstance(module, _CONTAINERS)
                and type(module).__name__ not in _FREE_NAMES
                and (not list(module.children()) or list(module.parameters(recurse=False)))
            }
        )
    )
