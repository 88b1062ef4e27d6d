"""JournalFeed: the frames of some days through the decoder of the live feed, as blocks.

The same decoder in the same state says the same. So `Playback` gives each run a decoder of its own,
made as the live one was, and forgets the quotes held where another connection begins, as the live
feed did. What comes out is cut into blocks and filtered by `JournalFilter`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder
from ingestor.feeds.windows import EVERYTHING, SessionTimes, Window, inside
from ingestor.journal.format import NOTE, Entry, Header, Market, read_note
from ingestor.journal.reader import (
    JournalProgress,
    Reading,
    SegmentFrames,
    find_segments,
    first_entries,
    oddities,
)
from ingestor.journal.segments import Segment
from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.records import OPTION_TRADE, STOCK_TRADE, Records, RunningKey
from ingestor.model.symbols import SymbolTable, parse_option_ticker

BLOCK_BYTES: Final = 256 * 1024
MIN_BLOCK_BYTES: Final = 4096

MISSING: Final = "frame_not_in_journal"
"""Counts frames that were received and are not there: never recorded, damaged, or cut off."""

REPEATED: Final = "frame_repeated"
"""Counts frames that another segment held already, as a copy of one does."""

DTYPES: Final = {Market.STOCKS: STOCK_TRADE, Market.OPTIONS: OPTION_TRADE}

_PROBES_HELD: Final = 65_536

logger = logging.getLogger(__name__)


class JournalFilter:
    """Cuts rows into arrays of at most `block_bytes` and leaves out what is not wanted.

    Attributes:
        windows: Event times that are wanted; set anew for every segment.
        nothing: An empty array.
    """

    def __init__(self, market: Market, symbols: frozenset[str], block_bytes: int) -> None:
        """Keep these symbols, of options also all of these underlyings; none keeps all."""
        self._market = market
        self._symbols = symbols
        self._order = RunningKey()
        self.block_bytes = block_bytes
        self.windows: Sequence[Window] = (EVERYTHING,)
        self.nothing: Records = np.zeros(0, DTYPES[market])

    def of(
        self, rows: bytearray, table: SymbolTable, progress: JournalProgress
    ) -> Iterator[Records]:
        """Yield the wanted records among these, never an empty array; counts as it goes."""
        records: Records = np.frombuffer(rows, self.nothing.dtype)
        # Whole records only; the ring takes no larger message.
        step = self.block_bytes // records.itemsize
        for first in range(0, len(records), step):
            wanted = self._wanted(records[first : first + step], table)
            progress.filtered += len(records[first : first + step]) - len(wanted)
            if len(wanted):
                progress.records += len(wanted)
                progress.late += self._order.advance(wanted)[1]
                yield wanted

    def _wanted(self, records: Records, table: SymbolTable) -> Records:
        kept = inside(records["ts_event_ns"], self.windows)
        if kept is not None:
            records = records[kept]
        if not self._symbols:
            return records
        # Names are compared once an instrument of the block, not once a row.
        there = np.unique(records["instrument_id"]).tolist()
        wanted = [number for number in there if self._is_wanted(table[number])]
        return records[np.isin(records["instrument_id"], wanted)]

    def _is_wanted(self, symbol: str) -> bool:
        if symbol in self._symbols:
            return True
        return (
            self._market is Market.OPTIONS
            and parse_option_ticker(symbol).underlying in self._symbols
        )


class Playback:
    """One live feed's decoding again: the entries of segments that are given in order."""

    def __init__(self, decoder: StockDecoder | OptionDecoder | None = None) -> None:
        """Without a decoder as it was before the first entry, `begin` makes one."""
        self._header: Header | None = None
        self._decoder = decoder or StockDecoder()
        self._connection: int | None = None
        self._next_number: int | None = None

    @property
    def symbols(self) -> SymbolTable:
        """The symbols of all records of the run so far; another run has another table."""
        return self._decoder.instruments.table

    def begin(self, header: Header, *, whole: bool = True) -> None:
        """Go on with a segment: of the same run, or the first that is given of another.

        Of one that is not given `whole` nothing is missing at its front.
        """
        before, self._header = self._header, header
        if before is None or before.run_ns != header.run_ns:
            self._decoder = decoder_of(header)
            # Another run means another process: it began with an empty decoder.
            self._connection = None
            self._next_number = 0 if header.part == 1 and whole else None
        elif header.part < before.part or (
            header.part > before.part + 1 and header.date != before.date
        ):
            self._next_number = None  # days between are not read, or are gone: no telling

    def is_known(self, entry: Entry) -> bool:
        """Tell whether a frame of this number came before: its segment is there twice."""
        return self._next_number is not None and entry.number < self._next_number

    def missing(self, entry: Entry) -> int:
        """Return how many frames are missing between the entry before and this one."""
        expected, self._next_number = self._next_number, entry.number + 1
        return 0 if expected is None else max(0, entry.number - expected)

    def note(self, entry: Entry) -> None:
        """Do what the live feed did with its decoder. Raises `BadDataError` for what is no note.

        Names without the beginning of their connection, which is not read or lost, restrict
        nothing: others may have been asked for before.
        """
        names = read_note(entry.payload)
        if names is None:
            self._decoder.begin_connection()
        else:
            self._decoder.ask(names)

    def decode(self, entry: Entry) -> Decoded:
        """Decode a frame."""
        # Where the note of a beginning was lost, the number of the connection still tells it.
        if self._connection not in (None, entry.connection):
            self._decoder.instruments.forget_quotes()
        self._connection = entry.connection
        return self._decoder.decode(entry.payload, entry.recv_ns)


def decoder_of(header: Header) -> StockDecoder | OptionDecoder:
    """Return a decoder as the live one was when it began."""
    if header.market is Market.STOCKS:
        return StockDecoder(header.late_after_ns)
    return OptionDecoder(header.roots, header.late_after_ns)


@dataclass(kw_only=True, eq=False)
class JournalFeed:
    """Reads one feed of a journal, in memory that does not depend on its size.

    Attributes:
        directory: Folder of the journal.
        market: Whose frames to read; a folder may hold both.
        dates: Days in New York to read, in any order; none means every day there is.
        start: New York wall time on each date from which records count (``ts_event``).
        end: New York wall time before which they do; see `ingestor.feeds.windows`.
        symbols: Symbols to keep, of options also their underlyings; none keeps all.
        block_bytes: A block holds at most this many bytes.
        feed: Passed on in every block.
        source: Passed on in every block.
        progress: Counts of the newest run; a new object with every run.
    """

    directory: Path
    market: Market
    dates: Sequence[dt.date] = ()
    start: dt.time | None = None
    end: dt.time | None = None
    symbols: frozenset[str] = frozenset()
    block_bytes: int = BLOCK_BYTES
    feed: int = 0
    source: Source = Source.REPLAY
    progress: JournalProgress = field(default_factory=JournalProgress, init=False)
    _from_ns: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.block_bytes < MIN_BLOCK_BYTES:
            raise ConfigurationError(
                f"block_bytes is {self.block_bytes}; it must be at least {MIN_BLOCK_BYTES}"
            )

    def start_at(self, at_ns: int | None) -> None:
        """Have the next `blocks` yield only events at or after a time, int ns UTC; None for all.

        The journal is read from its front all the same: what a decoder says depends on all frames.
        """
        if at_ns is not None:
            logger.info("seeking in a journal: it is decoded up to there")
        self._from_ns = at_ns

    def span_ns(self) -> None:
        """Say that nothing tells when its events end before they are read."""

    def blocks(self) -> Iterator[Block]:
        """Return the records of the journal in its order, empty blocks as signs of life.

        Raises `NoDataError` at once when the folder or a date is missing. After everything that
        is whole has been yielded, raises `BadDataError` when there was damage.
        """
        readings = find_segments(self.directory, self.market, self.dates, first_event_ns)
        for sentence in oddities(self.directory, readings):
            logger.warning("%s", sentence)
        return self.blocks_of(readings)

    def blocks_of(self, readings: Sequence[Reading]) -> Iterator[Block]:
        """Return the records of these segments; raises as `blocks` does while iterating."""
        self.progress = JournalProgress(bytes_total=sum(one.segment.size for one in readings))
        return self._blocks(readings, self.progress)

    def _blocks(self, readings: Sequence[Reading], progress: JournalProgress) -> Iterator[Block]:
        dates = {reading.date for reading in readings if not reading.context_only}
        session = SessionTimes(self.start, self.end)
        run = _Run(Playback(), JournalFilter(self.market, self.symbols, self.block_bytes), progress)
        for reading in readings:
            limits = Window(EVERYTHING.start_ns if self._from_ns is None else self._from_ns)
            run.wanted.windows = session.of_file(reading.date, dates, limits)
            for records in run.records_of(reading):
                yield Block(self.feed, records, run.playback.symbols, self.source)
        if progress.damaged is not None:
            raise BadDataError(
                f"{progress.damaged}; all else was read (places like this: {progress.damages})"
            )


@dataclass(frozen=True, slots=True)
class _Run:
    """What the segments of a run over the journal have in common."""

    playback: Playback
    wanted: JournalFilter
    progress: JournalProgress

    def records_of(self, reading: Reading) -> Iterator[Records]:
        """Yield a segment's records; none is held over to the next, whose run may be another."""
        rows, alive = bytearray(), False
        for entry in SegmentFrames(reading.segment, self.progress, self.playback.begin).entries():
            if entry is not None:
                rows += self._decode(entry, context_only=reading.context_only)
            if len(rows) >= self.wanted.block_bytes:
                yield from self.wanted.of(rows, self.playback.symbols, self.progress)
                rows, alive = bytearray(), True
            elif entry is None:
                # A long segment without a wanted record must not look like a dead process.
                if not alive:
                    yield self.wanted.nothing
                alive = False
        yield from self.wanted.of(rows, self.playback.symbols, self.progress)

    def _decode(self, entry: Entry, *, context_only: bool) -> bytes:
        """Return the rows of a frame, none when it only gives context or is known already."""
        progress = self.progress
        if self.playback.is_known(entry):
            progress.skipped[REPEATED] += not context_only
            return b""
        missing = self.playback.missing(entry)
        if missing and not context_only:
            progress.skipped[MISSING] += missing
        if entry.connection == NOTE:
            self.playback.note(entry)
            return b""
        decoded = self.playback.decode(entry)
        if context_only:
            return b""
        progress.frames += 1
        for cause, count in decoded.skipped.items():
            progress.skipped[cause.value] += count
        for notice in decoded.notices:
            logger.warning("%s", notice.text)
        return decoded.records.tobytes()


@lru_cache(maxsize=_PROBES_HELD)
def first_event_ns(segment: Segment) -> int | None:
    """When a segment's first data was made; failing that, when its first frame was received."""
    found = first_entries(segment)
    if found is None:
        return None
    header, entries = found
    decoder = decoder_of(header)
    for entry in entries:
        records = decoder.decode(entry.payload, entry.recv_ns).records
        if len(records):
            return int(records["ts_event_ns"][0])
    return next((entry.recv_ns for entry in entries if entry.recv_ns), None)
