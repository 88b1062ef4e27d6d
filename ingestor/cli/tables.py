"""What `tail` makes of events besides lines: bars of trades, and Parquet files.

A bar has open, high, low, close, volume, and the mean spread of the quotes in it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ingestor.cli.event_text import symbol_of
from ingestor.client import Batch, Subscription
from ingestor.client.payloads import SUBJECTS
from ingestor.model.bounds import printable
from ingestor.model.errors import ConfigurationError
from ingestor.model.events import Event
from ingestor.model.records import overlap
from ingestor.model.units import NS_PER_DAY, NS_PER_S, iso_utc

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
