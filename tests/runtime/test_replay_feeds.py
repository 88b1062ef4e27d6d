"""Files that overlap in time, read as one feed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, NoDataError
from ingestor.model.records import Records
from ingestor.model.symbols import SymbolTable
from ingestor.runtime.replay_feeds import MIN_LANE_BYTES, MergedFiles, lane_bytes
from tests.dbn_files import trades

BLOCK_BYTES = 480
Times = list[tuple[int, int]]


@dataclass
class Counts:
    bytes_total: int = 10
    bytes_read: int = 0
    skipped: Mapping[str, int] = field(default_factory=lambda: {"odd": 1})
    late: int = 2


@dataclass
class Lane:
    """Hands out records some at a time, each time in the same memory, and may break at its end."""

    records: Records
    symbols: SymbolTable
    rows: int = 3
    error: Exception | None = None
    progress: Counts = field(default_factory=Counts)
    started_at: int | None = None
    span: tuple[int, int] | None = None

    def start_at(self, at_ns: int | None) -> None:
        self.started_at = at_ns

    def span_ns(self) -> tuple[int, int] | None:
        return self.span

    def blocks(self) -> Iterator[Block]:
        memory: Records = np.empty(self.rows, self.records.dtype)
        for start in range(0, len(self.records), self.rows):
            part = self.records[start : start + self.rows]
            memory[: len(part)] = part
            yield Block(0, memory[: len(part)], self.symbols, Source.REPLAY)
            yield Block(0, memory[:0], {}, Source.REPLAY)
        self.progress.bytes_read = 10
        if self.error is not None:
            raise self.error


def lane(number: int, times: Times, symbol: str | None = None, instrument: int = 0) -> Lane:
    records = trades(len(times))
    records["ts_event_ns"] = [event for event, _ in times]
    records["ts_recv_ns"] = [recv for _, recv in times]
    records["sequence"] = np.arange(len(times)) + 1000 * number
    records["instrument_id"] = instrument or number
    return Lane(records, {instrument or number: symbol or f"S{number}"})


def read(merged: MergedFiles) -> list[tuple[int, str]]:
    """The sequence and the symbol of each row."""
    return [
        (int(row["sequence"]), block.symbols[int(row["instrument_id"])])
        for block in merged.blocks()
        for row in block.records
    ]


def plainly(lanes: list[Lane]) -> list[tuple[int, str]]:
    """Each record under the largest key of its lane so far; the lane decides where keys tie."""

    def keyed(number: int, one: Lane) -> Iterator[tuple[tuple[int, ...], int, int, str]]:
        key: tuple[int, ...] = (0, 0, 0)
        for place, row in enumerate(one.records):
            own = tuple(int(row[name]) for name in ("ts_event_ns", "ts_recv_ns", "sequence"))
            key = max(key, own)
            yield key, number, place, one.symbols[int(row["instrument_id"])]

    order = heapq.merge(*(keyed(number, one) for number, one in enumerate(lanes)))
    return [
        (int(lanes[number].records[place]["sequence"]), symbol)
        for _, number, place, symbol in order
    ]


TIMES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=15)


@given(lanes=st.lists(TIMES, min_size=1, max_size=5), one_number=st.booleans())
def test_lanes_are_merged_as_the_contract_says(*, lanes: list[Times], one_number: bool) -> None:
    """Also where lanes step back in time, or give one instrument number different symbols."""
    instrument = 7 if one_number else 0
    made = [lane(number, times, instrument=instrument) for number, times in enumerate(lanes, 1)]
    assert read(MergedFiles(made, BLOCK_BYTES)) == plainly(made)


def test_blocks_are_bounded_and_share_a_table_while_nothing_changes() -> None:
    made = [lane(number, [(at, 0) for at in range(100)]) for number in (1, 2, 3)]
    blocks = [block for block in MergedFiles(made, BLOCK_BYTES).blocks() if len(block.records)]
    assert max(block.records.nbytes for block in blocks) <= BLOCK_BYTES
    assert len({id(block.symbols) for block in blocks if len(block.symbols) > 1}) == 1
    assert blocks[0].symbols == {1: "S1", 2: "S2", 3: "S3"}


def test_a_table_that_grows_is_joined_again() -> None:
    made = [lane(number, [(at, 0) for at in range(20)]) for number in (1, 2)]
    table = {1: "S1"}
    made[0].symbols = table
    blocks = MergedFiles(made, BLOCK_BYTES).blocks()
    seen = []
    for number, each in enumerate(each for each in blocks if len(each.records)):
        seen.append((id(each.symbols), list(each.symbols.values())))
        table.update({5: "S5"} if number == 2 else {})
    assert len({table_id for table_id, _ in seen}) == 1
    assert seen[1][1] == ["S1", "S2"]
    assert seen[-1][1] == ["S1", "S2", "S5"]


def test_a_lane_that_breaks_costs_its_own_rest_and_is_told_at_the_end() -> None:
    made = [lane(number, [(at, 0) for at in range(10)]) for number in (1, 2)]
    made[0].records = made[0].records[:4]
    made[0].error = BadDataError("cut")
    found: list[int] = []
    with pytest.raises(BadDataError, match="cut"):
        found.extend(
            sequence
            for block in MergedFiles(made, BLOCK_BYTES).blocks()
            for sequence in block.records["sequence"].tolist()
        )
    assert sorted(found) == [*range(1000, 1004), *range(2000, 2010)]


def test_what_concerns_all_lanes_is_raised_after_all_of_them() -> None:
    def check() -> None:
        raise NoDataError("no such symbol")

    rows: list[int] = []
    blocks = MergedFiles([lane(1, [(1, 1)])], BLOCK_BYTES, check).blocks()
    with pytest.raises(NoDataError, match="no such symbol"):
        rows.extend(len(block.records) for block in blocks)
    assert sum(rows) == 1


def test_the_span_is_that_of_all_lanes_together_if_each_has_one() -> None:
    one, other = lane(1, [(1, 1)]), lane(2, [(2, 2)])
    one.span = (3, 7)
    assert MergedFiles([one, other], 1 << 16).span_ns() is None
    other.span = (2, 5)
    assert MergedFiles([one, other], 1 << 16).span_ns() == (2, 7)


def test_progress_is_the_sum_of_the_lanes() -> None:
    merged = MergedFiles([lane(1, [(1, 1)]), lane(2, [(2, 2)])], BLOCK_BYTES)
    read(merged)
    progress = merged.progress
    assert (progress.bytes_total, progress.bytes_read) == (20, 20)
    assert (progress.skipped, progress.late) == ({"odd": 2}, 4)


def test_the_buffers_of_many_lanes_take_no_more_than_that_of_one_until_they_are_small() -> None:
    assert lane_bytes(1_044_480, 1) == 1_044_480
    assert lane_bytes(1_044_480, 4) == 261_120
    assert lane_bytes(1_044_480, 256) == MIN_LANE_BYTES
    assert lane_bytes(4_096, 256) == 4_096
