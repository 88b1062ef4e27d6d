from __future__ import annotations

import msgspec
import pytest

from ingestor.cli.tables import Bars, bar_header, bar_line, bar_ns
from ingestor.client import Message, decode
from ingestor.model.errors import ConfigurationError
from ingestor.model.events import Event
from ingestor.model.units import NS_PER_S
from tests.encode import examples

MINUTE = 60 * NS_PER_S


def event(subject: str, **values: object) -> Event:
    payload = next(example.payload for example in examples.CONTRACT if example.subject == subject)
    (made,) = decode(Message(subject, 1, payload))
    return msgspec.structs.replace(made, **values)


def trade(at_ns: int, price: float, size: int = 1, symbol: str = "ES.c.0") -> Event:
    return event("market.futures.trades", ts_event_ns=at_ns, price=price, size=size, symbol=symbol)


def test_a_bar_has_first_highest_lowest_and_last_price_and_all_of_the_size() -> None:
    bars = Bars(MINUTE)
    for at_ns, price, size in ((0, 10.0, 1), (1, 12.5, 2), (2, 9.0, 3), (MINUTE - 1, 11.0, 4)):
        assert bars.add(trade(at_ns, price, size)) is None
    bar = bars.add(trade(MINUTE, 20.0))
    assert bar is not None
    assert (bar.start_ns, bar.open, bar.high, bar.low, bar.close) == (0, 10.0, 12.5, 9.0, 11.0)
    assert (bar.volume, bar.trades, bar.spread) == (10, 4, None)
    assert [(rest.start_ns, rest.close) for rest in bars.rest()] == [(MINUTE, 20.0)]


def test_symbols_have_bars_of_their_own() -> None:
    bars = Bars(MINUTE)
    bars.add(trade(0, 1.0, symbol="A"))
    assert bars.add(trade(2 * MINUTE, 2.0, symbol="B")) is None
    over = bars.add(trade(MINUTE, 3.0, symbol="A"))
    assert over is not None
    assert (over.symbol, over.close) == ("A", 1.0)


def test_a_print_that_comes_late_counts_in_the_bar_that_is_open() -> None:
    bars = Bars(MINUTE)
    bars.add(trade(MINUTE, 1.0))
    assert bars.add(trade(0, 5.0)) is None
    (bar,) = bars.rest()
    assert (bar.start_ns, bar.high, bar.trades) == (MINUTE, 5.0, 2)


def test_the_spread_is_the_mean_of_quotes_with_two_sides_that_are_not_crossed() -> None:
    bars = Bars(MINUTE)
    quotes = ((10.0, 10.5), (10.0, 11.5), (None, 10.0), (12.0, 10.0))
    for bid, ask in quotes:
        quote = event("market.stocks.quotes", ts_event_ns=0, bid_px=bid, ask_px=ask)
        assert bars.add(quote) is None
    assert list(bars.rest()) == []
    bars.add(event("market.stocks.trades", ts_event_ns=1, price=10.0))
    (bar,) = bars.rest()
    assert bar.spread == 1.0


def test_a_book_s_best_level_is_a_quote_and_no_trade() -> None:
    bars = Bars(MINUTE)
    bars.add(event("market.futures.mbp10", ts_event_ns=0))
    bars.add(trade(1, 6869.5))
    (bar,) = bars.rest()
    assert (bar.spread, bar.trades) == (0.25, 1)


def test_a_line_stands_below_its_header() -> None:
    bars = Bars(MINUTE)
    bars.add(trade(1_765_895_400 * NS_PER_S, 6869.75, 1_234_567))
    line = bar_line(next(bars.rest()))
    assert line.startswith("2025-12-16 14:30:00  ES.c.0          6869.75 ")
    header = bar_header()
    for name, value in (("open", "6869.75"), ("volume", "1,234,567"), ("trades", "1 ")):
        assert header.index(name) + len(name) == line.index(value) + len(value.rstrip())


@pytest.mark.parametrize(("text", "ns"), [("30s", 30), ("1m", 60), ("4h", 14_400)])
def test_a_span_is_written_with_its_unit(text: str, ns: int) -> None:
    assert bar_ns(text) == ns * NS_PER_S


@pytest.mark.parametrize("text", ["", "1", "0m", "7m", "25h", "1d", "m"])
def test_a_span_that_does_not_divide_a_day_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--bars is"):
        bar_ns(text)
