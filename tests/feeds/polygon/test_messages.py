from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestor.feeds.polygon.messages import (
    MAX_PRICE,
    OPTION_KEYS,
    STOCK_KEYS,
    StockTrade,
    price_to_e9,
)

UNITS = MAX_PRICE * 10**9 - 1


def parsed(text: str) -> float:
    return msgspec.json.decode(text.encode(), type=float)


@settings(max_examples=1000)
@given(st.integers(1, UNITS))
@example(1)
@example(UNITS)
@example(225_630_000_000)
@example(1_999_999_999_999_999)
def test_every_price_of_nine_decimals_below_the_bound_is_exact(e9: int) -> None:
    text = f"{Decimal(e9).scaleb(-9):f}"
    assert price_to_e9(parsed(text)) == e9


@settings(max_examples=500)
@given(st.decimals(0, MAX_PRICE - 1, places=4))
def test_every_price_of_four_decimals_is_exact(price: Decimal) -> None:
    assert price_to_e9(parsed(f"{price:f}")) == int(price.scaleb(9))


def test_the_bound_leaves_room_below_half_a_unit() -> None:
    assert MAX_PRICE * 10**9 < 2**51


def test_decimals_beyond_the_ninth_round_to_the_nearest() -> None:
    assert price_to_e9(parsed("225.6299999999999")) == 225_630_000_000
    assert price_to_e9(parsed("0.0000000014")) == 1


@pytest.mark.parametrize("text", ["0", "-1.5", "2000000", "1e400"])
def test_a_trade_price_outside_the_domain_is_refused(text: str) -> None:
    data = f'{{"ev":"T","sym":"A","t":1786649956459,"p":{text}}}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=StockTrade)


def test_known_keys_are_the_vendors_names() -> None:
    trade = "ev sym x i z p s ds c t pt q trfi trft"
    quote = "ev sym bx ax bp ap bs as t pt q z c i"
    assert STOCK_KEYS["T"] == set(trade.split())
    assert STOCK_KEYS["Q"] == set(quote.split())
    assert OPTION_KEYS["Q"] == {"ev", "sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "q"}
