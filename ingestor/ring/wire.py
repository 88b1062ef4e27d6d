"""What one ring message is: eight bytes of header, then the payload.

    offset 0  u1   kind: 0 records, 1 symbols, 2 end of feed, 3 status
    offset 1  u1   rtype whose dtype the rows have (kind 0); stock quotes and trades may mix
    offset 2  u2   zero
    offset 4  u4   number of rows or of symbols, little-endian

Records follow as they lie in memory. Symbols follow as MessagePack ``[[instrument_id, text]]``:
additions to the feed's table, in force for every block after them. A status follows as its JSON.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec
import numpy as np

from ingestor.blocks import Block, Source
from ingestor.feed_status import FeedStatus, decode_status, encode_status
from ingestor.records import EVENT_TYPE_BY_RTYPE, Records, as_bytes_matrix

HEADER: Final = struct.Struct("<BBHI")


class Kind(IntEnum):
    """What a message carries."""

    RECORDS = 0
    SYMBOLS = 1
    END = 2
    STATUS = 3


END_MESSAGE: Final = HEADER.pack(Kind.END, 0, 0, 0)

_symbols_decoder: Final = msgspec.msgpack.Decoder(list[tuple[int, str]])


def records_message(records: Records) -> bytes:
    """Return the message that carries contiguous, non-empty records."""
    rtype = int(records["rtype"][0])
    header = HEADER.pack(Kind.RECORDS, rtype, 0, len(records))
    return b"".join((header, as_bytes_matrix(records).data))


def symbols_message(symbols: Mapping[int, str]) -> bytes:
    """Return the message that adds symbols to the feed's table."""
    pairs = msgspec.msgpack.encode(list(symbols.items()))
    return HEADER.pack(Kind.SYMBOLS, 0, 0, len(symbols)) + pairs


def status_message(status: FeedStatus) -> bytes:
    """Return the message that carries what the feed tells about itself."""
    return HEADER.pack(Kind.STATUS, 0, 0, 0) + encode_status(status)


@dataclass(slots=True)
class RingReader:
    """Turns one feed's messages back into blocks and statuses, keeping its symbol table.

    The table is replaced, never changed, when symbols arrive: blocks read before keep theirs.
    """

    feed: int
    source: Source
    symbols: Mapping[int, str]
    ended: bool = False

    def read(self, message: bytes) -> Block | FeedStatus | None:
        """Return the block or status in a message; None when it only changes the reader's state.

        Raises BadDataError for a status that is none.
        """
        kind, rtype, _, count = HEADER.unpack_from(message)
        if kind == Kind.RECORDS:
            dtype = EVENT_TYPE_BY_RTYPE[rtype].dtype
            records = np.frombuffer(message, dtype, count, HEADER.size)
            return Block(self.feed, records, self.symbols, self.source)
        if kind == Kind.STATUS:
            return decode_status(message[HEADER.size :])
        if kind == Kind.SYMBOLS:
            added = dict(_symbols_decoder.decode(memoryview(message)[HEADER.size :]))
            self.symbols = {**self.symbols, **added}
        else:
            self.ended = True
        return None
