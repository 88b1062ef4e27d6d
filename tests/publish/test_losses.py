"""Connection losses over six kinds of streams: each event once, in order, and nothing else.

A seeded choice of losses (a connection that is cut, a server killed and started, one that is frozen
and then cut; of three replicas the leader killed or told to step down) hits a publisher that sends
without a pause. The publisher is the stream's only one, so event number i lies at sequence i + 1:
whatever a client reads at any time, and whatever the stream has removed since, that says of each
event whether it is there once and in order. A core subscriber looks on.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from tests.conftest import _old_executable_or_skip
from tests.nats_servers import start_server
from tests.publish.cluster import Cluster
from tests.publish.observers import CoreSubscriber, StreamReader
from tests.publish.plain import connect, publisher, raw_info, trades, until
from tests.publish.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from ingestor.publish.publisher import Publisher
    from tests.nats_servers import NatsServer

LOSSES_VARIABLE = "INGESTOR_LOSSES"
LOSSES = int(os.environ.get(LOSSES_VARIABLE, "34"))
"""Of each kind of stream; 6 times 34 are 204."""

BETWEEN = 2_000
"""Events acknowledged from one loss to the next, at least."""

STREAMING_S = 2.0
"""From a new leader on."""

PER_SUBJECT = 20_000
AHEAD = {"per-subject limits": PER_SUBJECT // 2}
"""What is stored and not read, at most: nothing is removed before it was looked at."""

FAR_AHEAD = 100_000
"""The same where nothing is removed: a reader whose consumer elects a leader holds nobody up."""

STREAMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "transform": {"subject_transform": {"src": "market.*.>", "dest": "kept.{{wildcard(1)}}.>"}},
    "per-subject limits": {"max_msgs_per_subject": PER_SUBJECT},
    "work queue": {"retention": "workqueue"},
    "2.10 server": {},
    "three replicas": {"num_replicas": 3},
}


@dataclass
class Table:
    """What came of it; printed as one line."""

    kind: str
    losses: int = 0
    events: int = 0
    duplicates: int = 0
    missing: int = 0
    disorder: int = 0
    no_events: int = 0
    longest_s: float = 0.0
    """Until events are acknowledged again; of replicas, from the new leader on."""
    read: int = 0
    seed: int = 0

    def judge(self, last_seq: int, stored: dict[int, bytes]) -> None:
        self.duplicates = max(last_seq - self.events, 0)
        self.missing = max(self.events - last_seq, 0)
        self.disorder = sum(int(payload) != seq - 1 for seq, payload in stored.items())
        assert sorted(stored) == list(range(1, last_seq + 1))


class Sender:
    """Sends without a pause until told to stop."""

    def __init__(
        self, publishing: Publisher, reader: StreamReader, rng: random.Random, ahead: int
    ) -> None:
        self.publishing = publishing
        self._reader = reader
        self._rng = rng
        self._ahead = ahead
        self.rows = 0
        self.stopping = False

    async def run(self) -> None:
        while not self.stopping:
            if self.rows - len(self._reader.stored) > self._ahead:
                await asyncio.sleep(0.01)
                continue
            rows = self._rng.choice((1, 7, 60, 400))
            await self.publishing.send(trades(self.rows, rows))
            self.rows += rows
            await asyncio.sleep(self._rng.choice((0, 0, 0.002, 0.03)))
        await self.publishing.flush()

    async def progress(self, rows: int) -> None:
        goal = self.publishing.acked_rows + rows
        await until(lambda: self.publishing.acked_rows >= goal, 60.0)


async def _losses_of_one_server(
    server: NatsServer, proxy: Proxy, rng: random.Random
) -> AsyncIterator[str]:
    while True:
        how = rng.choice(("cut", "cut", "kill", "deaf", "frozen"))
        if how == "kill":
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        elif how == "deaf":
            proxy.deaf = True
            await asyncio.sleep(rng.uniform(0.0, 0.05))
            proxy.cut()
            proxy.deaf = False
        elif how == "frozen":
            server.pause()
            await asyncio.sleep(rng.uniform(0.0, 0.1))
            proxy.cut()
            server.resume()
        else:
            proxy.cut()
        yield how


async def _losses_of_a_cluster(cluster: Cluster, rng: random.Random) -> AsyncIterator[str]:
    while True:
        await cluster.healthy()
        how = rng.choice(("step down", "step down", "leader", "any"))
        if how == "step down":
            await cluster.step_down()
        else:
            name = await cluster.leader() if how == "leader" else rng.choice(["a", "b", "c"])
            await asyncio.to_thread(cluster.servers[name].kill)
            await cluster.leader()
            yield how
            await asyncio.to_thread(cluster.servers[name].start)
            continue
        yield how


@dataclass
class Site:
    """Where a stream is, what is lost there, and how it is looked at."""

    urls: list[str]
    losses: AsyncIterator[str]
    info: Callable[[], Awaitable[dict[str, Any]]]
    led_since_s: Callable[[], Awaitable[float]] | None = None


async def _run(table: Table, publishing: Publisher, site: Site) -> None:
    rng = random.Random(table.seed)
    await publishing.open()
    async with CoreSubscriber(*site.urls) as core, StreamReader(*site.urls) as reader:
        sender = Sender(publishing, reader, rng, AHEAD.get(table.kind, FAR_AHEAD))
        sending = asyncio.create_task(sender.run())
        for _ in range(table.losses):
            await sender.progress(BETWEEN)
            how = await anext(site.losses)
            began_s = time.time()
            await sender.progress(1)
            again_s = time.time()
            if site.led_since_s is not None:
                began_s = min(max(began_s, await site.led_since_s()), again_s)
            table.longest_s = max(table.longest_s, again_s - began_s)
            print(f"{table.kind}: {how}, {publishing.acked_rows}, {again_s - began_s:.2f} s")
            assert not sending.done(), sending.exception()
        sender.stopping = True
        await sending
        report = await publishing.close()
        table.events = sender.rows
        last_seq = (await site.info())["state"]["last_seq"]
        await until(lambda: len(reader.stored) == last_seq, 300.0)
        table.read = len(reader.stored)
        table.judge(last_seq, reader.stored)
        table.no_events = len(core.no_events)
        numbers = {int(payload) for _, payload in core.messages}
        assert numbers <= set(range(table.events))
        assert report.rows_by_subject == {"market.futures.trades": table.events}
        assert (report.last_seq, report.lost_messages) == (table.events, 0)


async def _one_server(table: Table, server: NatsServer) -> None:
    await _make(server, STREAMS[table.kind])
    async with Proxy(server.port) as proxy:
        publishing = publisher(
            server,
            connect_options=ConnectOptions(url=proxy.url),
            give_up_after_s=60.0,
            check_lease=_ours,
        )
        losses = _losses_of_one_server(server, proxy, random.Random(table.seed + 1))
        site = Site([server.url], losses, lambda: raw_info(server))
        await _run(table, publishing, site)


async def _ours(_: Connection) -> None:
    """The lease is ours, so writing is fenced, as that of every run."""


async def _make(server: NatsServer, config: dict[str, Any]) -> None:
    client = await connect(server)
    body = {"name": "MARKET_DATA", "subjects": ["market.>"]} | config
    answer = await client.request("$JS.API.STREAM.CREATE.MARKET_DATA", json.dumps(body).encode(), 5)
    assert b'"error"' not in answer.data, answer.data
    await client.close()


async def _three_replicas(table: Table, cluster: Cluster) -> None:
    await cluster.start()
    await cluster.make_stream()
    first = next(iter(cluster.servers.values()))
    publishing = publisher(
        first,
        connect_options=ConnectOptions(url=cluster.url),
        stream=StreamSettings(),
        give_up_after_s=60.0,
        check_lease=_ours,
    )
    losses = _losses_of_a_cluster(cluster, random.Random(table.seed + 1))
    urls = [server.url for server in cluster.servers.values()]
    info = functools.partial(cluster.ask, "STREAM.INFO.MARKET_DATA")
    await _run(table, publishing, Site(urls, losses, info, cluster.led_since_s))


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("kind", STREAMS)
def test_each_event_is_stored_once_and_in_order_whatever_is_lost(kind: str, tmp_path: Path) -> None:
    table = Table(kind, LOSSES, seed=20261127)
    if kind == "three replicas":
        cluster = Cluster(tmp_path)
        try:
            uvloop.run(_three_replicas(table, cluster))
        finally:
            cluster.stop()
    else:
        old = _old_executable_or_skip() if kind == "2.10 server" else None
        server = start_server(tmp_path / "server", executable=old)
        try:
            uvloop.run(_one_server(table, server))
        finally:
            server.stop()
    print(table)
    assert table.longest_s < STREAMING_S or kind != "three replicas"
    assert (table.duplicates, table.missing, table.disorder, table.no_events) == (0, 0, 0, 0)
