from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios

import msgspec
import pytest

from ingestor.cli.event_text import EventTable, aligned, is_of_symbol, line_of, symbol_of
from ingestor.client import Message, decode
from ingestor.model.events import Event
from tests.encode import examples

LINES = {
    "market.stocks.trades": (
        "2025-12-16T14:30:00.001000000Z StockTrade   SPY              686.01 x 100   BUY"
    ),
    "market.stocks.quotes": (
        "2025-12-16T14:30:00.002000000Z StockQuote   SPY               686.0 x 320   "
        "|     686.01 x 200"
    ),
    "market.options.trades": (
        "2025-12-16T14:30:00.003000000Z OptionTrade  O:SPY251216C00686000       1.23 x 1     MID"
        "  quote - | -"
    ),
    "market.futures.trades": (
        "2025-12-16T14:30:00.017150864Z FuturesTrade ES.c.0           6870.0 x 27    BUY"
    ),
    "market.futures.mbp10": (
        "2025-12-16T14:30:00.017150864Z MBP10        ES.c.0           6869.5 x 85    "
        "|    6869.75 x 144    add bid 6869.5 x 3"
    ),
}


def event_of(subject: str) -> Event:
    payload = next(example.payload for example in examples.CONTRACT if example.subject == subject)
    (event,) = decode(Message(subject, 1, payload))
    return event


@pytest.mark.parametrize("subject", LINES)
def test_an_event_is_one_readable_line(subject: str) -> None:
    assert line_of(event_of(subject)) == LINES[subject]


@pytest.mark.parametrize("action", ["A", "C", "M", "T", "R", "F", None])
@pytest.mark.parametrize("side", ["A", "B", "N", None])
def test_every_change_of_a_book_has_words(action: str | None, side: str | None) -> None:
    book = msgspec.structs.replace(event_of("market.futures.mbp10"), action=action, side=side)
    words = line_of(book).split("x 144")[1].split()
    expected = {"A": "add", "C": "cancel", "M": "modify", "T": "trade", "R": "clear", "F": "fill"}
    assert words[0] == (expected[action] if action else "?")
    assert words[1] == {"A": "ask", "B": "bid"}.get(side or "", "6869.5")


def test_a_snapshot_and_an_empty_side_are_shown() -> None:
    book = event_of("market.futures.mbp10")
    levels = msgspec.structs.asdict(book)["levels"]
    empty = msgspec.structs.replace(
        book, levels=(levels[1], *levels[1:]), is_snapshot=True, action_price=None
    )
    assert line_of(empty).endswith("- x 0     |          - x 0      add bid - x 3  snapshot")


def test_an_option_is_found_by_its_ticker_and_its_underlying() -> None:
    option = event_of("market.options.trades")
    assert symbol_of(option) == "O:SPY251216C00686000"
    assert is_of_symbol(option, frozenset({"SPY"}))
    assert is_of_symbol(option, frozenset({"O:SPY251216C00686000"}))
    assert not is_of_symbol(option, frozenset({"QQQ"}))
    assert not is_of_symbol(event_of("market.futures.trades"), frozenset({"SPY"}))


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_end_alike() -> None:
    rows = [("day", "size", "of"), ("Tuesday", "7", ""), ("Wed", "1,000", "ES")]
    assert aligned(rows, right={1}) == [
        "day       size  of",
        "Tuesday      7",
        "Wed      1,000  ES",
    ]


@pytest.mark.parametrize(
    ("columns", "time"), [(0, "2025-12-16T14:30:00.002000000Z"), (80, "14:30:00.002")]
)
def test_a_narrow_terminal_gets_short_times_and_one_row_an_event(columns: int, time: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as out:
        table = EventTable(out)
        lines = [table.header(), table.line(event_of("market.stocks.quotes"))]
    os.close(ours)
    header, line = (re.sub(r"\x1b\[[\d;]*m|\n", "", line) for line in lines)
    assert line.startswith(f"{time} StockQuote ")
    assert header.index("event") == line.index("StockQuote")
    assert not columns or len(line) <= columns
