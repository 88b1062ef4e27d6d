r"""The packed encoding: many records of one subject in one message, as raw dtype rows.

For consumers that want millions of events a second: a message is a short header that says what
follows, and then the records exactly as `model.records` lays them out (for futures, the bytes
of DBN's own structs). This page is enough to read it in any language.

All integers are little-endian and unsigned. A message is ``header_bytes`` of header, then
``row_count`` times ``row_bytes`` of rows, and nothing after them.

====== ===== ===================================================================================
offset bytes field
====== ===== ===================================================================================
0      4     magic ``AB 4D 44 50`` (``\xabMDP``; no UTF-8 text, hence no JSON, begins with 0xAB)
4      1     version of this format: 1
5      1     rtype of every row: 0x00 FuturesTrade, 0x0A MBP10, 0xE0 StockTrade,
             0xE1 StockQuote, 0xE2 OptionTrade
6      2     row_bytes: size of one row (48, 368, 64, 64, 80 in that order)
8      4     row_count: at least 1
12     4     header_bytes: offset of the first row, a multiple of 8
16     4     symbol_count: entries of the symbol table, at least 1
20     1     schema_bytes
21     1     source_bytes
22     2     zero
24     ...   schema name and version, ASCII, schema_bytes long (``futures.mbp10.v1``)
...    ...   the envelope's source, ASCII, source_bytes long (``replay``)
...    ...   the symbol table, symbol_count entries, ascending by instrument_id:
             instrument_id (4), symbol_bytes (1), the symbol in UTF-8 (symbol_bytes)
...    0-7   zeros up to header_bytes
====== ===== ===================================================================================

The table lists every instrument_id that occurs in the rows; one that the feed has no symbol for
is listed under its id as text, as in JSON. Unknown values in rows are the sentinels of
`model.records` (a price of 2**63-1, a sequence of 2**64-1, an exchange of -1).

One message is one piece of a run, so the stream keeps the exact published order across
subjects. A piece ends where the run ends, where the rtype changes, at `MAX_ROWS`, at
`MAX_ROW_BYTES`, and where the message, header and all, would be longer than the server takes. The
encoder packs what it is handed and never waits for more: no row is held back to fill a message.

Rows, as offset:type:field (u unsigned, i signed, then the number of bytes):

- every row: 0:u1:length 1:u1:rtype 2:u2:publisher_id 4:u4:instrument_id 8:u8:ts_event_ns
- FuturesTrade: 16:i8:price_e9 24:u4:size 28:u1:action 29:u1:side 30:u1:flags 31:u1:depth
  32:u8:ts_recv_ns 40:i4:ts_in_delta_ns 44:u4:sequence (action and side are ASCII)
- MBP10: as FuturesTrade, then ten levels of 32 bytes from 48 on, each 0:i8:bid_px_e9
  8:i8:ask_px_e9 16:u4:bid_sz 20:u4:ask_sz 24:u4:bid_ct 28:u4:ask_ct
- the three live types: 16:u8:ts_recv_ns 24:u8:sequence, then
- StockTrade: 32:i8:price_e9 40:u4:size 44:i2:exchange 46:i1:aggressor 47:u1:n_conditions
  48:8*u2:conditions
- StockQuote: 32:i8:bid_px_e9 40:i8:ask_px_e9 48:u4:bid_sz 52:u4:ask_sz 56:i2:bid_exch
  58:i2:ask_exch 60:u4:reserved
- OptionTrade: 32:i8:price_e9 40:i8:opt_bid_e9 48:i8:opt_ask_e9 56:u4:size 60:i2:exchange
  62:i1:aggressor 63:u1:n_conditions 64:8*u2:conditions
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from ingestor.encode.reference import CRLF, check_payload, check_sequences, frame_head
from ingestor.model import bounds
from ingestor.model.blocks import Block, Frames, Reply, Runs, Source
from ingestor.model.errors import BadDataError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, EventType, Records, RType, split_by_rtype
from ingestor.model.symbols import SymbolTable, parse_option_ticker, symbol_of
from ingestor.model.units import UNDEF_PRICE

MAGIC: Final = b"\xabMDP"
VERSION: Final = 1

MAX_ROW_BYTES: Final = 128 * 1024
"""Rows of one message in bytes."""

MAX_ROWS: Final = 2048

MAX_SYMBOL_BYTES: Final = 255
"""With `MAX_ROWS` this keeps the symbol table, hence the message, well under 1 MiB."""

_TRADES: Final = frozenset((RType.FUTURES_TRADE, RType.STOCK_TRADE, RType.OPTION_TRADE))
"""Every one of these has a price; a quote's side and a change of the book may have none."""

MAX_SYMBOLS_READ: Final = 65_536
"""Entries of a symbol table that a reader takes: 32 times what a message of ours can hold."""

ALIGNMENT: Final = 8

HEAD: Final = struct.Struct("<4sBBHIIIBBH")
"""The fixed part of the header; its fields are those of `Head`."""

ROW_COUNT: Final = slice(8, 12)
"""Where it stands in a message."""

CACHED_HEADER_BYTES: Final = 1_024
_HEADERS_CACHED: Final = 512
"""Headers that are remembered: by far the most messages open like one before them."""

ENTRY: Final = struct.Struct("<IB")
"""What an entry of the symbol table opens with: instrument_id, symbol_bytes."""


class Head(NamedTuple):
    """The fixed part of the header, in the order of its bytes."""

    magic: bytes = MAGIC
    version: int = VERSION
    rtype: int = 0
    row_bytes: int = 0
    row_count: int = 0
    header_bytes: int = 0
    symbol_count: int = 0
    schema_bytes: int = 0
    source_bytes: int = 0
    zero: int = 0


class UnknownVersionError(BadDataError):
    """A packed message of a version, a schema or an rtype that this reader does not know."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedBlock:
    """One packed message: a read-only view of its rows, and what they need to be understood."""

    event_type: EventType
    records: Records
    symbols: SymbolTable
    source: Source


def is_packed(payload: bytes) -> bool:
    """Tell a packed message from a JSON one."""
    return payload[: len(MAGIC)] == MAGIC


class PackedHeader(NamedTuple):
    """What a header says about the rows after it, but for their number."""

    event_type: EventType
    symbols: SymbolTable
    source: Source


def decode_packed(payload: bytes) -> PackedBlock:
    """Read a packed message; `records` is a view of `payload`.

    Raises `BadDataError`, and of its kind `UnknownVersionError`.
    """
    opening, rows = take_apart(payload)
    header = read_header(opening)
    records = np.frombuffer(rows, header.event_type.dtype)
    check_rows(records, header)
    return PackedBlock(header.event_type, records, header.symbols, header.source)


def take_apart(payload: bytes) -> tuple[bytes, memoryview]:
    """Return the header with a row count of 0, for `read_header`, and the rows.

    Both are within `payload`, whatever its fields say. Raises `BadDataError`.
    """
    _require(is_packed(payload), "does not begin with its magic")
    _require(len(payload) >= HEAD.size, "ends within its header")
    head = Head._make(HEAD.unpack_from(payload))
    if head.version != VERSION:
        raise UnknownVersionError(
            f"packed message has format version {head.version}, known is {VERSION}"
        )
    start = head.header_bytes
    _require(
        HEAD.size <= start <= len(payload) and start % ALIGNMENT == 0,
        f"has a header of {start} bytes in {len(payload)}",
    )
    _require(head.row_count > 0, "has no rows")
    _require(
        len(payload) == start + head.row_count * head.row_bytes,
        f"has {len(payload)} bytes, not what its header says",
    )
    # Without the count, messages of one instrument open alike, and are found in the cache.
    opening = payload[: ROW_COUNT.start] + bytes(4) + payload[ROW_COUNT.stop : start]
    return opening, memoryview(payload)[start:]


def read_header(opening: bytes) -> PackedHeader:
    """Read what `take_apart` returns. Raises `BadDataError`, `UnknownVersionError`."""
    # Longer ones are not kept: with 65,536 symbols a header takes 17 MB.
    return (_read_cached if len(opening) <= CACHED_HEADER_BYTES else _read)(opening)


def check_rows(records: Records, header: PackedHeader) -> None:
    """Raise `BadDataError` unless every row is what its header says, at a time that can be."""
    kind, symbols, _ = header
    _require(bool((records["rtype"] == kind.rtype).all()), f"has rows that are no {kind.name}")
    ids = records["instrument_id"]
    # Most tables list one instrument, and `np.isin` takes 30 us to begin with.
    listed = ids == next(iter(symbols)) if len(symbols) == 1 else np.isin(ids, list(symbols))
    _require(bool(listed.all()), "has rows whose instrument its symbol table does not list")
    latest = max(int(records[name].max()) for name in ("ts_event_ns", "ts_recv_ns"))
    _require(latest <= bounds.MAX_TIME_NS, f"has a row at {latest} ns, after the year 2262")
    if kind.rtype in _TRADES:
        _require(int(records["price_e9"].max()) < UNDEF_PRICE, "has a trade without a price")


def _read(opening: bytes) -> PackedHeader:
    head = Head._make(HEAD.unpack_from(opening))
    _require(head.zero == 0, "has bits set that are reserved")
    kind = _event_type(head)
    texts = _Texts(opening[HEAD.size :])
    schema = texts.take_text(head.schema_bytes)
    if schema != kind.schema:
        raise UnknownVersionError(f"packed message has schema {schema!r}, known is {kind.schema!r}")
    source = _source(texts.take_text(head.source_bytes))
    symbols = _read_symbols(texts, head.symbol_count)
    texts.finish()
    # Checked once a header: every event is built from the ticker.
    if kind.rtype == RType.OPTION_TRADE:
        for symbol in symbols.values():
            parse_option_ticker(symbol)
    return PackedHeader(kind, symbols, source)


_read_cached: Final = lru_cache(_HEADERS_CACHED)(_read)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadDataError(f"packed message {otherwise}")


def _event_type(head: Head) -> EventType:
    kind = EVENT_TYPE_BY_RTYPE.get(head.rtype)
    if kind is None:
        raise UnknownVersionError(f"packed message has rtype {head.rtype:#04x}, which is none")
    _require(
        kind.dtype.itemsize == head.row_bytes,
        f"has rtype {head.rtype:#04x} in rows of {head.row_bytes} bytes",
    )
    return kind


def _source(text: str) -> Source:
    try:
        return Source(text)
    except ValueError as error:
        raise BadDataError(f"packed message has unknown source {text!r}") from error


class _Texts:
    """The variable part of the header, read from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        _require(self._at <= len(self._data), "has texts longer than its header")
        return self._data[start : self._at]

    def take_text(self, size: int) -> str:
        taken = self.take(size)
        try:
            return taken.decode()
        except UnicodeDecodeError as error:
            raise BadDataError(f"packed message has a text that is not UTF-8: {error}") from error

    def finish(self) -> None:
        left = self._data[self._at :]
        _require(len(left) < ALIGNMENT and not any(left), "has bytes after its symbol table")


def _read_symbols(texts: _Texts, count: int) -> dict[int, str]:
    _require(0 < count <= MAX_SYMBOLS_READ, f"has a symbol table of {count} entries")
    symbols: dict[int, str] = {}
    last = -1
    for _ in range(count):
        instrument_id, size = ENTRY.unpack(texts.take(ENTRY.size))
        # Rising ids rule out an instrument that is listed twice.
        _require(instrument_id > last, "has a symbol table that is not in order")
        symbol = symbols[instrument_id] = texts.take_text(size)
        _require(bounds.is_symbol(symbol), f"has the symbol {symbol!r}")
        last = instrument_id
    return symbols


class PackedEncoder:
    """Many records of one subject per message. Implements `Encoder`.

    The reference: the compiled encoder must equal it byte for byte, and takes the pieces of its
    headers from here.
    """

    def __init__(self) -> None:
        self.max_payload_bytes = bounds.MAX_PAYLOAD_BYTES

    def encode(self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int) -> Frames:
        """Encode rows from the front of `runs` into at most `max_messages` messages.

        Raises `BadDataError` for an unknown rtype, for a symbol that does not fit the table, and
        for a row that no message can carry; `ValueError` when the sequence runs out of digits.
        """
        parts: list[bytes | memoryview] = []
        stops: list[int] = []
        rows, sequence = 0, first_sequence
        messages = _messages(runs, self.max_payload_bytes)
        for block, kind, records in islice(messages, max(max_messages, 0)):
            header = _header(kind, block, records)
            data = np.ascontiguousarray(records).view(np.uint8).data
            head = frame_head(kind.subject, reply, sequence, len(header) + len(data))
            parts += head + header, data, CRLF
            rows += len(records)
            stops.append(rows)
            sequence += 1
        check_sequences(first_sequence, len(stops))
        counts = runs.part(0, rows).counts_by_rtype()
        return Frames(parts, np.array(stops, np.int64), counts)


def _messages(runs: Runs, max_bytes: int) -> Iterator[tuple[Block, EventType, Records]]:
    """Cut runs where the rtype changes and at the bounds of a message."""
    for block, run in runs.pieces():
        for kind, records in split_by_rtype(run):
            # A server that takes little leaves room for one row: a larger one is refused by name.
            row_bytes = kind.dtype.itemsize
            room = (max_bytes - HEAD.size) // row_bytes
            limit = max(1, min(MAX_ROWS, MAX_ROW_BYTES // row_bytes, room))
            start = 0
            while start < len(records):
                most = records[start : start + limit]
                rows = fitting_rows(kind, block, most, max_bytes)
                yield block, kind, most[:rows]
                start += rows


def fitting_rows(kind: EventType, block: Block, records: Records, max_bytes: int) -> int:
    """Return how many of these rows, from the front, fit one message with header and symbols.

    Raises `BadDataError` where not even one does.
    """
    # The first row of an instrument pays for its entry, so that sizes are one running sum.
    ids, first = np.unique(records["instrument_id"], return_index=True)
    texts = np.zeros(len(records), np.int64)
    entries = (entry(number, symbol_of(block.symbols, number)) for number in ids.tolist())
    texts[first] = list(map(len, entries))
    header = HEAD.size + len(kind.schema) + len(block.source.value) + np.cumsum(texts)
    header += -header % ALIGNMENT
    sizes = header + kind.dtype.itemsize * np.arange(1, len(records) + 1)
    # A row that does not fit alone can be cut no further.
    check_payload(int(sizes[0]), max_bytes)
    return int(np.searchsorted(sizes, max_bytes, "right"))


def _header(kind: EventType, block: Block, records: Records) -> bytes:
    """Return a whole header of rows of one type."""
    numbers = np.unique(records["instrument_id"]).tolist()
    source = block.source.value.encode()
    texts = b"".join(entry(number, symbol_of(block.symbols, number)) for number in numbers)
    header = opening(kind) + source + texts
    header += bytes(-len(header) % ALIGNMENT)
    # The template of `opening` has zeros where counts stand: they are known only now.
    head = Head(*HEAD.unpack_from(header))._replace(
        row_count=len(records),
        header_bytes=len(header),
        symbol_count=len(numbers),
        source_bytes=len(source),
    )
    return HEAD.pack(*head) + header[HEAD.size :]


def opening(kind: EventType) -> bytes:
    """Return how every header of rows of a type opens: its fixed part and the schema.

    What differs from message to message is 0: counts, the header's size, the source's.
    """
    schema = kind.schema.encode()
    head = Head(rtype=kind.rtype, row_bytes=kind.dtype.itemsize, schema_bytes=len(schema))
    return HEAD.pack(*head) + schema


def entry(instrument_id: int, symbol: str) -> bytes:
    """Return an instrument's entry in a symbol table. Raises `BadDataError`."""
    try:
        text = symbol.encode()
    except UnicodeEncodeError as error:
        raise BadDataError(f"a symbol cannot be written as UTF-8: {error}") from error
    if len(text) > MAX_SYMBOL_BYTES:
        raise BadDataError(f"symbol {symbol!r} has more than {MAX_SYMBOL_BYTES} bytes")
    return ENTRY.pack(instrument_id, len(text)) + text
