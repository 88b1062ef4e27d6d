"""Order of arrival: what a live run publishes in.

The same interface as the watermark merge, and none of its waiting: whatever has come in is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ingestor.model.blocks import Block, Runs

MAX_PENDING_BLOCKS: Final = 256
"""Blocks held over all feeds; beyond that `push` answers False and the rings fill up instead."""


class ArrivalMerge:
    """Orders the blocks of `feeds` feeds as they are pushed."""

    def __init__(self, feeds: int) -> None:
        self._open = set(range(feeds))
        self._pending: list[Block] = []

    def room(self, feed: int) -> int:
        """Return how many more blocks of an open feed can be held."""
        return MAX_PENDING_BLOCKS - len(self._pending) if feed in self._open else 0

    def push(self, block: Block) -> bool:
        """Take a block; False when `MAX_PENDING_BLOCKS` are held."""
        if len(self._pending) >= MAX_PENDING_BLOCKS:
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
        return _one_after_the_other(blocks)


def _one_after_the_other(blocks: Sequence[Block]) -> Runs:
    return Runs(
        blocks,
        np.arange(len(blocks), dtype=np.int64),
        np.zeros(len(blocks), np.int64),
        np.array([len(block.records) for block in blocks], np.int64),
        np.concatenate([block.records["ts_event_ns"].astype(np.int64) for block in blocks]),
    )
