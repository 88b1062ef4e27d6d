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
from typing import Annotated, Any, Final

import msgspec

from ingestor.blocks import Block
from ingestor.records import (
    FLAG_SNAPSHOT,
    LEVELS,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    RType,
    split_by_rtype,
)
from ingestor.symbols import PUBLISHER_EXCHANGE, parse_option_ticker, symbol_of
from ingestor.units import PRICE_SCALE, UNDEF_PRICE


class Aggressor(IntEnum):
    """Who crossed the spread."""

    SELL = -1
    MID = 0
    BUY = 1


AGGRESSORS: Final = frozenset(Aggressor)
"""Whatever else a record holds is unknown, hence MID."""

AGGRESSOR_OF_SIDE: Final = {ord("B"): Aggressor.BUY, ord("A"): Aggressor.SELL}
"""DBN trade side to aggressor; any other side is MID."""

DBN_ACTIONS: Final = frozenset(b"ACMTRF")
DBN_SIDES: Final = frozenset(b"ABN")


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The envelope; times are int nanoseconds UTC."""

    ts_event_ns: int
    ts_recv_ns: int
    source: str


class StockTrade(Event, frozen=True, kw_only=True, gc=False):
    """Schema stocks.trades.v1; size in whole shares."""

    symbol: str
    price: float
    size: int
    exchange: int | None
    conditions: tuple[int, ...]
    seq: int | None
    aggressor: Aggressor


class StockQuote(Event, frozen=True, kw_only=True, gc=False):
    """Schema stocks.quotes.v1; an empty side has price None."""

    symbol: str
    bid_px: float | None
    ask_px: float | None
    bid_sz: int
    ask_sz: int
    bid_exch: int | None
    ask_exch: int | None
    seq: int | None


class OptionTrade(Event, frozen=True, kw_only=True, gc=False):
    """Schema options.trades.v1; size in contracts, exp_date as YYYY-MM-DD, right C or P."""

    underlying: str
    option_symbol: str
    exp_date: str
    strike: float
    right: str
    price: float
    size: int
    opt_bid: float | None
    opt_ask: float | None
    aggressor: Aggressor
    conditions: tuple[int, ...]
    seq: int | None


class FuturesTrade(Event, frozen=True, kw_only=True, gc=False):
    """Schema futures.trades.v1."""

    symbol: str
    price: float
    size: int
    aggressor: Aggressor
    exchange: str | None
    conditions: None
    seq: int | None


class Level(msgspec.Struct, frozen=True, gc=False):
    """One level of the book; an empty one has price None and size 0."""

    bid_px: float | None
    bid_sz: int
    ask_px: float | None
    ask_sz: int


class MBP10(Event, frozen=True, kw_only=True, gc=False):
    """Schema futures.mbp10.v1; ten levels, best first."""

    symbol: str
    levels: Annotated[tuple[Level, ...], msgspec.Meta(min_length=LEVELS, max_length=LEVELS)]
    is_snapshot: bool
    seq: int | None
    action: str | None
    side: str | None
    action_price: float | None
    action_size: int


def events_of(block: Block) -> Iterator[Event]:
    """Yield every record of a block as its event object, in order."""
    for kind, records in split_by_rtype(block.records):
        for record in records:
            yield _BUILDERS[kind.rtype](record, block)


def _price(price_e9: Any) -> float | None:
    return None if price_e9 == UNDEF_PRICE else int(price_e9) / PRICE_SCALE


def _known_price(price_e9: Any) -> float:
    return int(price_e9) / PRICE_SCALE


def _optional(value: Any, undefined: int) -> int | None:
    return None if value == undefined else int(value)


def _code(value: Any, allowed: frozenset[int]) -> str | None:
    return chr(value) if int(value) in allowed else None


def _aggressor(record: Any) -> Aggressor:
    value = int(record["aggressor"])
    return Aggressor(value) if value in AGGRESSORS else Aggressor.MID


def _conditions(record: Any) -> tuple[int, ...]:
    return tuple(record["conditions"][: record["n_conditions"]].tolist())


def _symbol(record: Any, block: Block) -> str:
    return symbol_of(block.symbols, int(record["instrument_id"]))


def _envelope(record: Any, block: Block) -> dict[str, Any]:
    return {
        "ts_event_ns": int(record["ts_event_ns"]),
        "ts_recv_ns": int(record["ts_recv_ns"]),
        "source": block.source.value,
        "seq": _optional(record["sequence"], UNDEF_SEQUENCE),
    }


def _stock_trade(record: Any, block: Block) -> StockTrade:
    return StockTrade(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        price=_known_price(record["price_e9"]),
        size=int(record["size"]),
        exchange=_optional(record["exchange"], UNDEF_EXCHANGE),
        conditions=_conditions(record),
        aggressor=_aggressor(record),
    )


def _stock_quote(record: Any, block: Block) -> StockQuote:
    return StockQuote(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        bid_px=_price(record["bid_px_e9"]),
        ask_px=_price(record["ask_px_e9"]),
        bid_sz=int(record["bid_sz"]),
        ask_sz=int(record["ask_sz"]),
        bid_exch=_optional(record["bid_exch"], UNDEF_EXCHANGE),
        ask_exch=_optional(record["ask_exch"], UNDEF_EXCHANGE),
    )


def _option_trade(record: Any, block: Block) -> OptionTrade:
    ticker = parse_option_ticker(_symbol(record, block))
    return OptionTrade(
        **_envelope(record, block),
        underlying=ticker.underlying,
        option_symbol=_symbol(record, block),
        exp_date=ticker.expiry.isoformat(),
        strike=_known_price(ticker.strike_e9),
        right=ticker.right,
        price=_known_price(record["price_e9"]),
        size=int(record["size"]),
        opt_bid=_price(record["opt_bid_e9"]),
        opt_ask=_price(record["opt_ask_e9"]),
        aggressor=_aggressor(record),
        conditions=_conditions(record),
    )


def _futures_trade(record: Any, block: Block) -> FuturesTrade:
    return FuturesTrade(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        price=_known_price(record["price_e9"]),
        size=int(record["size"]),
        aggressor=AGGRESSOR_OF_SIDE.get(int(record["side"]), Aggressor.MID),
        exchange=PUBLISHER_EXCHANGE.get(int(record["publisher_id"])),
        conditions=None,
    )


def _level(level: Any) -> Level:
    return Level(
        _price(level["bid_px_e9"]),
        int(level["bid_sz"]) if level["bid_px_e9"] != UNDEF_PRICE else 0,
        _price(level["ask_px_e9"]),
        int(level["ask_sz"]) if level["ask_px_e9"] != UNDEF_PRICE else 0,
    )


def _mbp10(record: Any, block: Block) -> MBP10:
    return MBP10(
        **_envelope(record, block),
        symbol=_symbol(record, block),
        levels=tuple(_level(level) for level in record["levels"]),
        is_snapshot=bool(record["flags"] & FLAG_SNAPSHOT),
        action=_code(record["action"], DBN_ACTIONS),
        side=_code(record["side"], DBN_SIDES),
        action_price=_price(record["price_e9"]),
        action_size=int(record["size"]),
    )


_BUILDERS: Final = {
    RType.STOCK_TRADE: _stock_trade,
    RType.STOCK_QUOTE: _stock_quote,
    RType.OPTION_TRADE: _option_trade,
    RType.FUTURES_TRADE: _futures_trade,
    RType.MBP10: _mbp10,
}
