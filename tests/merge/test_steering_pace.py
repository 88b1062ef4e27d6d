from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.merge.steering import Pacer
from ingestor.model.units import NS_PER_S

NOW_NS = 1_700_000_000 * NS_PER_S


def times(*seconds: float) -> np.ndarray:
    return np.array([int(s * NS_PER_S) for s in seconds], np.int64)


@pytest.mark.parametrize(
    ("speed", "expected"), [(1, [0, 1, 3]), (2, [0, 0.5, 1.5]), (0.5, [0, 2, 6])]
)
def test_distances_in_event_time_shrink_by_the_speed(speed: float, expected: list[float]) -> None:
    due = Pacer(speed).due_ns(times(100, 101, 103), NOW_NS)
    assert ((due - NOW_NS) / NS_PER_S).tolist() == expected


def test_only_the_first_event_anchors_the_schedule() -> None:
    pacer = Pacer(1)
    pacer.due_ns(times(100), NOW_NS)
    late = pacer.due_ns(times(101), NOW_NS + 55 * NS_PER_S)
    assert late.tolist() == [NOW_NS + NS_PER_S]


def test_a_hole_is_kept_by_default() -> None:
    assert (Pacer(1).due_ns(times(0, 79_200), NOW_NS) - NOW_NS).tolist() == [0, 79_200 * NS_PER_S]


def test_a_hole_longer_than_the_limit_is_shortened_to_it_also_between_blocks() -> None:
    pacer = Pacer(1, max_gap_ns=5 * NS_PER_S)
    first = pacer.due_ns(times(0, 100, 101), NOW_NS) - NOW_NS
    second = pacer.due_ns(times(102, 500), NOW_NS) - NOW_NS
    assert (first // NS_PER_S).tolist() == [0, 5, 6]
    assert (second // NS_PER_S).tolist() == [7, 12]


def test_no_events_are_due_never() -> None:
    assert len(Pacer(1).due_ns(times(), NOW_NS)) == 0


@given(
    st.lists(st.integers(0, 10**15), min_size=1, max_size=30),
    st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.7, 100.0]),
    st.none() | st.integers(0, 10**13),
    st.integers(1, 29),
)
def test_any_cut_into_blocks_gives_the_exact_schedule(
    steps: list[int], speed: float, max_gap_ns: int | None, cut: int
) -> None:
    event_ns = np.cumsum(np.array(steps, np.int64)) + NOW_NS
    pacer = Pacer(speed, max_gap_ns)
    due = [
        int(value)
        for part in (event_ns[:cut], event_ns[cut:])
        for value in pacer.due_ns(part, NOW_NS)
    ]
    exact = Fraction(0)
    for index, value in enumerate(due):
        if index:
            step = steps[index] if max_gap_ns is None else min(steps[index], max_gap_ns)
            exact += Fraction(step)
        assert abs(value - NOW_NS - exact / Fraction(speed)) <= 1 + exact / Fraction(speed) / 2**50
