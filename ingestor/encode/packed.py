r"""The packed encoding: many records of one subject in one message, as raw dtype rows.

For consumers that want millions of events a second: a message is a short header that says what
follows, and then the records exactly as `ingestor.records` lays them out (for futures, the bytes
of DBN's own structs). A program in any language can read it from this page alone.

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
`ingestor.records` (a price of 2**63-1, a sequence of 2**64-1, an exchange of -1).

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
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from ingestor.blocks import Source
from ingestor.errors import BadDataError
from ingestor.records import EVENT_TYPE_BY_RTYPE, EventType, Records
from ingestor.symbols import SymbolTable

MAGIC: Final = b"\xabMDP"
VERSION: Final = 1

MAX_ROW_BYTES: Final = 128 * 1024
"""Rows of one message in bytes."""

MAX_ROWS: Final = 2048

MAX_SYMBOL_BYTES: Final = 255
"""With `MAX_ROWS` this keeps the symbol table, hence the message, well under 1 MiB."""

ALIGNMENT: Final = 8

HEAD: Final = struct.Struct("<4sBBHIIIBBH")
"""The fixed part of the header; its fields are those of `Head`."""

ENTRY: Final = struct.Struct("<IB")
"""What an entry of the symbol table opens with: instrument_id, symbol_bytes."""


class Head(NamedTuple):
    """The fixed part of the header, in the order of its bytes."""

    magic: bytes
    version: int
    rtype: int
    row_bytes: int
    row_count: int
    header_bytes: int
    symbol_count: int
    schema_bytes: int
    source_bytes: int
    zero: int


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


def decode_packed(payload: bytes) -> PackedBlock:
    """Read a packed message; `records` is a view of `payload`. Raises `BadDataError`."""
    head = _read_head(payload)
    kind = _event_type(head)
    _require(
        len(payload) == head.header_bytes + head.row_count * head.row_bytes,
        f"has {len(payload)} bytes, not what its header says",
    )
    texts = _Texts(payload[HEAD.size : head.header_bytes])
    schema = texts.take_text(head.schema_bytes)
    _require(schema == kind.schema, f"has schema {schema!r}, expected {kind.schema!r}")
    source = _source(texts.take_text(head.source_bytes))
    symbols = _read_symbols(texts, head.symbol_count)
    texts.finish()
    records = np.frombuffer(payload, kind.dtype, head.row_count, head.header_bytes)
    _check_rows(records, kind, symbols)
    return PackedBlock(kind, records, symbols, source)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadDataError(f"packed message {otherwise}")


def _read_head(payload: bytes) -> Head:
    _require(is_packed(payload), "does not begin with its magic")
    _require(len(payload) >= HEAD.size, "ends within its header")
    head = Head(*HEAD.unpack_from(payload))
    _require(head.version == VERSION, f"has format version {head.version}, known is {VERSION}")
    _require(head.zero == 0, "has bits set that are reserved")
    _require(
        HEAD.size <= head.header_bytes <= len(payload) and head.header_bytes % ALIGNMENT == 0,
        f"has a header of {head.header_bytes} bytes in {len(payload)}",
    )
    _require(head.row_count > 0, "has no rows")
    return head


def _event_type(head: Head) -> EventType:
    kind = EVENT_TYPE_BY_RTYPE.get(head.rtype)
    if kind is None or kind.dtype.itemsize != head.row_bytes:
        raise BadDataError(
            f"packed message has rtype {head.rtype:#04x} in rows of {head.row_bytes} bytes"
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
    symbols: dict[int, str] = {}
    last = -1
    for _ in range(count):
        instrument_id, size = ENTRY.unpack(texts.take(ENTRY.size))
        _require(instrument_id > last, "has a symbol table that is not in order")
        symbols[instrument_id] = texts.take_text(size)
        last = instrument_id
    return symbols


def _check_rows(records: Records, kind: EventType, symbols: dict[int, str]) -> None:
    _require(bool((records["rtype"] == kind.rtype).all()), f"has rows that are no {kind.name}")
    listed = np.isin(records["instrument_id"], np.array(list(symbols), dtype=np.uint32))
    _require(bool(listed.all()), "has rows whose instrument its symbol table does not list")
