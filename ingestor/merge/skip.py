"""Leaving out what is stored already: the first rows of each type, of runs in publishing order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ingestor.model.blocks import Int64s, Runs
from ingestor.model.records import EventType


class SkipRows:
    """Drops the first `rows` rows of each event type from the runs that pass."""

    def __init__(self, rows: Mapping[EventType, int]) -> None:
        self._left = {int(kind.rtype): count for kind, count in rows.items() if count > 0}

    @property
    def done(self) -> bool:
        """Whether everything that is to be dropped has been."""
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
    """Return the rows that follow the first so many of each type, each as a run of its own."""
    lengths = runs.stop - runs.start
    block_of_row = np.repeat(runs.block_of_run, lengths)
    row = np.arange(len(runs)) + np.repeat(runs.start - (np.cumsum(lengths) - lengths), lengths)
    rtypes = np.concatenate([records["rtype"] for _, records in runs.pieces()])
    kept = np.ones(len(runs), bool)
    for rtype, count in drops.items():
        kept[np.flatnonzero(rtypes == rtype)[:count]] = False
    start: Int64s = row[kept]
    return Runs(runs.blocks, block_of_row[kept], start, start + 1, runs.key_ts_ns[kept])
