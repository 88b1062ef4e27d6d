"""What each stage costs by itself, in ns per event of the merged day."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ingestor.bench.inputs import blocks, merged
from ingestor.encode import make_encoder
from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.model.blocks import Block, Encoder, Reply, Runs
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import RingReader, records_message
from ingestor.runtime.machine import keep_freed_memory

_REPEATS: Final = 3
_REPLY: Final = Reply(b"_INBOX.0123456789abcdef012345.0123456789abcdef.500.fail.", b".1.$FI")
_SCHEMAS: Final = (DbnSchema.TRADES, DbnSchema.MBP10)


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
