"""The control channel: lines of JSON over loopback TCP, one command and one answer a line."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from ingestor.errors import ConfigurationError
from ingestor.sim.polygon.commands import DECODER
from ingestor.sim.polygon.director import Director

LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest command: an exact frame may be large."""


def reply_to(line: bytes, director: Director) -> bytes:
    """Carry out one line; ``ok`` is false and ``error`` says why when it cannot be."""
    try:
        command = DECODER.decode(line)
        done = director.apply(command)
    except (msgspec.DecodeError, ConfigurationError) as error:
        return msgspec.json.encode({"ok": False, "error": str(error)}) + b"\n"
    return msgspec.json.encode({"ok": True, **done}) + b"\n"


async def serve_control(director: Director, host: str, port: int) -> asyncio.Server:
    """Listen for commands. Raises `OSError` when the port is taken."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(reply_to(line, director))
                await writer.drain()
        except ConnectionError:
            pass  # the other side left without waiting for its answer
        finally:
            writer.close()

    return await asyncio.start_server(serve, host, port, limit=LINE_BYTES)
