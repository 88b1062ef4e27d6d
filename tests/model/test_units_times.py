from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.units import (
    dates_text,
    iso_utc,
    new_york_date,
    new_york_ns,
    new_york_time,
    now_ns,
    to_ns,
    utc_date,
)

HALF_PAST_NINE = dt.time(9, 30)


@pytest.mark.parametrize(
    ("date", "utc"),
    [
        (dt.date(2025, 12, 16), "2025-12-16T14:30:00.000000000Z"),
        (dt.date(2025, 7, 1), "2025-07-01T13:30:00.000000000Z"),
        (dt.date(2025, 3, 9), "2025-03-09T13:30:00.000000000Z"),
        (dt.date(2025, 11, 2), "2025-11-02T14:30:00.000000000Z"),
    ],
)
def test_new_york_wall_time_observes_summer_time(date: dt.date, utc: str) -> None:
    assert iso_utc(new_york_ns(date, HALF_PAST_NINE)) == utc


def test_a_day_in_new_york_ends_hours_after_the_utc_day() -> None:
    late = to_ns(dt.datetime(2025, 12, 17, 3, 0, tzinfo=dt.UTC))
    assert utc_date(late) == dt.date(2025, 12, 17)
    assert new_york_date(late) == dt.date(2025, 12, 16)


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1)))
def test_a_moment_is_exact_to_the_microsecond(naive: dt.datetime) -> None:
    ts_ns = to_ns(naive.replace(tzinfo=dt.UTC))
    assert iso_utc(ts_ns) == f"{naive:%Y-%m-%dT%H:%M:%S.%f}000Z"
    assert utc_date(ts_ns) == naive.date()


def test_nanoseconds_are_written_in_full() -> None:
    assert iso_utc(1_703_545_200_085_275_419) == "2023-12-25T23:00:00.085275419Z"


def test_now_is_in_nanoseconds_of_this_century() -> None:
    assert 2**60 < now_ns() < 2**62


def test_long_lists_of_dates_are_shortened_in_their_middle() -> None:
    days = [dt.date(2024, 1, 1) + dt.timedelta(days=number) for number in range(200)]
    assert dates_text(days[:6]).count(",") == 5
    assert dates_text(days) == (
        "2024-01-01, 2024-01-02, 2024-01-03 ... 2024-07-16, 2024-07-17, 2024-07-18 (200 days)"
    )


@pytest.mark.parametrize(
    ("utc", "there"),
    [
        (dt.datetime(2025, 12, 16, 14, 30, tzinfo=dt.UTC), "09:30:00 New York"),
        (dt.datetime(2025, 7, 1, 13, 30, tzinfo=dt.UTC), "09:30:00 New York"),
        (dt.datetime(2025, 12, 17, 4, 59, 59, tzinfo=dt.UTC), "2025-12-16 23:59:59 New York"),
        (dt.datetime(2025, 12, 17, 5, 0, tzinfo=dt.UTC), "00:00:00 New York"),
    ],
)
def test_new_york_s_time_has_its_date_only_where_it_is_not_utc_s(
    utc: dt.datetime, there: str
) -> None:
    assert new_york_time(to_ns(utc)) == there
