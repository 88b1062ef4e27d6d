from __future__ import annotations

from typing import Any

import numpy as np

from ingestor.feeds.polygon.journal_feed import JournalFilter
from ingestor.feeds.windows import Window
from ingestor.journal.format import Market
from ingestor.journal.reader import JournalProgress
from ingestor.model.records import OPTION_TRADE, STOCK_TRADE, Records
from tests.feeds.polygon.wire import CONTRACT

STOCKS = {0: "SPY", 1: "QQQ"}
OPTIONS = {0: CONTRACT, 1: "O:SPYG260814C00080000", 2: "O:QQQ260814C00500000"}


def rows(*pairs: tuple[int, int], dtype: np.dtype[Any] = STOCK_TRADE) -> bytearray:
    """Records of (instrument, event time)."""
    records: Records = np.zeros(len(pairs), dtype)
    records["instrument_id"] = [pair[0] for pair in pairs]
    records["ts_event_ns"] = [pair[1] for pair in pairs]
    return bytearray(records.tobytes())


def kept(choice: JournalFilter, data: bytearray, table: dict[int, str]) -> tuple[list[Any], Any]:
    progress = JournalProgress()
    blocks = list(choice.of(data, table, progress))
    found = [record[["instrument_id", "ts_event_ns"]].item() for one in blocks for record in one]
    return found, progress


def test_without_wishes_everything_is_kept_and_late_ones_counted() -> None:
    pairs = [(0, 10), (1, 5), (0, 20)]
    found, progress = kept(JournalFilter(Market.STOCKS, frozenset(), 4096), rows(*pairs), STOCKS)
    assert found == pairs
    assert (progress.records, progress.filtered, progress.late) == (3, 0, 1)


def test_lateness_is_told_across_blocks() -> None:
    choice, progress = JournalFilter(Market.STOCKS, frozenset(), 4096), JournalProgress()
    for time in (10, 5):
        list(choice.of(rows((0, time)), STOCKS, progress))
    assert progress.late == 1


def test_times_and_symbols_are_both_heeded() -> None:
    choice = JournalFilter(Market.STOCKS, frozenset({"SPY"}), 4096)
    choice.windows = [Window(10, 20), Window(30, 40)]
    pairs = [(0, 9), (0, 10), (1, 11), (0, 20), (0, 30), (0, 39), (0, 40)]
    found, progress = kept(choice, rows(*pairs), STOCKS)
    assert found == [(0, 10), (0, 30), (0, 39)]
    assert (progress.records, progress.filtered) == (3, 4)


def test_an_underlying_means_its_own_options_only() -> None:
    data = rows((0, 1), (1, 2), (2, 3), dtype=OPTION_TRADE)
    for symbols, expected in (
        ({"SPY"}, [(0, 1)]),
        ({"SPYG", CONTRACT}, [(0, 1), (1, 2)]),
        ({"IWM"}, []),
    ):
        choice = JournalFilter(Market.OPTIONS, frozenset(symbols), 4096)
        assert kept(choice, data, OPTIONS)[0] == expected


def test_nothing_wanted_is_no_block() -> None:
    choice, progress = JournalFilter(Market.STOCKS, frozenset({"IWM"}), 4096), JournalProgress()
    assert list(choice.of(rows((0, 1)), STOCKS, progress)) == []
    assert list(choice.of(bytearray(), STOCKS, progress)) == []
    assert progress.filtered == 1
