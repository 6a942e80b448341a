"""CIFAR-10, the paper's data set: 60,000 colour photographs of 32×32 pixels in ten classes.

Krizhevsky, *Learning Multiple Layers of Features from Tiny Images* (2009). torchvision fetches,
verifies and unpacks it; a machine without network needs the archive put in place by hand. 50,000
images train, 10,000 test; the files hold them in random order. Once decoded they lie beside those
files (cache.py), and torchvision, which takes seconds to import, is not needed again.
"""

import http.client
import socket
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from greenlab.config import Dataset
from greenlab.data import Data, Split
from greenlab.data.cache import cached, stamp
from greenlab.errors import ConfigError, DataUnavailableError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

NUM_CLASSES = 10
NUM_CHANNELS = 3
IMAGE_SIZE = 32

# What the paper's code normalises by. Its std is the mean over images of each one's own std; that
# of all pixels together is about a quarter greater.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)

_UNPACKED = "cifar-10-batches-py"
_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_CACHE = "cifar-10.cache"
_VERSION = 1
"""Of what is made of the files; raised when that changes."""

_TIMEOUT_S = 20.0  # our choice: longer than a slow server needs to answer, short of a hang


def load(dataset: Dataset, seed: int) -> Data:
    """Load CIFAR-10 from `dataset.folder`, downloading it first where it is not there.

    Raises:
        ConfigError: `dataset` asks for another shape or number of classes than CIFAR-10 has.
        DataUnavailableError: it is not there, or damaged, and cannot be downloaded.
    """
    _check(dataset)
    folder = Path(dataset.folder).expanduser().absolute()
    try:
        return _open(folder)
    except (OSError, RuntimeError, http.client.HTTPException, tarfile.TarError) as error:
        raise DataUnavailableError(_way_out(folder, error)) from error
    except (EOFError, zlib.error) as error:  # how a truncated or garbled archive shows
        raise DataUnavailableError(_way_out(folder, error)) from error


def _check(dataset: Dataset) -> None:
    width = dataset.image_width or dataset.image_size
    for key, value, fixed in (
        ("image_size", dataset.image_size, IMAGE_SIZE),
        ("image_width", width, IMAGE_SIZE),
        ("num_channels", dataset.num_channels, NUM_CHANNELS),
        ("num_classes", dataset.num_classes, NUM_CLASSES),
    ):
        if value != fixed:
            raise ConfigError(
                f"dataset.{key}={value}, but CIFAR-10's is {fixed}: leave it at {fixed}, or set "
                "dataset=synthetic, which has any"
            )


def _open(folder: Path) -> Data:
    try:
        return _load(folder)
    except (FileNotFoundError, RuntimeError):  # the files are not there, or not what they should be
        _fetch(folder)
    return _load(folder)


def _load(folder: Path) -> Data:
    files = stamp(folder, (folder / _UNPACKED / name for name in _FILES))
    key = {"files": files, "version": _VERSION}
    return cached(folder / _CACHE, key, lambda: _decode(folder))


def _decode(folder: Path) -> Data:
    from torchvision.datasets import CIFAR10

    return Data(
        train=_split(CIFAR10(folder, train=True)),
        test=_split(CIFAR10(folder, train=False)),
        mean=MEAN,
        std=STD,
        num_classes=NUM_CLASSES,
    )


def _fetch(folder: Path) -> None:
    from torchvision.datasets import CIFAR10

    folder.mkdir(parents=True, exist_ok=True)
    # Where cells run several at a time, one downloads and the others wait for it.
    with FileLock(folder / ".cifar10.lock"), _socket_timeout(_TIMEOUT_S):
        CIFAR10(folder, download=True)


@contextmanager
def _socket_timeout(timeout_s: float) -> Iterator[None]:
    # torchvision has no timeout of its own: a network that swallows packets would hang the cell.
    before_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout_s)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before_s)


def _way_out(folder: Path, error: BaseException) -> str:
    from torchvision.datasets import CIFAR10

    archive = folder / CIFAR10.filename
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if archive.exists():
        problem = (
            f"{archive} is damaged or incomplete (its MD5 must be {CIFAR10.tgz_md5}), or what was "
            f"unpacked from it is, and fetching it again failed: {reason}. Replace it"
        )
    else:
        problem = (
            f"CIFAR-10 is not in {folder} (dataset.folder) and cannot be downloaded: {reason}. "
            f"Place {CIFAR10.filename} in that folder, where it is unpacked on the next run"
        )
    return f"{problem}, set dataset.folder to where it lies, or use dataset=digits, which is here"


def _split(cifar: "CIFAR10") -> Split:
    return Split(
        images=torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous(),
        labels=torch.tensor(cifar.targets, dtype=torch.int64),
    )
