"""What one ring message is: records as they lie in memory, or something else and its first byte.

Records need no words around them. They begin with their length in 4-byte words, which is never
below 4, then their rtype; of a block, the first record's rtype tells the dtype of all (stock
quotes and trades may mix). Whatever else there is to say begins with a smaller byte:

    1 symbols   then MessagePack ``[[instrument_id, text]]``: additions to the feed's table, in
                force for every block after them
    2 end       nothing more comes from this feed
    3 status    then its JSON
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec
import numpy as np

from ingestor.blocks import Block, Source
from ingestor.errors import BadDataError
from ingestor.feed_status import FeedStatus, decode_status, encode_status
from ingestor.records import EVENT_TYPE_BY_RTYPE, Records, as_bytes_matrix
from ingestor.ring.block_ring import Message

_RTYPE_AT: Final = 1


class Kind(IntEnum):
    """First byte of a message that is no records."""

    SYMBOLS = 1
    END = 2
    STATUS = 3


END_MESSAGE: Final = bytes([Kind.END])

_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, LookupError, RecursionError)
"""What MessagePack, JSON, NumPy and the table of types raise."""

_symbols_decoder: Final = msgspec.msgpack.Decoder(list[tuple[int, str]])


def records_message(records: Records) -> memoryview:
    """Return the message that carries contiguous, non-empty records: a view of them."""
    return as_bytes_matrix(records).reshape(-1).data


def symbols_message(symbols: Mapping[int, str]) -> bytes:
    """Return the message that adds symbols to the feed's table."""
    return bytes([Kind.SYMBOLS]) + msgspec.msgpack.encode(list(symbols.items()))


def status_message(status: FeedStatus) -> bytes:
    """Return the message that carries what the feed tells about itself."""
    return bytes([Kind.STATUS]) + encode_status(status)


@dataclass(slots=True)
class RingReader:
    """Turns one feed's messages back into blocks and statuses, keeping its symbol table.

    The table is replaced, never changed, when symbols arrive: blocks read before keep theirs.
    """

    feed: int
    source: Source
    symbols: Mapping[int, str]
    ended: bool = False

    def read(self, message: Message) -> Block | FeedStatus | None:
        """Return the block or status in a message; None when it only changes the reader's state.

        Raises BadDataError for a message that is none, as a feed that dies may leave it.
        """
        try:
            return self._read(message)
        except _UNREADABLE as error:
            raise BadDataError(
                f"feed {self.feed} left {len(message)} bytes in its ring that say nothing: {error}"
            ) from error

    def _read(self, message: Message) -> Block | FeedStatus | None:
        match message[0]:
            case Kind.SYMBOLS:
                added = dict(_symbols_decoder.decode(message[1:]))
                self.symbols = {**self.symbols, **added}
            case Kind.END:
                self.ended = True
            case Kind.STATUS:
                return decode_status(bytes(message[1:]))
            case _:
                records = np.frombuffer(message, EVENT_TYPE_BY_RTYPE[message[_RTYPE_AT]].dtype)
                return Block(self.feed, records, self.symbols, self.source)
        return None
