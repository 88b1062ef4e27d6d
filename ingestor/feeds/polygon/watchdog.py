"""Tells a dead feed from a quiet one: silence during market hours is a fault, else it is not.

Any frame counts as life, since the vendor's keepalives have been seen missing while data flowed.

Silence is measured by a clock that cannot be set (`now_ns`, monotonic); the wall clock only tells
whether the market is open, so that a step of it never makes or hides a silence. And silence is what
somebody was there to hear: time in which this process did not run counts for nothing.

A connection that brings no data at all, from its first moment on, says nothing about itself: nobody
may trade what was asked for, or it may not exist, which the vendor acknowledges all the same. So
each such connection is waited for twice as long as the one before, and the limit falls back with
the first data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ingestor.feeds.polygon.hours import MarketHours
from ingestor.model.units import NS_PER_S

SILENCE_LIMIT_NS: Final = 30 * NS_PER_S
MAX_SILENCE_LIMIT_NS: Final = 3600 * NS_PER_S
"""Of connections that bring no data."""

MISSED_NS: Final = 5 * NS_PER_S
"""A tick that comes so late was missed: the process was stopped, not the vendor."""


@dataclass(frozen=True, slots=True)
class Silence:
    """A connected feed has sent nothing for `silent_ns` of an open market: reconnect."""

    silent_ns: int


class Watchdog:
    """Watches one connection; silence is measured from the last frame or the market's opening."""

    def __init__(self, hours: MarketHours, limit_ns: int = SILENCE_LIMIT_NS) -> None:
        self._hours = hours
        self._least_limit_ns = limit_ns
        self._limit_ns = limit_ns
        self._has_data = False
        self._alive_ns: int | None = None
        self._ticked_ns: int | None = None
        self._open_ns: int | None = 0

    def on_frame(self, now_ns: int) -> None:
        """A frame arrived, or the connection was just made."""
        self._alive_ns = now_ns

    def on_data(self) -> None:
        """The connection has brought more than statuses."""
        self._limit_ns, self._has_data = self._least_limit_ns, True

    def on_disconnect(self) -> None:
        """Nothing to watch until the next frame or connection."""
        self._alive_ns = None
        self._has_data = False

    def _grow(self) -> None:
        """Wait longer for the next connection, if this one brought nothing."""
        if not self._has_data:
            most_ns = max(MAX_SILENCE_LIMIT_NS, self._least_limit_ns)
            self._limit_ns = min(2 * self._limit_ns, most_ns)

    def on_tick(self, now_ns: int, wall_ns: int) -> Silence | None:
        """Return a silence that is longer than the limit, once; watching then ends."""
        missed = self._ticked_ns is not None and now_ns - self._ticked_ns >= MISSED_NS
        self._ticked_ns = now_ns
        if self._hours.open_since_ns(wall_ns) is None:
            self._open_ns = None
            return None
        if self._open_ns is None:
            self._open_ns = now_ns
        if self._alive_ns is None:
            return None
        if missed:
            self.on_frame(now_ns)
        silent_ns = now_ns - max(self._alive_ns, self._open_ns)
        if silent_ns < self._limit_ns:
            return None
        self._grow()
        self.on_disconnect()
        return Silence(silent_ns)
