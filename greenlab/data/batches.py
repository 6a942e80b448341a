"""The batches that a device is fed with, and the usual kind: out of a split that lives there.

A pass is drawn as a whole before its first batch: the order of its samples, and where each is
cropped. What follows is the same whether the split lives on the device (here) or is brought to it
as it is needed (streaming.py), and so are the batches.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import ClassVar

import torch
from torch import Tensor

from greenlab.data.frames import PADDING, Crops, Frames
from greenlab.data.images import Split
from greenlab.record import PlacementName


class Batches(ABC):
    """Batches of a split on a device; each iteration is one pass.

    A batch is a pair: images as float32, normalised, shape (batch, channels, height, width), and
    labels as int64. The last batch of a pass holds what is left.
    """

    placement: ClassVar[PlacementName]
    """Where the split's images are."""

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
        """Take hold of the split.

        `num_samples` make one pass; where that is more than the split has, its images come again.
        `shuffle_generator` lives on `device`: it gives each pass a new order, and `augment` its
        crops and flips; without one, the order is the split's.
        """
        assert not augment or shuffle_generator is not None, "augmenting needs a generator"
        self.num_samples = num_samples
        self._batch_size = batch_size
        self._device = device
        self._labels = split.labels.to(device)
        # Bytes are 255 times what mean and std are of. As large as an image and laid out like one:
        # a number per channel would be repeated within the loop over pixels, at several times the
        # cost where channels come last.
        scale = 1 / (255 * torch.tensor(std)).view(1, -1, 1, 1)
        shift = -255 * torch.tensor(mean).view(1, -1, 1, 1) * scale
        self._scale, self._shift = (
            number.expand(1, *split.images.shape[1:])
            .contiguous(memory_format=memory_format)
            .to(device)
            for number in (scale, shift)
        )
        self._generator = shuffle_generator
        self._augment = augment
        self._padding = PADDING if augment else 0
        self._memory_format = memory_format
        self._hold(split.images)

    @property
    def num_distinct(self) -> int:
        """Samples in a pass, those that come again counted once."""
        return min(self.num_samples, len(self._labels))

    def __len__(self) -> int:
        """Batches in a pass."""
        return math.ceil(self.num_samples / self._batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order()
        crops = None
        if self._augment and self._generator is not None:
            crops = Crops.draw(self.num_samples, self._generator)
        labels = torch.split(self._labels.index_select(0, order), self._batch_size)
        with closing(self._feed(order, crops)) as fed:
            for images, answers in zip(fed, labels, strict=True):
                pixels = images.to(torch.float32, memory_format=self._memory_format)
                yield torch.addcmul(self._shift, pixels, self._scale, out=pixels), answers

    def _order(self) -> Tensor:
        if self._generator is None:
            order = torch.arange(self.num_samples, device=self._device)
        else:
            order = torch.randperm(self.num_samples, generator=self._generator, device=self._device)
        return order % len(self._labels)

    @abstractmethod
    def _hold(self, images: Tensor) -> None:
        """Keep the images of the split, or what leads to them."""

    @abstractmethod
    def _feed(self, order: Tensor, crops: Crops | None) -> Generator[Tensor, None, None]:
        """The images of a pass as bytes, cropped, a batch at a time; each is read before the next.

        `order` holds places in the split.
        """


class ResidentBatches(Batches):
    """Out of a split that was moved to the device: no step waits for the host."""

    placement = "resident"

    def _hold(self, images: Tensor) -> None:
        self._frames = Frames(
            images.shape,
            padding=self._padding,
            device=self._device,
            memory_format=self._memory_format,
        )
        self._frames.fill(images)

    def _feed(self, order: Tensor, crops: Crops | None) -> Generator[Tensor, None, None]:
        for cuts in self._frames.find(order, crops).split(self._batch_size):
            yield self._frames.cut(cuts)
