"""Data sets as their loaders decoded them: arrays on disk that are mapped into memory.

Decoding is done once. What lies here can be used as it is, so that loading takes as long as opening
a few files, and images that are larger than memory can be streamed (`dataset.placement`). For
loaders of the user's own as well:

    def load(dataset: Dataset, seed: int) -> Data:
        folder = Path(dataset.folder)
        photos = sorted(folder.glob("*/*.png"))
        key = {"files": stamp(folder, photos), "image_size": dataset.image_size, "version": 1}
        return cached(folder / "photos.cache", key, lambda: decode(photos, dataset.image_size))

The key says what was decoded, and how: all that another result depends on. Where it has changed,
data is decoded again and what was kept for another key is removed: give what is to be kept side by
side a path of its own.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from greenlab.data.images import Data, Split
from greenlab.errors import first_line

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of what lies in a cache; raised when it changes."""
_FACTS_FILE = "data.json"
_IMAGES_FILE, _LABELS_FILE = "images.npy", "labels.npy"


def stamp(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    """What tells these files in `folder` from others, and from what they were, for a key.

    Raises:
        FileNotFoundError: one of them is not there.
    """
    stats = {str(file.relative_to(folder)): file.stat() for file in files}
    listing = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()])
    return {
        "num_files": len(stats),
        "size_bytes": sum(stat.st_size for stat in stats.values()),
        "listing_sha256": hashlib.sha256(listing.encode()).hexdigest(),
    }


def cached(path: Path, key: Mapping[str, Any], decode: Callable[[], Data]) -> Data:
    """What `decode` returns, from the folder `path` where it lies there under this `key`.

    Images are mapped into memory, for reading alone. Several processes may call this at a time: one
    decodes and the others wait for it. Where nothing can be written, data is decoded each time.
    """
    named = json.dumps({"format": FORMAT, "key": key}, sort_keys=True)
    place = path / hashlib.sha256(named.encode()).hexdigest()[:16]
    if (kept := _read(place)) is not None:
        return kept
    with ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path / ".lock"))
        except OSError as error:
            _warn(path, error)
            return decode()
        if (kept := _read(place)) is not None:
            return kept  # another process was first
        if place.exists():
            logger.warning("%s is damaged: its data is decoded again", place)
        data = decode()
        try:
            _write(place, data, key)
        except OSError as error:
            _warn(path, error)
            return data
        return _read(place) or data


def _warn(path: Path, error: OSError) -> None:
    logger.warning("%s cannot be written, data is decoded each time: %s", path, first_line(error))


def _read(place: Path) -> Data | None:
    """What lies there; None where it is not whole, or not there."""
    try:
        facts = json.loads((place / _FACTS_FILE).read_bytes())
        return Data(
            train=_read_split(place / "train"),
            test=_read_split(place / "test"),
            mean=tuple(facts["mean"]),
            std=tuple(facts["std"]),
            num_classes=facts["num_classes"],
        )
    except (OSError, ValueError, EOFError, KeyError, TypeError):  # how damage shows
        return None


def _read_split(folder: Path) -> Split:
    images = np.load(folder / _IMAGES_FILE, mmap_mode="r")
    with warnings.catch_warnings():
        # A mapping that could be written would count as memory in use, all of it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        mapped = torch.from_numpy(images)
    return Split(images=mapped, labels=torch.from_numpy(np.load(folder / _LABELS_FILE)))


def _write(place: Path, data: Data, key: Mapping[str, Any]) -> None:
    """Under another name first, so that what has this one is whole; the lock is held."""
    for old in place.parent.iterdir():
        if old.is_dir():  # of another key, damaged, or left by a process that was killed
            shutil.rmtree(old)
    partial = place.with_suffix(".partial")
    for name, split in (("train", data.train), ("test", data.test)):
        folder = partial / name
        folder.mkdir(parents=True)
        _save(folder / _IMAGES_FILE, split.images)
        _save(folder / _LABELS_FILE, split.labels)
    facts = {"mean": data.mean, "std": data.std, "num_classes": data.num_classes, "key": key}
    (partial / _FACTS_FILE).write_text(json.dumps(facts, indent=2))
    partial.rename(place)


def _save(path: Path, values: Tensor) -> None:
    with path.open("wb") as file:
        np.save(file, values.numpy())
        file.flush()
        os.fsync(file.fileno())  # else a power cut might leave the name without the content
