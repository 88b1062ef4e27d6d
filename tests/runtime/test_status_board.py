from __future__ import annotations

import multiprocessing

from hypothesis import given

from ingestor.model.feed_status import FeedStatus, What, shortened
from ingestor.runtime.status_board import SLOT_BYTES, StatusBoard
from tests.strategies import STATUSES

FORK = multiprocessing.get_context("fork")


def status(text: str, feed: str = "stocks") -> FeedStatus:
    return FeedStatus(feed=feed, what=What.GAP, at_ns=1, text=text)


def test_nothing_is_on_it_at_first() -> None:
    assert [StatusBoard(2).get(feed) for feed in range(2)] == [None, None]
    StatusBoard(0)


@given(STATUSES, STATUSES)
def test_each_feed_has_its_last_status(one: FeedStatus, other: FeedStatus) -> None:
    board = StatusBoard(2)
    assert board.put(0, other)
    assert board.put(0, one)
    assert board.get(1) is None
    assert board.put(1, other)
    assert [board.get(0), board.get(1)] == [shortened(one), shortened(other)]


def test_the_longest_text_fits_whatever_it_says() -> None:
    board = StatusBoard(1)
    for character in ("\x01", "\N{GRINNING FACE}", '"'):
        assert board.put(0, status(character * SLOT_BYTES))
        assert board.get(0) == shortened(status(character * SLOT_BYTES))


def test_what_does_not_fit_leaves_the_one_before() -> None:
    board = StatusBoard(2)
    board.put(0, status("here"))
    assert not board.put(0, status("", feed="x" * SLOT_BYTES))
    assert board.get(0) == status("here")
    assert board.get(1) is None


def test_bytes_that_are_not_of_one_status_are_not_shown() -> None:
    board = StatusBoard(1)
    board.put(0, status("before"))
    at = board._memory.find(b"before")
    board._memory[at : at + 6] = b"halfof"
    assert board.get(0) is None
    board.put(0, status("after"))
    assert board.get(0) == status("after")


def _flicker(board: StatusBoard, told: list[FeedStatus]) -> None:
    while True:
        for one in told:
            board.put(0, one)


def test_a_reader_never_sees_half_of_two_statuses() -> None:
    told = [status("a" * 900), status("b" * 50)]
    board = StatusBoard(1)
    board.put(0, told[0])
    writer = FORK.Process(target=_flicker, args=(board, told), daemon=True)
    writer.start()
    seen, reads = {"None"}, 0
    wanted = {"None", *map(repr, told)}
    try:
        while reads < 5_000 or not wanted <= seen:
            seen.add(repr(board.get(0)))
            reads += 1
    finally:
        writer.kill()
        writer.join()
    assert seen == wanted
