from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.polygon.instruments import NO_ASK, NO_BID, Instruments

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
def test_the_aggressor_follows_the_contract(
    bid: float, ask: float, price: int, aggressor: int
) -> None:
    instruments = Instruments()
    for number, symbol in enumerate(("before", "SPY", "behind")):
        assert instruments.add(symbol) == number
    assert instruments.aggressor(1, price) == MID
    instruments.quotes[2], instruments.quotes[3] = bid, ask
    assert instruments.aggressor(1, price) == aggressor
    assert instruments.aggressor(0, price) == instruments.aggressor(2, price) == MID


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


def test_a_known_symbol_is_found_under_its_id() -> None:
    instruments = Instruments()
    assert instruments.add("SPY") == instruments.find("SPY") == 0


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
    instruments.add("SPY")
    instruments.quotes[0], instruments.quotes[1] = 100, 102
    instruments.forget_quotes()
    assert instruments.aggressor(0, 102) == MID
    assert instruments.find("SPY") == 0


def test_what_is_like_another_knows_its_quotes_and_gives_its_ids() -> None:
    live = Instruments()
    live.add("SPY")
    live.quotes[0], live.quotes[1] = 686, 687
    other = Instruments(like=live)
    live.add("AAPL")
    live.add("QQQ")
    assert (other.find("SPY"), other.add("QQQ")) == (0, 2)
    assert other.quotes[:6].tolist() == [686, 687, NO_BID, NO_ASK, NO_BID, NO_ASK]
    other.forget_quotes()
    assert live.quotes[:2].tolist() == [686, 687]


def test_quotes_stay_when_room_is_made_for_more() -> None:
    instruments = Instruments()
    for number in range(300):
        assert instruments.add(str(number)) == number
        instruments.quotes[2 * number] = number + 1
    assert instruments.quotes[0:600:2].tolist() == list(range(1, 301))
    assert set(instruments.quotes[1:600:2].tolist()) == {NO_ASK}
