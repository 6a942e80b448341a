"""Labelled images: what a loader hands over, and the batches that a device is fed with.

A split is small enough to live on the device as bytes, so it is moved there once, before anything
is metered. Shuffling, cropping, flipping and normalising happen there too, a batch at a time: the
energy of a pass is the workload's, not that of worker processes decoding images, and no step
waits for the host.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from greenlab import targets
from greenlab.config import Dataset
from greenlab.errors import ConfigError, DataUnavailableError, GreenlabError, first_line

_PADDING = 4  # pixels on each side of an image before a crop: the paper's code


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images and their classes, on the CPU, in an order that is shuffled already."""

    images: Tensor
    """uint8, shape (samples, channels, height, width)."""
    labels: Tensor
    """int64, shape (samples,)."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """A data set, as a loader returns it."""

    train: Split
    test: Split
    mean: tuple[float, ...]
    """Per channel, of pixel values scaled to 0-1."""
    std: tuple[float, ...]
    """Per channel, of pixel values scaled to 0-1."""
    num_classes: int


def load(dataset: Dataset, seed: int) -> Data:
    """Load what `dataset` names and take the first `dataset.num_samples` of each split.

    The test split may have fewer: `Batches` goes over it again, so that a pass of inference is as
    long as one of training.

    Raises:
        ConfigError: the loader cannot be imported, or returns what the configuration does not say.
        DataUnavailableError: the data is not here and cannot be fetched, or is too small.
    """
    loader = targets.resolve("dataset._target_", dataset._target_)
    try:
        loaded = loader(dataset, seed)
    except GreenlabError:
        raise
    except Exception as error:  # whatever a user's loader raises
        raise DataUnavailableError(
            f"dataset._target_={dataset._target_} fails: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    data = _checked(loaded, dataset)
    if (num_samples := dataset.num_samples) is None:
        return data
    if num_samples > len(data.train):
        raise DataUnavailableError(
            f"dataset.num_samples={num_samples}, but the training split has {len(data.train)}. Set "
            f"dataset.num_samples to {len(data.train)} or less, or to null for all there are"
        )
    return replace(data, train=_first(data.train, num_samples), test=_first(data.test, num_samples))


class Batches:
    """Batches of a split that lives on a device; each iteration is one pass.

    A batch is a pair: images as float32, normalised, shape (batch, channels, height, width), and
    labels as int64. The last batch of a pass holds what is left.
    """

    def __init__(  # noqa: PLR0913  # keyword-only, and each is a setting by its own name
        self,
        split: Split,
        *,
        batch_size: int,
        device: torch.device,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        num_samples: int,
        shuffle_generator: torch.Generator | None,
        augment: bool,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Move the split to `device`.

        `num_samples` make one pass; where that is more than the split has, its images come again.
        `shuffle_generator` lives on `device`: it gives each pass a new order, and `augment` its
        crops and flips; without one, the order is the split's.
        """
        assert not augment or shuffle_generator is not None, "augmenting needs a generator"
        self.num_samples = num_samples
        self._batch_size = batch_size
        self._images = split.images.to(device)
        self._labels = split.labels.to(device)
        # Bytes are 255 times what mean and std are of.
        self._mean = (255 * torch.tensor(mean)).view(1, -1, 1, 1).to(device)
        self._per_std = (1 / (255 * torch.tensor(std))).view(1, -1, 1, 1).to(device)
        self._generator = shuffle_generator
        self._augment = augment
        self._memory_format = memory_format

    @property
    def num_distinct(self) -> int:
        """Samples in a pass, those that come again counted once."""
        return min(self.num_samples, len(self._labels))

    def __len__(self) -> int:
        """Batches in a pass."""
        return math.ceil(self.num_samples / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order()
        for start in range(0, self.num_samples, self._batch_size):
            chosen = order[start : start + self._batch_size]
            images = self._images.index_select(0, chosen)
            if self._augment and self._generator is not None:
                images = _crop_and_flip(images, self._generator)
            normalised = images.to(torch.float32).sub_(self._mean).mul_(self._per_std)
            normalised = normalised.contiguous(memory_format=self._memory_format)
            yield normalised, self._labels.index_select(0, chosen)

    def _order(self) -> Tensor:
        device = self._images.device
        if self._generator is None:
            order = torch.arange(self.num_samples, device=device)
        else:
            order = torch.randperm(self.num_samples, generator=self._generator, device=device)
        return order % len(self._labels)


def pixel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of `images` (uint8) scaled to 0-1."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        # A histogram of bytes is exact, and needs no copy of the images as floats.
        share = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
        mean = (share * values).sum()
        means.append(mean.item())
        stds.append((share * (values - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(stds)


def _crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Cut each image out of itself framed in black, somewhere; mirror about half of them."""
    number, channels, height, width = images.shape
    device = images.device
    offsets = torch.randint(
        2 * _PADDING + 1, (2, number, 1), generator=generator, device=device, dtype=torch.int64
    )
    mirrored = torch.rand((number, 1), generator=generator, device=device) < 0.5
    rows = offsets[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(number, width)
    columns = offsets[1] + torch.where(mirrored, columns.flip(1), columns)
    framed = functional.pad(images, (_PADDING,) * 4)
    # One gather over the flattened frame: several times faster on a CPU than indexing four axes.
    pixels = rows[:, :, None] * (width + 2 * _PADDING) + columns[:, None, :]
    chosen = pixels.view(number, 1, -1).expand(-1, channels, -1)
    return framed.flatten(2).gather(2, chosen).view_as(images)


def _first(split: Split, num_samples: int) -> Split:
    return Split(images=split.images[:num_samples], labels=split.labels[:num_samples])


def _checked(data: Any, dataset: Dataset) -> Data:
    def require(holds: bool, problem: str) -> None:
        if not holds:
            raise ConfigError(f"dataset._target_={dataset._target_} {problem}")

    if not isinstance(data, Data):
        raise ConfigError(
            f"dataset._target_={dataset._target_} returned a {type(data).__name__}, not a "
            "greenlab.data.Data"
        )
    require(
        data.num_classes == dataset.num_classes,
        f"has {data.num_classes} classes; set dataset.num_classes={data.num_classes}",
    )
    require(
        len(data.mean) == len(data.std) == dataset.num_channels and min(data.std) > 0,
        f"returned mean={data.mean} and std={data.std}; it must return one number for each of "
        f"dataset.num_channels={dataset.num_channels}, every std above 0",
    )
    shape = (dataset.num_channels, dataset.image_size, dataset.image_width or dataset.image_size)
    for name, split in (("train", data.train), ("test", data.test)):
        images, labels = split.images, split.labels
        require(
            images.dtype == torch.uint8 and labels.dtype == torch.int64,
            f"returned {name} images of {images.dtype} and labels of {labels.dtype}; they must be "
            "torch.uint8 and torch.int64",
        )
        require(
            len(labels) > 0 and labels.shape == images.shape[:1],
            f"returned {name} images of shape {tuple(images.shape)} and labels of shape "
            f"{tuple(labels.shape)}; there must be one label per image, and at least one image",
        )
        require(
            tuple(images.shape[1:]) == shape,
            f"returned {name} images of shape {tuple(images.shape[1:])}; dataset.num_channels, "
            f"image_size and image_width say {shape}. Set them to what the data is",
        )
        lowest, highest = int(labels.min()), int(labels.max())
        require(
            lowest >= 0 and highest < dataset.num_classes,
            f"returned {name} labels from {lowest} to {highest}; dataset.num_classes="
            f"{dataset.num_classes} allows 0 to {dataset.num_classes - 1}",
        )
    return data
