"""Bars of `tail` as a plot in the terminal: candles above, volume below.

A bar is one column. A row of candles is two half rows, which box-drawing characters tell apart: the
thick part of a candle lies between open and close, the thin one between low and high.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ingestor.cli.tables import Bar, Bars
from ingestor.model.bounds import printable
from ingestor.model.events import Event
from ingestor.model.units import iso_utc, new_york_time

REDRAW_S: Final = 0.25
"""How often what changed is drawn."""

MAX_BARS: Final = 1_000
"""Bars of a symbol that are kept: more than a terminal is wide."""
MAX_PLOTS: Final = 4
"""Symbols that are plotted: the first ones that have bars."""
MIN_COLUMNS: Final = 40
CANDLE_ROWS: Final = 12
VOLUME_ROWS: Final = 2

_WICK, _BODY = 1, 2
# By what the upper and the lower half of a cell hold.
_CELLS: Final = {
    (0, 0): " ",
    (_WICK, _WICK): "│",
    (_BODY, _BODY): "┃",
    (_WICK, _BODY): "╽",
    (_BODY, _WICK): "╿",
    (_WICK, 0): "╵",
    (0, _WICK): "╷",
    (_BODY, 0): "╹",
    (0, _BODY): "╻",
}
_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_SECONDS: Final = slice(0, 19)
_MINUTES: Final = slice(0, 16)
"""``2025-12-16 14:30`` of a time."""


class BarPlots:
    """The bars of the first symbols that have any, and what they look like."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._over: dict[str, deque[Bar]] = {}
        self._others: set[str] = set()
        self.events = 0
        """How many were counted: while there is no other one the picture is the same."""

    def add(self, event: Event) -> bool:
        """Count an event; whether a bar is over by it."""
        self.events += 1
        bar = self._bars.add(event)
        if bar is not None:
            self._keep(bar.symbol)
            if bar.symbol in self._over:
                self._over[bar.symbol].append(bar)
        return bar is not None

    def picture(self, columns: int) -> Group:
        """Return the plots for a terminal so wide, from `MIN_COLUMNS` on."""
        still_open = {bar.symbol: bar for bar in self._bars.rest()}
        for symbol in still_open:
            self._keep(symbol)
        parts: list[Text] = []
        for symbol, over in self._over.items():
            bars = [*over, still_open[symbol]] if symbol in still_open else [*over]
            if bars:
                parts += plot(bars, max(columns, MIN_COLUMNS))
        if self._others:
            parts.append(Text(f"and {len(self._others):,} other symbols: --symbol chooses"))
        return Group(*parts) if parts else Group(Text("no trade yet"))

    def _keep(self, symbol: str) -> None:
        if symbol in self._over:
            return
        if len(self._over) < MAX_PLOTS:
            self._over[symbol] = deque(maxlen=MAX_BARS)
        elif len(self._others) < MAX_BARS:
            self._others.add(symbol)


def plot(bars: Sequence[Bar], columns: int) -> list[Text]:
    """Return the lines of one symbol's plot: the last bars that fit, one a column."""
    prices = [f"{bar.high:.10g}" for bar in bars] + [f"{bar.low:.10g}" for bar in bars]
    margin = max(map(len, prices)) + 1
    shown = bars[-(columns - margin) :]
    low, high = min(bar.low for bar in shown), max(bar.high for bar in shown)
    labels = {0: high, CANDLE_ROWS // 2: high - (high - low) * 6.5 / CANDLE_ROWS}
    labels[CANDLE_ROWS - 1] = low
    if high == low:
        labels = {CANDLE_ROWS - 1: low}
    styles = ["green" if bar.close >= (bar.open or 0.0) else "red" for bar in shown]
    lines = [_head(shown, len(bars), columns)]
    for row, cells in enumerate(_candles(shown, low, high)):
        label = f"{labels[row]:.10g}"[: margin - 1] if row in labels else ""
        lines.append(_line(f"{label:>{margin - 1}} ", cells, styles))
    most = max(bar.volume for bar in shown)
    for row, cells in enumerate(_volumes(shown, most)):
        label = _short(most) if row == 0 else ""
        lines.append(_line(f"{label:>{margin - 1}} "[-margin:], cells, styles))
    lines.append(Text(_axis(shown, margin, columns), style="dim"))
    return lines


def _head(shown: Sequence[Bar], held: int, columns: int) -> Text:
    last = shown[-1]
    count = "1 bar" if held == 1 else f"{held:,} bars"
    bars = count if len(shown) == held else f"last {len(shown):,} of {count}"
    text = Text(f"{printable(last.symbol)}  {last.close:.10g}  {bars}", style="bold")
    text.truncate(columns)
    return text


def _candles(bars: Sequence[Bar], low: float, high: float) -> Iterator[str]:
    """Yield the rows, the highest first."""
    halves = 2 * CANDLE_ROWS - 1
    span = (high - low) or 1.0

    def at(price: float) -> int:
        return round((price - low) / span * halves)

    spans = []
    for bar in bars:
        begun = bar.close if bar.open is None else bar.open
        body = sorted((at(begun), at(bar.close)))
        spans.append((at(bar.low), body[0], body[1], at(bar.high)))

    def holds(half: int, spot: tuple[int, int, int, int]) -> int:
        lowest, bottom, top, highest = spot
        if bottom <= half <= top:
            return _BODY
        return _WICK if lowest <= half <= highest else 0

    for row in range(CANDLE_ROWS):
        upper = halves - 2 * row
        yield "".join(_CELLS[holds(upper, spot), holds(upper - 1, spot)] for spot in spans)


def _volumes(bars: Sequence[Bar], most: int) -> Iterator[str]:
    """Yield the rows of volume, the upper first; whatever was traded shows an eighth at least."""
    full = 8 * VOLUME_ROWS
    eighths = [max(1, round(bar.volume / most * full)) if bar.volume else 0 for bar in bars]
    for row in reversed(range(VOLUME_ROWS)):
        yield "".join(_EIGHTHS[min(max(one - 8 * row, 0), 8)] for one in eighths)


def _line(label: str, cells: str, styles: Sequence[str]) -> Text:
    text = Text(label, style="dim")
    for cell, style in zip(cells, styles, strict=True):
        text.append(cell, style=f"not dim {style}")
    return text


def _axis(bars: Sequence[Bar], margin: int, columns: int) -> str:
    """Return from when to when, in UTC and, where there is room for both, in New York."""
    starts = bars[0].start_ns, bars[-1].start_ns
    first, last = (iso_utc(at_ns)[_SECONDS].replace("T", " ") for at_ns in starts)
    both = " to ".join(
        f"{utc} UTC ({new_york_time(at_ns)})"
        for utc, at_ns in zip((first, last), starts, strict=True)
    )
    for pad in (" " * margin, ""):
        if len(pad + both) <= columns:
            return pad + both
    return f"{first[_MINUTES]} to {last[_MINUTES]}"[: columns - 4] + " UTC"


def _short(volume: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if volume >= size:
            return f"{volume / size:.3g}{unit}"
    return str(volume)


@contextmanager
def drawn(console: Console, plots: BarPlots, *, follow: bool) -> Iterator[None]:
    """Draw once at the end of the block, or meanwhile as well: in a running event loop."""
    if not follow:
        yield
        console.print(plots.picture(console.width))
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as screen:

        async def redraw() -> None:
            shown = (-1, 0)
            while True:
                if shown != (shown := (plots.events, console.width)):
                    screen.update(plots.picture(console.width), refresh=True)
                await asyncio.sleep(REDRAW_S)

        drawing = asyncio.ensure_future(redraw())
        try:
            yield
        finally:
            drawing.cancel()
            screen.update(plots.picture(console.width), refresh=True)
