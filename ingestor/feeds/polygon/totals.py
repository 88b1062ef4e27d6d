"""Running totals of one feed, written where things happen and read as `FeedStats`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ingestor.feeds.polygon.decode import Decoded
from ingestor.feeds.polygon.sink import FeedStats


@dataclass(slots=True)
class Totals:
    """As `FeedStats`, but counting."""

    frames: int = 0
    bytes: int = 0
    records: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    late: int = 0
    sockets: int = 0
    gaps: int = 0
    silences: int = 0
    alarms: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    undelivered: int = 0
    statuses: int = 0
    dropped_statuses: int = 0
    last_event_ns: int = 0
    last_recv_ns: int = 0

    def add(self, decoded: Decoded) -> None:
        """Count what a frame held."""
        self.records += len(decoded.records)
        self.late += len(decoded.late)
        if decoded.skipped:
            self.skipped.update(decoded.skipped)
        if decoded.oddities:
            self.oddities.update(decoded.oddities)

    def counts(self, *, backlog_rows: int, subscribed: int, streaming: bool) -> FeedStats:
        """Return the totals of now, and the state that is given."""
        return FeedStats(
            frames=self.frames,
            bytes=self.bytes,
            records=self.records,
            skipped=dict(self.skipped),
            oddities=dict(self.oddities),
            late=self.late,
            reconnects=max(self.sockets - 1, 0),
            gaps=self.gaps,
            silences=self.silences,
            alarms=self.alarms,
            dropped_trades=self.dropped_trades,
            dropped_quotes=self.dropped_quotes,
            undelivered=self.undelivered,
            statuses=self.statuses,
            dropped_statuses=self.dropped_statuses,
            backlog_rows=backlog_rows,
            subscribed=subscribed,
            streaming=streaming,
            last_event_ns=self.last_event_ns,
            last_recv_ns=self.last_recv_ns,
        )
