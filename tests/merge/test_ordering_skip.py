"""Rows that are stored already are left out of what is published next."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingestor.merge.ordering import SkipRows
from ingestor.model.blocks import Block, Runs, Source
from ingestor.model.records import EVENT_TYPES, EventType

STOCK_TRADE, STOCK_QUOTE = (
    next(kind for kind in EVENT_TYPES if kind.name == name) for name in ("StockTrade", "StockQuote")
)


def runs_of(kinds: list[EventType], cut: int) -> Runs:
    """Rows numbered in `seq`, each of the type that is asked for, as runs of at most `cut` rows."""
    records = np.zeros(len(kinds), STOCK_TRADE.dtype)
    records["rtype"] = [kind.rtype for kind in kinds]
    records["ts_event_ns"] = np.arange(len(kinds))
    start = np.arange(0, len(kinds), cut)
    stop = np.minimum(start + cut, len(kinds))
    block = Block(0, records, {}, Source.REPLAY)
    return Runs([block], np.zeros(len(start), np.int64), start, stop, np.arange(len(kinds)))


def rows(runs: Runs) -> list[int]:
    found = [records["ts_event_ns"].tolist() for _, records in runs.pieces()]
    return [row for piece in found for row in piece]


def test_nothing_to_skip_leaves_runs_as_they_are() -> None:
    runs = runs_of([STOCK_TRADE] * 3, 2)
    skip = SkipRows({STOCK_TRADE: 0})
    assert skip.done
    assert skip.rest(runs) is runs


@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 4),
)
def test_the_first_rows_of_each_type_are_left_out_and_no_others(
    blocks: list[list[bool]], trades: int, quotes: int, cut: int
) -> None:
    skip = SkipRows({STOCK_TRADE: trades, STOCK_QUOTE: quotes})
    left = {True: trades, False: quotes}
    for block in blocks:
        expected = []
        for row, is_trade in enumerate(block):
            if left[is_trade]:
                left[is_trade] -= 1
            else:
                expected.append(row)
        kinds = [STOCK_TRADE if is_trade else STOCK_QUOTE for is_trade in block]
        rest = skip.rest(runs_of(kinds, cut))
        assert rows(rest) == expected == rest.key_ts_ns.tolist()
    assert skip.done == (not any(left.values()))
