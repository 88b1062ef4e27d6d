from __future__ import annotations

import json
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.market_tape import (
    BLOCK_STEPS,
    BLOCKS_KEPT,
    MIN_CENTS,
    STEP_NS,
    EventBatch,
    Ints,
    Underlying,
    choose,
    prices,
    write,
)


def path(underlying: Underlying, seconds: float, step_ns: int = STEP_NS) -> Ints:
    return underlying.cents(np.arange(0, round(seconds * NS_PER_S), step_ns, dtype=np.int64))


def test_the_same_seed_walks_the_same_way() -> None:
    one, other = (path(Underlying(7, 68_600, 4.5), 20) for _ in range(2))
    assert one.tolist() == other.tolist()


def test_another_seed_walks_another_way() -> None:
    assert (
        path(Underlying(7, 68_600, 4.5), 20).tolist()
        != path(Underlying(8, 68_600, 4.5), 20).tolist()
    )


def test_the_walk_does_not_depend_on_how_often_it_is_asked() -> None:
    coarse = path(Underlying(7, 68_600, 4.5), 20, step_ns=NS_PER_S)
    fine = path(Underlying(7, 68_600, 4.5), 20)
    assert coarse.tolist() == fine[:: NS_PER_S // STEP_NS].tolist()


@pytest.mark.parametrize("volatility", [1.0, 4.5, 40.0])
def test_its_variance_grows_by_the_volatility_squared_a_second(volatility: float) -> None:
    ends = [
        Underlying(seed, 1_000_000, volatility).at(10 * NS_PER_S) - 1_000_000 for seed in range(300)
    ]
    assert np.std(ends) == pytest.approx(volatility * 10**0.5, rel=0.15)


def test_without_volatility_the_price_stands_still() -> None:
    assert set(path(Underlying(1, 68_600, 0), 5).tolist()) == {68_600}


def test_a_move_at_once_takes_effect_at_its_time_and_not_before() -> None:
    underlying = Underlying(1, 68_600, 0)
    underlying.move(69_000, at_ns=NS_PER_S)
    assert underlying.at(NS_PER_S - 1) == 68_600
    assert underlying.at(NS_PER_S) == 69_000


def test_a_move_over_time_is_a_straight_line() -> None:
    underlying = Underlying(1, 68_600, 0)
    underlying.move(70_600, at_ns=0, over_ns=60 * NS_PER_S)
    assert [underlying.at(s * NS_PER_S) for s in (0, 15, 30, 60, 90)] == [
        *(68_600, 69_100, 69_600, 70_600, 70_600),
    ]


@given(st.lists(st.integers(50_000, 90_000), min_size=1, max_size=5))
def test_after_any_moves_the_price_is_where_the_last_one_went(targets: list[int]) -> None:
    underlying = Underlying(1, 68_600, 0)
    for number, target in enumerate(targets):
        underlying.move(target, at_ns=number * NS_PER_S, over_ns=3 * NS_PER_S)
    assert underlying.at((len(targets) + 3) * NS_PER_S) == targets[-1]


def test_a_move_on_a_walking_price_lands_on_the_target() -> None:
    underlying = Underlying(3, 68_600, 20)
    underlying.move(70_000, at_ns=5 * NS_PER_S)
    assert underlying.at(5 * NS_PER_S) == 70_000


def test_the_price_never_falls_below_a_dollar() -> None:
    underlying = Underlying(1, 68_600, 0)
    underlying.move(-50_000, at_ns=0)
    assert underlying.at(NS_PER_S) == MIN_CENTS


def test_it_remembers_a_bounded_stretch_of_the_walk() -> None:
    underlying = Underlying(1, 68_600, 4.5)
    underlying.at(100 * BLOCK_STEPS * STEP_NS)
    assert len(underlying._walk) == BLOCKS_KEPT * BLOCK_STEPS
    assert underlying.at(0) == underlying._walk[0]


def price_texts(mills: list[int]) -> list[str]:
    return [msgspec.json.encode(price).decode() for price in prices(np.array(mills, np.int64))]


@given(st.lists(st.integers(0, 10**8 * 1_000 - 1), min_size=1))
def test_a_price_is_the_exact_and_shortest_decimal(mills: list[int]) -> None:
    for text, value in zip(price_texts(mills), mills, strict=True):
        assert Decimal(text) == Decimal(value) / 1_000
        assert "." not in text or text[-1] not in "0."


def test_prices_look_as_the_vendor_writes_them() -> None:
    assert price_texts([686_000, 686_100, 686_010, 686_015, 10, 0]) == [
        *("686", "686.1", "686.01", "686.015", "0.01", "0"),
    ]


def test_draws_from_zero_to_one_choose_every_option_and_no_other() -> None:
    draws = np.array([0, 0.24, 0.25, 0.5, 0.75, np.nextafter(1, 0)])
    assert choose("abcd", draws) == ["a", "a", "b", "c", "d", "d"]


@given(st.lists(st.booleans()))
def test_trades_and_quotes_are_written_where_they_belong_each_in_its_order(
    is_quote: list[bool],
) -> None:
    trades = [f"trade {number}" for number in range(is_quote.count(False))]
    quotes = [{"quote": number} for number in range(is_quote.count(True))]
    written = [json.loads(text) for text in write(np.array(is_quote, np.bool_), trades, quotes)]
    assert [isinstance(event, dict) for event in written] == is_quote
    assert [event for event in written if isinstance(event, str)] == trades
    assert [event for event in written if isinstance(event, dict)] == quotes


@given(st.lists(st.booleans(), min_size=1), st.data())
def test_a_subscriber_is_sent_the_events_of_its_channels_in_order(
    is_quote: list[bool], data: st.DataObject
) -> None:
    events = [b"%d" % number for number in range(len(is_quote))]
    quotes = np.array(is_quote, np.bool_)
    batch = EventBatch(events, ("T.SPY", "Q.SPY"), quotes.astype(np.int64), quotes)
    channel = data.draw(st.sampled_from(batch.channels))
    wanted = batch.wanted_by(lambda name: name == channel)
    chosen = np.arange(len(events)) if wanted is None else np.nonzero(wanted)[0]
    is_mine = quotes if channel == "Q.SPY" else ~quotes
    mine = [event for event, keep in zip(events, is_mine.tolist(), strict=True) if keep]
    assert batch.elements(chosen) == b",".join(mine)
    assert batch.count(chosen)[channel[0]] == len(mine)


def test_who_wants_everything_is_sent_the_batch_as_it_is() -> None:
    quotes = np.array([True, False])
    batch = EventBatch([b"1", b"2"], ("T.SPY", "Q.SPY"), quotes.astype(np.int64), quotes)
    assert batch.wanted_by(lambda _: True) is None
    assert batch.elements(slice(0, 2)) == b"1,2"
    assert batch.elements(slice(1, 1)) == b""
