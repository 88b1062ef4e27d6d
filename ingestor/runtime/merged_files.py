"""One feed of files that overlap in time: several sources merged into one.

A delivery split by symbol has many files of the same day. Each is a lane with its own order; their
merge is the one that also orders the feeds of a run (`ingestor.merge.watermark`), done here in the
feed's process, so that the number of processes does not grow with the number of files. A lane
hands in its next block only when the one before is used up, so no block is copied before its rows
are gathered, and memory is one buffer a lane.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

import numpy as np

from ingestor.merge.watermark import WatermarkMerge
from ingestor.model.blocks import Block, Int64s, Runs
from ingestor.model.errors import IngestorError
from ingestor.model.symbols import SymbolTable
from ingestor.runtime.feed_process import FeedSource

MIN_LANE_BYTES: Final = 64 * 1024
"""A lane's block is never smaller, since a step of the merge costs the same for few rows."""


def lane_bytes(block_bytes: int, lanes: int) -> int:
    """Return how large the blocks of each of so many lanes are."""
    return min(block_bytes, max(MIN_LANE_BYTES, block_bytes // lanes))


@dataclass(frozen=True, slots=True)
class MergedProgress:
    """How far all lanes have come, taken together."""

    bytes_total: int
    bytes_read: int
    skipped: dict[str, int]
    late: int


@dataclass(eq=False, slots=True)
class MergedFiles:
    """Merges `lanes`, each of which yields records of one dtype, into blocks of `block_bytes`.

    Where keys tie, the lane that stands first goes first. A lane that breaks ends; the others are
    read to their end, and then its error is raised. `at_end` may raise what concerns all of them.
    """

    lanes: Sequence[FeedSource]
    block_bytes: int
    at_end: Callable[[], None] = lambda: None
    _tables: _Tables = field(init=False)

    def __post_init__(self) -> None:
        self._tables = _Tables()

    @property
    def progress(self) -> MergedProgress:
        """The sums of the lanes' counts."""
        each = [lane.progress for lane in self.lanes]
        skipped: dict[str, int] = {}
        for progress in each:
            for cause, count in progress.skipped.items():
                skipped[cause] = skipped.get(cause, 0) + count
        return MergedProgress(
            sum(progress.bytes_total for progress in each),
            sum(progress.bytes_read for progress in each),
            skipped,
            sum(progress.late for progress in each),
        )

    def blocks(self) -> Iterator[Block]:
        """Yield blocks in order, empty ones as signs of life; each is valid until the next."""
        merge = WatermarkMerge(len(self.lanes))
        runs = [lane.blocks() for lane in self.lanes]
        broken: IngestorError | None = None
        while not merge.done:
            for lane in merge.waiting_for():
                try:
                    block = next(runs[lane], None)
                except IngestorError as error:
                    broken, block = broken or error, None
                if block is None:
                    merge.end(lane)
                    continue
                merge.push(replace(block, feed=lane))
                yield replace(block, records=block.records[:0])
            ordered = merge.pull()
            if ordered is not None:
                yield from self._joined(ordered)
        if broken is not None:
            raise broken
        self.at_end()

    def _joined(self, runs: Runs) -> Iterator[Block]:
        table = self._tables.joined(runs.blocks)
        if table is None or len(runs.start) == 1:
            for block, records in runs.pieces():
                symbols = block.symbols if table is None else table
                yield Block(0, records, symbols, block.source, block.in_order)
            return
        records = _gathered(runs)
        step = max(1, self.block_bytes // records.itemsize)
        for start in range(0, len(records), step):
            yield Block(0, records[start : start + step], table, runs.blocks[0].source)


class _Tables:
    """Symbol tables of all lanes as one, which grows until an instrument gets another symbol."""

    def __init__(self) -> None:
        self._whole: dict[int, str] = {}
        self._known: dict[int, tuple[SymbolTable, int]] = {}

    def joined(self, blocks: Sequence[Block]) -> SymbolTable | None:
        """Return one table for all; None where they give an instrument different symbols."""
        if not all(map(self._add, blocks)):
            self._whole, self._known = {}, {}
            if not all(map(self._add, blocks)):
                self._whole, self._known = {}, {}
                return None
        return self._whole

    def _add(self, block: Block) -> bool:
        """Add what is new in a block's table; False when it contradicts what is there."""
        table, count = self._known.get(block.feed, ({}, 0))
        if table is not block.symbols:
            table, count = block.symbols, 0
        if count < len(table):
            for instrument, symbol in islice(table.items(), count, None):
                if self._whole.setdefault(instrument, symbol) != symbol:
                    return False
            self._known[block.feed] = table, len(table)
        return True


def _gathered(runs: Runs) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return a copy of the rows in their order."""
    low = np.full(len(runs.blocks), np.iinfo(np.int64).max)
    high = np.zeros(len(runs.blocks), np.int64)
    np.minimum.at(low, runs.block_of_run, runs.start)
    np.maximum.at(high, runs.block_of_run, runs.stop)
    low = np.minimum(low, high)
    parts = [
        block.records[first:last]
        for block, first, last in zip(runs.blocks, low.tolist(), high.tolist(), strict=True)
    ]
    lengths = high - low
    shift = (np.cumsum(lengths) - lengths - low)[runs.block_of_run]
    rows = _ranges(runs.start + shift, runs.stop + shift)
    gathered: np.ndarray[tuple[int], np.dtype[np.void]] = np.concatenate(parts)[rows]
    return gathered


def _ranges(start: Int64s, stop: Int64s) -> Int64s:
    lengths = stop - start
    return np.arange(int(lengths.sum())) + np.repeat(stop - np.cumsum(lengths), lengths)
