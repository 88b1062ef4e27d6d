"""Fencing: a process that was stopped, and whose work another one does, writes nothing any more."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ingestor.model.blocks import FENCE_BYTES
from ingestor.model.bounds import MAX_JSON_EVENT_BYTES
from ingestor.model.errors import ExitCode
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.publish.ledger import FENCE_EVERY
from ingestor.publish.publisher import FENCE_REST_S
from tests import die_with_parent
from tests.publish.fenced_writer import KEY, fenced, lease
from tests.publish.plain import PlainEncoder, connect, raw_info, stored, trades

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import StartNatsServer
    from tests.nats_servers import NatsServer

SUCCESSOR = 10_000_000
"""The successor's rows begin with this size."""

SUCCESSOR_ROWS = 300

WOKEN_S = 20.0
"""The longest that a writer which has woken up takes to find out."""


class Writer:
    """The first writer, a process of its own."""

    def __init__(self, server: NatsServer, pause_s: float) -> None:
        program = [sys.executable, "-m", "tests.publish.fenced_writer"]
        wrapper = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        self._process = subprocess.Popen([*wrapper, *program, server.url, "first", str(pause_s)])

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def wake(self) -> int:
        """Let it go on; return what it ends with."""
        self._process.send_signal(signal.SIGCONT)
        return self._process.wait(WOKEN_S)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def writers() -> Iterator[list[Writer]]:
    started: list[Writer] = []
    yield started
    for writer in started:
        writer.kill()


@pytest.mark.parametrize("pause_s", [0.0, 0.005], ids=["at full speed", "with pauses"])
def test_who_wakes_up_after_a_successor_has_begun_writes_no_batch(
    any_nats_server: NatsServer, writers: list[Writer], pause_s: float
) -> None:
    late = asyncio.run(_take_over(any_nats_server, writers, pause_s))
    # What its socket had not taken when it was stopped may follow, up to the next fence.
    assert late < FENCE_EVERY


async def _take_over(server: NatsServer, writers: list[Writer], pause_s: float) -> int:
    """Have a writer stopped, followed and woken; return how many rows it adds to those before."""
    await _lease(server, b"first")
    writers.append(writer := Writer(server, pause_s))
    ends = [0]
    while ends[-1] < 2_000:
        await asyncio.sleep(0.05)
        ends.append(await _end(server))
    await asyncio.sleep(random.random() / 10)
    writer.stop()
    while ends[-1] != ends[-2]:
        await asyncio.sleep(0.2)
        ends.append(await _end(server))
    await _lease(server, b"second")
    successor = fenced(server.url, "second")
    await successor.open()
    await successor.send(trades(SUCCESSOR, SUCCESSOR_ROWS))
    await successor.flush()
    # Nobody takes over sooner.
    await asyncio.sleep(FENCE_REST_S)
    assert await asyncio.to_thread(writer.wake) == ExitCode.STREAM_IN_USE
    await successor.send(trades(SUCCESSOR + SUCCESSOR_ROWS, SUCCESSOR_ROWS))
    await successor.flush()
    await successor.close()
    held = await stored(server)
    assert [size for size in held if size >= SUCCESSOR] == [
        SUCCESSOR + row for row in range(2 * SUCCESSOR_ROWS)
    ]
    late = [size for size in held[held.index(SUCCESSOR) :] if size < SUCCESSOR]
    before = held[: held.index(SUCCESSOR)]
    assert before + late == list(range(len(before) + len(late)))
    return len(late)


async def _lease(server: NatsServer, name: bytes) -> None:
    connection = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
    await connection.open()
    await lease(connection).put(KEY, name)
    await connection.close()


async def _end(server: NatsServer) -> int:
    info = await raw_info(server)
    return int(info["state"]["last_seq"]) if "state" in info else 0


def test_who_still_has_the_lease_goes_on_though_others_write(any_nats_server: NatsServer) -> None:
    async def check() -> None:
        await _lease(any_nats_server, b"first")
        publishing = fenced(any_nats_server.url, "first")
        await publishing.open()
        stranger = await connect(any_nats_server)
        rows = 0
        for _ in range(3):
            goal = publishing.acked_rows + 2_000
            while publishing.acked_rows < goal:
                await publishing.send(trades(rows, 20))
                rows += 20
                await asyncio.sleep(0)
            await stranger.jetstream().publish("market.stocks.trades", b"-1")
        await publishing.flush()
        report = await publishing.close()
        await stranger.close()
        held = await stored(any_nats_server)
        assert [size for size in held if size >= 0] == list(range(rows))
        assert held.count(-1) == 3
        assert (report.messages, report.first_seq) == (rows, 1)

    asyncio.run(check())


def test_nothing_is_fenced_where_a_header_would_not_fit(
    start_nats_server: StartNatsServer,
) -> None:
    room = MAX_JSON_EVENT_BYTES + FENCE_BYTES
    for max_payload, fenced_bytes in ((room - 1, 0), (room, FENCE_BYTES)):
        server = start_nats_server(extra_config=f"max_payload: {max_payload}")

        async def check(server: NatsServer = server) -> list[int]:
            encoder = PlainEncoder(pad=MAX_JSON_EVENT_BYTES)
            publishing = fenced(server.url, "first", encoder)
            await publishing.open()
            await publishing.send(trades(0, 200))
            await publishing.flush()
            await publishing.close()
            assert await stored(server) == list(range(200))
            return [await _header_bytes(server, seq) for seq in (1, 2)]

        assert asyncio.run(check()) == [fenced_bytes, fenced_bytes]


async def _header_bytes(server: NatsServer, seq: int) -> int:
    client = await connect(server)
    payload = json.dumps({"seq": seq}).encode()
    answer = await client.request("$JS.API.STREAM.MSG.GET.MARKET_DATA", payload, 5)
    await client.close()
    return len(base64.b64decode(json.loads(answer.data)["message"].get("hdrs", "")))


def test_a_quiet_writer_that_was_overtaken_is_refused_with_its_next_message(
    any_nats_server: NatsServer, writers: list[Writer]
) -> None:
    async def check() -> None:
        await _lease(any_nats_server, b"first")
        writers.append(writer := Writer(any_nats_server, 1.0))
        await until_stored(any_nats_server, 100)
        writer.stop()
        await _lease(any_nats_server, b"second")
        successor = fenced(any_nats_server.url, "second")
        await successor.open()
        await successor.send(trades(SUCCESSOR, 1))
        await successor.flush()
        assert await asyncio.to_thread(writer.wake) == ExitCode.STREAM_IN_USE
        await successor.close()
        held = await stored(any_nats_server)
        assert held[-1] == SUCCESSOR

    asyncio.run(check())


async def until_stored(server: NatsServer, messages: int) -> None:
    async with asyncio.timeout(WOKEN_S):
        while await _end(server) < messages:
            await asyncio.sleep(0.05)
