"""From a model's YAML to a network that fits the data: built, frozen where asked, tried once."""

import fnmatch
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from greenlab import targets
from greenlab.config import Config, Dataset, Model
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
        ConfigError: it cannot be imported.
        ModelError: it fails or returns something that is not a module, or a pattern of
            model.freeze names nothing.
    """
    target = model._target_
    builder = targets.resolve("model._target_", target)
    arguments = {"num_classes": num_classes} if _accepts(builder, "num_classes") else {}
    arguments |= model.kwargs
    try:
        built = builder(**arguments)
    except (Exception, SystemExit) as error:  # whatever a user's builder raises
        raise ModelError(
            f"model._target_={target} fails when it is called with {arguments}: "
            f"{first_line(error)}{_where(error)}. model.kwargs holds its arguments; num_classes "
            "is dataset.num_classes unless they say otherwise"
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(
            f"model._target_={target} returned a {type(built).__name__}, not a torch.nn.Module; "
            "name a builder that returns the network"
        )
    freeze(built, model.freeze)
    return built


def _accepts(builder: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # written in C: it does not say
        return True
    return any(one.name == argument or one.kind is one.VAR_KEYWORD for one in parameters)


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Stop every parameter from learning that a pattern names, itself or a layer around it.

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
        if not sample.is_contiguous():
            raise ModelError(
                f"model._target_={target} does not take memory_format=channels_last: "
                f"{first_line(error)}{_where(error)}. memory_format=auto takes it where a model "
                "does"
            ) from error
        num_classes = config.dataset.num_classes
        fitting = find_input_shape(model, num_classes, sample.device, tried=shape[1:])
        raise ModelError(
            f"model._target_={target} fails on a sample of the data's shape {shape}: "
            f"{first_line(error)}{_where(error)}. {_where_it_fits(fitting, config.dataset)}"
        ) from error
    _require_scores(output, sample, f"model._target_={target}", config)


def check_training(model: nn.Module, sample: Tensor, config: Config) -> None:
    """Refuse a model that in training gives something else than one score per class.

    Changes the model's running statistics. `sample` has shape (1, channels, height, width).

    Raises:
        ModelError: nothing is left to train, or with what it gives and what it must give.
    """
    target = f"model._target_={config.model._target_}"
    if not can_train(model):
        raise ModelError(f"{target}: {NOTHING_TO_TRAIN}")
    two = torch.cat([sample, sample])  # batch norm refuses a single one
    try:
        with torch.no_grad():
            output = model.train()(two)
    except Exception as error:  # whatever a user's forward raises
        raise ModelError(
            f"{target} fails in training on samples of shape {tuple(two.shape)}: "
            f"{first_line(error)}{_where(error)}. phase=inference runs without training it"
        ) from error
    _require_scores(output, two, f"{target}, in training,", config)


def _where(error: BaseException) -> str:
    """The line of code that raised an error, in brackets."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _require_scores(output: object, samples: Tensor, what: str, config: Config) -> None:
    wanted = (len(samples), config.dataset.num_classes)
    found = tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    if found != wanted:
        way_out = (
            "let the builder take num_classes, or set dataset.num_classes (dataset=synthetic takes "
            "any)"
            if isinstance(output, Tensor)
            else "model.kwargs may switch off what the builder adds, as aux_logits does in some of "
            "torchvision's"
        )
        raise ModelError(
            f"{what} gives {found} for an input of shape {tuple(samples.shape)}; it must give "
            f"{wanted}, one score per class (dataset.num_classes), and nothing else: {way_out}"
        )


def _where_it_fits(shape: tuple[int, int, int] | None, dataset: Dataset) -> str:
    if shape is None:
        return (
            "It fails on square images of 28 to 384 pixels with 1 or 3 channels too; where it is "
            "not at fault itself and needs another shape, dataset=synthetic takes any "
            "dataset.num_channels, dataset.image_size and dataset.image_width"
        )
    num_channels, size, _ = shape
    width = " dataset.image_width=null" if dataset.image_width else ""
    return (
        f"It takes {(1, *shape)}: dataset=synthetic dataset.num_channels={num_channels} "
        f"dataset.image_size={size}{width}"
    )


def find_input_shape(
    model: nn.Module, num_classes: int, device: torch.device, *, tried: tuple[int, ...] = ()
) -> tuple[int, int, int] | None:
    """The first (channels, height, width) among common ones for which `model` gives its scores.

    `tried` is a shape that is known not to be it. None: there is none among them.
    """
    shapes = ((channels, size, size) for channels in (3, 1) for size in PROBED_SIZES)
    return next(
        (s for s in shapes if s != tried and gives_scores(model, s, num_classes, device)), None
    )


def gives_scores(
    model: nn.Module, shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> bool:
    """Whether `model`, on `device`, scores one sample of shape (channels, height, width)."""
    try:
        output = _score(model, torch.zeros(1, *shape, device=device))
    except Exception:  # whatever a user's forward raises
        return False
    return isinstance(output, Tensor) and tuple(output.shape) == (1, num_classes)


@torch.no_grad()  # not inference_mode: lazy layers make their weights here, to be trained later
def _score(model: nn.Module, sample: Tensor) -> Any:
    return model.eval()(sample)


@contextmanager
def contained() -> Iterator[None]:
    """Put torch's defaults back that a builder may change: the next one is not to inherit them."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_default_device(device)
