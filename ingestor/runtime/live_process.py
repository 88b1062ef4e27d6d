"""A live feed's process: what runs in it, and the sink through which it hands on.

It has one connection to the vendor, on a uvloop event loop. The loop drains the socket and nothing
else: what a full ring does not take waits in the feed's own backlog, or in its journal, and is
dropped and told of where neither has room; the ring is never waited for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any, Final, Protocol

import numpy as np
import uvloop

from ingestor.feeds.polygon.status_reporter import FeedStats, FrameLog, Sink
from ingestor.journal.recorder import JournalCounts
from ingestor.model.blocks import Block
from ingestor.model.feed_status import FeedStatus
from ingestor.model.records import OPTION_TRADE, Records
from ingestor.model.symbols import parse_option_ticker
from ingestor.model.units import now_ns
from ingestor.runtime.counters import MAX_LAST_TRADES, Counter, CounterRow, CounterTable, LastTrade
from ingestor.runtime.feed_process import FeedContext, FeedMain, RingWriter
from ingestor.runtime.latency import Hop
from ingestor.runtime.positions import FeedPosition

END_TIMEOUT_S: Final = 0.5
"""How long the end of a feed may wait for room in its ring; the supervisor sees it end anyway."""
END_PAUSE_S: Final = 0.001
"""Pause before a ring is looked at again meanwhile."""

MAX_NOTED_BLOCKS: Final = 1_024
"""Blocks of trades between two signs of life that the page hears of; of more, the last ones."""

MAX_KEPT_ROWS: Final = 256 * 1024
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""As much as the backlog that lies behind it, and some seconds of the busiest minute."""

MAX_KEPT_STATUSES: Final = 1_000

BLOCK_ROWS: Final = 1024
"""Rows handed on again at a time."""


class LiveFeed(Protocol):
    """What a live feed process runs: a connection that hands its results to a sink."""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Run until `stopping` turns true. Raises VendorRefusedError."""
        ...


MakeFeed = Callable[[Sink, FrameLog | None, FeedContext], LiveFeed]
"""Makes a feed inside its process."""


class Journal(FrameLog, Protocol):
    """Records frames, and counts those that it did not take."""

    counts: JournalCounts

    @property
    def failure(self) -> str | None:
        """Why nothing is written just now, None while it is."""
        ...


class KeptRows:
    """What a live feed has handed on and may have to hand on again: not known to be stored.

    A queue of records of one dtype, out of which any part may be read again. It is bounded: a feed
    whose rows are not stored hands on no more than this, and what comes then waits in its backlog.
    Rows, as statuses, are numbered from 0, the first that the feed's process handed on.
    """

    def __init__(self) -> None:
        # One buffer: arrays of a few rows, as live frames bring them, take five times the room.
        self._bytes = bytearray()
        self._dtype: np.dtype[Any] | None = None
        self._first = self._next = 0

    @property
    def _row_bytes(self) -> int:
        return 1 if self._dtype is None else self._dtype.itemsize

    @property
    def end(self) -> int:
        """Number of the row that is handed on next for the first time."""
        return self._first + len(self._bytes) // self._row_bytes

    @property
    def behind(self) -> int:
        """How many rows are to be handed on again."""
        return self.end - self._next

    @property
    def full(self) -> bool:
        """Whether no more can be kept; one block may go beyond."""
        return len(self._bytes) >= min(MAX_KEPT_BYTES, MAX_KEPT_ROWS * self._row_bytes)

    def add(self, records: Records) -> None:
        """Keep records that were just handed on."""
        self._dtype = records.dtype
        self._bytes += records.tobytes()
        self._next = self.end

    def forget(self, row: int) -> None:
        """Forget what comes before a row: it is stored."""
        rows = min(row, self._next) - self._first
        if rows > 0:
            # Cutting off the front of a bytearray moves nothing.
            del self._bytes[: rows * self._row_bytes]
            self._first += rows

    def rewind(self, row: int) -> int:
        """Hand on again from a row, or from the first one kept; return its number."""
        self._next = max(self._first, min(row, self.end))
        return self._next

    def again(self) -> Records | None:
        """Return the next rows that are to be handed on again; None where there are none."""
        if self._dtype is None or not self.behind:
            return None
        start = (self._next - self._first) * self._row_bytes
        stop = start + min(self.behind, BLOCK_ROWS) * self._row_bytes
        # A copy: the buffer cannot be cut while a view of it is there.
        return np.frombuffer(bytes(self._bytes[start:stop]), self._dtype)

    def advance(self, rows: int) -> None:
        """Note that so many of them were handed on."""
        self._next += rows


class KeptStatuses:
    """The same for what a feed tells about itself."""

    def __init__(self) -> None:
        self._held: deque[FeedStatus] = deque()
        self._first = self._next = 0

    @property
    def full(self) -> bool:
        """Whether no more can be kept."""
        return len(self._held) >= MAX_KEPT_STATUSES

    def add(self, status: FeedStatus) -> None:
        """Keep a status that was just handed on."""
        self._held.append(status)
        self._next += 1

    def forget(self, number: int) -> None:
        """Forget what comes before a number: it is settled."""
        while self._first < min(number, self._next):
            self._held.popleft()
            self._first += 1

    def rewind(self, number: int) -> int:
        """Hand on again from a number, or from the first one kept; return which it is."""
        self._next = max(self._first, min(number, self._first + len(self._held)))
        return self._next

    def again(self) -> FeedStatus | None:
        """Return the next one that is to be handed on again; None where there is none."""
        return next(islice(self._held, self._next - self._first, None), None)

    def advance(self) -> None:
        """Note that it was handed on."""
        self._next += 1


class RingSink(RingWriter):
    """A live feed's sink: its ring, which takes blocks and statuses, and its row of counters.

    What the ring has taken is kept until the publisher has told that it is stored. One that was
    started again gets all that is not stored once more, before anything new.
    """

    def __init__(self, context: FeedContext, journal: Journal | None = None) -> None:
        super().__init__(context, stamps=True)
        self._context = context
        self._journal = journal
        self._rows = KeptRows()
        self._statuses = KeptStatuses()
        self._last: Block | None = None
        latencies = context.table.latencies
        self._to_receive = latencies.recorder(context.index, Hop.VENDOR_TO_RECEIVE)
        self._to_ring = latencies.recorder(context.index, Hop.RECEIVE_TO_RING)
        self._last_trades = LastTrades(context.table)

    def put(self, block: Block, timeout_s: float = 0.0) -> bool:
        """Put a block, and keep it until it is stored; False when that is too much, or full."""
        if self._rows.full:
            self._forget_stored()
        if not self._caught_up() or self._rows.full or not super().put(block, timeout_s):
            return False
        self._rows.add(block.records)
        self._last = block
        self._note(block)
        return True

    def tell(self, status: FeedStatus, timeout_s: float = 0.0) -> bool:
        """Put a status, and keep it until it is settled; False when that is too much, or full."""
        if self._statuses.full:
            self._forget_stored()
        if not self._caught_up() or self._statuses.full or not super().tell(status, timeout_s):
            return False
        self._statuses.add(status)
        return True

    def beat(self) -> None:
        """Give a sign of life, and go on handing on again what another publisher needs."""
        super().beat()
        self._forget_stored()
        self._caught_up()

    def end(self, timeout_s: float = 0.0) -> bool:
        """Say that nothing more comes; False when the ring is still full."""
        deadline_s = time.monotonic() + timeout_s
        while not self._caught_up() and time.monotonic() < deadline_s:
            time.sleep(END_PAUSE_S)
        if behind := self._rows.behind:
            self._row.add(Counter.UNDELIVERED, behind)
        return super().end(timeout_s)

    def _note(self, block: Block) -> None:
        """Count how long its records have taken, and show what was traded last."""
        event_ns, recv_ns = block.records["ts_event_ns"], block.records["ts_recv_ns"]
        self._to_receive.add_each((recv_ns - event_ns).view(np.int64))
        # A block comes from one read, so its first record tells when all were received; of what
        # has waited in the backlog it is the oldest.
        self._to_ring.add(now_ns() - int(recv_ns[0]), len(block.records))
        if block.records.dtype == OPTION_TRADE:
            self._last_trades.note(block)

    def _caught_up(self) -> bool:
        """Hand on again what another publisher needs; whether it has all of it."""
        if self._ring.renewed:
            stored = self._stored()
            rows, statuses = self._rows.rewind(stored.stored), self._statuses.rewind(stored.told)
            self.begin_again(rows, statuses)
        while (status := self._statuses.again()) is not None:
            if not super().tell(status):
                return False
            self._statuses.advance()
        while (records := self._rows.again()) is not None and self._last is not None:
            if not self._put_block(replace(self._last, records=records), 0.0):
                return False
            self._rows.advance(len(records))
        return True

    def _forget_stored(self) -> None:
        stored = self._stored()
        self._rows.forget(stored.stored)
        self._statuses.forget(stored.told)

    def _stored(self) -> FeedPosition:
        """Return how much of this process is stored."""
        position = self._context.table.position
        if position is None or self._context.index >= len(position.feeds):
            return FeedPosition()
        mine = position.feeds[self._context.index]
        # The publisher may not have heard yet that this process follows another.
        return mine if mine.process == self._process else FeedPosition()

    def price(self, price_e9: int) -> None:
        """Show the newest reference price to the other processes."""
        self._context.table.reference_price_e9 = price_e9

    def show(self, stats: FeedStats) -> None:
        """Show the totals to the other processes, as a sign of life."""
        self.beat()
        self._to_receive.flush()
        self._to_ring.flush()
        self._last_trades.show()
        _show(stats, self._row)
        self._context.table.note_skipped(self._context.index, stats.skipped)
        self._row.note_since(Counter.AWAY_SINCE_NS, not stats.streaming, time.monotonic_ns())
        trouble: str | None = stats.trouble
        if self._journal is not None:
            trouble = trouble or self._journal.failure
            self._row[Counter.UNRECORDED] = self._journal.counts.lost
            self._row[Counter.JOURNAL_BYTES] = self._journal.counts.bytes
        self._context.table.note_trouble(self._context.index, trouble)


class LastTrades:
    """The last trade of each option contract that a feed has seen, for the page to show."""

    def __init__(self, table: CounterTable) -> None:
        self._table = table
        self._trades: dict[int, LastTrade] = {}
        self._blocks: deque[Block] = deque(maxlen=MAX_NOTED_BLOCKS)

    def note(self, block: Block) -> None:
        """Note a block of trades, which is looked at with the next sign of life."""
        self._blocks.append(block)

    def show(self) -> None:
        """Show those nearest to the money to the other processes, if there was any."""
        if not self._blocks:
            return
        while self._blocks:
            block = self._blocks.popleft()
            columns = ("instrument_id", "price_e9", "size", "ts_event_ns")
            rows = zip(*(block.records[one].tolist() for one in columns), strict=True)
            for instrument, price_e9, size, ts_event_ns in rows:
                self._trades[instrument] = (block.symbols[instrument], price_e9, size, ts_event_ns)
        price_e9 = self._table.reference_price_e9 or 0

        def distance_e9(trade: LastTrade) -> int:
            return abs(parse_option_ticker(trade[0]).strike_e9 - price_e9)

        nearest = sorted(self._trades.items(), key=lambda item: distance_e9(item[1]))
        # Strikes follow the price: of a whole day's contracts only those around it are kept.
        self._trades = dict(nearest[:MAX_LAST_TRADES])
        self._table.note_last_trades([*self._trades.values()])


def live_feed_main(make_feed: MakeFeed, journal: Journal | None) -> FeedMain:
    """Return the main function of a live feed's process, which closes its journal at the end."""

    def main(context: FeedContext) -> None:
        if context.again:
            context.table.go_on(context.index)
        sink = RingSink(context, journal)
        feed = make_feed(sink, journal, context)
        try:
            # Raises what the vendor refuses; the journal is closed all the same.
            uvloop.run(feed.run(lambda: context.stopping))
            sink.end(END_TIMEOUT_S)
        finally:
            if journal is not None:
                journal.close()

    return main


def _show(stats: FeedStats, row: CounterRow) -> None:
    row[Counter.FRAMES] = stats.frames
    row[Counter.BYTES_READ] = stats.bytes
    row[Counter.ODDITIES] = sum(stats.oddities.values())
    row[Counter.LATE] = stats.late
    row[Counter.RECONNECTS] = stats.reconnects
    row[Counter.GAPS] = stats.gaps
    row[Counter.DROPPED_TRADES] = stats.dropped_trades
    row[Counter.DROPPED_QUOTES] = stats.dropped_quotes
    row[Counter.HELD] = stats.backlog_rows
    row[Counter.SPOOLED] = stats.spooled_rows
    row[Counter.SPOOL_LAG_NS] = stats.spool_lag_ns
    row[Counter.UNDELIVERED] = stats.undelivered
    row[Counter.ATTEMPTS] = stats.attempts
    row[Counter.SUBSCRIBED] = stats.subscribed
    row[Counter.RECEIVED_NS] = stats.last_recv_ns
