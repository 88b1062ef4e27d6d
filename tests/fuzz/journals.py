"""The journal's target: segments whose checksums agree though their fields make no sense."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final
from zlib import crc32

import zstandard

from ingestor.feeds.polygon.journal_feed import MIN_BLOCK_BYTES, JournalFeed
from ingestor.journal.format import (
    CHECKSUM,
    HEADER,
    MAGIC,
    Entry,
    Market,
    entry_head,
    pack_header,
    seed_of,
)
from ingestor.journal.reader import Reading
from ingestor.journal.segments import Segment
from tests.fuzz.mutator import EDGES, Mutator
from tests.fuzz.target import Target, check_publishable, is_one_of
from tests.journal.tapes import DAY, OPEN_NS, stock_frames
from tests.journal.tapes import HEADER as SOUND

_SHARE: Final = 16
"""One in so many inputs is looked for in its folder too."""

_FRAMES: Final = [data for data, _, _ in stock_frames(6)]


def journal(folder: Path) -> Target:
    """One segment, plain or compressed."""
    path = folder / "stocks-20251216-000001.journal"
    mutator = Mutator(_FRAMES, text=True)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        feed = JournalFeed(directory=folder, market=Market.STOCKS, block_bytes=MIN_BLOCK_BYTES)
        whole_way = is_one_of(_SHARE, data)
        one = Reading(Segment(path, DAY, 1, len(data)), DAY)
        blocks = feed.blocks() if whole_way else feed.blocks_of([one])
        for block in blocks:
            check_publishable(block)

    def finish(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.3:  # a sound segment, damaged anywhere
            return _compressed(rng, data)
        header = pack_header(SOUND) if rng.random() < 0.6 else _header(rng)
        return _compressed(rng, header + b"".join(_entries(rng, header, mutator)))

    return Target(samples=[_segment()], run=run, finish=finish)


def _segment() -> bytes:
    header = pack_header(SOUND)
    entries = [Entry(data, OPEN_NS + at, 1, at) for at, data in enumerate(_FRAMES)]
    return header + b"".join(entry_head(one, seed_of(header)) + one.payload for one in entries)


def _entries(rng: Random, header: bytes, mutator: Mutator) -> list[bytes]:
    packed = []
    for number in range(rng.randrange(4)):
        payload = mutator.make(rng) if rng.random() < 0.5 else rng.choice(_FRAMES)
        recv_ns = _edge(rng, 8) if rng.random() < 0.3 else OPEN_NS + number
        entry = Entry(payload, recv_ns, _edge(rng, 4), rng.choice((number, _edge(rng, 8))))
        packed.append(entry_head(entry, seed_of(header)) + payload)
        if rng.random() < 0.2:
            packed[-1] = packed[-1][: rng.randrange(len(packed[-1]))]
    return packed


def _header(rng: Random) -> bytes:
    roots = rng.choice((b"", b"SPY", b",,,", b"\xff", b"SPY," * 1024, b"S" * 5000))
    date = rng.choice((20251216, 20251217, 0, 99991231, 20250230, 2**32 - 1))
    size = rng.choice((HEADER.size + len(roots) + CHECKSUM.size, _edge(rng, 2)))
    body = HEADER.pack(
        *(MAGIC, rng.choice((1, 1, 1, 2)), rng.choice((1, 1, 1, 2, 0)), size & 0xFFFF),
        *(_edge(rng, 8), _edge(rng, 8), date, _edge(rng, 4), _edge(rng, 4)),
        *(rng.choice((len(roots), _edge(rng, 2))) & 0xFFFF, _edge(rng, 2)),
    )
    return body + roots + CHECKSUM.pack(crc32(body + roots))


def _edge(rng: Random, width: int) -> int:
    return rng.choice(EDGES) & (1 << 8 * width) - 1


def _compressed(rng: Random, data: bytes) -> bytes:
    kind = rng.random()
    if kind < 0.8:
        return data
    window = zstandard.ZstdCompressionParameters.from_level(1, window_log=rng.choice((10, 20, 27)))
    compressor = zstandard.ZstdCompressor(compression_params=window).compressobj()
    data = compressor.compress(data) + compressor.flush()
    if kind < 0.9:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(5)) + data[at + rng.randrange(5) :]
    return data
