"""What a feed knows of each symbol: an id that its records bear, and the newest quote."""

from __future__ import annotations

from typing import Final

from ingestor.model.symbols import SymbolTable
from ingestor.model.units import UNDEF_PRICE

NO_BID: Final = 0
NO_ASK: Final = UNDEF_PRICE

MAX_INSTRUMENTS: Final = 100_000
"""Symbols one feed process may meet; all US stocks are some 12,000, a day of SPY's chain 10,000."""


class Instrument:
    """A symbol's id and its newest quote in 1e-9, `NO_BID` and `NO_ASK` where a side is empty."""

    __slots__ = ("ask_e9", "bid_e9", "id")

    def __init__(self, instrument_id: int) -> None:
        self.id = instrument_id
        self.bid_e9 = NO_BID
        self.ask_e9 = NO_ASK

    def copied(self) -> Instrument:
        """Return another one that holds the same quote."""
        # By hand: `copy.copy` takes ten times as long, and there may be 100,000.
        other = Instrument(self.id)
        other.bid_e9, other.ask_e9 = self.bid_e9, self.ask_e9
        return other

    def aggressor(self, price_e9: int) -> int:
        """1 (BUY), -1 (SELL) or 0 (MID) of a trade at this price, which is above 0."""
        return (price_e9 >= self.ask_e9) - (price_e9 <= self.bid_e9)


class Instruments:
    """Symbol to `Instrument`; ids count up from 0 and are never given twice."""

    def __init__(self, limit: int = MAX_INSTRUMENTS, *, like: Instruments | None = None) -> None:
        """Know all that `like` knows, and give what is added the ids that it has there."""
        self._limit = limit
        self._like = like
        self._by_symbol: dict[str, Instrument] = {}
        self._table: dict[int, str] = {}
        self._new: list[tuple[int, str]] = []
        self.find = self._by_symbol.get
        if like is not None:
            self._by_symbol.update((one, it.copied()) for one, it in like._by_symbol.items())

    @property
    def table(self) -> SymbolTable:
        """Every id taken as new so far, to its symbol; one object, to which ids are added."""
        return self._table

    def add(self, symbol: str) -> Instrument | None:
        """Give a new symbol its id; None when `limit` symbols are known."""
        if len(self._by_symbol) >= self._limit:
            return None
        known = None if self._like is None else self._like.find(symbol)
        instrument = Instrument(len(self._by_symbol) if known is None else known.id)
        self._by_symbol[symbol] = instrument
        self._new.append((instrument.id, symbol))
        return instrument

    def take_new(self) -> tuple[tuple[int, str], ...]:
        """Return the (id, symbol) pairs that were added since the last call."""
        if not self._new:
            return ()
        new, self._new = tuple(self._new), []
        self._table.update(new)
        return new

    def forget_quotes(self) -> None:
        """Empty every book: after a gap in the feed no quote held is the newest one any more."""
        for instrument in self._by_symbol.values():
            instrument.bid_e9, instrument.ask_e9 = NO_BID, NO_ASK
