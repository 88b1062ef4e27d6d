"""Units: integers of nanoseconds and of 1e-9 of price, as exact decimals, dates and wall times.

A price is an integer count of 1e-9 from the vendor's bytes to the encoder (the unit of DBN).
Its text is the shortest exact decimal that still has a decimal point: ``6012.0``, ``0.01``.

A time is int nanoseconds UTC; New York's wall time and UTC dates are made of it by calendar
arithmetic. `now_ns` is the one function of this project that reads the wall clock.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Sequence
from typing import Final
from zoneinfo import ZoneInfo

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
NS_PER_DAY: Final = 86_400 * NS_PER_S

PRICE_SCALE: Final = 1_000_000_000
PRICE_DIGITS: Final = 9

INT64_MAX: Final = 2**63 - 1
UINT64_MAX: Final = 2**64 - 1
UINT32_MAX: Final = 2**32 - 1

UNDEF_PRICE: Final = INT64_MAX
"""DBN's undefined price; stands for "unknown" in every price field of ours too."""

UNDEF_TIMESTAMP: Final = UINT64_MAX
"""DBN's undefined timestamp."""


def price_text(price_e9: int) -> str:
    """Return the exact decimal of an integer price of 1e-9, always with a decimal point.

    >>> price_text(6_012_000_000_000), price_text(-10_000_000)
    ('6012.0', '-0.01')
    """
    sign = "-" if price_e9 < 0 else ""
    whole, fraction = divmod(abs(price_e9), PRICE_SCALE)
    digits = f"{fraction:0{PRICE_DIGITS}d}".rstrip("0") or "0"
    return f"{sign}{whole}.{digits}"


NEW_YORK: Final = ZoneInfo("America/New_York")
EPOCH_DATE: Final = dt.date(1970, 1, 1)
"""Days are counted from here where they are numbers."""

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_US: Final = dt.timedelta(microseconds=1)
_DATES_NAMED: Final = 6
"""A sentence names at most this many dates; a longer list is shortened in its middle."""


def now_ns() -> int:
    """Wall clock, int nanoseconds UTC."""
    return time.time_ns()


def to_ns(moment: dt.datetime) -> int:
    """Exact int nanoseconds UTC of an aware datetime."""
    # Whole numbers throughout: `timestamp()` is a float, good to 200 ns today.
    return (moment - _EPOCH) // _US * NS_PER_US


def utc_date(ts_ns: int) -> dt.date:
    """UTC calendar date of a timestamp."""
    return EPOCH_DATE + dt.timedelta(days=ts_ns // NS_PER_DAY)


def new_york_ns(date: dt.date, wall: dt.time) -> int:
    """Nanoseconds UTC of a New York wall time on a date, summer time observed."""
    return to_ns(dt.datetime.combine(date, wall, tzinfo=NEW_YORK))


def new_york_date(ts_ns: int) -> dt.date:
    """New York calendar date of a timestamp."""
    return dt.datetime.fromtimestamp(ts_ns // NS_PER_S, NEW_YORK).date()


def iso_utc(ts_ns: int) -> str:
    """ISO 8601 text in UTC with all nine digits of the second."""
    seconds, ns = divmod(ts_ns, NS_PER_S)
    # A datetime has microseconds; the nanoseconds are written beside it.
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ns:09d}Z"


def new_york_time(ts_ns: int) -> str:
    """Return New York's time of day, for a text where UTC stands beside it.

    Its date is there only where it is not UTC's.

    >>> new_york_time(1765895400017150864), new_york_time(1765933200000000000)
    ('09:30:00 New York', '2025-12-16 20:00:00 New York')
    """
    there = dt.datetime.fromtimestamp(ts_ns // NS_PER_S, NEW_YORK)
    form = "%H:%M:%S" if there.date() == utc_date(ts_ns) else "%Y-%m-%d %H:%M:%S"
    return f"{there:{form}} New York"


def dates_text(dates: Sequence[dt.date]) -> str:
    """Return dates for a sentence, without the middle of a long list.

    >>> dates_text([dt.date(2024, 1, day) for day in range(1, 11)])
    '2024-01-01, 2024-01-02, 2024-01-03 ... 2024-01-08, 2024-01-09, 2024-01-10 (10 days)'
    """
    texts = [date.isoformat() for date in dates]
    if len(texts) <= _DATES_NAMED:
        return ", ".join(texts)
    half = _DATES_NAMED // 2
    return f"{', '.join(texts[:half])} ... {', '.join(texts[-half:])} ({len(texts)} days)"
