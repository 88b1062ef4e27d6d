"""Where a feed process works: its ring, its counters, and the word to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from ingestor.model.blocks import Block
from ingestor.model.feed_status import FeedStatus
from ingestor.model.symbols import SymbolTable
from ingestor.ring.block_ring import BlockRing, Message
from ingestor.ring.wire import (
    END_MESSAGE,
    MAX_SYMBOLS_BYTES,
    order_message,
    records_message,
    status_message,
    symbols_messages,
)
from ingestor.runtime import log as logs
from ingestor.runtime.counters import Counter, CounterRow, CounterTable

SYMBOLS_SHARE: Final = 4
"""A message of symbols takes at most a quarter of the ring, so that a table of any size fits."""


class FeedReport(msgspec.Struct, frozen=True):
    """What a feed did: records handed on, skipped by cause, late; and what it broke on, if so.

    What is lost and how often a connection was made anew is of live feeds only; `undelivered`
    are records that had not been handed on when the run was to stop, or when the process ended.
    """

    records: int = 0
    skipped: dict[str, int] = {}
    late: int = 0
    error: str | None = None
    exit_code: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    gaps: int = 0
    reconnects: int = 0
    unrecorded: int = 0
    undelivered: int = 0


UNKNOWN_CAUSE: Final = "of a process that is gone"


def counted_of_feed(row: CounterRow) -> FeedReport:
    """Return the report of a feed that ended without: what it had counted."""
    skipped = row[Counter.SKIPPED]
    return FeedReport(
        records=row[Counter.RECORDS],
        skipped={UNKNOWN_CAUSE: skipped} if skipped else {},
        late=row[Counter.LATE],
        dropped_trades=row[Counter.DROPPED_TRADES],
        dropped_quotes=row[Counter.DROPPED_QUOTES],
        gaps=row[Counter.GAPS],
        reconnects=row[Counter.RECONNECTS],
        unrecorded=row[Counter.UNRECORDED],
        undelivered=max(row[Counter.UNDELIVERED], row[Counter.HELD]),
    )


@dataclass(frozen=True, slots=True)
class FeedPlace:
    """Feed `index` of a run: what was made for it before the processes forked."""

    index: int
    ring: BlockRing
    table: CounterTable

    @property
    def row(self) -> CounterRow:
        """Its own counters."""
        return self.table.row(self.index)

    @property
    def stopping(self) -> bool:
        """Whether the feed is to come to its end."""
        return self.table.stopping


FeedMain = Callable[[FeedPlace], FeedReport]
"""What a feed process runs, from its first line to its last."""


class RingWriter:
    """Puts blocks in a feed's ring, what is new in their symbol tables before them.

    While blocks come with the same table, only what it has grown by is looked at: the last of its
    symbols. Another table is compared with the one before it, once.
    """

    def __init__(self, place: FeedPlace) -> None:
        self._ring = place.ring
        self._row = place.row
        self._symbols_bytes = min(MAX_SYMBOLS_BYTES, place.ring.max_message_bytes // SYMBOLS_SHARE)
        self._table: SymbolTable = {}
        self._seen = 0
        self._pending: list[tuple[int, str]] = []
        self._in_order = False

    def put(self, block: Block, timeout_s: float = 0.0) -> bool:
        """Put a block that is not empty, and count it; False when the ring is still full.

        A block that was refused may be put again: nothing of it is in the ring but its symbols.
        """
        if not self._announce(block.symbols, timeout_s):
            return False
        if block.in_order is not self._in_order:
            if not self._put(order_message(in_order=block.in_order), timeout_s):
                return False
            self._in_order = block.in_order
        if not self._put(records_message(block.records), timeout_s):
            return False
        self._row.add(Counter.RECORDS, len(block.records))
        self._row[Counter.EVENT_TIME_NS] = int(block.records["ts_event_ns"][-1])
        return True

    def tell(self, status: FeedStatus, timeout_s: float = 0.0) -> bool:
        """Put what the feed tells about itself; False when the ring is still full."""
        return self._put(status_message(status), timeout_s)

    def end(self, timeout_s: float = 0.0) -> bool:
        """Say that nothing more comes; False when the ring is still full."""
        return self._put(END_MESSAGE, timeout_s)

    def beat(self) -> None:
        """Give a sign of life, and write what of the log nobody has read yet."""
        logs.drain()
        self._row[Counter.HEARTBEAT_NS] = time.monotonic_ns()

    def _announce(self, symbols: SymbolTable, timeout_s: float) -> bool:
        """Put the symbols of a table that the reader does not know; False when the ring is full."""
        if symbols is not self._table or len(symbols) != self._seen:
            self._pending += self._news(symbols)
            self._table, self._seen = symbols, len(symbols)
        sent = 0
        for count, message in symbols_messages(self._pending, self._symbols_bytes):
            if not self._put(message, timeout_s):
                break
            sent += count
        del self._pending[:sent]
        return not self._pending

    def _news(self, symbols: SymbolTable) -> Iterable[tuple[int, str]]:
        """Return what a table holds beyond what was seen of it, or of the table before it."""
        if symbols is self._table:
            return [*islice(reversed(symbols.items()), len(symbols) - self._seen)][::-1]
        known = self._table if self._seen == len(self._table) else {}
        return [pair for pair in symbols.items() if known.get(pair[0]) != pair[1]]

    def _put(self, message: Message, timeout_s: float) -> bool:
        if self._ring.put(message, timeout_s):
            return True
        self._row.add(Counter.RING_FULL)
        return False
