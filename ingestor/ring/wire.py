"""What one ring message is: records as they lie in memory, or something else and its first byte.

Records need no words around them. They begin with their length in 4-byte words, which is never
below 4, then their rtype; of a block, the first record's rtype tells the dtype of all (stock
quotes and trades may mix). A live feed's records are followed by the time at which they were put
(i8, CLOCK_MONOTONIC in ns): no dtype has so few bytes. Every other message begins with a
smaller byte:

    1 symbols   then MessagePack ``[[instrument_id, text]]``: additions to the feed's table, in
                force for every block after them; a long table comes in several messages
    2 end       nothing more comes from this feed
    3 status    then its JSON
    4 order     then 1 where the blocks after it are in order (`Block.in_order`), until told 0
    5 begin     nothing of what was said before holds: the feed's process, or the reader's, was
                started again. Then how often the feed's was (u8), and the number of its next row
                (i8), counted from the feed's first of all, -1 where its rows are new ones;
                and that of the next status of its process (u8)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import msgspec
import numpy as np

from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError
from ingestor.model.feed_status import FeedStatus, decode_status, encode_status
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, Records, as_bytes_matrix
from ingestor.model.symbols import SymbolTable
from ingestor.ring.block_ring import Message

MAX_SYMBOLS_BYTES: Final = 64 * 1024
"""Of one message of symbols, some 700; a quarter of the ring where that is less."""

_STAMP_BYTES: Final = 8

_ENTRY_BYTES: Final = 1 + 5 + 3
"""MessagePack around a symbol of less than 64 KiB: its pair, its id, its length."""

_RTYPE_AT: Final = 1


class Kind(IntEnum):
    """First byte of a message that is no records."""

    SYMBOLS = 1
    END = 2
    STATUS = 3
    ORDER = 4
    BEGIN = 5


_LAST_KIND: Final = int(max(Kind))

END_MESSAGE: Final = bytes([Kind.END])

_UNREADABLE: Final = (
    msgspec.MsgspecError,
    ValueError,
    LookupError,
    RecursionError,
    struct.error,
)
"""What MessagePack, JSON, NumPy, the table of types and `struct` raise."""

_symbols_decoder: Final = msgspec.msgpack.Decoder(list[tuple[int, str]])


def records_message(records: Records, put_ns: int = 0) -> Message:
    """Return the message that carries contiguous, non-empty records: a view of them.

    With the time at which they are put it is a copy, which of a live feed's small block costs less
    than a message of its own would.
    """
    view = as_bytes_matrix(records).reshape(-1).data
    return b"".join((view, put_ns.to_bytes(_STAMP_BYTES, "little"))) if put_ns else view


def symbols_message(symbols: Mapping[int, str]) -> bytes:
    """Return the message that adds symbols to the feed's table."""
    return bytes([Kind.SYMBOLS]) + msgspec.msgpack.encode(list(symbols.items()))


def symbols_messages(
    symbols: Iterable[tuple[int, str]], max_bytes: int = MAX_SYMBOLS_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Yield messages that add (id, symbol) pairs, each with how many it adds.

    None has more than `max_bytes`, but one whose only symbol does.
    """
    piece: list[tuple[int, str]] = []
    size = 0
    for pair in symbols:
        # At the most: MessagePack takes fewer for short texts and small ids.
        pair_bytes = _ENTRY_BYTES + len(pair[1].encode())
        if piece and size + pair_bytes > max_bytes - _ENTRY_BYTES:
            yield len(piece), symbols_message(dict(piece))
            piece, size = [], 0
        piece.append(pair)
        size += pair_bytes
    if piece:
        yield len(piece), symbols_message(dict(piece))


def order_message(*, in_order: bool) -> bytes:
    """Return the message that says of the blocks after it whether they are in order."""
    return bytes([Kind.ORDER, in_order])


def status_message(status: FeedStatus) -> bytes:
    """Return the message that carries what the feed tells about itself."""
    return bytes([Kind.STATUS]) + encode_status(status)


NEW_ROWS: Final = -1
"""A feed that was started again has nothing of what it had before."""


@dataclass(frozen=True, slots=True)
class FeedBegin:
    """The first message of a feed's process (0, then 1, 2... when started again) to a reader."""

    process: int
    next_row: int = NEW_ROWS
    next_status: int = 0


_BEGIN: Final = struct.Struct("<xQqQ")


def begin_message(begin: FeedBegin) -> bytes:
    """Return the message that says so."""
    message = bytearray(_BEGIN.pack(begin.process, begin.next_row, begin.next_status))
    message[0] = Kind.BEGIN
    return bytes(message)


@dataclass(slots=True)
class RingReader:
    """Turns one feed's messages back into blocks and statuses, keeping its symbol table.

    The table grows in place, so an addition costs what it adds. Only where an id that blocks may
    hold gets another symbol a new table begins; blocks read before keep theirs.
    """

    feed: int
    source: Source
    symbols: SymbolTable
    ended: bool = False
    rows: int = 0
    """Rows of the feed that were read, however often it was started."""
    _repeated: int = field(default=0, init=False)
    _in_order: bool = field(default=False, init=False)
    _table: dict[int, str] = field(init=False)
    _in_use: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Begin with the symbols that are given."""
        self.symbols = self._table = dict(self.symbols)

    def begin_anew(self) -> None:
        """Forget what was read: the feed begins again, at another place."""
        self.ended, self.rows, self._repeated = False, 0, 0
        self.symbols = self._table = {}
        self._in_use = self._in_order = False

    def read(self, message: Message) -> Block | FeedStatus | FeedBegin | None:
        """Return what is in a message; None when it only changes the reader's state.

        Rows that were read before the feed was started again are left out.

        Raises BadDataError for a message that is none, as a feed that dies may leave it.
        """
        try:
            return self._read(message)
        # A process killed inside `put` may leave half a message; only its feed is to end.
        except _UNREADABLE as error:
            raise BadDataError(
                f"feed {self.feed} left {len(message)} bytes in its ring that say nothing: {error}"
            ) from error

    def _read(self, message: Message) -> Block | FeedStatus | FeedBegin | None:
        kind = message[0]
        # Asked first: a comparison with each kind before it would cost a block 0.3 us.
        if kind > _LAST_KIND:
            return self._read_records(message)
        match kind:
            case Kind.SYMBOLS:
                self._add(_symbols_decoder.decode(message[1:]))
            case Kind.END:
                self.ended = True
            case Kind.STATUS:
                return decode_status(bytes(message[1:]))
            case Kind.ORDER:
                self._in_order = message[1] == 1
            case Kind.BEGIN:
                return self._begin(FeedBegin(*_BEGIN.unpack(message)))
        return None

    def _begin(self, begin: FeedBegin) -> FeedBegin:
        # What the reader has of it already is left out when it comes again.
        new = begin.next_row == NEW_ROWS
        self._repeated = 0 if new else max(self.rows - begin.next_row, 0)
        self.symbols = self._table = {}
        self._in_use = self._in_order = False
        return begin

    def _read_records(self, message: Message) -> Block | None:
        # From now on a block holds the table.
        self._in_use = True
        dtype, put_ns = EVENT_TYPE_BY_RTYPE[message[_RTYPE_AT]].dtype, 0
        if len(message) % dtype.itemsize == _STAMP_BYTES:
            put_ns = int.from_bytes(message[-_STAMP_BYTES:], "little")
            message = message[:-_STAMP_BYTES]
        records = np.frombuffer(message, dtype)
        if self._repeated:
            repeated = min(self._repeated, len(records))
            self._repeated -= repeated
            records = records[repeated:]
            if not len(records):
                return None
        self.rows += len(records)
        return Block(self.feed, records, self.symbols, self.source, self._in_order, put_ns)

    def _add(self, pairs: list[tuple[int, str]]) -> None:
        known = self._table.get
        # Blocks read before refer to this table; until then it may be corrected in place.
        if self._in_use and any(known(number, text) != text for number, text in pairs):
            self.symbols = self._table = self._table.copy()
            self._in_use = False
        self._table.update(pairs)
