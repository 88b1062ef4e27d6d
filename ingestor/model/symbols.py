"""Symbols: the option ticker, and which exchange a DBN publisher stands for.

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
