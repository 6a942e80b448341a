"""What a model weighs and what one sample costs it: parameters, bytes, multiply-accumulates.

All is counted in one pass over one sample.

MACs are counted twice. thop counts as the paper's kind of tool does: convolutions and linear
layers by rule, normalisation and pooling on top, a layer type that it does not know as zero.
torch's FlopCounterMode counts exactly, but only convolutions and matrix products; a multiply and
an add are two of its FLOPs. It is used in the forward pass alone, where it is right: in the
backward pass of grouped convolutions it is not.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from thop.profile import register_hooks as thop_rules
from thop.vision.basic_hooks import zero_ops
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from greenlab.errors import ModelError, first_line
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerMacs:
    """What all layers of one type cost one sample, by either count."""

    macs: int
    """By thop."""
    macs_exact: int
    """Convolutions and matrix products."""


def profile_model(model: nn.Module, sample: Tensor) -> ModelProfile:
    """Count `model`; `sample` is one input, shape (1, channels, height, width).

    MACs are those of evaluation, counted on the device of the model's parameters.

    Raises:
        ModelError: the model cannot be counted.
    """
    counted = _count_pass(model, sample)
    layers = _by_layer_type(counted).values()
    uncounted = _uncounted_layers(model)
    if uncounted:
        logger.warning(
            "thop has no rule for %s and counts them as zero: model/macs is too low by their "
            "share, model/macs_exact holds their convolutions and matrix products",
            ", ".join(uncounted),
        )
    parameters, buffers = list(model.parameters()), list(model.buffers())
    return ModelProfile(
        parameters=_count(parameters),
        trainable_parameters=_count(p for p in parameters if p.requires_grad),
        parameter_bytes=sum(parameter.nbytes for parameter in parameters),
        buffer_bytes=sum(buffer.nbytes for buffer in buffers),
        macs=sum(layer.macs for layer in layers),
        macs_exact=sum(layer.macs_exact for layer in layers),
        uncounted_layers=uncounted,
        activation_bytes=counted.activation_bytes,
    )


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def count_macs_by_layer_type(model: nn.Module, sample: Tensor) -> dict[str, LayerMacs]:
    """Tell where the MACs of `profile_model` are, and where its two counts part.

    A module that computes something beside its parts is a layer of its own type; types that cost
    nothing by either count are left out.

    Raises:
        ModelError: the model cannot be counted.
    """
    return _by_layer_type(_count_pass(model, sample))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    macs: Counter[str]
    """By thop, by layer type."""
    flops: Counter[str]
    """By torch, by layer type."""
    activation_bytes: int


def _by_layer_type(counted: _Pass) -> dict[str, LayerMacs]:
    macs, flops = counted.macs, counted.flops
    return {
        kind: LayerMacs(macs=macs[kind], macs_exact=flops[kind] // 2)
        for kind in sorted(macs.keys() | flops.keys())
        if macs[kind] or flops[kind]
    }


def _count_pass(model: nn.Module, sample: Tensor) -> _Pass:
    """Run the model once, counted; raises as `count_macs_by_layer_type` says."""
    device = next((parameter.device for parameter in model.parameters()), sample.device)
    try:
        return _run_counted(model, sample.to(device))
    except Exception as error:  # whatever a user's forward, or a counter that it upsets, raises
        raise ModelError(
            f"the multiply-accumulates of {type(model).__name__} cannot be counted: "
            f"{first_line(error)}. Its forward must work in evaluation, with hooks on its modules"
        ) from error


def _run_counted(model: nn.Module, sample: Tensor) -> _Pass:
    """One pass in evaluation: thop's MACs and torch's FLOPs by layer type, and activations.

    thop's rules are called on a stand-in for each module, so that the model is left as it was; its
    own walk leaves buffers behind, and counts a layer fourfold that two others share.
    """
    by_thop: Counter[str] = Counter()
    flops: Counter[str] = Counter()
    counter = FlopCounterMode(display=False)
    activation_bytes = 0
    own: list[int] = []  # for each module that is running: FLOPs begun with, less its parts'

    def begin(module: nn.Module, *_: object) -> None:
        own.append(counter.get_total_flops())

    def end(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal activation_bytes
        if next(module.children(), None) is None:
            activation_bytes += _bytes_of(output)
        kind, done = type(module).__name__, counter.get_total_flops()
        own_flops = done - own.pop()
        flops[kind] += own_flops
        own[:] = [started + own_flops for started in own]
        if (rule := _RULES.get(type(module))) is not None:
            counted = _Counted(module)
            rule(counted, inputs, output)
            by_thop[kind] += round(counted.total_ops.item())

    hooks = []
    training = {module: module.training for module in model.modules()}
    for module in training:
        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        # With gradients on, although none is taken: without, attention layers run as one fused
        # operation that the counter does not know.
        with torch.enable_grad(), counter:
            model.eval()(sample)
    finally:
        for hook in hooks:
            hook.remove()
        for module, was_training in training.items():
            module.training = was_training
    return _Pass(macs=by_thop, flops=flops, activation_bytes=activation_bytes)


def _bytes_of(output: Any) -> int:
    """Of all tensors in what a module returns: a tensor, or tuples, lists and dicts of them."""
    return sum(one.nbytes for one in tree_leaves(output) if isinstance(one, Tensor))


class _Counted:
    """A module as thop's rules see it, with the sum that they add to."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.total_ops = torch.zeros(1, dtype=torch.float64)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


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
