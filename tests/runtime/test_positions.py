"""How far a run is stored when another publisher begins."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from ingestor.encode import make_encoder
from ingestor.model.blocks import Reply, Source, whole_block
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.publish.publisher import PublishReport, StreamPlace
from ingestor.publish.reconcile import messages_of
from ingestor.runtime.positions import (
    FeedPosition,
    FeedPositions,
    Position,
    Predecessor,
    Stored,
    rows_in,
)
from tests.publish.plain import connect, raw_info
from tests.rows import block

if TYPE_CHECKING:
    from tests.nats_servers import NatsServer

NONE = (False, False)
TRADES, QUOTES = "market.stocks.trades", "market.stocks.quotes"


def event(number: int, source: str = "sim") -> bytes:
    return json.dumps({"ts_event_ns": number, "source": source}).encode()


async def settled(server: NatsServer, position: Position, *, others: float = 0.0) -> Predecessor:
    """Settle; `others` is a span in which somebody writes to our subjects."""
    connection = Connection(ConnectOptions((server.url,)), on_change=lambda: None)
    await connection.open()
    former = Predecessor(position, "MARKET_DATA", [TRADES, QUOTES], Source.SIM)
    writing = asyncio.create_task(write_for(server, others))
    await former.settle(connection)
    await writing
    await connection.close()
    return former


async def write_for(server: NatsServer, span_s: float) -> None:
    client = await connect(server)
    end_s = time.monotonic() + span_s
    while time.monotonic() < end_s:
        await client.jetstream().publish(TRADES, event(0))
        await asyncio.sleep(0.05)
    await client.close()


async def publish(server: NatsServer, *messages: tuple[str, bytes]) -> str:
    """Publish messages into a stream of ours; return the stream's identity."""
    client = await connect(server)
    stream = client.jetstream()
    await stream.add_stream(name="MARKET_DATA", subjects=["market.>"])
    for subject, payload in messages:
        await stream.publish(subject, payload)
    await client.close()
    return str((await raw_info(server))["created"])


def test_what_was_stored_behind_the_position_is_counted(nats_server: NatsServer) -> None:
    async def work() -> Predecessor:
        identity = await publish(
            nats_server,
            *((TRADES, event(number)) for number in range(5)),
            *((QUOTES, event(number)) for number in range(3)),
        )
        position = Position(
            4, {TRADES: 4}, 4, identity, certain_seq=2, certain_messages=2, certain_rows={TRADES: 2}
        )
        return await settled(nats_server, position)

    stored = asyncio.run(work()).stored
    assert stored.rows == {TRADES: 5, QUOTES: 3}
    assert (stored.messages, stored.first_seq, stored.last_seq) == (8, 5, 8)


def test_where_others_write_it_is_counted_from_a_sequence_that_is_certain(
    nats_server: NatsServer,
) -> None:
    """Ours are 1, 3 and 5: three are acknowledged, and the newest is taken for number 3."""

    async def work() -> Predecessor:
        foreign = ("market.futures.trades", event(0))
        identity = await publish(
            nats_server,
            *((TRADES, event(1)), foreign, (TRADES, event(2)), (QUOTES, event(0, "replay"))),
            *((TRADES, event(3)), (QUOTES, event(4))),
        )
        position = Position(
            3, {TRADES: 3}, 3, identity, certain_seq=1, certain_messages=1, certain_rows={TRADES: 1}
        )
        return await settled(nats_server, position)

    assert asyncio.run(work()).stored.rows == {TRADES: 3, QUOTES: 1}


@pytest.mark.parametrize("others", [0, 2])
def test_what_was_acknowledged_and_is_gone_was_stored_all_the_same(
    nats_server: NatsServer, others: int
) -> None:
    async def work() -> Predecessor:
        identity = await publish(nats_server, *((TRADES, event(number)) for number in range(5)))
        client = await connect(nats_server)
        await client.jetstream().purge_stream("MARKET_DATA")
        for _ in range(others):
            await client.jetstream().publish("market.futures.trades", event(0))
        await client.close()
        return await settled(nats_server, Position(4, {TRADES: 4}, 4, identity))

    stored = asyncio.run(work()).stored
    assert (stored.rows, stored.messages) == ({TRADES: 4}, 4)


def test_a_stream_that_was_made_anew_adds_nothing(nats_server: NatsServer) -> None:
    async def work() -> Predecessor:
        await publish(nats_server, *((TRADES, event(number)) for number in range(5)))
        return await settled(nats_server, Position(1, {TRADES: 1}, 1, "another"))

    assert asyncio.run(work()).stored.rows == {TRADES: 1}


def test_what_is_still_on_its_way_is_waited_for(nats_server: NatsServer) -> None:
    async def work() -> tuple[Predecessor, int]:
        identity = await publish(nats_server)
        former = await settled(nats_server, Position(stream_id=identity), others=1.0)
        return former, int((await raw_info(nats_server))["state"]["messages"])

    former, there = asyncio.run(work())
    assert there > 5
    assert former.stored.rows == {TRADES: there}


@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_rows_are_counted_as_they_were_encoded(encoding: str) -> None:
    seven = whole_block(block([(number, 0, 0) for number in range(7)]))
    frames = make_encoder(encoding).encode(seven, Reply(b"", b""), 1, 100)
    payloads = [payload for _, payload in messages_of(frames.data)]
    assert sum(rows_in(payload, Source.REPLAY) for payload in payloads) == 7
    assert sum(rows_in(payload, Source.SIM) for payload in payloads) == 0


@pytest.mark.parametrize("payload", [b"", b"{}", b"\xabMDP", b"\xabMDP" + bytes(60), b"\xff"])
def test_what_is_no_event_holds_no_rows(payload: bytes) -> None:
    assert rows_in(payload, Source.SIM) == 0


def test_rows_are_numbered_from_the_first_of_a_feeds_process() -> None:
    feeds = FeedPositions(Position(), [0, 0])
    assert feeds.now({0: 4}, NONE) == (FeedPosition(0, 0, 4), FeedPosition())
    assert feeds.begin(0, 1, 10)
    # Six of the rows before are under way: nothing of the new process is stored.
    assert feeds.now({0: 4}, NONE) == (FeedPosition(1, 10, 0), FeedPosition())
    assert feeds.now({0: 13, 1: 2}, NONE) == (FeedPosition(1, 10, 3), FeedPosition(stored=2))
    assert not feeds.begin(0, 1, 99)


def test_statuses_of_an_earlier_process_settle_nothing_of_the_present_one() -> None:
    feeds = FeedPositions(Position(feeds=(FeedPosition(told=2), FeedPosition())), [0, 0])
    feeds.settled(0, 0, 2)
    feeds.settled(1, 0, 0)
    feeds.settled(0, 0, 1)
    assert [feed.told for feed in feeds.now({}, NONE)] == [3, 1]
    feeds.begin(0, 1, 0)
    feeds.settled(0, 0, 5)
    assert [feed.told for feed in feeds.now({}, NONE)] == [0, 1]


def test_a_gap_that_was_open_when_a_publisher_died_is_open_still() -> None:
    before = Position(feeds=(FeedPosition(gap=True), FeedPosition()))
    assert FeedPositions(before, [0, 0]).gaps == [True, False]
    # One that died before it had opened its stream has told nothing.
    assert FeedPositions(Position(), [0, 0]).gaps == [True, True]


def test_another_publisher_numbers_on() -> None:
    before = Position(feeds=(FeedPosition(1, 10, 3), FeedPosition(0, 0, 2)))
    feeds = FeedPositions(before, [15, 2])
    assert feeds.gaps == [False, False]
    assert feeds.now({}, NONE) == (FeedPosition(1, 10, 5), FeedPosition(0, 0, 2))
    assert feeds.begin(0, 2, 7)
    assert feeds.now({0: 8}, NONE) == (FeedPosition(2, 22, 1), FeedPosition(0, 0, 2))


def test_rows_of_a_dead_process_that_died_with_their_publisher_are_lost() -> None:
    feeds = FeedPositions(Position(feeds=(FeedPosition(1, 10, 0),)), [8])
    assert feeds.gaps == [True]
    assert feeds.now({0: 2}, NONE[:1]) == (FeedPosition(1, 8, 2),)


def test_a_feed_with_a_journal_reads_from_there_what_died_with_a_publisher() -> None:
    position = Position(feeds=(FeedPosition(2, 10, 0, 0), FeedPosition(1, 9, 0, 0, gap=True)))
    assert FeedPositions(position, [4, 9], {0, 1}).gaps == [False, True]


def test_a_successor_needs_what_was_stored_before_and_since_in_the_order_of_the_subjects() -> None:
    place = StreamPlace("made", 9, 7, 1, {TRADES: 4}, ("mark",))
    since = PublishReport("MARKET_DATA", {TRADES: 5, QUOTES: 1}, messages=3)
    position = Stored({QUOTES: 3}, 2).position(place, since, (FeedPosition(1),), ())
    certain = {QUOTES: 3, TRADES: 4}
    assert position == Position(
        9, {QUOTES: 4, TRADES: 5}, 5, "made", 7, 3, certain, ("mark",), (FeedPosition(1),)
    )
    assert list(position.rows) == [QUOTES, TRADES]
