"""Records on their way to a sink that may be full: bounded, and read back from a journal.

`SpillQueue` offers every block to the sink at once and never waits for it. What the sink refuses
lies in a `Backlog` until it is taken, and whatever comes meanwhile lies behind it, so order holds.
What a journal still has from before (`Spool`) goes first; all that comes meanwhile waits for it.
With a journal nothing is given up: when the backlog is full, what comes is left to the journal, and
read back (`ReadBack`) behind the backlog. Without one, quotes are given up before trades.

Theory of the backlog. Rows lie in chunks, oldest first. Quotes are given up oldest first, so chunks
split into two queues: `lean`, in front, out of which all quotes are gone already, and `mixed`
behind it, where there may be some. Whatever has to go goes from the first chunk of `mixed`; a chunk
that has lost its last quote moves to the end of `lean`, and is joined with the chunk there while
both fit into one. Only when `mixed` is used up does a trade go: the oldest, the first of `lean`.
Each chunk is thus searched once, and the order of what stays never changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.relay import Relay
from ingestor.feeds.polygon.spool import IDLE, NOTHING, Piece, ReadBack, Spool
from ingestor.feeds.polygon.status_reporter import (
    FeedGap,
    FrameLog,
    Losses,
    Sink,
    StatusReporter,
    is_quote,
    trades_and_quotes,
)
from ingestor.journal.segments import Place
from ingestor.model.blocks import Block, Source
from ingestor.model.records import Records, joined
from ingestor.model.symbols import SymbolTable
from ingestor.model.units import NS_PER_S

MAX_BLOCK_ROWS: Final = 1024
"""Records in one block; at most 80 KB."""

SLACK_SHARE: Final = 64
"""When rows must go, a further 64th of the limit goes too: not every frame is to cost a search."""

SPOOL_ROWS: Final = 2 * MAX_BLOCK_ROWS
"""Rows of a journal that are read at a time, some milliseconds: the socket waits meanwhile."""

PIECE_COST: Final = MAX_BLOCK_ROWS // 4
"""A piece of a journal counts as so many rows at least: to read it takes time too."""

MAX_REST_NS: Final = NS_PER_S // 10
"""A journal that was not read for longer, or a clock that was set, makes no more rows due."""

CATCH_UP_PER_S: Final = 50_000
"""Rows of a journal handed on a second, where nobody says otherwise."""

TELL_FIRST_NS: Final = 10 * NS_PER_S
TELL_AT_LEAST_NS: Final = 600 * NS_PER_S
"""How far behind a feed is whose journal is read back is told after 10 s, 20 s, 40 s, and then
every ten minutes: a server that is away for a day is not to push older statuses out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BacklogLimits:
    """How many records may wait for a sink that is full; whichever is reached first."""

    rows: int = 256 * 1024
    bytes: int = 16 * 1024 * 1024


class Backlog:
    """A queue of records of one dtype, shape (n,), that never holds more than its limits."""

    def __init__(self, dtype: np.dtype[Any], limits: BacklogLimits) -> None:
        self._dtype = dtype
        self._max_rows = min(limits.rows, limits.bytes // dtype.itemsize)
        self._rows = 0
        self._lean: deque[Records] = deque()
        self._mixed: deque[Records] = deque()
        self._newest = bytearray()
        self._losses: Losses | None = None

    def __len__(self) -> int:
        """Number of rows held."""
        return self._rows

    @property
    def losses(self) -> Losses | None:
        """What was given up since `take_losses`; None if nothing was."""
        return self._losses

    @property
    def ends(self) -> tuple[Times, Times]:
        """Times of the oldest and the newest row; there must be some."""
        self._seal()
        newest = (self._mixed or self._lean)[-1]
        return times_of((self._lean or self._mixed)[0]), times_of(newest[-1:])

    @property
    def full(self) -> bool:
        """Whether there is no room for one row more."""
        return self._rows >= self._max_rows

    def forget(self) -> list[Records]:
        """Hold nothing any more, which is no loss; return what it was."""
        self._seal()
        chunks = [*self._lean, *self._mixed]
        self._lean.clear()
        self._mixed.clear()
        self._rows = 0
        return chunks

    def add(self, records: Records, *, beyond: bool = False) -> None:
        """Hold records, and give up what is then too much, unless it may go `beyond` the limit."""
        # Live frames are short; gathered they make chunks of one size and few objects.
        self._newest += records.tobytes()
        self._rows += len(records)
        chunk_bytes = MAX_BLOCK_ROWS * self._dtype.itemsize
        while len(self._newest) >= chunk_bytes:
            self._mixed.append(np.frombuffer(self._newest[:chunk_bytes], self._dtype))
            del self._newest[:chunk_bytes]
        if self._rows > self._max_rows and not beyond:
            # More than the surplus: at the limit every frame would else search a chunk.
            self._shrink(self._max_rows - self._max_rows // SLACK_SHARE)

    def first(self) -> Records:
        """Return the oldest records, at most `MAX_BLOCK_ROWS`; none only where none are held."""
        if not self._lean and not self._mixed:
            self._seal()
        oldest = self._lean or self._mixed
        return oldest[0] if oldest else np.empty(0, self._dtype)

    def remove_first(self) -> None:
        """Forget what `first` returns: the sink has it."""
        self._rows -= len(self.first())
        (self._lean or self._mixed).popleft()

    def give_up(self) -> None:
        """Give up everything."""
        self._shrink(0)

    def take_losses(self) -> Losses | None:
        """Return what was given up since the last call."""
        losses, self._losses = self._losses, None
        return losses

    def _shrink(self, rows: int) -> None:
        while (surplus := self._rows - rows) > 0:
            if not self._mixed:
                self._seal()
            if self._mixed:
                self._give_up_quotes(surplus)
            else:
                chunk = self._lean.popleft()
                self._lose(chunk[:surplus])
                if surplus < len(chunk):
                    self._lean.appendleft(chunk[surplus:])

    def _seal(self) -> None:
        if self._newest:
            self._mixed.append(np.frombuffer(self._newest, self._dtype))
            # A new buffer, not a cleared one: the array that was just made is a view of the old.
            self._newest = bytearray()

    def _give_up_quotes(self, most: int) -> None:
        """Out of the first chunk that may hold some."""
        chunk = self._mixed.popleft()
        quotes = np.flatnonzero(is_quote(chunk))
        going = quotes[:most]
        if len(going):
            self._lose(chunk[going])
        kept = np.delete(chunk, going)
        if len(going) < len(quotes):
            self._mixed.appendleft(kept)
        elif len(kept):
            # Joined, or chunks of a few trades each would pile up and make many small blocks.
            if self._lean and len(self._lean[-1]) + len(kept) <= MAX_BLOCK_ROWS:
                kept = joined((self._lean.pop(), kept))
            self._lean.append(kept)

    def _lose(self, records: Records) -> None:
        self._rows -= len(records)
        if self._losses is None:
            self._losses = Losses()
        self._losses.add(records)


Times = tuple[int, int]
"""When an event was made, and when it was received."""


def times_of(records: Records) -> Times:
    """Return the times of the first of these."""
    return int(records["ts_event_ns"][0]), int(records["ts_recv_ns"][0])


@dataclass(slots=True)
class Left:
    """What was left to the journal and not read back yet; `last` is what was handed on last."""

    trades: int = 0
    quotes: int = 0
    read: int = 0
    last: Times | None = None
    newest: Times | None = None

    def add(self, records: Records) -> None:
        """Count records that are left, at least one."""
        trades, quotes = trades_and_quotes(records)
        self.trades += trades
        self.quotes += quotes
        self.newest = times_of(records[-1:])

    def take(self, records: Records, *, counted: bool) -> None:
        """Note what the journal gave; it is `counted` if it was left there by us."""
        if not len(records):
            return
        self.last = times_of(records[-1:])
        if counted:
            trades, quotes = trades_and_quotes(records)
            self.trades -= trades
            self.quotes -= quotes
            self.read += len(records)

    def losses(self) -> Losses:
        """Return it as what is lost to this run."""
        first, last = self.last or (0, 0), self.newest or self.last or (0, 0)
        return Losses(self.trades, self.quotes, first[0], last[0], first[1], last[1])


class SpillQueue:
    """Hands records to a sink in order, and keeps what it refuses.

    An episode of losses begins with the first record given up and ends when nothing is held any
    more; then it is told, once.
    """

    def __init__(
        self,
        sink: Sink,
        backlog: Backlog,
        reporter: StatusReporter,
        *,
        feed: int,
        symbols: SymbolTable,
        source: Source,
        spool: Spool | Relay | None = None,
        frame_log: FrameLog | None = None,
        catch_up_per_s: float = CATCH_UP_PER_S,
    ) -> None:
        """`feed`, `symbols` and `source` are those of every `Block`; the table may grow.

        `spool` is what goes before everything else; `frame_log` is where frames are recorded that
        `put` gets the records of. `catch_up_per_s` rows a second are read of either.
        """
        self._sink = sink
        self._backlog = backlog
        self._reporter = reporter
        self._feed = feed
        self._symbols = symbols
        self._source = source
        self._frame_log = frame_log
        self._before: Spool | Relay | ReadBack | None = spool
        self._pieces: Iterator[Piece] = iter(()) if spool is None else spool.pieces()
        self._piece: Piece | None = next(self._pieces, None)
        self._waiting: ReadBack | None = None
        self._left = Left()
        self._rate = catch_up_per_s
        self._due = 0.0
        self._passed_ns = self._told_ns = 0
        self._tell_after_ns = TELL_FIRST_NS

    def __len__(self) -> int:
        """Number of rows that wait; of the journal's nobody has counted how many there are."""
        return len(self._backlog)

    @property
    def full(self) -> bool:
        """Whether what comes next is to be left to the journal, if it is there (`leave`)."""
        return self._backlog.full and not self._leaving

    @property
    def left_rows(self) -> int:
        """Rows that were left to the journal and are not read back."""
        return self._left.trades + self._left.quotes

    def lag_ns(self, now_ns: int) -> int:
        """How old what the journal is to give next is; 0 where it gives nothing."""
        if self._piece is None and self._waiting is None:
            return 0
        return max(0, now_ns - self._left.last[1]) if self._left.last else 0

    @property
    def _leaving(self) -> bool:
        """Whether what comes is left to the journal."""
        if self._waiting is not None:
            return True
        before = self._before
        return isinstance(before, ReadBack) and before.end is None and self._piece is not None

    def leave(
        self, place: Place, twin: Callable[[], StockDecoder | OptionDecoder], now_ns: int
    ) -> None:
        """Leave to the journal what comes from this place on; only where it is `full`.

        `twin` makes a twin of the decoder, as it is before the frame at this place.
        """
        assert self._frame_log is not None
        before = self._before
        if isinstance(before, ReadBack) and self._piece is not None:
            # All of the backlog is in the journal, behind what is being read back.
            for chunk in self._backlog.forget():
                self._left.add(chunk)
            before.end = None
            return
        oldest, newest = self._backlog.ends
        self._waiting = ReadBack(self._reporter.feed, self._frame_log, place, twin(), newest)
        self._left.last = oldest
        self._told_ns, self._tell_after_ns = now_ns, TELL_FIRST_NS
        self._reporter.spool("what comes waits in the journal: the backlog is full", now_ns)

    def put(self, records: Records, now_ns: int) -> None:
        """Hand on records, hold them, or leave them to the journal."""
        if self._leaving:
            self._left.add(records)
            return
        if self._backlog or self._before is not None:
            # Behind what waits, even when the sink has room again: order comes first.
            self._hold(records)
            # Not each frame that comes is to wait for a part of the journal to be read.
            if self._piece is None:
                self.drain(now_ns)
            return
        for first in range(0, len(records), MAX_BLOCK_ROWS):
            rows = records[first : first + MAX_BLOCK_ROWS]
            if not self._sink.put(Block(self._feed, rows, self._symbols, self._source)):
                self._hold(records[first:])
                return

    def drain(self, now_ns: int) -> bool:
        """Hand on what is held, as far as the sink takes it; whether nothing is held any more."""
        self._tell_how_far(now_ns)
        if self._before is not None and not self._pass_spool(self._before, now_ns):
            return False
        while self._backlog:
            rows = self._backlog.first()
            if not self._sink.put(Block(self._feed, rows, self._symbols, self._source)):
                return False
            self._backlog.remove_first()
        losses = self._backlog.take_losses()
        if losses is not None:
            self._reporter.overflow(losses, now_ns)
        if self._waiting is not None:
            self._before, self._waiting = self._waiting, None
            self._pieces = self._before.pieces()
            self._piece = NOTHING
            return False
        return True

    def on_own(self, *, is_whole: bool, now_ns: int, recv_ns: int) -> None:
        """Hear whether the feed's connection brings all that it is to; see `Relay`."""
        if isinstance(self._before, Relay):
            self._before.on_own(is_whole=is_whole, now_ns=now_ns, recv_ns=recv_ns)

    def stop(self) -> None:
        """Hear that nothing more is put."""
        if isinstance(self._before, Relay):
            self._before.stop()

    def _pass_spool(self, before: Spool | Relay | ReadBack, now_ns: int) -> bool:
        """Hand on some of what the journal holds; whether that is all of it."""
        passed_ns = min(max(now_ns - self._passed_ns, 0), MAX_REST_NS)
        self._passed_ns = now_ns
        self._due = min(self._due + passed_ns * self._rate / NS_PER_S, SPOOL_ROWS)
        if self._piece is IDLE and isinstance(before, ReadBack):
            before.idle_ns += passed_ns
        while self._piece is not None and self._due > 0:
            records, gap = self._piece
            if gap is not None:
                self._tell_gap(before, gap)
                self._piece = Piece(records)
            block = Block(self._feed, records, self._symbols, self._source)
            if len(records) and not self._sink.put(block):
                return False
            self._due -= max(len(records), PIECE_COST)
            self._left.take(records, counted=isinstance(before, ReadBack))
            self._piece = next(self._pieces, None)
            if self._piece is IDLE:
                break
        if self._piece is not None:
            return False
        self._join_own(before, now_ns)
        return True

    def _join_own(self, before: Spool | Relay | ReadBack, now_ns: int) -> None:
        """All of what goes first is handed on: find out what of the live feed follows it."""
        if isinstance(before, ReadBack) and self._left.last is not None:
            self._reporter.spool(f"caught up: {self._left.read:,} events were read back", now_ns)
            self._left = Left()
        if isinstance(before, Relay):
            for chunk in self._backlog.forget():
                self._backlog.add(before.own(chunk, self._symbols), beyond=True)
        if self._backlog:
            # Only now it is known what of the live feed follows the journal's last.
            if (gap := before.join(self._backlog.first())) is not None:
                self._tell_gap(before, gap)
            if not isinstance(before, Relay) or before.is_done:
                self._before = None

    def _tell_gap(self, before: Spool | Relay | ReadBack, gap: FeedGap) -> None:
        if isinstance(before, ReadBack):
            self._reporter.hole(gap)
        else:
            self._reporter.gap(gap)

    def _tell_how_far(self, now_ns: int) -> None:
        lag_ns = self.lag_ns(now_ns)
        if not lag_ns:
            self._told_ns, self._tell_after_ns = now_ns, TELL_FIRST_NS
        elif now_ns - self._told_ns >= self._tell_after_ns:
            self._told_ns = now_ns
            self._tell_after_ns = min(2 * self._tell_after_ns, TELL_AT_LEAST_NS)
            text = f"{lag_ns / NS_PER_S:.1f} s behind"
            if self.left_rows:
                text += f": {self.left_rows:,} events wait in the journal"
            self._reporter.spool(text, now_ns)

    def give_up(self, now_ns: int) -> None:
        """Drop what is still held, and tell: the end has come first, the backlog is not full."""
        losses = self._backlog.take_losses()
        if losses is not None:
            self._reporter.overflow(losses, now_ns)
        self._backlog.give_up()
        undelivered = self._backlog.take_losses()
        if undelivered is not None:
            self._reporter.undelivered(undelivered, now_ns)
        if self.left_rows:
            self._reporter.left(self._left.losses(), now_ns)

    def _hold(self, records: Records) -> None:
        # What a journal takes is not given up: the next frame is left to it.
        is_kept = self._frame_log is not None and self._frame_log.place is not None
        self._backlog.add(records, beyond=is_kept)
        if (losses := self._backlog.losses) is not None:
            self._reporter.losing(losses)
