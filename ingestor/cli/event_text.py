"""One line of text per event, for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ingestor.model.bounds import printable
from ingestor.model.clock import iso_utc
from ingestor.model.events import Event

_NAME_CHARS: Final = 12
_SYMBOL_CHARS: Final = 12
_PRICE_CHARS: Final = 10

_ACTIONS: Final = {
    "A": "add",
    "C": "cancel",
    "M": "modify",
    "T": "trade",
    "R": "clear",
    "F": "fill",
    None: "?",
}
_SIDES: Final = {"B": "bid", "A": "ask", "N": "", None: ""}


def line_of(event: Event) -> str:
    """Return ``<event time, UTC> <type> <symbol> <what happened>``."""
    name, symbol = type(event).__name__, printable(symbol_of(event))
    head = f"{iso_utc(event.ts_event_ns)} {name:{_NAME_CHARS}} {symbol:{_SYMBOL_CHARS}}"
    return f"{head} {_DETAILS[name](event)}".rstrip()


def symbol_of(event: Any) -> str:
    """Return the symbol; an option's is its ticker."""
    symbol: str = event.option_symbol if hasattr(event, "option_symbol") else event.symbol
    return symbol


def is_of_symbol(event: Any, symbols: frozenset[str]) -> bool:
    """Whether the event's symbol, or its option's underlying, is among `symbols`."""
    return symbol_of(event) in symbols or getattr(event, "underlying", None) in symbols


def _price(price: float | None) -> str:
    return "-" if price is None else repr(price)


def _at(price: float | None, size: int) -> str:
    return f"{_price(price):>{_PRICE_CHARS}} x {size:<5}"


def _trade(event: Any) -> str:
    return f"{_at(event.price, event.size)} {event.aggressor.name}"


def _option_trade(event: Any) -> str:
    return f"{_trade(event)}  quote {_price(event.opt_bid)} | {_price(event.opt_ask)}"


def _quote(event: Any) -> str:
    return f"{_at(event.bid_px, event.bid_sz)} | {_at(event.ask_px, event.ask_sz)}"


def _book(event: Any) -> str:
    best = event.levels[0]
    done = f"{_ACTIONS[event.action]} {_SIDES[event.side]}".strip()
    at = f"{_price(event.action_price)} x {event.action_size}"
    snapshot = "  snapshot" if event.is_snapshot else ""
    return f"{_quote(best)}  {done} {at}{snapshot}"


_DETAILS: Final[dict[str, Callable[[Any], str]]] = {
    "StockTrade": _trade,
    "FuturesTrade": _trade,
    "OptionTrade": _option_trade,
    "StockQuote": _quote,
    "MBP10": _book,
}
