"""What a feed knows of each symbol: an id that its records bear, and the newest quote.

Quotes lie in one array, not in objects of Python. With 10,000 symbols, 20,000 prices kept as ints
scattered what is made and freed for each frame over memory that no cache held: a quarter of what
the feed cost. They are whole doubles, below 2**53 and so exact, since a view of doubles is written
at half the cost of one of int64.
"""

from __future__ import annotations

import math
from array import array
from typing import Final

from ingestor.model.symbols import SymbolTable

NO_BID: Final = 0.0
NO_ASK: Final = math.inf

MAX_INSTRUMENTS: Final = 100_000
"""Symbols one feed process may meet; all US stocks are some 12,000, a day of SPY's chain 10,000."""

_NO_QUOTE: Final = array("d", (NO_BID, NO_ASK))
_LEAST_QUOTES: Final = 64
"""Room for the quotes of a few symbols; it doubles when they are more."""


class Instruments:
    """Symbol to id; ids count up from 0 and are never given twice.

    Attributes:
        quotes: Bid and ask in 1e-9 of id 0, of id 1, and so on, `NO_BID` and `NO_ASK` where a side
            is empty: an instrument's are at twice its id. Another object after `add`.
        find: Returns the id of a symbol, or None.
    """

    def __init__(self, limit: int = MAX_INSTRUMENTS, *, like: Instruments | None = None) -> None:
        """Know all that `like` knows, and give what is added the ids that it has there."""
        self._limit = limit
        self._like = like
        self._ids: dict[str, int] = {} if like is None else like._ids.copy()
        quotes = _NO_QUOTE * _LEAST_QUOTES if like is None else array("d", like.quotes)
        self.quotes: memoryview[float] = _view(quotes)
        self._table: dict[int, str] = {}
        self._new: list[tuple[int, str]] = []
        self.find = self._ids.get

    @property
    def table(self) -> SymbolTable:
        """Every id taken as new so far, to its symbol; one object, to which ids are added."""
        return self._table

    def add(self, symbol: str) -> int | None:
        """Give a new symbol its id; None when `limit` symbols are known."""
        if len(self._ids) >= self._limit:
            return None
        known = None if self._like is None else self._like.find(symbol)
        number = len(self._ids) if known is None else known
        while 2 * number >= len(self.quotes):
            room = len(self.quotes) // 2
            self.quotes = _view(array("d", self.quotes) + _NO_QUOTE * room)
        self._ids[symbol] = number
        self._new.append((number, symbol))
        return number

    def aggressor(self, number: int, price_e9: float) -> int:
        """1 (BUY), -1 (SELL) or 0 (MID) of a trade of an id at this price, which is above 0."""
        at = 2 * number
        return (price_e9 >= self.quotes[at + 1]) - (price_e9 <= self.quotes[at])

    def take_new(self) -> tuple[tuple[int, str], ...]:
        """Return the (id, symbol) pairs that were added since the last call."""
        if not self._new:
            return ()
        new, self._new = tuple(self._new), []
        self._table.update(new)
        return new

    def forget_quotes(self) -> None:
        """Empty every book: after a gap in the feed no quote held is the newest one any more."""
        self.quotes[:] = _NO_QUOTE * (len(self.quotes) // 2)


def _view(quotes: array[float]) -> memoryview[float]:
    return memoryview(bytearray(quotes.tobytes())).cast("d")
