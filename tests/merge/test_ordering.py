from __future__ import annotations

import heapq
from dataclasses import replace
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from ingestor.merge.ordering import (
    MAX_ARRIVED_BLOCKS,
    MAX_PENDING_BLOCKS,
    ArrivalMerge,
    WatermarkMerge,
)
from tests.rows import Key, block, published

keys = st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2))
feeds = st.lists(st.lists(st.lists(keys, max_size=6), max_size=5), min_size=1, max_size=4)


def oracle(feed_blocks: list[list[list[Key]]]) -> list[tuple[int, int]]:
    """Merge single records with heapq, each under the running maximum of its feed's keys."""
    lanes = []
    for feed, blocks in enumerate(feed_blocks):
        running = accumulate((key for one in blocks for key in one), max)
        lanes.append([(key, feed, size) for size, key in enumerate(running)])
    return [(feed, size) for _, feed, size in heapq.merge(*lanes)]


def merge_all(feed_blocks: list[list[list[Key]]], *, says: bool = False) -> list[tuple[int, int]]:
    merge = WatermarkMerge(len(feed_blocks))
    waiting = [list(blocks) for blocks in feed_blocks]
    sizes = [0] * len(feed_blocks)
    out: list[tuple[int, int]] = []
    while not merge.done:
        for feed in merge.waiting_for():
            if waiting[feed]:
                chunk = waiting[feed].pop(0)
                one = block(chunk, feed=feed, first_size=sizes[feed])
                assert merge.push(replace(one, in_order=says and sorted(chunk) == chunk))
                sizes[feed] += len(chunk)
            else:
                merge.end(feed)
        while (runs := merge.pull()) is not None:
            assert len(runs) == len(published(runs)) > 0
            out += published(runs)
    return out


@given(feed_blocks=feeds, says=st.booleans())
def test_any_feeds_come_out_as_a_plain_merge_of_single_records(
    feed_blocks: list[list[list[Key]]], *, says: bool
) -> None:
    assert merge_all(feed_blocks, says=says) == oracle(feed_blocks)


def test_a_block_that_says_it_is_in_order_is_not_looked_through_again() -> None:
    merge = WatermarkMerge(1)
    merge.push(replace(block([(2, 0, 0), (1, 0, 0)]), in_order=True))
    runs = merge.pull()
    assert runs is not None
    assert runs.key_ts_ns.tolist() == [2, 1]


@given(feeds)
def test_the_key_times_of_the_runs_never_decrease(feed_blocks: list[list[list[Key]]]) -> None:
    merge = WatermarkMerge(len(feed_blocks))
    for feed, blocks in enumerate(feed_blocks):
        for chunk in blocks:
            merge.push(block(chunk, feed=feed))
        merge.end(feed)
    last = 0
    while (runs := merge.pull()) is not None:
        times = runs.key_ts_ns.tolist()
        assert times == sorted(times)
        assert times[0] >= last
        last = times[-1]
    assert merge.done


def test_trades_precede_depth_where_the_whole_key_ties() -> None:
    tie = (5, 6, 7)
    assert merge_all([[[tie]], [[(5, 6, 6), tie]]]) == [(1, 0), (0, 0), (1, 1)]


def test_a_tie_across_the_end_of_a_block_waits_for_the_feed_that_goes_first() -> None:
    merge = WatermarkMerge(2)
    merge.push(block([(1, 0, 0)], feed=0))
    merge.push(block([(1, 0, 0), (2, 0, 0)], feed=1))
    runs = merge.pull()
    assert runs is not None
    assert published(runs) == [(0, 0)]
    assert merge.pull() is None
    assert merge.waiting_for() == [0]


def test_a_silent_feed_holds_everything_back_until_it_speaks_or_ends() -> None:
    merge = WatermarkMerge(2)
    merge.push(block([(1, 0, 0)], feed=0))
    assert merge.pull() is None
    assert merge.waiting_for() == [1]
    merge.end(1)
    runs = merge.pull()
    assert runs is not None
    assert published(runs) == [(0, 0)]


def test_feeds_that_are_all_empty_are_done_without_a_row() -> None:
    merge = WatermarkMerge(3)
    for feed in range(3):
        merge.push(block([], feed=feed))
        merge.end(feed)
    assert merge.pull() is None
    assert merge.done


def test_a_record_that_steps_back_keeps_its_place_in_its_file() -> None:
    assert merge_all([[[(10, 0, 0), (3, 0, 0), (11, 0, 0)]], [[(4, 0, 0), (10, 1, 0)]]]) == [
        (1, 0),
        (0, 0),
        (0, 1),
        (1, 1),
        (0, 2),
    ]


def test_a_step_back_across_blocks_keeps_its_place_too() -> None:
    assert merge_all([[[(10, 0, 0)], [(3, 0, 0)]], [[(4, 0, 0), (12, 0, 0)]]]) == [
        (1, 0),
        (0, 0),
        (0, 1),
        (1, 1),
    ]


def test_rows_equal_in_every_field_are_all_kept() -> None:
    same = (1, 1, 1)
    assert merge_all([[[same, same], [same]], [[same]]]) == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_more_blocks_than_the_bound_are_refused_not_held() -> None:
    merge = WatermarkMerge(1)
    for _ in range(MAX_PENDING_BLOCKS):
        assert merge.push(block([(1, 0, 0)]))
    assert merge.room(0) == 0
    assert not merge.push(block([(1, 0, 0)]))


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


def test_more_blocks_than_the_bound_are_refused_not_held_in_order_of_arrival() -> None:
    merge = ArrivalMerge(1)
    for _ in range(MAX_ARRIVED_BLOCKS):
        assert merge.push(block([(1, 0, 0)]))
    assert merge.room(0) == 0
    assert not merge.push(block([(1, 0, 0)]))
