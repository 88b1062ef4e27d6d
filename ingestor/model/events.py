"""Event objects: the contract's five types, for people and for consumers, from records or JSON.

The pipeline never builds these; it carries records. They are what `DBNIngestor.read_trades()`
yields and what the consumer library decodes messages to. Fields stand in the contract's order.
Prices are the double nearest to the exact decimal (use the record arrays for exact integers);
what is unknown is None. They hold no cycles, so the garbage collector does not track them: keeping
a million takes less than half the time.

Records become events a column at a time: NumPy and `map` turn one field of all records into
Python values, and `map` calls the event's class with one value of each column, so that no line of
Python runs per event. The columns stand in the order of the class's fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from itertools import repeat
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from ingestor.model.blocks import Block
from ingestor.model.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS, is_symbol
from ingestor.model.errors import BadDataError
from ingestor.model.records import (
    EVENT_TYPES,
    FLAG_SNAPSHOT,
    LEVELS,
    MAX_CONDITIONS,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    EventType,
    Records,
    RType,
    split_by_rtype,
)
from ingestor.model.symbols import PUBLISHER_EXCHANGE, OptionTicker, parse_option_ticker, symbol_of
from ingestor.model.units import PRICE_SCALE, UINT32_MAX, UNDEF_PRICE


class Aggressor(IntEnum):
    """Who crossed the spread."""

    SELL = -1
    MID = 0
    BUY = 1


AGGRESSORS: Final = frozenset(Aggressor)
"""Whatever else a record holds is unknown, hence MID."""

AGGRESSOR_OF_SIDE: Final = {ord("B"): Aggressor.BUY, ord("A"): Aggressor.SELL}
"""DBN trade side to aggressor; any other side is MID."""

SYMBOLS_HELD: Final = 65_536
"""Symbols that are remembered as good; the whole American tape has 11,000."""

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


class Event(msgspec.Struct, frozen=True, gc=False):
    """The envelope; times are int nanoseconds UTC."""

    ts_event_ns: Time
    ts_recv_ns: Time
    source: Literal["polygon_ws", "direct_feed", "replay", "sim"]


class StockTrade(Event, frozen=True, gc=False):
    """Schema stocks.trades.v1; size in whole shares."""

    symbol: Text
    price: Price
    size: Size
    exchange: ExchangeId | None
    conditions: Conditions
    seq: Seq | None
    aggressor: Aggressor


class StockQuote(Event, frozen=True, gc=False):
    """Schema stocks.quotes.v1; an empty side has price None."""

    symbol: Text
    bid_px: Price | None
    ask_px: Price | None
    bid_sz: Size
    ask_sz: Size
    bid_exch: ExchangeId | None
    ask_exch: ExchangeId | None
    seq: Seq | None


class OptionTrade(Event, frozen=True, gc=False):
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


class FuturesTrade(Event, frozen=True, gc=False):
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


class MBP10(Event, frozen=True, gc=False):
    """Schema futures.mbp10.v1; ten levels, best first."""

    symbol: Text
    levels: Annotated[tuple[Level, ...], Meta(min_length=LEVELS, max_length=LEVELS)]
    is_snapshot: bool
    seq: FuturesSeq | None
    action: Literal["A", "C", "M", "T", "R", "F"] | None
    side: Literal["A", "B", "N"] | None
    action_price: Price | None
    action_size: Size


EVENT_CLASS: Final[dict[int, type[Event]]] = {
    RType.STOCK_TRADE: StockTrade,
    RType.STOCK_QUOTE: StockQuote,
    RType.OPTION_TRADE: OptionTrade,
    RType.FUTURES_TRADE: FuturesTrade,
    RType.MBP10: MBP10,
}


_KNOWN: Final = ", ".join(kind.subject for kind in EVENT_TYPES)
NO_SUBJECT_OF_OURS: Final = f"no event type has this subject (known are {_KNOWN})"


class InvalidError(BadDataError):
    """JSON that is no event."""


def read_json(subject: bytes, payload: bytes) -> Event:
    """Return the event of a JSON message. Raises `BadDataError`, `InvalidError`."""
    read = _READ_JSON.get(subject)
    if read is None:
        raise BadDataError(NO_SUBJECT_OF_OURS)
    return read(payload)


def events_of(block: Block) -> Iterator[Event]:
    """Yield every record of a block as its event object, in order.

    What is taken from the block is taken a stretch of one event type at a time, before the first
    event of the stretch. Raises `BadDataError` for an unknown rtype or an invalid option ticker.
    """
    for kind, records in split_by_rtype(block.records):
        yield from _BUILDERS[kind.rtype](records, block)


Columns = Iterator[Any] | list[Any]
"""One field of all records, as what events hold."""

_EXACT_UNITS: Final = 2**53
"""Integers below are doubles: dividing one by `PRICE_SCALE` gives the double nearest to a price."""

_AGGRESSORS: Final = [Aggressor.MID, Aggressor.BUY, *[Aggressor.MID] * 253, Aggressor.SELL]
"""By the byte of a live record."""

_AGGRESSOR_OF_SIDE: Final = [AGGRESSOR_OF_SIDE.get(side, Aggressor.MID) for side in range(256)]
_ACTION: Final = [chr(code) if code in DBN_ACTIONS else None for code in range(256)]
_SIDE: Final = [chr(code) if code in DBN_SIDES else None for code in range(256)]
_IS_SNAPSHOT: Final = [bool(flags & FLAG_SNAPSHOT) for flags in range(256)]


def _looked_up(table: list[Any], column: npt.NDArray[Any]) -> Columns:
    return map(table.__getitem__, column.tolist())


def _prices(units: npt.NDArray[np.int64]) -> list[Any]:
    prices: list[Any] = (units / PRICE_SCALE).tolist()
    # NumPy rounds these twice, to a double and then when it divides; Python's integers only once.
    for at in np.flatnonzero((units >= _EXACT_UNITS) | (units <= -_EXACT_UNITS)).tolist():
        price_e9 = int(units[at])
        prices[at] = None if price_e9 == UNDEF_PRICE else price_e9 / PRICE_SCALE
    return prices


def _known_prices(units: npt.NDArray[np.int64]) -> list[Any]:
    """Prices of a field that has no unknown."""
    unknown = UNDEF_PRICE / PRICE_SCALE
    return [unknown if price is None else price for price in _prices(units)]


def _optional(column: npt.NDArray[Any], undefined: int) -> list[Any]:
    values: list[Any] = column.tolist()
    for at in np.flatnonzero(column == undefined).tolist():
        values[at] = None
    return values


def _conditions(records: Records) -> Columns:
    pairs = zip(records["conditions"].tolist(), records["n_conditions"].tolist(), strict=True)
    return (tuple(conditions[:count]) for conditions, count in pairs)


def _of_instrument(records: Records, values: Mapping[int, Any]) -> Columns:
    return map(values.__getitem__, records["instrument_id"].tolist())


def _symbols(records: Records, block: Block) -> dict[int, str]:
    """The symbol of every instrument in the records."""
    ids = records["instrument_id"]
    some = [int(ids[0])] if (ids == ids[0]).all() else np.unique(ids).tolist()
    return {number: symbol_of(block.symbols, number) for number in some}


def _envelope(records: Records, block: Block) -> tuple[Columns, Columns, Columns]:
    times = (records["ts_event_ns"].tolist(), records["ts_recv_ns"].tolist())
    return *times, repeat(block.source.value)


def _seq(records: Records) -> Columns:
    return _optional(records["sequence"], UNDEF_SEQUENCE)


def _aggressor(records: Records) -> Columns:
    return _looked_up(_AGGRESSORS, records["aggressor"].view(np.uint8))


def _stock_trades(records: Records, block: Block) -> Iterator[StockTrade]:
    return map(
        StockTrade,
        *_envelope(records, block),
        _of_instrument(records, _symbols(records, block)),
        _known_prices(records["price_e9"]),
        records["size"].tolist(),
        _optional(records["exchange"], UNDEF_EXCHANGE),
        _conditions(records),
        _seq(records),
        _aggressor(records),
    )


def _stock_quotes(records: Records, block: Block) -> Iterator[StockQuote]:
    return map(
        StockQuote,
        *_envelope(records, block),
        _of_instrument(records, _symbols(records, block)),
        _prices(records["bid_px_e9"]),
        _prices(records["ask_px_e9"]),
        records["bid_sz"].tolist(),
        records["ask_sz"].tolist(),
        _optional(records["bid_exch"], UNDEF_EXCHANGE),
        _optional(records["ask_exch"], UNDEF_EXCHANGE),
        _seq(records),
    )


def _option_trades(records: Records, block: Block) -> Iterator[OptionTrade]:
    symbols = _symbols(records, block)
    parts = {number: _option_parts(symbol) for number, symbol in symbols.items()}
    return map(
        OptionTrade,
        *_envelope(records, block),
        *zip(*_of_instrument(records, parts), strict=True),
        _known_prices(records["price_e9"]),
        records["size"].tolist(),
        _prices(records["opt_bid_e9"]),
        _prices(records["opt_ask_e9"]),
        _aggressor(records),
        _conditions(records),
        _seq(records),
    )


def _option_parts(symbol: str) -> tuple[str, str, str, float, str]:
    """The fields of an event that come from its ticker, in order."""
    ticker = parse_option_ticker(symbol)
    strike = ticker.strike_e9 / PRICE_SCALE
    return ticker.underlying, symbol, ticker.expiry.isoformat(), strike, ticker.right


def _futures_trades(records: Records, block: Block) -> Iterator[FuturesTrade]:
    return map(
        FuturesTrade,
        *_envelope(records, block),
        _of_instrument(records, _symbols(records, block)),
        _known_prices(records["price_e9"]),
        records["size"].tolist(),
        _looked_up(_AGGRESSOR_OF_SIDE, records["side"]),
        map(PUBLISHER_EXCHANGE.get, records["publisher_id"].tolist()),
        repeat(None),
        records["sequence"].tolist(),
    )


def _levels(records: Records) -> Iterator[tuple[Level, ...]]:
    columns = []
    for side in ("bid", "ask"):
        units = records["levels"][f"{side}_px_e9"].ravel()
        sizes = records["levels"][f"{side}_sz"].ravel()
        columns += [_prices(units), np.where(units == UNDEF_PRICE, 0, sizes).tolist()]
    # One iterator ten times: each record takes the next ten levels from it.
    return zip(*[map(Level, *columns)] * LEVELS, strict=True)


def _mbp10s(records: Records, block: Block) -> Iterator[MBP10]:
    return map(
        MBP10,
        *_envelope(records, block),
        _of_instrument(records, _symbols(records, block)),
        _levels(records),
        _looked_up(_IS_SNAPSHOT, records["flags"]),
        records["sequence"].tolist(),
        _looked_up(_ACTION, records["action"]),
        _looked_up(_SIDE, records["side"]),
        _prices(records["price_e9"]),
        records["size"].tolist(),
    )


_BUILDERS: Final = {
    RType.STOCK_TRADE: _stock_trades,
    RType.STOCK_QUOTE: _stock_quotes,
    RType.OPTION_TRADE: _option_trades,
    RType.FUTURES_TRADE: _futures_trades,
    RType.MBP10: _mbp10s,
}


def _json_reader(kind: EventType) -> Callable[[bytes], Event]:
    decode_json = msgspec.json.Decoder(EVENT_CLASS[kind.rtype]).decode
    check = _check_option if kind.rtype == RType.OPTION_TRADE else _check_symbol

    def read(payload: bytes) -> Event:
        try:
            if not payload.isascii():
                payload.decode()  # msgspec does not look into keys that it passes over
            event = decode_json(payload)
        except msgspec.ValidationError as error:
            raise InvalidError(f"no {kind.name}: {error}") from error
        # msgspec's own, of UTF-8, of a stack of brackets.
        except (ValueError, RecursionError) as error:
            raise BadDataError(f"no {kind.name}: {error}") from error
        check(event)
        return event

    return read


def _check_symbol(event: Any) -> None:
    if not _is_symbol(event.symbol):
        raise InvalidError(f"the symbol {event.symbol!r} is none")
    _check_seq(event)


def _check_option(event: Any) -> None:
    """A record holds nothing but the ticker: what a message says beside it must be the same."""
    ticker = _option_ticker(event.option_symbol)
    if ticker is None or not _is_symbol(event.underlying):
        raise InvalidError(f"the ticker {event.option_symbol!r} or its underlying is none")
    said = (event.right, event.exp_date, event.strike)
    if said != (ticker.right, ticker.expiry.isoformat(), ticker.strike_e9 / PRICE_SCALE):
        raise InvalidError(f"{said} is not what {event.option_symbol} says")
    _check_seq(event)


def _check_seq(event: Any) -> None:
    # msgspec knows no bounds beyond int64.
    if event.seq is not None and event.seq >= UNDEF_SEQUENCE:
        raise InvalidError(f"seq {event.seq} is beyond 64 bits")


_is_symbol: Final = lru_cache(SYMBOLS_HELD)(is_symbol)


@lru_cache(SYMBOLS_HELD)
def _option_ticker(text: str) -> OptionTicker | None:
    try:
        return parse_option_ticker(text)
    except BadDataError:
        return None


_READ_JSON: Final = {kind.subject.encode(): _json_reader(kind) for kind in EVENT_TYPES}
"""Reader of one JSON message by subject, as it stands on the wire. Raises `BadDataError`."""
