"""Where the images of a cell are while it runs: on the device, or streamed to it."""

import logging
from collections.abc import Callable

import psutil
import torch

from greenlab.config import Dataset, Placement
from greenlab.data.batches import Batches, ResidentBatches
from greenlab.data.frames import PADDING, framed_bytes
from greenlab.data.images import Data
from greenlab.data.streaming import StreamedBatches
from greenlab.errors import DataUnavailableError

logger = logging.getLogger(__name__)

_SHARE = 0.5
"""Of free memory for images, the rest is the model's and its activations'; our choice."""


def free_bytes(device: torch.device) -> int:
    """What is free of the memory that `device` computes in."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def choose_batches(
    dataset: Dataset,
    data: Data,
    device: torch.device,
    measure_free_bytes: Callable[[torch.device], int] = free_bytes,
) -> type[Batches]:
    """The kind of batches that `dataset.placement` means here.

    Raises:
        DataUnavailableError: the images are to be resident and are larger than free memory.
    """
    if dataset.placement is Placement.streamed:
        return StreamedBatches
    needed_bytes, available_bytes = resident_bytes(dataset, data), measure_free_bytes(device)
    if dataset.placement is Placement.auto and needed_bytes > _SHARE * available_bytes:
        logger.info(
            "images are streamed: resident ones would take %.1f GB of %.1f GB that are free on %s",
            needed_bytes / 1e9,
            available_bytes / 1e9,
            device,
        )
        return StreamedBatches
    if needed_bytes > available_bytes:
        raise DataUnavailableError(
            f"dataset.placement=resident, but the images take {needed_bytes / 1e9:.1f} GB and "
            f"{available_bytes / 1e9:.1f} GB are free on {device}: set dataset.placement=streamed, "
            "or take fewer with dataset.num_samples"
        )
    return ResidentBatches


def resident_bytes(dataset: Dataset, data: Data) -> int:
    """What the images of both splits take on the device."""
    padding = PADDING if dataset.augment else 0
    train, test = data.train.images.shape, data.test.images.shape
    return framed_bytes(train, padding) + framed_bytes(test, 0)
