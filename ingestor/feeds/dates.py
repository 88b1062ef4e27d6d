"""Dates in a sentence."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Final

_DATES_NAMED: Final = 6
"""A sentence names at most this many dates; a longer list is shortened in its middle."""


def shortened(dates: Sequence[dt.date]) -> str:
    """Return the dates as text, without the middle of a long list.

    >>> shortened([dt.date(2024, 1, day) for day in range(1, 11)])
    '2024-01-01, 2024-01-02, 2024-01-03 ... 2024-01-08, 2024-01-09, 2024-01-10 (10 days)'
    """
    texts = [date.isoformat() for date in dates]
    if len(texts) <= _DATES_NAMED:
        return ", ".join(texts)
    half = _DATES_NAMED // 2
    return f"{', '.join(texts[:half])} ... {', '.join(texts[-half:])} ({len(texts)} days)"
