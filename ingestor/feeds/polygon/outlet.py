"""What a live feed hands its results to. Nothing here waits: the socket is drained whatever else.

`Outlet` is the way to the rest of the pipeline, `FrameLog` the journal of raw frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ingestor.model.blocks import Block
from ingestor.model.feed_status import FeedStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedCounts:
    """Running totals of one feed since it was started, and its state of now.

    Attributes:
        frames: Frames (messages of the WebSocket) received.
        bytes: Payload bytes of these.
        records: Records decoded, dropped ones among them.
        skipped: Elements that became no record, by cause.
        oddities: What was tolerated, by kind.
        late: Trades that were reported late.
        reconnects: Sockets opened after the first.
        gaps: Spans that a lost connection left unseen.
        silences: Connections given up since they said nothing.
        alarms: Refusals, missing acknowledgements and the like.
        dropped_trades: Records dropped since the outlet was full for too long.
        dropped_quotes: As `dropped_trades`.
        undelivered: Records that the outlet had not taken when the feed was to stop.
        statuses: Statuses that the outlet has taken.
        dropped_statuses: Statuses that it did not take in time.
        backlog_rows: Records that wait for the outlet now.
        subscribed: Names that the vendor has acknowledged on the socket of now.
        streaming: Whether there is an authenticated socket now.
        last_event_ns: Vendor's time of the newest record, 0 before the first.
        last_recv_ns: When the newest frame was received, 0 before the first.
    """

    frames: int = 0
    bytes: int = 0
    records: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    oddities: Mapping[str, int] = field(default_factory=dict)
    late: int = 0
    reconnects: int = 0
    gaps: int = 0
    silences: int = 0
    alarms: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    undelivered: int = 0
    statuses: int = 0
    dropped_statuses: int = 0
    backlog_rows: int = 0
    subscribed: int = 0
    streaming: bool = False
    last_event_ns: int = 0
    last_recv_ns: int = 0


class Outlet(Protocol):
    """Takes what a feed produces, or says at once that it cannot."""

    def put(self, block: Block) -> bool:
        """Take a block of at most `limits.MAX_BLOCK_ROWS` records; False when full: try later."""
        ...

    def tell(self, status: FeedStatus) -> bool:
        """Take a status; False when full: try later."""
        ...

    def price(self, price_e9: int) -> None:
        """Take the newest reference price of the underlying; only the stocks feed has one."""
        ...

    def beat(self, counts: FeedCounts) -> None:
        """Take a sign of life, some ten a second."""
        ...


class FrameLog(Protocol):
    """Records raw frames as they were received."""

    def append(self, data: bytes, recv_ns: int, connection: int) -> None:
        """Take a frame, when its bytes were read, and on which connection of the run (1, 2...)."""
        ...

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Take names that are asked for on a connection; None where a connection begins."""
        ...

    def tick(self, now_ns: int) -> Sequence[str] | None:
        """Flush and rotate, twice a second; return what went wrong since, if anything."""
        ...

    def close(self) -> None:
        """Write what is held; nothing is appended any more."""
        ...
