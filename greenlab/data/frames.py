"""Images in a black frame, and crops cut out of it, some of them mirrored.

The frame is laid around all images once. A crop then is a stretch of memory, from its first pixel
to its last, with the frame's own strides: one copy per image cuts it out, wherever it lies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

PADDING = 4
"""Pixels on each side of an image that is augmented: the paper's code."""
_NUM_OFFSETS = 2 * PADDING + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Crops:
    """Where each sample of a pass is cut out of its frame, on the device."""

    rows: Tensor
    """int64, shape (samples,): of a crop's first pixel, from the top of the frame."""
    columns: Tensor
    """int64, shape (samples,)."""
    mirrored: Tensor
    """uint8, shape (samples, 1, 1, 1): all bits set where the crop is mirrored, else none."""

    @classmethod
    def draw(cls, num_samples: int, generator: torch.Generator) -> Self:
        """Crops of a frame of `PADDING`, each as likely as any other, half of them mirrored."""
        device, num_kinds = generator.device, 2 * _NUM_OFFSETS**2
        drawn = torch.randint(num_kinds, (num_samples,), generator=generator, device=device)
        place = drawn // 2
        return cls(
            rows=place // _NUM_OFFSETS,
            columns=place % _NUM_OFFSETS,
            mirrored=(drawn % 2).neg().to(torch.uint8).view(-1, 1, 1, 1),
        )


def framed_bytes(shape: torch.Size, padding: int) -> int:
    """What `Frames` of this shape take."""
    number, channels, height, width = shape
    return number * channels * (height + 2 * padding) * (width + 2 * padding)


class Frames:
    """Room for images of one shape, each in a frame `padding` pixels wide, on a device."""

    def __init__(
        self,
        shape: torch.Size,
        *,
        padding: int,
        device: torch.device,
        memory_format: torch.memory_format,
    ) -> None:
        """All black."""
        number, channels, height, width = shape
        outer = (number, channels, height + 2 * padding, width + 2 * padding)
        self._framed = torch.empty(
            outer, dtype=torch.uint8, device=device, memory_format=memory_format
        ).zero_()
        self._inside = self._framed[:, :, padding : padding + height, padding : padding + width]
        self._crop = (channels, height, width)
        self._strides = self._framed.stride()[1:]
        steps = zip(self._crop, self._strides, strict=True)
        self._length = 1 + sum((size - 1) * stride for size, stride in steps)
        # A row for each byte that a crop may begin with; they overlap.
        num_rows = self._framed.numel() - self._length + 1
        self._stretches = self._framed.as_strided((num_rows, self._length), (1, 1))

    def fill(self, images: Tensor) -> None:
        """Put `images` into the first of the frames."""
        self._inside[: len(images)].copy_(images)

    def find(self, which: Tensor, crops: Crops | None) -> "Cuts":
        """Where the crops of these images lie; without any, the images themselves."""
        begins = which * self._framed.stride(0)
        if crops is None:
            return Cuts(begins=begins, mirrored=None)
        begins += crops.rows * self._strides[1] + crops.columns * self._strides[2]
        return Cuts(begins=begins, mirrored=crops.mirrored)

    def cut(self, cuts: "Cuts") -> Tensor:
        """A copy of what lies there, shape (cuts, channels, height, width)."""
        crops = self._stretches.index_select(0, cuts.begins).as_strided(
            (len(cuts.begins), *self._crop), (self._length, *self._strides)
        )
        if cuts.mirrored is None:
            return crops
        # The bits by which the mirror image differs, put into the crop where it is wanted: several
        # times faster on a CPU than choosing byte by byte.
        return crops.flip(3).bitwise_xor_(crops).bitwise_and_(cuts.mirrored).bitwise_xor_(crops)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cuts:
    """Places in the memory of `Frames`, and which of the crops there to mirror."""

    begins: Tensor
    mirrored: Tensor | None

    def split(self, batch_size: int) -> Iterator["Cuts"]:
        """So many at a time."""
        for start in range(0, len(self.begins), batch_size):
            chosen = slice(start, start + batch_size)
            mirrored = None if self.mirrored is None else self.mirrored[chosen]
            yield Cuts(begins=self.begins[chosen], mirrored=mirrored)
