"""Made-up images of any number, size, depth and number of classes.

For measuring a shape that no data set here has. Each class has a smooth random picture, and each
image is its class's picture under noise of its own: a network can learn it, so that loss and
accuracy still tell a working run from a broken one. They say nothing about real images.
"""

import torch
from torch import Tensor
from torch.nn import functional

from greenlab.config import Dataset
from greenlab.data import Data, Split, pixel_statistics

DEFAULT_NUM_SAMPLES = 2048
_PICTURE_SIZE = 4  # pixels each way that a class's picture is drawn in, before it is enlarged
_GREY, _CONTRAST, _NOISE = 128.0, 30.0, 50.0  # mean and standard deviations, in bytes' units
_CHUNK_VALUES = 2**23  # drawn at a time: 32 MiB of floats, whatever the size of an image


def load(dataset: Dataset, seed: int) -> Data:
    """Draw `dataset.num_samples` images (null: 2,048) for each split; `seed` decides them all."""
    generator = torch.Generator().manual_seed(seed)
    pictures = _draw_pictures(dataset, generator)
    num_samples = dataset.num_samples or DEFAULT_NUM_SAMPLES
    train = _draw_split(pictures, num_samples, generator)
    test = _draw_split(pictures, num_samples, generator)
    mean, std = pixel_statistics(train.images)
    return Data(train=train, test=test, mean=mean, std=std, num_classes=dataset.num_classes)


def _draw_pictures(dataset: Dataset, generator: torch.Generator) -> Tensor:
    """One per class, float32, shape (classes, channels, height, width)."""
    size = (dataset.image_size, dataset.image_width or dataset.image_size)
    coarse = torch.randn(
        dataset.num_classes,
        dataset.num_channels,
        _PICTURE_SIZE,
        _PICTURE_SIZE,
        generator=generator,
    )
    smooth = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return _GREY + _CONTRAST * smooth


def _draw_split(pictures: Tensor, num_samples: int, generator: torch.Generator) -> Split:
    num_classes, *shape = pictures.shape
    labels = torch.randperm(num_samples, generator=generator) % num_classes  # equal shares, mixed
    images = torch.empty((num_samples, *shape), dtype=torch.uint8)
    samples_per_chunk = max(1, _CHUNK_VALUES // pictures[0].numel())
    for start in range(0, num_samples, samples_per_chunk):
        chunk = labels[start : start + samples_per_chunk]
        noise = torch.randn((len(chunk), *shape), generator=generator)
        noisy = noise.mul_(_NOISE).add_(pictures[chunk])
        images[start : start + len(chunk)] = noisy.round_().clamp_(0, 255)
    return Split(images=images, labels=labels)
