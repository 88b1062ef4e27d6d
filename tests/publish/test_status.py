"""Statuses of feeds against real servers: each once, in order, and never in the way."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from ingestor.model.feed_status import (
    MAX_TEXT_CHARS,
    FeedStatus,
    What,
    decode_status,
    encode_status,
)
from ingestor.model.units import NS_PER_S
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.publish import status as status_module
from ingestor.publish.status import (
    CLOSE_TIMEOUT_S,
    MAX_PENDING_STATUSES,
    NEW_MAX_AGE_S,
)
from tests.nats_servers import FIRST_THE_CURRENT
from tests.publish.plain import connect, messages, publisher, raw_info, stored, trades, until
from tests.publish.proxy import Proxy

if TYPE_CHECKING:
    from ingestor.publish.publisher import Publisher
    from tests.conftest import StartNatsServer
    from tests.nats_servers import NatsServer

STREAM = "INGESTOR_STATUS"


def status(number: int, feed: str = "stocks", text: str = "cut") -> FeedStatus:
    return FeedStatus(feed=feed, what=What.GAP, at_ns=number, text=text, from_event_ns=1)


async def opened(server: NatsServer, **options: Any) -> Publisher:
    publishing = publisher(server, **options)
    await publishing.open()
    return publishing


async def published(publishing: Publisher, count: int) -> None:
    await until(lambda: publishing.statuses.published == count)


async def numbers(server: NatsServer) -> list[int]:
    """What is stored, by the times that number the statuses."""
    return [decode_status(data).at_ns for _, _, data in await messages(server, STREAM)]


async def streams(server: NatsServer) -> list[str]:
    async with await connect(server) as client:
        answer = await client.request("$JS.API.STREAM.NAMES", b"", 5)
        names: list[str] = json.loads(answer.data)["streams"] or []
        return sorted(names)


async def ask(server: NatsServer, subject: str, body: dict[str, Any] | None = None) -> None:
    """An operator's request."""
    async with await connect(server) as client:
        answer = await client.request(f"$JS.API.{subject}", json.dumps(body or {}).encode(), 5)
        assert "error" not in json.loads(answer.data)


async def make_stream(server: NatsServer, name: str, **settings: Any) -> None:
    await ask(server, f"STREAM.CREATE.{name}", {"name": name} | settings)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_statuses_are_stored_as_they_are_in_order_on_the_feeds_subject(
    any_nats_server: NatsServer, run: Any
) -> None:
    told = [status(0), status(1, "options"), status(2)]

    async def check() -> None:
        publishing = await opened(any_nats_server)
        for one in told:
            publishing.statuses.tell(one)
        await published(publishing, 3)
        await publishing.close()
        assert await messages(any_nats_server, STREAM) == [
            (1, "ingestor.status.stocks", encode_status(told[0])),
            (2, "ingestor.status.options", encode_status(told[1])),
            (3, "ingestor.status.stocks", encode_status(told[2])),
        ]

    run(check())


def test_the_stream_is_made_with_the_first_status_and_not_before(
    any_nats_server: NatsServer,
) -> None:
    async def check() -> Any:
        publishing = await opened(any_nats_server)
        await publishing.send(trades(0, 10))
        await publishing.flush()
        assert await streams(any_nats_server) == ["MARKET_DATA"]
        publishing.statuses.tell(status(0))
        await published(publishing, 1)
        await publishing.close()
        return (await raw_info(any_nats_server, STREAM))["config"]

    config = asyncio.run(check())
    assert config["subjects"] == ["ingestor.status.>"]
    assert (config["storage"], config["retention"], config["discard"]) == ("file", "limits", "old")
    assert config["max_age"] == int(NEW_MAX_AGE_S * NS_PER_S)
    assert config["allow_direct"]
    assert not config.get("allow_batched")


def test_a_stream_that_exists_stays_as_its_operator_made_it(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        settings = {"subjects": ["ingestor.status.*"], "max_age": 3600 * NS_PER_S, "max_msgs": 9}
        await make_stream(any_nats_server, STREAM, **settings)
        before = (await raw_info(any_nats_server, STREAM))["config"]
        publishing = await opened(any_nats_server)
        publishing.statuses.tell(status(0))
        await published(publishing, 1)
        await publishing.close()
        after = (await raw_info(any_nats_server, STREAM))["config"]
        assert after.pop("subjects") == ["ingestor.status.>"]
        assert before.pop("subjects") == ["ingestor.status.*"]
        assert after == before

    asyncio.run(check())


def test_a_status_whose_acknowledgement_is_lost_is_sent_again_and_stored_once(
    any_nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "ACK_TIMEOUT_S", 0.1)

    async def check() -> None:
        async with Proxy(any_nats_server.port) as proxy:
            publishing = await opened(
                any_nats_server, connect_options=ConnectOptions(url=proxy.url)
            )
            publishing.statuses.tell(status(0))
            await published(publishing, 1)
            proxy.deaf = True
            sent_bytes = proxy.passed_bytes
            publishing.statuses.tell(status(1))
            publishing.statuses.tell(status(2))
            await until(lambda: proxy.passed_bytes > sent_bytes + 4 * len(encode_status(status(1))))
            assert await numbers(any_nats_server) == [0, 1]
            proxy.deaf = False
            await published(publishing, 3)
            await publishing.close()
        assert await numbers(any_nats_server) == [0, 1, 2]

    asyncio.run(check())


@FIRST_THE_CURRENT
def test_a_server_killed_again_and_again_holds_every_status_once_and_in_order(
    any_nats_server: NatsServer,
) -> None:
    async def tell_all(publishing: Publisher, count: int) -> None:
        for number in range(count):
            publishing.statuses.tell(status(number))
            await publishing.send(trades(number * 10, 10))
            await asyncio.sleep(0.005)

    async def check() -> None:
        publishing = await opened(any_nats_server)
        telling = asyncio.create_task(tell_all(publishing, 300))
        for _ in range(3):
            more = publishing.statuses.published + 20
            await until(lambda more=more: publishing.statuses.published >= more)
            await asyncio.to_thread(any_nats_server.kill)
            await asyncio.to_thread(any_nats_server.start)
        await telling
        await publishing.flush()
        await until(lambda: not publishing.statuses.pending)
        report = await publishing.close()
        assert report.reconnects >= 3
        assert publishing.statuses.published == 300
        assert await numbers(any_nats_server) == list(range(300))
        assert await stored(any_nats_server) == list(range(3000))

    uvloop.run(check())


def test_close_publishes_what_is_pending(nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(nats_server)
        for number in range(50):
            publishing.statuses.tell(status(number))
        await publishing.close()
        assert (publishing.statuses.published, publishing.statuses.pending) == (50, 0)
        assert await numbers(nats_server) == list(range(50))

    asyncio.run(check())


def test_close_leaves_a_server_that_does_not_answer_in_bounded_time(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        publishing = await opened(nats_server)
        nats_server.pause()
        publishing.statuses.tell(status(0))
        publishing.statuses.tell(status(1))
        began_s = time.monotonic()
        await publishing.close()
        assert time.monotonic() - began_s < 2 * CLOSE_TIMEOUT_S + 3
        assert (publishing.statuses.dropped, publishing.statuses.pending) == (2, 0)
        publishing.statuses.tell(status(2))
        assert publishing.statuses.dropped == 3
        nats_server.resume()

    asyncio.run(check())
    assert "2 statuses of feeds are not published" in caplog.text


def test_the_oldest_are_dropped_when_too_many_wait(nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(nats_server)
        nats_server.stop()
        for number in range(MAX_PENDING_STATUSES + 5):
            publishing.statuses.tell(status(number))
        assert publishing.statuses.dropped == 5
        await asyncio.to_thread(nats_server.start)
        await published(publishing, MAX_PENDING_STATUSES)
        await publishing.close()
        assert await numbers(nats_server) == list(range(5, MAX_PENDING_STATUSES + 5))

    asyncio.run(check())


def test_a_stream_that_refuses_is_said_once_counted_and_harms_nothing(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        full = {"subjects": ["ingestor.status.>"], "max_msgs": 1, "discard": "new"}
        await make_stream(any_nats_server, STREAM, **full)
        publishing = await opened(any_nats_server)
        for number in range(4):
            publishing.statuses.tell(status(number))
        await publishing.send(trades(0, 100))
        await publishing.flush()
        await until(lambda: not publishing.statuses.pending)
        assert (publishing.statuses.published, publishing.statuses.refused) == (1, 3)
        assert publishing.failure is None
        await publishing.close()
        assert await stored(any_nats_server) == list(range(100))

    asyncio.run(check())
    assert caplog.text.count("statuses of feeds cannot be published") == 1
    assert "maximum messages exceeded" in caplog.text


def test_a_stream_that_already_takes_the_subjects_is_named(
    any_nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        await make_stream(any_nats_server, "OTHER", subjects=["ingestor.>"])
        publishing = await opened(any_nats_server)
        publishing.statuses.tell(status(0))
        await until(lambda: publishing.statuses.refused == 1)
        await publishing.close()

    asyncio.run(check())
    assert "stream OTHER already takes ingestor.status.>" in caplog.text


@pytest.mark.parametrize("denied", ["ingestor.status.>", "$JS.API.STREAM.CREATE.INGESTOR_STATUS"])
def test_a_missing_permission_for_statuses_does_not_end_market_data(
    start_nats_server: StartNatsServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    denied: str,
) -> None:
    monkeypatch.setattr(status_module, "ACK_TIMEOUT_S", 0.3)
    quick = {**(JetStreamApi.__init__.__kwdefaults__ or {}), "timeout_s": 0.3}
    monkeypatch.setattr(JetStreamApi.__init__, "__kwdefaults__", quick)
    user = f'{{ user: "jo", password: "pw", permissions: {{ publish: {{ deny: ["{denied}"] }} }} }}'
    server = start_nats_server(extra_config=f"authorization {{ users: [ {user} ] }}")

    async def check() -> None:
        connect_options = ConnectOptions(url=server.url, user="jo", password="pw")
        publishing = await opened(server, connect_options=connect_options)
        publishing.statuses.tell(status(0))
        publishing.statuses.tell(status(1))
        await publishing.send(trades(0, 100))
        await publishing.flush()
        await until(lambda: publishing.statuses.refused == 2)
        assert publishing.failure is None
        report = await publishing.close()
        assert sum(report.rows_by_subject.values()) == 100

    asyncio.run(check())
    assert caplog.text.count("statuses of feeds cannot be published: we may not publish") == 1


def test_a_stream_that_is_deleted_is_made_anew(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        publishing.statuses.tell(status(0))
        await published(publishing, 1)
        await ask(any_nats_server, f"STREAM.DELETE.{STREAM}")
        publishing.statuses.tell(status(1))
        await published(publishing, 2)
        await publishing.close()
        assert await numbers(any_nats_server) == [1]

    asyncio.run(check())


def test_a_text_without_end_is_cut(nats_server: NatsServer) -> None:
    async def check() -> str:
        publishing = await opened(nats_server)
        publishing.statuses.tell(status(0, text="x" * 5_000_000))
        await published(publishing, 1)
        await publishing.close()
        [(_, _, data)] = await messages(nats_server, STREAM)
        return decode_status(data).text

    assert asyncio.run(check()) == "x" * (MAX_TEXT_CHARS - 1) + "…"


def test_a_gap_is_stored_before_the_events_that_end_it(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        publishing = await opened(any_nats_server)
        publishing.statuses.tell(status(0))
        await publishing.send(trades(0, 10))
        await publishing.flush()
        assert publishing.statuses.published == 1
        await publishing.close()
        told = (await raw_info(any_nats_server, STREAM))["state"]["last_ts"]
        assert told < (await raw_info(any_nats_server))["state"]["first_ts"]

    asyncio.run(check())


def test_a_gap_that_nobody_takes_holds_events_up_once(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "GAP_WAIT_S", 0.1)

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def check() -> None:
        publishing = await opened(nats_server)
        monkeypatch.setattr(publishing.statuses, "_publish", never)
        publishing.statuses.tell(status(0))
        pending = [publishing.statuses.gap_is_pending]
        await publishing.send(trades(0, 10))
        pending.append(publishing.statuses.gap_is_pending)
        assert pending == [True, False]
        await publishing.flush()
        monkeypatch.setattr(status_module, "CLOSE_TIMEOUT_S", 0.0)
        await publishing.close()

    asyncio.run(check())
    assert asyncio.run(stored(nats_server)) == list(range(10))


def test_a_fault_in_here_is_logged_and_harms_nothing(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: FeedStatus) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(status_module, "shortened", broken)
    caplog.set_level(logging.ERROR)

    async def check() -> None:
        publishing = await opened(nats_server)
        publishing.statuses.tell(status(0))
        await publishing.send(trades(0, 10))
        await publishing.flush()
        await until(lambda: "fault of this program" in caplog.text)
        await publishing.close()

    asyncio.run(check())
    assert asyncio.run(stored(nats_server)) == list(range(10))


def test_what_another_publisher_tells_again_is_stored_once(nats_server: NatsServer) -> None:
    settled: list[int] = []

    async def work() -> list[int]:
        for first, last in ((0, 2), (1, 3)):
            publishing = await opened(nats_server)
            for number in range(first, last):
                told = partial(settled.append, number)
                publishing.statuses.tell(status(number), f"run.0.0.{number}", told)
            await published(publishing, 2)
            await publishing.close()
        return await numbers(nats_server)

    assert asyncio.run(work()) == [0, 1, 2]
    assert settled == [0, 1, 1, 2]


def test_one_that_is_dropped_is_settled(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "MAX_PENDING_STATUSES", 1)
    settled: list[int] = []

    async def work() -> None:
        publishing = await opened(nats_server)
        for number in range(2):
            publishing.statuses.tell(status(number), settled=partial(settled.append, number))
        assert settled == [0]
        await publishing.close()

    asyncio.run(work())
    assert settled == [0, 1]
