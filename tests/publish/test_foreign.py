"""Others write into the same stream, much and fast: recovering takes bounded time, and is exact."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

import pytest

from tests.publish.plain import connect, messages, publisher, raw_info, trades, until

if TYPE_CHECKING:
    from types import TracebackType

    from tests.nats_servers import NatsServer

RECOVERED_S = 2.0
"""The most that it may take once the server is back; on an idle machine it is a tenth."""

FOREIGN = "market.stocks.quotes"
BLOCK = 200


class Foreigner:
    """Writes messages of its own into the stream, as fast as the socket takes them."""

    def __init__(self, server: NatsServer, subject: str) -> None:
        self._server = server
        self._block = b"PUB %b 2\r\n-1\r\n" % subject.encode() * BLOCK
        self.written = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._blast())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _blast(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
                writer.write(b'CONNECT {"verbose":false}\r\n')
                while not writer.is_closing():
                    writer.write(self._block)
                    self.written += BLOCK
                    await writer.drain()
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("subject", [FOREIGN, "market.futures.trades"])
def test_a_killed_server_is_gone_on_with_soon_though_others_write_much(
    nats_server: NatsServer, subject: str
) -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        publishing = publisher(nats_server)
        await publishing.open()
        await publishing.send(trades(0, 500))
        await publishing.flush()
        rows = 500
        async with Foreigner(nats_server, subject) as foreigner:
            for _ in range(2):
                goal = foreigner.written + 10_000
                while foreigner.written < goal:
                    await publishing.send(trades(rows, 10))
                    rows += 10
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(nats_server.kill)
                late = asyncio.create_task(publishing.send(trades(rows, 10)))
                rows += 10
                await asyncio.to_thread(nats_server.start)
                began_s = loop.time()
                await until(lambda rows=rows: publishing.acked_rows == rows, 30.0)
                assert loop.time() - began_s < RECOVERED_S
                await late
            await publishing.flush()
        report = await publishing.close()
        client = await connect(nats_server)
        await client.jetstream().purge_stream("MARKET_DATA", subject=FOREIGN)
        await client.close()
        held = await messages(nats_server)
        ours = [(seq, int(payload)) for seq, _, payload in held if payload != b"-1"]
        assert [size for _, size in ours] == list(range(rows))
        assert report.first_seq == ours[0][0]
        assert subject != FOREIGN or report.last_seq == ours[-1][0]
        assert (await raw_info(nats_server))["state"]["last_seq"] > rows + 10_000

    asyncio.run(check())
