from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from ingestor.nats import jetstream
from ingestor.nats.jetstream import leader_of
from tests.nats.test_stream import api_of
from tests.publish.plain import connect

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

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


def test_a_stream_is_read_in_as_many_pulls_as_it_has_chunks(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "CHUNK_MESSAGES", 2)

    async def work() -> tuple[list[int], int]:
        client = await connect(nats_server)
        await client.jetstream().add_stream(name="MARKET_DATA", subjects=["market.>"])
        for number in range(4):
            await client.jetstream().publish("market.x", b"%d" % number)
        pulls = await client.subscribe("$JS.API.CONSUMER.MSG.NEXT.MARKET_DATA.*")
        await client.flush()
        async with api_of(nats_server) as api:
            chunks = api.stored("MARKET_DATA", ["market.x"], 1)
            lengths = [len(chunk) async for chunk in chunks]
        await client.flush()
        pulled = pulls.pending_msgs
        await client.close()
        return lengths, pulled

    # One more would wait for a message that never comes, until the server ends it after 2 s.
    assert asyncio.run(work()) == ([2, 2], 2)
