"""Where a consumer stands, what it missed, and what it may not ask for."""

from __future__ import annotations

import datetime as dt
import logging
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig

from ingestor.client import (
    AtSequence,
    From,
    Gap,
    NotConnectedError,
    OvertakenError,
    Since,
    connect,
    raise_overtaken,
)
from ingestor.model.errors import ConfigurationError, StreamError
from tests.client.streams import (
    DEPTH,
    FIRST_NS,
    STREAM,
    TRADES,
    Published,
    as_json,
    depth,
    packed,
    publish,
    sequences,
    trades,
)
from tests.client.test_subscription import CrashError, run, store, take
from tests.nats_servers import NatsServer

MIXED = [*as_json(trades(3)), *packed(trades(5, first=3)), *as_json(trades(2, first=8))]


@pytest.mark.parametrize("handed_out", range(11))
def test_whoever_goes_on_at_a_position_misses_and_repeats_nothing(
    nats_server: NatsServer, handed_out: int
) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            first = client.subscribe(follow=False)
            found = await take(first, handed_out)
            start = first.position or From.BEGINNING
            rest = client.subscribe(start=start, follow=False)
            return sequences(found + [event async for event in rest.events()])

    store(nats_server, MIXED)
    assert run(reading()) == list(range(10))


def test_batches_go_on_within_a_packed_message_too(nats_server: NatsServer) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            rest = client.subscribe(start=AtSequence(4, 2), follow=False)
            return [n async for b in rest.batches() for n in b.records["sequence"].tolist()]

    store(nats_server, MIXED)
    assert sorted(run(reading())) == [5, 6, 7, 8, 9]


def test_a_row_behind_the_last_of_its_message_leaves_out_that_message_alone(
    nats_server: NatsServer,
) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            rest = client.subscribe(start=AtSequence(1, 99), follow=False)
            return [n async for b in rest.batches() for n in b.records["sequence"].tolist()]

    store(nats_server, packed(trades(2)) + packed(trades(3, first=2)))
    assert run(reading()) == [2, 3, 4]


def test_every_event_comes_with_the_sequence_of_its_message(nats_server: NatsServer) -> None:
    async def reading() -> list[tuple[int, Any]]:
        async with connect(nats_server.url) as client:
            one = client.subscribe(follow=False)
            assert (one.seq, one.position) == (None, None)
            return [(event.seq, one.seq) async for event in one.events()]  # type: ignore[attr-defined]

    store(nats_server, MIXED)
    assert run(reading()) == list(enumerate([1, 2, 3, 4, 4, 4, 4, 4, 5, 6]))


EVENTS = 20_000


def test_a_consumer_that_is_killed_again_and_again_is_exactly_once(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    messages: list[Published] = []
    for number in range(0, EVENTS, 200):
        messages += [*as_json(trades(1, first=number)), *packed(trades(199, first=number + 1))]
    store(nats_server, messages)
    path = tmp_path / "consumer.sqlite"
    command = [sys.executable, "-m", "tests.client.exactly_once", nats_server.url, str(path)]
    chance = random.Random(7)
    kept, kills = kept_by(path), 0
    while len(kept) < EVENTS:
        process = subprocess.Popen(command)
        goal = min(len(kept) + chance.randint(4_000, 8_000), EVENTS)
        while count_of(path) < goal:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
        process.wait()
        kept, kills = kept_by(path), kills + 1
    assert kept == list(range(EVENTS))
    assert kills > 1


def count_of(path: Path) -> int:
    if not path.exists():
        return 0
    try:
        with sqlite3.connect(path) as database:
            return int(database.execute("SELECT count(*) FROM events").fetchone()[0])
    except sqlite3.OperationalError:  # made a moment ago
        return 0


def kept_by(path: Path) -> list[int]:
    if not path.exists():
        return []
    try:
        with sqlite3.connect(path) as database:
            return [number for (number,) in database.execute("SELECT number FROM events")]
    except sqlite3.OperationalError:  # made a moment ago
        return []


def test_a_durable_that_is_left_in_order_repeats_nothing(nats_server: NatsServer) -> None:
    async def reading(wanted: int) -> list[int]:
        async with connect(nats_server.url) as client:
            return sequences(await take(client.subscribe(durable="core"), wanted))

    store(nats_server, as_json(trades(9)))
    assert [n for wanted in (1, 3, 5) for n in run(reading(wanted))] == list(range(9))


def test_a_durable_that_is_left_by_an_error_repeats_what_was_under_way(
    nats_server: NatsServer,
) -> None:
    async def failing() -> None:
        async with connect(nats_server.url) as client:
            await take(client.subscribe(durable="core"), 1)
            raise CrashError

    async def reading() -> list[int]:
        async with connect(nats_server.url) as client:
            return sequences(await take(client.subscribe(durable="core"), 3))

    store(nats_server, as_json(trades(3)))
    with pytest.raises(CrashError):
        run(failing())
    assert run(reading()) == [0, 1, 2]


def test_a_durable_that_another_reads_is_refused(nats_server: NatsServer) -> None:
    async def reading() -> list[int]:
        async with connect(nats_server.url) as client, connect(nats_server.url) as other:
            mine = client.subscribe(durable="core")
            found = await take(mine, 2)
            with pytest.raises(StreamError, match=r"core .* is read by another subscription"):
                await take(other.subscribe(durable="core"), 1)
            await publish(nats_server, as_json(trades(2, first=2)))
            return sequences(found + await take(mine, 2))

    store(nats_server, as_json(trades(2)))
    assert run(reading()) == [0, 1, 2, 3]


async def limited_stream(server: NatsServer, messages: int) -> None:
    async with await nats.connect(server.url) as client:
        config = StreamConfig(name=STREAM, subjects=["market.>"], max_msgs=messages)
        await client.jetstream().add_stream(config)


async def fill(server: NatsServer, messages: list[Published]) -> None:
    async with await nats.connect(server.url) as client:
        for subject, payload in messages:
            await client.jetstream().publish(subject, payload)


ALTERNATING = [
    message
    for number in range(20)
    for message in (*as_json(trades(1, first=number)), *as_json(depth(1, first=number)))
]


@pytest.mark.parametrize(
    ("subject", "start", "gap", "first"),
    [
        ("market.>", 5, Gap(5, 30, True), 15),
        (TRADES, 5, Gap(5, 30, False), 15),
        ("market.>", 31, None, 15),
        (TRADES, 31, None, 15),
        (DEPTH, 31, None, 15),
    ],
)
def test_a_consumer_that_was_overtaken_is_told(
    *,
    nats_server: NatsServer,
    subject: str,
    start: int,
    gap: Gap | None,
    first: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    async def reading() -> None:
        await limited_stream(nats_server, 10)
        await fill(nats_server, ALTERNATING)
        told: list[Gap] = []
        place = (subject,)
        options: dict[str, Any] = {"start": AtSequence(start), "follow": False}
        async with connect(nats_server.url) as client:
            silent = client.subscribe(*place, **options)
            assert sequences([event async for event in silent.events()])[0] == first
            assert silent.gaps.count == (gap is not None)
            assert silent.gaps.messages == (gap.messages if gap else 0)
            asked = client.subscribe(*place, **options, on_gap=told.append)
            assert [event async for event in asked.events()]
            assert told == ([gap] if gap else [])
            strict = client.subscribe(*place, **options, on_gap=raise_overtaken)
            if gap:
                with pytest.raises(OvertakenError) as caught:
                    await take(strict, 1)
                assert caught.value.gap == gap
            assert sequences(await take(strict, 1)) == [first]

    run(reading())
    assert ("dropped" in caplog.text) == (gap is not None)


def test_what_is_dropped_while_a_durable_is_away_is_told(nats_server: NatsServer) -> None:
    async def reading() -> None:
        await limited_stream(nats_server, 10)
        await fill(nats_server, ALTERNATING[:6])
        async with connect(nats_server.url) as client:
            await take(client.subscribe(durable="core"), 3)
        await fill(nats_server, ALTERNATING[6:])
        async with connect(nats_server.url) as client:
            subscription = client.subscribe(durable="core")
            await take(subscription, 1)
            assert subscription.gaps.count == 1
            # 27 are gone; three of them were delivered before, and the server has forgotten them.
            assert subscription.gaps.messages == 24

    run(reading())


def test_a_filter_that_nothing_can_match_is_refused_or_warned_of(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def reading(subject: str) -> list[Any]:
        async with connect(nats_server.url) as client:
            return [e async for e in client.subscribe(subject, follow=False).events()]

    store(nats_server, as_json(trades(1)))
    with pytest.raises(StreamError, match=r"market\.>.* none of them matches futures\.trades"):
        run(reading("futures.trades"))
    assert run(reading("market.futuers.trades")) == []
    assert "no event is ever published on market.futuers.trades" in caplog.text


def test_a_client_that_is_not_entered_or_left_says_so(nats_server: NatsServer) -> None:
    async def reading() -> None:
        client = connect(nats_server.url)
        for _ in range(2):
            with pytest.raises(NotConnectedError, match="async with connect"):
                await take(client.subscribe(), 1)
            with pytest.raises(NotConnectedError, match="async with connect"):
                await client.last_status("stocks")
            async with client:
                pass

    run(reading())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Since(-1),
        lambda: Since(2**63),
        lambda: Since(1.5),  # type: ignore[arg-type]
        lambda: Since(dt.datetime(2025, 12, 16)),
        lambda: Since(dt.datetime(1969, 12, 31, tzinfo=dt.UTC)),
        lambda: AtSequence(0),
        lambda: AtSequence(1, -1),
        lambda: connect().subscribe(start=Since(time.time_ns() + 10**12)),
    ],
)
def test_a_start_that_means_nothing_is_refused(make: Any) -> None:
    with pytest.raises(ConfigurationError):
        make()


def test_since_takes_an_aware_datetime() -> None:
    moment = dt.datetime(2025, 12, 16, 14, 30, tzinfo=dt.UTC)
    assert Since(moment) == Since(1_765_895_400_000_000_000)


@pytest.mark.parametrize("messages", [as_json(trades(9)), packed(trades(9))])
def test_events_can_be_read_by_their_own_time(
    nats_server: NatsServer, messages: list[Published]
) -> None:
    async def reading() -> None:
        times: dict[str, Any] = {"from_event_ns": FIRST_NS + 3_000, "to_event_ns": FIRST_NS + 6_000}
        async with connect(nats_server.url) as client:
            one = client.subscribe(follow=False, **times)
            assert sequences([event async for event in one.events()]) == [3, 4, 5]
            other = client.subscribe(follow=False, **times)
            rows = [n async for b in other.batches() for n in b.records["sequence"].tolist()]
            assert rows == [3, 4, 5]

    store(nats_server, messages)
    run(reading())
