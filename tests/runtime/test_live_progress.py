from __future__ import annotations

import time

import pytest

from ingestor.model.clock import now_ns
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.live_progress import FeedSnapshot, LiveProgress, LiveSnapshot, age_text


def test_a_snapshot_reads_as_one_line() -> None:
    stocks = FeedSnapshot("stocks", 1_020.4, 7 * NS_PER_MS, ("12 quotes dropped", "1 gaps"))
    snapshot = LiveSnapshot(1_234_567, 1_030.0, (stocks, FeedSnapshot("options", 0.0, None)))
    assert snapshot.sentence() == (
        "1,234,567 events, 1,030/s; stocks 1,020/s, 7 ms old, 12 quotes dropped, 1 gaps;"
        " options 0/s, no event yet"
    )


@pytest.mark.parametrize(
    ("age_ns", "text"),
    [
        (1_999 * NS_PER_MS, "1999 ms"),
        (2 * NS_PER_S, "2 s"),
        (120 * NS_PER_S, "2 min"),
        (7_200 * NS_PER_S, "2 h"),
    ],
)
def test_an_age_is_told_in_the_unit_that_suits_it(age_ns: int, text: str) -> None:
    assert age_text(age_ns) == text


@pytest.mark.parametrize(
    ("age_ns", "told"),
    [
        (3 * NS_PER_MS, "3 ms old"),
        (-3 * NS_PER_MS, "0 ms old"),
        (-90 * NS_PER_S, "the vendor's clock is ahead of ours by 90 s"),
        (-7_200 * NS_PER_S, "the vendor's clock is ahead of ours by 2 h"),
    ],
)
def test_an_event_from_the_future_is_a_clock_that_is_ahead(age_ns: int, told: str) -> None:
    assert FeedSnapshot("stocks", 0.0, age_ns).phrase() == f"stocks 0/s, {told}"


def test_rates_ages_and_losses_come_from_the_counters() -> None:
    table = CounterTable(3)
    stocks, options, publisher = (table.row(index) for index in range(3))
    progress = LiveProgress([("stocks", stocks), ("options", options)], publisher)
    started_ns = time.monotonic_ns()
    stocks[Counter.RECORDS], publisher[Counter.PUBLISHED] = 4_000, 3_800
    stocks[Counter.EVENT_TIME_NS] = now_ns() - 5 * NS_PER_S
    stocks[Counter.DROPPED_TRADES] = 3
    snapshot = progress.snapshot(started_ns + 4 * NS_PER_S)
    assert (snapshot.published, round(snapshot.rate)) == (3_800, 950)
    assert snapshot.share is None
    first, second = snapshot.feeds
    assert (first.name, round(first.rate), first.losses) == ("stocks", 1_000, ("3 trades dropped",))
    assert first.age_ns is not None
    assert first.age_ns // NS_PER_S == 5
    assert second == FeedSnapshot("options", 0.0, None)
