"""What a stream holds after kills, cuts and frost: everything, once, in order."""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

import pytest
import uvloop

from ingestor.model.errors import NatsUnreachableError
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from tests.nats_servers import FIRST_THE_CURRENT
from tests.publish.plain import PlainEncoder, connect, publisher, stored, trades, until
from tests.publish.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingestor.publish.publisher import Publisher
    from tests.nats_servers import NatsServer

ROWS = 400
HELD_BYTES = 2_000
"""Some twenty messages at least that the server has not read when their connection is lost."""

BETWEEN = 1_000
"""Rows acknowledged from one disturbance to the next."""


async def _send_through(
    publishing: Publisher, disturb: Callable[[], Awaitable[None]], times: int
) -> int:
    """Send without a pause while `disturb` is done so many times; return the rows sent."""
    await publishing.open()
    disturbing = asyncio.create_task(_disturb(publishing, disturb, times))
    rows = 0
    while not disturbing.done():
        await publishing.send(trades(rows, ROWS))
        await asyncio.sleep(0.005)  # others have their turn
        rows += ROWS
    await publishing.flush()
    disturbing.result()
    return rows


async def _disturb(
    publishing: Publisher, disturb: Callable[[], Awaitable[None]], times: int
) -> None:
    for _ in range(times):
        rows, lost = publishing.acked_rows, publishing.reconnects
        await until(lambda rows=rows: publishing.acked_rows >= rows + BETWEEN)
        await disturb()
        # What was acknowledged before may still come out of the old connection.
        await until(lambda lost=lost: publishing.reconnects > lost)


async def _kill(server: NatsServer) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


@pytest.mark.parametrize("encoder", [PlainEncoder(), PlainEncoder(rows_per_message=7)])
def test_a_server_killed_again_and_again_holds_every_row_once_and_in_order(
    any_nats_server: NatsServer, encoder: PlainEncoder
) -> None:
    async def run() -> None:
        publishing = publisher(any_nats_server, encoder=encoder)
        rows = await _send_through(publishing, lambda: _kill(any_nats_server), 3)
        report = await publishing.close()
        assert report.reconnects == 3
        assert report.rows_by_subject == {"market.futures.trades": rows}
        assert await stored(any_nats_server) == list(range(rows))
        assert (report.first_seq, report.last_seq) == (1, report.messages)

    uvloop.run(run())


def test_a_connection_cut_again_and_again_loses_and_repeats_nothing(
    any_nats_server: NatsServer,
) -> None:
    async def run() -> None:
        async with Proxy(any_nats_server.port) as proxy:

            async def cut() -> None:
                proxy.cut()

            publishing = publisher(any_nats_server, connect_options=ConnectOptions(url=proxy.url))
            rows = await _send_through(publishing, cut, 5)
            report = await publishing.close()
        assert report.reconnects == 5
        assert await stored(any_nats_server) == list(range(rows))

    asyncio.run(run())


@pytest.mark.parametrize("late_s", [0.0, 0.5])
def test_what_a_lost_connection_still_brings_after_the_next_one_began_is_stored_once(
    any_nats_server: NatsServer, late_s: float
) -> None:
    held: list[int] = []

    async def run() -> None:
        async with Proxy(any_nats_server.port) as proxy:

            async def deliver_late() -> None:
                proxy.hold()
                await until(lambda: len(proxy.held()) > HELD_BYTES)
                held.append(len(proxy.held()))
                await proxy.cut_and_deliver(late_s)

            publishing = publisher(any_nats_server, connect_options=ConnectOptions(url=proxy.url))
            rows = await _send_through(publishing, deliver_late, 2)
            report = await publishing.close()
        assert report.reconnects == 2
        assert await stored(any_nats_server) == list(range(rows))

    asyncio.run(run())
    assert len(held) == 2


@pytest.mark.parametrize("before", [0, 1])
def test_a_batch_that_has_not_begun_when_its_connection_is_lost_is_stored_once(
    any_nats_server: NatsServer, before: int
) -> None:
    """The stream knows nothing of it, and its first message is on the way all the same."""

    async def run() -> None:
        async with Proxy(any_nats_server.port) as proxy:
            publishing = publisher(any_nats_server, connect_options=ConnectOptions(url=proxy.url))
            await publishing.open()
            if before:
                await publishing.send(trades(0, before))
                await publishing.flush()
            proxy.hold()
            sending = asyncio.create_task(publishing.send(trades(before, ROWS)))
            await until(lambda: b"PUB market." in proxy.held())
            late = asyncio.create_task(proxy.cut_and_deliver(1.0))
            await sending
            await publishing.flush()
            await late
            await publishing.close()
        assert await stored(any_nats_server) == list(range(before + ROWS))

    asyncio.run(run())


# Eight seconds of freezing are the matter of it.
@pytest.mark.slow
def test_a_frozen_server_that_wakes_up_in_time_gets_every_row_once(
    any_nats_server: NatsServer,
) -> None:
    async def freeze() -> None:
        any_nats_server.pause()
        await asyncio.sleep(8.0)
        any_nats_server.resume()

    async def run() -> None:
        publishing = publisher(any_nats_server, give_up_after_s=8.0)
        rows = await _send_through(publishing, freeze, 1)
        report = await publishing.close()
        assert report.reconnects >= 1
        assert await stored(any_nats_server) == list(range(rows))

    uvloop.run(run())


def test_a_server_that_stays_frozen_is_given_up(any_nats_server: NatsServer) -> None:
    async def run() -> None:
        publishing = publisher(any_nats_server, give_up_after_s=1.0)
        await publishing.open()
        await publishing.send(trades(0, 100))
        await publishing.flush()
        any_nats_server.pause()
        with pytest.raises(NatsUnreachableError, match="rows are not stored"):
            async with asyncio.timeout(8):
                await publishing.send(trades(100, 200_000))
        async with asyncio.timeout(8):
            report = await publishing.close()
        assert report.rows_by_subject == {"market.futures.trades": 100}

    uvloop.run(run())


def test_an_outage_in_a_quiet_market_counts_only_from_what_is_due(
    any_nats_server: NatsServer,
) -> None:
    async def run() -> None:
        publishing = publisher(any_nats_server, give_up_after_s=1.0)
        await publishing.open()
        await publishing.send(trades(0, 5))
        await publishing.flush()
        any_nats_server.kill()
        await asyncio.sleep(2.0)
        assert publishing.failure is None
        late = asyncio.create_task(publishing.send(trades(5, 1)))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(any_nats_server.start)
        await late
        await publishing.flush()
        await publishing.close()
        assert await stored(any_nats_server) == list(range(6))

    asyncio.run(run())


def test_a_server_that_stays_away_is_given_up_once_something_is_due(
    nats_server: NatsServer,
) -> None:
    async def run() -> None:
        publishing = publisher(nats_server, give_up_after_s=0.5)
        await publishing.open()
        nats_server.kill()
        await asyncio.sleep(0.8)
        began = asyncio.get_running_loop().time()
        with pytest.raises(NatsUnreachableError, match="1 rows are not stored"):
            await publishing.send(trades(0, 1))
        assert 0.4 < asyncio.get_running_loop().time() - began < 3.0
        await publishing.close()

    asyncio.run(run())


def test_what_is_under_way_is_sent_again_though_nobody_sends(any_nats_server: NatsServer) -> None:
    async def run() -> None:
        async with Proxy(any_nats_server.port) as proxy:
            publishing = publisher(any_nats_server, connect_options=ConnectOptions(url=proxy.url))
            await publishing.open()
            await publishing.send(trades(0, 1))
            await publishing.flush()
            proxy.deaf = True
            await publishing.send(trades(1, 50))
            proxy.cut()
            proxy.deaf = False
            await until(lambda: publishing.acked_rows == 51)
            await publishing.close()
        assert await stored(any_nats_server) == list(range(51))

    asyncio.run(run())


@FIRST_THE_CURRENT
def test_rows_of_another_publisher_between_ours_do_not_count_as_ours(
    any_nats_server: NatsServer,
) -> None:
    async def run() -> None:
        async def kill_amid_foreign() -> None:
            stranger = await connect(any_nats_server)
            for _ in range(20):
                await stranger.jetstream().publish("market.stocks.trades", b"-1")
            await stranger.close()
            await _kill(any_nats_server)

        publishing = publisher(any_nats_server)
        rows = await _send_through(publishing, kill_amid_foreign, 2)
        report = await publishing.close()
        everything = await stored(any_nats_server)
        assert [size for size in everything if size >= 0] == list(range(rows))
        assert len(everything) > rows
        assert report.messages == rows

    asyncio.run(run())


def test_a_stream_that_keeps_only_the_newest_gets_every_row_once_too(
    any_nats_server: NatsServer,
) -> None:
    async def run() -> None:
        publishing = publisher(any_nats_server, stream=StreamSettings(max_msgs=50))
        rows = await _send_through(publishing, lambda: _kill(any_nats_server), 2)
        report = await publishing.close()
        assert (report.messages, report.last_seq) == (rows, rows)
        assert await stored(any_nats_server) == list(range(rows - 50, rows))

    asyncio.run(run())


def test_a_stream_that_lost_what_it_acknowledged_is_gone_on_in_and_the_loss_is_counted(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        publishing = publisher(nats_server)
        await publishing.open()
        await publishing.send(trades(0, 1000))
        await publishing.flush()
        await asyncio.to_thread(nats_server.kill)
        for block in nats_server.store_dir.rglob("*.blk"):
            os.truncate(block, block.stat().st_size // 2)
        for state in nats_server.store_dir.rglob("index.db"):
            state.unlink()
        await asyncio.to_thread(nats_server.start)
        await publishing.send(trades(1000, 10))
        await publishing.flush()
        report = await publishing.close()
        left = await stored(nats_server)
        kept = len(left) - 10
        assert 0 < kept < 1000
        assert left == [*range(kept), *range(1000, 1010)]
        assert report.lost_messages == 1000 - kept
        assert f"{1000 - kept} acknowledged messages of ours, up to sequence 1000" in caplog.text

    asyncio.run(run())


@pytest.mark.parametrize("emptied", [False, True])
def test_a_server_that_comes_back_without_its_stream_gets_the_rest(
    any_nats_server: NatsServer, emptied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        settings = StreamSettings() if emptied else StreamSettings(storage="memory")
        publishing = publisher(any_nats_server, stream=settings)
        await publishing.open()
        await publishing.send(trades(0, 1000))
        await publishing.flush()
        await asyncio.to_thread(any_nats_server.kill)
        if emptied:
            shutil.rmtree(any_nats_server.store_dir)
        await asyncio.to_thread(any_nats_server.start)
        await publishing.send(trades(1000, 500))
        await publishing.flush()
        report = await publishing.close()
        assert await stored(any_nats_server) == list(range(1000, 1500))
        assert (report.messages, report.lost_messages) == (1500, 1000)

    asyncio.run(run())
    assert "1000 acknowledged messages of ours, up to sequence 1000, are lost" in caplog.text


def test_a_purge_while_the_server_is_away_is_no_loss(any_nats_server: NatsServer) -> None:
    async def run() -> None:
        publishing = publisher(any_nats_server)
        await publishing.open()
        await publishing.send(trades(0, 1000))
        await publishing.flush()
        client = await connect(any_nats_server)
        await client.jetstream().purge_stream("MARKET_DATA")
        await client.close()
        await _kill(any_nats_server)
        await publishing.send(trades(1000, 10))
        await publishing.flush()
        report = await publishing.close()
        assert report.messages == 1010
        assert await stored(any_nats_server) == list(range(1000, 1010))

    asyncio.run(run())
