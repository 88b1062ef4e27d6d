"""Records on their way to a sink that may be full: bounded, quotes given up before trades.

`SpillQueue` offers every block to the sink at once and never waits for it. What the sink refuses
lies in a `Backlog` until it is taken, and whatever comes meanwhile lies behind it, so order holds.
What a journal still has from before (`Spool`) goes first; all that comes meanwhile waits for it.

Theory of the backlog. Rows lie in chunks, oldest first. Quotes are given up oldest first, so chunks
split into two queues: `lean`, in front, out of which all quotes are gone already, and `mixed`
behind it, where there may be some. Whatever has to go goes from the first chunk of `mixed`; a chunk
that has lost its last quote moves to the end of `lean`, and is joined with the chunk there while
both fit into one. Only when `mixed` is used up does a trade go: the oldest, the first of `lean`.
Each chunk is thus searched once, and the order of what stays never changes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestor.feeds.polygon.sink import Sink
from ingestor.feeds.polygon.spool import Piece, Spool
from ingestor.feeds.polygon.status_reporter import Losses, StatusReporter, is_quote
from ingestor.model.blocks import Block, Source
from ingestor.model.records import Records, joined
from ingestor.model.symbols import SymbolTable

MAX_BLOCK_ROWS: Final = 1024
"""Records in one block; at most 80 KB."""

SLACK_SHARE: Final = 64
"""When rows must go, a further 64th of the limit goes too: not every frame is to cost a search."""

SPOOL_PIECES: Final = 2
"""Pieces of a journal that are read at a time: the socket waits meanwhile."""


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
    def losing(self) -> bool:
        """Whether something was given up since `take_losses`."""
        return self._losses is not None

    def add(self, records: Records) -> None:
        """Hold records, and give up what is then too much."""
        # Live frames are short; gathered they make chunks of one size and few objects.
        self._newest += records.tobytes()
        self._rows += len(records)
        chunk_bytes = MAX_BLOCK_ROWS * self._dtype.itemsize
        while len(self._newest) >= chunk_bytes:
            self._mixed.append(np.frombuffer(self._newest[:chunk_bytes], self._dtype))
            del self._newest[:chunk_bytes]
        if self._rows > self._max_rows:
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
        spool: Spool | None = None,
    ) -> None:
        """`feed`, `symbols` and `source` are those of every `Block`; the table may grow.

        `spool` is what goes before everything else.
        """
        self._sink = sink
        self._backlog = backlog
        self._reporter = reporter
        self._feed = feed
        self._symbols = symbols
        self._source = source
        self._spool = spool
        self._pieces: Iterator[Piece] = iter(()) if spool is None else spool.pieces()
        self._piece: Piece | None = next(self._pieces, None)

    def __len__(self) -> int:
        """Number of rows that wait; of the journal's nobody has counted how many there are."""
        return len(self._backlog)

    def put(self, records: Records, now_ns: int) -> None:
        """Hand on records, or hold them."""
        if self._backlog or self._spool is not None:
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
        if self._spool is not None and not self._pass_spool(self._spool):
            return False
        while self._backlog:
            rows = self._backlog.first()
            if not self._sink.put(Block(self._feed, rows, self._symbols, self._source)):
                return False
            self._backlog.remove_first()
        losses = self._backlog.take_losses()
        if losses is not None:
            self._reporter.overflow(losses, now_ns)
        return True

    def _pass_spool(self, spool: Spool) -> bool:
        """Hand on some of what the journal holds; whether that is all of it."""
        for _ in range(SPOOL_PIECES):
            if self._piece is None:
                break
            records, gap = self._piece
            if gap is not None:
                self._reporter.gap(gap)
                self._piece = Piece(records)
            if len(records) and not self._sink.put(
                Block(self._feed, records, self._symbols, self._source)
            ):
                return False
            self._piece = next(self._pieces, None)
        if self._piece is not None:
            return False
        if self._backlog:
            # Only now it is known what of the live feed follows the journal's last.
            if (gap := spool.join(self._backlog.first())) is not None:
                self._reporter.gap(gap)
            self._spool = None
        return True

    def give_up(self, now_ns: int) -> None:
        """Drop what is still held, and tell: the end has come first, the backlog is not full."""
        losses = self._backlog.take_losses()
        if losses is not None:
            self._reporter.overflow(losses, now_ns)
        self._backlog.give_up()
        undelivered = self._backlog.take_losses()
        if undelivered is not None:
            self._reporter.undelivered(undelivered, now_ns)

    def _hold(self, records: Records) -> None:
        was_losing = self._backlog.losing
        self._backlog.add(records)
        if self._backlog.losing and not was_losing:
            self._reporter.losing()
