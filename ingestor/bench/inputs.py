"""What the benchmarks run on: a generated day, a day of trades alone, and frames made ahead."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ingestor.bench.ceiling import MAX_FLOW, Chunk, FramesAhead, flow_of
from ingestor.encode import make_encoder
from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.merge.ordering import WatermarkMerge
from ingestor.model.blocks import Block, Encoder, Reply, Runs, Source
from ingestor.sim.sample_day import write_sample_day

DATE: Final = dt.date(2025, 12, 16)
MAX_FRAMES_BYTES: Final = 4 * 1024**3
"""Frames made ahead stop here: they all lie in memory. Whoever asks for more than that compares a
part of the day with the whole."""


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
