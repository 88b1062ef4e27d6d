from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.sim.polygon.schedule import Schedule
from ingestor.units import NS_PER_S

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
