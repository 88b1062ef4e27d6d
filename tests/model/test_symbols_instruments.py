from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.symbols import NO_ASK, NO_BID, Instrument, Instruments

BUY, MID, SELL = 1, 0, -1


@pytest.mark.parametrize(
    ("bid", "ask", "price", "aggressor"),
    [
        (100, 102, 102, BUY),
        (100, 102, 103, BUY),
        (100, 102, 100, SELL),
        (100, 102, 99, SELL),
        (100, 102, 101, MID),
        (100, 100, 100, MID),
        (100, 100, 101, BUY),
        (100, 100, 99, SELL),
        (102, 100, 101, MID),
        (102, 100, 100, MID),
        (102, 100, 102, MID),
        (102, 100, 103, BUY),
        (102, 100, 99, SELL),
        (NO_BID, 102, 102, BUY),
        (NO_BID, 102, 101, MID),
        (100, NO_ASK, 100, SELL),
        (100, NO_ASK, 101, MID),
        (NO_BID, NO_ASK, 101, MID),
    ],
)
def test_the_aggressor_follows_the_contract(bid: int, ask: int, price: int, aggressor: int) -> None:
    instrument = Instrument(0)
    assert instrument.aggressor(price) == MID
    instrument.bid_e9, instrument.ask_e9 = bid, ask
    assert instrument.aggressor(price) == aggressor


@given(st.lists(st.text(max_size=3)))
def test_ids_count_up_and_each_symbol_is_announced_once(symbols: list[str]) -> None:
    instruments = Instruments()
    announced: list[tuple[int, str]] = []
    for symbol in symbols:
        if instruments.find(symbol) is None:
            instruments.add(symbol)
        announced += instruments.take_new()
    assert announced == list(enumerate(dict.fromkeys(symbols)))
    assert dict(announced) == instruments.table


def test_a_known_symbol_is_found_as_the_same_instrument() -> None:
    instruments = Instruments()
    assert instruments.add("SPY") is instruments.find("SPY")


def test_beyond_the_limit_no_symbol_is_added() -> None:
    instruments = Instruments(limit=2)
    assert [instruments.add(symbol) is None for symbol in "abc"] == [False, False, True]
    assert instruments.take_new() == ((0, "a"), (1, "b"))


def test_a_table_grows_in_place_and_its_ids_keep_their_symbols() -> None:
    instruments = Instruments()
    instruments.add("a")
    instruments.take_new()
    before = instruments.table
    assert instruments.take_new() == ()
    instruments.add("b")
    assert before == {0: "a"}
    instruments.take_new()
    assert instruments.table is before
    assert before == {0: "a", 1: "b"}


def test_forgotten_quotes_decide_nothing_and_ids_stay() -> None:
    instruments = Instruments()
    instrument = instruments.add("SPY")
    assert instrument is not None
    instrument.bid_e9, instrument.ask_e9 = 100, 102
    instruments.forget_quotes()
    assert instrument.aggressor(102) == MID
    assert instruments.find("SPY") is instrument


def test_what_is_like_another_knows_its_quotes_and_gives_its_ids() -> None:
    live = Instruments()
    spy = live.add("SPY")
    assert spy is not None
    spy.bid_e9 = 686
    other = Instruments(like=live)
    live.add("AAPL")
    live.add("QQQ")
    known, new = other.find("SPY"), other.add("QQQ")
    assert known is not None
    assert new is not None
    assert (known.id, known.bid_e9, new.id) == (0, 686, 2)
    other.forget_quotes()
    assert spy.bid_e9 == 686
