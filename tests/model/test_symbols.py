from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.errors import BadDataError
from ingestor.model.symbols import PUBLISHER_EXCHANGE, OptionTicker, parse_option_ticker, symbol_of


def test_a_ticker_is_read_from_the_right() -> None:
    assert parse_option_ticker("O:SPY251216C00676500") == OptionTicker(
        "SPY", dt.date(2025, 12, 16), "C", 676_500_000_000
    )


@pytest.mark.parametrize("root", ["A", "TSLA1", "2SPX", "BRK.B", "GOOGL7"])
def test_a_root_may_hold_digits(root: str) -> None:
    ticker = parse_option_ticker(f"O:{root}251216P00000500")
    assert (ticker.underlying, ticker.right, ticker.strike_e9) == (root, "P", 500_000_000)


@given(
    st.from_regex(r"[A-Z0-9.]{1,6}", fullmatch=True),
    st.dates(dt.date(2000, 1, 1), dt.date(2099, 12, 31)),
    st.sampled_from("CP"),
    st.integers(0, 99_999_999),
)
def test_any_ticker_is_written_as_it_was_read(
    root: str, expiry: dt.date, right: str, thousandths: int
) -> None:
    ticker = OptionTicker(root, expiry, right, thousandths * 1_000_000)
    assert parse_option_ticker(ticker.text) == ticker


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SPY",
        "SPY251216C00676000",
        "O:251216C00676000",
        "O:TOOLONG251216C00676000",
        "O:SPY251316C00676000",
        "O:SPY251216X00676000",
        "O:SPY251216C0067600",
        "O:SPY251216C0067600a",
        "O:SPY²51216C00676000",
        "O:SPY251216C+0676000",
    ],
)
def test_what_is_no_ticker_is_named(text: str) -> None:
    with pytest.raises(BadDataError, match="is not an option ticker"):
        parse_option_ticker(text)


def test_an_instrument_that_the_table_does_not_list_is_its_id() -> None:
    assert symbol_of({1: "ES"}, 1) == "ES"
    assert symbol_of({1: "ES"}, 17077) == "17077"


@pytest.mark.parametrize(
    ("publisher_id", "exchange"),
    [
        (1, "CME"),
        (2, "XNAS"),
        (19, "FINY"),
        (22, "XCBO"),
        (30, "OPRA"),
        (43, "ARCX"),
        (57, "IFEU"),
        (58, "NDEX"),
        (80, "LTSE"),
        (84, "XOFF"),
        (95, "EQUS"),
        (97, "IFUS"),
        (101, "XEUR"),
        (105, "XCBF"),
        (107, "OCEA"),
    ],
)
def test_a_publisher_stands_for_the_venue_in_the_vendors_list(
    publisher_id: int, exchange: str
) -> None:
    assert PUBLISHER_EXCHANGE[publisher_id] == exchange


def test_the_list_has_no_holes_and_a_publisher_outside_it_no_venue() -> None:
    assert list(PUBLISHER_EXCHANGE) == list(range(1, 108))
    assert all(len(venue) == 4 for number, venue in PUBLISHER_EXCHANGE.items() if number > 1)
