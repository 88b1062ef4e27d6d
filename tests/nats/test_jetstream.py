from __future__ import annotations

from typing import Any

import pytest

from ingestor.nats.jetstream import leader_of

ELECTED = {"leader": "a", "leader_since": "2025-12-16T14:30:00.1Z"}


@pytest.mark.parametrize(
    ("info", "leader"),
    [
        ({"cluster": ELECTED}, "a 2025-12-16T14:30:00.1Z"),
        ({"cluster": {"leader": "a"}}, "a"),
        ({"cluster": {}}, ""),
        ({"cluster": None}, ""),
        ({}, ""),
    ],
)
def test_a_leader_is_told_with_the_time_of_its_election(info: dict[str, Any], leader: str) -> None:
    assert leader_of(info) == leader
    assert leader_of({"cluster": ELECTED | {"leader_since": "2025-12-16T14:31:00Z"}}) != leader
