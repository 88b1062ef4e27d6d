from __future__ import annotations

import pytest

from ingestor.client import AtSequence, From, Since
from ingestor.client.start import deliver_policy
from ingestor.model.errors import ConfigurationError


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


def test_a_time_is_one_that_int64_nanoseconds_hold() -> None:
    assert [Since(ts_ns).ts_ns for ts_ns in (0, 2**63 - 1)] == [0, 2**63 - 1]
    for ts_ns in (-1, 2**63):
        with pytest.raises(ConfigurationError, match="no time in int nanoseconds"):
            Since(ts_ns)
