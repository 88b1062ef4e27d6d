"""A live feed's process: one connection to the vendor, on a uvloop event loop, and its outlet.

The loop drains the socket and nothing else. What a full ring does not take waits in the feed's own
backlog, and is dropped and told of where that is full too; the ring is never waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import uvloop

from ingestor.feeds.polygon.outlet import FeedCounts, FrameLog, Outlet
from ingestor.journal.writer import JournalCounts
from ingestor.model.blocks import Block
from ingestor.model.feed_status import FeedStatus
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.feed_place import (
    FeedMain,
    FeedPlace,
    FeedReport,
    RingWriter,
    counted_of_feed,
)

END_TIMEOUT_S: Final = 0.5
"""How long the end of a feed may wait for room in its ring; the supervisor sees it end anyway."""


class LiveFeed(Protocol):
    """What a live feed process runs: a connection that hands its results to an outlet."""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Run until `stopping` turns true. Raises VendorRefusedError."""
        ...


MakeFeed = Callable[[Outlet, FrameLog | None, FeedPlace], LiveFeed]
"""Makes a feed inside its process."""


class Journal(FrameLog, Protocol):
    """Records frames, and counts those that it did not take."""

    counts: JournalCounts


class RingOutlet:
    """The way from a live feed to the publisher: its ring and its row of counters."""

    def __init__(self, place: FeedPlace, journal: Journal | None = None) -> None:
        self._writer = RingWriter(place)
        self._row = place.row
        self._journal = journal
        self.counts = FeedCounts()

    def put(self, block: Block) -> bool:
        """Take a block that is not empty; False when the ring is full."""
        return self._writer.put(block)

    def tell(self, status: FeedStatus) -> bool:
        """Take what the feed tells about itself; False when the ring is full."""
        return self._writer.tell(status)

    def price(self, price_e9: int) -> None:
        """Show the newest reference price to the other processes."""
        self._row[Counter.REFERENCE_PRICE_E9] = price_e9

    def beat(self, counts: FeedCounts) -> None:
        """Take a sign of life, and show the totals to the other processes."""
        self.counts = counts
        self._writer.beat()
        _show(counts, self._row)
        self._row.away(not counts.streaming, time.monotonic_ns())
        if self._journal is not None:
            self._row[Counter.UNRECORDED] = self._journal.counts.lost

    def end(self) -> None:
        """Say that nothing more comes."""
        self._writer.end(END_TIMEOUT_S)


class LiveProcess:
    """Runs one live feed until the run is to stop, and closes its journal, if it has one."""

    def __init__(self, make_feed: MakeFeed, journal: Journal | None, place: FeedPlace) -> None:
        self._place = place
        self._outlet = RingOutlet(place, journal)
        self._journal = journal
        self._feed = make_feed(self._outlet, journal, place)

    def run(self) -> FeedReport:
        """Run to the end. Raises VendorRefusedError."""
        try:
            uvloop.run(self._feed.run(lambda: self._place.stopping))
            self._outlet.end()
        finally:
            if self._journal is not None:
                self._journal.close()
        counted = counted_of_feed(self._place.row)
        return msgspec.structs.replace(counted, skipped=dict(self._outlet.counts.skipped))


def streams(make_feed: MakeFeed, journal: Journal | None) -> FeedMain:
    """Return the main function of a live feed's process."""
    return lambda place: LiveProcess(make_feed, journal, place).run()


def _show(counts: FeedCounts, row: CounterRow) -> None:
    row[Counter.FRAMES] = counts.frames
    row[Counter.BYTES_READ] = counts.bytes
    row[Counter.SKIPPED] = sum(counts.skipped.values())
    row[Counter.ODDITIES] = sum(counts.oddities.values())
    row[Counter.LATE] = counts.late
    row[Counter.RECONNECTS] = counts.reconnects
    row[Counter.GAPS] = counts.gaps
    row[Counter.DROPPED_TRADES] = counts.dropped_trades
    row[Counter.DROPPED_QUOTES] = counts.dropped_quotes
    row[Counter.HELD] = counts.backlog_rows
    row[Counter.UNDELIVERED] = counts.undelivered
