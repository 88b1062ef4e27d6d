"""Three replicas: a leader that dies or steps down where we are not connected costs little."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ingestor.nats.options import Access
from tests.publish.cluster import Cluster
from tests.publish.plain import publisher, stored, trades, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingestor.publish.publisher import Publisher

STREAMING_S = 2.0
"""From the new leader on."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


def test_a_leader_that_steps_down_or_dies_elsewhere_is_followed_by_the_next_one(
    cluster: Cluster,
) -> None:
    async def check() -> None:
        await cluster.start()
        await cluster.make_stream()
        loop = asyncio.get_running_loop()
        leader = await cluster.leader()
        follower = next(server for name, server in cluster.servers.items() if name != leader)
        publishing = publisher(follower, access=Access(url=follower.url))
        await publishing.open()
        stopping = asyncio.Event()
        sending = asyncio.create_task(_send(publishing, stopping))
        await until(lambda: publishing.acked_rows > 100)
        await cluster.step_down()
        acked = publishing.acked_rows
        began_s = loop.time()
        await until(lambda: publishing.acked_rows > acked + 50)
        assert loop.time() - began_s < STREAMING_S
        leader = await cluster.leader()
        if cluster.servers[leader] is not follower:
            acked = publishing.acked_rows
            await asyncio.to_thread(cluster.servers[leader].kill)
            await cluster.leader()
            began_s = loop.time()
            await until(lambda: publishing.acked_rows > acked + 50)
            assert loop.time() - began_s < STREAMING_S
        stopping.set()
        rows = await sending
        await publishing.flush()
        report = await publishing.close()
        assert (report.messages, report.last_seq) == (rows, rows)
        assert await stored(follower) == list(range(rows))

    asyncio.run(check())


async def _send(publishing: Publisher, stopping: asyncio.Event) -> int:
    rows = 0
    while not stopping.is_set():
        await publishing.send(trades(rows, 5))
        rows += 5
        await asyncio.sleep(0.005)
    return rows
