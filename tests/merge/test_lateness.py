from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ingestor.merge.lateness import LatenessHistogram


@given(st.lists(st.integers(0, 2**47), min_size=1, max_size=50), st.sampled_from([50, 90, 99, 100]))
def test_a_percentile_is_right_to_a_sixteenth(values: list[int], percent: int) -> None:
    histogram = LatenessHistogram()
    histogram.add(np.array(values, np.int64))
    rank = max(1, -(-len(values) * percent // 100))
    exact = max(1, sorted(values)[rank - 1])
    answer = histogram.percentile_ns(percent)
    assert answer is not None
    assert exact - 1 <= answer <= exact * 2 ** (1 / 16) + 1


def test_early_events_count_as_on_time() -> None:
    histogram = LatenessHistogram()
    histogram.add(np.array([-5_000], np.int64))
    assert histogram.percentile_ns(99) == 1


def test_nothing_counted_has_no_percentile() -> None:
    assert LatenessHistogram().percentile_ns(50) is None
