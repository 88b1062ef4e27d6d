from __future__ import annotations

import datetime as dt

import pytest

from ingestor.feeds.polygon.hours import (
    MAX_SILENCE_LIMIT_NS,
    MISSED_NS,
    SILENCE_LIMIT_NS,
    MarketHours,
    TradingHours,
    Watchdog,
)
from ingestor.model.units import new_york_ns

TUESDAY = dt.date(2025, 12, 16)
OPEN = new_york_ns(TUESDAY, dt.time(9, 30))
NOON = new_york_ns(TUESDAY, dt.time(12))
CLOSE = new_york_ns(TUESDAY, dt.time(16))
SECOND = 10**9
MINUTE, HOUR = 60 * SECOND, 3_600 * SECOND
STOCKS_REGULAR = TradingHours(dt.time(9, 30), dt.time(16), dt.time(13))
HOURS = MarketHours(STOCKS_REGULAR)


class Watched:
    """A watchdog that is looked after each second; the wall clock shows what it is set to."""

    def __init__(self, wall_ns: int, limit_ns: int = SILENCE_LIMIT_NS) -> None:
        self.dog = Watchdog(HOURS, limit_ns)
        self.now_ns = 7 * HOUR
        self.wall_ns = wall_ns
        self.dog.on_frame(self.now_ns)

    def passes(self, seconds: int) -> list[int]:
        """Time passes; what the watchdog says meanwhile."""
        return [silence for _ in range(seconds) if (silence := self._second()) is not None]

    def _second(self) -> int | None:
        self.now_ns += SECOND
        self.wall_ns += SECOND
        return self.dog.on_tick(self.now_ns, self.wall_ns)

    def hears(self) -> None:
        self.dog.on_frame(self.now_ns)


def test_silence_longer_than_the_limit_is_told_once() -> None:
    watched = Watched(NOON)
    assert watched.passes(29) == []
    assert watched.passes(60) == [SILENCE_LIMIT_NS]


def test_any_frame_is_a_sign_of_life() -> None:
    watched = Watched(NOON)
    for _ in range(6):
        assert watched.passes(20) == []
        watched.hears()


def test_a_market_that_is_closed_may_be_silent() -> None:
    assert Watched(CLOSE - SECOND).passes(3_600) == []
    assert Watched(OPEN - HOUR).passes(3_599) == []


def test_the_night_before_does_not_count_at_the_opening() -> None:
    watched = Watched(OPEN - HOUR)
    assert watched.passes(3_600 + 29) == []
    assert watched.passes(1) == [SILENCE_LIMIT_NS]


def test_a_feed_without_a_connection_is_not_watched() -> None:
    watched = Watched(NOON)
    watched.dog.on_disconnect()
    assert watched.passes(3_600) == []


def test_watching_goes_on_with_the_next_connection() -> None:
    watched = Watched(NOON)
    assert len(watched.passes(60)) == 1
    watched.hears()
    assert len(watched.passes(60)) == 1


def test_the_limit_can_be_set() -> None:
    watched = Watched(NOON, limit_ns=10 * SECOND)
    assert watched.passes(9) == []
    assert watched.passes(1) == [10 * SECOND]


STEPS = [3 * SECOND, -3 * SECOND, HOUR, -HOUR, 2 * HOUR]


@pytest.mark.parametrize("step_ns", STEPS)
def test_a_wall_clock_that_is_set_makes_no_silence(step_ns: int) -> None:
    watched = Watched(NOON)
    for _ in range(10):
        assert watched.passes(20) == []
        watched.wall_ns += step_ns if watched.wall_ns < NOON + MINUTE else 0
        assert watched.passes(9) == []
        watched.hears()


@pytest.mark.parametrize("step_ns", STEPS)
def test_a_wall_clock_that_is_set_hides_no_silence(step_ns: int) -> None:
    watched = Watched(NOON)
    assert watched.passes(10) == []
    watched.wall_ns += step_ns
    assert watched.passes(25) == [SILENCE_LIMIT_NS]


@pytest.mark.parametrize("step_ns", [HOUR, 2 * HOUR])
def test_a_step_over_the_opening_is_no_silence_of_the_night(step_ns: int) -> None:
    watched = Watched(OPEN - 30 * MINUTE)
    assert watched.passes(600) == []
    watched.wall_ns += step_ns
    assert watched.passes(29) == []
    assert len(watched.passes(2)) == 1


def test_time_in_which_nobody_looked_is_no_silence() -> None:
    watched = Watched(NOON)
    assert watched.passes(20) == []
    watched.now_ns += HOUR
    watched.wall_ns += HOUR
    assert watched.passes(30) == []
    assert watched.passes(2) == [SILENCE_LIMIT_NS]
    assert MISSED_NS < SILENCE_LIMIT_NS


def silences_of(watchdog: Watchdog, connections: int, *, data: bool = False) -> list[int]:
    """How long each of some connections in a row, which say nothing, is waited for."""
    waited, now_ns = [], NOON
    for _ in range(connections):
        watchdog.on_frame(now_ns)
        if data:
            watchdog.on_data()
        since_ns = now_ns
        while watchdog.on_tick(now_ns, now_ns) is None:
            now_ns += 10**9
        waited.append((now_ns - since_ns) // 10**9)
        watchdog.on_disconnect()
    return waited


def test_each_connection_without_data_is_waited_for_twice_as_long_up_to_an_hour() -> None:
    assert silences_of(Watchdog(HOURS), 8) == [30, 60, 120, 240, 480, 960, 1920, 3600]


def test_a_limit_above_an_hour_stays_what_it_is() -> None:
    limit_ns = 2 * MAX_SILENCE_LIMIT_NS
    assert silences_of(Watchdog(HOURS, limit_ns), 1) == [7200]


def test_the_first_data_brings_the_limit_back() -> None:
    watchdog = Watchdog(HOURS)
    assert silences_of(watchdog, 3) == [30, 60, 120]
    assert silences_of(watchdog, 3, data=True) == [30, 30, 30]
    assert silences_of(watchdog, 2) == [30, 60]


def test_a_connection_that_is_lost_for_another_reason_changes_no_limit() -> None:
    watchdog = Watchdog(HOURS)
    for _ in range(5):
        watchdog.on_frame(NOON)
        assert watchdog.on_tick(NOON + 10**9, NOON + 10**9) is None
        watchdog.on_disconnect()
    assert silences_of(watchdog, 1) == [30]
