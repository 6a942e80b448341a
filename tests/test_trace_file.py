"""The trace on its way to trace.parquet: nothing is lost, and memory holds one group of it."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from greenlab.record import TRACE_FILE
from greenlab.trace_file import ROWS_FILE, RowFile, complete_trace, read_trace

NAMES = ["time_s", "cpu_busy_s", "cpu_stolen_s", "cpu_total_s", "cpu_own_s", "cpu0_energy_j"]
PERIOD_S = 0.5


def sample(number: int) -> list[float]:
    """Every half second: two CPUs, of which half of one works; number + 1 joules since before."""
    joules = number * (number + 1) / 2
    seconds = number * PERIOD_S
    return [1e9 + seconds, seconds / 2, 0.0, 2 * seconds, seconds / 4, joules]


def keep_rows(folder: Path, num: int) -> RowFile:
    rows = RowFile(folder, NAMES)
    for number in range(num):
        rows.add(sample(number))
    return rows


# From sample 3 to sample 4 the counter goes from 6 J to 10 J: 4 J in 0.5 s are 8 W, and 2 W more
# for each sample. Of two CPUs a quarter is busy, half of which by this process.
@pytest.mark.parametrize(("rows_per_group", "num_groups"), [(3, 4), (5, 2), (9, 2), (10, 1)])
def test_a_trace_is_the_same_however_it_is_divided(
    tmp_path: Path, rows_per_group: int, num_groups: int
) -> None:
    keep_rows(tmp_path, 10).close()
    complete_trace(tmp_path, rows_per_group)

    trace = read_trace(tmp_path / TRACE_FILE)
    assert pq.ParquetFile(tmp_path / TRACE_FILE).num_row_groups == num_groups
    assert trace["time_s"].tolist() == [1e9 + PERIOD_S * number for number in range(10)]
    assert trace["cpu0_power_w"].tolist()[1:] == [2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert trace["cpu_percent"].tolist()[1:] == [25.0] * 9
    assert trace["cpu_others_percent"].tolist()[1:] == [12.5] * 9
    assert np.isnan(trace["cpu0_power_w"][0])  # nothing is known of before
    assert not (tmp_path / ROWS_FILE).exists()


def test_columns_stand_in_the_order_of_their_names_and_no_other_is_there(tmp_path: Path) -> None:
    keep_rows(tmp_path, 2).close()
    complete_trace(tmp_path)

    trace = read_trace(tmp_path / TRACE_FILE)
    derived = ["cpu0_power_w", "cpu_percent", "cpu_others_percent", "cpu_stolen_percent"]
    assert list(trace) == [*NAMES, *derived]
    assert len(trace) == len(NAMES) + 4
    assert "gpu0_power_w" not in trace


def test_a_trace_without_a_sample_is_a_trace(tmp_path: Path) -> None:
    keep_rows(tmp_path, 0).close()
    complete_trace(tmp_path)

    assert len(read_trace(tmp_path / TRACE_FILE)["cpu0_power_w"]) == 0


def test_what_was_flushed_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    rows = keep_rows(tmp_path, 4)
    rows.flush()
    rows.add(sample(4))  # in memory when it is killed
    with (tmp_path / ROWS_FILE).open("ab") as file:
        file.write(bytes(20))  # two numbers and a half of a row that was being written
    complete_trace(tmp_path)

    assert read_trace(tmp_path / TRACE_FILE)["cpu0_energy_j"].tolist() == [0, 1, 3, 6]


def test_a_trace_that_is_complete_is_left_alone(tmp_path: Path) -> None:
    keep_rows(tmp_path, 4).close()
    complete_trace(tmp_path)
    written = (tmp_path / TRACE_FILE).read_bytes()
    complete_trace(tmp_path)

    assert (tmp_path / TRACE_FILE).read_bytes() == written


@pytest.mark.parametrize("header", [b"", b'["time_s", "cpu_'])
def test_a_cell_that_ended_before_its_trace_began_has_none(tmp_path: Path, header: bytes) -> None:
    (tmp_path / ROWS_FILE).write_bytes(header)
    complete_trace(tmp_path)

    assert not (tmp_path / TRACE_FILE).exists()
    assert not (tmp_path / ROWS_FILE).exists()


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """No file may be longer; like a disk that becomes full, the system takes what still fits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_samples_wait_in_memory_while_the_disk_is_full(tmp_path: Path) -> None:
    rows = keep_rows(tmp_path, 10)  # 10 samples of 48 bytes, behind 93 of names
    with room_for(300):
        rows.flush()
        rows.add(sample(10))
        rows.flush()
    rows.add(sample(11))
    rows.close()
    complete_trace(tmp_path)

    energy_j = read_trace(tmp_path / TRACE_FILE)["cpu0_energy_j"]
    assert energy_j.tolist() == [number * (number + 1) / 2 for number in range(12)]


def test_a_disk_that_is_still_full_at_the_end_is_said(tmp_path: Path) -> None:
    rows = keep_rows(tmp_path, 10)
    with room_for(300), pytest.raises(OSError, match="No space left"):
        rows.close()
