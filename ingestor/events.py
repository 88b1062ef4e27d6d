"""Event objects: the contract's five types, for people and for consumers.

The pipeline never builds these; it carries records. They are what `DBNIngestor.read_trades()`
yields and what the consumer library decodes messages to. Fields stand in the contract's order.
Prices are the double nearest to the exact decimal (use the record arrays for exact integers);
what is unknown is None. They hold no cycles, so the garbage collector need not know of them:
keeping many costs less than half the time that way.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from ingestor.blocks import Block
from ingestor.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS
from ingestor.records import (
    FLAG_SNAPSHOT,
    LEVELS,
    MAX_CONDITIONS,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    Records,
    RType,
    split_by_rtype,
)
from ingestor.symbols import PUBLISHER_EXCHANGE, parse_option_ticker, symbol_of
from ingestor.units import PRICE_SCALE, UINT32_MAX, UNDEF_PRICE


class Aggressor(IntEnum):
    """Who crossed the spread."""

    SELL = -1
    MID = 0
    BUY = 1


AGGRESSORS: Final = frozenset(Aggressor)
"""Whatever else a record holds is unknown, hence MID."""

AGGRESSOR_OF_SIDE: Final = {ord("B"): Aggressor.BUY, ord("A"): Aggressor.SELL}
"""DBN trade side to aggressor; any other side is MID."""

Row = dict[str, Any]
"""One record as plain Python values by field name."""

DBN_ACTIONS: Final = frozenset(b"ACMTRF")
DBN_SIDES: Final = frozenset(b"ABN")


MAX_PRICE: Final = 9_223_372_036.854_774
"""Every double up to this, of either sign, is a 64-bit number of 1e-9 units and not undefined."""

# What JSON may say. The bounds are those of a record, so that a message is an event if and only if
# it is a record: both ways of reading a stream take and refuse the same.
Time = Annotated[int, Meta(ge=0, le=MAX_TIME_NS)]
Price = Annotated[float, Meta(ge=-MAX_PRICE, le=MAX_PRICE)]
Size = Annotated[int, Meta(ge=0, le=UINT32_MAX)]
Seq = Annotated[int, Meta(ge=0)]
FuturesSeq = Annotated[int, Meta(ge=0, le=UINT32_MAX)]
ExchangeId = Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_SYMBOL_BYTES)]
Conditions = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=2**16 - 1)], ...], Meta(max_length=MAX_CONDITIONS)
]


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The envelope; times are int nanoseconds UTC."""

    ts_event_ns: Time
    ts_recv_ns: Time
    source: Literal["polygon_ws", "direct_feed", "replay", "sim"]


class StockTrade(Event, frozen=True, kw_only=True, gc=False):
    """Schema stocks.trades.v1; size in whole shares."""

    symbol: Text
    price: Price
    size: Size
    exchange: ExchangeId | None
    conditions: Conditions
    seq: Seq | None
    aggressor: Aggressor


class StockQuote(Event, frozen=True, kw_only=True, gc=False):
    """Schema stocks.quotes.v1; an empty side has price None."""

    symbol: Text
    bid_px: Price | None
    ask_px: Price | None
    bid_sz: Size
    ask_sz: Size
    bid_exch: ExchangeId | None
    ask_exch: ExchangeId | None
    seq: Seq | None


class OptionTrade(Event, frozen=True, kw_only=True, gc=False):
    """Schema options.trades.v1; size in contracts, exp_date as YYYY-MM-DD, right C or P."""

    underlying: Text
    option_symbol: Text
    exp_date: Text
    strike: Price
    right: Literal["C", "P"]
    price: Price
    size: Size
    opt_bid: Price | None
    opt_ask: Price | None
    aggressor: Aggressor
    conditions: Conditions
    seq: Seq | None


class FuturesTrade(Event, frozen=True, kw_only=True, gc=False):
    """Schema futures.trades.v1."""

    symbol: Text
    price: Price
    size: Size
    aggressor: Aggressor
    exchange: Text | None
    conditions: None
    seq: FuturesSeq | None


class Level(msgspec.Struct, frozen=True, gc=False):
    """One level of the book; an empty one has price None and size 0."""

    bid_px: Price | None
    bid_sz: Size
    ask_px: Price | None
    ask_sz: Size


class MBP10(Event, frozen=True, kw_only=True, gc=False):
    """Schema futures.mbp10.v1; ten levels, best first."""

    symbol: Text
    levels: Annotated[tuple[Level, ...], Meta(min_length=LEVELS, max_length=LEVELS)]
    is_snapshot: bool
    seq: FuturesSeq | None
    action: Literal["A", "C", "M", "T", "R", "F"] | None
    side: Literal["A", "B", "N"] | None
    action_price: Price | None
    action_size: Size


def events_of(block: Block) -> Iterator[Event]:
    """Yield every record of a block as its event object, in order."""
    for kind, records in split_by_rtype(block.records):
        build = _BUILDERS[kind.rtype]
        for record in plain_rows(records):
            yield build(record, block)


def plain_rows(records: Records) -> Iterator[Row]:
    """Yield records as plain Python values, several times faster than one NumPy scalar a field."""
    names = records.dtype.names or ()
    for values in zip(*(records[name].tolist() for name in names), strict=True):
        yield dict(zip(names, values, strict=True))


def _price(price_e9: int) -> float | None:
    return None if price_e9 == UNDEF_PRICE else price_e9 / PRICE_SCALE


def _known_price(price_e9: int) -> float:
    return price_e9 / PRICE_SCALE


def _optional(value: int, undefined: int) -> int | None:
    return None if value == undefined else value


def _code(value: int, allowed: frozenset[int]) -> Any:
    return chr(value) if value in allowed else None


def _aggressor(record: Row) -> Aggressor:
    value = record["aggressor"]
    return Aggressor(value) if value in AGGRESSORS else Aggressor.MID


def _conditions(record: Row) -> tuple[int, ...]:
    return tuple(record["conditions"][: record["n_conditions"]])


def _symbol(record: Row, block: Block) -> str:
    return symbol_of(block.symbols, record["instrument_id"])


def _envelope(record: Row, block: Block) -> dict[str, Any]:
    return {
        "ts_event_ns": record["ts_event_ns"],
        "ts_recv_ns": record["ts_recv_ns"],
        "source": block.source.value,
        "seq": _optional(record["sequence"], UNDEF_SEQUENCE),
    }


def _stock_trade(record: Row, block: Block) -> StockTrade:
    return StockTrade(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        price=_known_price(record["price_e9"]),
        size=record["size"],
        exchange=_optional(record["exchange"], UNDEF_EXCHANGE),
        conditions=_conditions(record),
        aggressor=_aggressor(record),
    )


def _stock_quote(record: Row, block: Block) -> StockQuote:
    return StockQuote(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        bid_px=_price(record["bid_px_e9"]),
        ask_px=_price(record["ask_px_e9"]),
        bid_sz=record["bid_sz"],
        ask_sz=record["ask_sz"],
        bid_exch=_optional(record["bid_exch"], UNDEF_EXCHANGE),
        ask_exch=_optional(record["ask_exch"], UNDEF_EXCHANGE),
    )


def _option_trade(record: Row, block: Block) -> OptionTrade:
    ticker = parse_option_ticker(_symbol(record, block))
    return OptionTrade(
        **_envelope(record, block),
        underlying=ticker.underlying,
        option_symbol=_symbol(record, block),
        exp_date=ticker.expiry.isoformat(),
        strike=_known_price(ticker.strike_e9),
        right=ticker.right,  # type: ignore[arg-type]
        price=_known_price(record["price_e9"]),
        size=record["size"],
        opt_bid=_price(record["opt_bid_e9"]),
        opt_ask=_price(record["opt_ask_e9"]),
        aggressor=_aggressor(record),
        conditions=_conditions(record),
    )


def _futures_trade(record: Row, block: Block) -> FuturesTrade:
    return FuturesTrade(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        price=_known_price(record["price_e9"]),
        size=record["size"],
        aggressor=AGGRESSOR_OF_SIDE.get(record["side"], Aggressor.MID),
        exchange=PUBLISHER_EXCHANGE.get(record["publisher_id"]),
        conditions=None,
    )


def _level(level: tuple[int, ...]) -> Level:
    bid_px_e9, ask_px_e9, bid_sz, ask_sz, *_ = level
    return Level(
        _price(bid_px_e9),
        0 if bid_px_e9 == UNDEF_PRICE else bid_sz,
        _price(ask_px_e9),
        0 if ask_px_e9 == UNDEF_PRICE else ask_sz,
    )


def _mbp10(record: Row, block: Block) -> MBP10:
    return MBP10(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        levels=tuple(_level(level) for level in record["levels"]),
        is_snapshot=bool(record["flags"] & FLAG_SNAPSHOT),
        action=_code(record["action"], DBN_ACTIONS),
        side=_code(record["side"], DBN_SIDES),
        action_price=_price(record["price_e9"]),
        action_size=record["size"],
    )


_BUILDERS: Final = {
    RType.STOCK_TRADE: _stock_trade,
    RType.STOCK_QUOTE: _stock_quote,
    RType.OPTION_TRADE: _option_trade,
    RType.FUTURES_TRADE: _futures_trade,
    RType.MBP10: _mbp10,
}
