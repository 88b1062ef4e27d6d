"""From the chunks of one file to the blocks to publish, with the symbol table in force.

In this order: records that cannot be valid go, then those of other days and outside the time
windows; then instruments get their names, which go by UTC date and by the symbol mapping records
of a live capture, and those that were not asked for go; and what is left is checked for steps back
in time. Each step looks at a whole array and costs next to nothing when it has nothing to do.

Not valid are times that are undefined or beyond int64 nanoseconds (no consumer could place them)
and trades without a price. Everything else a venue may mean: a size of 0, a price below zero, a
crossed book, a depth record whose action has no price (clear, or a side that went empty).

A table gives each instrument one name, so a batch ends where an instrument gets another one. It
does not end at midnight: names seldom change there, and records may go to and fro across it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from ingestor.feeds.databento.record_reader import (
    HEARTBEAT,
    ControlRType,
    DbnReader,
    Framed,
    mapping_of,
    rtype_cause,
    text_of,
)
from ingestor.feeds.databento.symbology import SymbolTables
from ingestor.feeds.windows import DailyWindows, Mask, Window, inside
from ingestor.model.blocks import Block, Int64s, Source
from ingestor.model.bounds import MAX_TIME_NS, printable
from ingestor.model.records import FUTURES_TRADE, Records, RunningKey
from ingestor.model.units import NS_PER_DAY, UNDEF_PRICE

logger = logging.getLogger(__name__)

TEXTS_TOLD: Final = 10
"""Of a gateway's errors, and of its other messages, this many are shown for each file."""


_ID_BITS: Final = 32
_IS_MAPPING: Final = 1 << _ID_BITS
_CODE_BITS: Final = _ID_BITS + 1
_PLACE_BITS: Final = 31
"""Of a record in its chunk, or of a name among those in a chunk."""
_LAST_NS: Final = np.uint64(MAX_TIME_NS)


@dataclass(slots=True)
class FileProgress:
    """Counts of one run, updated with every block.

    Every record found is in exactly one of `records`, `filtered`, `skipped` and `control`.

    Attributes:
        files_total: Files of the run.
        files_done: Files read to their end.
        bytes_total: Bytes of these files on disk.
        bytes_read: Bytes of them read so far.
        records: Records yielded.
        filtered: Records outside the time windows, of other symbols or of another feed.
        skipped: Cause to number of records left out because they are of no use.
        control: What a gateway says between the data: no data, so nothing is lost with it.
        late: Records yielded that step back in time in their file.
        path: The file being read, or the last one.
    """

    files_total: int = 0
    files_done: int = 0
    bytes_total: int = 0
    bytes_read: int = 0
    records: int = 0
    filtered: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    control: int = 0
    late: int = 0
    path: Path | None = None


@dataclass(slots=True)
class FileIssues:
    """What is wrong or odd in one file: each cause, its count and the first record it concerns."""

    path: Path
    _skipped: dict[str, tuple[int, int]] = field(default_factory=dict)
    _late: tuple[int, int] = (0, 0)
    _texts: Counter[int] = field(default_factory=Counter)

    def skipped(self, cause: str, count: int, first: int) -> None:
        """Note records left out; `first` is the number (from 0) of the first of them."""
        before, earliest = self._skipped.get(cause, (0, first))
        self._skipped[cause] = (before + count, min(earliest, first))

    def late(self, count: int, first: int) -> None:
        """Note records that step back in time."""
        before, earliest = self._late
        self._late = (before + count, earliest if before else first)

    def told(self, level: int, text: str, number: int) -> None:
        """Log what the vendor's gateway says in record `number` (from 0), `TEXTS_TOLD` times."""
        self._texts[level] += 1
        if self._texts[level] <= TEXTS_TOLD:
            logger.log(
                level,
                '%s: record number %d (from 0) is a message of the gateway: "%s"',
                self.path,
                number,
                printable(text),
            )

    def log(self) -> None:
        """Say each cause once."""
        for level, count in self._texts.items():
            if count > TEXTS_TOLD:
                logger.log(
                    level,
                    "%s: more messages of the gateway, which are not shown: %d",
                    self.path,
                    count - TEXTS_TOLD,
                )
        for cause, (count, first) in self._skipped.items():
            logger.warning(
                "%s: records skipped: %d, the first is number %d (from 0): %s",
                self.path,
                count,
                first,
                cause,
            )
        count, first = self._late
        if count:
            logger.warning(
                "%s: records that step back in time: %d, the first is number %d (from 0); "
                "they keep their place",
                self.path,
                count,
                first,
            )


@dataclass(frozen=True, slots=True, eq=False)
class NumberedRecords:
    """Records, and of each (int64) its number in its file, from 0."""

    records: Records
    numbers: Int64s

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def where(self, kept: Mask) -> NumberedRecords:
        """Return a copy of some of the records."""
        return NumberedRecords(self.records[kept], self.numbers[kept])

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


class RecordFilter:
    """One file's way through the filters; counts as it goes."""

    def __init__(
        self,
        reader: DbnReader,
        tables: SymbolTables,
        issues: FileIssues,
        progress: FileProgress,
        *,
        feed: int = 0,
        source: Source = Source.REPLAY,
    ) -> None:
        self._reader = reader
        self._tables = tables
        self._issues = issues
        self._progress = progress
        self._feed = feed
        self._source = source
        self._other_feeds = frozenset(map(rtype_cause, reader.other_feeds))
        self._order = RunningKey()
        self._before = progress.bytes_read

    def blocks(self, windows: Sequence[Window] | DailyWindows) -> Iterator[Block]:
        """Yield the records in the windows.

        A chunk that holds none of them yields an empty block: a sign of life.
        """
        for chunk in self._reader.chunks():
            self._progress.bytes_read = self._before + self._reader.position
            before = self._progress.records
            batch = self._of_time(self._valid(self._numbered(chunk)), windows)
            yield from self._named(batch, self._control(chunk))
            if self._progress.records == before:
                yield Block(self._feed, self._reader.nothing, {}, self._source)

    def _numbered(self, chunk: Framed) -> NumberedRecords:
        for cause, places in chunk.others.items():
            if cause in self._other_feeds:
                self._progress.filtered += len(places)
            else:
                self._skip(cause, places + self._reader.found)
        return NumberedRecords(chunk.records, chunk.numbers + self._reader.found)

    def _valid(self, batch: NumberedRecords) -> NumberedRecords:
        if not len(batch):
            return batch
        bad = np.zeros(len(batch), np.bool_)
        for cause, mask in invalid(batch.records):
            # A record counts under its first cause only, so that the counts add up.
            self._skip(cause, batch.numbers[mask & ~bad])
            bad |= mask
        return batch.where(~bad) if bad.any() else batch

    def _skip(self, cause: str, numbers: Int64s) -> None:
        if not len(numbers):
            return
        skipped = self._progress.skipped
        skipped[cause] = skipped.get(cause, 0) + len(numbers)
        self._issues.skipped(cause, len(numbers), int(numbers[0]))

    def _of_time(
        self, batch: NumberedRecords, windows: Sequence[Window] | DailyWindows
    ) -> NumberedRecords:
        if not len(batch):
            return batch
        event_ns = batch.records["ts_event_ns"]
        if isinstance(windows, DailyWindows):
            kept = windows.inside(event_ns, batch.records["ts_recv_ns"])
        else:
            kept = inside(event_ns, windows)
        return batch if kept is None else self._keep(batch, kept)

    def _keep(self, batch: NumberedRecords, kept: Mask) -> NumberedRecords:
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
                # A capture is full of them; nobody needs to be told.
                if text != HEARTBEAT:
                    is_error = rtype == ControlRType.ERROR
                    self._issues.told(logging.WARNING if is_error else logging.INFO, text, number)
            elif (found := mapping_of(record)) is not None:
                mappings.append(Mapping(number, *found))
            else:
                self._skip("symbol mapping that cannot be read", np.array([number]))
                continue
            self._progress.control += 1
        return mappings

    def _named(self, batch: NumberedRecords, mappings: Sequence[Mapping]) -> Iterator[Block]:
        # The way of nearly every block: one day and no mapping, so one name an instrument.
        day = batch.sole_day() if len(batch) and not mappings else None
        if day is not None:
            yield from self._named_by_day(batch, day)
        elif len(batch):
            yield from self._named_by_record(batch, mappings)
        else:
            for mapping in mappings:
                self._tables.hear(mapping.instrument, mapping.names)

    def _named_by_day(self, batch: NumberedRecords, day: int) -> Iterator[Block]:
        # Before any look-up: what is known of days gone by is forgotten, so memory is bounded.
        self._tables.of_days([day])
        instruments = batch.records["instrument_id"]
        first = instruments[0]
        # Most files hold one instrument: a comparison spares the sort.
        alone = (instruments == first).all()
        present: list[int] = [int(first)] if alone else np.unique(instruments).tolist()
        names = {number: self._tables.name(number, day) for number in present}
        wanted = {number: name for number, name in names.items() if name is not None}
        if len(wanted) < len(present):
            # Only now are records copied: what is wanted whole stays a view of the buffer.
            batch = self._keep(batch, np.isin(instruments, list(wanted)))
        if wanted:
            in_order = self._counted(batch)
            table = self._tables.table(wanted)
            yield Block(self._feed, batch.records, table, self._source, in_order)

    def _named_by_record(
        self, batch: NumberedRecords, mappings: Sequence[Mapping]
    ) -> Iterator[Block]:
        instruments = batch.records["instrument_id"].astype(np.int64)
        # A live capture: names change between two records of one chunk.
        heard = _newest(mappings, instruments, batch.numbers)
        subjects = np.where(heard < 0, instruments, heard | _IS_MAPPING)
        # Day, and mapping or instrument, in one int64: so `unique` sorts numbers, not tuples.
        codes, of_record = np.unique((batch.days() << _CODE_BITS) | subjects, return_inverse=True)
        names = self._names_of(codes.tolist(), mappings)
        wanted = np.array([name is not None for name in names])[of_record]
        if not wanted.all():
            batch = self._keep(batch, wanted)
            instruments, of_record = instruments[wanted], of_record[wanted]
        if not len(batch):
            return
        in_order = self._counted(batch)
        texts = list(dict.fromkeys(filter(None, names)))
        number_of = {text: number for number, text in enumerate(texts)}
        name_numbers = np.array([number_of.get(name or "", 0) for name in names])[of_record]
        # A table names an instrument once, so a block ends where one gets another name.
        for start, stop in pairwise([0, *_changes(instruments, name_numbers), len(batch)]):
            pairs = (instruments[start:stop] << _PLACE_BITS) | name_numbers[start:stop]
            names_of_ids = {
                pair >> _PLACE_BITS: texts[pair & ((1 << _PLACE_BITS) - 1)]
                for pair in np.unique(pairs).tolist()
            }
            table = self._tables.table(names_of_ids)
            yield Block(self._feed, batch.records[start:stop], table, self._source, in_order)

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
            # Heard in the file's order: each name is looked up while its own mapping is the newest.
            self._tables.hear(heard.instrument, heard.names)
            for place in places.get(number, ()):
                names[place] = self._tables.name(heard.instrument, codes[place] >> _CODE_BITS)
        return names

    def _counted(self, batch: NumberedRecords) -> bool:
        """Count records; whether their keys rise, as they nearly always do."""
        self._progress.records += len(batch)
        if self._order.follows(batch.records):
            return True
        # Genuine files do step back (IFEU): rare, so the way there may sort.
        keys, late = self._order.advance(batch.records)
        if late:
            # A record that stepped back has the key of another, by one of its times.
            stepped = (keys.ts_event_ns != batch.records["ts_event_ns"]) | (
                keys.ts_recv_ns != batch.records["ts_recv_ns"]
            )
            self._progress.late += late
            self._issues.late(late, int(batch.numbers[stepped.argmax()]))
        return False


def invalid(records: Records) -> Iterator[tuple[str, Mask]]:
    """Yield each cause for which records are left out, with a mask of those it concerns.

    `records` are FUTURES_TRADE or MBP10, at least one.
    """
    for name in ("ts_event", "ts_recv"):
        times = records[f"{name}_ns"]
        # One pass without a mask where nothing is wrong, as nearly always.
        if times.max() > _LAST_NS:
            yield f"{name} undefined or out of range", times > _LAST_NS
    if records.dtype == FUTURES_TRADE:
        prices = records["price_e9"]
        # The undefined price is the largest there is, so the largest tells.
        if prices.max() == UNDEF_PRICE:
            yield "trade without a price", prices == UNDEF_PRICE


def _newest(mappings: Sequence[Mapping], instruments: Int64s, numbers: Int64s) -> Int64s:
    """Return which mapping of its instrument stands last before each record; -1 for none."""
    if not mappings:
        return np.full(len(instruments), -1)
    first = min(mappings[0].number, int(numbers[0]))
    mapped = np.array([mapping.instrument for mapping in mappings])
    # Instrument and place in one number: the newest mapping before a record is a bisection.
    keys = (mapped << _PLACE_BITS) | np.array([mapping.number - first for mapping in mappings])
    order = np.argsort(keys)
    before = (
        np.searchsorted(keys, (instruments << _PLACE_BITS) | (numbers - first), sorter=order) - 1
    )
    found = order[before]
    return np.where((before >= 0) & (mapped[found] == instruments), found, -1)


def _changes(instruments: Int64s, names: Int64s) -> list[int]:
    """Return the places where an instrument has another name than it had before, rising."""
    # Stable, so that each instrument's records keep the file's order side by side.
    order = np.argsort(instruments, kind="stable")
    same = np.diff(instruments[order]) == 0
    changed = same & (np.diff(names[order]) != 0)
    places: list[int] = np.sort(order[1:][changed]).tolist()
    return places
