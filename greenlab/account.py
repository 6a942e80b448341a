"""The account of a cell: every joule from opening its meter to its end, by stage of its life.

It is kept on disk while the cell runs, so that one that is killed has it too. After a first line
that names the sources, each line of account.log is a reading of the meter as a stage began. The
last one is the newest reading, once a second in the same place; the next stage takes that place.
A line begins with a checksum: what does not match it was being written when everything stopped.
"""

import contextlib
import json
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from greenlab import record as records
from greenlab.energy import EnergyWindow
from greenlab.errors import MeterReadError
from greenlab.meters import Meter, Reading
from greenlab.record import Account, Source, Stage, StageName

BEAT_S = 1.0
"""At most so much of its account does a cell lose that is killed."""
_SOURCES = TypeAdapter(list[Source])


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """What all counters had counted at an instant, and what the cell was at from then on."""

    stage: StageName
    at_s: float
    """Unix time."""
    energy_j: Mapping[str, float]
    """By component, since the meter was opened."""


class OpenAccount:
    """The account of the cell that runs in this process, from entering its context to leaving."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        self._folder, self._meter = folder, meter
        self._lock = threading.Lock()
        """The sampler's thread writes as well."""
        self._entries: list[Entry] = []
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.open(folder / records.ACCOUNT_FILE, flags, 0o666)
        self._end = os.pwrite(self._file, _line(_SOURCES.dump_json(meter.sources)), 0)
        self._latest = meter.read()
        self.enter("loading")

    def enter(self, stage: StageName) -> None:
        """End the stage before, and begin this one with the same reading."""
        with self._lock:
            entry = self._entry(stage, self._meter.read())
            self._end += self._write(entry)
            self._entries.append(entry)

    def beat(self, reading: Reading) -> None:
        """Note how far the present stage has come; once a second, however often it is called."""
        self._latest = reading
        if self._meter.unix_s(reading.monotonic_s) >= self._due_s:
            self._note(reading)

    def _note(self, reading: Reading) -> None:
        with self._lock:
            entry = self._entry(self._entries[-1].stage, reading)
            if entry.at_s > self._entries[-1].at_s:  # no other stage has begun meanwhile
                self._write(entry)

    def statement(self) -> Account:
        """The account until now."""
        with self._lock:
            latest = self._entry(self._entries[-1].stage, self._meter.read())
            self._write(latest)
            return _balance(self._meter.sources, [*self._entries, latest])

    def keep(self, name: str, window: EnergyWindow) -> None:
        """Write a window down as soon as it is closed; see `record.append_window`."""
        records.append_window(self._folder, name, window)

    def _entry(self, stage: StageName, reading: Reading) -> Entry:
        part_j = reading.part_energy_j
        return Entry(
            stage=stage,
            at_s=self._meter.unix_s(reading.monotonic_s),
            energy_j={
                source.component: sum(part_j[part] for part in source.parts)
                for source in self._meter.sources
                if source.parts
            },
        )

    def _write(self, entry: Entry) -> int:
        self._due_s = entry.at_s + BEAT_S
        # dataclasses.asdict copies every value deeply, and takes longer than all the rest.
        fields = {"stage": entry.stage, "at_s": entry.at_s, "energy_j": entry.energy_j}
        return os.pwrite(self._file, _line(json.dumps(fields).encode()), self._end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk, and there is no more to be done
            try:
                self._note(self._meter.read())
            except MeterReadError:
                self._note(self._latest)
        os.close(self._file)


def read_account(folder: Path) -> Account | None:
    """The account of a cell that left no record, as far as it came; None where it has none."""
    path = folder / records.ACCOUNT_FILE
    lines = list(_intact(path.read_bytes())) if path.exists() else []
    if len(lines) < 2:  # it ended before its meter was read
        return None
    sources = _SOURCES.validate_json(lines[0])
    return _balance(sources, [Entry(**json.loads(line)) for line in lines[1:]])


def _balance(sources: Sequence[Source], entries: Sequence[Entry]) -> Account:
    stages = [
        Stage(
            name=begin.stage,
            duration_s=end.at_s - begin.at_s,
            energy_j={c: end.energy_j[c] - energy_j for c, energy_j in begin.energy_j.items()},
        )
        for begin, end in pairwise(entries)
    ]
    return Account(sources=list(sources), started_at_s=entries[0].at_s, stages=stages)


def _line(content: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _intact(written: bytes) -> Iterator[bytes]:
    """The lines that were written whole, up to the first that was not."""
    for line in written.splitlines():
        checksum, _, content = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(content):
            return
        yield content
