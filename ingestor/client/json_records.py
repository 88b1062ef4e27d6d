"""JSON events of one type back to records, with exact prices.

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
from decimal import Decimal
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from ingestor.client.decode import EVENT_CLASS, NoRecordError
from ingestor.model.events import AGGRESSOR_OF_SIDE, MBP10, Event, FuturesTrade, Level, Price
from ingestor.model.records import (
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
from ingestor.model.symbols import PUBLISHER_EXCHANGE
from ingestor.model.units import PRICE_DIGITS, PRICE_SCALE, UNDEF_PRICE

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


class _InexactError(Exception):
    """A price is too large to be read as a double."""


def records_of(
    kind: EventType, events: Sequence[Event], payloads: Sequence[bytes]
) -> tuple[Records, dict[int, str]]:
    """Return events of one type as records of ``kind.dtype``, and their symbols by instrument id.

    `payloads` are the JSON that the events were read from, by `decode.read_json`, which leaves
    nothing that does not fit a record; what `check_record` refuses must be left out before.
    """
    try:
        return _records(kind, events, _prices_of_doubles)
    except _InexactError:
        return _records(kind, _exact_events(kind, payloads), _prices_of_decimals)


def check_record(event: Event) -> None:
    """Raise `NoRecordError` for an event that no record can hold."""
    if isinstance(event, FuturesTrade | MBP10) and event.seq is None:
        raise NoRecordError("seq is null, for which a record of futures has no value")


Prices = Callable[[list[Any]], Any]
"""Prices, None where unknown, to int64 units."""


def _prices_of_doubles(prices: list[Any]) -> Any:
    doubles = np.array(prices, np.float64)
    unknown = np.isnan(doubles)
    doubles[unknown] = 0.0
    if doubles.size and np.abs(doubles).max() >= EXACT_BELOW:
        raise _InexactError
    units = np.rint(doubles * PRICE_SCALE).astype(np.int64)
    units[unknown] = UNDEF_PRICE
    return units


def _prices_of_decimals(prices: list[Any]) -> Any:
    units = (UNDEF_PRICE if price is None else _units(price) for price in prices)
    return np.array(list(units), np.int64)


def _units(price: Decimal) -> int:
    return int(price.scaleb(PRICE_DIGITS).to_integral_value())


def _exact_events(kind: EventType, payloads: Sequence[bytes]) -> list[Any]:
    """The events once more, their prices as decimals."""
    decode = msgspec.json.Decoder(_with_decimals(EVENT_CLASS[kind.name])).decode
    return [decode(payload) for payload in payloads]


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
    ids, symbols = _numbered(_column(events, _SYMBOL_FIELD[kind.rtype]))
    columns = {
        "instrument_id": ids,
        "ts_event_ns": _column(events, "ts_event_ns"),
        "ts_recv_ns": _column(events, "ts_recv_ns"),
        **_COLUMNS[kind.rtype](events, prices),
    }
    for name, values in columns.items():
        # An array of the field's type refuses what is too large; an assignment would wrap it.
        records[name] = np.array(values, records.dtype[name].base)
    return records, symbols


def _numbered(symbols: list[str]) -> tuple[list[int], dict[int, str]]:
    ids = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols), 1)}
    return [ids[symbol] for symbol in symbols], {number: symbol for symbol, number in ids.items()}


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
    return {
        "price_e9": prices(_column(events, "price")),
        "size": _column(events, "size"),
    }


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

_SYMBOL_FIELD: Final = {
    RType.STOCK_TRADE: "symbol",
    RType.STOCK_QUOTE: "symbol",
    RType.OPTION_TRADE: "option_symbol",
    RType.FUTURES_TRADE: "symbol",
    RType.MBP10: "symbol",
}
