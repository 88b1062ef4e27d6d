from __future__ import annotations

import multiprocessing
import os

import pytest
from hypothesis import given

from ingestor.model.feed_status import FeedStatus, What, shortened
from ingestor.runtime.counters import SLOT_BYTES, Counter, CounterTable, Total
from ingestor.runtime.positions import FeedPosition, Position
from tests.strategies import STATUSES


def test_rows_do_not_touch_each_other_or_the_stop_word() -> None:
    table = CounterTable(2)
    for counter in Counter:
        table.row(0)[counter] = 7
    assert [table.row(1)[counter] for counter in Counter] == [0] * len(Counter)
    assert not table.stopping


def test_adding_starts_from_zero() -> None:
    row = CounterTable(1).row(0)
    row.add(Counter.RECORDS)
    row.add(Counter.RECORDS, 4)
    assert row[Counter.RECORDS] == 5


def test_another_process_sees_the_word_to_stop_and_its_counts_are_seen_here() -> None:
    table = CounterTable(1)
    go_read, go_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go_read, 1)
        table.row(0)[Counter.RECORDS] = 2**62 if table.stopping else 0
        os._exit(0)
    table.stop()
    os.write(go_write, b"x")
    os.waitpid(pid, 0)
    assert table.row(0)[Counter.RECORDS] == 2**62


FORK = multiprocessing.get_context("fork")


def status(text: str, feed: str = "stocks") -> FeedStatus:
    return FeedStatus(feed=feed, what=What.GAP, at_ns=1, text=text)


def test_nothing_is_on_it_at_first() -> None:
    assert [CounterTable(2).status(feed) for feed in range(2)] == [None, None]


@given(STATUSES, STATUSES)
def test_each_feed_has_its_last_status(one: FeedStatus, other: FeedStatus) -> None:
    board = CounterTable(2)
    assert board.note_status(0, other)
    assert board.note_status(0, one)
    assert board.status(1) is None
    assert board.note_status(1, other)
    assert [board.status(0), board.status(1)] == [shortened(one), shortened(other)]


def test_the_longest_text_fits_whatever_it_says() -> None:
    board = CounterTable(1)
    for character in ("\x01", "\N{GRINNING FACE}", '"'):
        assert board.note_status(0, status(character * SLOT_BYTES))
        assert board.status(0) == shortened(status(character * SLOT_BYTES))


def test_what_does_not_fit_leaves_the_one_before() -> None:
    board = CounterTable(2)
    board.note_status(0, status("here"))
    assert not board.note_status(0, status("", feed="x" * SLOT_BYTES))
    assert board.status(0) == status("here")
    assert board.status(1) is None


def test_bytes_that_are_not_of_one_status_are_not_shown() -> None:
    board = CounterTable(1)
    board.note_status(0, status("before"))
    at = board.statuses._memory.find(b"before")
    board.statuses._memory[at : at + 6] = b"halfof"
    assert board.status(0) is None
    board.note_status(0, status("after"))
    assert board.status(0) == status("after")


def _flicker(board: CounterTable, told: list[FeedStatus]) -> None:
    while True:
        for one in told:
            board.note_status(0, one)


def test_a_reader_never_sees_half_of_two_statuses() -> None:
    told = [status("a" * 900), status("b" * 50)]
    board = CounterTable(1)
    board.note_status(0, told[0])
    writer = FORK.Process(target=_flicker, args=(board, told), daemon=True)
    writer.start()
    seen, reads = {"None"}, 0
    wanted = {"None", *map(repr, told)}
    try:
        while reads < 5_000 or not wanted <= seen:
            seen.add(repr(board.status(0)))
            reads += 1
    finally:
        writer.kill()
        writer.join()
    assert seen == wanted


def test_a_total_is_unset_until_it_is_noted_and_may_be_zero_or_negative() -> None:
    table = CounterTable(1)
    assert [table.total(one) for one in Total] == [None] * len(Total)
    table.note(Total.FIRST_EVENT_NS, 0)
    table.note(Total.LAST_SEQ, -1)
    assert (table.total(Total.FIRST_EVENT_NS), table.total(Total.LAST_SEQ)) == (0, -1)
    table.note(Total.LAST_SEQ, None)
    assert table.total(Total.LAST_SEQ) is None
    assert [table.row(0)[counter] for counter in Counter] == [0] * len(Counter)
    assert (table.stopping, table.reference_price_e9) == (False, None)


def test_subjects_are_named_in_the_order_in_which_they_first_had_rows() -> None:
    table = CounterTable(1)
    assert table.stored == {}
    table.note_stored({"market.futures.mbp10": 3})
    table.note_stored({"market.stocks.trades": 1, "market.futures.mbp10": 9})
    assert list(table.stored.items()) == [("market.futures.mbp10", 9), ("market.stocks.trades", 1)]
    table.note_stored({"market.stocks.trades": 0})
    assert table.stored == {"market.futures.mbp10": 9}


def test_what_a_feed_left_out_is_told_by_cause_and_counted() -> None:
    table = CounterTable(2)
    assert table.skipped(1) == {}
    table.note_skipped(1, {"price": 2})
    table.note_skipped(1, {"price": 2, "time": 1})
    assert table.skipped(1) == {"price": 2, "time": 1}
    assert (table.row(1)[Counter.SKIPPED], table.row(0)[Counter.SKIPPED]) == (3, 0)
    assert table.skipped(0) == {}


def test_the_price_is_none_before_the_first() -> None:
    table = CounterTable(1)
    table.reference_price_e9 = 686_010_000_000
    assert table.reference_price_e9 == 686_010_000_000
    assert not table.stopping


def test_a_process_that_is_started_again_counts_on_but_tells_of_now_what_is_of_now() -> None:
    table = CounterTable(2)
    row = table.row(0)
    row[Counter.FRAMES], row[Counter.HELD], row[Counter.EVENT_TIME_NS] = 10, 4, 77
    table.note_skipped(0, {"torn": 2})
    table.note_death(0, "killed")
    table.go_on(0)
    row = table.row(0)
    row[Counter.FRAMES], row[Counter.HELD], row[Counter.EVENT_TIME_NS] = 3, 1, 99
    row[Counter.UNDELIVERED] = 5
    row.add(Counter.RECORDS, 6)
    table.note_skipped(0, {"torn": 1, "odd": 1})
    table.note_skipped(0, {"torn": 1, "odd": 1})
    told = [Counter.FRAMES, Counter.HELD, Counter.EVENT_TIME_NS, Counter.UNDELIVERED]
    assert [row[counter] for counter in told] == [13, 1, 99, 9]
    assert (row[Counter.RECORDS], row[Counter.SKIPPED], row[Counter.RESTARTS]) == (6, 4, 1)
    assert table.skipped(0) == {"torn": 3, "odd": 1}
    assert (table.cause_of_death(0), table.cause_of_death(1)) == ("killed", "")


def test_what_another_process_counts_is_shown_with_the_next_count() -> None:
    table = CounterTable(1)
    row = table.row(0)
    row[Counter.GAPS] = 2
    table.count_for(0, Counter.GAPS)
    row[Counter.GAPS] = 2
    assert row[Counter.GAPS] == 3


def test_a_counter_may_begin_at_what_is_known_and_counts_on_from_there() -> None:
    row = CounterTable(1).row(0)
    row.add(Counter.PUBLISHED, 7)
    row.count_from(Counter.PUBLISHED, 5)
    assert row[Counter.PUBLISHED] == 5
    row[Counter.PUBLISHED] = 2
    row.add(Counter.PUBLISHED)
    assert row[Counter.PUBLISHED] == 8


def test_a_position_is_shown_whole_and_the_last_one_stays_when_its_writer_dies_amid_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = CounterTable(1)
    positions = [table.position]
    told = Position(
        9, {"market.stocks.trades": 4}, 4, "now", 7, 2, {"market.stocks.trades": 2}, ("_INBOX.a",),
        (FeedPosition(1, 2, 3), FeedPosition()),
    )  # fmt: skip
    for _ in range(2):
        table.note_position(told)
        positions.append(table.position)
        monkeypatch.setattr("zlib.crc32", dying)
        with pytest.raises(KeyboardInterrupt):
            table.note_position(Position(10))
        monkeypatch.undo()
        positions.append(table.position)
    assert positions == [None, told, told, told, told]


def dying(_: bytes) -> int:
    raise KeyboardInterrupt
