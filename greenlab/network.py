"""From a model's YAML to a network that fits the data: built, frozen where asked, tried once."""

import fnmatch
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from greenlab.config import Config, Model
from greenlab.errors import ModelError, first_line

PROBED_SIZES = (28, 32, 64, 96, 128, 224, 256, 299, 384)
"""Pixels along the sides of images that networks are commonly made for."""
NOTHING_TO_TRAIN = (
    "no parameter is left to train: model.freeze covers them all, or there is none. Freeze fewer, "
    "or run phase=inference"
)


def build_model(model: Model, num_classes: int) -> nn.Module:
    """Call the model's builder, with `num_classes` if it takes it, and freeze what is to be frozen.

    Raises:
        ModelError: it cannot be imported, fails, or returns something that is not a module; or a
            pattern of model.freeze matches nothing.
    """
    target = model._target_
    try:
        builder: Callable[..., Any] = pkgutil.resolve_name(target)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise ModelError(
            f"model._target_={target} cannot be imported: {type(error).__name__}: "
            f"{first_line(error)}. It is the dotted name of a function or class that is installed, "
            "or that lies in the working directory or beside the YAML"
        ) from error
    arguments = {"num_classes": num_classes} if _takes(builder, "num_classes") else {}
    arguments |= model.kwargs
    try:
        built = builder(**arguments)
    except Exception as error:  # whatever a user's builder raises
        raise ModelError(
            f"model._target_={target} fails when it is called with {arguments}: "
            f"{first_line(error)}. model.kwargs holds its arguments; num_classes is "
            "dataset.num_classes"
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(
            f"model._target_={target} returned a {type(built).__name__}, not a torch.nn.Module; "
            "name a builder that returns the network"
        )
    freeze(built, model.freeze)
    return built


def _takes(builder: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # written in C: it does not say
        return True
    return any(one.name == argument or one.kind is one.VAR_KEYWORD for one in parameters)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take gradients from every parameter that a pattern names, by itself or by a layer around it.

    Raises:
        ModelError: a pattern names no parameter.
    """
    parameters = list(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        named = [parameter for name, parameter in parameters if _is_within(name, pattern)]
        if not named:
            layers = dict.fromkeys(name.partition(".")[0] for name, _ in parameters)
            raise ModelError(
                f"model.freeze: {pattern} names no layer with parameters; the model's own are "
                f"{', '.join(layers) or 'none'} and what is within them, as in layer1.0 or *.bias"
            )
        for parameter in named:
            parameter.requires_grad_(False)


def _is_within(name: str, pattern: str) -> bool:
    parts = name.split(".")
    paths = (".".join(parts[: number + 1]) for number in range(len(parts)))
    return any(fnmatch.fnmatchcase(path, pattern) for path in paths)


def can_train(model: nn.Module) -> bool:
    """Whether any parameter of `model` takes a gradient."""
    return any(parameter.requires_grad for parameter in model.parameters())


def check_output(model: nn.Module, sample: Tensor, config: Config) -> None:
    """Refuse a model that does not take the data's shape or give one score per class.

    `sample` has shape (1, channels, height, width).

    Raises:
        ModelError: with the shape that it got and the shape that it needs.
    """
    shape, target = tuple(sample.shape), config.model._target_
    try:
        output = _score(model, sample)
    except Exception as error:  # whatever a user's forward raises
        fitting = find_input_shape(model, sample.device)
        raise ModelError(
            f"model._target_={target} does not take the data's shape {shape}: "
            f"{first_line(error)}. {_where_it_fits(fitting)}"
        ) from error
    wanted = (1, config.dataset.num_classes)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != wanted:
        raise ModelError(
            f"model._target_={target} gives {found} for an input of shape {shape}; it must give "
            f"{wanted}, one score per class (dataset.num_classes)"
        )


def _where_it_fits(shape: tuple[int, int, int] | None) -> str:
    if shape is None:
        return (
            "No square image of 28 to 384 pixels with 1 or 3 channels fits it either; if it needs "
            "another one, dataset=synthetic takes any dataset.num_channels, dataset.image_size "
            "and dataset.image_width"
        )
    num_channels, size, _ = shape
    return (
        f"It takes {(1, *shape)}: dataset=synthetic dataset.num_channels={num_channels} "
        f"dataset.image_size={size}"
    )


def find_input_shape(model: nn.Module, device: torch.device) -> tuple[int, int, int] | None:
    """The first (channels, height, width) among common ones that `model` takes, if it takes any."""
    shapes = ((channels, size, size) for channels in (3, 1) for size in PROBED_SIZES)
    return next((shape for shape in shapes if takes(model, shape, device)), None)


def takes(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> bool:
    """Whether `model`, on `device`, takes one sample of shape (channels, height, width)."""
    try:
        _score(model, torch.zeros(1, *shape, device=device))
    except Exception:  # whatever a user's forward raises
        return False
    return True


@torch.no_grad()  # not inference_mode: lazy layers make their weights here, to be trained later
def _score(model: nn.Module, sample: Tensor) -> Any:
    return model.eval()(sample)
