from __future__ import annotations

import datetime as dt

from ingestor.clock import new_york_ns
from ingestor.feeds.polygon.hours import STOCKS_REGULAR, MarketHours
from ingestor.feeds.polygon.watchdog import SILENCE_LIMIT_NS, Silence, Watchdog

TUESDAY = dt.date(2025, 12, 16)
OPEN = new_york_ns(TUESDAY, dt.time(9, 30))
NOON = new_york_ns(TUESDAY, dt.time(12))
CLOSE = new_york_ns(TUESDAY, dt.time(16))
MINUTE = 60 * 10**9
HOURS = MarketHours(STOCKS_REGULAR)


def watching(since_ns: int) -> Watchdog:
    watchdog = Watchdog(HOURS)
    watchdog.on_frame(since_ns)
    return watchdog


def test_silence_longer_than_the_limit_is_told_once() -> None:
    watchdog = watching(NOON)
    assert watchdog.on_tick(NOON + SILENCE_LIMIT_NS - 1) is None
    assert watchdog.on_tick(NOON + SILENCE_LIMIT_NS) == Silence(NOON, SILENCE_LIMIT_NS)
    assert watchdog.on_tick(NOON + 2 * SILENCE_LIMIT_NS) is None


def test_any_frame_is_a_sign_of_life() -> None:
    watchdog = watching(NOON)
    for second in range(0, 120, 20):
        watchdog.on_frame(NOON + second * 10**9)
        assert watchdog.on_tick(NOON + second * 10**9 + 19 * 10**9) is None


def test_a_market_that_is_closed_may_be_silent() -> None:
    assert watching(CLOSE - 1).on_tick(CLOSE + 60 * MINUTE) is None
    assert watching(OPEN - 600 * MINUTE).on_tick(OPEN - 1) is None
    assert watching(NOON).on_tick(NOON + 4 * 24 * 60 * MINUTE) is None


def test_the_night_before_does_not_count_at_the_opening() -> None:
    watchdog = watching(OPEN - 600 * MINUTE)
    assert watchdog.on_tick(OPEN) is None
    assert watchdog.on_tick(OPEN + SILENCE_LIMIT_NS) == Silence(OPEN, SILENCE_LIMIT_NS)


def test_a_feed_without_a_connection_is_not_watched() -> None:
    assert Watchdog(HOURS).on_tick(NOON) is None
    watchdog = watching(NOON)
    watchdog.on_disconnect()
    assert watchdog.on_tick(NOON + 60 * MINUTE) is None


def test_watching_goes_on_with_the_next_connection() -> None:
    watchdog = watching(NOON)
    assert watchdog.on_tick(NOON + MINUTE) is not None
    watchdog.on_frame(NOON + 2 * MINUTE)
    assert watchdog.on_tick(NOON + 3 * MINUTE) is not None


def test_the_limit_can_be_set() -> None:
    watchdog = Watchdog(HOURS, limit_ns=10)
    watchdog.on_frame(NOON)
    assert watchdog.on_tick(NOON + 9) is None
    assert watchdog.on_tick(NOON + 10) is not None
