"""What was decoded once is the same when it comes from the cache, and is decoded again when due."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from test_data import numbered_split

from greenlab.data import Data, Split
from greenlab.data.cache import cached, stamp

DATA = Data(
    train=numbered_split(30),
    test=numbered_split(11),
    mean=(0.1, 0.25, 0.3),
    std=(1 / 3, 0.2, 0.5),
    num_classes=30,
)
KEY = {"version": 1}


class Decoder:
    """Returns `DATA`, and counts how often it was asked."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self) -> Data:
        self.num_calls += 1
        return DATA


def assert_equal(data: Data, expected: Data) -> None:
    for split, original in ((data.train, expected.train), (data.test, expected.test)):
        assert torch.equal(split.images, original.images)
        assert torch.equal(split.labels, original.labels)
    assert (data.mean, data.std) == (expected.mean, expected.std)
    assert data.num_classes == expected.num_classes


def test_data_is_decoded_once_and_comes_back_as_it_was(tmp_path: Path) -> None:
    decode = Decoder()
    for _ in range(3):
        assert_equal(cached(tmp_path / "cache", KEY, decode), DATA)
    assert decode.num_calls == 1


def test_images_are_mapped_not_read(tmp_path: Path) -> None:
    cached(tmp_path / "cache", KEY, Decoder())
    kept = cached(tmp_path / "cache", KEY, Decoder())
    [file] = (tmp_path / "cache").glob("*/train/images.npy")
    assert str(file) in Path("/proc/self/maps").read_text()
    assert_equal(kept, DATA)


def test_another_key_means_another_decoding_and_the_old_one_goes(tmp_path: Path) -> None:
    decode, path = Decoder(), tmp_path / "cache"
    first = cached(path, KEY, decode)
    cached(path, {"version": 2}, decode)
    assert decode.num_calls == 2
    assert len(list(path.glob("*/data.json"))) == 1
    assert_equal(first, DATA)  # whoever has it mapped keeps it


def test_the_key_can_be_read_by_people(tmp_path: Path) -> None:
    cached(tmp_path / "cache", {"image_size": 64}, Decoder())
    [facts] = (tmp_path / "cache").glob("*/data.json")
    assert json.loads(facts.read_text())["key"] == {"image_size": 64}


def test_a_stamp_tells_of_size_time_and_name(tmp_path: Path) -> None:
    file = tmp_path / "cat" / "1"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    os.utime(file, ns=(0, 5))
    first = stamp(tmp_path, [file])
    assert (first["num_files"], first["size_bytes"]) == (1, 3)
    assert stamp(tmp_path, [file]) == first
    os.utime(file, ns=(0, 6))
    later = stamp(tmp_path, [file])
    file.rename(tmp_path / "1")
    moved = stamp(tmp_path, [tmp_path / "1"])
    (tmp_path / "1").write_bytes(b"abcd")
    os.utime(tmp_path / "1", ns=(0, 6))
    longer = stamp(tmp_path, [tmp_path / "1"])
    listings = [one["listing_sha256"] for one in (first, later, moved, longer)]
    assert len(set(listings)) == 4


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@pytest.mark.parametrize("damage", [truncate, Path.unlink, lambda file: os.truncate(file, 0)])
@pytest.mark.parametrize(
    "name", ["data.json", "train/images.npy", "train/labels.npy", "test/images.npy"]
)
def test_what_is_damaged_is_made_anew_and_said_once(
    tmp_path: Path, damage: Callable[[Path], None], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    decode, path = Decoder(), tmp_path / "cache"
    cached(path, KEY, decode)
    [file] = path.glob(f"*/{name}")
    damage(file)
    with caplog.at_level(logging.WARNING):
        assert_equal(cached(path, KEY, decode), DATA)
        assert_equal(cached(path, KEY, decode), DATA)
    assert decode.num_calls == 2
    [line] = caplog.messages
    assert "is damaged" in line


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    cached(path, KEY, Decoder())
    [whole] = path.glob("*/data.json")
    place = whole.parent
    shutil.copytree(place, place.with_suffix(".partial"))
    shutil.rmtree(place)
    assert_equal(cached(path, KEY, decode := Decoder()), DATA)
    assert decode.num_calls == 1
    assert [one.name for one in path.iterdir() if one.is_dir()] == [place.name]


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert_equal(cached(tmp_path / "file" / "cache", KEY, Decoder()), DATA)
    [line] = caplog.messages
    assert "file/cache cannot be written" in line


def test_what_decoding_raises_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    def fail() -> Data:
        raise FileNotFoundError("no such picture")

    with pytest.raises(FileNotFoundError, match="no such picture"):
        cached(tmp_path / "cache", KEY, fail)
    assert not list(tmp_path.glob("cache/*/"))


def test_an_empty_split_or_a_wide_label_is_no_damage(tmp_path: Path) -> None:
    odd = replace(
        DATA, test=Split(images=DATA.test.images[:0], labels=torch.tensor([], dtype=torch.int64))
    )
    decode_odd = Decoder()
    for _ in range(2):
        cached(tmp_path / "cache", KEY, lambda: (decode_odd(), odd)[1])
    assert decode_odd.num_calls == 1


def _decode_in_a_process(path: Path, marks: Path) -> None:
    def decode() -> Data:
        (marks / str(os.getpid())).write_text("")
        return DATA

    assert_equal(cached(path, KEY, decode), DATA)


@pytest.mark.slow
def test_of_several_processes_one_decodes(tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    processes = [
        get_context("spawn").Process(target=_decode_in_a_process, args=(tmp_path / "cache", marks))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    assert len(list(marks.iterdir())) == 1
