"""A plain encoder for tests: one message per row, or several rows in one message."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
from nats.aio.client import Client

from ingestor.encode.reference import frame_head
from ingestor.model.blocks import Block, Frames, Reply, Runs, Source, whole_block
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, FUTURES_TRADE, RType
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from ingestor.publish.publisher import Publisher
from tests.nats_servers import NatsServer

TRADES = "market.futures.trades"


class PlainEncoder:
    """Payloads are the rows' sizes, at least `pad` bytes of them."""

    def __init__(self, *, rows_per_message: int = 1, pad: int = 0) -> None:
        self._rows_per_message = rows_per_message
        self._pad = pad
        self.max_payload_bytes = 0

    def encode(self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int) -> Frames:
        data, rows = bytearray(), 0
        stops: list[int] = []
        for subject, payload, count in self._messages(runs):
            if len(stops) == max_messages:
                break
            head = frame_head(subject, reply, first_sequence + len(stops), len(payload))
            data += head + payload + b"\r\n"
            rows += count
            stops.append(rows)
        counts = runs.part(0, rows).counts_by_rtype()
        return Frames([bytes(data)], np.array(stops, dtype=np.int64), counts)

    def _messages(self, runs: Runs) -> Any:
        for _, records in runs.pieces():
            for start in range(0, len(records), self._rows_per_message):
                piece = records[start : start + self._rows_per_message]
                subject = EVENT_TYPE_BY_RTYPE[int(piece[0]["rtype"])].subject
                payload = b" ".join(b"%d" % size for size in piece["size"])
                yield subject, payload.ljust(self._pad), len(piece)


def trades(first: int, count: int) -> Runs:
    """Futures trades whose sizes are first, first + 1..."""
    records = np.zeros(count, FUTURES_TRADE)
    records["rtype"] = RType.FUTURES_TRADE
    records["size"] = np.arange(first, first + count)
    records["ts_event_ns"] = np.arange(first, first + count)
    return whole_block(Block(0, records, {0: "ES.c.0"}, Source.REPLAY))


def publisher(server: NatsServer, **options: Any) -> Publisher:
    """A publisher into MARKET_DATA of a test's server."""
    settings: dict[str, Any] = {
        "encoder": PlainEncoder(),
        "connect_options": ConnectOptions(url=server.url),
        "stream": StreamSettings(),
        "give_up_after_s": 20.0,
    }
    settings |= options
    return Publisher(settings.pop("encoder"), **settings)


async def connect(server: NatsServer) -> Client:
    """An ordinary client."""
    client = Client()
    await client.connect(server.url)
    return client


async def stored(server: NatsServer, stream: str = "MARKET_DATA") -> list[int]:
    """The sizes in the whole stream, in its order, read by another client."""
    payloads = [payload for _, _, payload in await messages(server, stream)]
    return [int(size) for payload in payloads for size in payload.split()]


async def messages(server: NatsServer, stream: str = "MARKET_DATA") -> list[tuple[int, str, bytes]]:
    """Sequence, subject and payload of everything in a stream."""
    client = await connect(server)
    try:
        context = client.jetstream()
        info = await context.stream_info(stream)
        if not info.state.messages:
            return []
        subscription = await context.subscribe(">", stream=stream, ordered_consumer=True)
        found = []
        for _ in range(info.state.messages):
            message = await subscription.next_msg(10)
            sequence = message.metadata.sequence.stream
            found.append((sequence, message.subject, message.data))
        return found
    finally:
        await client.close()


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait for something that tells of itself in no other way."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def raw_info(server: NatsServer, stream: str = "MARKET_DATA") -> dict[str, Any]:
    """A stream's configuration and state as the server tells it."""
    client = await connect(server)
    try:
        answer = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", 5)
        values: dict[str, Any] = json.loads(answer.data)
        return values
    finally:
        await client.close()
