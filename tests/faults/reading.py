"""Reads whole streams over a plain socket: an hour of them has ten million messages."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tests.live_cli import listening

BATCH: Final = 10_000
ANSWER_S: Final = 30.0
CHUNK_BYTES: Final = 1 << 20
_INBOX: Final = "faults.inbox"


def each_stored(url: str, stream: str, take: Callable[[str, bytes], None]) -> None:
    """Give subject and data of each message that a stream holds now, in its order."""
    server = next(listening(url))
    consumer, count = asyncio.run(_consumer(server, stream))
    parts = urlsplit(server)
    with socket.create_connection((parts.hostname, parts.port or 0), ANSWER_S) as wire:
        wire.sendall(f'CONNECT {{"verbose":false,"headers":true}}\r\nSUB {_INBOX} 1\r\n'.encode())
        asked = taken = 0
        messages = _messages(wire)
        while taken < count:
            if taken == asked:
                asked = min(count, taken + BATCH)
                body = json.dumps({"batch": asked - taken}).encode()
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
                wire.sendall(
                    b"PUB %b %b %d\r\n%b\r\n"
                    % (
                        subject.encode(),
                        _INBOX.encode(),
                        len(body),
                        body,
                    )
                )
            take(*next(messages))
            taken += 1


async def _consumer(server: str, stream: str) -> tuple[str, int]:
    """Make a consumer of all that there is; return its name, and how many messages that is."""
    client = await nats.connect(server)
    try:
        context = client.jetstream()
        count = (await context.stream_info(stream)).state.messages
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            inactive_threshold=ANSWER_S,
            mem_storage=True,
        )
        return (await context.add_consumer(stream, config)).name, count
    finally:
        await client.close()


def _messages(wire: socket.socket) -> Iterator[tuple[str, bytes]]:
    """Yield subject and data of each message that comes; headers are passed over."""
    data, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        words = data[at:end].split() if end >= 0 else []
        is_message = bool(words) and words[0] in (b"MSG", b"HMSG")
        stop = end + 2 + (int(words[-1]) + 2 if is_message else 0)
        if end < 0 or stop > len(data):
            chunk = wire.recv(CHUNK_BYTES)
            if not chunk:
                raise ConnectionError("the server has closed the connection")
            data, at = data[at:] + chunk, 0
            continue
        at = stop
        if words[:1] == [b"PING"]:
            wire.sendall(b"PONG\r\n")
        elif words[:1] == [b"-ERR"]:
            raise ConnectionError(data.decode(errors="replace"))
        elif is_message:
            skipped = int(words[-2]) if words[0] == b"HMSG" else 0
            yield words[1].decode(), data[end + 2 + skipped : stop - 2]
