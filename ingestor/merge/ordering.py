"""Merge by watermark: several feeds into one order, without touching a single record.

Every feed hands in blocks whose keys never decrease (`ingestor.model.records`). Of each feed only
the oldest block, its head, takes part. The last key of a head says how far that feed is known: no
later record of that feed is smaller. The smallest of these (key, feed) pairs is the *watermark*:
every row at or before it can be ordered now, for good, by one stable sort, feeds concatenated in
their rank so that trades precede depth where whole keys tie. The head that set the watermark is
then used up, so every step finishes at least one block.

A feed without a head and not ended blocks the merge: nothing is known of it. Nothing else makes it
wait: ended feeds and empty feeds do not count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from ingestor.model.blocks import Block, Int64s, Runs, ranges
from ingestor.model.records import EventType, Keys, RunningKey

MAX_PENDING_BLOCKS: Final = 8
"""Blocks held per feed; beyond that `push` answers False and the ring fills up instead."""

MAX_ARRIVED_BLOCKS: Final = 256
"""Blocks `ArrivalMerge` holds over all feeds; beyond that `push` answers False likewise."""


@dataclass(slots=True)
class _Lane:
    """One feed: its blocks in order, the next row of the oldest, and whether more may come."""

    key: RunningKey = field(default_factory=RunningKey)
    pending: deque[tuple[Block, Keys]] = field(default_factory=deque)
    next_row: int = 0
    ended: bool = False

    @property
    def head(self) -> tuple[Block, Keys] | None:
        return self.pending[0] if self.pending else None

    def advance_to(self, stop: int) -> None:
        self.next_row = stop
        if stop == len(self.pending[0][0].records):
            self.pending.popleft()
            self.next_row = 0


@dataclass(frozen=True, slots=True)
class _Slice:
    """Rows start:stop of one feed's head, all at or before the watermark."""

    block: Block
    keys: Keys
    start: int
    stop: int


class WatermarkMerge:
    """Orders the blocks of `feeds` feeds; feed 0 goes first where keys tie."""

    def __init__(self, feeds: int) -> None:
        self._lanes = [_Lane() for _ in range(feeds)]

    def begin_anew(self) -> None:
        """Forget all blocks: every feed begins again, at another place."""
        self._lanes = [_Lane() for _ in self._lanes]

    def room(self, feed: int) -> int:
        """Return how many more blocks of a feed can be held."""
        return MAX_PENDING_BLOCKS - len(self._lanes[feed].pending)

    def push(self, block: Block) -> bool:
        """Take the next block of its feed; False when `MAX_PENDING_BLOCKS` are held."""
        lane = self._lanes[block.feed]
        if len(lane.pending) >= MAX_PENDING_BLOCKS:
            return False
        if len(block.records):
            # The feed has looked at every key (`Block.in_order`); here the first one is enough.
            keys, _ = lane.key.advance(block.records, in_order=block.in_order)
            lane.pending.append((block, keys))
        return True

    def end(self, feed: int) -> None:
        """Say that nothing more comes from a feed."""
        self._lanes[feed].ended = True

    def waiting_for(self) -> list[int]:
        """Return the feeds that must hand in a block, or end, before anything can be ordered."""
        return [
            feed for feed, lane in enumerate(self._lanes) if lane.head is None and not lane.ended
        ]

    @property
    def done(self) -> bool:
        """Whether all feeds have ended and everything has been pulled."""
        return all(lane.ended and lane.head is None for lane in self._lanes)

    def pull(self) -> Runs | None:
        """Return the next rows in order, or None when more input is needed (or all is done)."""
        if self.waiting_for() or self.done:
            return None
        # Rows of one feed alone need no sort: most of depth, between two blocks of trades.
        heads = [(feed, lane.pending[0]) for feed, lane in enumerate(self._lanes) if lane.pending]
        # By feed too: where whole keys tie, a feed that goes first may still bring one.
        watermark = min((keys.at(-1), feed) for feed, (_, keys) in heads)
        slices = []
        for feed, (block, keys) in heads:
            lane = self._lanes[feed]
            if feed == watermark[1]:
                stop = len(keys)
            else:
                # A tie belongs before the watermark only of feeds that go before its own.
                stop = _rows_until(keys, watermark[0], inclusive=feed < watermark[1])
            if stop > lane.next_row:
                slices.append(_Slice(block, keys, lane.next_row, stop))
                lane.advance_to(stop)
        return _one_run(slices[0]) if len(slices) == 1 else _ordered(slices)


def _rows_until(keys: Keys, limit: tuple[int, int, int], *, inclusive: bool) -> int:
    """Return how many leading keys are below `limit`, or at it if `inclusive`."""
    low, high = 0, len(keys)
    for column, value in zip((keys.ts_event_ns, keys.ts_recv_ns), limit, strict=False):
        window = column[low:high]
        # A Python int would make NumPy search in float64, which has 53 bits.
        bound = np.uint64(value)
        low, high = (
            low + int(np.searchsorted(window, bound, "left")),
            low + int(np.searchsorted(window, bound, "right")),
        )
    side: Literal["left", "right"] = "right" if inclusive else "left"
    return low + int(np.searchsorted(keys.sequence[low:high], np.uint64(limit[2]), side))


def _one_run(only: _Slice) -> Runs:
    return Runs(
        [only.block],
        np.zeros(1, np.int64),
        np.array([only.start], np.int64),
        np.array([only.stop], np.int64),
        only.keys.ts_event_ns[only.start : only.stop].view(np.int64),
    )


def _ordered(slices: Sequence[_Slice]) -> Runs:
    event, recv, sequence = (
        np.concatenate([getattr(part.keys, name)[part.start : part.stop] for part in slices])
        for name in ("ts_event_ns", "ts_recv_ns", "sequence")
    )
    # Stable, and the slices stand in the order of their feeds: ties come out by rank.
    order = np.lexsort((sequence, recv, event))
    lengths = np.array([part.stop - part.start for part in slices])
    offsets = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(slices)), lengths)[order]
    # Owner, first and last position of every stretch of equal owners.
    changes = np.flatnonzero(owner[1:] != owner[:-1])
    first = np.concatenate(([0], changes + 1))
    last = np.concatenate((changes, [len(owner) - 1]))
    block_of_run = owner[first]
    # From a row of the concatenation to a row of its block.
    shift = np.array([part.start for part in slices]) - offsets
    return Runs(
        [part.block for part in slices],
        block_of_run,
        order[first] + shift[block_of_run],
        order[last] + shift[block_of_run] + 1,
        event[order].astype(np.int64),
    )


class ArrivalMerge:
    """The blocks of `feeds` feeds as they are pushed: what a live run publishes in.

    The same interface as `WatermarkMerge`, without waiting: what has arrived is ready.
    """

    def __init__(self, feeds: int) -> None:
        self._open = set(range(feeds))
        self._pending: list[Block] = []

    def begin_anew(self) -> None:
        """Forget all blocks; feeds that have ended have."""
        self._pending = []

    def room(self, feed: int) -> int:
        """Return how many more blocks of an open feed can be held."""
        return MAX_ARRIVED_BLOCKS - len(self._pending) if feed in self._open else 0

    def push(self, block: Block) -> bool:
        """Take a block; False when `MAX_ARRIVED_BLOCKS` are held."""
        if len(self._pending) >= MAX_ARRIVED_BLOCKS:
            return False
        # A feed's sign of life has no rows, and runs are never empty.
        if len(block.records):
            self._pending.append(block)
        return True

    def end(self, feed: int) -> None:
        """Say that nothing more comes from a feed."""
        self._open.discard(feed)

    @property
    def done(self) -> bool:
        """Whether all feeds have ended and everything has been pulled."""
        return not self._open and not self._pending

    def pull(self) -> Runs | None:
        """Return all rows that have come in, or None when there are none."""
        if not self._pending:
            return None
        blocks, self._pending = self._pending, []
        return Runs(
            blocks,
            np.arange(len(blocks), dtype=np.int64),
            np.zeros(len(blocks), np.int64),
            np.array([len(block.records) for block in blocks], np.int64),
            np.concatenate([block.records["ts_event_ns"].astype(np.int64) for block in blocks]),
        )


class SkipRows:
    """Drops the first `rows` rows of each event type from the runs that pass."""

    def __init__(self, rows: Mapping[EventType, int]) -> None:
        self._left = {int(kind.rtype): count for kind, count in rows.items() if count > 0}

    @property
    def done(self) -> bool:
        """Whether all that was stored before has been dropped."""
        return not self._left

    def rest(self, runs: Runs) -> Runs:
        """Return what of the next runs is not dropped, in their order; perhaps nothing."""
        if self.done:
            return runs
        counts = runs.counts_by_rtype()
        drops = {rtype: min(count, self._left.get(rtype, 0)) for rtype, count in counts.items()}
        self._left = {
            rtype: left
            for rtype, count in self._left.items()
            if (left := count - drops.get(rtype, 0)) > 0
        }
        # All of most blocks is dropped, and of the others nothing: one alone is cut.
        if drops == counts:
            return runs.part(0, 0)
        return _kept(runs, drops) if any(drops.values()) else runs


def _kept(runs: Runs, drops: Mapping[int, int]) -> Runs:
    """Return the rows behind the first `drops` of each type, each as a run of its own."""
    block_of_row = np.repeat(runs.block_of_run, runs.stop - runs.start)
    row = ranges(runs.start, runs.stop)
    rtypes = np.concatenate([records["rtype"] for _, records in runs.pieces()])
    kept = np.ones(len(runs), bool)
    for rtype, count in drops.items():
        kept[np.flatnonzero(rtypes == rtype)[:count]] = False
    start: Int64s = row[kept]
    return Runs(runs.blocks, block_of_row[kept], start, start + 1, runs.key_ts_ns[kept])
