from __future__ import annotations

import datetime as dt

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.windows import (
    EVERYTHING,
    DailyWindows,
    SessionTimes,
    Window,
    inside,
)
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.units import INT64_MAX, NS_PER_DAY, iso_utc

WINTER = dt.date(2024, 1, 10)
SUMMER = dt.date(2024, 7, 10)
DAY = dt.timedelta(days=1)


def clock(hour: int, minute: int = 0) -> dt.time:
    return dt.time(hour, minute)


def texts(window: Window) -> tuple[str, str]:
    return iso_utc(window.start_ns)[:16], iso_utc(window.end_ns)[:16]


def test_a_session_is_new_york_time_in_winter_and_summer() -> None:
    session = SessionTimes(clock(9, 30), clock(16))
    assert texts(session.on(WINTER)) == ("2024-01-10T14:30", "2024-01-10T21:00")
    assert texts(session.on(SUMMER)) == ("2024-07-10T13:30", "2024-07-10T20:00")


def test_a_session_that_ends_before_it_starts_ends_on_the_next_day() -> None:
    session = SessionTimes(clock(18), clock(17))
    assert texts(session.on(WINTER)) == ("2024-01-10T23:00", "2024-01-11T22:00")


def test_a_session_that_ends_when_it_starts_lasts_a_day() -> None:
    session = SessionTimes(clock(18), clock(18))
    assert texts(session.on(WINTER)) == ("2024-01-10T23:00", "2024-01-11T23:00")


def test_a_night_in_which_summer_time_begins_is_an_hour_shorter() -> None:
    window = SessionTimes(clock(18), clock(17)).on(dt.date(2024, 3, 9))
    assert texts(window) == ("2024-03-09T23:00", "2024-03-10T21:00")


def test_a_side_not_given_is_open() -> None:
    assert SessionTimes(start=clock(9)).on(WINTER).end_ns == EVERYTHING.end_ns
    assert SessionTimes(end=clock(9)).on(WINTER).start_ns == EVERYTHING.start_ns
    assert SessionTimes().on(WINTER) == EVERYTHING


def test_the_evening_before_runs_on_in_the_next_file_when_its_date_is_asked_for() -> None:
    night = SessionTimes(clock(18), clock(17))
    both = night.of_file(WINTER, {WINTER - DAY, WINTER}, EVERYTHING)
    assert both == [night.on(WINTER - DAY), night.on(WINTER)]
    assert night.of_file(WINTER, {WINTER}, EVERYTHING) == [night.on(WINTER)]


def test_a_session_within_a_day_has_nothing_of_the_day_before() -> None:
    day = SessionTimes(clock(9), clock(16))
    assert day.of_file(WINTER, {WINTER - DAY, WINTER}, EVERYTHING) == [day.on(WINTER)]


def test_a_session_that_ends_after_midnight_utc_runs_on_in_the_next_file() -> None:
    """20:30 in New York is 01:30 UTC in winter, and 00:30 in summer."""
    evening = SessionTimes(clock(18), clock(20, 30))
    for date in (WINTER, SUMMER):
        found = evening.of_file(date, {date - DAY, date}, EVERYTHING)
        assert found == [evening.on(date - DAY), evening.on(date)]
    until_seven = SessionTimes(clock(18), clock(19))
    assert until_seven.of_file(WINTER, {WINTER - DAY, WINTER}, EVERYTHING) == [
        until_seven.on(WINTER)
    ]


def test_a_session_without_an_end_ends_with_its_file() -> None:
    session = SessionTimes(start=clock(9))
    assert session.of_file(WINTER, {WINTER - DAY, WINTER}, EVERYTHING) == [session.on(WINTER)]


def test_absolute_limits_narrow_every_window() -> None:
    day = SessionTimes(clock(9), clock(16)).on(WINTER)
    limits = Window(day.start_ns + 5, day.end_ns + 5)
    (window,) = SessionTimes(clock(9), clock(16)).of_file(WINTER, {WINTER}, limits)
    assert window == Window(day.start_ns + 5, day.end_ns)


TIMES = st.one_of(st.integers(0, 20), st.integers(0, INT64_MAX))
BOUNDS = st.one_of(st.integers(-5, 25), st.integers(-(2**70), 2**70))


@given(
    st.lists(TIMES, min_size=1, max_size=20),
    st.lists(st.builds(Window, BOUNDS, BOUNDS), min_size=1, max_size=3),
)
def test_times_are_inside_when_a_comparison_of_each_says_so(
    times: list[int], windows: list[Window]
) -> None:
    expected = [
        any(window.start_ns <= time < window.end_ns for window in windows) for time in times
    ]
    kept = inside(np.array(times, np.uint64), windows)
    assert (kept.tolist() if kept is not None else [True] * len(times)) == expected


def test_when_all_times_are_inside_there_is_no_mask() -> None:
    times = np.array([5, 6, 7], np.uint64)
    assert inside(times, [Window(5, 8)]) is None
    assert inside(times, [EVERYTHING]) is None
    assert inside(times, [Window(5, 7)]) is not None


@given(
    st.lists(
        st.tuples(st.integers(0, 4 * NS_PER_DAY), st.integers(0, 4 * NS_PER_DAY)),
        min_size=1,
        max_size=30,
    ),
    st.dictionaries(
        st.integers(0, 4),
        st.lists(
            st.builds(Window, st.integers(0, 4 * NS_PER_DAY), st.integers(0, 4 * NS_PER_DAY)),
            max_size=2,
        ),
    ),
)
def test_in_a_file_of_several_days_each_record_is_judged_by_its_own_day(
    times: list[tuple[int, int]], windows: dict[int, list[Window]]
) -> None:
    epoch = dt.date(1970, 1, 1)
    daily = DailyWindows(lambda day: windows.get((day - epoch).days, []))
    event, recv = np.array(times, np.uint64).T
    expected = [
        any(one.start_ns <= at < one.end_ns for one in windows.get(received // NS_PER_DAY, []))
        for at, received in times
    ]
    kept = daily.inside(event, recv)
    assert (kept.tolist() if kept is not None else [True] * len(times)) == expected


def test_the_last_time_there_is_lies_in_what_has_no_end() -> None:
    last = np.array([0, MAX_TIME_NS], np.uint64)
    for window in (EVERYTHING, Window(1)):
        kept = inside(last, [window])
        assert kept is None or kept.tolist() == [False, True]
    kept = inside(last, [Window(0, MAX_TIME_NS)])
    assert kept is not None
    assert kept.tolist() == [True, False]
