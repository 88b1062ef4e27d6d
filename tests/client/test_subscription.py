from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, TypeVar

import nats
import numpy as np
import pytest
from nats.js.api import ConsumerConfig

from ingestor.client import (
    AtSequence,
    Batch,
    Client,
    From,
    Since,
    Start,
    Subscription,
    connect,
    consumer,
    pull,
)
from ingestor.client import subscription as subscription_module
from ingestor.model.errors import StreamError
from ingestor.model.events import MBP10, Event, FuturesTrade
from ingestor.nats import connection
from ingestor.nats.connection import Connection
from tests.client.streams import (
    DEPTH,
    STREAM,
    TRADES,
    Published,
    as_json,
    as_packed,
    depth,
    in_turns,
    make_stream,
    packed,
    publish,
    sequences,
    trades,
)
from tests.conftest import StartNatsServer
from tests.encode import examples
from tests.encode.examples import block_of
from tests.nats_servers import NatsServer

T = TypeVar("T")

TIMEOUT_S = 30.0


def run(test: Coroutine[Any, Any, T]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(TIMEOUT_S):
            return await test

    return asyncio.run(bounded())


def read(server: NatsServer, subject: str = "market.>", **options: Any) -> list[Event]:
    """All events up to the stream's end, by a client of its own."""

    async def reading() -> list[Event]:
        async with connect(server.url) as client:
            events = client.subscribe(subject, follow=False, **options).events()
            return [event async for event in events]

    return run(reading())


def store(server: NatsServer, messages: list[Published]) -> int:
    return run(publish(server, messages))


async def take(subscription: Subscription, wanted: int) -> list[Event]:
    """The next events; the iteration is left after them."""
    found: list[Event] = []
    if wanted:
        async for event in subscription.events():
            found.append(event)
            if len(found) == wanted:
                break
    return found


class CrashError(Exception):
    """Leaves a client as a crash would: nothing more is acknowledged."""


@asynccontextmanager
async def crashing_client(server: NatsServer) -> AsyncIterator[Client]:
    with suppress(CrashError):
        async with connect(server.url) as client:
            yield client
            raise CrashError


async def read_and_leave(server: NatsServer, acknowledged: int, subject: str = "market.>") -> None:
    """Read as a durable, and end without a word after one more than was acknowledged.

    Not after two: where those do not arrive together, asking for the second acknowledges the first.
    """
    async with crashing_client(server) as client:
        subscription = client.subscribe(subject, durable="core")
        assert sequences(await take(subscription, acknowledged)) == list(range(acknowledged))
        assert await subscription.ack()
        assert sequences(await take(subscription, 1)) == [acknowledged]


async def consumers(server: NatsServer) -> list[str]:
    async with await nats.connect(server.url) as client:
        return [info.name for info in await client.jetstream().consumers_info(STREAM)]


async def opened(subscription: Subscription) -> None:
    """Wait until the server serves it."""
    while subscription._pull is None:
        await asyncio.sleep(0.005)


def cut_connection(client: Client) -> None:
    client._connection.client._transport._io_writer.transport.abort()  # type: ignore[union-attr]


def test_all_types_come_typed_and_in_stream_order(nats_server: NatsServer) -> None:
    store(nats_server, [(example.subject, example.payload) for example in examples.CONTRACT])
    names = [type(event).__name__ for event in read(nats_server)]
    assert names == ["StockTrade", "StockQuote", "OptionTrade", "FuturesTrade", "MBP10"]


def test_a_subject_with_wildcards_leaves_out_the_others(nats_server: NatsServer) -> None:
    store(nats_server, [(example.subject, example.payload) for example in examples.CONTRACT])
    names = [type(event).__name__ for event in read(nats_server, "market.*.trades")]
    assert names == ["StockTrade", "OptionTrade", "FuturesTrade"]


def test_json_and_packed_messages_may_lie_side_by_side(nats_server: NatsServer) -> None:
    store(nats_server, as_json(trades(3)) + packed(trades(4, first=3)) + as_json(depth(2, first=7)))
    assert sequences(read(nats_server)) == list(range(9))


def test_a_subscription_can_begin_at_a_sequence(nats_server: NatsServer) -> None:
    store(nats_server, as_json(trades(5)))
    assert sequences(read(nats_server, start=AtSequence(4))) == [3, 4]


def test_a_subscription_can_begin_at_a_time(nats_server: NatsServer) -> None:
    store(nats_server, as_json(trades(3)))
    moment = Since(time.time_ns())
    store(nats_server, as_json(trades(2, first=3)))
    assert sequences(read(nats_server, start=moment)) == [3, 4]


def test_an_empty_stream_ends_at_once_where_it_is_not_followed(nats_server: NatsServer) -> None:
    store(nats_server, [])
    assert read(nats_server) == []


def test_a_new_only_subscription_sees_nothing_older(nats_server: NatsServer) -> None:
    async def reading() -> list[Event]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(start=From.NEW)
            taking = asyncio.create_task(take(subscription, 2))
            await opened(subscription)
            await publish(nats_server, as_json(trades(2, first=3)))
            return await taking

    store(nats_server, as_json(trades(3)))
    assert sequences(run(reading())) == [3, 4]


def test_a_new_only_subscription_that_is_cut_off_misses_nothing(nats_server: NatsServer) -> None:
    async def reading() -> list[Event]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(start=From.NEW)
            taking = asyncio.create_task(take(subscription, 2))
            await opened(subscription)
            cut_connection(client)
            await publish(nats_server, as_json(trades(2, first=3)))
            return await taking

    store(nats_server, as_json(trades(3)))
    assert sequences(run(reading())) == [3, 4]


def test_a_followed_stream_goes_on_after_its_end(any_nats_server: NatsServer) -> None:
    async def reading() -> list[int]:
        async with connect(any_nats_server.url) as client:
            subscription = client.subscribe(DEPTH)
            found = await take(subscription, 2)
            await publish(any_nats_server, as_json(depth(2, first=2)))
            return sequences(found + await take(subscription, 2))

    store(any_nats_server, as_json(depth(2)))
    assert run(reading()) == [0, 1, 2, 3]


def test_messages_with_headers_keep_their_place(nats_server: NatsServer) -> None:
    async def storing() -> None:
        await make_stream(nats_server)
        async with await nats.connect(nats_server.url) as client:
            for index, (subject, payload) in enumerate(as_json(trades(6))):
                headers = {"Nats-Msg-Id": str(index)} if index % 2 else None
                await client.jetstream().publish(subject, payload, headers=headers)

    run(storing())
    assert sequences(read(nats_server)) == list(range(6))


def test_the_raw_messages_can_be_had(nats_server: NatsServer) -> None:
    stored = as_json(trades(2)) + packed(depth(3))

    async def reading() -> list[tuple[str, int, bytes]]:
        async with connect(nats_server.url) as client:
            messages = client.subscribe(follow=False).messages()
            return [(m.subject, m.seq, m.payload) async for m in messages]

    store(nats_server, stored)
    assert run(reading()) == [
        (subject, seq, payload) for seq, (subject, payload) in enumerate(stored, 1)
    ]


@pytest.mark.parametrize("encoded", ["json", "packed"])
def test_arrays_hold_what_events_say(nats_server: NatsServer, encoded: str) -> None:
    runs = in_turns(block_of(trades(50)), block_of(depth(50)))
    store(
        nats_server,
        as_packed(runs) if encoded == "packed" else as_json(trades(50)) + as_json(depth(50)),
    )

    async def reading() -> list[Batch]:
        async with connect(nats_server.url) as client:
            return [batch async for batch in client.subscribe(follow=False).batches()]

    batches = run(reading())
    for subject, expected in ((TRADES, trades(50)), (DEPTH, depth(50))):
        mine = [batch for batch in batches if batch.event_type.subject == subject]
        rows = np.concatenate([batch.records for batch in mine])
        for name in ("ts_event_ns", "ts_recv_ns", "sequence", "price_e9", "size", "side"):
            assert (rows[name] == expected[name]).all()
        assert {batch.symbols[int(batch.records["instrument_id"][0])] for batch in mine} == {
            "ES.c.0"
        }
    assert sum(len(batch) for batch in batches) == 100


def test_two_subscriptions_of_a_client_do_not_mix(nats_server: NatsServer) -> None:
    async def reading() -> list[list[Event]]:
        async with connect(nats_server.url) as client:
            subjects = (TRADES, DEPTH)
            return await asyncio.gather(
                *(take(client.subscribe(subject), 20) for subject in subjects)
            )

    store(nats_server, as_json(trades(20)) + as_json(depth(20)))
    found_trades, found_depth = run(reading())
    assert all(isinstance(event, FuturesTrade) for event in found_trades)
    assert all(isinstance(event, MBP10) for event in found_depth)
    assert sequences(found_trades) == sequences(found_depth) == list(range(20))


def test_an_iteration_that_was_left_is_continued(nats_server: NatsServer) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe()
            return [sequences(await take(subscription, 1))[0] for _ in range(9)]

    store(
        nats_server, as_json(trades(2)) + packed(trades(5, first=2)) + as_json(trades(2, first=7))
    )
    assert run(reading()) == list(range(9))


def test_batches_that_were_not_taken_come_when_the_iteration_goes_on(
    nats_server: NatsServer,
) -> None:
    async def reading() -> list[int]:
        found: list[int] = []
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(follow=False)
            for _ in range(20):
                async for batch in subscription.batches():
                    found += batch.seqs.tolist()
                    break
        return found

    runs = in_turns(block_of(trades(10)), block_of(depth(10)))
    store(nats_server, as_packed(runs))
    assert sorted(run(reading())) == list(range(1, 21))


def test_an_ephemeral_consumer_is_gone_with_its_client(nats_server: NatsServer) -> None:
    store(nats_server, as_json(trades(1)))
    read(nats_server)
    assert run(consumers(nats_server)) == []


def test_a_durable_goes_on_where_it_stopped(any_nats_server: NatsServer) -> None:
    store(any_nats_server, as_json(trades(10)))
    assert sequences(read(any_nats_server, durable="core")) == list(range(10))
    assert run(consumers(any_nats_server)) == ["core"]
    store(any_nats_server, as_json(trades(5, first=10)))
    assert sequences(read(any_nats_server, durable="core")) == list(range(10, 15))


def test_start_only_counts_when_the_durable_is_new(nats_server: NatsServer) -> None:
    start: Start = AtSequence(3)
    store(nats_server, as_json(trades(5)))
    assert sequences(read(nats_server, durable="core", start=start)) == [2, 3, 4]
    store(nats_server, as_json(trades(1, first=5)))
    assert sequences(read(nats_server, durable="core", start=From.BEGINNING)) == [5]


def test_what_a_durable_did_not_acknowledge_comes_first_and_in_order(
    any_nats_server: NatsServer,
) -> None:
    store(any_nats_server, as_json(trades(9)))
    run(read_and_leave(any_nats_server, 4, TRADES))
    store(any_nats_server, as_json(trades(3, first=9)))
    assert sequences(read(any_nats_server, TRADES, durable="core")) == list(range(4, 12))


def arrive_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = pull.Pull.receive

    def apart(self: pull.Pull, frames: list[Any]) -> None:
        for frame in frames:
            receive(self, [frame])

    monkeypatch.setattr(pull.Pull, "receive", apart)


@pytest.mark.parametrize("together", [True, False])
def test_only_rows_handed_out_are_acknowledged_of_a_packed_message(
    nats_server: NatsServer, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crashing() -> None:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            assert len(await take(subscription, 5)) == 5
            assert await subscription.ack()

    if not together:
        arrive_one_by_one(monkeypatch)
    store(nats_server, packed(trades(3)) + packed(trades(3, first=3)))
    run(crashing())
    assert sequences(read(nats_server, durable="core")) == [3, 4, 5]


@pytest.mark.parametrize("start", [AtSequence(5), From.NEW])
def test_a_durable_that_acknowledged_nothing_begins_where_it_began(
    any_nats_server: NatsServer, start: Start
) -> None:
    async def crashing() -> None:
        async with crashing_client(any_nats_server) as client:
            subscription = client.subscribe(TRADES, durable="core", start=start)
            taking = asyncio.create_task(take(subscription, 1))
            await opened(subscription)
            await publish(any_nats_server, as_json(trades(2, first=4)))
            assert sequences(await taking) == [4]

    store(any_nats_server, as_json(trades(4)))
    run(crashing())
    assert sequences(read(any_nats_server, TRADES, durable="core")) == [4, 5]


def test_an_acknowledgement_that_the_server_does_not_get_is_told(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_TIMEOUT_S", 0.2)

    async def acknowledging() -> list[bool]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            told = [await subscription.ack()]
            await take(subscription, 2)
            nats_server.pause()
            told.append(await subscription.ack())
            nats_server.resume()
            told.append(await subscription.ack())
            subscription.lose("for this test")
            return [*told, await subscription.ack()]

    store(nats_server, as_json(trades(3)))
    assert run(acknowledging()) == [False, False, True, False]
    assert "an acknowledgement: no answer" in caplog.text


def test_a_durable_of_another_kind_is_not_touched(nats_server: NatsServer) -> None:
    async def making() -> None:
        await make_stream(nats_server)
        async with await nats.connect(nats_server.url) as client:
            config = ConsumerConfig(durable_name="core", filter_subject=TRADES)
            await client.jetstream().add_consumer(STREAM, config)

    run(making())
    with pytest.raises(StreamError, match="ack_policy 'explicit', not 'all'"):
        read(nats_server, TRADES, durable="core")
    with pytest.raises(StreamError, match="core"):
        read(nats_server, DEPTH, durable="core")


@pytest.mark.parametrize("durable", [None, "core"])
def test_a_restarted_server_costs_nothing_and_repeats_nothing(
    nats_server: NatsServer, durable: str | None
) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable=durable)
            found = await take(subscription, 700)
            await asyncio.to_thread(nats_server.restart)
            await publish(nats_server, as_json(trades(100, first=1000)))
            return sequences(found + await take(subscription, 400))

    store(nats_server, as_json(trades(1000)))
    assert run(reading()) == list(range(1100))


def test_a_durable_survives_lost_connections_on_any_server(
    any_nats_server: NatsServer,
) -> None:
    async def reading() -> list[int]:
        found: list[Event] = []
        async with connect(any_nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            for wanted in (1, 500, 499):
                found += await take(subscription, wanted)
                cut_connection(client)
            found += await take(subscription, 200)
        return sequences(found)

    store(any_nats_server, as_json(trades(1200)))
    assert run(reading()) == list(range(1200))


@pytest.mark.parametrize("answered", range(7))
def test_a_durable_keeps_its_place_whatever_ends_the_client_that_sets_it_back(
    old_nats_server: NatsServer, answered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Connection.api
    calls = count()

    async def ending(self: Connection, what: str, verb: str, *payload: Any) -> Any:
        if verb.startswith("CONSUMER") and next(calls) == answered:
            raise StreamError("the end")
        return await api(self, what, verb, *payload)

    store(old_nats_server, as_json(trades(9)))
    run(read_and_leave(old_nats_server, 4))
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "api", ending)
        with pytest.raises(StreamError, match="the end"):
            read(old_nats_server, durable="core")
    unacknowledged = read(old_nats_server, durable="core", start=From.NEW)
    assert sequences(unacknowledged) == [4, 5, 6, 7, 8]
    assert run(consumers(old_nats_server)) == ["core"]


@pytest.mark.parametrize("durable", [None, "core"])
def test_a_message_lost_on_the_way_is_fetched_again(
    nats_server: NatsServer, durable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = pull.Pull.receive
    calls = count()

    def lossy(self: pull.Pull, frames: list[Any]) -> None:
        if next(calls) == 1:
            del frames[len(frames) // 2]
        if frames:  # they may come one by one
            receive(self, frames)

    monkeypatch.setattr(pull.Pull, "receive", lossy)
    store(nats_server, as_json(depth(300)))
    assert sequences(read(nats_server, durable=durable)) == list(range(300))
    assert next(calls) > 2


def test_a_server_that_falls_silent_is_asked_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "SILENCE_S", 0.2)

    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe()
            found = await take(subscription, 3)
            nats_server.pause()
            taking = asyncio.create_task(take(subscription, 2))
            await asyncio.wait([taking], timeout=0.5)
            nats_server.resume()
            await publish(nats_server, as_json(trades(2, first=3)))
            return sequences(found + await taking)

    store(nats_server, as_json(trades(3)))
    assert run(reading()) == list(range(5))


def test_a_consumer_that_is_deleted_is_made_again_after_the_last_message(
    nats_server: NatsServer,
) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            found = await take(subscription, 3)
            async with await nats.connect(nats_server.url) as other:
                await other.jetstream().delete_consumer(STREAM, "core")
            await publish(nats_server, as_json(trades(2, first=3)))
            return sequences(found + await take(subscription, 2))

    store(nats_server, as_json(trades(3)))
    assert run(reading()) == list(range(5))


def test_the_last_message_that_was_handed_out_is_not_handed_out_again(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "REOPEN_PAUSE_S", 0.0)

    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            found = await take(subscription, 1)
            # Before it is acknowledged, so that it is delivered again, and alone.
            subscription.lose("for this test")
            taking = asyncio.create_task(take(subscription, 1))
            await publish(nats_server, as_json(trades(1, first=1)))
            return sequences(found + await taking)

    store(nats_server, as_json(trades(1)))
    assert run(reading()) == [0, 1]


def test_a_slow_reader_is_not_sent_more_than_the_bound(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "REQUEST_MESSAGES", 100)

    async def reading() -> tuple[int, int]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(follow=False)
            most = 0
            found = []
            async for event in subscription.events():
                found.append(event)
                await asyncio.sleep(0.001)  # work
                assert subscription._pull is not None
                most = max(most, subscription._pull.waiting_messages)
            return most, len(found)

    store(nats_server, as_json(trades(1000)))
    most, found = run(reading())
    assert found == 1000
    assert 100 <= most <= 150


def test_large_messages_are_bounded_by_bytes(
    start_nats_server: StartNatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_nats_server(extra_config="max_payload: 64KB")
    monkeypatch.setattr(pull, "REQUEST_BYTES", 256 * 1024)

    async def reading() -> tuple[int, int]:
        async with connect(server.url) as client:
            subscription = client.subscribe(follow=False)
            most = rows = 0
            async for batch in subscription.batches():
                rows += len(batch)
                await asyncio.sleep(0.005)  # work
                assert subscription._pull is not None
                most = max(most, subscription._pull.waiting_bytes)
            return most, rows

    store(server, [message for at in range(60) for message in packed(depth(100, first=at * 100))])
    most, rows = run(reading())
    assert rows == 6000
    assert most <= 256 * 1024 * 3 // 2


def test_a_missing_stream_is_said_at_once(nats_server: NatsServer) -> None:
    with pytest.raises(StreamError, match=r"MARKET_DATA: stream not found"):
        read(nats_server)


def test_a_server_without_jetstream_is_said_at_once(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config="accounts { A { users [ {user: u, password: p} ] } }")

    async def reading() -> None:
        async with connect(server.url, user="u", password="p") as client:
            async for _ in client.subscribe().events():
                pass

    with pytest.raises(StreamError, match="JetStream"):
        run(reading())


def test_closing_ends_an_iteration_in_another_task(nats_server: NatsServer) -> None:
    async def reading() -> list[Event]:
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(start=From.NEW)
            taking = asyncio.create_task(take(subscription, 1))
            await opened(subscription)
        return await taking

    store(nats_server, as_json(trades(1)))
    assert run(reading()) == []


def test_batches_hand_out_once_what_was_delivered_several_times_while_it_waited(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "ACK_WAIT_S", 0.2)

    async def reading() -> list[int]:
        found: list[int] = []
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            async for batch in subscription.batches():
                found += batch.seqs.tolist()
                if len(found) == 1:
                    await publish(nats_server, as_json(trades(1, first=1)))
                    assert await subscription.ack()
                    # The reader's own work, while the next message is delivered again and again.
                    await asyncio.sleep(0.7)
                    await publish(nats_server, as_json(trades(1, first=2)))
                if found[-1] == 3:
                    break
        return found

    store(nats_server, as_json(trades(1)))
    assert run(reading()) == [1, 2, 3]
