from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.records import EVENT_TYPES, EventType, RunningKey, rises, rises_by_columns
from ingestor.model.units import UINT32_MAX, UINT64_MAX
from tests.rows import Key, rows

keys = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), max_size=20)


@given(keys, st.integers(0, 20))
def test_keys_are_the_running_maximum_of_triples_however_cut(all_keys: list[Key], cut: int) -> None:
    running = RunningKey()
    got: list[Key] = []
    late = 0
    for part in (all_keys[:cut], all_keys[cut:]):
        answer, stepped_back = running.advance(rows(part))
        got += [answer.at(index) for index in range(len(answer))]
        late += stepped_back
    expected = list(accumulate(all_keys, max))
    assert got == expected
    assert late == sum(
        key[:2] < before[:2] for key, before in zip(all_keys[1:], expected, strict=False)
    )


def test_a_smaller_sequence_at_equal_times_is_not_late() -> None:
    answer, late = RunningKey().advance(rows([(1, 1, 9), (1, 1, 3)]))
    assert late == 0
    assert answer.at(1) == (1, 1, 9)


@given(keys.filter(bool), st.integers(1, 3))
def test_rising_is_that_every_key_is_the_running_maximum(all_keys: list[Key], step: int) -> None:
    records = rows(all_keys)[::step]
    rising = list(accumulate(all_keys[::step], max)) == all_keys[::step]
    assert rises(records) is rising
    assert rises_by_columns(records) is rising


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("field", ["ts_event_ns", "ts_recv_ns", "sequence"])
def test_every_part_of_every_types_key_counts_to_its_last_bit(kind: EventType, field: str) -> None:
    records = np.zeros(3, kind.dtype)
    most = UINT64_MAX if records[field].itemsize == 8 else UINT32_MAX
    for values, rising in (([0, 1, most], True), ([0, most, most - 1], False)):
        records[field] = values
        assert rises(records) is rising
        assert rises_by_columns(records) is rising


def test_records_without_a_key_are_refused() -> None:
    with pytest.raises((KeyError, ValueError)):
        rises(np.zeros(2, [("ts_event_ns", "<u8")]))


@given(st.lists(keys.filter(bool), max_size=5))
def test_records_follow_where_none_is_below_any_before_and_else_change_nothing(
    parts: list[list[Key]],
) -> None:
    quick, thorough, last = RunningKey(), RunningKey(), (0, 0, 0)
    for part in parts:
        rising = sorted([last, *part]) == [last, *part]
        assert quick.follows(rows(part)) is rising
        if not rising:
            quick.advance(rows(part))
        keys_of_part, _ = thorough.advance(rows(part), in_order=sorted(part) == part)
        found = [keys_of_part.at(index) for index in range(len(part))]
        assert found == [*accumulate([last, *part], max)][1:]
        last = found[-1]
