"""Three replicas: a leader that dies or steps down where we are not connected costs little."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from ingestor.nats.options import ConnectOptions
from tests.publish.cluster import Cluster
from tests.publish.plain import publisher, stored, trades, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ingestor.nats.connection import Connection
    from ingestor.publish.publisher import Publisher

STREAMING_S = 2.0
"""From the new leader on."""

LEFT_S = 7.0
"""A second of silence, two of questions, one for a ping, and two for a handshake at worst."""


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
        publishing = publisher(follower, connect_options=ConnectOptions(url=follower.url))
        await publishing.open()
        stopping = asyncio.Event()
        sending = asyncio.create_task(_send(publishing, stopping))
        await until(lambda: publishing.acked_rows > 100)
        await cluster.step_down()
        acked = publishing.acked_rows
        began_s = loop.time()
        await until(lambda: publishing.acked_rows > acked + 50)
        assert loop.time() - began_s < STREAMING_S
        leading = cluster.servers[await cluster.leader()]
        if leading is not follower:
            acked = publishing.acked_rows
            await asyncio.to_thread(leading.kill)
            await cluster.leader()
            began_s = loop.time()
            await until(lambda: publishing.acked_rows > acked + 50)
            assert loop.time() - began_s < STREAMING_S
        stopping.set()
        rows = await sending
        await publishing.flush()
        report = await publishing.close()
        assert (report.messages, report.last_seq) == (rows, rows)
        # The reader's consumer may be placed on any of the three: on a dead one nobody answers.
        if not leading.running:
            await asyncio.to_thread(leading.start)
        await cluster.healthy()
        assert await stored(follower) == list(range(rows))

    asyncio.run(check())


def test_a_server_that_freezes_is_left_for_another_one(cluster: Cluster) -> None:
    async def check() -> float:
        await cluster.start()
        await cluster.make_stream()
        loop = asyncio.get_running_loop()
        leader = await cluster.leader()
        frozen = next(server for name, server in cluster.servers.items() if name != leader)
        others = [server.url for server in cluster.servers.values() if server is not frozen]
        publishing = publisher(frozen, connect_options=ConnectOptions(url=(frozen.url, *others)))
        await publishing.open()
        stopping = asyncio.Event()
        sending = asyncio.create_task(_send(publishing, stopping))
        await until(lambda: publishing.acked_rows > 100)
        frozen.pause()
        acked, began_s = publishing.acked_rows, loop.time()
        await until(lambda: publishing.acked_rows > acked + 500, 30.0)
        took_s = loop.time() - began_s
        stopping.set()
        rows = await sending
        await publishing.flush()
        assert (await publishing.close()).last_seq == rows
        frozen.resume()
        await cluster.healthy()
        assert await stored(cluster.servers[leader]) == list(range(rows))
        return took_s

    assert asyncio.run(check()) < LEFT_S


def test_a_rolling_restart_costs_seconds_and_no_event(cluster: Cluster) -> None:
    async def check() -> float:
        await cluster.start()
        await cluster.make_stream()
        servers = list(cluster.servers.values())
        options = ConnectOptions(url=[server.url for server in servers])
        publishing = publisher(servers[0], connect_options=options, check_lease=_ours)
        await publishing.open()
        stopping = asyncio.Event()
        sending = asyncio.create_task(_send(publishing, stopping))
        await until(lambda: publishing.acked_rows > 100)
        longest_s = 0.0
        for server in servers:
            await cluster.healthy()
            await asyncio.to_thread(server.stop)
            await cluster.leader()
            led_s = await cluster.led_since_s()
            acked, began_s = publishing.acked_rows, time.time()
            await until(lambda acked=acked: publishing.acked_rows > acked + 50)
            longest_s = max(longest_s, time.time() - max(began_s, led_s))
            await asyncio.to_thread(server.start)
        stopping.set()
        rows = await sending
        await publishing.flush()
        assert (await publishing.close()).last_seq == rows
        await cluster.healthy()
        assert await stored(servers[0]) == list(range(rows))
        return longest_s

    assert asyncio.run(check()) < STREAMING_S


async def _ours(_: Connection) -> None:
    """The lease is ours."""


async def _send(publishing: Publisher, stopping: asyncio.Event) -> int:
    rows = 0
    while not stopping.is_set():
        await publishing.send(trades(rows, 5))
        rows += 5
        await asyncio.sleep(0.005)
    return rows
