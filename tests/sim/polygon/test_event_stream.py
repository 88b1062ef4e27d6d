from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon.event_stream import (
    FRAME_EVENTS,
    TICK_EVENTS,
    EventStream,
    MarketTime,
    Schedule,
    Slice,
)
from ingestor.sim.polygon.market_tape import Underlying
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
