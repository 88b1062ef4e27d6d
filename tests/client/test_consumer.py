from __future__ import annotations

from ingestor.client import AtSequence, From, Since
from ingestor.client.consumer import deliver_policy


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
