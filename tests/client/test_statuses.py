"""Statuses as a consumer sees them: the last of a feed, and those that follow."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import nats
import pytest

from ingestor.client import Client, FeedStatus, From, What, connect
from ingestor.model.feed_status import encode_status
from tests.publish.plain import publisher

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

STREAM = "INGESTOR_STATUS"
PATIENCE_S = 20.0


def status(number: int, feed: str = "stocks") -> FeedStatus:
    return FeedStatus(feed=feed, what=What.GAP, at_ns=number, text=f"number {number}")


async def tell(server: NatsServer, *told: FeedStatus) -> None:
    """Publish as the ingestor does."""
    publishing = publisher(server)
    await publishing.open()
    for one in told:
        publishing.statuses.tell(one)
    await publishing.close()
    assert publishing.statuses.published == len(told)


async def store(server: NatsServer, *payloads: bytes, **settings: Any) -> None:
    """Put something into a stream of the operator's making."""
    async with await nats.connect(server.url) as client:
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=["ingestor.status.>"], **settings)
        for payload in payloads:
            await stream.publish("ingestor.status.stocks", payload)


async def last(server: NatsServer, feed: str) -> FeedStatus | None:
    async with connect(server.url) as client:
        return await client.last_status(feed)


async def all_of(client: Client, *feed: str, **options: Any) -> list[FeedStatus]:
    return [one async for one in client.statuses(*feed, follow=False, **options)]


def test_the_last_status_of_each_feed_can_be_asked_for(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        told = [status(1), status(2, "options"), status(3), status(4)]
        await tell(any_nats_server, *told)
        assert await last(any_nats_server, "stocks") == status(4)
        assert await last(any_nats_server, "options") == status(2, "options")
        assert await last(any_nats_server, "futures") is None

    asyncio.run(check())


def test_before_the_first_status_there_is_none(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        assert await last(any_nats_server, "stocks") is None
        async with connect(any_nats_server.url) as client:
            assert await all_of(client) == []

    asyncio.run(check())


def test_a_stream_that_is_not_read_directly_answers_too(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        await store(any_nats_server, encode_status(status(7)), allow_direct=False)
        assert await last(any_nats_server, "stocks") == status(7)
        assert await last(any_nats_server, "options") is None

    asyncio.run(check())


def test_another_stream_may_be_named(nats_server: NatsServer) -> None:
    async def check() -> None:
        await tell(nats_server, status(1))
        async with connect(nats_server.url, status_stream="ELSEWHERE") as client:
            assert await client.last_status("stocks") is None
        async with connect(nats_server.url, status_stream=STREAM) as client:
            assert await client.last_status("stocks") == status(1)

    asyncio.run(check())


def test_the_last_of_each_come_first_and_then_what_is_new(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        await tell(any_nats_server, status(1), status(2, "options"), status(3))
        async with asyncio.timeout(PATIENCE_S), connect(any_nats_server.url) as client:
            following = client.statuses()
            got = [await anext(following), await anext(following)]
            assert got == [status(2, "options"), status(3)]
            await tell(any_nats_server, status(4, "options"), status(5))
            got = [await anext(following), await anext(following)]
            assert got == [status(4, "options"), status(5)]

    asyncio.run(check())


def test_one_feed_and_any_start_may_be_chosen(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        await tell(any_nats_server, status(1), status(2, "options"), status(3))
        async with connect(any_nats_server.url) as client:
            assert await all_of(client, "options") == [status(2, "options")]
            assert await all_of(client, "stocks") == [status(3)]
            assert await all_of(client, "stocks", start=From.BEGINNING) == [status(1), status(3)]
            assert await all_of(client, start=From.NEW) == []

    asyncio.run(check())


@pytest.mark.parametrize("start", list(From))
def test_who_follows_before_the_first_status_gets_it(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch, start: From
) -> None:
    monkeypatch.setattr("ingestor.client.LOOK_AGAIN_S", 0.05)

    async def check() -> None:
        async with asyncio.timeout(PATIENCE_S), connect(nats_server.url) as client:
            first = asyncio.ensure_future(anext(client.statuses(start=start)))
            assert await all_of(client) == []
            await tell(nats_server, status(1), status(2))
            assert await first == status(1)

    asyncio.run(check())


def test_following_goes_on_when_the_server_was_away(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        await tell(any_nats_server, status(1))
        async with asyncio.timeout(PATIENCE_S), connect(any_nats_server.url) as client:
            following = client.statuses()
            assert await anext(following) == status(1)
            await asyncio.to_thread(any_nats_server.kill)
            await asyncio.to_thread(any_nats_server.start)
            await tell(any_nats_server, status(2), status(3))
            assert [await anext(following), await anext(following)] == [status(2), status(3)]
            assert await client.last_status("stocks") == status(3)

    asyncio.run(check())


def test_what_is_no_status_is_named_and_passed_over(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def check() -> None:
        await store(nats_server, encode_status(status(1)), b"{}", encode_status(status(3)))
        async with connect(nats_server.url) as client:
            got = await all_of(client, start=From.BEGINNING)
            assert got == [status(1), status(3)]

    asyncio.run(check())
    assert "message 2 on ingestor.status.stocks: not a feed's status" in caplog.text
