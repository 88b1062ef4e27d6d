"""Reading back from a real stream what it holds of a batch."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from ingestor.errors import StreamError
from ingestor.publish.access import Access
from ingestor.publish.connection import Connection
from ingestor.publish.jetstream import JetStreamApi
from ingestor.publish.readback import Stored
from ingestor.publish.settle import READ_AHEAD, Question, find_stored
from ingestor.publish.stream import StreamSettings, set_up
from tests.publish.plain import TRADES, PlainEncoder, connect, trades

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from tests.nats_servers import NatsServer

STRANGER = ("market.stocks.trades", b"-1")


def ours(first: int, count: int) -> list[tuple[str, bytes]]:
    return [(TRADES, b"%d" % size) for size in range(first, first + count)]


async def fill(context: JetStreamContext, content: list[tuple[str, bytes]]) -> None:
    for subject, payload in content:
        await context.publish(subject, payload)


def settled(
    server: NatsServer,
    content: list[tuple[str, bytes]],
    *,
    floor: int = 0,
    purge_below: int | None = None,
) -> Stored:
    """Fill a stream; ask how much of the trades 0 to 199 it holds behind `floor`."""

    async def run() -> Stored:
        link = Connection(Access(url=server.url), on_change=lambda: None)
        await link.open()
        api = JetStreamApi(link)
        await set_up(api, StreamSettings())
        client = await connect(server)
        context = client.jetstream()
        await fill(context, content)
        if purge_below is not None:
            await context.purge_stream("MARKET_DATA", seq=purge_below)
        try:
            question = Question("MARKET_DATA", floor, [trades(0, 150), trades(150, 50)])
            return await find_stored(api, question, PlainEncoder())
        finally:
            await client.close()
            await link.close()

    return asyncio.run(run())


def test_nothing_stored_is_found_as_nothing(any_nats_server: NatsServer) -> None:
    assert settled(any_nats_server, [STRANGER] * 3, floor=3) == Stored(0, None, None)


def test_a_stored_part_is_found_over_several_reads(any_nats_server: NatsServer) -> None:
    count = 2 * READ_AHEAD + 5
    content = [STRANGER, *ours(0, count)]
    assert settled(any_nats_server, content, floor=1) == Stored(count, 2, count + 1)


def test_all_stored_is_found(any_nats_server: NatsServer) -> None:
    assert settled(any_nats_server, ours(0, 200)) == Stored(200, 1, 200)


def test_ours_are_found_among_others(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    content = [*ours(0, 2), STRANGER, *ours(2, 3), STRANGER, STRANGER]
    assert settled(any_nats_server, content) == Stored(5, 1, 6)
    assert "another publisher" in caplog.text


def test_messages_the_stream_has_dropped_since_are_taken_for_ours(
    any_nats_server: NatsServer,
) -> None:
    assert settled(any_nats_server, ours(0, 90), purge_below=41) == Stored(90, 1, 90)
    assert settled(any_nats_server, [], purge_below=91) == Stored(90, 1, 90)


def test_dropped_messages_beside_those_of_others_cannot_be_told(
    any_nats_server: NatsServer,
) -> None:
    content = [*ours(0, 50), STRANGER, *ours(50, 5)]
    with pytest.raises(StreamError, match="cannot be known"):
        settled(any_nats_server, content, purge_below=41)


def test_more_dropped_than_ever_sent_cannot_be_told(any_nats_server: NatsServer) -> None:
    with pytest.raises(StreamError, match="cannot be known"):
        settled(any_nats_server, [STRANGER] * 210, purge_below=206)


def test_a_stream_that_ends_before_the_floor_has_lost_messages(
    any_nats_server: NatsServer,
) -> None:
    with pytest.raises(StreamError, match="lost with its server, or the stream was made anew"):
        settled(any_nats_server, ours(0, 5), floor=6)
