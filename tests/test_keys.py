from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from ingestor.keys import RunningKey
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
