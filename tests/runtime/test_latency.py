from __future__ import annotations

import os
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.merge.ordering import ArrivalMerge
from ingestor.runtime.latency import (
    BUCKETS,
    MAX_HELD,
    MAX_LATENCY_NS,
    STEPS_PER_OCTAVE,
    Hop,
    LatencyTable,
    PublisherLatencies,
    bucket_of,
    edges_ns,
    together,
)
from tests.rows import block

LATENCIES = st.lists(st.integers(1, MAX_LATENCY_NS), min_size=1, max_size=50)


def table_of(latencies: list[int]) -> LatencyTable:
    table = LatencyTable(2)
    recorder = table.recorder(1, Hop.PUBLISH_TO_STORED)
    recorder.add_each(np.array(latencies, np.int64))
    recorder.flush()
    return table


@given(st.integers(1, MAX_LATENCY_NS))
def test_a_latency_is_below_the_edge_of_its_bucket_and_not_below_that_before(ns: int) -> None:
    [bucket] = bucket_of(np.array([ns])).tolist()
    edges = edges_ns()
    assert ns < edges[bucket]
    assert bucket == 0 or edges[bucket - 1] <= ns


def test_buckets_reach_from_the_first_to_the_last_latency() -> None:
    assert bucket_of(np.array([1, MAX_LATENCY_NS])).tolist() == [0, BUCKETS - 1]


@given(LATENCIES, st.sampled_from([0.5, 0.9, 0.99, 0.999, 1.0]))
def test_a_quantile_is_right_to_a_sixteenth(latencies: list[int], share: float) -> None:
    counted = table_of(latencies).read(1, Hop.PUBLISH_TO_STORED)
    exact = sorted(latencies)[max(1, int(np.ceil(len(latencies) * share))) - 1]
    answer = counted.quantile_ns(share)
    assert answer is not None
    assert exact <= answer <= exact * (1 + 1 / STEPS_PER_OCTAVE) + 1
    assert (counted.rows, counted.max_ns) == (len(latencies), max(latencies))
    assert counted.sum_ns == sum(latencies)


def test_nothing_counted_has_no_quantile() -> None:
    counted = LatencyTable(1).read(0, Hop.DUE_TO_SENT)
    assert (counted.rows, counted.quantile_ns(0.5), counted.max_ns) == (0, None, 0)


@pytest.mark.parametrize(("ns", "counts_as"), [(-5_000, 1), (0, 1), (2**60, MAX_LATENCY_NS)])
def test_what_lies_outside_counts_as_the_nearest(ns: int, counts_as: int) -> None:
    assert table_of([ns]).read(1, Hop.PUBLISH_TO_STORED).max_ns == counts_as


def test_rows_that_took_equally_long_are_counted_each() -> None:
    table = LatencyTable(1)
    recorder = table.recorder(0, Hop.RECEIVE_TO_RING)
    recorder.add(1_000, 99)
    recorder.add(9_000, 1)
    recorder.flush()
    counted = table.read(0, Hop.RECEIVE_TO_RING)
    assert (counted.rows, counted.sum_ns, counted.max_ns) == (100, 108_000, 9_000)
    assert counted.quantile_ns(0.99) == pytest.approx(1_000, rel=1 / STEPS_PER_OCTAVE)


def test_processes_and_hops_do_not_mix() -> None:
    table = table_of([5])
    others = [table.read(process, hop).rows for process in (0, 1) for hop in Hop]
    assert others == [0] * 8 + [1] + [0]


def test_what_is_held_is_bounded_and_shown_at_the_bound() -> None:
    table = LatencyTable(1)
    one, each = (table.recorder(0, hop) for hop in (Hop.RECEIVE_TO_RING, Hop.DUE_TO_SENT))
    for at in range(MAX_HELD):
        assert table.read(0, Hop.RECEIVE_TO_RING).rows == 0, at
        one.add(7, 2)
    assert table.read(0, Hop.RECEIVE_TO_RING).rows == 2 * MAX_HELD
    each.add_each(np.full(MAX_HELD - 1, 7))
    assert table.read(0, Hop.DUE_TO_SENT).rows == 0
    each.add_each(np.full(1, 7))
    assert table.read(0, Hop.DUE_TO_SENT).rows == MAX_HELD


def test_a_flush_counts_once() -> None:
    table = LatencyTable(1)
    recorder = table.recorder(0, Hop.DUE_TO_SENT)
    recorder.add(3, 1)
    recorder.add_each(np.array([4, 5]))
    recorder.add_each(np.array([], np.int64))
    recorder.flush()
    recorder.flush()
    assert table.read(0, Hop.DUE_TO_SENT).rows == 3


def test_what_another_process_counts_is_read_here() -> None:
    table = LatencyTable(1)
    if not (child := os.fork()):
        recorder = table.recorder(0, Hop.DUE_TO_SENT)
        recorder.add(1_000, 5)
        recorder.flush()
        os._exit(0)
    os.waitpid(child, 0)
    assert table.read(0, Hop.DUE_TO_SENT).rows == 5


@given(LATENCIES, LATENCIES)
def test_what_is_counted_after_a_look_is_the_difference(
    before: list[int], after: list[int]
) -> None:
    table = table_of(before)
    earlier = table.read(1, Hop.PUBLISH_TO_STORED)
    recorder = table.recorder(1, Hop.PUBLISH_TO_STORED)
    recorder.add_each(np.array(after, np.int64))
    recorder.flush()
    since = table.read(1, Hop.PUBLISH_TO_STORED).since(earlier)
    assert (since.rows, since.sum_ns) == (len(after), sum(after))
    assert max(after) <= since.max_ns <= max(after) * (1 + 1 / STEPS_PER_OCTAVE) + 1


@given(LATENCIES, LATENCIES)
def test_histograms_together_count_all(first: list[int], second: list[int]) -> None:
    each = [table_of(one).read(1, Hop.PUBLISH_TO_STORED) for one in (first, second)]
    whole = together(each)
    assert (whole.rows, whole.max_ns) == (len(first + second), max(first + second))
    assert whole.sum_ns == sum(first + second)


@given(LATENCIES)
def test_by_octave_counts_what_is_below_each_power_of_two(latencies: list[int]) -> None:
    octaves = table_of(latencies).read(1, Hop.PUBLISH_TO_STORED).by_octave()
    assert octaves[0][0] == 2
    assert octaves[-1] == (MAX_LATENCY_NS + 1, len(latencies))
    for edge_ns, rows in octaves:
        assert rows == sum(ns < edge_ns for ns in latencies)


def test_rows_are_timed_from_the_hand_over_they_came_with_until_they_are_stored() -> None:
    table = LatencyTable(1)
    latencies = PublisherLatencies(table, 0)
    now_ns = time.monotonic_ns()
    latencies.under_way.extend([(3, now_ns - 10**11), (2, now_ns)])
    latencies.on_stored(2)
    assert latencies.under_way[0] == (1, now_ns - 10**11)
    latencies.on_stored(2)
    latencies.flush()
    stored = table.read(0, Hop.PUBLISH_TO_STORED)
    assert stored.rows == 4
    assert list(latencies.under_way) == [(1, now_ns)]
    # Three of the first hand-over took a hundred seconds, one of the second next to nothing.
    within_ns, most_ns = stored.quantile_ns(0.25), stored.max_ns
    assert within_ns is not None
    assert within_ns < 50 * 10**9 < 10**11 <= most_ns


def test_more_rows_are_never_stored_than_are_under_way() -> None:
    table = LatencyTable(1)
    latencies = PublisherLatencies(table, 0)
    latencies.under_way.append((2, time.monotonic_ns()))
    latencies.on_stored(5)
    latencies.flush()
    assert table.read(0, Hop.PUBLISH_TO_STORED).rows == 2
    assert not latencies.under_way


def test_the_hop_from_the_ring_ends_where_the_one_to_the_stream_begins() -> None:
    table = LatencyTable(1)
    latencies = PublisherLatencies(table, 0)
    put_ns = time.monotonic_ns() - 10**9
    for one in (replace(block([(1, 1, 1), (2, 2, 2)]), put_ns=put_ns), block([(3, 3, 3)])):
        merge = ArrivalMerge(1)
        merge.push(one)
        runs = merge.pull()
        assert runs is not None
        latencies.on_handed(runs)
    (rows, handed_ns), of_a_file = latencies.under_way
    latencies.flush()
    from_ring = table.read(0, Hop.RING_TO_PUBLISH)
    assert (rows, of_a_file[0], from_ring.rows) == (2, 1, 2)
    assert from_ring.max_ns == handed_ns - put_ns
