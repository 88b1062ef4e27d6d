from __future__ import annotations

from typing import Any

import pytest

from ingestor.feeds.polygon.decode import StockDecoder
from ingestor.feeds.polygon.option_follower import (
    MAX_SPREAD_E9,
    QUOTE_FRESH_NS,
    ReferencePrice,
)
from ingestor.model.units import PRICE_SCALE
from tests.feeds.polygon.wire import MS, RECV_NS, frame, quote, trade


class Feed:
    def __init__(self) -> None:
        self._decoder = StockDecoder()
        self._reference = ReferencePrice("SPY")
        self.trouble: str | None = None

    def take(self, *elements: Any, recv_ns: int = RECV_NS) -> float | None:
        decoded = self._decoder.decode(frame(*elements), recv_ns)
        self.trouble = self._reference.on_frame(decoded)
        price_e9 = self._reference.price_e9
        return None if price_e9 is None else price_e9 / PRICE_SCALE


def test_before_the_first_record_there_is_no_reference() -> None:
    assert Feed().take() is None


def test_the_reference_is_the_mid_of_the_newest_quote() -> None:
    feed = Feed()
    assert feed.take(quote(bp=686.0, ap=686.02)) == 686.01
    assert feed.take(quote(bp=687.0, ap=687.02), quote(bp=688.0, ap=688.01)) == 688.005
    assert feed.take(trade(p=700.0)) == 688.005


@pytest.mark.parametrize(
    "insane",
    [
        quote(bp=0),
        quote(ap=0),
        quote(bp=686.03, ap=686.02),
        quote(bp=100.0, ap=100.0 + MAX_SPREAD_E9 / PRICE_SCALE + 0.01),
        quote(bp=686.0, ap=686.69),
        quote(sym="QQQ", bp=100.0, ap=100.01),
    ],
)
def test_a_quote_that_is_not_sane_is_passed_over(insane: Any) -> None:
    feed = Feed()
    assert feed.take(quote(), insane) == 686.01
    assert feed.take(insane) == 686.01
    assert Feed().take(trade(p=686.5), insane) == 686.5


@pytest.mark.parametrize(
    ("bid", "ask", "mid"),
    [(686.0, 686.0, 686.0), (100.0, 100.5, 100.25), (5_000.0, 5_004.5, 5_002.25)],
)
def test_a_locked_quote_and_one_of_the_widest_spread_are_sane(
    bid: float, ask: float, mid: float
) -> None:
    assert Feed().take(quote(bp=bid, ap=ask)) == mid


def test_without_a_quote_the_newest_ordinary_trade_is_the_reference() -> None:
    feed = Feed()
    assert feed.take(trade(p=686.0), trade(p=686.5)) == 686.5
    assert feed.take(trade(p=686.7, c=[14, 41])) == 686.7


@pytest.mark.parametrize(
    "odd",
    [
        trade(p=700.0, x=4),
        trade(p=700.0, c=[37]),
        trade(p=700.0, c=[14, 2]),
        trade(p=700.0, pt=MS - 1500),
        trade(p=700.0, sym="QQQ"),
    ],
)
def test_a_trade_that_is_not_ordinary_is_passed_over(odd: Any) -> None:
    feed = Feed()
    assert feed.take(trade(p=686.0), odd) == 686.0
    assert feed.take(odd) == 686.0


def test_a_quote_that_is_no_longer_renewed_gives_way_to_trades() -> None:
    feed = Feed()
    feed.take(quote())
    assert feed.take(trade(p=690.0), recv_ns=RECV_NS + QUOTE_FRESH_NS) == 686.01
    assert feed.take(trade(p=690.0), recv_ns=RECV_NS + QUOTE_FRESH_NS + 1) == 690.0
    assert feed.take(quote(), recv_ns=RECV_NS + QUOTE_FRESH_NS + 2) == 686.01


WIDE = quote(bp=100.0, ap=105.5)
LATER = RECV_NS + QUOTE_FRESH_NS


def troubles(*frames: tuple[int, Any]) -> list[str | None]:
    """What is told about frames of one element each, so long after the first."""
    feed = Feed()
    told = []
    for after_ns, element in frames:
        feed.take(element, recv_ns=RECV_NS + after_ns)
        told.append(feed.trouble)
    return told


def test_quotes_that_stay_too_wide_are_told_once() -> None:
    first, early, due, again = troubles(
        (0, WIDE), (QUOTE_FRESH_NS - 1, WIDE), (QUOTE_FRESH_NS, WIDE), (9 * QUOTE_FRESH_NS, WIDE)
    )
    assert (first, early, again) == (None, None, None)
    assert due == (
        "no price of SPY for 10 s: its newest quote, 100.0 to 105.5, is wider than the 0.5 that"
        " tell one, and nothing was traded"
    )


@pytest.mark.parametrize("sane", [quote(), trade(p=686.0)])
def test_a_price_ends_what_is_told_and_after_it_the_price_that_stays_is_named(sane: Any) -> None:
    step = QUOTE_FRESH_NS
    told = troubles(
        *((0, WIDE), (step, WIDE), (step + 1, sane), (step + 2, WIDE), (2 * step, WIDE)),
        *((2 * step + 2, WIDE), (2 * step + 3, WIDE)),
    )
    assert [bool(text) for text in told] == [False, True, False, False, False, True, False]
    assert str(told[5]).endswith("; the price stays 686.01") or str(told[5]).endswith("stays 686.0")


@pytest.mark.parametrize("other", [quote(bp=0), quote(ap=0), quote(bp=9.0, ap=8.0), quote(sym="A")])
def test_quotes_that_are_no_prices_for_another_reason_are_not_called_wide(other: Any) -> None:
    assert troubles((0, other), (5 * QUOTE_FRESH_NS, other)) == [None, None]


def test_among_many_symbols_only_its_own_rows_count() -> None:
    feed = Feed()
    others = [quote(sym=f"Z{number}", bp=1.0, ap=1.01) for number in range(300)]
    assert feed.take(*others) is None
    assert feed.take(*others, quote(), *others, trade(p=5.0, sym="Z1")) == 686.01
    assert feed.take(*others, trade(p=700.0), *others, recv_ns=LATER + 1) == 700.0
