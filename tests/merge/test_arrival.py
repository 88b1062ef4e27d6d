from __future__ import annotations

from ingestor.merge.arrival import MAX_PENDING_BLOCKS, ArrivalMerge
from tests.rows import block, published


def test_blocks_come_out_as_they_arrived_whatever_their_times() -> None:
    merge = ArrivalMerge(2)
    assert merge.push(block([(9, 0, 0), (8, 0, 0)], feed=1))
    assert merge.push(block([(1, 0, 0)], feed=0))
    runs = merge.pull()
    assert runs is not None
    assert published(runs) == [(1, 0), (1, 1), (0, 0)]
    assert runs.key_ts_ns.tolist() == [9, 8, 1]


def test_nothing_is_pulled_twice() -> None:
    merge = ArrivalMerge(1)
    merge.push(block([(1, 0, 0)]))
    assert merge.pull() is not None
    assert merge.pull() is None


def test_empty_blocks_leave_no_run() -> None:
    merge = ArrivalMerge(1)
    assert merge.push(block([]))
    assert merge.pull() is None


def test_it_is_done_when_every_feed_has_ended_and_nothing_is_left() -> None:
    merge = ArrivalMerge(2)
    merge.push(block([(1, 0, 0)]))
    merge.end(0)
    merge.end(1)
    done_before = merge.done
    merge.pull()
    assert (done_before, merge.done) == (False, True)
    assert merge.room(0) == 0


def test_more_blocks_than_the_bound_are_refused_not_held() -> None:
    merge = ArrivalMerge(1)
    for _ in range(MAX_PENDING_BLOCKS):
        assert merge.push(block([(1, 0, 0)]))
    assert merge.room(0) == 0
    assert not merge.push(block([(1, 0, 0)]))
