"""Batches out of a split that is larger than the device's memory, or than the machine's.

The images stay where the loader has them, as a rule in a file mapped into memory. A thread gathers
those of the next few batches while the device works on this one, and on CUDA sends them there: on a
stream of its own, out of memory that is pinned, into room that is theirs for the whole pass. They
are cropped and normalised on the device, as those of a split that lives there.
"""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import cycle, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from greenlab.data.batches import Batches
from greenlab.data.frames import Crops, Frames

NUM_AHEAD = 3
"""Batches that have room: one to work on, one on its way, one for a slow disk."""

Bytes = NDArray[np.uint8]


class StreamedBatches(Batches):
    """Out of a split that stays where it is; a pass that is abandoned ends its thread."""

    placement = "streamed"

    def _hold(self, images: Tensor) -> None:
        self._images: Bytes = images.contiguous().numpy()  # no copy, as a rule
        self._shape = torch.Size((min(self._batch_size, self.num_samples), *images.shape[1:]))

    def _feed(self, order: Tensor, crops: Crops | None) -> Generator[Tensor, None, None]:
        with closing(self._fetch(order)) as fetched:
            if crops is None:
                yield from fetched
                return
            with torch.inference_mode(False):
                frames = Frames(
                    self._shape,
                    padding=self._padding,
                    device=self._device,
                    memory_format=self._memory_format,
                )
            places = torch.arange(len(order), device=self._device) % self._batch_size
            found = frames.find(places, crops).split(self._batch_size)
            for images, cuts in zip(fetched, found, strict=True):
                frames.fill(images)
                yield frames.cut(cuts)

    def _fetch(self, order: Tensor) -> Generator[Tensor, None, None]:
        """The images of a pass on the device, a batch at a time; each is read before the next."""
        slots = self._slots()
        parts = torch.split(order.cpu(), self._batch_size)  # on CUDA the only wait of a pass
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
            jobs = (
                (slot, thread.submit(slot.fill, self._images, part.numpy()))
                for slot, part in zip(cycle(slots), parts, strict=False)
            )
            underway: deque[tuple[_Slot, Future[Tensor]]] = deque(islice(jobs, NUM_AHEAD))
            try:
                while underway:
                    slot, filled = underway.popleft()
                    images = filled.result()  # what went wrong in the thread is raised here
                    slot.take()
                    yield images
                    slot.give_back()
                    underway.extend(islice(jobs, 1))
            finally:
                thread.shutdown(cancel_futures=True)
                for slot in slots:
                    slot.take()

    @torch.inference_mode(
        False
    )  # whoever begins a pass in that mode has a thread that is not in it
    def _slots(self) -> "list[_Slot]":
        if self._device.type != "cuda":
            return [_Slot(self._shape) for _ in range(NUM_AHEAD)]
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return [_CudaSlot(self._shape, stream) for _ in range(NUM_AHEAD)]


class _Slot:
    """Room for a batch on the host, filled by the thread and read by the loop, by turns."""

    def __init__(self, shape: torch.Size, *, pinned: bool = False) -> None:
        self._gathered = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)

    def fill(self, images: Bytes, which: NDArray[np.int64]) -> Tensor:
        """In the thread: gather these images."""
        gathered = self._gathered[: len(which)]
        # With torch, the thread would start threads of its own beside those of the loop. The mode
        # spares a copy; no place is out of range.
        np.take(images, which, axis=0, out=gathered.numpy(), mode="clip")
        return gathered

    def take(self) -> None:
        """In the loop: what is done with the images from now on comes after they are there."""

    def give_back(self) -> None:
        """In the loop: all that reads the images has been given to the device."""


class _CudaSlot(_Slot):
    """The same with room on the device, to which the thread sends what it gathered.

    Two events order the two streams; the host waits for neither but in the thread, where the
    pinned memory is not to be written while it is still being sent.
    """

    def __init__(self, shape: torch.Size, stream: torch.cuda.Stream) -> None:
        super().__init__(shape, pinned=True)
        self._stream = stream
        self._sent = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._on_device = torch.empty(shape, dtype=torch.uint8, device=stream.device)
        self.give_back()  # the memory may be one that the loop's stream still has in use

    def fill(self, images: Bytes, which: NDArray[np.int64]) -> Tensor:
        self._sent.synchronize()
        gathered = super().fill(images, which)
        on_device = self._on_device[: len(which)]
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._read)
            on_device.copy_(gathered, non_blocking=True)
            self._sent.record(self._stream)
        return on_device

    def take(self) -> None:
        torch.cuda.current_stream(self._stream.device).wait_event(self._sent)

    def give_back(self) -> None:
        self._read.record(torch.cuda.current_stream(self._stream.device))
