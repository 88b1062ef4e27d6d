from __future__ import annotations

import logging

import numpy as np
import pytest

from ingestor.feeds.polygon.status_reporter import (
    ALARM_EVERY_NS,
    ALARMS_AT_ONCE,
    MAX_STATUSES_HELD,
    REPEAT_NS,
    ConnectLog,
    FeedGap,
    FeedStats,
    GapTracker,
    StatusReporter,
)
from ingestor.model.feed_status import What
from ingestor.model.records import STOCK_TRADE, Records
from tests.feeds.polygon.rig import Room

S = 10**9
START = 1_000 * S
NOW = 1_786_649_956_000_000_000


def test_statuses_wait_for_room_and_keep_their_order() -> None:
    room, stats = Room(0, statuses=0), FeedStats()
    reporter = StatusReporter("stocks", room, stats)
    for number in range(3):
        reporter.alarm(str(number), NOW)
    assert not reporter.drain()
    assert stats.statuses == 0
    room.status_room = 9
    assert reporter.drain()
    assert [status.text for status in room.statuses] == ["0", "1", "2"]
    assert (stats.statuses, stats.alarms) == (3, 3)


def test_statuses_that_wait_are_bounded_and_the_oldest_go() -> None:
    room, stats = Room(0, statuses=0), FeedStats()
    reporter = StatusReporter("stocks", room, stats)
    for number in range(MAX_STATUSES_HELD + 2):
        reporter.silence(str(number), NOW, NOW)
    room.status_room = 2 * MAX_STATUSES_HELD
    reporter.drain()
    assert len(room.statuses) == MAX_STATUSES_HELD
    assert room.statuses[0].text == "2"
    assert stats.dropped_statuses == 2


def test_many_alarms_of_a_kind_are_told_at_once_then_as_a_sum_and_hide_no_other() -> None:
    room, stats = Room(0), FeedStats()
    reporter = StatusReporter("stocks", room, stats)
    for number in range(100_000):
        reporter.alarm(str(number), NOW, "error")
        reporter.tell_sums(NOW)
    reporter.alarm("evicted", NOW, "evicted")
    texts = [status.text for status in room.statuses]
    assert texts == [*map(str, range(ALARMS_AT_ONCE)), "evicted"]
    reporter.tell_sums(NOW + ALARM_EVERY_NS)
    reporter.tell_sums(NOW + ALARM_EVERY_NS)
    assert [status.text for status in room.statuses][len(texts) :] == [
        "99990 more like this: 99999"
    ]
    assert stats.alarms == 100_001


def test_alarms_at_a_moderate_pace_are_all_told() -> None:
    room = Room(0)
    reporter = StatusReporter("stocks", room, FeedStats())
    for number in range(100):
        reporter.alarm(str(number), NOW + number * ALARM_EVERY_NS)
    assert [status.text for status in room.statuses] == [*map(str, range(100))]


def test_an_allowance_that_is_full_saves_up_no_time() -> None:
    room = Room(0)
    reporter = StatusReporter("stocks", room, FeedStats())
    reporter.alarm("first", NOW)
    full_ns = NOW + ALARM_EVERY_NS * 3 // 2
    for _ in range(ALARMS_AT_ONCE + 1):
        reporter.alarm("more", full_ns)
    assert len(room.statuses) == 1 + ALARMS_AT_ONCE
    reporter.tell_sums(full_ns + ALARM_EVERY_NS - 1)
    assert len(room.statuses) == 1 + ALARMS_AT_ONCE
    reporter.tell_sums(full_ns + ALARM_EVERY_NS)
    assert room.statuses[-1].text == "1 more like this: more"


def test_what_was_not_told_is_told_at_the_end() -> None:
    room = Room(0)
    reporter = StatusReporter("stocks", room, FeedStats())
    for _ in range(ALARMS_AT_ONCE + 3):
        reporter.alarm("no", NOW)
    reporter.tell_sums(NOW, at_once=True)
    assert room.statuses[-1].text == "3 more like this: no"


def test_streaming_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    room = Room(0)
    StatusReporter("stocks", room, FeedStats()).streaming(NOW, NOW - 5)
    (told,) = room.statuses
    assert (told.what, told.to_event_ns, told.to_recv_ns) == (What.STREAMING, NOW - 5, NOW)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def records(*times: tuple[int, int]) -> Records:
    rows = np.zeros(len(times), STOCK_TRADE)
    rows["ts_event_ns"] = [event for event, _ in times]
    rows["ts_recv_ns"] = [recv for _, recv in times]
    return rows


def test_a_feed_that_stays_connected_has_no_gap() -> None:
    gaps = GapTracker()
    assert [gaps.on_records(records((time, time + 1))) for time in range(5)] == [None] * 5


def test_a_gap_runs_from_the_last_record_before_to_the_first_one_after() -> None:
    gaps = GapTracker()
    gaps.on_records(records((1, 2), (3, 4)))
    gaps.on_disconnect()
    assert gaps.on_records(records((7, 8), (9, 10))) == FeedGap(3, 4, 7, 8)
    assert gaps.on_records(records((11, 12))) is None


def test_several_attempts_are_one_gap() -> None:
    gaps = GapTracker()
    gaps.on_records(records((3, 4)))
    gaps.on_disconnect()
    gaps.on_disconnect()
    assert gaps.on_records(records()) is None
    gaps.on_disconnect()
    assert gaps.on_records(records((7, 8))) == FeedGap(3, 4, 7, 8)


def test_the_first_connection_ends_no_gap() -> None:
    gaps = GapTracker()
    gaps.on_disconnect()
    assert gaps.on_records(records((1, 2))) is None


def test_each_loss_is_its_own_gap() -> None:
    gaps = GapTracker()
    gaps.on_records(records((1, 2)))
    gaps.on_disconnect()
    gaps.on_records(records((3, 4)))
    gaps.on_disconnect()
    assert gaps.on_records(records((5, 6))) == FeedGap(3, 4, 5, 6)


@pytest.mark.parametrize(
    ("to_recv_ns", "told"), [(NOW, "for 0.000 s after"), (NOW - 1, "until our clock, set back,")]
)
def test_only_a_clock_that_was_set_back_is_said_to_be(to_recv_ns: int, told: str) -> None:
    room = Room(0, statuses=9)
    reporter = StatusReporter("stocks", room, FeedStats())
    reporter.gap(FeedGap(1, NOW, 2, to_recv_ns))
    reporter.drain()
    assert told in room.statuses[0].text


def test_an_unchanged_reason_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    connect_log = ConnectLog("stocks", "wss://example.com:443/stocks")
    for second in range(REPEAT_NS // S + 1):
        connect_log.failed("refused", S // 2, START + second * S)
    assert caplog.messages == [
        f"stocks: cannot connect to wss://example.com:443/stocks: refused; attempt {number}, "
        "the next in 0.5 s"
        for number in (1, REPEAT_NS // S + 1)
    ]


def test_a_new_reason_is_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    connect_log = ConnectLog("stocks", "x")
    connect_log.failed("refused", S, START)
    connect_log.failed("HTTP 404", S, START)
    connect_log.failed("HTTP 404", S, START)
    assert len(caplog.messages) == 2


def test_success_says_how_often_it_had_failed_and_makes_the_next_reason_news(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    connect_log = ConnectLog("stocks", "x")
    connect_log.failed("refused", S, START)
    connect_log.failed("refused", S, START)
    connect_log.opened()
    connect_log.lost("torn", 2 * S)
    connect_log.failed("refused", S, START)
    connect_log.opened()
    connect_log.ended("closed by us")
    assert caplog.messages == [
        "stocks: cannot connect to x: refused; attempt 1, the next in 1.0 s",
        "stocks: connected to x (failed attempts before: 2)",
        "stocks: connection to x is gone: torn; connecting again in 2.0 s",
        "stocks: cannot connect to x: refused; attempt 1, the next in 1.0 s",
        "stocks: connected to x (failed attempts before: 1)",
        "stocks: connection to x is gone: closed by us",
    ]
