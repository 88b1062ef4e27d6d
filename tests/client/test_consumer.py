from __future__ import annotations

import pytest

from ingestor.client import AtSequence, From, Since
from ingestor.client.consumer import CLOCKS_DIFFER_S, check_start, deliver_policy
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import ConfigurationError
from ingestor.model.units import NS_PER_S, now_ns


def test_the_beginning_and_new_are_policies_of_the_server() -> None:
    assert deliver_policy(From.BEGINNING) == {"deliver_policy": "all"}
    assert deliver_policy(From.NEW) == {"deliver_policy": "new"}


def test_a_time_keeps_its_nanoseconds() -> None:
    assert deliver_policy(Since(1_765_895_400_017_150_864)) == {
        "deliver_policy": "by_start_time",
        "opt_start_time": "2025-12-16T14:30:00.017150864Z",
    }


def test_a_sequence_is_inclusive() -> None:
    assert deliver_policy(AtSequence(7)) == {
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": 7,
    }


@pytest.mark.parametrize("ts_ns", [0, MAX_TIME_NS])
def test_the_first_and_the_last_time_there_is_are_taken(ts_ns: int) -> None:
    assert Since(ts_ns).ts_ns == ts_ns


@pytest.mark.parametrize("ts_ns", [-1, MAX_TIME_NS + 1])
def test_a_time_before_the_first_or_after_the_last_is_refused(ts_ns: int) -> None:
    with pytest.raises(ConfigurationError, match="1970 to 2262"):
        Since(ts_ns)


@pytest.mark.parametrize("ahead_s", [-3_600.0, 0.0, CLOCKS_DIFFER_S])
def test_a_start_in_the_past_or_within_what_clocks_differ_is_taken(ahead_s: float) -> None:
    check_start(Since(now_ns() + round(ahead_s * NS_PER_S)))


def test_a_start_that_is_still_to_come_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="3,600 s in the future"):
        check_start(Since(now_ns() + 3_600 * NS_PER_S))
