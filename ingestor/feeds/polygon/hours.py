"""When a market is open, and hence when a feed's silence is a fault.

Sessions are New York's, with holidays and half days. These come from the `holidays` package (its
NYSE calendar), which is pure Python and computes a year when it is first asked for one; all early
closes since 1993 are at 13:00, and what a market does on such a day is part of its `TradingHours`.

`Watchdog` tells a dead feed from a quiet one. Any frame counts as life, since the vendor's
keepalives have been seen missing while data flowed. Silence is measured by a clock that cannot be
set (`now_ns`, monotonic); the wall clock only tells whether the market is open, so a step of it
neither makes nor hides a silence. And silence is what somebody was there to hear: time in which
this process did not run counts for nothing.

A connection that brings no data at all, from its first moment on, says nothing about itself: nobody
may trade what was asked for, or it may not exist, which the vendor acknowledges all the same. So
each such connection is waited for twice as long as the one before, and the limit falls back with
the first data.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import holidays
from holidays.constants import HALF_DAY

from ingestor.model.units import NS_PER_S, new_york_date, new_york_ns

MAX_SESSIONS_HELD: Final = 512
SILENCE_LIMIT_NS: Final = 30 * NS_PER_S
MAX_SILENCE_LIMIT_NS: Final = 3600 * NS_PER_S
"""Of connections that bring no data."""

MISSED_NS: Final = 5 * NS_PER_S
"""A tick that comes so late was missed: the process was stopped, not the vendor."""

_ONE_DAY: Final = dt.timedelta(days=1)
_SATURDAY: Final = 5


@dataclass(frozen=True, slots=True)
class TradingHours:
    """New York wall times of a session; it closes at `early_close` on a half day."""

    open: dt.time
    close: dt.time
    early_close: dt.time


STOCKS_EXTENDED: Final = TradingHours(dt.time(4), dt.time(20), dt.time(17))
OPTIONS: Final = TradingHours(dt.time(9, 30), dt.time(16, 15), dt.time(13, 15))
"""Of options on broad ETFs such as SPY, which trade a quarter of an hour longer."""


@dataclass(frozen=True, slots=True)
class TradingSession:
    """One day's session, from `open_ns` up to but not including `close_ns`."""

    date: dt.date
    open_ns: int
    close_ns: int


class MarketHours:
    """Answers from the calendar of the New York Stock Exchange for one set of hours."""

    def __init__(self, hours: TradingHours) -> None:
        self._hours = hours
        self._closed = holidays.financial_holidays("NYSE")
        self._half_days = holidays.financial_holidays("NYSE", categories=(HALF_DAY,))
        self._sessions: dict[dt.date, TradingSession | None] = {}

    def is_trading_day(self, date: dt.date) -> bool:
        """Whether there is a session on this New York date."""
        return date.weekday() < _SATURDAY and date not in self._closed

    def session(self, date: dt.date) -> TradingSession | None:
        """Return the session of a New York date, None on a day without."""
        if date not in self._sessions:
            # The watchdog asks ten times a second; the calendar's answer takes 20 us.
            if len(self._sessions) >= MAX_SESSIONS_HELD:
                self._sessions.clear()
            self._sessions[date] = self._make_session(date)
        return self._sessions[date]

    def _make_session(self, date: dt.date) -> TradingSession | None:
        if not self.is_trading_day(date):
            return None
        # Half days are a category of their own and no holidays: the market does open.
        half = date in self._half_days
        close = self._hours.early_close if half else self._hours.close
        return TradingSession(date, new_york_ns(date, self._hours.open), new_york_ns(date, close))

    def open_since_ns(self, ts_ns: int) -> int | None:
        """Return when the session of this moment opened, None while the market is closed."""
        session = self.session(new_york_date(ts_ns))
        if session is None or not session.open_ns <= ts_ns < session.close_ns:
            return None
        return session.open_ns

    def trading_days_from(self, date: dt.date, count: int) -> tuple[dt.date, ...]:
        """Return the first `count` trading days on or after a date."""
        days: list[dt.date] = []
        while len(days) < count:
            if self.is_trading_day(date):
                days.append(date)
            date += _ONE_DAY
        return tuple(days)


class Watchdog:
    """Watches one connection; silence is measured from the last frame or the market's opening."""

    def __init__(self, hours: MarketHours, limit_ns: int = SILENCE_LIMIT_NS) -> None:
        self._hours = hours
        self._least_limit_ns = limit_ns
        self._limit_ns = limit_ns
        self._has_data = False
        self._alive_ns: int | None = None
        self._ticked_ns: int | None = None
        # As if open for ever: a feed that starts in an open market is watched at once.
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

    def on_tick(self, now_ns: int, wall_ns: int) -> int | None:
        """Return for how many ns nothing came, once that reaches the limit; watching then ends."""
        missed = self._ticked_ns is not None and now_ns - self._ticked_ns >= MISSED_NS
        self._ticked_ns = now_ns
        if self._hours.open_since_ns(wall_ns) is None:
            self._open_ns = None
            return None
        if self._open_ns is None:
            self._open_ns = now_ns
        if self._alive_ns is None:
            return None
        # A suspended laptop or a stopped container heard nothing because it did not listen.
        if missed:
            self.on_frame(now_ns)
        silent_ns = now_ns - max(self._alive_ns, self._open_ns)
        if silent_ns < self._limit_ns:
            return None
        if not self._has_data:
            most_ns = max(MAX_SILENCE_LIMIT_NS, self._least_limit_ns)
            self._limit_ns = min(2 * self._limit_ns, most_ns)
        self.on_disconnect()
        return silent_ns
