"""What `tail` makes of events besides lines: bars of trades, plots of these, and Parquet files.

A bar has open, high, low, close, volume, and the mean spread of the quotes in it. In a plot it is
one column, candles above and volume below. A row of candles is two half rows, which box-drawing
characters tell apart: the thick part of a candle lies between open and close, the thin one between
low and high.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ingestor.cli.event_text import symbol_of
from ingestor.client import Batch, Subscription
from ingestor.client.payloads import SUBJECTS
from ingestor.model.bounds import printable
from ingestor.model.errors import ConfigurationError
from ingestor.model.events import Event
from ingestor.model.records import overlap
from ingestor.model.units import NS_PER_DAY, NS_PER_S, iso_utc, new_york_time

MAX_BARS_OPEN: Final = 20_000
"""Symbols with a bar that is not over; of more, the oldest bar is given out as it is."""

_SPAN: Final = re.compile(r"(\d{1,5})([smh])").fullmatch
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
_HEAD: Final = (
    "time (UTC)           symbol             open       high        low      close"
    "       volume   trades     spread"
)

ROWS_AT_ONCE: Final = 65_536
"""A row group: rows are kept until there are this many, or the end comes."""


def bar_ns(text: str) -> int:
    """Return the length of a bar, ``30s``, ``1m`` or ``1h``, in ns. Raises ConfigurationError."""
    found = _SPAN(text)
    length_ns = int(found[1]) * _UNITS_S[found[2]] * NS_PER_S if found else 0
    # Bars begin at whole multiples of their length since midnight UTC.
    if not length_ns or NS_PER_DAY % length_ns:
        raise ConfigurationError(
            f"--bars is {text!r}; allowed are 1s, 30s, 1m, 5m, 1h and what else divides a day"
        )
    return length_ns


@dataclass(slots=True)
class Bar:
    """One symbol's trades within a span of event time; `start_ns` is int ns UTC."""

    symbol: str
    start_ns: int
    open: float | None = None
    high: float = 0.0
    low: float = 0.0
    close: float = 0.0
    volume: int = 0
    trades: int = 0
    spreads: float = 0.0
    quotes: int = 0

    def add(self, event: Any) -> None:
        """Count an event."""
        # Of a book its best level counts; a trade has neither side.
        best = event.levels[0] if hasattr(event, "levels") else event
        bid, ask = getattr(best, "bid_px", None), getattr(best, "ask_px", None)
        # A book is crossed before an opening auction; nobody trades at such a spread.
        if bid is not None and ask is not None and bid <= ask:
            self.spreads += ask - bid
            self.quotes += 1
        price = getattr(event, "price", None)
        if price is None:
            return
        if self.open is None:
            self.open = self.high = self.low = price
        self.high, self.low, self.close = max(self.high, price), min(self.low, price), price
        self.volume += event.size
        self.trades += 1

    @property
    def spread(self) -> float | None:
        """Ask less bid, the mean of quotes and books that are not crossed; None without any."""
        return self.spreads / self.quotes if self.quotes else None


class Bars:
    """Bars of `length_ns`, each given out when its symbol's next one begins."""

    def __init__(self, length_ns: int) -> None:
        self._length_ns = length_ns
        self._open: dict[str, Bar] = {}

    def add(self, event: Event) -> Bar | None:
        """Count an event; return the bar that is over by it, if it had any trade."""
        symbol = symbol_of(event)
        start_ns = event.ts_event_ns - event.ts_event_ns % self._length_ns
        bar, over = self._open.get(symbol), None
        # A late print belongs to a bar that was given out: it counts in the one that is open.
        if bar is None or start_ns > bar.start_ns:
            over = self._open.pop(symbol, None)
            if len(self._open) >= MAX_BARS_OPEN:
                over = self._open.pop(next(iter(self._open)))
            bar = self._open[symbol] = Bar(symbol, start_ns)
        bar.add(event)
        return over if over is not None and over.trades else None

    def rest(self) -> Iterator[Bar]:
        """Yield the bars that are not over, where they have a trade."""
        yield from (bar for bar in self._open.values() if bar.trades)


def bar_header() -> str:
    """Return the names of the columns of `bar_line`."""
    return _HEAD


def bar_line(bar: Bar) -> str:
    """Return a bar as a line below `bar_header`."""
    time = iso_utc(bar.start_ns)[:19].replace("T", " ")
    prices = (bar.open or 0.0, bar.high, bar.low, bar.close)
    shown = " ".join(f"{price:>10.10g}" for price in prices)
    spread = "-" if bar.spread is None else f"{bar.spread:.4g}"
    symbol = printable(bar.symbol)
    return f"{time}  {symbol:<12} {shown} {bar.volume:>12,} {bar.trades:>8,} {spread:>10}"


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


class ParquetFiles:
    """Writes batches to `path`, or to one file beside it for each type where there may be several.

    Raises ConfigurationError where pyarrow is not installed, or a file is there already.
    """

    def __init__(self, path: Path, subject: str) -> None:
        try:
            self._parquet: Any = import_module("pyarrow.parquet")
            self._arrow: Any = import_module("pyarrow")
        except ImportError as error:
            raise ConfigurationError(
                f"--parquet needs pyarrow: pip install 'ingestor[tables]' ({error})"
            ) from error
        self._path = path
        self._many = sum(overlap(subject, ours) for ours in SUBJECTS) > 1
        self._writers: dict[str, Any] = {}
        self._waiting: dict[str, list[Any]] = {}
        self.rows: dict[Path, int] = {}
        """Rows written by file."""

    def add(self, batch: Batch) -> None:
        """Write a batch, or keep it until there are enough rows."""
        name = batch.event_type.subject
        waiting = self._waiting.setdefault(name, [])
        waiting.append(batch.to_arrow())
        if sum(table.num_rows for table in waiting) >= ROWS_AT_ONCE:
            self._write(name)

    def close(self) -> None:
        """Write what is kept, and finish the files."""
        for name in tuple(self._waiting):
            self._write(name)
        for writer in self._writers.values():
            writer.close()

    def _write(self, name: str) -> None:
        tables = self._waiting.pop(name)
        table = self._arrow.concat_tables(tables)
        path = self._path_of(name)
        if name not in self._writers:
            self._writers[name] = self._parquet.ParquetWriter(_new(path), table.schema)
        self._writers[name].write_table(table)
        self.rows[path] = self.rows.get(path, 0) + table.num_rows

    def _path_of(self, subject: str) -> Path:
        if not self._many:
            return self._path
        kind = subject.removeprefix("market.")
        return self._path.with_name(f"{self._path.stem}.{kind}{self._path.suffix}")


async def write(subscription: Subscription, files: ParquetFiles) -> None:
    """Write what a subscription brings, to its end or to Ctrl-C; then say what was written."""
    try:
        async for batch in subscription.batches():
            files.add(batch)
    finally:
        files.close()
        for path, rows in files.rows.items():
            print(f"{rows:,} rows in {path}", file=sys.stderr)


def _new(path: Path) -> str:
    """Refuse to write over a file."""
    try:
        path.open("xb").close()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from None
    return str(path)
