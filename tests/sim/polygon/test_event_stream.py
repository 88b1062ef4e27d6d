from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon.event_stream import (
    BLOCK_STEPS,
    BLOCKS_KEPT,
    FRAME_EVENTS,
    MIN_CENTS,
    STEP_NS,
    TICK_EVENTS,
    EventBatch,
    EventStream,
    Ints,
    MarketTime,
    Schedule,
    Slice,
    Underlying,
    choose,
    prices,
    write,
)
from ingestor.sim.polygon.stock_tape import StockTape
from tests.sim.polygon.helpers import Event, events_of

START_NS = 50 * NS_PER_S
WALL_OFFSET_NS = 1_790_000_000_000 * NS_PER_MS - START_NS
TOLERANCE_NS = 5 * NS_PER_MS


def market(rate: int, limit: int = 0) -> tuple[EventStream, MarketTime]:
    time = MarketTime(WALL_OFFSET_NS)
    return EventStream(StockTape(1, Underlying(1, 68_600, 0), 0.5), time, rate, limit), time


def running(rate: int, limit: int = 0) -> EventStream:
    stream, _ = market(rate, limit)
    stream.select(["T.SPY"], START_NS)
    return stream


def run(stream: EventStream, at_s: float) -> list[Slice]:
    return list(stream.slices(START_NS + round(at_s * NS_PER_S), TOLERANCE_NS))


def sent(slices: Iterable[Slice]) -> list[Event]:
    return [event for piece in slices for event in events_of(piece.batch)[piece.rows]]


def test_nothing_is_sent_while_nobody_wants_anything() -> None:
    stream, _ = market(1_000)
    assert run(stream, 10) == []
    assert stream.next_due_ns() is None


def test_events_are_sent_when_they_are_due_and_carry_that_time() -> None:
    stream = running(100)
    assert [event["t"] % 100_000 for event in sent(run(stream, 0.035))] == [0, 10, 20, 30]
    assert [event["t"] % 100_000 for event in sent(run(stream, 0.055))] == [40, 50]
    assert stream.next_due_ns() == START_NS + 60 * NS_PER_MS


@settings(max_examples=25)
@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=8))
def test_when_it_is_asked_does_not_change_what_is_sent(pauses: list[float]) -> None:
    stream, whole = running(700), running(700)
    now_s, pieces = 0.0, []
    for pause in pauses:
        now_s += pause
        pieces += sent(run(stream, now_s))
    assert pieces == sent(run(whole, now_s))


def test_the_limit_ends_the_stream() -> None:
    stream = running(1_000, limit=25)
    assert len(sent(run(stream, 1))) == 25
    assert stream.finished
    assert stream.next_due_ns() is None
    assert run(stream, 2) == []


def test_no_frame_and_no_tick_holds_more_than_its_bound() -> None:
    stream = running(1_000_000)
    slices = run(stream, 1)
    assert sum(piece.rows.stop - piece.rows.start for piece in slices) == TICK_EVENTS
    assert max(piece.rows.stop - piece.rows.start for piece in slices) == FRAME_EVENTS


def test_being_late_by_more_than_the_tolerance_is_reported() -> None:
    stream = running(1_000)
    run(stream, 0.004)
    assert stream.behind_ns == 0
    run(stream, 0.110)
    assert stream.behind_ns == 100 * NS_PER_MS
    run(stream, 0.111)
    assert (stream.behind_ns, stream.behind_max_ns) == (0, 100 * NS_PER_MS)


def test_a_new_rate_counts_from_now() -> None:
    stream = running(10)
    run(stream, 0.05)
    stream.set_rate(1_000, START_NS + NS_PER_S)
    assert len(sent(run(stream, 1.009))) == 10


def test_rate_zero_is_silence_until_it_is_raised() -> None:
    stream = running(10)
    run(stream, 0)
    stream.set_rate(0, START_NS)
    assert run(stream, 60) == []
    stream.set_rate(10, START_NS + 60 * NS_PER_S)
    assert len(sent(run(stream, 60))) == 1


def test_who_comes_back_finds_a_hole_in_the_sequence_and_no_flood() -> None:
    stream = running(1_000)
    before = {event["ev"]: event["q"] for event in sent(run(stream, 0.1))}
    stream.select([], START_NS + NS_PER_S // 10)
    stream.select(["T.SPY"], START_NS + 10 * NS_PER_S)
    after = sent(run(stream, 10.02))
    assert len(after) == 21
    assert all(event["q"] > before[event["ev"]] + 9_000 for event in after)
    assert after[0]["t"] % 100_000 == 10_000


def test_the_hole_is_as_large_as_what_was_due_meanwhile() -> None:
    stream, twin = running(1_000), running(1_000)
    run(stream, 0.1)
    stream.select([], START_NS + NS_PER_S // 10)
    stream.select(["T.SPY"], START_NS + 10 * NS_PER_S)
    run(twin, 0.1)
    twin.tape.skip(9_900)
    twin.set_rate(1_000, START_NS + 10 * NS_PER_S)
    assert sent(run(stream, 10.02)) == sent(run(twin, 10.02))


def test_the_vendors_clock_can_jump() -> None:
    stream, time = market(1_000)
    stream.select(["T.SPY"], START_NS)
    before = sent(run(stream, 0.001))[-1]["t"]
    time.jump(-60_000)
    stream.rewrite()
    assert sent(run(stream, 0.002))[0]["t"] == before + 1 - 60_000


def test_market_time_begins_at_the_first_subscription_and_never_again() -> None:
    time = MarketTime(WALL_OFFSET_NS)
    assert time.elapsed_ns(START_NS) == 0
    time.open(START_NS)
    time.open(START_NS + 5)
    assert time.elapsed_ns(START_NS + 7) == 7
    assert time.wall_ms(START_NS) == 1_790_000_000_000


RATES = st.integers(1, 1_000_000)
DAY_S = 86_400
TIMES = st.integers(0, 10**18)


@given(RATES, TIMES, st.integers(0, DAY_S), st.integers(1, 50))
def test_event_k_is_due_k_periods_after_the_anchor(
    rate: int, start_ns: int, after_s: int, count: int
) -> None:
    schedule = Schedule(rate, start_ns)
    first = after_s * rate + rate // 3
    expected = [ceil(start_ns + Fraction(k * NS_PER_S, rate)) for k in range(first, first + count)]
    assert [schedule.due_at(k) for k in range(first, first + count)] == expected
    assert schedule.due_ns(first, count).tolist() == expected


@given(RATES, TIMES, st.integers(0, 10**15))
def test_how_many_are_due_is_exact(rate: int, start_ns: int, after_ns: int) -> None:
    due = Schedule(rate, start_ns).due(start_ns + after_ns)
    assert due == floor(Fraction(after_ns * rate, NS_PER_S)) + 1


@given(RATES, st.integers(0, 10**9))
def test_an_event_counts_as_due_from_its_due_time_on(rate: int, event: int) -> None:
    schedule = Schedule(rate, 123)
    at_ns = schedule.due_at(event)
    assert schedule.due(at_ns) >= event + 1
    assert schedule.due(at_ns - 1) <= event


@given(RATES, st.integers(0, 10**9), st.integers(0, 10**9))
def test_writing_ahead_does_not_change_what_is_due(rate: int, first: int, now_ns: int) -> None:
    plain, ahead = Schedule(rate, 0), Schedule(rate, 0)
    ahead.due_ns(first, 10)
    assert ahead.due(now_ns) == plain.due(now_ns)


def test_the_first_event_is_due_at_the_anchor() -> None:
    assert Schedule(10, 1_000).due(999) == 0
    assert Schedule(10, 1_000).due(1_000) == 1


def test_a_change_of_rate_goes_on_from_the_event_reached() -> None:
    schedule = Schedule(1, 0)
    schedule.anchor(5, 2 * NS_PER_S, 10)
    assert schedule.due_ns(5, 3).tolist() == [
        *(2 * NS_PER_S, 2 * NS_PER_S + NS_PER_S // 10, 2 * NS_PER_S + NS_PER_S // 5),
    ]


@pytest.mark.parametrize("now_ns", [0, NS_PER_S, 10**18])
def test_at_rate_zero_nothing_becomes_due(now_ns: int) -> None:
    schedule = Schedule(0, 0)
    schedule.anchor(7, 0, 0)
    assert schedule.due(now_ns) == 7


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
