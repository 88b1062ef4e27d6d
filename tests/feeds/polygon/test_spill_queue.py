from __future__ import annotations

import logging

import numpy as np
import pytest

from ingestor.feeds.polygon.sink import FeedStats
from ingestor.feeds.polygon.spill_queue import MAX_BLOCK_ROWS, Backlog, BacklogLimits, SpillQueue
from ingestor.feeds.polygon.status_reporter import (
    ALARM_EVERY_NS,
    ALARMS_AT_ONCE,
    MAX_STATUSES_HELD,
    StatusReporter,
)
from ingestor.model.blocks import Block, Source
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import STOCK_TRADE, Records
from tests.feeds.polygon.test_spill_queue_backlog import rows

NOW = 1_786_649_956_000_000_000


class Room:
    """An sink with room for so many blocks and statuses."""

    def __init__(self, blocks: int, statuses: int = 1_000_000) -> None:
        self.room, self.status_room = blocks, statuses
        self.taken: list[Records] = []
        self.statuses: list[FeedStatus] = []

    def put(self, block: Block) -> bool:
        if self.room:
            self.room -= 1
            self.taken.append(block.records)
            return True
        return False

    def tell(self, status: FeedStatus) -> bool:
        if self.status_room:
            self.status_room -= 1
            self.statuses.append(status)
            return True
        return False

    def price(self, price_e9: int) -> None:
        raise AssertionError(f"nobody asked for {price_e9}")

    def beat(self, counts: FeedStats) -> None:
        raise AssertionError(f"nobody asked for {counts}")

    @property
    def numbers(self) -> list[int]:
        return [number for records in self.taken for number in records["sequence"].tolist()]


def spill(room: Room, max_rows: int = 1_000_000) -> tuple[SpillQueue, FeedStats]:
    stats = FeedStats()
    reporter = StatusReporter("stocks", room, stats)
    backlog = Backlog(STOCK_TRADE, BacklogLimits(rows=max_rows))

    def block_of(records: Records) -> Block:
        return Block(0, records, {}, Source.SIM)

    return SpillQueue(room, block_of, backlog, reporter), stats


def test_records_go_straight_through_where_there_is_room() -> None:
    room = Room(10)
    way, _ = spill(room)
    records = rows("TQT")
    way.put(records, NOW)
    assert room.taken[0].base is records or room.taken[0] is records
    assert way.held == 0
    assert way.drain(NOW)


def test_a_large_frame_goes_in_pieces_and_its_rest_is_held() -> None:
    room = Room(2)
    way, _ = spill(room)
    way.put(rows("T" * (3 * MAX_BLOCK_ROWS + 5)), NOW)
    assert [len(records) for records in room.taken] == [MAX_BLOCK_ROWS] * 2
    assert way.held == MAX_BLOCK_ROWS + 5
    room.room = 10
    assert way.drain(NOW)
    assert room.numbers == list(range(3 * MAX_BLOCK_ROWS + 5))


def test_what_comes_later_waits_behind_what_is_held() -> None:
    room = Room(0)
    way, _ = spill(room)
    way.put(rows("TT"), NOW)
    room.room = 1
    way.put(rows("T", 2), NOW)
    way.put(rows("T", 3), NOW)
    assert not way.drain(NOW)
    room.room = 5
    assert way.drain(NOW)
    assert room.numbers == [0, 1, 2, 3]


def test_losses_are_told_once_all_that_was_held_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(0)
    way, stats = spill(room, max_rows=2)
    for first in range(0, 10, 2):
        way.put(rows("TQ", first), NOW)
    assert room.statuses == []
    assert len(caplog.messages) == 1
    room.room = 100
    assert way.drain(NOW + 1)
    (told,) = room.statuses
    assert (told.what, told.at_ns) == (What.OVERFLOW, NOW + 1)
    assert (told.lost_trades, told.lost_quotes) == (3, 5)
    assert (told.from_event_ns, told.to_event_ns) == (0, 90)
    assert (told.from_recv_ns, told.to_recv_ns) == (0, 9_000)
    assert (stats.dropped_trades, stats.dropped_quotes) == (3, 5)
    assert room.numbers == [6, 8]


def test_what_is_given_up_is_told() -> None:
    room = Room(0)
    way, stats = spill(room)
    way.put(rows("TQ"), NOW)
    way.give_up(NOW)
    assert way.held == 0
    assert [status.what for status in room.statuses] == [What.OVERFLOW]
    assert (stats.dropped_trades, stats.dropped_quotes, stats.undelivered) == (0, 0, 2)
    assert room.statuses[0].text == "1 trades and 1 quotes were not handed on before the stop"


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


def test_nothing_at_all_is_no_block() -> None:
    room = Room(5)
    way, _ = spill(room)
    way.put(np.empty(0, STOCK_TRADE), NOW)
    assert room.taken == []
