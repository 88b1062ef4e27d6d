"""A stream of real messages for consumers to read: what to put into it, and how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import nats
import numpy as np

from ingestor.encode.packed import PackedEncoder
from ingestor.encode.reference import payloads
from ingestor.model.blocks import Block, Runs, Source, whole_block
from ingestor.model.records import Records
from tests.encode import examples
from tests.encode.examples import REPLY, block_of
from tests.nats_servers import NatsServer

STREAM = "MARKET_DATA"
TRADES = "market.futures.trades"
DEPTH = "market.futures.mbp10"
FIRST_NS = 1_765_895_400_000_000_000

Published = tuple[str, bytes]


def trades(count: int, *, first: int = 0) -> Records:
    """Futures trades; `first` and on is the vendor's sequence, and the microsecond."""
    return _counted(examples.FUTURES_TRADE, count, first)


def depth(count: int, *, first: int = 0) -> Records:
    return _counted(examples.MBP10, count, first)


def as_json(records: Records, source: Source = Source.REPLAY) -> list[Published]:
    return list(payloads(whole_block(block_of(records, source))))


def as_packed(runs: Runs) -> list[Published]:
    frames = PackedEncoder().encode(runs, REPLY, 1, 10**6)
    found, at = [], 0
    while at < len(frames.data):
        end = frames.data.index(b"\r\n", at)
        _, subject, _, size = frames.data[at:end].decode().split(" ")
        at = end + 2 + int(size) + 2
        found.append((subject, frames.data[end + 2 : at - 2]))
    return found


def packed(records: Records, source: Source = Source.REPLAY) -> list[Published]:
    return as_packed(whole_block(block_of(records, source)))


def in_turns(*blocks: Block) -> Runs:
    """Rows of blocks one by one in turns, as a merge of feeds would have them."""
    rows = len(blocks[0].records)
    at = np.repeat(np.arange(rows), len(blocks))
    which = np.tile(np.arange(len(blocks)), rows)
    return Runs(blocks, which, at, at + 1, blocks[0].records["ts_event_ns"].astype(np.int64))


async def publish(server: NatsServer, messages: Iterable[Published]) -> int:
    """Store messages in order, making the stream if need be; return the last stream sequence."""
    seq = 0
    async with await nats.connect(server.url) as client:
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=["market.>"])
        for subject, payload in messages:
            seq = (await stream.publish(subject, payload)).seq
    return seq


async def make_stream(server: NatsServer) -> None:
    await publish(server, [])


def sequences(events: Sequence[object]) -> list[int]:
    """The vendor's sequence of each event."""
    return [event.seq for event in events]  # type: ignore[attr-defined]


def _counted(example: Records, count: int, first: int) -> Records:
    records = np.repeat(example, count)
    records["sequence"] = np.arange(first, first + count)
    records["ts_event_ns"] = FIRST_NS + records["sequence"] * np.uint64(1000)
    records["ts_recv_ns"] = records["ts_event_ns"] + 500
    return records
