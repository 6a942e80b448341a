"""Turns a configuration into something that runs: device, model, optimiser, batches, seeds."""

import os
import pkgutil
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from greenlab import data
from greenlab.config import Config, Device, Model, Phase
from greenlab.data import Batches
from greenlab.errors import HardwareMismatchError, ModelError, first_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Everything that a phase needs, on the device."""

    config: Config
    device: torch.device
    model: nn.Module
    train: Batches
    test: Batches
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    order: torch.Generator
    """Shuffles and augments the training split."""

    @property
    def sample(self) -> Tensor:
        """One input, shape (1, channels, height, width)."""
        images, _ = next(iter(self.test))
        return images[:1]

    def synchronise(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def choose_device(wanted: Device) -> torch.device:
    """The torch device to run on.

    Raises:
        HardwareMismatchError: CUDA was asked for and torch has none.
    """
    if wanted is Device.cpu:
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    if wanted is Device.cuda:
        built_for = torch.version.cuda
        raise HardwareMismatchError(
            "hardware.device=cuda: torch finds no CUDA device ("
            + (f"it is built for CUDA {built_for}" if built_for else "it is a build without CUDA")
            + "; nvidia-smi shows GPU and driver). hardware.device=cpu runs without one"
        )
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Fix the random numbers of Python, NumPy, torch and CUDA, and make cuDNN repeat itself."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # every CUDA device too
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def build_workload(config: Config, device: torch.device) -> Workload:
    """Seed, load the data and build the model on `device`.

    Raises:
        DataUnavailableError: the data set is not there.
        ModelError: the model cannot be built, or its output is not one score per class.
    """
    loaded = data.load(config.dataset, config.seed)
    seed_everything(config.seed)
    model = build_model(config.model, config.dataset.num_classes).to(device)
    order = torch.Generator(device=device)
    order.manual_seed(config.seed)
    num_samples = config.dataset.num_samples

    def batches(split: data.Split, *, train: bool) -> Batches:
        return Batches(
            split,
            batch_size=config.batch_size.size,
            device=device,
            mean=loaded.mean,
            std=loaded.std,
            num_samples=num_samples
            or len(split.labels) * (1 if train else config.dataset.replicate_test),
            shuffle_generator=order if train else None,
            augment=train and config.dataset.augment,
        )

    optimiser, schedule = build_optimiser(model, config.phase)
    test = batches(loaded.test, train=False)
    check_output(model, next(iter(test))[0][:1], config)
    return Workload(
        config=config,
        device=device,
        model=model,
        train=batches(loaded.train, train=True),
        test=test,
        optimiser=optimiser,
        schedule=schedule,
        order=order,
    )


def build_model(model: Model, num_classes: int) -> nn.Module:
    """Call the model's builder.

    Raises:
        ModelError: it cannot be imported, fails, or returns something that is not a module.
    """
    try:
        builder: Callable[..., Any] = pkgutil.resolve_name(model._target_)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"model._target_={model._target_} cannot be imported: {error}. It is the dotted name "
            "of a function or class, importable from the working directory"
        ) from error
    try:
        built = builder(**{"num_classes": num_classes, **model.kwargs})
    except Exception as error:  # whatever a user's builder raises
        raise ModelError(
            f"model._target_={model._target_} fails when it is called with num_classes="
            f"{num_classes} and model.kwargs={dict(model.kwargs)}: {error}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(
            f"model._target_={model._target_} returned a {type(built).__name__}, not a "
            "torch.nn.Module"
        )
    return built


def build_optimiser(
    model: nn.Module, phase: Phase
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with momentum and a cosine schedule over the epochs, as the paper trains."""
    optimiser = torch.optim.SGD(
        (parameter for parameter in model.parameters() if parameter.requires_grad),
        lr=phase.learning_rate,
        momentum=phase.momentum,
        weight_decay=phase.weight_decay,
    )
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=phase.epochs)


def check_output(model: nn.Module, sample: Tensor, config: Config) -> None:
    """Refuse a model that does not take the data's shape or give one score per class.

    `sample` has shape (1, channels, height, width).

    Raises:
        ModelError: with the shape that it got and the shape that it needs.
    """
    shape, target = tuple(sample.shape), config.model._target_
    model.eval()
    try:
        with torch.inference_mode():
            output = model(sample)
    except Exception as error:  # whatever a user's forward raises
        raise ModelError(
            f"model._target_={target} does not take the data's shape {shape}: "
            f"{first_line(error)}. Set dataset.image_size and dataset.num_channels "
            "(dataset=synthetic takes any), or another model"
        ) from error
    wanted = (1, config.dataset.num_classes)
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != wanted:
        raise ModelError(
            f"model._target_={target} gives {found} for an input of shape {shape}; it must give "
            f"{wanted}, one score per class (dataset.num_classes)"
        )
