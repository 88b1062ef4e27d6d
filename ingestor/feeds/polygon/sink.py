"""What a live feed hands its results to. Nothing here waits: the socket is drained whatever else.

`Sink` is the way to the rest of the pipeline, `FrameLog` the journal of raw frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ingestor.journal.segments import Place, RunFollower
from ingestor.model.blocks import Block
from ingestor.model.feed_status import FeedStatus


@dataclass(slots=True, kw_only=True)
class FeedStats:
    """Running totals of one feed since its start, and its state now; one object, always current.

    Attributes:
        frames: Frames (messages of the WebSocket) received.
        bytes: Payload bytes of these.
        records: Records decoded, dropped ones among them.
        skipped: Elements that became no record, by cause.
        oddities: What was tolerated, by kind.
        late: Trades that were reported late.
        attempts: Sockets that were tried, those that opened among them.
        sockets: Sockets opened.
        gaps: Spans that a lost connection left unseen.
        silences: Connections given up because they said nothing.
        alarms: Refusals, missing acknowledgements and the like.
        dropped_trades: Records dropped because the sink was full for too long.
        dropped_quotes: As `dropped_trades`.
        undelivered: Records that the sink had not taken when the feed was to stop.
        statuses: Statuses that the sink has taken.
        dropped_statuses: Statuses that it did not take in time.
        backlog_rows: Records that wait for the sink now.
        spooled_rows: Records that wait in the journal now, to be read back.
        spool_lag_ns: How old the record is that the journal gives next; 0 where it gives none.
        subscribed: Names that the vendor has acknowledged on the socket of now.
        streaming: Whether there is an authenticated socket now.
        trouble: Why the last socket is gone, until there is another one.
        last_event_ns: Vendor's time of the newest record, 0 before the first.
        last_recv_ns: When the newest frame was received, 0 before the first.
    """

    frames: int = 0
    bytes: int = 0
    records: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    late: int = 0
    attempts: int = 0
    sockets: int = 0
    gaps: int = 0
    silences: int = 0
    alarms: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    undelivered: int = 0
    statuses: int = 0
    dropped_statuses: int = 0
    backlog_rows: int = 0
    spooled_rows: int = 0
    spool_lag_ns: int = 0
    subscribed: int = 0
    streaming: bool = False
    trouble: str = ""
    last_event_ns: int = 0
    last_recv_ns: int = 0

    @property
    def reconnects(self) -> int:
        """Sockets opened after the first."""
        return max(self.sockets - 1, 0)


class Sink(Protocol):
    """Takes what a feed produces, or says at once that it cannot."""

    def put(self, block: Block) -> bool:
        """Take a block of at most `MAX_BLOCK_ROWS` records; False when full: try later."""

    def tell(self, status: FeedStatus) -> bool:
        """Take a status; False when full: try later."""

    def price(self, price_e9: int) -> None:
        """Take the newest reference price of the underlying; only the stocks feed has one."""

    def show(self, stats: FeedStats) -> None:
        """Show the totals as a sign of life, some ten times a second; they change afterwards."""


class FrameLog(Protocol):
    """Records raw frames as they were received."""

    @property
    def number(self) -> int:
        """Number of the frame or note that is taken next."""

    @property
    def place(self) -> Place | None:
        """Where that is found later; None while nothing is written."""

    def follower(self, place: Place) -> RunFollower:
        """Return what reads back, from a place on, what was taken."""

    def append(self, data: bytes, recv_ns: int, connection: int) -> bool:
        """Take a frame, when its bytes were read, and on which connection of the run (1, 2...).

        Whether it was taken.
        """

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Take names that are asked for on a connection; None where a connection begins."""

    def flush(self) -> None:
        """Write what is held as soon as can be: after each read."""

    def tick(self, now_ns: int) -> Sequence[str] | None:
        """Flush and rotate, some ten times a second; return what went wrong since, if anything."""

    def close(self) -> None:
        """Write what is held; nothing is appended any more."""
