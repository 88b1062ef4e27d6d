"""The journal's target: segments whose checksums agree though their fields make no sense."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final
from zlib import crc32

import zstandard

from ingestor.feeds.polygon.journal.feed import MIN_BLOCK_BYTES, JournalFeed
from ingestor.feeds.polygon.journal.format import (
    CHECKSUM,
    HEADER,
    MAGIC,
    Entry,
    Market,
    entry_head,
    pack_header,
    seed_of,
)
from tests.feeds.polygon.journal.tapes import HEADER as SOUND
from tests.feeds.polygon.journal.tapes import OPEN_NS, stock_frames
from tests.fuzz.mutator import EDGES, Mutator
from tests.fuzz.target import Target, check_publishable

_FRAMES: Final = [data for data, _, _ in stock_frames(6)]


def journal(folder: Path) -> Target:
    """One segment, plain or compressed."""
    path = folder / "stocks-20251216-000001.journal"
    mutator = Mutator(_FRAMES, text=True)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        if is_one_of(_SHARE, data):
            feed = JournalFeed(directory=folder, market=Market.STOCKS, block_bytes=MIN_BLOCK_BYTES)
            blocks = feed.blocks()
        else:
            blocks = _blocks_of(Segment(path, OPEN_DATE, 1, len(data)))
        for block in blocks:
            check_publishable(block)

    def finish(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.3:  # a sound segment, damaged anywhere
            return _compressed(rng, data)
        header = pack_header(SOUND) if rng.random() < 0.6 else _header(rng)
        return _compressed(rng, header + b"".join(_entries(rng, header, mutator)))

    return Target(samples=[_segment()], run=run, finish=finish)


def _blocks_of(segment: Segment) -> Iterator[Block]:
    """Read as `JournalFeed` does, but for looking what else there is."""
    playback, progress = Playback(), JournalProgress()
    rows = bytearray()
    for entry in SegmentFrames(segment, progress, playback.begin).entries():
        if entry is None or playback.is_known(entry):
            continue
        missing = playback.missing(entry)
        if entry.connection == NOTE:
            playback.note(entry)
        else:
            decoded = playback.decode(entry)
            progress.count(decoded, missing)
            rows += decoded.records.tobytes()
    for records in Choice(Market.STOCKS, frozenset(), MIN_BLOCK_BYTES).of(
        rows, playback.symbols, progress
    ):
        yield Block(0, records, playback.symbols, Source.REPLAY)
    if progress.damaged:
        raise BadDataError(progress.damaged)


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
