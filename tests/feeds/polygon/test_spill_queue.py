from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import cast

import numpy as np
import pytest

from ingestor.feeds.polygon.spill_queue import (
    MAX_BLOCK_ROWS,
    PIECE_COST,
    SPOOL_ROWS,
    Backlog,
    BacklogLimits,
    SpillQueue,
)
from ingestor.feeds.polygon.spool import Piece, Spool
from ingestor.feeds.polygon.status_reporter import FeedGap, FeedStats, StatusReporter
from ingestor.model.blocks import Source
from ingestor.model.feed_status import What
from ingestor.model.records import STOCK_TRADE, Records
from ingestor.model.units import NS_PER_S
from tests.feeds.polygon.rig import Room
from tests.feeds.polygon.test_spill_queue_backlog import rows

NOW = 1_786_649_956_000_000_000


def spill(room: Room, max_rows: int = 1_000_000) -> tuple[SpillQueue, FeedStats]:
    stats = FeedStats()
    reporter = StatusReporter("stocks", room, stats)
    backlog = Backlog(STOCK_TRADE, BacklogLimits(rows=max_rows))
    way = SpillQueue(room, backlog, reporter, feed=0, symbols={}, source=Source.SIM)
    return way, stats


def test_records_go_straight_through_where_there_is_room() -> None:
    room = Room(10)
    way, _ = spill(room)
    records = rows("TQT")
    way.put(records, NOW)
    assert room.taken[0].base is records or room.taken[0] is records
    assert len(way) == 0
    assert way.drain(NOW)


def test_a_large_frame_goes_in_pieces_and_its_rest_is_held() -> None:
    room = Room(2)
    way, _ = spill(room)
    way.put(rows("T" * (3 * MAX_BLOCK_ROWS + 5)), NOW)
    assert [len(records) for records in room.taken] == [MAX_BLOCK_ROWS] * 2
    assert len(way) == MAX_BLOCK_ROWS + 5
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


def test_what_comes_takes_along_what_is_held_as_soon_as_there_is_room() -> None:
    room = Room(0)
    way, _ = spill(room)
    way.put(rows("TT"), NOW)
    room.room = 5
    way.put(rows("T", 2), NOW)
    assert room.numbers == [0, 1, 2]
    assert len(way) == 0


def test_losses_are_told_once_all_that_was_held_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    room = Room(0)
    way, stats = spill(room, max_rows=2)
    for first in range(0, 10, 2):
        way.put(rows("TQ", first), NOW)
    assert room.statuses == []
    assert len(caplog.messages) == 1
    assert (stats.dropped_trades, stats.dropped_quotes) == (3, 5)
    room.room = 100
    assert way.drain(NOW + 1)
    (told,) = room.statuses
    assert (told.what, told.at_ns) == (What.OVERFLOW, NOW + 1)
    assert (told.lost_trades, told.lost_quotes) == (3, 5)
    assert (told.from_event_ns, told.to_event_ns) == (0, 90)
    assert (told.from_recv_ns, told.to_recv_ns) == (0, 9_000)
    assert (stats.dropped_trades, stats.dropped_quotes) == (3, 5)
    assert room.numbers == [6, 8]
    room.room = 0
    way.put(rows("TQTT", 10), NOW)
    assert (stats.dropped_trades, stats.dropped_quotes) == (4, 6)


def test_what_is_given_up_is_told() -> None:
    room = Room(0)
    way, stats = spill(room)
    way.put(rows("TQ"), NOW)
    way.give_up(NOW)
    assert len(way) == 0
    assert [status.what for status in room.statuses] == [What.OVERFLOW]
    assert (stats.dropped_trades, stats.dropped_quotes, stats.undelivered) == (0, 0, 2)
    assert room.statuses[0].text == "1 trades and 1 quotes were not handed on before the stop"


def test_nothing_at_all_is_no_block() -> None:
    room = Room(5)
    way, _ = spill(room)
    way.put(np.empty(0, STOCK_TRADE), NOW)
    assert room.taken == []


class Before:
    """A spool of these pieces, and what it says of the records after it."""

    def __init__(self, *pieces: Piece) -> None:
        self._pieces = pieces
        self.joined: list[int] = []

    def pieces(self) -> Iterator[Piece]:
        yield from self._pieces

    def join(self, records: Records) -> FeedGap | None:
        self.joined.append(int(records["sequence"][0]))
        return FeedGap(1, 2, 3, 4)


def behind(before: Before, room: Room) -> SpillQueue:
    stats = FeedStats()
    return SpillQueue(
        room,
        Backlog(STOCK_TRADE, BacklogLimits()),
        StatusReporter("stocks", room, stats),
        feed=0,
        symbols={},
        source=Source.SIM,
        spool=cast("Spool", before),
    )


def test_what_a_journal_holds_goes_before_all_that_comes() -> None:
    room = Room(100)
    way = behind(Before(*(Piece(rows("T", at)) for at in range(20))), room)
    way.put(rows("T", 20), NOW)
    assert room.numbers == []
    seconds = count()
    while not way.drain(NOW + next(seconds) * NS_PER_S):
        way.put(rows("Q", 21), NOW)
    assert room.numbers[:21] == list(range(21))
    assert len(room.numbers) > 21
    assert len(way) == 0


def test_a_part_of_a_journal_is_read_at_a_time() -> None:
    room = Room(100)
    way = behind(Before(*(Piece(rows("T", at)) for at in range(20))), room)
    for _ in range(2):
        # A tenth of a second is due, and a piece counts as 256 rows at least; then nothing more.
        assert not way.drain(NOW)
        assert room.numbers == list(range(SPOOL_ROWS // PIECE_COST))
    assert not way.drain(NOW + NS_PER_S)
    assert room.numbers == list(range(2 * SPOOL_ROWS // PIECE_COST))


def test_a_full_sink_loses_nothing_of_a_journal_and_is_told_a_gap_once() -> None:
    room = Room(1)
    way = behind(Before(Piece(rows("T", 0)), Piece(rows("T", 1), FeedGap(5, 6, 7, 8))), room)
    for _ in range(3):
        assert not way.drain(NOW)
    room.room = 1
    assert way.drain(NOW + NS_PER_S)
    assert room.numbers == [0, 1]
    assert [status.from_event_ns for status in room.statuses] == [5]


def test_the_first_of_what_is_new_ends_the_gap_after_a_journal_once() -> None:
    room, before = Room(100), Before(Piece(rows("T")))
    way = behind(before, room)
    assert way.drain(NOW)
    assert room.statuses == []
    for at in (7, 8):
        way.put(rows("T", at), NOW)
    assert room.numbers == [0, 7, 8]
    assert before.joined == [7]
    assert [status.to_recv_ns for status in room.statuses] == [4]
