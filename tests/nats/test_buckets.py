"""Buckets against real servers, and beside another client's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import pytest

from ingestor.nats.answers import ForbiddenError
from ingestor.nats.buckets import NEW, Bucket, WrongRevisionError
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from tests.conftest import StartNatsServer
from tests.nats_servers import NatsServer
from tests.publish.cluster import Cluster


def within(
    server: NatsServer,
    work: Callable[[Bucket], Awaitable[None]],
    *,
    ttl_s: float = 60,
    user: str = "",
) -> None:
    async def run() -> None:
        url = server.url.replace("//", f"//{user}@") if user else server.url
        connection = Connection(ConnectOptions(url), on_change=lambda: None)
        await connection.open()
        try:
            await work(Bucket(connection, "THINGS", ttl_s=ttl_s))
        finally:
            await connection.close()

    asyncio.run(run())


def test_what_was_put_is_got_and_replaced_by_its_revision(any_nats_server: NatsServer) -> None:
    async def work(bucket: Bucket) -> None:
        assert await bucket.get("a.b") is None
        first = await bucket.put("a.b", b"one", NEW)
        second = await bucket.put("a.b", b"two", first)
        entry = await bucket.get("a.b")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"two", second)
        for wrong in (NEW, first):
            with pytest.raises(WrongRevisionError, match="another revision"):
                await bucket.put("a.b", b"three", wrong)

    within(any_nats_server, work)


def test_a_deleted_key_is_not_there_and_may_be_put_again(nats_server: NatsServer) -> None:
    async def work(bucket: Bucket) -> None:
        revision = await bucket.put("key", b"value")
        with pytest.raises(WrongRevisionError):
            await bucket.delete("key", revision + 1)
        await bucket.delete("key", revision)
        assert await bucket.get("key") is None
        assert await bucket.values() == []
        await bucket.put("key", b"value", NEW)
        with pytest.raises(WrongRevisionError):
            await bucket.put("key", b"value", NEW)

    within(nats_server, work)


def test_values_are_listed_by_their_keys(nats_server: NatsServer) -> None:
    async def work(bucket: Bucket) -> None:
        assert await bucket.values() == []
        for key in ("job.1", "live.1", "job.2"):
            await bucket.put(key, key.encode())
        assert [entry.value for entry in await bucket.values()] == [b"job.1", b"live.1", b"job.2"]
        assert [entry.value for entry in await bucket.values("job.*")] == [b"job.1", b"job.2"]

    within(nats_server, work)


def test_a_value_that_nobody_renews_is_gone_and_its_key_new(any_nats_server: NatsServer) -> None:
    async def work(bucket: Bucket) -> None:
        await bucket.put("key", b"value", NEW)
        async with asyncio.timeout(10):
            while await bucket.get("key") is not None:
                await asyncio.sleep(0.05)
        await bucket.put("key", b"value", NEW)

    within(any_nats_server, work, ttl_s=1)


def test_another_client_finds_a_bucket_like_its_own(nats_server: NatsServer) -> None:
    async def work(bucket: Bucket) -> None:
        await bucket.put("key", b"value")
        client = await nats.connect(nats_server.url)
        theirs = await client.jetstream().key_value("THINGS")
        assert (await theirs.get("key")).value == b"value"
        await theirs.put("other", b"theirs")
        await client.close()
        entry = await bucket.get("other")
        assert entry is not None
        assert entry.value == b"theirs"

    within(nats_server, work)


def test_who_may_not_write_is_told(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(
        extra_config="""
        authorization { users: [
            {user: all, password: all},
            {user: some, password: some, permissions: {publish: {deny: "$KV.>"}}},
        ] }"""
    )

    async def work(bucket: Bucket) -> None:
        with pytest.raises(ForbiddenError):
            await bucket.put("key", b"value")

    within(server, work, user="some:some")


def test_a_bucket_is_grown_to_as_many_servers_as_are_asked_for(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)

    async def work() -> None:
        await cluster.start()
        connection = Connection(ConnectOptions(cluster.url), on_change=lambda: None)
        await connection.open()
        small = Bucket(connection, "THINGS", ttl_s=60)
        await small.grow()
        revision = await small.put("key", b"value")
        await Bucket(connection, "THINGS", ttl_s=60, replicas=3).grow()
        await small.grow()
        info = await cluster.ask("STREAM.INFO.KV_THINGS")
        assert info["config"]["num_replicas"] == 3
        entry = await small.get("key")
        assert entry is not None
        assert (entry.value, entry.revision) == (b"value", revision)
        await connection.close()

    try:
        asyncio.run(work())
    finally:
        cluster.stop()
