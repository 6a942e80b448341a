"""Turns a configuration into something that runs: device, model, optimiser, batches, seeds."""

import os
import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from greenlab import data
from greenlab.config import Config, Device
from greenlab.data import Batches
from greenlab.errors import HardwareMismatchError, ModelError
from greenlab.execution import (
    build_scaler,
    choose_layout,
    describe_execution,
    prepare_process,
)
from greenlab.network import NOTHING_TO_TRAIN, build_model, can_train, check_output
from greenlab.record import Execution, Splits


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
    scaler: torch.amp.GradScaler
    """Of the loss, where gradients are fp16."""
    execution: Execution
    order: torch.Generator
    """Shuffles and augments the training split."""

    @property
    def sample(self) -> Tensor:
        """One input, shape (1, channels, height, width)."""
        images, _ = next(iter(self.test))
        return images[:1]

    @property
    def splits(self) -> Splits:
        """How long one pass is."""
        return Splits(train_samples=self.train.num_samples, test_samples=self.test.num_samples)

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
    torch.backends.cudnn.deterministic = True


def build_workload(config: Config, device: torch.device) -> Workload:
    """Seed, load the data and build the model on `device`.

    Raises:
        DataUnavailableError: the data set is not there.
        ModelError: the model cannot be built, or its output is not one score per class.
        ConfigError: the machine does not know a setting of how the work is computed.
    """
    prepare_process(config)
    loaded = data.load(config.dataset, config.seed)
    seed_everything(config.seed)
    model = build_model(config.model, config.dataset.num_classes).to(device)
    sample = loaded.test.images[:1].to(device, torch.float32) / 255
    layout = choose_layout(config, model, sample)
    check_output(model, sample.to(memory_format=layout), config)  # lazy layers are whole after it
    model = model.to(memory_format=layout)
    order = torch.Generator(device=device)
    order.manual_seed(config.seed)
    num_samples = config.dataset.num_samples

    kind = data.choose_batches(config.dataset, loaded, device)

    def batches(split: data.Split, *, train: bool) -> Batches:
        return kind(
            split,
            batch_size=config.batch_size.size,
            device=device,
            mean=loaded.mean,
            std=loaded.std,
            num_samples=num_samples
            or len(split.labels) * (1 if train else config.dataset.replicate_test),
            shuffle_generator=order if train else None,
            augment=train and config.dataset.augment,
            memory_format=layout,
        )

    optimiser, schedule = build_optimiser(model, config)
    return Workload(
        config=config,
        device=device,
        model=model,
        train=batches(loaded.train, train=True),
        test=batches(loaded.test, train=False),
        optimiser=optimiser,
        schedule=schedule,
        scaler=build_scaler(config.precision, device),
        execution=describe_execution(config, layout),
        order=order,
    )


def build_optimiser(
    model: nn.Module, config: Config
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """SGD with momentum and a cosine schedule over the epochs, as the paper trains.

    Frozen parameters are left out: weight decay would move them.

    Raises:
        ModelError: the cell trains and there is nothing to train.
    """
    phase = config.phase
    if config.trains and not can_train(model):
        raise ModelError(NOTHING_TO_TRAIN)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(
        [{"params": trained}],
        lr=phase.learning_rate,
        momentum=phase.momentum,
        weight_decay=phase.weight_decay,
        # One kernel for all weights, which also undoes the scaler's factor without asking the host.
        fused=all(parameter.is_floating_point() for parameter in trained),
    )
    return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=phase.epochs)
