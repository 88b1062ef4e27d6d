"""What one live feed is to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ingestor.feeds.polygon.hours import TradingHours
from ingestor.feeds.polygon.limits import BacklogLimits, SessionLimits, SocketLimits
from ingestor.feeds.polygon.strikes import StrikeManager
from ingestor.feeds.polygon.watchdog import SILENCE_LIMIT_NS
from ingestor.model.blocks import Source
from ingestor.model.bounds import MAX_LINE_CHARS, printable, without
from ingestor.model.clock import now_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSettings:
    """One connection to the vendor.

    Attributes:
        name: ``stocks`` or ``options``; names the feed in statuses and in the log.
        url: WebSocket address, ``wss://socket.massive.com/stocks``.
        api_key: Sent in a message after connecting, and shown nowhere.
        index: Number of the feed, `Block.feed`.
        source: The envelope's ``source``.
        hours: When silence is a fault.
        silence_limit_ns: How long an open market may be silent.
        session: Limits of the conversation.
        socket: Limits of the socket.
        backlog: Limits of what waits for a full sink.
        drain_s: How long the end of the feed waits for a full sink to take the backlog.
        clock: The wall clock, int nanoseconds UTC.
    """

    name: str
    url: str
    api_key: str = field(repr=False)
    index: int
    source: Source = Source.POLYGON_WS
    hours: TradingHours
    silence_limit_ns: int = SILENCE_LIMIT_NS
    session: SessionLimits = field(default_factory=SessionLimits)
    socket: SocketLimits = field(default_factory=SocketLimits)
    backlog: BacklogLimits = field(default_factory=BacklogLimits)
    drain_s: float = 2.0
    clock: Callable[[], int] = now_ns

    def shown(self, text: str) -> str:
        """Return text that may hold the vendor's as a line to show: without the key."""
        return printable(without(text, self.api_key), MAX_LINE_CHARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Strikes:
    """Which contracts an options feed follows: what moves them, and what is subscribed of each.

    `price` answers with the newest reference price in 1e-9, None before the first; it is asked
    some ten times a second. With `quotes` the contracts' quotes are subscribed beside their trades.
    """

    manager: StrikeManager
    price: Callable[[], int | None]
    quotes: bool = False
