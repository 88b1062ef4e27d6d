"""Records that make no sense: which they are, and why.

Skipped are times that are undefined or beyond int64 nanoseconds (no consumer could place them)
and trades without a price. Everything else a venue may mean: a size of 0, a price below zero,
a crossed book, a depth record whose action has no price (clear, or a side that went empty).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ingestor.model.records import FUTURES_TRADE, Records
from ingestor.model.units import INT64_MAX, UNDEF_PRICE

Mask = npt.NDArray[np.bool_]

_LAST_NS = np.uint64(INT64_MAX)


def nonsense(records: Records) -> Iterator[tuple[str, Mask]]:
    """Yield each cause that occurs, with a mask of the records it concerns.

    `records` are FUTURES_TRADE or MBP10, at least one.
    """
    for name in ("ts_event", "ts_recv"):
        times = records[f"{name}_ns"]
        if times.max() > _LAST_NS:
            yield f"{name} undefined or out of range", times > _LAST_NS
    if records.dtype == FUTURES_TRADE:
        prices = records["price_e9"]
        if prices.max() == UNDEF_PRICE:
            yield "trade without a price", prices == UNDEF_PRICE
