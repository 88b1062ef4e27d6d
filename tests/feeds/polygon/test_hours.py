from __future__ import annotations

import datetime as dt
import subprocess
import sys

import pytest

from ingestor.feeds.polygon.hours import (
    MAX_SESSIONS_HELD,
    OPTIONS,
    STOCKS_EXTENDED,
    MarketHours,
    TradingHours,
)
from ingestor.model.units import new_york_ns

STOCKS_REGULAR = TradingHours(dt.time(9, 30), dt.time(16), dt.time(13))
ORDINARY = dt.date(2025, 12, 16)
AFTER_THANKSGIVING = dt.date(2025, 11, 28)
CLOSED = [
    dt.date(2025, 1, 1),
    dt.date(2025, 1, 9),  # a day of mourning
    dt.date(2025, 1, 20),
    dt.date(2025, 4, 18),
    dt.date(2025, 6, 19),
    dt.date(2025, 7, 4),
    dt.date(2025, 11, 27),
    dt.date(2025, 12, 25),
    dt.date(2026, 7, 3),  # the fourth is a Saturday
    dt.date(2025, 12, 13),
    dt.date(2025, 12, 14),
]
HALF_DAYS = [
    dt.date(2024, 7, 3),
    dt.date(2025, 7, 3),
    AFTER_THANKSGIVING,
    dt.date(2025, 12, 24),
    dt.date(2026, 11, 27),
    dt.date(2026, 12, 24),
]


def wall(hours: TradingHours, date: dt.date) -> tuple[int, int] | None:
    session = MarketHours(hours).session(date)
    return None if session is None else (session.open_ns, session.close_ns)


def at(date: dt.date, hour: int, minute: int = 0) -> int:
    return new_york_ns(date, dt.time(hour, minute))


@pytest.mark.parametrize("date", CLOSED, ids=str)
def test_holidays_and_weekends_have_no_session(date: dt.date) -> None:
    hours = MarketHours(STOCKS_EXTENDED)
    assert not hours.is_trading_day(date)
    assert hours.session(date) is None
    assert hours.open_since_ns(at(date, 12)) is None


@pytest.mark.parametrize("date", HALF_DAYS, ids=str)
def test_half_days_close_early(date: dt.date) -> None:
    assert wall(STOCKS_REGULAR, date) == (at(date, 9, 30), at(date, 13))
    assert wall(STOCKS_EXTENDED, date) == (at(date, 4), at(date, 17))
    assert wall(OPTIONS, date) == (at(date, 9, 30), at(date, 13, 15))


def test_ordinary_days_have_ordinary_hours() -> None:
    assert wall(STOCKS_REGULAR, ORDINARY) == (at(ORDINARY, 9, 30), at(ORDINARY, 16))
    assert wall(STOCKS_EXTENDED, ORDINARY) == (at(ORDINARY, 4), at(ORDINARY, 20))
    assert wall(OPTIONS, ORDINARY) == (at(ORDINARY, 9, 30), at(ORDINARY, 16, 15))


def test_new_years_eve_of_a_saturday_new_year_is_an_ordinary_day() -> None:
    assert MarketHours(OPTIONS).is_trading_day(dt.date(2021, 12, 31))


def test_a_session_holds_its_opening_and_not_its_close() -> None:
    hours = MarketHours(OPTIONS)
    opening, close = at(ORDINARY, 9, 30), at(ORDINARY, 16, 15)
    assert [
        hours.open_since_ns(ns) is not None for ns in (opening - 1, opening, close - 1, close)
    ] == [
        False,
        True,
        True,
        False,
    ]
    assert hours.open_since_ns(close - 1) == opening
    assert hours.open_since_ns(close) is None


@pytest.mark.parametrize("date", [dt.date(2026, 3, 6), dt.date(2026, 3, 9)], ids=str)
def test_summer_time_moves_the_session_with_new_york(date: dt.date) -> None:
    session = MarketHours(STOCKS_REGULAR).session(date)
    assert session is not None
    opening = dt.datetime.fromtimestamp(session.open_ns // 10**9, dt.UTC)
    assert opening.hour == (14 if date.day == 6 else 13)


def test_an_evening_in_utc_belongs_to_new_yorks_day() -> None:
    assert MarketHours(STOCKS_EXTENDED).open_since_ns(at(dt.date(2025, 12, 12), 19, 59))


def test_trading_days_pass_over_weekends_and_holidays() -> None:
    days = MarketHours(OPTIONS).trading_days_from(dt.date(2025, 12, 24), 4)
    assert [str(day) for day in days] == ["2025-12-24", "2025-12-26", "2025-12-29", "2025-12-30"]
    assert MarketHours(OPTIONS).trading_days_from(dt.date(2025, 12, 24), 0) == ()


def test_the_trading_days_of_two_years_are_as_many_as_the_exchange_had() -> None:
    hours = MarketHours(OPTIONS)
    for year, sessions in ((2024, 252), (2025, 250)):
        days = [dt.date(year, 1, 1) + dt.timedelta(days=day) for day in range(366)]
        assert sum(hours.is_trading_day(day) for day in days if day.year == year) == sessions


def test_the_sessions_that_are_kept_are_bounded() -> None:
    hours = MarketHours(OPTIONS)
    for day in range(2 * MAX_SESSIONS_HELD):
        hours.session(ORDINARY + dt.timedelta(days=day))
    assert len(hours._sessions) <= MAX_SESSIONS_HELD


def test_the_calendar_brings_no_pandas_into_the_process() -> None:
    code = "import sys, ingestor.feeds.polygon.hours; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
