"""What a journal holds and the stream does not, to be published before what is new.

A run that is killed, or loses its server, leaves frames in its journal whose events nobody has
stored. The next run knows of each event type which one is stored last (`StoredEnd`), finds the
frame in which that was received, and decodes what follows as the live feed did.

Theory. Each type of a feed is stored in the feed's own order, so what is stored of it is a front
part of what the journal holds, and one place is all there is to know. Frames of one read share one
time of receipt, and a batch may have been cut amid them: therefore the place is that time, and how
many events of it are stored. A wall clock may have been set back, which makes times no order: where
the frame itself is found, its place decides; where it is not (recorded too late to survive, or by
nobody), the time does.

A feed that is started again amid a run does the same. Where it is to go on it hears later: once all
that its predecessor had handed on is stored, and the stream was asked where that ends.

A feed whose backlog is full reads back what it has recorded itself (`ReadBack`). It keeps the place
in its journal of the frame that comes next, and a twin of its decoder as it is before that frame.
From then on it hands on nothing of what it decodes: the twin decodes the same frames when there is
room again, and says the same of them. The journal grows meanwhile, and its last moments are not on
the disk yet. So when its end is met once (what is behind is then some milliseconds) the feed holds
in its backlog what comes from that frame on, and the journal is read up to it. Should the backlog
fill again before, it is forgotten: the journal holds that too. Entries that are missing (the disk
was full, somebody removed a file) are a gap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.instruments import MAX_INSTRUMENTS
from ingestor.feeds.polygon.journal_feed import Playback
from ingestor.feeds.polygon.status_reporter import FeedGap, FrameLog, GapTracker
from ingestor.journal.format import NOTE, Entry, Header, Market
from ingestor.journal.reader import JournalProgress, SegmentFrames, first_entries
from ingestor.journal.segments import Place, Segment, list_segments
from ingestor.model.errors import BadDataError, NoDataError
from ingestor.model.records import STOCK_TRADE, Records, RType, joined
from ingestor.model.symbols import SymbolTable
from ingestor.model.units import NS_PER_S, iso_utc

CONTEXT_NS: Final = 60 * NS_PER_S
"""At least so much of a journal before the first event is decoded for its quotes: within it every
instrument that is traded much has a quote, and a whole connection may be a day."""

SHORT_CONTEXT_NS: Final = 10 * NS_PER_S
"""The same amid a run: what is new waits meanwhile, and an event of context costs 3 us."""

SEARCHED_AT_ONCE: Final = 4
"""Pieces of a segment, 1 MiB, that are searched for the last frame that is stored: some
milliseconds, since nothing is decoded."""

UNWRITTEN_NS: Final = NS_PER_S
"""What is stored and not recorded was received so shortly before its process was killed."""

PIECE_ROWS: Final = 1024
"""Rows handed on at a time, at most."""

log = logging.getLogger(__name__)


class StoredEnd(NamedTuple):
    """Where what is stored of one type ends: times of its last event, int nanoseconds UTC.

    `rows` is how many of the last events stored were received at that very time.
    """

    event_ns: int
    recv_ns: int
    rows: int


class Piece(NamedTuple):
    """Rows of a journal in its order, perhaps none; `gap` is what is missing before them."""

    records: Records
    gap: FeedGap | None = None


Rows = tuple[Records, FeedGap | None]
"""Rows of one frame, at least one, and what is missing before them."""

NOTHING: Final = Piece(np.zeros(0, STOCK_TRADE))
"""Much was read, and there is nothing to show for it."""

IDLE: Final = Piece(np.zeros(0, STOCK_TRADE))
"""Nothing can be read just now, and more is to come."""


AskEnds = Callable[[], Mapping[RType, StoredEnd] | None]
"""Says where what is stored ends: None while nobody knows yet, nothing where nobody ever will."""


def left_in(directory: Path, market: Market) -> list[Segment]:
    """Return the segments that earlier runs have left, in order; none without a folder."""
    try:
        return list_segments(directory, market)
    except NoDataError:
        return []


class StoredRows:
    """Leaves out of frames, taken in their order, the rows that are stored.

    `found` are times of receipt that occur in the journal.
    """

    def __init__(self, ends: Mapping[RType, StoredEnd], found: set[int]) -> None:
        self._ends = dict(ends)
        self._left = {rtype: end.rows for rtype, end in ends.items()}
        self._found = found
        self._reached: set[RType] = set()
        times = {end.recv_ns for end in ends.values()}
        # Until then all is stored, a minute of it or more: no look at its rows.
        self._stored_until = times if times <= found else set()

    def rest(self, records: Records, recv_ns: int) -> Records:
        """Return the rows of a frame that are not stored."""
        if not self._ends:
            return records
        if self._stored_until and recv_ns not in self._stored_until:
            return records[:0]
        self._stored_until.clear()
        stored = np.zeros(len(records), bool)
        for rtype, end in [*self._ends.items()]:
            mine = np.flatnonzero(records["rtype"] == rtype)
            if recv_ns == end.recv_ns:
                self._reached.add(rtype)
                mine = mine[: self._left[rtype]]
                self._left[rtype] -= len(mine)
            elif rtype in self._reached or (
                end.recv_ns not in self._found and recv_ns > end.recv_ns
            ):
                # From here on nothing of it is stored.
                del self._ends[rtype]
                continue
            stored[mine] = True
        return records[~stored] if stored.any() else records


class Renamer:
    """Gives instruments of another decoder ids in a live feed's table."""

    def __init__(self, symbols: SymbolTable) -> None:
        """`symbols` is the table of the live feed, to which names are added."""
        self._symbols = symbols
        self._ids: dict[str, int] = {}

    def renamed(self, records: Records, table: SymbolTable) -> Records:
        """Return a copy whose instruments have ids that the live feed never gives."""
        renamed = records.copy()
        numbers, place = np.unique(records["instrument_id"], return_inverse=True)
        ids = []
        for symbol in (table[number] for number in numbers.tolist()):
            if symbol not in self._ids:
                # Beyond the live feed's: its decoder is to meet each symbol as a new one itself.
                self._ids[symbol] = MAX_INSTRUMENTS + len(self._ids)
                self._symbols[self._ids[symbol]] = symbol
            ids.append(self._ids[symbol])
        renamed["instrument_id"] = np.array(ids, np.uint32)[place]
        return renamed


class Spool:
    """Reads back what is not stored of one feed, in memory that does not depend on its size.

    Attributes:
        rows: How many rows were handed on.
    """

    def __init__(
        self,
        feed: str,
        segments: Sequence[Segment],
        ends: AskEnds,
        symbols: SymbolTable,
        context_ns: int = CONTEXT_NS,
    ) -> None:
        """`symbols` is the table of the live feed: names are added to it under ids of their own.

        `ends` says of every type of the feed where it ends; `segments` are those that were there
        before this process recorded anything. `context_ns` is how much before is decoded.
        """
        self._feed = feed
        self._segments = segments
        self._ask_ends = ends
        self._ends: Mapping[RType, StoredEnd] = {}
        self._renamer = Renamer(symbols)
        self._context_ns = context_ns
        self._playback = Playback()
        self._run_ns: int | None = None
        self._connection: int | None = None
        self._broken = False
        self._is_whole = True
        self._gaps = GapTracker()
        self.rows = 0
        self._span_ns = (0, 0)

    def pieces(self) -> Iterator[Piece]:
        """Yield what is not stored, in order; empty pieces after every part that was read.

        What cannot be read is told as a gap.
        """
        while (ends := self._ask_ends()) is None:
            yield IDLE
        if not ends:
            return
        self._ends = ends
        end = max(ends.values(), key=lambda end: end.recv_ns)
        # Without an event before them the first ones end no gap.
        self._gaps = GapTracker((end.event_ns, end.recv_ns) if end.event_ns else None)
        yield from self._pieces()
        if self.rows:
            first, last = map(iso_utc, self._span_ns)
            log.warning(
                "%s: %s events that were not stored are published from the journal, received from"
                " %s to %s",
                *(self._feed, f"{self.rows:,}", first, last),
            )

    def join(self, records: Records) -> FeedGap | None:
        """Return what is missing between the end of the journal and the first records of now."""
        self._gaps.on_disconnect()
        return self._gaps.on_records(records)

    def _pieces(self) -> Iterator[Piece]:
        # Read twice: what follows the last stored frame depends on whether that one is there.
        times = {end.recv_ns for end in self._ends.values()}
        segments: list[Segment] = []
        for segment in reversed(self._segments):
            segments.insert(0, segment)
            yield NOTHING
            front = first_entries(segment)
            if front and front[1] and front[1][0].recv_ns <= min(times) - self._context_ns:
                break
        found, newest_ns, from_ns = yield from self._found(segments, times)
        # Mostly the server has stored more than the disk of a run that was killed.
        if not found and newest_ns < min(times):
            return
        stored, self._is_whole = StoredRows(self._ends, found), from_ns is None
        for segment in segments:
            # None is held over to the next segment: that of another run has other ids.
            for piece in _joined(self._of_segment(segment, stored, from_ns)):
                yield self._handed_on(piece) if len(piece.records) else piece

    def _found(
        self, segments: Sequence[Segment], times: set[int]
    ) -> Generator[Piece, None, tuple[set[int], int, int | None]]:
        """Return which times occur, the newest there is, and from when on is to be decoded."""
        found: set[int] = set()
        newest_ns = pieces = 0
        # From the front only where that is not enough: what lies behind a clock that was set.
        for from_ns in (min(times) - self._context_ns, None):
            for segment in segments:
                for entry in self._entries(segment, lambda _: None, from_ns):
                    if entry is None:
                        pieces += 1
                        if pieces % SEARCHED_AT_ONCE == 0:
                            yield NOTHING
                    elif entry.connection != NOTE:
                        newest_ns = max(newest_ns, entry.recv_ns)
                        found |= times & {entry.recv_ns}
            self._broken = False
            if all(newest_ns < at < newest_ns + UNWRITTEN_NS for at in times - found):
                return found, newest_ns, from_ns
        return found, newest_ns, None

    def _of_segment(
        self, segment: Segment, stored: StoredRows, from_ns: int | None
    ) -> Iterator[Rows | None]:
        for entry in self._entries(segment, self._begin, from_ns):
            if entry is None:
                yield None
            elif (records := self._rest(entry, stored)) is not None:
                if self._broken:
                    self._gaps.on_disconnect()
                self._broken = False
                yield records, self._gaps.on_records(records)

    def _entries(
        self, segment: Segment, begin: Callable[[Header], None], from_ns: int | None
    ) -> Iterator[Entry | None]:
        try:
            yield from SegmentFrames(segment, JournalProgress(), begin, from_ns).entries()
        except NoDataError as error:
            # The feed goes on: what nobody can read is as if it had not been recorded.
            log.warning("%s: %s", self._feed, error)
            self._broken = True

    def _begin(self, header: Header) -> None:
        self._broken |= self._run_ns not in (None, header.run_ns)
        self._run_ns = header.run_ns
        self._playback.begin(header, whole=self._is_whole)

    def _rest(self, entry: Entry, stored: StoredRows) -> Records | None:
        """Return the rows of a frame that are not stored, None where there are none."""
        if self._playback.is_known(entry):
            return None
        self._broken |= self._playback.missing(entry) > 0
        if entry.connection == NOTE:
            self._broken |= not _noted(self._playback, entry, self._feed)
            return None
        self._broken |= self._connection not in (None, entry.connection)
        self._connection = entry.connection
        records = self._playback.decode(entry).records
        if not len(records):
            return None
        rest = stored.rest(records, entry.recv_ns)
        if not len(rest):
            # Whatever was missing before what is stored was told by the run that stored it.
            self._broken = False
            return None
        return rest

    def _handed_on(self, piece: Piece) -> Piece:
        records = self._renamer.renamed(piece.records, self._playback.symbols)
        recv_ns = records["ts_recv_ns"]
        self._span_ns = (self._span_ns[0] or int(recv_ns[0]), int(recv_ns[-1]))
        self.rows += len(records)
        return Piece(records, piece.gap)


GIVE_UP_NS: Final = 10 * NS_PER_S
"""A disk that takes nothing of what was recorded for so long does not hold up what is new."""


class ReadBack:
    """Reads what was recorded from a place on; rows have the ids that the live decoder gave.

    Attributes:
        end: Number of the frame from which on the feed holds what comes; None while it does not.
        idle_ns: How long nothing could be read; whoever reads adds to it.
    """

    def __init__(
        self,
        feed: str,
        frame_log: FrameLog,
        place: Place,
        twin: StockDecoder | OptionDecoder,
        last: tuple[int, int] | None,
    ) -> None:
        """`twin` is the live decoder's as it is at the place; `last` are times of the last record.

        These are its event's and its receipt's.
        """
        self._feed = feed
        self._frame_log = frame_log
        self._follower = frame_log.follower(place)
        self._next_number = place.number
        self._playback = Playback(twin)
        self._rest: list[Entry] | None = None
        self._gaps = GapTracker(last)
        self.idle_ns = 0
        self.end: int | None = None

    def pieces(self) -> Iterator[Piece]:
        """Yield what was recorded, in order, up to `end`; `IDLE` where more is to come."""
        try:
            while self.end is None or self._next_number < self.end:
                entries, self._rest = self._rest or self._follower.read(), None
                if entries is not None:
                    self.idle_ns = 0
                    yield from _joined(self._of(entries))
                elif self.end is None:
                    self.end = self._frame_log.number
                elif self.idle_ns >= GIVE_UP_NS:
                    log.error(
                        "%s: the journal does not hold all that was recorded: the feed goes on"
                        " without it",
                        self._feed,
                    )
                    self._gaps.on_disconnect()
                    return
                else:
                    yield IDLE
        finally:
            self._follower.close()

    def join(self, records: Records) -> FeedGap | None:
        """Return what is missing between the last record read back and the first that is new."""
        return self._gaps.on_records(records)

    def _of(self, entries: list[Entry]) -> Iterator[Rows | None]:
        is_empty = True
        for index, entry in enumerate(entries):
            if self.end is not None and entry.number >= self.end:
                # The feed holds these, but may yet forget them.
                self._rest = entries[index:]
                self._reach(self.end)
                break
            self._reach(entry.number)
            self._next_number += 1
            if entry.connection == NOTE:
                _noted(self._playback, entry, self._feed)
            elif len(records := self._playback.decode(entry).records):
                is_empty = False
                yield records, self._gaps.on_records(records)
        if is_empty:
            yield None

    def _reach(self, number: int) -> None:
        """Go on at an entry; those that are missing before it are a gap."""
        if number != self._next_number:
            self._gaps.on_disconnect()
        self._next_number = number


def _noted(playback: Playback, entry: Entry, feed: str) -> bool:
    """Play a note; False, and a word in the log, for what is none."""
    try:
        playback.note(entry)
    except BadDataError as error:
        log.warning("%s: %s", feed, error)
        return False
    return True


def _joined(parts: Iterable[Rows | None]) -> Iterator[Piece]:
    """Join rows to pieces: a gap begins another, and so does None, which becomes `NOTHING`."""
    held: list[Records] = []
    rows, gap = 0, None
    for part in parts:
        records, begins = part or (NOTHING.records, None)
        if part is None or begins is not None or rows >= PIECE_ROWS:
            yield from _cut(held, gap)
            held, rows, gap = [], 0, begins
        if part is None:
            yield NOTHING
        else:
            held.append(records)
            rows += len(records)
    yield from _cut(held, gap)


def _cut(held: list[Records], gap: FeedGap | None) -> Iterator[Piece]:
    records = joined(held) if held else NOTHING.records
    for first in range(0, len(records), PIECE_ROWS):
        yield Piece(records[first : first + PIECE_ROWS], gap)
        gap = None
