"""The control channel: lines of JSON over loopback TCP, one command and one answer a line."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import msgspec

from ingestor.errors import ConfigurationError
from ingestor.sim.polygon.control_commands import DECODER
from ingestor.sim.polygon.control_handler import Director

LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest command: an exact frame may be large."""

_logger = logging.getLogger(__name__)


def reply_to(line: bytes, director: Director) -> bytes:
    """Carry out one line; ``ok`` is false and ``error`` says why when it cannot be."""
    try:
        command = DECODER.decode(line)
        done = director.apply(command)
    except (msgspec.DecodeError, ConfigurationError) as error:
        return msgspec.json.encode({"ok": False, "error": str(error)}) + b"\n"
    return msgspec.json.encode({"ok": True, **done}) + b"\n"


class ControlChannel:
    """Takes commands for a director; `start` listens, `stop` ends every conversation."""

    def __init__(self, director: Director) -> None:
        self._director = director
        self._server: asyncio.Server | None = None
        self._conversations: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. Raises `OSError` when it is taken."""
        self._server = await asyncio.start_server(self._converse, host, port, limit=LINE_BYTES)
        bound_port: int = self._server.sockets[0].getsockname()[1]
        return bound_port

    async def stop(self) -> None:
        """Close what is open."""
        if self._server is not None:
            self._server.close()
        for writer in self._conversations.values():
            writer.close()
        await asyncio.gather(*self._conversations)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations[task] = writer
        try:
            while line := await reader.readline():
                writer.write(reply_to(line, self._director))
                await writer.drain()
        except ConnectionError as error:
            _logger.debug("a director left without waiting for its answer: %s", error)
        finally:
            del self._conversations[task]
            writer.close()
