"""The day that the benchmarks run on: generated, merged, as frames made ahead, and by stages."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ingestor.bench.ceiling import MAX_FLOW, Chunk, FramesAhead, flow_of
from ingestor.encode import make_encoder
from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.merge.ordering import WatermarkMerge
from ingestor.model.blocks import Block, Encoder, Reply, Runs, Source
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import RingReader, records_message
from ingestor.runtime.machine import keep_freed_memory
from ingestor.sim.sample_day import write_sample_day

DATE: Final = dt.date(2025, 12, 16)
MAX_FRAMES_BYTES: Final = 4 * 1024**3
"""Frames made ahead stop here: they all lie in memory. Whoever asks for more than that compares a
part of the day with the whole."""
_REPEATS: Final = 3
_REPLY: Final = Reply(b"_INBOX.0123456789abcdef012345.0123456789abcdef.500.fail.", b".1.$FI")
_SCHEMAS: Final = (DbnSchema.TRADES, DbnSchema.MBP10)


def make_day(data_dir: Path, depth_events: int) -> Path:
    """Write a sample day once; later calls find it."""
    if not any(data_dir.glob("*/*.dbn*")):
        write_sample_day(data_dir, DATE, depth_events=depth_events)
    return data_dir


def blocks(data_dir: Path, schemas: Sequence[DbnSchema]) -> list[Iterator[Block]]:
    """Return an iterator of blocks for each schema, each block a copy of its own."""
    return [_copies(feed, data_dir, schema) for feed, schema in enumerate(schemas)]


def _copies(feed: int, data_dir: Path, schema: DbnSchema) -> Iterator[Block]:
    for block in DBNIngestor(data_dir=data_dir, schema=schema).blocks():
        records = block.records.copy()
        yield Block(feed, records, block.symbols, Source.REPLAY, block.in_order)


def merged(feeds: Sequence[Iterator[Block]]) -> Iterator[Runs]:
    """Yield everything in the order of a replay."""
    merge = WatermarkMerge(len(feeds))
    while not merge.done:
        for feed in merge.waiting_for():
            block = next(feeds[feed], None)
            if block is None:
                merge.end(feed)
            else:
                merge.push(block)
        while (runs := merge.pull()) is not None:
            yield runs


def prebuilt(
    data_dir: Path, schemas: Sequence[DbnSchema], encoding: str, inbox: str
) -> FramesAhead:
    """Return the frames of one fast-ingest batch."""
    encoder = make_encoder(encoding)
    flow = flow_of(_message_bytes(encoder, data_dir, schemas))
    head = f"{inbox}.bench.{flow}.fail.".encode()
    chunks: list[Chunk] = []
    sequence, rows, size_bytes = 1, 0, 0
    for runs in merged(blocks(data_dir, schemas)):
        for chunk, taken in _chunks(encoder, runs, (head, flow), sequence):
            chunks.append(chunk)
            sequence += chunk.messages
            rows += taken
            size_bytes += len(chunk.data)
        if size_bytes > MAX_FRAMES_BYTES:
            break
    commit = b"PUB market.end %b%012d.3.$FI 0\r\n\r\n" % (head, sequence)
    chunks.append(Chunk(commit, 1))
    return FramesAhead(chunks, rows, size_bytes, flow)


def _message_bytes(encoder: Encoder, data_dir: Path, schemas: Sequence[DbnSchema]) -> int:
    """Return the mean size of the first messages."""
    first = next(merged(blocks(data_dir, schemas)))
    frames = encoder.encode(first, Reply(b"", b""), 1, MAX_FLOW)
    return frames.size_bytes // frames.messages


def _chunks(
    encoder: Encoder, runs: Runs, batch: tuple[bytes, int], sequence: int
) -> Iterator[tuple[Chunk, int]]:
    """Yield what is written at once: half of what is acknowledged at once, and its rows."""
    head, flow = batch
    while len(runs):
        opening = sequence == 1
        reply = Reply(head, b".0.$FI" if opening else b".1.$FI")
        frames = encoder.encode(runs, reply, sequence, 1 if opening else max(1, flow // 2))
        rows = int(frames.rows_stop[-1])
        yield Chunk(frames.data, frames.messages), rows
        sequence += frames.messages
        _, runs = runs.split(rows)


def stage_table(data_dir: Path) -> dict[str, float]:
    """Return stage to ns per event: the best of a few repeats, each stage by itself.

    From then on this process keeps freed memory, as those of a replay do.
    """
    keep_freed_memory()
    day = [list(feed) for feed in blocks(data_dir, _SCHEMAS)]
    ordered = list(merged([iter(feed) for feed in day]))
    events = sum(map(len, ordered))
    work: dict[str, Callable[[], object]] = {
        "read and decompress": lambda: _read(data_dir),
        "ring, both sides": lambda: _through_ring(block for feed in day for block in feed),
        "merge": lambda: sum(map(len, merged([iter(feed) for feed in day]))),
        "encode, JSON": lambda: _encode(make_encoder("json"), ordered),
        "encode, packed": lambda: _encode(make_encoder("packed"), ordered),
    }
    return {name: _best_ns(stage) / events for name, stage in work.items()}


def _best_ns(stage: Callable[[], object]) -> int:
    taken = []
    for _ in range(_REPEATS):
        began = time.perf_counter_ns()
        stage()
        taken.append(time.perf_counter_ns() - began)
    return min(taken)


def _read(data_dir: Path) -> int:
    return sum(
        len(block.records)
        for schema in _SCHEMAS
        for block in DBNIngestor(data_dir=data_dir, schema=schema).blocks()
    )


def _through_ring(all_blocks: Iterable[Block]) -> int:
    doorbell = Doorbell()
    ring = BlockRing(doorbell)
    rows = 0
    for block in all_blocks:
        reader = RingReader(block.feed, block.source, block.symbols)
        ring.put(records_message(block.records))
        for message in ring.take(1):
            found = reader.read(message)
            rows += len(found.records) if isinstance(found, Block) else 0
    doorbell.close()
    return rows


def _encode(encoder: Encoder, ordered: Iterable[Runs]) -> int:
    return sum(encoder.encode(runs, _REPLY, 1, len(runs)).size_bytes for runs in ordered)
