"""The trace of a cell on disk: rows while it grows, trace.parquet once it has ended.

While a cell is measured, its samples go to trace.rows once a second: eight bytes a number, behind a
line that names the columns. That takes some microseconds, in an idle window as in a pass, and what
was sampled outlives a process that is killed. A Parquet file does not: it cannot be read without
its end. Nor is it cheap to add to: a group of rows takes at least a millisecond, of one pass or the
other. So the rows become trace.parquet afterwards, group by group, in memory for one group.
"""

import contextlib
import errno
import itertools
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from greenlab.record import TRACE_FILE
from greenlab.trace import Columns, derive

ROWS_FILE = "trace.rows"
ROWS_PER_GROUP = 6000
"""Ten minutes at 10 Hz. Six times as many take 50 MB more; fewer, no less, and longer to read."""


class RowFile:
    """Samples on their way to disk."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.open(folder / ROWS_FILE, flags, 0o666)
        self._rows = array("d")
        self._end = _write(self._file, json.dumps(names).encode() + b"\n", 0)

    def add(self, row: Iterable[float]) -> None:
        """Add a sample, a number for each column."""
        self._rows.extend(row)

    def flush(self) -> None:
        """Write what was added; where the disk is full, it waits in memory for the next time."""
        with contextlib.suppress(OSError):
            self._write_rows()

    def close(self) -> None:
        """Write what is left; OSError where it cannot be."""
        try:
            self._write_rows()
        finally:
            os.close(self._file)

    def _write_rows(self) -> None:
        self._end += _write(self._file, self._rows, self._end)
        del self._rows[:]


def _write(file: int, content: "bytes | array[float]", at: int) -> int:
    """Write all of it, or raise; a disk that has room for a part takes that and says nothing."""
    num_bytes = memoryview(content).nbytes
    if os.pwrite(file, content, at) < num_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return num_bytes


def complete_trace(folder: Path, rows_per_group: int = ROWS_PER_GROUP) -> Path:
    """Turn the rows that a cell has left into its trace; nothing where that has been done.

    Returns where the trace is, if there is one.
    """
    path, complete = folder / ROWS_FILE, folder / TRACE_FILE
    if not path.exists():
        return complete
    with path.open("rb") as file:
        header = file.readline()
        if header.endswith(b"\n"):  # else it ended, or the disk was full, before the first sample
            write_trace(complete, _groups(file, json.loads(header), rows_per_group))
    path.unlink()
    return complete


def _groups(
    file: BinaryIO, names: Sequence[str], rows_per_group: int
) -> Iterator[dict[str, NDArray[np.float64]]]:
    """The samples by column, and what is derived from them, so many at a time; one group at least.

    What a sample is derived from is itself and the one before.
    """
    before = np.empty((0, len(names)))
    num_rows = rows_per_group
    while num_rows == rows_per_group:
        numbers = np.fromfile(file, np.float64, rows_per_group * len(names))
        num_rows = len(numbers) // len(names)  # a process that was killed may have left half a row
        rows = numbers[: num_rows * len(names)].reshape(num_rows, len(names))
        if num_rows or not len(before):
            columns = derive(dict(zip(names, np.concatenate([before, rows]).T, strict=True)))
            yield {name: values[len(before) :] for name, values in columns.items()}
        before = rows[-1:]


def write_trace(path: Path, groups: Iterable[Columns]) -> None:
    """Write samples as Parquet, one row per sample; of groups of them, one is in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def column(values: NDArray[np.float64]) -> Any:
        # pa.array would import pandas, which takes half a second and more, and do nothing with it.
        buffer = pa.py_buffer(np.ascontiguousarray(values, dtype=np.float64))
        return pa.Array.from_buffers(pa.float64(), len(values), [None, buffer])

    partial = path.with_suffix(".partial")
    tables = (pa.table({name: column(one) for name, one in group.items()}) for group in groups)
    first = next(tables)
    with pq.ParquetWriter(partial, first.schema) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
    partial.replace(path)


def read_trace(path: Path) -> Columns:
    """What `write_trace` wrote; a column is read whenever it is asked for, and not kept."""
    return _StoredColumns(path)


class _StoredColumns(Mapping[str, NDArray[np.float64]]):
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq  # without pandas as well, so not by pq.read_table

        self._file = pq.ParquetFile(path)
        self._names: list[str] = self._file.schema_arrow.names

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._names:
            raise KeyError(name)
        values = np.empty(self._file.metadata.num_rows)
        num = 0
        for batch in self._file.iter_batches(columns=[name], use_threads=False):
            values[num : num + len(batch)] = np.from_dlpack(batch.column(0))
            num += len(batch)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
