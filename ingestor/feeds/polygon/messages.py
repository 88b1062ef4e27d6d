"""What the vendor sends, as typed structs: one frame is a JSON array of these, mixed.

Field names are the vendor's own (``p`` price, ``s`` size, ``x`` exchange, ``c`` conditions, ``t``
SIP milliseconds, ``pt`` participant milliseconds, ``q`` sequence, ``bp``/``ap`` bid and ask price,
``bs``/``as`` their sizes, ``bx``/``ax`` their exchanges). Bounds are part of the types, so that a
frame is checked while it is parsed and the loop that follows tests nothing. Keys that no record
has room for (trade id ``i``, tape ``z``, reporting facility ``trfi``/``trft``) are not declared,
hence never parsed: ``i`` is text on a trade and a list on a quote, and neither can cost an event.

Prices are doubles here. A decimal of at most nine places below `MAX_PRICE` survives the way
through a double: parsing and multiplying by 1e9 are each off by at most one part in 2**53, which
together stays below half a unit as long as the product is below 2**51. The rounded product is
therefore exact; more than nine places are rounded to the nearest 1e-9. Dividing the integer by 1e9
again gives the double nearest to the rounded decimal, so a price was rounded just when that is
another double: one division and one comparison tell, for each price.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from ingestor.model.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS
from ingestor.model.units import NS_PER_MS, UINT32_MAX

MIN_MS: Final = 10**12
"""Milliseconds since 1970 have 13 digits from 2001 on; fewer are another unit."""

MAX_MS: Final = MAX_TIME_NS // NS_PER_MS + 1
"""The first millisecond whose nanoseconds no int64 holds, in the year 2262."""

MIN_PRICE: Final = 1e-9
MAX_PRICE: Final = 2_000_000
"""Currency units; below 2**51 / 1e9, see above. The dearest share trades below half of it."""

Symbol = Annotated[str, Meta(min_length=1, max_length=MAX_SYMBOL_BYTES)]
"""Characters are bounded here, bytes where a symbol is new: `Skip.SYMBOL`."""

Ms = Annotated[int, Meta(ge=MIN_MS, lt=MAX_MS)]
ParticipantMs = Annotated[int, Meta(gt=-MAX_MS, lt=MAX_MS)]
"""Only compared, so any time will do that is one."""

Price = Annotated[float, Meta(ge=MIN_PRICE, lt=MAX_PRICE)]
SidePrice = Annotated[float, Meta(ge=0, lt=MAX_PRICE)]
Size = Annotated[int, Meta(ge=0, le=UINT32_MAX)]
Exchange = Annotated[int, Meta(ge=0, le=2**15 - 1)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Condition = Annotated[int, Meta(ge=0, le=2**16 - 1)]
Conditions = tuple[Condition, ...]


class StatusMessage(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="status"):
    """An answer of the server; may stand anywhere inside a data frame.

    A message of another type says nothing, and must not cost the status that it comes with.
    """

    status: str
    message: Any = ""

    @property
    def text(self) -> str:
        """The message, if it is text."""
        return self.message if isinstance(self.message, str) else ""


class StockTradeMessage(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="T"):
    """``T`` on /stocks. ``ds`` is the size with its fraction, as decimal text."""

    sym: Symbol
    p: Price
    t: Ms
    s: Size | None = None
    # The vendor sends text; typed as a float it has cost another client every trade.
    ds: str | int | float | None = None
    x: Exchange | None = None
    # Absent when empty; a bare int has been seen on quotes, so it is taken here too.
    c: Conditions | Condition | None = None
    q: Sequence | None = None
    pt: ParticipantMs | None = None


class StockQuoteMessage(
    msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="Q", rename={"as_": "as"}
):
    """``Q`` on /stocks, the NBBO. A side that is absent, null or 0 is empty; sizes are shares."""

    sym: Symbol
    t: Ms
    bp: SidePrice | None = None
    ap: SidePrice | None = None
    bs: Size | None = None
    as_: Size | None = None
    bx: Exchange | None = None
    ax: Exchange | None = None
    q: Sequence | None = None


class OptionTradeMessage(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="T"):
    """``T`` on /options; size in contracts."""

    sym: Symbol
    p: Price
    t: Ms
    s: Size
    x: Exchange | None = None
    c: Conditions | Condition | None = None
    q: Sequence | None = None
    pt: ParticipantMs | None = None


class OptionQuoteMessage(msgspec.Struct, frozen=True, gc=False, tag_field="ev", tag="Q"):
    """``Q`` on /options; only its prices are used."""

    sym: Symbol
    t: Ms
    bp: SidePrice | None = None
    ap: SidePrice | None = None


StockMessage = StockTradeMessage | StockQuoteMessage | StatusMessage
OptionMessage = OptionTradeMessage | OptionQuoteMessage | StatusMessage


def _keys(kind: type[msgspec.Struct], *unused: str) -> frozenset[str]:
    return frozenset((*kind.__struct_encode_fields__, "ev", *unused))


STOCK_KEYS: Final = {
    "T": _keys(StockTradeMessage, "i", "z", "trfi", "trft"),
    # ``i`` is a list of indicators here and ``c`` a bare int; no record has room for either.
    "Q": _keys(StockQuoteMessage, "i", "z", "c", "pt"),
    "status": _keys(StatusMessage),
}
"""Keys that the vendor is known to send, by ``ev``; what else comes is worth a notice."""

OPTION_KEYS: Final = {
    "T": _keys(OptionTradeMessage),
    "Q": _keys(OptionQuoteMessage, "bs", "as", "bx", "ax", "q"),
    "status": _keys(StatusMessage),
}
"""As `STOCK_KEYS`, for /options."""
