"""What must hold in any ES file, checked record by record and without the generator's help.

Plain on purpose: it rebuilds the change between two books from their levels alone, and asks
whether the action says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ingestor.model.records import Records

Levels = list[tuple[int, int, int]]
"""Price, size, count; best first."""

TICK_E9 = 250_000_000
LAST = 128
SNAPSHOT_FLAGS = 168


@dataclass(frozen=True)
class Row:
    """One MBP-10 record in plain Python."""

    action: str
    side: str
    price: int
    size: int
    depth: int
    flags: int
    ts_event: int
    bids: Levels
    asks: Levels

    def levels(self, side: str) -> Levels:
        return self.bids if side == "B" else self.asks


def rows_of(records: Records) -> list[Row]:
    levels = records["levels"]
    sides = [
        np.stack([levels[f"{name}_{field}"].astype(np.int64) for field in ("px_e9", "sz", "ct")], 2)
        for name in ("bid", "ask")
    ]
    books = [[[tuple(level) for level in book] for book in side.tolist()] for side in sides]
    return [
        Row(
            chr(record["action"]),
            chr(record["side"]),
            int(record["price_e9"]),
            int(record["size"]),
            int(record["depth"]),
            int(record["flags"]),
            int(record["ts_event_ns"]),
            bids,
            asks,
        )
        for record, bids, asks in zip(records, *books, strict=True)
    ]


def check_heads(records: Records, instrument_id: int) -> None:
    """Every record's fixed fields, and time and sequence along the file."""
    assert set(records["length"].tolist()) == {records.dtype.itemsize // 4}
    assert set(records["publisher_id"].tolist()) == {1}
    assert set(records["instrument_id"].tolist()) == {instrument_id}
    for name in ("ts_event_ns", "ts_recv_ns", "sequence"):
        assert (np.diff(records[name].astype(np.int64)) >= 0).all(), name
    event, recv = (records[name].astype(np.int64) for name in ("ts_event_ns", "ts_recv_ns"))
    assert (recv > event).all()
    delta = records["ts_in_delta_ns"][records["flags"] != SNAPSHOT_FLAGS]
    assert ((delta > 5_000) & (delta < 1_000_000)).all()


def check_levels(records: Records) -> None:
    """Both sides are strictly ordered, on ticks, and nowhere empty."""
    levels = records["levels"]
    bid, ask = levels["bid_px_e9"], levels["ask_px_e9"]
    assert (np.diff(bid, axis=1) < 0).all()
    assert (np.diff(ask, axis=1) > 0).all()
    assert (bid % TICK_E9 == 0).all()
    assert (ask % TICK_E9 == 0).all()
    for side in ("bid", "ask"):
        size, count = levels[f"{side}_sz"], levels[f"{side}_ct"]
        assert (count > 0).all()
        assert (size >= count).all()


def crossed(records: Records) -> Any:
    """Tell which records show a bid at or above an ask."""
    levels = records["levels"]
    return levels["bid_px_e9"][:, 0] >= levels["ask_px_e9"][:, 0]


def check_changes(rows: Sequence[Row]) -> None:
    """Between any two records the book changes by what the second one says, and by no more."""
    first = rows[0]
    assert (first.action, first.side, first.flags) == ("A", "N", SNAPSHOT_FLAGS)
    pending: list[Row] = []
    for before, row in pairwise(rows):
        if row.action == "T":
            _check_trade(before, row)
            pending.append(row)
            continue
        if row.side == "N":
            _check_auction(pending, row)
        else:
            _check_change(before, row, pending)
        pending = []
    assert not pending, "a trade at the end shows no change of the book"


def check_events(rows: Sequence[Row]) -> None:
    """The flag for the last record of an event stands on passive changes and ends sweeps."""
    for row, after in pairwise(rows):
        if row.action == "T":
            assert row.flags == 0
        if not row.flags & LAST:
            assert after.ts_event == row.ts_event
            assert after.action in "TCM"
    assert rows[-1].flags & LAST


def _check_trade(before: Row, trade: Row) -> None:
    assert (trade.bids, trade.asks) == (before.bids, before.asks), "not the book before the trade"
    assert trade.size > 0
    assert trade.depth == 0
    if trade.side != "N":
        assert trade.price == trade.levels("A" if trade.side == "B" else "B")[0][0]


def _check_auction(pending: Sequence[Row], row: Row) -> None:
    (auction,) = pending
    assert (auction.side, row.action, row.price) == ("N", "C", auction.price)
    assert row.bids[0][0] < row.asks[0][0]
    assert auction.price in (row.bids[0][0], row.asks[0][0])


def _check_change(before: Row, row: Row, trades: Sequence[Row]) -> None:
    other = "A" if row.side == "B" else "B"
    assert row.levels(other) == before.levels(other), "the other side changed"
    old, new = before.levels(row.side), row.levels(row.side)
    sized, counted = _at(old, row.price), _at(new, row.price)
    _check_elsewhere(old, new, row.price)
    listing = new if _holds(new, row.price) else old
    assert listing[row.depth][0] == row.price
    size_change, count_change = counted[0] - sized[0], counted[1] - sized[1]
    if trades:
        _check_fill(row, trades, (size_change, count_change, counted[0]))
    elif row.action == "A":
        assert (size_change, count_change) == (row.size, 1)
    elif row.action == "C":
        assert (size_change, count_change) == (-row.size, -1)
    else:
        assert row.action == "M"
        assert size_change != 0
        assert count_change == 0
        assert 1 <= row.size <= counted[0]


def _check_fill(row: Row, trades: Sequence[Row], change: tuple[int, int, int]) -> None:
    size_change, count_change, left = change
    filled = sum(trade.size for trade in trades)
    assert {(trade.price, trade.side, trade.ts_event) for trade in trades} == {
        (row.price, "A" if row.side == "B" else "B", row.ts_event)
    }
    assert row.depth == 0
    assert size_change == -filled
    if row.action == "C":
        assert row.size == filled
        assert count_change < 0
    else:
        assert row.action == "M"
        assert count_change <= 0
        assert 1 <= row.size <= left


def _holds(levels: Levels, price: int) -> bool:
    return any(level[0] == price for level in levels)


def _at(levels: Levels, price: int) -> tuple[int, int]:
    return next(((size, count) for at, size, count in levels if at == price), (0, 0))


def _check_elsewhere(old: Levels, new: Levels, price: int) -> None:
    """All levels but the one at `price` stay; only the far end may come into or leave view."""
    kept_old = [level for level in old if level[0] != price]
    kept_new = [level for level in new if level[0] != price]
    shared = min(len(kept_old), len(kept_new))
    assert kept_old[:shared] == kept_new[:shared]
    assert shared >= len(old) - 1
