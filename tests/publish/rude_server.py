"""A server on loopback that says what it is told to say, for what a client must survive."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

INFO: Final[dict[str, Any]] = {
    "server_id": "X",
    "version": "2.15.1",
    "proto": 1,
    "headers": True,
    "max_payload": 1_048_576,
}
_CHUNK_BYTES: Final = 65_536


def info_line(**changes: Any) -> bytes:
    """An ``INFO`` line as a real server's, but for some fields."""
    return b"INFO " + json.dumps(INFO | changes).encode() + b"\r\n"


class RudeServer:
    """Greets each connection in its turn (the last greeting again and again).

    With `hangs_up` it closes when it has read CONNECT; else it answers every PING, and after the
    second one (the first is part of connecting) says what is next of `then`.
    """

    def __init__(
        self, *greetings: bytes, then: Sequence[bytes] = (), hangs_up: bool = False
    ) -> None:
        self._greetings = list(greetings) or [info_line()]
        self._then = list(then)
        self._hangs_up = hangs_up
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.heard = bytearray()
        """What clients said, as far as it was read."""

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        greeting = self._greetings[min(self.connections, len(self._greetings) - 1)]
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await self._talk(reader, writer, greeting)
        writer.transport.abort()

    async def _talk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes
    ) -> None:
        writer.write(greeting)
        said, answered, then = b"", 0, self._then.pop(0) if self._then else b""
        while data := await reader.read(_CHUNK_BYTES):
            self.heard += data
            said += data
            if self._hangs_up and b"CONNECT" in said:
                return
            pings = said.count(b"PING\r\n")
            writer.write(b"PONG\r\n" * (pings - answered))
            if answered < 2 <= pings:
                writer.write(then)
            answered = pings
            await writer.drain()
