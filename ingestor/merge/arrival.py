"""Order of arrival: what a live run publishes in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ingestor.blocks import Block, Runs


def in_order_of_arrival(blocks: Sequence[Block]) -> Runs:
    """Return all rows of non-empty blocks, one after the other."""
    filled = [block for block in blocks if len(block.records)]
    stop = np.array([len(block.records) for block in filled], np.int64)
    times = [block.records["ts_event_ns"].astype(np.int64) for block in filled]
    return Runs(
        filled,
        np.arange(len(filled), dtype=np.int64),
        np.zeros(len(filled), np.int64),
        stop,
        np.concatenate(times) if times else np.empty(0, np.int64),
    )
