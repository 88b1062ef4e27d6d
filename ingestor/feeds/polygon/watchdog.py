"""Tells a dead feed from a quiet one: silence during market hours is a fault, else it is not.

Any frame counts as life, since the vendor's keepalives have been seen missing while data flowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ingestor.feeds.polygon.hours import MarketHours
from ingestor.units import NS_PER_S

SILENCE_LIMIT_NS: Final = 30 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Silence:
    """A connected feed has sent nothing for `silent_ns` of an open market: reconnect."""

    since_ns: int
    silent_ns: int


class Watchdog:
    """Watches one connection; silence is measured from the last frame or the market's opening."""

    def __init__(self, hours: MarketHours, limit_ns: int = SILENCE_LIMIT_NS) -> None:
        self._hours = hours
        self._limit_ns = limit_ns
        self._alive_ns: int | None = None

    def on_frame(self, now_ns: int) -> None:
        """A frame arrived, or the connection was just made."""
        self._alive_ns = now_ns

    def on_disconnect(self) -> None:
        """Nothing to watch until the next frame or connection."""
        self._alive_ns = None

    def on_tick(self, now_ns: int) -> Silence | None:
        """Return a silence that is longer than the limit, once; watching then ends."""
        open_since_ns = self._hours.open_since_ns(now_ns)
        if self._alive_ns is None or open_since_ns is None:
            return None
        since_ns = max(self._alive_ns, open_since_ns)
        if now_ns - since_ns < self._limit_ns:
            return None
        self.on_disconnect()
        return Silence(since_ns, now_ns - since_ns)
