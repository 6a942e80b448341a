"""Handwritten digits that ship with scikit-learn: real data, on any machine, without a download.

1,797 grey images of 8×8 pixels in 17 levels, from the test set of *Optical Recognition of
Handwritten Digits* (Alpaydin, Kaynak, 1998). They are enlarged to the size that networks for
CIFAR-10 expect, and every channel gets the same picture.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional

from greenlab.config import Dataset
from greenlab.data import Data, Split, pixel_statistics
from greenlab.errors import ConfigError

NUM_CLASSES = 10
NUM_TEST_SAMPLES = 360  # a fifth of 1,797
_BRIGHTEST = 16  # scikit-learn's pixels are 0-16


def load(dataset: Dataset, seed: int) -> Data:
    """Load the digits: 1,437 to train and 360 to test, the same ones whatever the seed.

    Raises:
        ConfigError: `dataset.num_classes` is not 10.
    """
    if dataset.num_classes != NUM_CLASSES:
        raise ConfigError(
            f"dataset.num_classes={dataset.num_classes}, but there are ten digits: set "
            f"dataset.num_classes={NUM_CLASSES}, or dataset=synthetic, which has any number"
        )
    digits = load_digits()
    images = _enlarge(torch.from_numpy(digits.images), dataset)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    train, test = train_test_split(
        range(len(labels)), test_size=NUM_TEST_SAMPLES, stratify=labels, random_state=0
    )
    mean, std = pixel_statistics(images[train])
    return Data(
        train=Split(images=images[train], labels=labels[train]),
        test=Split(images=images[test], labels=labels[test]),
        mean=mean,
        std=std,
        num_classes=NUM_CLASSES,
    )


def _enlarge(images: Tensor, dataset: Dataset) -> Tensor:
    size = (dataset.image_size, dataset.image_width or dataset.image_size)
    grey = images.to(torch.float32).unsqueeze(1) * (255 / _BRIGHTEST)
    resized = functional.interpolate(grey, size=size, mode="bilinear", align_corners=False)
    return resized.round().to(torch.uint8).repeat(1, dataset.num_channels, 1, 1)
