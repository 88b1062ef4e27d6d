"""Which of the decoded records are wanted: by event time and by symbol, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from ingestor.feeds.polygon.journal_progress import JournalProgress
from ingestor.feeds.windows import EVERYTHING, Window, inside
from ingestor.journal.format import Market
from ingestor.model.keys import RunningKey
from ingestor.model.records import OPTION_TRADE, STOCK_TRADE, Records
from ingestor.model.symbols import SymbolTable, parse_option_ticker

DTYPES: Final = {Market.STOCKS: STOCK_TRADE, Market.OPTIONS: OPTION_TRADE}


class JournalFilter:
    """Cuts rows into arrays of at most `block_bytes` and leaves out what is not wanted.

    Attributes:
        windows: Event times that are wanted; set anew for every segment.
        nothing: An empty array.
    """

    def __init__(self, market: Market, symbols: frozenset[str], block_bytes: int) -> None:
        """Keep these symbols, of options also all of these underlyings; none keeps all."""
        self._market = market
        self._symbols = symbols
        self._order = RunningKey()
        self.block_bytes = block_bytes
        self.windows: Sequence[Window] = (EVERYTHING,)
        self.nothing: Records = np.zeros(0, DTYPES[market])

    def of(
        self, rows: bytearray, table: SymbolTable, progress: JournalProgress
    ) -> Iterator[Records]:
        """Yield the wanted records among these, never an empty array; counts as it goes."""
        records: Records = np.frombuffer(rows, self.nothing.dtype)
        step = self.block_bytes // records.itemsize
        for first in range(0, len(records), step):
            wanted = self._wanted(records[first : first + step], table)
            progress.filtered += len(records[first : first + step]) - len(wanted)
            if len(wanted):
                progress.records += len(wanted)
                progress.late += self._order.advance(wanted)[1]
                yield wanted

    def _wanted(self, records: Records, table: SymbolTable) -> Records:
        kept = inside(records["ts_event_ns"], self.windows)
        if kept is not None:
            records = records[kept]
        if not self._symbols:
            return records
        there = np.unique(records["instrument_id"]).tolist()
        wanted = [number for number in there if self._is_wanted(table[number])]
        return records[np.isin(records["instrument_id"], wanted)]

    def _is_wanted(self, symbol: str) -> bool:
        if symbol in self._symbols:
            return True
        return (
            self._market is Market.OPTIONS
            and parse_option_ticker(symbol).underlying in self._symbols
        )
