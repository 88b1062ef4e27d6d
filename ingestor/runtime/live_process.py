"""A live feed's process: one connection to the vendor, on a uvloop event loop, and its sink.

The loop drains the socket and nothing else. What a full ring does not take waits in the feed's own
backlog, and is dropped and told of where that is full too; the ring is never waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
import uvloop

from ingestor.feeds.polygon.sink import FeedStats, FrameLog, Sink
from ingestor.journal.recorder import JournalCounts
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
    """What a live feed process runs: a connection that hands its results to an sink."""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Run until `stopping` turns true. Raises VendorRefusedError."""
        ...


MakeFeed = Callable[[Sink, FrameLog | None, FeedPlace], LiveFeed]
"""Makes a feed inside its process."""


class Journal(FrameLog, Protocol):
    """Records frames, and counts those that it did not take."""

    counts: JournalCounts


class RingSink(RingWriter):
    """A live feed's sink: its ring, which takes blocks and statuses, and its row of counters."""

    def __init__(self, place: FeedPlace, journal: Journal | None = None) -> None:
        super().__init__(place)
        self._row = place.row
        self._journal = journal
        self.stats = FeedStats()

    def price(self, price_e9: int) -> None:
        """Show the newest reference price to the other processes."""
        self._row[Counter.REFERENCE_PRICE_E9] = price_e9

    def show(self, stats: FeedStats) -> None:
        """Show the totals to the other processes, as a sign of life."""
        self.stats = stats
        self.beat()
        _show(stats, self._row)
        self._row.away(not stats.streaming, time.monotonic_ns())
        if self._journal is not None:
            self._row[Counter.UNRECORDED] = self._journal.counts.lost


class LiveProcess:
    """Runs one live feed until the run is to stop, and closes its journal, if it has one."""

    def __init__(self, make_feed: MakeFeed, journal: Journal | None, place: FeedPlace) -> None:
        self._place = place
        self._sink = RingSink(place, journal)
        self._journal = journal
        self._feed = make_feed(self._sink, journal, place)

    def run(self) -> FeedReport:
        """Run to the end. Raises VendorRefusedError."""
        try:
            uvloop.run(self._feed.run(lambda: self._place.stopping))
            self._sink.end(END_TIMEOUT_S)
        finally:
            if self._journal is not None:
                self._journal.close()
        counted = counted_of_feed(self._place.row)
        return msgspec.structs.replace(counted, skipped=dict(self._sink.stats.skipped))


def streams(make_feed: MakeFeed, journal: Journal | None) -> FeedMain:
    """Return the main function of a live feed's process."""
    return lambda place: LiveProcess(make_feed, journal, place).run()


def _show(stats: FeedStats, row: CounterRow) -> None:
    row[Counter.FRAMES] = stats.frames
    row[Counter.BYTES_READ] = stats.bytes
    row[Counter.SKIPPED] = sum(stats.skipped.values())
    row[Counter.ODDITIES] = sum(stats.oddities.values())
    row[Counter.LATE] = stats.late
    row[Counter.RECONNECTS] = stats.reconnects
    row[Counter.GAPS] = stats.gaps
    row[Counter.DROPPED_TRADES] = stats.dropped_trades
    row[Counter.DROPPED_QUOTES] = stats.dropped_quotes
    row[Counter.HELD] = stats.backlog_rows
    row[Counter.UNDELIVERED] = stats.undelivered
