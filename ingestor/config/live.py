"""The settings of a live run: the vendor's feeds, the strikes that are followed, the journal."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from ingestor.config.table import MAX_SECONDS, Seconds, Table

LiveFeedName = Literal["stocks", "options"]
Channel = Literal["T", "Q"]
ApiKey = Annotated[str, Meta(pattern=r"^\S+$", description="a key without spaces")]
WebSocketUrl = Annotated[
    str,
    Meta(
        pattern=r"^wss?://[^\s/?#@]+(/[^\s?#@]*)?$",
        description="ws://host:port/path or wss://host:port/path",
    ),
]
ALL_SYMBOLS: Final = "*"
Symbol = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[A-Z][A-Za-z0-9./]{0,15})$",
        description="a ticker such as SPY",
    ),
]
Underlying = Annotated[
    str,
    Meta(
        pattern=r"^[A-Z][A-Z0-9]{0,5}([./][A-Z]{1,2})?$",
        description="a stock with options, such as SPY or BRK.B",
    ),
]
Price = Annotated[
    float, Meta(ge=0.001, le=99_999.999, description="0.001 to 99999.999, in steps of 0.001")
]


class Polygon(Table, frozen=True, kw_only=True):
    """The live feeds: the account, what is subscribed, and how much a feed bears."""

    api_key: ApiKey | None = None
    """Better in the environment than in a file: POLYGON_API_KEY."""
    stocks_url: WebSocketUrl = "wss://socket.massive.com/stocks"
    options_url: WebSocketUrl = "wss://socket.massive.com/options"
    feeds: Annotated[tuple[LiveFeedName, ...], Meta(min_length=1)] = ("stocks", "options")
    symbols: Literal["*"] | Annotated[tuple[Symbol, ...], Meta(min_length=1, max_length=20_000)] = (
        "SPY",
    )
    """Stocks whose channels are subscribed; ``*`` means all there are."""
    channels: Annotated[tuple[Channel, ...], Meta(min_length=1)] = ("T", "Q")
    """T trades, Q quotes; a trade's aggressor needs the quotes."""
    option_quotes: bool = True
    """Subscribe the contracts' quotes too: they are not published, but tell who was aggressor."""
    late_after_s: Seconds = 1.0
    """A print that the exchange stamped this much before the tape did gets no aggressor."""
    silence_s: Annotated[float, Meta(ge=1, le=MAX_SECONDS)] = 30.0
    """An open market that says nothing for so long means a dead connection: it is made anew."""
    max_frame_bytes: Annotated[int, Meta(ge=65_536, le=268_435_456)] = 16_777_216
    """A longer message of the vendor ends the connection, and another is made."""
    backlog_rows: Annotated[int, Meta(ge=1_024, le=16_777_216)] = 262_144
    """Events of a feed that may wait behind a full ring; then quotes and trades are dropped."""
    backlog_bytes: Annotated[int, Meta(ge=1_048_576, le=1_073_741_824)] = 16_777_216
    """The same bound in bytes; whichever is reached first."""
    drain_s: Seconds = 2.0
    """How long a feed that ends waits for what it still holds to be taken."""

    @property
    def stocks(self) -> tuple[str, ...]:
        """The symbols, each once; ``*`` alone where it is among them."""
        symbols = tuple(dict.fromkeys(self.symbols))
        return (ALL_SYMBOLS,) if ALL_SYMBOLS in symbols else symbols

    def follows(self, symbol: str) -> bool:
        """Whether the events of this stock are subscribed."""
        return not {symbol, ALL_SYMBOLS}.isdisjoint(self.symbols)


class Strikes(Table, frozen=True, kw_only=True):
    """Which option contracts are followed while the price moves."""

    underlying: Underlying = "SPY"
    each_side: Annotated[int, Meta(ge=0, le=500)] = 3
    """Strikes below and above the one at the money."""
    expiries: Literal["daily", "weekly"] | tuple[dt.date, ...] = "daily"
    """Every trading day, the last one of each week, or a list, of which past ones do not count."""
    expiries_ahead: Annotated[int, Meta(ge=0, le=60)] = 0
    """How many more expiries are followed than the next one."""
    step: Price = 1.0
    """Distance between strikes."""
    recentre: Price = 0.5
    """How far the price moves before the strikes follow it."""
    focus: Price | None = None
    """A strike that is followed whatever the price does."""
    focus_each_side: Annotated[int, Meta(ge=0, le=500)] = 0
    """Strikes around it."""
    max_contracts: Annotated[int, Meta(ge=1, le=1_000)] = 950
    """The nearest to the money are kept. The vendor takes quotes of 1,000 on one connection."""


class Record(Table, frozen=True, kw_only=True):
    """The journal of everything the vendor sent, as it was received."""

    dir: Path | None = None
    """Where it is written; unset writes none."""


class Live(Table, frozen=True, kw_only=True):
    """A live run as a whole."""

    stop_after_s: Seconds | None = None
    """The run ends by itself after so long; unset runs until it is stopped."""
