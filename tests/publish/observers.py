"""Who looks on while a publisher works: a core subscriber, and a reader of the stream."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from nats.aio.client import Client
from nats.errors import Error
from nats.js.api import ConsumerConfig

from tests.publish.plain import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from nats.aio.msg import Msg


_READER = ConsumerConfig(ack_wait=2.0, max_ack_pending=100_000)


async def _connect(urls: Sequence[str]) -> Client:
    async def quiet(error: Exception) -> None:
        del error

    client = Client()
    await client.connect(
        list(urls),
        error_cb=quiet,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.1,  # type: ignore[arg-type]
    )
    return client


class CoreSubscriber:
    """Sees what `nats sub "market.>"` shows: every message published while it is connected."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self.messages: list[tuple[str, bytes]] = []
        self.no_events: list[tuple[str, bytes, object]] = []
        """Empty ones, and those of headers alone: what breaks whoever parses each message."""

    async def __aenter__(self) -> Self:
        self._client = await _connect(self._urls)
        await self._client.subscribe("market.>", cb=self._see)
        await self._client.flush()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Error, TimeoutError):
            await self._client.flush()
        await self._client.close()

    async def _see(self, message: Msg) -> None:
        self.messages.append((message.subject, message.data))
        if not message.data:
            self.no_events.append((message.subject, message.data, message.headers))

    async def seen(self, count: int) -> None:
        """Wait until so many have come."""
        await until(lambda: len(self.messages) >= count)


class StreamReader:
    """Follows a stream by a durable consumer; keeps payloads by stream sequence.

    What it is given again after a loss falls on the same sequence. It acknowledges out of order,
    as the workers of a queue do.
    """

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self.stored: dict[int, bytes] = {}
        self._stopping = False

    async def __aenter__(self) -> Self:
        self._client = await _connect(self._urls)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A cancelled fetch of the client library may go on: it is let come to its end.
        self._stopping = True
        await asyncio.wait({self._task})
        await self._client.close()

    async def _read(self) -> None:
        context = self._client.jetstream(timeout=1)
        while not self._stopping:
            with contextlib.suppress(Error, TimeoutError):
                reader = await context.pull_subscribe(
                    "", "reader", stream="MARKET_DATA", config=_READER
                )
                while not self._stopping:
                    messages = await reader.fetch(500, timeout=0.5)
                    for message in reversed(messages):
                        self.stored[message.metadata.sequence.stream] = message.data
                        await message.ack()
            await asyncio.sleep(0.05)
