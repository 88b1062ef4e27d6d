"""What a stream holds after its server was killed, frozen or cut off: everything, once, in order."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest
import uvloop

from ingestor.errors import NatsUnreachableError, StreamError
from ingestor.publish.access import Access
from tests.publish.plain import PlainEncoder, connect, publisher, stored, trades, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ingestor.publish.publisher import Publisher
    from tests.nats_servers import NatsServer

ROWS = 400
BETWEEN = 5_000
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
        rows += ROWS
    await publishing.flush()
    disturbing.result()
    return rows


async def _disturb(
    publishing: Publisher, disturb: Callable[[], Awaitable[None]], times: int
) -> None:
    for _ in range(times):
        rows = publishing.acked_rows
        await until(lambda rows=rows: publishing.acked_rows >= rows + BETWEEN)
        await disturb()


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
