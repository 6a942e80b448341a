"""Data sets: a loader hands over labelled images, `load` checks them, batches feed a device.

Where the images fit they live on the device as bytes and are moved there once, before anything is
metered; else a thread brings them there, batch by batch. Shuffling, cropping, flipping and
normalising happen on the device in either case: the energy of a pass is the workload's, not that
of worker processes decoding images.
"""

from dataclasses import replace
from typing import Any

import torch

from greenlab import targets
from greenlab.config import Dataset
from greenlab.data.batches import Batches, ResidentBatches
from greenlab.data.images import Data, Split, pixel_statistics
from greenlab.data.placement import choose_batches
from greenlab.data.streaming import StreamedBatches
from greenlab.errors import ConfigError, DataUnavailableError, GreenlabError, first_line

__all__ = [
    "Batches",
    "Data",
    "ResidentBatches",
    "Split",
    "StreamedBatches",
    "choose_batches",
    "load",
    "pixel_statistics",
]


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
