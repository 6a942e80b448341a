"""Data sets are what they say, and batches feed every sample as often as they should."""

import hashlib
import io
import math
import os
import pickle
import pkgutil
import socket
import sys
import tarfile
import threading
import types
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10

from greenlab import data
from greenlab.config import Dataset, Placement
from greenlab.data import (
    Batches,
    Data,
    ResidentBatches,
    Split,
    StreamedBatches,
    pixel_statistics,
    streaming,
)
from greenlab.errors import ConfigError, DataUnavailableError

DIGITS = "greenlab.data.digits.load"
SYNTHETIC = "greenlab.data.synthetic.load"
CPU = torch.device("cpu")
DATASET_OPTIONS = sorted((Path(__file__).parent.parent / "conf" / "dataset").glob("*.yaml"))

# Normalising by these gives the bytes back as they are.
AS_BYTES = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}


def numbered_split(num_samples: int, height: int = 6, width: int = 9) -> Split:
    """Random images, each labelled by its place in the split."""
    generator = torch.Generator().manual_seed(7)
    shape = (num_samples, 3, height, width)
    return Split(
        images=torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8),
        labels=torch.arange(num_samples),
    )


def batches_of(
    split: Split,
    num_samples: int,
    batch_size: int,
    *,
    seed: int | None,
    kind: type[Batches] = ResidentBatches,
) -> Batches:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return kind(
        split,
        batch_size=batch_size,
        device=CPU,
        num_samples=num_samples,
        shuffle_generator=generator,
        augment=False,
        **AS_BYTES,
    )


def order_of(batches: Batches) -> list[int]:
    return torch.cat([labels for _, labels in batches]).tolist()


# --- batches


def test_a_pass_covers_each_sample_once_in_order() -> None:
    batches = batches_of(numbered_split(11), 11, 4, seed=None)
    assert [len(labels) for _, labels in batches] == [4, 4, 3]
    assert len(batches) == 3
    assert batches.num_samples == 11
    assert order_of(batches) == list(range(11))


def test_images_keep_their_labels_when_shuffled() -> None:
    split = numbered_split(11)
    batches = batches_of(split, 11, 4, seed=0)
    for images, labels in batches:
        assert images.dtype == torch.float32
        torch.testing.assert_close(images, split.images[labels].float())


def test_each_pass_has_a_new_order_that_the_seed_decides() -> None:
    batches, again = (batches_of(numbered_split(50), 50, 16, seed=3) for _ in range(2))
    first, second = order_of(batches), order_of(batches)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert [order_of(again), order_of(again)] == [first, second]


@pytest.mark.parametrize("seed", [None, 0])
def test_more_samples_than_images_go_over_the_images_again(seed: int | None) -> None:
    batches = batches_of(numbered_split(5), 12, 5, seed=seed)
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    assert np.bincount(order_of(batches)).tolist() == [3, 3, 2, 2, 2]  # 12 = 5 + 5 + 2


def test_fewer_samples_than_images_are_the_first_ones() -> None:
    assert order_of(batches_of(numbered_split(9), 4, 3, seed=None)) == [0, 1, 2, 3]


def test_pixels_are_normalised_per_channel() -> None:
    split = numbered_split(4)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    batches = ResidentBatches(
        split,
        batch_size=4,
        device=CPU,
        mean=mean,
        std=std,
        num_samples=4,
        shuffle_generator=None,
        augment=False,
    )
    [(images, _)] = batches
    for channel in range(3):
        fraction = split.images[:, channel].numpy().astype(np.float64) / 255
        expected = (fraction - mean[channel]) / std[channel]
        np.testing.assert_allclose(images[:, channel].numpy(), expected, rtol=1e-5, atol=1e-5)


def find_crops(original: NDArray[np.uint8], augmented: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Row offset, column offset and mirroring of each image, by trying all there are."""
    height, width = original.shape[2:]
    framed = np.pad(original, ((0, 0), (0, 0), (4, 4), (4, 4)))
    found = np.full((len(original), 3), -1)
    for down in range(9):
        for right in range(9):
            crop = framed[:, :, down : down + height, right : right + width]
            for mirrored, candidate in enumerate((crop, crop[..., ::-1])):
                found[(candidate == augmented).all(axis=(1, 2, 3))] = down, right, mirrored
    return found


def augmented_pass(split: Split, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    batches = ResidentBatches(
        split,
        batch_size=512,
        device=CPU,
        num_samples=len(split),
        shuffle_generator=torch.Generator().manual_seed(seed),
        augment=True,
        **AS_BYTES,
    )
    images, labels = zip(*batches, strict=True)
    return torch.cat(images).round().to(torch.uint8), torch.cat(labels)


def test_augmented_images_are_crops_out_of_a_black_frame_half_of_them_mirrored() -> None:
    split = numbered_split(3000)
    images, labels = augmented_pass(split, seed=0)
    crops = find_crops(split.images[labels].numpy(), images.numpy())
    assert (crops >= 0).all()  # each one is a crop of the image that its label names
    for axis in (0, 1):
        share = np.bincount(crops[:, axis], minlength=9) / 3000
        np.testing.assert_allclose(share, 1 / 9, atol=0.03)  # five times sqrt(1/9 · 8/9 / 3000)
    assert crops[:, :2].mean() == pytest.approx(4, abs=0.2)
    assert crops[:, 2].mean() == pytest.approx(0.5, abs=0.05)
    assert np.abs(np.corrcoef(crops.T) - np.eye(3)).max() < 0.1  # drawn independently


def test_augmentation_is_decided_by_the_seed() -> None:
    split = numbered_split(20)
    (first, _), (again, _), (other, _) = (augmented_pass(split, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_augmentation_leaves_the_split_alone() -> None:
    split = numbered_split(20)
    before = split.images.clone()
    augmented_pass(split, seed=0)
    assert torch.equal(split.images, before)


# --- resident and streamed


def two_passes(
    kind: type[Batches], split: Split, device: torch.device = CPU, **settings: Any
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    batches = kind(
        split,
        **{
            "batch_size": 16,
            "device": device,
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.3, 0.4),
            "num_samples": 150,
            "shuffle_generator": torch.Generator(device=device).manual_seed(5),
            "augment": True,
        }
        | settings,
    )
    return [batch for _ in range(2) for batch in batches]


def assert_same_bits(kinds: Sequence[type[Batches]], *arguments: Any, **settings: Any) -> None:
    resident, streamed = (two_passes(kind, *arguments, **settings) for kind in kinds)
    assert len(resident) == len(streamed) == 2 * math.ceil(settings.get("num_samples", 150) / 16)
    for (images, labels), (others, other_labels) in zip(resident, streamed, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
        assert images.stride() == others.stride()


KINDS = (ResidentBatches, StreamedBatches)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"augment": False},
        {"augment": False, "shuffle_generator": None},
        {"num_samples": 7},
        {"num_samples": 16},
    ],
    ids=["augmented", "shuffled", "in_order", "less_than_a_batch", "one_batch"],
)
def test_streamed_batches_are_the_resident_ones_to_the_bit(
    settings: dict[str, Any], memory_format: torch.memory_format
) -> None:
    assert_same_bits(KINDS, numbered_split(100), memory_format=memory_format, **settings)


@pytest.mark.gpu
def test_streamed_batches_are_the_resident_ones_to_the_bit_on_cuda() -> None:
    split = numbered_split(3000, 32, 32)
    for _ in range(5):  # a race would not show each time
        assert_same_bits(KINDS, split, torch.device("cuda", 0), num_samples=4000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("augment", [False, True])
def test_batches_come_in_the_layout_asked_for(kind: type[Batches], augment: bool) -> None:
    split = numbered_split(40)
    plain = two_passes(kind, split, augment=augment)
    last = two_passes(kind, split, augment=augment, memory_format=torch.channels_last)
    for (images, _), (others, _) in zip(plain, last, strict=True):
        assert images.is_contiguous()
        assert others.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(images, others)


def test_a_file_mapped_into_memory_is_streamed(tmp_path: Path) -> None:
    split = numbered_split(100)
    np.save(tmp_path / "images.npy", split.images.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="c"))
    on_disk = replace(split, images=mapped)
    resident, streamed = two_passes(ResidentBatches, split), two_passes(StreamedBatches, on_disk)
    for (images, _), (others, _) in zip(resident, streamed, strict=True):
        assert torch.equal(images, others)


def feeding_threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("batches")]


def test_a_streamed_pass_that_is_abandoned_leaves_no_thread() -> None:
    batches = batches_of(numbered_split(100), 100, 4, seed=0, kind=StreamedBatches)
    abandoned = iter(batches)
    next(abandoned)
    assert len(feeding_threads()) == 1
    abandoned.close()  # type: ignore[attr-defined]  # as happens to one that nobody refers to
    assert feeding_threads() == []
    assert len(list(batches)) == 25
    assert feeding_threads() == []


def test_the_thread_is_a_few_batches_ahead_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    fill = streaming._Slot.fill
    monkeypatch.setattr(
        streaming._Slot,
        "fill",
        lambda slot, images, which: filled.append(len(which)) or fill(slot, images, which),
    )
    taken = iter(batches_of(numbered_split(100), 100, 4, seed=0, kind=StreamedBatches))
    for number in range(1, 4):
        next(taken)
        # This one and those ahead of it, at most; less where the thread is not there yet.
        assert number <= len(filled) <= number + streaming.NUM_AHEAD - 1
    assert len(list(taken)) == 25 - 3
    assert filled == [4] * 25


def test_what_goes_wrong_in_the_thread_is_raised_in_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill = streaming._Slot.fill

    def fail_at_the_fifth(slot: Any, images: Any, which: Any) -> torch.Tensor:
        if 16 in which:
            raise OSError("the disk is gone")
        return fill(slot, images, which)

    monkeypatch.setattr(streaming._Slot, "fill", fail_at_the_fifth)
    batches = iter(batches_of(numbered_split(40), 40, 4, seed=None, kind=StreamedBatches))
    assert [len(labels) for _, labels in islice(batches, 4)] == [4] * 4
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert feeding_threads() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_may_begin_in_inference_mode(kind: type[Batches]) -> None:
    split = numbered_split(20)
    expected = two_passes(kind, split, num_samples=20)
    with torch.inference_mode():
        seen = two_passes(kind, split, num_samples=20)
    for (images, _), (others, _) in zip(expected, seen, strict=True):
        assert torch.equal(images, others)


# A tenth of a gigabyte that is free, half of it is for images. 3 × 32 × 32 bytes each, or 40 × 40
# with the frame of what is augmented.
@pytest.mark.parametrize(
    ("placement", "augment", "num_train", "kind"),
    [
        ("auto", False, 13_000, ResidentBatches),  # (13,000 + 3,000) · 3,072 = 49.2 MB
        ("auto", False, 14_000, StreamedBatches),  # (14,000 + 3,000) · 3,072 = 52.2 MB
        ("auto", True, 8_000, ResidentBatches),  # 8,000 · 4,800 + 3,000 · 3,072 = 47.6 MB
        ("auto", True, 9_000, StreamedBatches),  # 9,000 · 4,800 + 3,000 · 3,072 = 52.4 MB
        ("resident", False, 14_000, ResidentBatches),
        ("streamed", False, 10, StreamedBatches),
    ],
)
def test_what_fits_in_half_of_free_memory_is_resident(
    placement: str, augment: bool, num_train: int, kind: type[Batches]
) -> None:
    dataset = Dataset(_target_=DIGITS, placement=Placement[placement], augment=augment)
    assert data.choose_batches(dataset, unwritten(num_train), CPU, lambda _: 100_000_000) is kind


def test_images_that_cannot_be_resident_are_refused() -> None:
    dataset = Dataset(_target_=DIGITS, placement=Placement.resident)
    # (47,000 + 3,000) · 3,072 = 153.6 MB
    with pytest.raises(DataUnavailableError, match=r"take 0\.2 GB and 0\.1 GB.*=streamed"):
        data.choose_batches(dataset, unwritten(47_000), CPU, lambda _: 100_000_000)


def unwritten(num_train: int) -> Data:
    """CIFAR-10's shape in memory that nobody touches."""
    train, test = (
        Split(
            images=torch.empty(number, 3, 32, 32, dtype=torch.uint8),
            labels=torch.zeros(number, dtype=torch.int64),
        )
        for number in (num_train, 3_000)
    )
    return Data(train=train, test=test, mean=(0.5,) * 3, std=(0.2,) * 3, num_classes=10)


@pytest.mark.gpu
def test_no_step_waits_for_a_cuda_device() -> None:
    device = torch.device("cuda", 0)
    generator = torch.Generator(device=device)
    generator.manual_seed(0)
    batches = ResidentBatches(
        numbered_split(64),
        batch_size=16,
        device=device,
        num_samples=100,
        shuffle_generator=generator,
        augment=True,
        **AS_BYTES,
    )
    torch.cuda.set_sync_debug_mode("error")
    try:
        devices = {tensor.device for batch in batches for tensor in batch}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert devices == {device}


def test_pixel_statistics_are_those_of_the_pixels() -> None:
    images = numbered_split(10).images
    mean, std = pixel_statistics(images)
    fraction = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, fraction.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(std, fraction.std(axis=(0, 2, 3)))


# --- loading


def test_num_samples_takes_the_first_of_both_splits() -> None:
    whole = data.load(Dataset(_target_=DIGITS, image_size=8), seed=0)
    some = data.load(Dataset(_target_=DIGITS, image_size=8, num_samples=100), seed=0)
    for split, full in ((some.train, whole.train), (some.test, whole.test)):
        assert torch.equal(split.images, full.images[:100])
        assert torch.equal(split.labels, full.labels[:100])
    assert (some.mean, some.std) == (whole.mean, whole.std)


def test_a_test_split_that_is_smaller_is_kept_whole() -> None:
    loaded = data.load(Dataset(_target_=DIGITS, image_size=8, num_samples=720), seed=0)
    assert (len(loaded.train), len(loaded.test)) == (720, 360)


def test_more_samples_than_there_are_is_refused() -> None:
    wanted = Dataset(_target_=DIGITS, image_size=8, num_samples=1438)
    with pytest.raises(DataUnavailableError, match=r"num_samples=1438.*training split has 1437"):
        data.load(wanted, seed=0)


@pytest.mark.parametrize(
    "target", ["no_such_module.load", "greenlab.data.digits.no_such", "..", "math.pi"]
)
def test_a_loader_that_cannot_be_imported_is_named(target: str) -> None:
    with pytest.raises(ConfigError, match=r"dataset\._target_="):
        data.load(Dataset(_target_=target), seed=0)


GOOD = Data(
    train=Split(
        images=torch.zeros(4, 3, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 1, 2, 3])
    ),
    test=Split(images=torch.zeros(2, 3, 8, 8, dtype=torch.uint8), labels=torch.tensor([0, 9])),
    mean=(0.5,) * 3,
    std=(0.2,) * 3,
    num_classes=10,
)


def load_own(monkeypatch: pytest.MonkeyPatch, returned: object) -> Data:
    module = types.ModuleType("my_data")
    module.load = lambda dataset, seed: returned  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_data", module)
    return data.load(Dataset(_target_="my_data.load", image_size=8), seed=0)


def test_a_loader_of_the_users_own_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_own(monkeypatch, GOOD) is GOOD


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ((GOOD.train, GOOD.test), "returned a tuple"),
        (replace(GOOD, num_classes=5), "has 5 classes; set dataset.num_classes=5"),
        (replace(GOOD, mean=(0.5,)), "dataset.num_channels=3"),
        (replace(GOOD, std=(0.2, 0.0, 0.2)), "every std above 0"),
        (replace(GOOD, train=replace(GOOD.train, images=torch.zeros(4, 3, 8, 8))), "uint8"),
        (replace(GOOD, train=replace(GOOD.train, labels=torch.arange(3))), "one label per image"),
        (
            replace(GOOD, test=replace(GOOD.test, images=GOOD.test.images[..., :7])),
            r"test images of shape \(3, 8, 7\)",
        ),
        (replace(GOOD, test=replace(GOOD.test, labels=torch.tensor([0, 10]))), "from 0 to 10"),
        (replace(GOOD, test=replace(GOOD.test, labels=torch.tensor([-1, 1]))), "from -1 to 1"),
    ],
)
def test_a_loader_that_returns_something_else_is_refused(
    monkeypatch: pytest.MonkeyPatch, returned: object, problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\._target_=my_data\.load.*{problem}"):
        load_own(monkeypatch, returned)


@pytest.mark.parametrize("option", DATASET_OPTIONS, ids=lambda path: path.stem)
def test_every_dataset_option_is_a_dataset_and_says_how_to_run_it(option: Path) -> None:
    text = option.read_text()
    dataset = Dataset(**yaml.safe_load(text))
    assert callable(pkgutil.resolve_name(dataset._target_))
    assert text.startswith("#")
    assert f"python -m greenlab dataset={option.stem}" in text.splitlines()[0]


# --- digits


def rows(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[tuple[int, ...]]:
    return sorted(
        (int(label), *image.ravel().tolist()) for image, label in zip(images, labels, strict=True)
    )


def test_digits_are_scikit_learns_split_in_two() -> None:
    loaded = data.load(Dataset(_target_=DIGITS, image_size=8, num_channels=1), seed=0)
    assert (len(loaded.train), len(loaded.test)) == (1437, 360)
    original = load_digits()
    pixels = np.round(original.images * 255 / 16).astype(np.uint8)
    images = torch.cat([loaded.train.images, loaded.test.images]).numpy()
    labels = torch.cat([loaded.train.labels, loaded.test.labels]).numpy()
    # Every digit is in one of the splits, none in both, none altered.
    assert rows(images, labels) == rows(pixels, original.target)


def test_digits_are_split_in_equal_shares_and_mixed() -> None:
    loaded = data.load(Dataset(_target_=DIGITS, image_size=8), seed=0)
    in_all = np.bincount(load_digits().target)
    in_test = np.bincount(loaded.test.labels.numpy())
    np.testing.assert_allclose(in_test, in_all * 360 / 1797, atol=1)
    for split in (loaded.train, loaded.test):
        assert (split.labels[1:] == split.labels[:-1]).float().mean() < 0.2  # a tenth by chance


def test_digits_do_not_depend_on_the_seed() -> None:
    first, second = (data.load(Dataset(_target_=DIGITS), seed) for seed in (0, 1))
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)


def test_digits_are_enlarged_to_the_size_asked() -> None:
    square = data.load(Dataset(_target_=DIGITS), seed=0).train.images
    assert square.shape == (1437, 3, 32, 32)
    assert square.dtype == torch.uint8
    assert (square[:, 0] == square[:, 1]).all()
    assert (square[:, 0] == square[:, 2]).all()
    assert square.min() == 0
    assert square.max() > 240
    small = data.load(Dataset(_target_=DIGITS, image_size=8), seed=0).train.images
    # Enlarging moves no light: the means of an image and of its enlargement agree.
    np.testing.assert_allclose(
        square.float().mean((1, 2, 3)), small.float().mean((1, 2, 3)), atol=8
    )
    wide = data.load(Dataset(_target_=DIGITS, image_size=20, image_width=30), seed=0)
    assert wide.test.images.shape == (360, 3, 20, 30)


def test_digits_are_normalised_by_their_training_pixels() -> None:
    loaded = data.load(Dataset(_target_=DIGITS), seed=0)
    fraction = loaded.train.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(loaded.mean, fraction.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(loaded.std, fraction.std(axis=(0, 2, 3)))


def test_there_are_ten_digits() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.num_classes=10"):
        data.load(Dataset(_target_=DIGITS, num_classes=3), seed=0)


# --- synthetic


def test_synthetic_data_can_be_learnt() -> None:
    loaded = data.load(Dataset(_target_=SYNTHETIC, num_samples=500, image_size=16), seed=0)
    train, test = (split.images.flatten(1).float() for split in (loaded.train, loaded.test))
    centres = torch.stack([train[loaded.train.labels == label].mean(0) for label in range(10)])
    guesses = torch.cdist(test, centres).argmin(1)
    assert (guesses == loaded.test.labels).float().mean() > 0.9  # chance: 0.1


def test_synthetic_samples_differ_and_classes_are_balanced() -> None:
    loaded = data.load(Dataset(_target_=SYNTHETIC, num_samples=103, image_size=8), seed=0)
    images = torch.cat([loaded.train.images, loaded.test.images])
    assert len(images.flatten(1).unique(dim=0)) == 206  # no two alike, within splits and across
    for split in (loaded.train, loaded.test):
        counts = torch.bincount(split.labels, minlength=10)
        assert sorted(counts.tolist()) == [10] * 7 + [11] * 3
        assert split.labels.tolist() != sorted(split.labels.tolist())
    for deviation in pixel_statistics(images)[1]:
        assert deviation > 0.1


def test_synthetic_data_is_decided_by_the_seed() -> None:
    dataset = Dataset(_target_=SYNTHETIC, num_samples=20, image_size=8)
    first, again, other = (data.load(dataset, seed) for seed in (5, 5, 6))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.labels, again.test.labels)
    assert not torch.equal(first.train.images, other.train.images)


def test_synthetic_data_has_any_shape() -> None:
    dataset = Dataset(
        _target_=SYNTHETIC,
        num_samples=150,
        num_channels=5,
        image_size=224,
        image_width=100,
        num_classes=3,
    )
    loaded = data.load(dataset, seed=0)  # 112,000 values an image: drawn in three chunks
    assert loaded.train.images.shape == (150, 5, 224, 100)
    assert loaded.train.images[-1].float().std() > 10  # the last chunk is filled too
    assert sorted(loaded.test.labels.unique().tolist()) == [0, 1, 2]


def test_synthetic_data_has_2048_samples_by_default() -> None:
    loaded = data.load(Dataset(_target_=SYNTHETIC, image_size=8, num_channels=1), seed=0)
    assert (len(loaded.train), len(loaded.test)) == (2048, 2048)


# --- CIFAR-10


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let downloads go to a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{port}/{CIFAR10.filename}")


def cifar10_in(folder: Path) -> Dataset:
    return Dataset(_target_="greenlab.data.cifar10.load", folder=str(folder))


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def put_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> Callable[[float], dict[str, NDArray[np.uint8]]]:
    """Put an archive in CIFAR-10's format, 20 images to a file, in tmp_path.

    Its checksum stands for the real one's; the argument says which fraction of it to keep.
    """

    def put(kept_fraction: float = 1.0) -> dict[str, NDArray[np.uint8]]:
        random = np.random.default_rng(0)
        names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
        rows = {name: random.integers(0, 256, (20, 3072), dtype=np.uint8) for name in names}
        files = {
            name: pickle.dumps({"data": rows[name], "labels": [i % 10 for i in range(20)]}, 2)
            for name in names
        }
        meta_name = CIFAR10.meta["filename"]
        files[meta_name] = pickle.dumps({"label_names": list("abcdefghij")}, 2)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        kept = packed.getvalue()[: math.ceil(len(packed.getvalue()) * kept_fraction)]
        (tmp_path / CIFAR10.filename).write_bytes(kept)
        monkeypatch.setattr(CIFAR10, "tgz_md5", md5(kept))
        sums = [[name, md5(files[name])] for name in names]
        monkeypatch.setattr(CIFAR10, "train_list", sums[:-1])
        monkeypatch.setattr(CIFAR10, "test_list", sums[-1:])
        monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(files[meta_name])})
        return rows

    return put


def test_cifar10_is_unpacked_from_an_archive_put_in_place(
    tmp_path: Path, put_archive: Callable[..., dict[str, NDArray[np.uint8]]]
) -> None:
    rows = put_archive()
    loaded = data.load(cifar10_in(tmp_path), seed=0)
    # A row of the format is 1,024 red bytes, 1,024 green, 1,024 blue; each 32 rows of 32 pixels.
    *train, test = (content.reshape(20, 3, 32, 32) for content in rows.values())
    np.testing.assert_array_equal(loaded.train.images.numpy(), np.concatenate(train))
    np.testing.assert_array_equal(loaded.test.images.numpy(), test)
    assert loaded.test.labels.tolist() == [i % 10 for i in range(20)]
    assert (loaded.mean, loaded.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    (tmp_path / CIFAR10.filename).unlink()  # what is unpacked is enough
    assert torch.equal(data.load(cifar10_in(tmp_path), seed=0).test.images, loaded.test.images)


def test_cifar10_that_is_not_there_says_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataUnavailableError) as refusal:
        data.load(cifar10_in(Path("some_data")), seed=0)
    message = str(refusal.value)
    assert str(tmp_path / "some_data") in message
    for way_out in ("cifar-10-python.tar.gz", "dataset.folder", "dataset=digits"):
        assert way_out in message
    assert socket.getdefaulttimeout() is None


def test_an_archive_that_is_not_cifar10_is_called_damaged(tmp_path: Path, no_network: None) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(b"not an archive")
    with pytest.raises(DataUnavailableError, match=r"cifar-10-python\.tar\.gz is damaged"):
        data.load(cifar10_in(tmp_path), seed=0)


def test_an_archive_that_breaks_off_is_called_damaged(
    tmp_path: Path, put_archive: Callable[..., dict[str, NDArray[np.uint8]]]
) -> None:
    put_archive(kept_fraction=0.5)
    with pytest.raises(DataUnavailableError, match=r"cifar-10-python\.tar\.gz is damaged"):
        data.load(cifar10_in(tmp_path), seed=0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, no_network: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataUnavailableError, match=r"file/data \(dataset\.folder\)"):
        data.load(cifar10_in(tmp_path / "file" / "data"), seed=0)


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 64), ("image_width", 64), ("num_channels", 1), ("num_classes", 100)],
)
def test_cifar10_has_one_shape(tmp_path: Path, key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"dataset\.{key}={value}"):
        data.load(replace(cifar10_in(tmp_path), **{key: value}), seed=0)


def test_cifar10_is_decoded_once_until_its_files_change(
    tmp_path: Path,
    put_archive: Callable[..., dict[str, NDArray[np.uint8]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_archive()
    first = data.load(cifar10_in(tmp_path), seed=0)
    verified: list[str] = []
    check = CIFAR10._check_integrity
    monkeypatch.setattr(
        CIFAR10, "_check_integrity", lambda self: verified.append("once") or check(self)
    )
    again = data.load(cifar10_in(tmp_path), seed=0)
    assert torch.equal(again.train.images, first.train.images)
    assert verified == []
    os.utime(tmp_path / CIFAR10.base_folder / "data_batch_3", ns=(0, 1))
    changed = data.load(cifar10_in(tmp_path), seed=0)
    assert torch.equal(changed.train.images, first.train.images)
    assert verified != []


def test_cifar10s_files_that_are_damaged_are_unpacked_again(
    tmp_path: Path, put_archive: Callable[..., dict[str, NDArray[np.uint8]]]
) -> None:
    put_archive()
    first = data.load(cifar10_in(tmp_path), seed=0)
    (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(b"garbage")
    assert torch.equal(data.load(cifar10_in(tmp_path), seed=0).test.images, first.test.images)
