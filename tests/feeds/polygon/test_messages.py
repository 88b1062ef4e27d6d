from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestor.feeds.polygon.decode import StockDecoder
from ingestor.feeds.polygon.frames import Oddity
from ingestor.feeds.polygon.messages import (
    MAX_PRICE,
    OPTION_KEYS,
    STOCK_KEYS,
    StockTradeMessage,
)
from tests.feeds.polygon.wire import MS, RECV_NS

UNITS = MAX_PRICE * 10**9 - 1


def decoded(price: str) -> tuple[int, bool]:
    """The price of a trade in 1e-9, and whether it was rounded."""
    data = f'[{{"ev":"T","sym":"A","s":1,"t":{MS},"p":{price}}}]'
    trade = StockDecoder().decode(data.encode(), RECV_NS)
    return int(trade.records["price_e9"][0]), Oddity.PRICE_ROUNDED in trade.oddities


@settings(max_examples=1000)
@given(st.integers(1, UNITS))
@example(1)
@example(UNITS)
@example(225_630_000_000)
@example(1_999_999_999_999_999)
def test_every_price_of_nine_decimals_below_the_bound_is_exact(e9: int) -> None:
    text = f"{Decimal(e9).scaleb(-9):f}"
    assert decoded(text) == (e9, False)


@settings(max_examples=500)
@given(st.decimals("0.0001", MAX_PRICE - 1, places=4))
def test_every_price_of_four_decimals_is_exact(price: Decimal) -> None:
    assert decoded(f"{price:f}") == (int(price.scaleb(9)), False)


def test_the_bound_leaves_room_below_half_a_unit() -> None:
    assert MAX_PRICE * 10**9 < 2**51


def test_decimals_beyond_the_ninth_round_to_the_nearest() -> None:
    assert decoded("225.6299999999999") == (225_630_000_000, True)
    assert decoded("0.0000000014") == (1, True)


@settings(max_examples=500)
@given(st.integers(1, 500_000), st.integers(1, 999).filter(lambda rest: rest != 500))
def test_a_price_that_was_rounded_is_noticed(units: int, rest_e12: int) -> None:
    price = Decimal(units) / 1000 + Decimal(rest_e12).scaleb(-12)
    nearest = int((price * 10**9).to_integral_value())
    assert decoded(f"{price:f}") == (nearest, True)


@pytest.mark.parametrize("text", ["0", "-1.5", "2000000", "1e400"])
def test_a_trade_price_outside_the_domain_is_refused(text: str) -> None:
    data = f'{{"ev":"T","sym":"A","t":1786649956459,"p":{text}}}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=StockTradeMessage)


def test_known_keys_are_the_vendors_names() -> None:
    trade = "ev sym x i z p s ds c t pt q trfi trft"
    quote = "ev sym bx ax bp ap bs as t pt q z c i"
    assert STOCK_KEYS["T"] == set(trade.split())
    assert STOCK_KEYS["Q"] == set(quote.split())
    assert OPTION_KEYS["Q"] == {"ev", "sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "q"}
