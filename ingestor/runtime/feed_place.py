"""Where a feed process works: its ring, its counters, and the word to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from ingestor.blocks import Block
from ingestor.feed_status import FeedStatus
from ingestor.ring.block_ring import BlockRing, Message
from ingestor.ring.wire import END_MESSAGE, records_message, status_message, symbols_message
from ingestor.runtime.counters import Counter, CounterRow, CounterTable


class FeedReport(msgspec.Struct, frozen=True):
    """What a feed did: records handed on, skipped by cause, late; and what it broke on, if so.

    What is lost and how often a connection was made anew is of live feeds only.
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
    """Puts blocks in a feed's ring, what is new in their symbol tables before them."""

    def __init__(self, place: FeedPlace) -> None:
        self._ring = place.ring
        self._row = place.row
        self._table: Mapping[int, str] = {}
        self._seen = 0
        self._announced: dict[int, str] = {}

    def put(self, block: Block, timeout_s: float = 0.0) -> bool:
        """Put a block that is not empty, and count it; False when the ring is still full.

        A block that was refused may be put again: nothing of it is in the ring but its symbols.
        """
        if not self._announce(block.symbols, timeout_s):
            return False
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
        """Give a sign of life."""
        self._row[Counter.HEARTBEAT_NS] = time.monotonic_ns()

    def _announce(self, symbols: Mapping[int, str], timeout_s: float) -> bool:
        if symbols is self._table and len(symbols) == self._seen:
            return True
        news = {k: v for k, v in symbols.items() if self._announced.get(k) != v}
        if news and not self._put(symbols_message(news), timeout_s):
            return False
        self._announced.update(news)
        self._table, self._seen = symbols, len(symbols)
        return True

    def _put(self, message: Message, timeout_s: float) -> bool:
        if self._ring.put(message, timeout_s):
            return True
        self._row.add(Counter.RING_FULL)
        return False
