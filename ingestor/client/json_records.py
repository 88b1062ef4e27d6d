"""JSON events of one type back to records, with exact prices.

An event holds the double nearest to a price p of 1e-9 units; reading and multiplying by 1e9 err
by at most 2**-53 each, relative to p. So the result is off by less than half a unit, and rounding
gives p back, as long as |p| stays below 2**51 units: prices below 2,251,799. Should one reach
that, the payloads are read again with prices as decimals, which is exact and slower.

What JSON does not carry is 0 in the records: counts of orders, depth, ts_in_delta and the flags
but that of a snapshot. Instrument ids number the symbols of one call from 1 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.client.decode import EVENT_CLASS
from ingestor.errors import BadDataError
from ingestor.events import AGGRESSOR_OF_SIDE, Event, Level
from ingestor.records import (
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
from ingestor.symbols import PUBLISHER_EXCHANGE
from ingestor.units import INT64_MAX, PRICE_SCALE, UNDEF_PRICE

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

    `payloads` are the JSON that the events were decoded from. Raises `BadDataError` for what
    does not fit a record: a price beyond 64 bits, too many conditions, a missing seq in futures.
    """
    try:
        return _records(kind, events, _prices_of_doubles)
    except _InexactError:
        return _records(kind, _with_price_units(kind, payloads), _prices_of_units)


def price_units(text: str) -> int:
    """Return a JSON number as units of 1e-9. Raises `BadDataError` for a fraction of one."""
    units = Decimal(text).scaleb(9)
    if units != int(units) or not -INT64_MAX - 1 <= units <= INT64_MAX:
        raise BadDataError(f"price {text} is no 64-bit number of 1e-9 units")
    return int(units)


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


def _prices_of_units(prices: list[Any]) -> Any:
    return np.array(_or(prices, UNDEF_PRICE), np.int64)


_EXACT_DECODER: Final = msgspec.json.Decoder(float_hook=price_units)


def _with_price_units(kind: EventType, payloads: Sequence[bytes]) -> list[Event]:
    """Events whose prices are int units: no float but a price stands in an event."""
    event_class: Any = EVENT_CLASS[kind.name]
    rows: list[dict[str, Any]] = [_EXACT_DECODER.decode(payload) for payload in payloads]
    for row in rows:
        if kind.rtype == RType.MBP10:
            row["levels"] = tuple(Level(**_known(Level, level)) for level in row["levels"])
    return [event_class(**_known(event_class, row)) for row in rows]


def _known(struct: Any, row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in struct.__struct_fields__}


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
        _fill(records, name, values)
    return records, symbols


def _fill(records: Records, name: str, values: Any) -> None:
    if not isinstance(values, np.ndarray):
        # Only so NumPy refuses an integer that is too large; an assignment would wrap it.
        values = _integers(name, values, records.dtype[name])
    records[name] = values


def _integers(name: str, values: Any, dtype: Any) -> npt.NDArray[Any]:
    try:
        return np.array(values, dtype)
    except (OverflowError, TypeError) as error:
        raise BadDataError(f"{name} does not fit a record: {error}") from error


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
        if len(conditions) > MAX_CONDITIONS:
            raise BadDataError(f"{len(conditions)} conditions do not fit a record")
        padded[at, : len(conditions)] = _integers("conditions", conditions, np.uint16)
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
        filled[f"{side}_sz"] = _integers(f"{side}_sz", _column(levels, f"{side}_sz"), np.uint32)
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
