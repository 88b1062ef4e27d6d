"""How late events were sent: a histogram of fixed size, good to 1/16 of the value."""

from __future__ import annotations

from typing import Final

import numpy as np

from ingestor.model.blocks import Int64s

_STEPS_PER_OCTAVE: Final = 16
_OCTAVES: Final = 48
"""Values up to 2**48 ns (three days) are told apart; later ones count as that."""


class LatenessHistogram:
    """Counts non-negative durations in ns in buckets that grow by 2**(1/16)."""

    def __init__(self) -> None:
        self._counts = np.zeros(_OCTAVES * _STEPS_PER_OCTAVE + 1, np.int64)

    def add(self, lateness_ns: Int64s) -> None:
        """Count each value; a negative one (early) counts as 0."""
        octaves = np.log2(np.maximum(lateness_ns, 1))
        bucket = np.minimum(np.ceil(octaves * _STEPS_PER_OCTAVE), len(self._counts) - 1)
        self._counts += np.bincount(bucket.astype(np.int64), minlength=len(self._counts))

    def percentile_ns(self, percent: float) -> int | None:
        """Return the upper edge of the bucket that holds the percentile; None when empty."""
        total = int(self._counts.sum())
        if not total:
            return None
        rank = max(1, int(np.ceil(total * percent / 100)))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return int(2 ** (bucket / _STEPS_PER_OCTAVE))
