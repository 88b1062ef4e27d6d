from __future__ import annotations

import datetime as dt

from ingestor.feeds.dates import shortened


def test_long_lists_of_dates_are_shortened_in_their_middle() -> None:
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=number) for number in range(200)]
    assert shortened(days[:6]).count(",") == 5
    assert shortened(days) == (
        "2024-01-01, 2024-01-02, 2024-01-03 ... 2024-07-16, 2024-07-17, 2024-07-18 (200 days)"
    )
