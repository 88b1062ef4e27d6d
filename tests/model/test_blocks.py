from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Runs, Source, ranges, whole_block
from ingestor.model.records import STOCK_TRADE, RType
from tests.rows import block, published

pieces = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=8)


def runs_over(lengths: list[tuple[int, int]]) -> Runs:
    """Runs of these (block, length), each block's rows used up in order."""
    used = [0, 0, 0]
    triples = []
    for index, length in lengths:
        triples.append((index, used[index], used[index] + length))
        used[index] += length
    blocks = [block([(i, 0, 0) for i in range(count)], feed=f) for f, count in enumerate(used)]
    at = np.array(triples, np.int64).reshape(-1, 3)
    return Runs(blocks, at[:, 0], at[:, 1], at[:, 2], np.arange(sum(used), dtype=np.int64))


@given(pieces, st.integers(-2, 40))
def test_both_parts_of_a_split_put_together_are_the_whole(
    lengths: list[tuple[int, int]], rows: int
) -> None:
    whole = runs_over(lengths)
    head, tail = whole.split(rows)
    assert published(head) + published(tail) == published(whole)
    assert len(head) == len(published(head)) == min(max(rows, 0), len(whole))
    assert [*head.key_ts_ns, *tail.key_ts_ns] == list(range(len(whole)))
    assert all((part.stop > part.start).all() for part in (head, tail))


@given(pieces, st.integers(-2, 40), st.integers(-2, 40))
def test_a_part_holds_the_rows_between_two_places(
    lengths: list[tuple[int, int]], first: int, last: int
) -> None:
    whole = runs_over(lengths)
    part = whole.part(first, last)
    assert published(part) == published(whole)[max(first, 0) : max(last, 0)]
    assert (part.stop > part.start).all()
    assert part.key_ts_ns.tolist() == list(range(len(whole)))[max(first, 0) : max(last, 0)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_ranges_follow_each_other_in_one_array(spans: list[tuple[int, int]]) -> None:
    start = np.array([first for first, _ in spans], np.int64)
    stop = start + np.array([length for _, length in spans], np.int64)
    expected = [at for first, length in spans for at in range(first, first + length)]
    assert ranges(start, stop).tolist() == expected


@given(pieces)
def test_rows_are_counted_by_rtype(lengths: list[tuple[int, int]]) -> None:
    runs = runs_over(lengths)
    assert sum(runs.counts_by_rtype().values()) == len(runs)


@given(pieces)
def test_rows_are_gathered_in_their_order(lengths: list[tuple[int, int]]) -> None:
    runs = runs_over(lengths)
    rows = b"".join(records.tobytes() for _, records in runs.pieces())
    assert runs.gathered().tobytes() == rows


def test_the_ends_of_runs_tell_their_event_times() -> None:
    blocks = [block([(5, 0, 0), (7, 0, 0), (8, 0, 0)]), block([(6, 0, 0)])]
    at = np.array([[0, 1, 2], [1, 0, 1], [0, 2, 3]], np.int64)
    runs = Runs(blocks, at[:, 0], at[:, 1], at[:, 2], np.array([7, 7, 8]))
    assert (runs.event_ns(0), runs.event_ns(-1)) == (7, 8)
    assert (runs.part(0, 2).event_ns(0), runs.part(0, 2).event_ns(-1)) == (7, 6)


def test_trades_and_quotes_of_one_block_are_counted_apart() -> None:
    rows = np.zeros(5, STOCK_TRADE)
    rows["rtype"] = [RType.STOCK_TRADE, RType.STOCK_QUOTE, RType.STOCK_QUOTE, RType.STOCK_TRADE, 0]
    runs = whole_block(Block(0, rows, {}, Source.SIM))
    head, _ = runs.split(4)
    assert head.counts_by_rtype() == {RType.STOCK_TRADE: 2, RType.STOCK_QUOTE: 2}


def test_a_whole_block_is_one_run_of_all_its_rows() -> None:
    one: Block = block([(5, 0, 0), (7, 0, 0)], feed=2)
    runs = whole_block(one)
    assert published(runs) == [(2, 0), (2, 1)]
    assert runs.key_ts_ns.tolist() == [5, 7]


def test_an_empty_block_has_no_run() -> None:
    assert published(whole_block(block([]))) == []
