"""What a target is, and what must hold for whatever a feed's parser hands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final
from zlib import crc32

from ingestor.encode import make_encoder
from ingestor.model.blocks import Block, Reply, whole_block
from ingestor.model.bounds import MAX_SYMBOL_BYTES, MAX_TIME_NS

_ENCODERS: Final = [make_encoder(name) for name in ("json", "packed")]
_REPLY: Final = Reply(b"_INBOX.a.1.", b"")


def as_it_is(_rng: Random, data: bytes) -> bytes:
    """Return the input itself."""
    return data


@dataclass(frozen=True, kw_only=True)
class Target:
    """One parser: sound inputs, what becomes of a mutated one, and how it is read.

    `run` may raise `IngestorError`, within a second and bounded memory, and nothing else.
    `finish` mends what would be refused at first sight, such as lengths and checksums.
    """

    samples: Sequence[bytes]
    run: Callable[[bytes], None]
    text: bool = False
    finish: Callable[[Random, bytes], bytes] = as_it_is


def check_publishable(block: Block) -> None:
    """Check that merge, ring and encoders can take what a feed hands on."""
    records = block.records
    if not len(records):
        return
    for field in ("ts_event_ns", "ts_recv_ns"):
        assert int(records[field].max()) <= MAX_TIME_NS, f"{field} is beyond int64"
    for instrument_id in set(records["instrument_id"].tolist()):
        symbol = block.symbols[instrument_id]
        size = len(symbol.encode())
        assert 0 < size <= MAX_SYMBOL_BYTES, f"a symbol does not fit: {size} bytes"
    runs = whole_block(block)
    for encoder in _ENCODERS:
        try:
            encoder.encode(runs, _REPLY, 1, len(records))
        except Exception as error:
            raise AssertionError(f"the encoder meets what does not fit: {error!r}") from error


def is_one_of(share: int, data: bytes) -> bool:
    """Tell whether an input is one of the few that a costly way is gone for too."""
    return crc32(data) % share == 0
