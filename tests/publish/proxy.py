"""A wire between publisher and server that can be cut, and that can lose bytes on their way."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536


class Proxy:
    """Passes bytes on, both ways, until it is told to `cut`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.passed_bytes = 0
        """From the client to the server."""
        self.deaf = False
        """Drops what the server says."""
        self._held: dict[asyncio.StreamWriter, bytearray] = {}

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection; what is inside is lost."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def hold(self) -> None:
        """Keep what clients say from now on over the connections that there are."""
        self._held = {server: bytearray() for server in self._servers}

    def held(self) -> bytes:
        """What is kept."""
        return b"".join(self._held.values())

    async def cut_and_deliver(self, late_s: float) -> None:
        """Reset the connections to clients, and give the server the rest of them so much later.

        As a server does that reads what its kernel holds of a connection after its next one.
        """
        held, self._held = self._held, {}
        for writer in self._writers - held.keys():
            writer.transport.abort()
        self._writers.clear()
        await asyncio.sleep(late_s)
        for server, data in held.items():
            server.write(data)
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, back}
        self._servers.add(back)
        pumps = [self._pass(reader, back, up=True), self._pass(there, writer, up=False)]
        self._tasks |= {asyncio.create_task(pump) for pump in pumps}

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if up and (held := self._held.get(writer)) is not None:
                    held += data
                    continue
                if up:
                    self.passed_bytes += len(data)
                elif self.deaf:
                    continue
                writer.write(data)
                await writer.drain()
        if writer in self._servers:
            self._servers.remove(writer)
        if writer in self._writers:
            writer.transport.abort()
