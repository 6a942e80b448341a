"""Labelled images as a loader hands them over, and what their pixels are normalised by."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Images and their classes, on the CPU, in an order that is shuffled already."""

    images: Tensor
    """uint8, shape (samples, channels, height, width); it may be a file mapped into memory."""
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
