"""When a market is open: New York sessions with holidays and half days.

Holidays and half days come from the `holidays` package (its NYSE calendar), which is pure Python
and computes a year when it is first asked for one; all early closes since 1993 are at 13:00, and
what a market does on such a day is part of its `TradingHours`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import holidays
from holidays.constants import HALF_DAY

from ingestor.model.clock import new_york_date, new_york_ns

MAX_SESSIONS_HELD: Final = 512
_ONE_DAY: Final = dt.timedelta(days=1)
_SATURDAY: Final = 5


@dataclass(frozen=True, slots=True)
class TradingHours:
    """New York wall times of a session; it closes at `early_close` on a half day."""

    open: dt.time
    close: dt.time
    early_close: dt.time


STOCKS_EXTENDED: Final = TradingHours(dt.time(4), dt.time(20), dt.time(17))
STOCKS_REGULAR: Final = TradingHours(dt.time(9, 30), dt.time(16), dt.time(13))
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
            if len(self._sessions) >= MAX_SESSIONS_HELD:
                self._sessions.clear()
            self._sessions[date] = self._make_session(date)
        return self._sessions[date]

    def _make_session(self, date: dt.date) -> TradingSession | None:
        if not self.is_trading_day(date):
            return None
        half = date in self._half_days
        close = self._hours.early_close if half else self._hours.close
        return TradingSession(date, new_york_ns(date, self._hours.open), new_york_ns(date, close))

    def open_since_ns(self, ts_ns: int) -> int | None:
        """Return when the session of this moment opened, None while the market is closed."""
        session = self.session(new_york_date(ts_ns))
        if session is None or not session.open_ns <= ts_ns < session.close_ns:
            return None
        return session.open_ns

    def is_open(self, ts_ns: int) -> bool:
        """Whether the market is open at this moment."""
        return self.open_since_ns(ts_ns) is not None

    def trading_days_from(self, date: dt.date, count: int) -> tuple[dt.date, ...]:
        """Return the first `count` trading days on or after a date."""
        days: list[dt.date] = []
        while len(days) < count:
            if self.is_trading_day(date):
                days.append(date)
            date += _ONE_DAY
        return tuple(days)
