"""An event as one readable line: time, type, symbol, and what happened."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import IO, Any, Final

from ingestor.model.bounds import printable
from ingestor.model.events import Event
from ingestor.model.units import iso_utc

_NAME_CHARS: Final = 12
SYMBOL_CHARS: Final = 12
MAX_SYMBOL_CHARS: Final = 24
"""The column of symbols grows up to this; an option's ticker has 21 characters."""
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


def line_of(event: Event, symbol_chars: int = SYMBOL_CHARS) -> str:
    """Return ``<event time, UTC> <type> <symbol> <what happened>``."""
    name, symbol = type(event).__name__, printable(symbol_of(event))
    head = f"{iso_utc(event.ts_event_ns)} {name:{_NAME_CHARS}} {symbol:{symbol_chars}}"
    return f"{head} {_DETAILS[name](event)}".rstrip()


def symbol_of(event: Any) -> str:
    """Return the symbol; an option's is its ticker."""
    symbol: str = event.option_symbol if hasattr(event, "option_symbol") else event.symbol
    return symbol


def is_of_symbol(event: Any, symbols: frozenset[str]) -> bool:
    """Whether the event's symbol, or its option's underlying, is among `symbols`."""
    return symbol_of(event) in symbols or getattr(event, "underlying", None) in symbols


def _price(price: float | None) -> str:
    # `repr` is the shortest decimal that reads back as the same double.
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


class EventTable:
    """Lines below a header, coloured where `out` is a terminal; the column of symbols only grows.

    Where it is none the lines are plain and the header is left out: each line is an event.
    """

    def __init__(self, out: IO[str]) -> None:
        self.symbol_chars = SYMBOL_CHARS
        self.is_terminal = out.isatty()
        # Of a narrow one's lines the date and what is below a millisecond go first.
        self._time = slice(None) if _columns(out) >= _LINE_CHARS else slice(11, 23)
        self._styles = _styles(out) if self.is_terminal else {}

    def header(self) -> str:
        """Return the names of the columns, empty where there is no terminal."""
        if not self.is_terminal:
            return ""
        symbol = f"{'symbol':{self.symbol_chars}}"
        time = f"{'time (UTC)':{_TIME_CHARS}}"[: len(range(_TIME_CHARS)[self._time])]
        text = f"{time} {'event':{_NAME_CHARS}} {symbol} {_COLUMNS}"
        return f"{self._styled(text, 'bold')}\n"

    def fit(self, event: Event) -> None:
        """Make the column of symbols wide enough for an event that is still to come."""
        symbol = len(printable(symbol_of(event)))
        self.symbol_chars = max(self.symbol_chars, min(symbol, MAX_SYMBOL_CHARS))

    def line(self, event: Event) -> str:
        """Return an event's line, with its end."""
        if not self.is_terminal:
            return f"{line_of(event)}\n"
        self.fit(event)
        text = line_of(event, self.symbol_chars)
        # Who took the initiative is what an eye looks for: BUY and SELL by colour.
        side = getattr(getattr(event, "aggressor", None), "name", "")
        head, rest = text[:_TIME_CHARS][self._time], text[_TIME_CHARS:]
        return f"{self._styled(head, 'dim')}{self._styled(rest, _SIDE_STYLES.get(side, ''))}\n"

    def _styled(self, text: str, style: str) -> str:
        before, after = self._styles.get(style, ("", ""))
        return f"{before}{text}{after}"


_COLUMNS: Final = "     price x size, or best bid | best ask"
_TIME_CHARS: Final = 30
_LINE_CHARS: Final = 118
"""What depth takes; a quote takes 96."""
_SIDE_STYLES: Final = {"BUY": "green", "SELL": "red"}


def _columns(out: IO[str]) -> int:
    """Return how wide a terminal is, of which nobody need know it."""
    try:
        return os.get_terminal_size(out.fileno()).columns or _LINE_CHARS
    except OSError:
        return _LINE_CHARS


def _styles(out: IO[str]) -> dict[str, tuple[str, str]]:
    """Return what stands before and after a text of each style; nothing where none is wanted.

    Looked up once: a `rich` console takes 100 us a line, and a feed may bring thousands a second.
    """
    from rich.color import ColorSystem  # noqa: PLC0415  (50 ms that a pipe saves)
    from rich.console import Console  # noqa: PLC0415
    from rich.style import Style  # noqa: PLC0415

    if os.environ.get("NO_COLOR") or Console(file=out).color_system is None:
        return {}
    made = {}
    for name in ("bold", "dim", "green", "red"):
        before, _, after = (
            Style.parse(name).render("\0", color_system=ColorSystem.STANDARD).partition("\0")
        )
        made[name] = before, after
    return made


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> list[str]:
    """Return rows, at least one, as lines of aligned columns; those numbered in `right` end alike.

    >>> aligned([("day", "size"), ("Tuesday", "7")], right={1})
    ['day      size', 'Tuesday     7']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
