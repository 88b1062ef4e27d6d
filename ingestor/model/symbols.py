"""Symbols: the option ticker, a DBN publisher's exchange, and what a live feed knows of each.

An OCC-style ticker as Polygon writes it is ``O:{root}{YYMMDD}{C|P}{strike*1000, 8 digits}``.
The part after the root always has 15 characters, so it is read from the right: the root may
itself hold digits (adjusted contracts such as ``TSLA1``).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ingestor.model.errors import BadDataError
from ingestor.model.units import UNDEF_PRICE

SymbolTable = dict[int, str]
"""instrument_id to symbol, for the records of a block. A table may grow, at its end, while blocks
refer to it, but an id keeps its symbol: a new symbol for an id begins a new table. So a lookup
stays valid as long as the table is the same object."""

OPTION_PREFIX: Final = "O:"
OPTION_TAIL_CHARS: Final = 15
OPTION_ROOT_MAX_CHARS: Final = 6
STRIKE_E9_PER_UNIT: Final = 1_000_000
"""The ticker counts thousandths; one of them is 1e6 of our 1e-9 units."""

_VENUES: Final = (
    "CME XNAS XBOS XPSX BATS BATY EDGA EDGX XNYS XCIS XASE XCHI XCIS XCIS MEMX EPRL "
    "FINN FINC FINY AMXO XBOX XCBO EMLD EDGO GMNI XISX MCRY XMIO ARCO OPRA MPRL XNDQ "
    "XBXO C2OX XPHL BATO MXOP IEXG XCHI XCIS IEXG EPRL ARCX XNYS XNYS XNAS XNAS XCHI "
    "XCIS IEXG EPRL XNAS XNYS FINN FINY FINC IFEU NDEX DBEQ EQUS SPHR XCHI XCIS IEXG "
    "EPRL XNAS XNYS FINN FINY FINC BATS BATY EDGA EDGX XBOS XPSX MEMX XASE ARCX LTSE "
    "XNAS FINN FINC XOFF XOFF XBOS XPSX XBOS XPSX EQUS XCIS XNYS EQUS EQUS EQUS EQUS "
    "IFUS XOFF IFLL XOFF XEUR XEEE XOFF XOFF XCBF XOFF OCEA"
)
PUBLISHER_EXCHANGE: Final[Mapping[int, str]] = dict(enumerate(_VENUES.split(), 1))
"""Databento publisher_id to what an event says as its exchange: the venue that the publisher's data
is of, by the vendor's own list (https://github.com/databento/dbn, ``publishers.rs``). Only GLBX is
called CME. A publisher that is not listed has none (null)."""

_TICKERS_HELD: Final = 8192


def symbol_of(symbols: SymbolTable, instrument_id: int) -> str:
    """Return the symbol, or the id as text where the table does not list it."""
    return symbols.get(instrument_id, str(instrument_id))


@dataclass(frozen=True, slots=True)
class OptionTicker:
    """What an option ticker says; ``right`` is ``C`` or ``P``, strike in 1e-9."""

    underlying: str
    expiry: dt.date
    right: str
    strike_e9: int

    @property
    def text(self) -> str:
        """The vendor's ticker, with the ``O:`` prefix."""
        strike = self.strike_e9 // STRIKE_E9_PER_UNIT
        return f"{OPTION_PREFIX}{self.underlying}{self.expiry:%y%m%d}{self.right}{strike:08d}"


@lru_cache(maxsize=_TICKERS_HELD)
def parse_option_ticker(text: str) -> OptionTicker:
    """Read a Polygon option ticker from the right. Raises `BadDataError`."""
    # From the right, whatever the root holds: digits are allowed in it.
    root, tail = text[len(OPTION_PREFIX) : -OPTION_TAIL_CHARS], text[-OPTION_TAIL_CHARS:]
    date, right, strike = tail[:6], tail[6:7], tail[7:]
    well_formed = (
        text.startswith(OPTION_PREFIX)
        # `isdigit` alone also takes digits of other scripts, which `int` reads and nobody expects.
        and text.isascii()
        and 0 < len(root) <= OPTION_ROOT_MAX_CHARS
        and date.isdigit()
        and right in ("C", "P")
        and strike.isdigit()
    )
    if not well_formed:
        raise BadDataError(f"{text!r} is not an option ticker (O:ROOTyymmddC00000000)")
    try:
        expiry = dt.date(2000 + int(date[:2]), int(date[2:4]), int(date[4:]))
    except ValueError as error:
        raise BadDataError(f"{text!r} is not an option ticker: {error}") from error
    return OptionTicker(root, expiry, right, int(strike) * STRIKE_E9_PER_UNIT)


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
        self.table: dict[int, str] = {}
        """Every id taken as new so far, to its symbol; one object, to which ids are added."""
        self._new: list[tuple[int, str]] = []
        self.find = self._by_symbol.get
        if like is not None:
            self._by_symbol.update((one, it.copied()) for one, it in like._by_symbol.items())

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
        self.table.update(new)
        return new

    def forget_quotes(self) -> None:
        """Empty every book: after a gap in the feed no quote held is the newest one any more."""
        for instrument in self._by_symbol.values():
            instrument.bid_e9, instrument.ask_e9 = NO_BID, NO_ASK
