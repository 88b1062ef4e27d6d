from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.feed_status import FeedStatus, What
from ingestor.runtime import live_process as kept_module
from ingestor.runtime.live_process import KeptRows, KeptStatuses
from tests.rows import rows


def kept(*blocks: range) -> KeptRows:
    queue = KeptRows()
    for block in blocks:
        queue.add(rows([(number, 0, 0) for number in block]))
    return queue


def handed_on_again(queue: KeptRows) -> list[int]:
    found: list[int] = []
    while (records := queue.again()) is not None:
        found += records["ts_event_ns"].tolist()
        queue.advance(len(records))
    return found


def test_nothing_is_handed_on_again_unless_it_is_asked_for() -> None:
    assert handed_on_again(KeptRows()) == []
    assert handed_on_again(kept(range(3), range(3, 10))) == []


def test_any_part_that_is_not_forgotten_may_be_handed_on_again_and_again() -> None:
    queue = kept(range(3), range(3, 10))
    assert (queue.rewind(4), queue.behind) == (4, 6)
    assert handed_on_again(queue) == [4, 5, 6, 7, 8, 9]
    queue.forget(7)
    assert (queue.rewind(0), handed_on_again(queue)) == (7, [7, 8, 9])
    assert (queue.rewind(99), handed_on_again(queue)) == (10, [])


def test_what_is_to_be_handed_on_again_is_not_forgotten() -> None:
    queue = kept(range(5))
    queue.rewind(1)
    queue.forget(4)
    assert handed_on_again(queue) == [1, 2, 3, 4]


def test_it_comes_in_blocks_that_stay_as_they_are() -> None:
    queue = kept(range(kept_module.BLOCK_ROWS + 5))
    queue.rewind(0)
    first = queue.again()
    assert first is not None
    assert len(first) == kept_module.BLOCK_ROWS
    queue.advance(len(first))
    queue.forget(kept_module.BLOCK_ROWS)
    queue.add(rows([(99, 0, 0)]))
    assert first["ts_event_ns"].tolist() == list(range(kept_module.BLOCK_ROWS))


def test_it_is_full_by_rows_or_by_bytes_and_has_room_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = kept(range(9))
    assert not queue.full
    row_bytes = rows([(0, 0, 0)]).itemsize
    limits = ((9, 10**9), (10**9, 9 * row_bytes))
    for max_rows, max_bytes in limits:
        with_limits(monkeypatch, max_rows, max_bytes)
        assert queue.full
    queue.forget(1)
    assert not queue.full


def with_limits(monkeypatch: pytest.MonkeyPatch, max_rows: int, max_bytes: int) -> None:
    monkeypatch.setattr(kept_module, "MAX_KEPT_ROWS", max_rows)
    monkeypatch.setattr(kept_module, "MAX_KEPT_BYTES", max_bytes)


@given(st.lists(st.tuples(st.sampled_from(["add", "forget", "rewind"]), st.integers(0, 40))))
def test_it_holds_what_a_list_would_hold(steps: list[tuple[str, int]]) -> None:
    queue, added, first = KeptRows(), 0, 0
    for what, number in steps:
        if what == "add" and number:
            queue.add(rows([(at, 0, 0) for at in range(added, added + number)]))
            added += number
        elif what == "forget":
            queue.forget(number)
            first = max(first, min(number, added))
        else:
            start = queue.rewind(number)
            assert start == max(first, min(number, added))
            assert handed_on_again(queue) == list(range(start, added))
        assert (queue.end, queue.behind) == (added, 0)
    assert queue.rewind(0) == first


def told_again(statuses: KeptStatuses) -> list[int]:
    found = []
    while (status := statuses.again()) is not None:
        found.append(status.at_ns)
        statuses.advance()
    return found


def test_statuses_are_handed_on_again_from_a_number_until_they_are_settled() -> None:
    statuses = KeptStatuses()
    for number in range(5):
        statuses.add(FeedStatus(feed="stocks", what=What.ALARM, at_ns=number, text=""))
    assert told_again(statuses) == []
    assert (statuses.rewind(2), told_again(statuses)) == (2, [2, 3, 4])
    statuses.forget(3)
    assert (statuses.rewind(0), told_again(statuses)) == (3, [3, 4])
    statuses.rewind(4)
    statuses.forget(99)
    assert told_again(statuses) == [4]


def test_only_so_many_statuses_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_module, "MAX_KEPT_STATUSES", 1)
    statuses = KeptStatuses()
    statuses.add(FeedStatus(feed="stocks", what=What.ALARM, at_ns=0, text=""))
    assert statuses.full
    statuses.forget(1)
    assert not statuses.full
