"""The price that strikes are centred on: the mid of the newest sane quote, else the last trade.

A quote is sane with both sides, not crossed, and no wider than `MAX_SPREAD_E9` or the part of its
mid that `SPREAD_SHARE` says, whichever is more: shares of 5,000 trade 4.50 apart. A trade counts
when it was reported in time, on an exchange (not through a reporting facility), and under ordinary
conditions only. The trade is asked only where no sane quote was seen for `QUOTE_FRESH_NS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ingestor.feeds.polygon.decode import Decoded
from ingestor.records import STOCK_QUOTE, Records, RType
from ingestor.units import NS_PER_S, PRICE_SCALE, UNDEF_PRICE

MAX_SPREAD_E9: Final = PRICE_SCALE // 2
SPREAD_SHARE: Final = 1_000
"""A thousandth."""

QUOTE_FRESH_NS: Final = 10 * NS_PER_S

OFF_EXCHANGE: Final = 4
"""Exchange id of the reporting facilities (FINRA)."""

ORDINARY_CONDITIONS: Final = frozenset((0, 3, 12, 14, 41))
"""Regular, automatic execution, extended hours, intermarket sweep, trade-through exempt. Not
among them: odd lots (37), average and derived prices, crosses, out of sequence, next day."""


class ReferencePrice:
    """Follows one symbol through the decoded frames of /stocks."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._id: int | None = None
        self._mid: tuple[int, int] | None = None
        self._last: tuple[int, int] | None = None

    @property
    def price_e9(self) -> int | None:
        """The reference in 1e-9; None before the first sane quote or ordinary trade."""
        newest = self._mid or self._last
        if self._mid and self._last and self._last[1] - self._mid[1] > QUOTE_FRESH_NS:
            newest = self._last
        return newest and newest[0]

    def on_frame(self, decoded: Decoded) -> None:
        """Note the newest sane quote of a frame, else its newest ordinary trade."""
        for instrument_id, symbol in decoded.new_symbols:
            if symbol == self._symbol:
                self._id = instrument_id
        if not self._note_quote(decoded):
            self._note_trade(decoded)

    def _newest_first(self, records: Records, rtype: RType) -> Iterator[int]:
        ids, rtypes = records["instrument_id"].tolist(), records["rtype"].tolist()
        for row in reversed(range(len(ids))):
            if ids[row] == self._id and rtypes[row] == rtype:
                yield row

    def _note_quote(self, decoded: Decoded) -> bool:
        quotes = decoded.records.view(STOCK_QUOTE)
        for row in self._newest_first(quotes, RType.STOCK_QUOTE):
            quote = quotes[row]
            if _is_sane(quote):
                mid_e9 = (int(quote["bid_px_e9"]) + int(quote["ask_px_e9"])) // 2
                self._mid = (mid_e9, int(quote["ts_recv_ns"]))
                return True
        return False

    def _note_trade(self, decoded: Decoded) -> None:
        for row in self._newest_first(decoded.records, RType.STOCK_TRADE):
            trade = decoded.records[row]
            if row not in decoded.late and _is_ordinary(trade):
                self._last = (int(trade["price_e9"]), int(trade["ts_recv_ns"]))
                return


def _is_sane(quote: Any) -> bool:
    bid_e9, ask_e9 = int(quote["bid_px_e9"]), int(quote["ask_px_e9"])
    widest_e9 = max(MAX_SPREAD_E9, (bid_e9 + ask_e9) // 2 // SPREAD_SHARE)
    return bid_e9 != UNDEF_PRICE != ask_e9 and 0 <= ask_e9 - bid_e9 <= widest_e9


def _is_ordinary(trade: Any) -> bool:
    if trade["exchange"] == OFF_EXCHANGE:
        return False
    codes = trade["conditions"][: trade["n_conditions"]].tolist()
    return ORDINARY_CONDITIONS.issuperset(codes)
