"""The publisher process: what comes out of the rings, and where it goes."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ingestor.merge.ordering import ArrivalMerge
from ingestor.model.blocks import Source
from ingestor.model.errors import IngestorError
from ingestor.model.feed_status import FeedStatus, What, decode_status
from ingestor.nats.stream import StreamSettings
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import (
    END_MESSAGE,
    RingReader,
    records_message,
    status_message,
    symbols_message,
)
from ingestor.runtime import publisher_process
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.feed_watch import FeedWatch, RingInput
from ingestor.runtime.latency import Hop
from ingestor.runtime.publisher_process import PublisherInputs, PublisherProcess
from tests.publish.plain import connect, messages, publisher, raw_info, stored
from tests.rows import rows

if TYPE_CHECKING:
    from nats.aio.msg import Msg

    from tests.nats_servers import NatsServer


def test_statuses_in_a_ring_are_published_beside_its_records(any_nats_server: NatsServer) -> None:
    told = [FeedStatus(feed="stocks", what=What.GAP, at_ns=at, text="cut") for at in range(3)]
    doorbell = Doorbell()
    ring = BlockRing(doorbell)
    records = rows([(at, at, at) for at in range(30)])
    for at, status in enumerate(told):
        assert ring.put(status_message(status))
        assert ring.put(symbols_message({0: "ES.c.0"}))
        assert ring.put(records_message(records[at * 10 : at * 10 + 10]))
    assert ring.put(END_MESSAGE)
    flow = PublisherInputs(
        [RingInput(ring, RingReader(0, Source.SIM, {}))], doorbell, ArrivalMerge(1)
    )
    table = CounterTable(2)
    publishing = publisher(any_nats_server)
    error = PublisherProcess(flow, publishing, table, stop_s=10).run()
    doorbell.close()
    row = table.row(1)
    assert (error, row[Counter.PUBLISHED], row[Counter.STATUSES]) == (None, 30, 3)
    assert table.status(0) == told[-1]
    found = asyncio.run(messages(any_nats_server, "INGESTOR_STATUS"))
    assert [decode_status(data) for _, _, data in found] == told
    assert asyncio.run(stored(any_nats_server)) == list(range(30))


def test_a_fault_in_telling_feeds_where_to_go_on_ends_the_process(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(FeedWatch, "is_asked", True)
    monkeypatch.setattr(FeedWatch, "tell_ends", broken)
    doorbell = Doorbell()
    ring = RingInput(BlockRing(doorbell), RingReader(0, Source.SIM, {}))
    flow = PublisherInputs([ring], doorbell, ArrivalMerge(1))
    process = PublisherProcess(flow, publisher(nats_server), CounterTable(2), stop_s=10)
    with pytest.raises(ZeroDivisionError):
        process.run()
    doorbell.close()


def test_latencies_are_counted_from_the_ring_to_the_socket_and_from_there_until_stored(
    any_nats_server: NatsServer,
) -> None:
    doorbell = Doorbell()
    ring = BlockRing(doorbell)
    assert ring.put(symbols_message({0: "ES.c.0"}))
    put_ns = time.monotonic_ns() - 7_000_000_000
    for at in range(3):
        records = rows([(at * 10 + one, 0, 0) for one in range(10)])
        assert ring.put(records_message(records, put_ns if at else 0))
    assert ring.put(END_MESSAGE)
    inputs = [RingInput(ring, RingReader(0, Source.SIM, {}))]
    flow = PublisherInputs(inputs, doorbell, ArrivalMerge(1), drain_on_stop=True)
    table = CounterTable(2)
    PublisherProcess(flow, publisher(any_nats_server), table, stop_s=10).run()
    doorbell.close()
    waited = table.latencies.read(1, Hop.RING_TO_PUBLISH)
    stored = table.latencies.read(1, Hop.PUBLISH_TO_STORED)
    # Of a block without a time nobody knows how long it waited.
    assert (waited.rows, stored.rows) == (20, 30)
    assert 7_000_000_000 <= waited.max_ns < 20_000_000_000
    assert 0 < stored.max_ns < 5_000_000_000
    assert table.latencies.read(1, Hop.DUE_TO_SENT).rows == 0


def test_a_server_that_stores_nothing_is_seen_from_the_moment_it_began(
    nats_server: NatsServer,
) -> None:
    doorbell = Doorbell()
    ring = BlockRing(doorbell)
    table = CounterTable(2)
    row = table.row(1)
    assert ring.put(symbols_message({0: "ES.c.0"}))
    inputs = [RingInput(ring, RingReader(0, Source.SIM, {}))]
    flow = PublisherInputs(inputs, doorbell, ArrivalMerge(1), drain_on_stop=True)
    process = PublisherProcess(flow, publisher(nats_server), table, stop_s=10)
    running = threading.Thread(target=process.run)
    running.start()

    def until(done: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline_s
            time.sleep(0.01)

    assert ring.put(records_message(rows([(0, 0, 0)])))
    until(lambda: row[Counter.PUBLISHED] == 1)
    nats_server.pause()
    frozen_ns = time.monotonic_ns()
    assert ring.put(records_message(rows([(1, 1, 1)])))
    until(lambda: row[Counter.STALLED_SINCE_NS] > 0)
    assert row[Counter.UNACKED] == 1
    assert frozen_ns <= row[Counter.STALLED_SINCE_NS] < frozen_ns + 2_000_000_000
    nats_server.resume()
    until(lambda: row[Counter.PUBLISHED] == 2)
    assert (row[Counter.STALLED_SINCE_NS], row[Counter.UNACKED]) == (0, 0)
    assert ring.put(END_MESSAGE)
    running.join(30)
    doorbell.close()


def test_rows_that_have_just_been_sent_are_no_stall(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    doorbell, table = Doorbell(), CounterTable(2)
    flow = PublisherInputs([], doorbell, ArrivalMerge(1), drain_on_stop=True)
    publishing = publisher(nats_server)
    process = PublisherProcess(flow, publishing, table, stop_s=10)
    told = []
    for acked, under_way in [(5, 0), (5, 1), (6, 1), (6, 1), (6, 2), (8, 0), (8, 1)]:
        monkeypatch.setattr(type(publishing), "acked_rows", acked)
        monkeypatch.setattr(type(publishing), "unacked_rows", under_way)
        process._note_stall()
        told.append(table.row(0)[Counter.STALLED_SINCE_NS] > 0)
    assert told == [False, False, False, True, True, False, False]
    doorbell.close()


@pytest.mark.parametrize("drain_on_stop", [True, False])
def test_a_stream_that_loses_what_it_held_is_an_error_of_a_replay_and_news_of_a_live_run(
    nats_server: NatsServer, drain_on_stop: bool
) -> None:
    doorbell = Doorbell()
    ring = BlockRing(doorbell)
    table = CounterTable(2)
    publishing = publisher(nats_server)
    flow = PublisherInputs(
        [RingInput(ring, RingReader(0, Source.SIM, {}))], doorbell, ArrivalMerge(1)
    )
    flow = replace(flow, drain_on_stop=drain_on_stop)
    process = PublisherProcess(flow, publishing, table, stop_s=10)

    def feed() -> None:
        ring.put(symbols_message({0: "ES.c.0"}))
        ring.put(records_message(rows([(at, at, at) for at in range(10)])))
        while publishing.acked_rows < 10:
            time.sleep(0.01)
        asyncio.run(delete_stream(nats_server))
        ring.put(records_message(rows([(at, at, at) for at in range(10, 15)])))
        ring.put(END_MESSAGE)

    thread = threading.Thread(target=feed)
    thread.start()
    error = process.run()
    thread.join()
    doorbell.close()
    assert (table.row(1)[Counter.PUBLISHED], publishing.report().lost_messages) == (15, 10)
    assert (error and error.exit_code) == (None if drain_on_stop else 7)
    assert asyncio.run(stored(nats_server)) == list(range(5))


async def delete_stream(server: NatsServer) -> None:
    client = await connect(server)
    await client.jetstream().delete_stream("MARKET_DATA")
    await client.close()


def test_a_publisher_that_spins_needs_no_doorbell(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_process, "IDLE_S", 3600.0)
    unheard, doorbell = Doorbell(), Doorbell()
    ring = BlockRing(unheard)
    table = CounterTable(2)

    def feed() -> None:
        while not table.row(1)[Counter.HEARTBEAT_NS]:
            time.sleep(0.01)
        ring.put(symbols_message({0: "ES.c.0"}))
        ring.put(records_message(rows([(at, at, at) for at in range(10)])))
        ring.put(END_MESSAGE)

    thread = threading.Thread(target=feed)
    thread.start()
    inputs = [RingInput(ring, RingReader(0, Source.SIM, {}))]
    flow = PublisherInputs(inputs, doorbell, ArrivalMerge(1), busy_poll=True)
    PublisherProcess(flow, publisher(nats_server), table, stop_s=10).run()
    thread.join()
    assert table.stored == {"market.futures.trades": 10}


@pytest.mark.parametrize(("drain_on_stop", "published"), [(True, 30), (False, 10)])
def test_what_feeds_put_in_after_the_word_to_stop_is_published_where_nothing_may_be_left(
    nats_server: NatsServer, drain_on_stop: bool, published: int
) -> None:
    doorbell = Doorbell()
    ring = BlockRing(doorbell)
    table = CounterTable(2)
    records = records_message(rows([(at, at, at) for at in range(10)]))
    assert ring.put(symbols_message({0: "ES.c.0"}))
    assert ring.put(records)

    def feed() -> None:
        """Go on a while after the word to stop, then end like a process that is killed."""
        while table.row(1)[Counter.RECORDS] < 10:
            time.sleep(0.01)
        table.stop()
        for _ in range(2):
            time.sleep(0.1)
            ring.put(records)
        table.row(0)[Counter.ENDED] = 1
        doorbell.ring()

    thread = threading.Thread(target=feed)
    thread.start()
    inputs = [RingInput(ring, RingReader(0, Source.SIM, {}))]
    flow = PublisherInputs(inputs, doorbell, ArrivalMerge(1), drain_on_stop=drain_on_stop)
    process = PublisherProcess(flow, publisher(nats_server), table, stop_s=10)
    error = process.run()
    thread.join()
    doorbell.close()
    assert (error, table.stored) == (None, {"market.futures.trades": published})


def test_a_feed_that_has_ended_does_not_cut_short_what_others_still_put_in(
    nats_server: NatsServer,
) -> None:
    doorbell = Doorbell()
    rings = [BlockRing(doorbell) for _ in range(2)]
    table = CounterTable(3)
    records = records_message(rows([(at, at, at) for at in range(10)]))
    assert rings[1].put(symbols_message({0: "ES.c.0"}))
    assert rings[1].put(records)

    def feeds() -> None:
        while table.row(2)[Counter.RECORDS] < 10:
            time.sleep(0.01)
        table.row(0)[Counter.ENDED] = 1
        table.stop()
        doorbell.ring()
        time.sleep(0.2)
        rings[1].put(records)
        table.row(1)[Counter.ENDED] = 1
        doorbell.ring()

    thread = threading.Thread(target=feeds)
    thread.start()
    inputs = [RingInput(ring, RingReader(at, Source.SIM, {})) for at, ring in enumerate(rings)]
    flow = PublisherInputs(inputs, doorbell, ArrivalMerge(2), drain_on_stop=True)
    PublisherProcess(flow, publisher(nats_server), table, stop_s=10).run()
    thread.join()
    doorbell.close()
    assert table.stored == {"market.futures.trades": 20}


def test_a_full_stream_is_told_on_the_status_of_each_live_feed_and_gone_on_with_once_it_has_room(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    doorbell = Doorbell()
    rings = [BlockRing(doorbell) for _ in range(2)]
    records = rows([(at, at, at) for at in range(300)])
    for ring in rings:
        assert ring.put(symbols_message({0: "ES.c.0"}))
    assert rings[0].put(records_message(records))
    inputs = [
        RingInput(ring, RingReader(index, Source.SIM, {}), name)
        for index, (ring, name) in enumerate(zip(rings, ("stocks", "options"), strict=True))
    ]
    flow = PublisherInputs(inputs, doorbell, ArrivalMerge(2), drain_on_stop=True)
    table = CounterTable(3)
    settings = StreamSettings(discard="new", max_msgs=100)
    process = PublisherProcess(flow, publisher(any_nats_server, stream=settings), table, stop_s=10)
    errors: list[IngestorError | None] = []
    running = threading.Thread(target=lambda: errors.append(process.run()))
    running.start()

    async def make_room() -> list[FeedStatus]:
        client = await connect(any_nats_server)
        told: list[FeedStatus] = []
        both = asyncio.Event()

        async def see(message: Msg) -> None:
            told.append(decode_status(message.data))
            if len(told) == 2:
                both.set()

        await client.subscribe("ingestor.status.*", cb=see)
        await asyncio.wait_for(both.wait(), 20)
        config = (await raw_info(any_nats_server))["config"] | {"max_msgs": 1_000}
        await client.request("$JS.API.STREAM.UPDATE.MARKET_DATA", json.dumps(config).encode())
        await client.close()
        return told

    told = asyncio.run(make_room())
    for ring in rings:
        assert ring.put(END_MESSAGE)
    running.join(30)
    doorbell.close()
    assert [(one.feed, one.what) for one in told] == [("stocks", "alarm"), ("options", "alarm")]
    assert all("nothing is stored: maximum messages exceeded" in one.text for one in told)
    assert (errors, table.row(2)[Counter.PUBLISHED]) == ([None], 300)
    assert asyncio.run(stored(any_nats_server)) == list(range(300))
    assert "nothing is stored: maximum messages exceeded" in caplog.text
