"""From the chunks of one file to the records to publish, with the symbol table that holds.

In this order: records that make no sense go, then those of other days and outside the time
windows; then instruments get their names, which go by UTC date and by the symbol mapping records
of a live capture, and those that were not asked for go; and what is left is checked for steps back
in time. Each step looks at a whole array and costs next to nothing when it has nothing to do.

A table gives each instrument one name, so a batch ends where an instrument gets another one. It
does not end at midnight: names seldom change there, and records may go to and fro across it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import numpy.typing as npt

from ingestor.feeds.databento.control import HEARTBEAT, ControlRType, mapping_of, text_of
from ingestor.feeds.databento.framing import Framed, rtype_cause
from ingestor.feeds.databento.nonsense import nonsense
from ingestor.feeds.databento.progress import Progress, Remarks
from ingestor.feeds.databento.reader import DbnReader
from ingestor.feeds.databento.symbology import NS_PER_DAY, SymbolTables
from ingestor.feeds.windows import DailyWindows, Window, inside
from ingestor.model.keys import RunningKey
from ingestor.model.records import Records
from ingestor.model.symbols import SymbolTable

Mask = npt.NDArray[np.bool_]
Int64s = npt.NDArray[np.int64]

_ID_BITS: Final = 32
_IS_MAPPING: Final = 1 << _ID_BITS
_CODE_BITS: Final = _ID_BITS + 1
_PLACE_BITS: Final = 31
"""Of a record in its chunk, or of a name among those in a chunk."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records, and of each (int64) its number in its file, from 0."""

    records: Records
    numbers: Int64s

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def where(self, kept: Mask) -> Batch:
        """Return a copy of some of the records."""
        return Batch(self.records[kept], self.numbers[kept])

    def days(self) -> Int64s:
        """Return the UTC date of each record's ``ts_recv``, in days since 1970."""
        return (self.records["ts_recv_ns"] // np.uint64(NS_PER_DAY)).astype(np.int64)

    def sole_day(self) -> int | None:
        """Return the date of all the records, if there is one."""
        recv = self.records["ts_recv_ns"]
        first, last = int(recv.min()) // NS_PER_DAY, int(recv.max()) // NS_PER_DAY
        return first if first == last else None


@dataclass(frozen=True, slots=True)
class Mapping:
    """What the symbol mapping record with a number in its file says."""

    number: int
    instrument: int
    names: tuple[str, str]


class FilePass:
    """One file's way through the filters; counts as it goes."""

    def __init__(
        self,
        reader: DbnReader,
        tables: SymbolTables,
        remarks: Remarks,
        progress: Progress,
    ) -> None:
        self._reader = reader
        self._tables = tables
        self._remarks = remarks
        self._progress = progress
        self._other_feeds = frozenset(map(rtype_cause, reader.other_feeds))
        self._order = RunningKey()
        self._before = progress.bytes_read

    def batches(
        self, windows: Sequence[Window] | DailyWindows
    ) -> Iterator[tuple[Records, SymbolTable]]:
        """Yield the records in the windows.

        A chunk that holds none of them yields an empty batch: a sign of life.
        """
        for chunk in self._reader.chunks():
            self._progress.bytes_read = self._before + self._reader.position
            before = self._progress.records
            batch = self._of_time(self._sensible(self._numbered(chunk)), windows)
            yield from self._named(batch, self._control(chunk))
            if self._progress.records == before:
                yield self._reader.nothing, {}

    def _numbered(self, chunk: Framed) -> Batch:
        for cause, places in chunk.others.items():
            if cause in self._other_feeds:
                self._progress.filtered += len(places)
            else:
                self._skip(cause, places + self._reader.found)
        return Batch(chunk.records, chunk.numbers + self._reader.found)

    def _sensible(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        bad = np.zeros(len(batch), np.bool_)
        for cause, mask in nonsense(batch.records):
            self._skip(cause, batch.numbers[mask & ~bad])
            bad |= mask
        return batch.where(~bad) if bad.any() else batch

    def _skip(self, cause: str, numbers: Int64s) -> None:
        if not len(numbers):
            return
        skipped = self._progress.skipped
        skipped[cause] = skipped.get(cause, 0) + len(numbers)
        self._remarks.skipped(cause, len(numbers), int(numbers[0]))

    def _of_time(self, batch: Batch, windows: Sequence[Window] | DailyWindows) -> Batch:
        if len(batch):
            kept = _inside(batch.records, windows)
            batch = batch if kept is None else self._keep(batch, kept)
        return batch

    def _keep(self, batch: Batch, kept: Mask) -> Batch:
        result = batch.where(kept)
        self._progress.filtered += len(batch) - len(result)
        return result

    def _control(self, chunk: Framed) -> list[Mapping]:
        """Tell what the gateway says; return what it says about symbols."""
        mappings: list[Mapping] = []
        for place, record in chunk.control:
            number, rtype = self._reader.found + place, record[1]
            if rtype != ControlRType.SYMBOL_MAPPING:
                text = text_of(record)
                if text != HEARTBEAT:
                    is_error = rtype == ControlRType.ERROR
                    self._remarks.told(logging.WARNING if is_error else logging.INFO, text, number)
            elif (found := mapping_of(record)) is not None:
                mappings.append(Mapping(number, *found))
            else:
                self._skip("symbol mapping that cannot be read", np.array([number]))
                continue
            self._progress.control += 1
        return mappings

    def _named(
        self, batch: Batch, mappings: Sequence[Mapping]
    ) -> Iterator[tuple[Records, SymbolTable]]:
        day = batch.sole_day() if len(batch) and not mappings else None
        if day is not None:
            yield from self._named_by_day(batch, day)
        elif len(batch):
            yield from self._named_by_record(batch, mappings)
        else:
            for mapping in mappings:
                self._tables.hear(mapping.instrument, mapping.names)

    def _named_by_day(self, batch: Batch, day: int) -> Iterator[tuple[Records, SymbolTable]]:
        self._tables.of_days([day])
        instruments = batch.records["instrument_id"]
        present = _distinct(instruments)
        names = {number: self._tables.name(number, day) for number in present}
        wanted = {number: name for number, name in names.items() if name is not None}
        if len(wanted) < len(present):
            batch = self._keep(batch, np.isin(instruments, list(wanted)))
        if wanted:
            self._count(batch)
            yield batch.records, self._tables.table(wanted)

    def _named_by_record(
        self, batch: Batch, mappings: Sequence[Mapping]
    ) -> Iterator[tuple[Records, SymbolTable]]:
        instruments = batch.records["instrument_id"].astype(np.int64)
        heard = _newest(mappings, instruments, batch.numbers)
        subjects = np.where(heard < 0, instruments, heard | _IS_MAPPING)
        codes, of_record = np.unique((batch.days() << _CODE_BITS) | subjects, return_inverse=True)
        names = self._names_of(codes.tolist(), mappings)
        wanted = np.array([name is not None for name in names])[of_record]
        if not wanted.all():
            batch = self._keep(batch, wanted)
            instruments, of_record = instruments[wanted], of_record[wanted]
        if not len(batch):
            return
        self._count(batch)
        texts = list(dict.fromkeys(filter(None, names)))
        number_of = {text: number for number, text in enumerate(texts)}
        name_numbers = np.array([number_of.get(name or "", 0) for name in names])[of_record]
        for start, stop in pairwise([0, *_changes(instruments, name_numbers), len(batch)]):
            pairs = (instruments[start:stop] << _PLACE_BITS) | name_numbers[start:stop]
            table = {
                pair >> _PLACE_BITS: texts[pair & ((1 << _PLACE_BITS) - 1)]
                for pair in np.unique(pairs).tolist()
            }
            yield batch.records[start:stop], self._tables.table(table)

    def _names_of(self, codes: Sequence[int], mappings: Sequence[Mapping]) -> list[str | None]:
        """Return the name for each code, a date and what names a record on it.

        That is the newest mapping before the record, by its number with `_IS_MAPPING` set, where
        there is one in the chunk; else its instrument. The mappings are heard one after another.
        """
        self._tables.of_days({code >> _CODE_BITS for code in codes})
        places: dict[int, list[int]] = {}
        for place, code in enumerate(codes):
            mapping = code & (_IS_MAPPING - 1) if code & _IS_MAPPING else -1
            places.setdefault(mapping, []).append(place)
        names: list[str | None] = [None] * len(codes)
        for place in places.get(-1, ()):
            code = codes[place]
            names[place] = self._tables.name(code & (_IS_MAPPING - 1), code >> _CODE_BITS)
        for number, heard in enumerate(mappings):
            self._tables.hear(heard.instrument, heard.names)
            for place in places.get(number, ()):
                names[place] = self._tables.name(heard.instrument, codes[place] >> _CODE_BITS)
        return names

    def _count(self, batch: Batch) -> None:
        self._progress.records += len(batch)
        keys, late = self._order.advance(batch.records)
        if late:
            stepped = (keys.ts_event_ns != batch.records["ts_event_ns"]) | (
                keys.ts_recv_ns != batch.records["ts_recv_ns"]
            )
            self._progress.late += late
            self._remarks.late(late, int(batch.numbers[stepped.argmax()]))


def _newest(mappings: Sequence[Mapping], instruments: Int64s, numbers: Int64s) -> Int64s:
    """Return which mapping of its instrument stands last before each record; -1 for none."""
    if not mappings:
        return np.full(len(instruments), -1)
    first = min(mappings[0].number, int(numbers[0]))
    mapped = np.array([mapping.instrument for mapping in mappings])
    keys = (mapped << _PLACE_BITS) | np.array([mapping.number - first for mapping in mappings])
    order = np.argsort(keys)
    before = (
        np.searchsorted(keys, (instruments << _PLACE_BITS) | (numbers - first), sorter=order) - 1
    )
    found = order[before]
    return np.where((before >= 0) & (mapped[found] == instruments), found, -1)


def _changes(instruments: Int64s, names: Int64s) -> list[int]:
    """Return the places where an instrument has another name than it had before, rising."""
    order = np.argsort(instruments, kind="stable")
    same = np.diff(instruments[order]) == 0
    changed = same & (np.diff(names[order]) != 0)
    places: list[int] = np.sort(order[1:][changed]).tolist()
    return places


def _inside(records: Records, windows: Sequence[Window] | DailyWindows) -> Mask | None:
    if isinstance(windows, DailyWindows):
        return windows.inside(records["ts_event_ns"], records["ts_recv_ns"])
    return inside(records["ts_event_ns"], windows)


def _distinct(instruments: npt.NDArray[np.uint32]) -> list[int]:
    first = instruments[0]
    if (instruments == first).all():
        return [int(first)]
    numbers: list[int] = np.unique(instruments).tolist()
    return numbers
