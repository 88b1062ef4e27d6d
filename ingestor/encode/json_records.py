"""JSON messages to records, with exact prices.

There are two ways to records. The compiled `Parser` reads what the encoders of this program write,
and nothing else, in 0.5 us a message. What it leaves, or all where there was no compiler, msgspec
reads as events, which become records a column at a time, in about 13 us: that way takes JSON in any
form and says what is wrong with it. Where both read a message, the records are the same.

An event holds the double nearest to a price p of 1e-9 units; reading and multiplying by 1e9 err
by at most 2**-53 each, relative to p. So the result is off by less than half a unit, and rounding
gives p back, as long as |p| stays below 2**51 units: prices below 2,251,799. Should one reach
that, the payloads are read again with prices as decimals, which is exact and slower. Either way a
number without a point is whole units of price, and what has more than nine decimals is rounded.

What JSON does not carry is 0 in the records: counts of orders, depth, ts_in_delta and the flags
but that of a snapshot. Instrument ids number the symbols of one call from 1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, lru_cache
from importlib import import_module
from operator import attrgetter
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.encode.packed import is_packed
from ingestor.encode.reference import option_json, symbol_json
from ingestor.model.blocks import Source
from ingestor.model.bounds import is_symbol
from ingestor.model.errors import BadDataError
from ingestor.model.events import (
    AGGRESSOR_OF_SIDE,
    EVENT_CLASS,
    MBP10,
    SYMBOLS_HELD,
    Event,
    FuturesTrade,
    Level,
    Price,
    read_json,
)
from ingestor.model.records import (
    EVENT_TYPES,
    FLAG_SNAPSHOT,
    LEVEL,
    LEVELS,
    MAX_CONDITIONS,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    EventType,
    Records,
    RType,
)
from ingestor.model.symbols import PUBLISHER_EXCHANGE, SymbolTable
from ingestor.model.units import PRICE_DIGITS, PRICE_SCALE, UNDEF_PRICE

_EVENT_TYPE_BY_SUBJECT: Final = {kind.subject.encode(): kind for kind in EVENT_TYPES}

EXACT_BELOW: Final = 2**51 / PRICE_SCALE
"""Doubles of smaller prices round back to the exact price."""

Columns = dict[str, Any]

_NO_ACTION: Final = ord("N")
_TRADE_ACTION: Final = ord("T")
_SIDE_OF_AGGRESSOR: Final = {int(aggressor): side for side, aggressor in AGGRESSOR_OF_SIDE.items()}
_PUBLISHER_OF_EXCHANGE: Final = {
    name: number for number, name in sorted(PUBLISHER_EXCHANGE.items(), reverse=True)
}
"""A venue may have several publishers: the first of them stands for it."""


class NoRecordError(BadDataError):
    """An event that is no record."""


class JsonRows(NamedTuple):
    """Records of one event type and source, and the index of the message that each is of."""

    event_type: EventType
    source: Source
    records: Records
    symbols: SymbolTable
    messages: npt.NDArray[np.int64]


@dataclass(slots=True)
class JsonFound:
    """What messages hold: records, those that are packed, and those that are neither, and why.

    The last two by index.
    """

    rows: list[JsonRows]
    packed: list[int] = field(default_factory=list)
    bad: list[tuple[int, BadDataError]] = field(default_factory=list)


Frame = tuple[bytes, bytes, bytes]
"""One message: subject, reply, payload."""


class _InexactError(Exception):
    """A price is too large to be read as a double."""


class _Named(msgspec.Struct):
    symbol: str


class _NamedOption(msgspec.Struct):
    option_symbol: str


@lru_cache(SYMBOLS_HELD)
def symbol_read(is_option: bool, text: bytes) -> str | None:
    """Return the symbol that a message names by these bytes, its key and all, or its five keys.

    None unless they are what an encoder writes for it, and it is a symbol.
    """
    try:
        said: Any = msgspec.json.decode(b"{%b}" % text, type=_NamedOption if is_option else _Named)
        symbol: str = said.option_symbol if is_option else said.symbol
        written = option_json(symbol) if is_option else symbol_json(symbol)
    except (ValueError, RecursionError, BadDataError):
        return None
    return symbol if written == text and is_symbol(symbol) else None


def _make_parser() -> Any:
    try:
        return import_module("ingestor.encode._parse").Parser(symbol_read, _PUBLISHER_OF_EXCHANGE)
    except ImportError:
        return None


PARSER: Final = _make_parser()
"""The compiled reader; None where there was no compiler."""


def read_rows(frames: Sequence[Frame], parser: Any = PARSER) -> JsonFound:
    """Return the JSON among messages as records, one array an event type and source.

    Without a parser, msgspec reads them all.
    """
    # Packed messages are left, too: they fail at their first byte.
    known, left = parser.parse(frames) if parser else ([], range(len(frames)))
    found = JsonFound([JsonRows(*rows) for rows in known])
    if left:
        _read_left(frames, left, found)
    return found


def _read_left(frames: Sequence[Frame], left: Iterable[int], found: JsonFound) -> None:
    # By subject and source, the events by the index of their message.
    events: dict[tuple[bytes, str], dict[int, Event]] = {}
    for index in left:
        subject, _, payload = frames[index]
        if is_packed(payload):
            found.packed.append(index)
            continue
        try:
            event = read_json(subject, payload)
            check_record(event)
        except BadDataError as error:
            found.bad.append((index, error))
            continue
        events.setdefault((subject, event.source), {})[index] = event
    places = {(rows.event_type.subject, rows.source): at for at, rows in enumerate(found.rows)}
    for (subject, source), group in events.items():
        kind = _EVENT_TYPE_BY_SUBJECT[subject]
        records, symbols = records_of(
            kind, list(group.values()), [frames[index][2] for index in group]
        )
        rows = JsonRows(kind, Source(source), records, symbols, np.array([*group], np.int64))
        at = places.get((kind.subject, rows.source))
        if at is None:
            found.rows.append(rows)
        else:
            found.rows[at] = _merged(found.rows[at], rows)


def _merged(one: JsonRows, other: JsonRows) -> JsonRows:
    """Both in the order of the messages; the other's symbols are numbered behind the one's."""
    ids = {symbol: number for number, symbol in one.symbols.items()}
    renumbered = [ids.setdefault(symbol, len(ids) + 1) for symbol in other.symbols.values()]
    other.records["instrument_id"] = np.array([0, *renumbered])[other.records["instrument_id"]]
    messages = np.concatenate([one.messages, other.messages])
    order = np.argsort(messages)
    return one._replace(
        records=np.concatenate([one.records, other.records])[order],
        symbols={number: symbol for symbol, number in ids.items()},
        messages=messages[order],
    )


def records_of(
    kind: EventType, events: Sequence[Event], payloads: Sequence[bytes]
) -> tuple[Records, dict[int, str]]:
    """Return events of one type as records of ``kind.dtype``, and their symbols by instrument id.

    `payloads` are the JSON that the events were read from, by `read_json`, which leaves
    nothing that does not fit a record; what `check_record` refuses must be left out before.
    """
    try:
        return _records(kind, events, _prices_of_doubles)
    except _InexactError:
        # Once more, with prices as decimals: some price is no double of ours.
        decode = msgspec.json.Decoder(_with_decimals(EVENT_CLASS[kind.rtype])).decode
        exact: list[Any] = [decode(payload) for payload in payloads]
        return _records(kind, exact, _prices_of_decimals)


def check_record(event: Event) -> None:
    """Raise `NoRecordError` for an event that no record can hold."""
    if isinstance(event, FuturesTrade | MBP10) and event.seq is None:
        raise NoRecordError("seq is null, for which a record of futures has no value")


Prices = Callable[[list[Any]], Any]
"""Prices, None where unknown, to int64 units."""


def _prices_of_doubles(prices: list[Any]) -> Any:
    doubles = np.array(prices, np.float64)
    unknown = np.isnan(doubles)
    # Not a number is no integer either: its conversion is undefined, and warns.
    doubles[unknown] = 0.0
    if doubles.size and np.abs(doubles).max() >= EXACT_BELOW:
        # All of the batch is read again, so that a price means the same whatever is beside it.
        raise _InexactError
    units = np.rint(doubles * PRICE_SCALE).astype(np.int64)
    units[unknown] = UNDEF_PRICE
    return units


def _prices_of_decimals(prices: list[Any]) -> Any:
    units = (
        UNDEF_PRICE if price is None else int(price.scaleb(PRICE_DIGITS).to_integral_value())
        for price in prices
    )
    return np.array(list(units), np.int64)


@cache
def _with_decimals(struct: type[msgspec.Struct]) -> Any:
    """The struct's keys and types, but for its doubles; what doubles were bound to is checked."""
    fields = get_type_hints(struct, include_extras=True)
    return msgspec.defstruct(
        f"Exact{struct.__name__}", [(name, _exact(kind)) for name, kind in fields.items()]
    )


def _exact(kind: Any) -> Any:
    if kind == Price:
        return Decimal
    if kind == Price | None:
        return Decimal | None
    if get_origin(kind) is Annotated and get_args(kind)[0] == tuple[Level, ...]:
        level: Any = _with_decimals(Level)
        return tuple[level, ...]
    return kind


def _records(
    kind: EventType, events: Sequence[Event], prices: Prices
) -> tuple[Records, dict[int, str]]:
    records = np.zeros(len(events), kind.dtype)
    records["length"] = kind.dtype.itemsize // 4
    records["rtype"] = kind.rtype
    texts = _column(events, "option_symbol" if kind.rtype == RType.OPTION_TRADE else "symbol")
    ids = {symbol: number for number, symbol in enumerate(dict.fromkeys(texts), 1)}
    columns = {
        "instrument_id": [ids[symbol] for symbol in texts],
        "ts_event_ns": _column(events, "ts_event_ns"),
        "ts_recv_ns": _column(events, "ts_recv_ns"),
        **_COLUMNS[kind.rtype](events, prices),
    }
    for name, values in columns.items():
        # An array of the field's type refuses what is too large; an assignment would wrap it.
        records[name] = np.array(values, records.dtype[name].base)
    return records, {number: symbol for symbol, number in ids.items()}


def _column(events: Sequence[Event | Level], name: str) -> list[Any]:
    return list(map(attrgetter(name), events))


def _or(values: Iterable[Any], unknown: int) -> list[Any]:
    return [unknown if value is None else value for value in values]


def _mapped(values: Iterable[Any], table: Mapping[Any, int], otherwise: int) -> list[int]:
    return [table.get(value, otherwise) for value in values]


def _conditions(events: Sequence[Event]) -> Columns:
    lists = _column(events, "conditions")
    padded = np.zeros((len(events), MAX_CONDITIONS), np.uint16)
    for at, conditions in enumerate(lists):
        padded[at, : len(conditions)] = conditions
    return {"n_conditions": list(map(len, lists)), "conditions": padded}


def _trade(events: Sequence[Event], prices: Prices) -> Columns:
    return {"price_e9": prices(_column(events, "price")), "size": _column(events, "size")}


def _stock_trade(events: Sequence[Event], prices: Prices) -> Columns:
    return {
        **_trade(events, prices),
        **_conditions(events),
        "sequence": _or(_column(events, "seq"), UNDEF_SEQUENCE),
        "exchange": _or(_column(events, "exchange"), UNDEF_EXCHANGE),
        "aggressor": _column(events, "aggressor"),
    }


def _stock_quote(events: Sequence[Event], prices: Prices) -> Columns:
    return {
        "sequence": _or(_column(events, "seq"), UNDEF_SEQUENCE),
        "bid_px_e9": prices(_column(events, "bid_px")),
        "ask_px_e9": prices(_column(events, "ask_px")),
        "bid_sz": _column(events, "bid_sz"),
        "ask_sz": _column(events, "ask_sz"),
        "bid_exch": _or(_column(events, "bid_exch"), UNDEF_EXCHANGE),
        "ask_exch": _or(_column(events, "ask_exch"), UNDEF_EXCHANGE),
    }


def _option_trade(events: Sequence[Event], prices: Prices) -> Columns:
    return {
        **_trade(events, prices),
        **_conditions(events),
        "sequence": _or(_column(events, "seq"), UNDEF_SEQUENCE),
        "opt_bid_e9": prices(_column(events, "opt_bid")),
        "opt_ask_e9": prices(_column(events, "opt_ask")),
        # The JSON of an option's trade has no exchange.
        "exchange": UNDEF_EXCHANGE,
        "aggressor": _column(events, "aggressor"),
    }


def _futures_trade(events: Sequence[Event], prices: Prices) -> Columns:
    return {
        **_trade(events, prices),
        "sequence": _column(events, "seq"),
        "action": _TRADE_ACTION,
        "side": _mapped(_column(events, "aggressor"), _SIDE_OF_AGGRESSOR, ord("N")),
        "publisher_id": _mapped(_column(events, "exchange"), _PUBLISHER_OF_EXCHANGE, 0),
    }


def _mbp10(events: Sequence[Event], prices: Prices) -> Columns:
    return {
        "sequence": _column(events, "seq"),
        "price_e9": prices(_column(events, "action_price")),
        "size": _column(events, "action_size"),
        "action": [ord(code) if code else _NO_ACTION for code in _column(events, "action")],
        "side": [ord(code) if code else 0 for code in _column(events, "side")],
        "flags": np.array(_column(events, "is_snapshot"), np.uint8) * FLAG_SNAPSHOT,
        "levels": _levels(events, prices),
    }


def _levels(events: Sequence[Event], prices: Prices) -> Any:
    levels = [level for event in events for level in event.levels]  # type: ignore[attr-defined]
    filled = np.zeros(len(levels), LEVEL)
    for side in ("bid", "ask"):
        filled[f"{side}_px_e9"] = prices(_column(levels, f"{side}_px"))
        filled[f"{side}_sz"] = np.array(_column(levels, f"{side}_sz"), np.uint32)
    return filled.reshape(len(events), LEVELS)


_COLUMNS: Final[dict[RType, Callable[[Sequence[Event], Prices], Columns]]] = {
    RType.STOCK_TRADE: _stock_trade,
    RType.STOCK_QUOTE: _stock_quote,
    RType.OPTION_TRADE: _option_trade,
    RType.FUTURES_TRADE: _futures_trade,
    RType.MBP10: _mbp10,
}
"""The fields of a record that differ between types."""
