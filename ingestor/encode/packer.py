"""Runs of records to packed messages (the format is described in `ingestor.encode.packed`).

Nothing here is done per record in Python: what the rows of a block have in common (where the
rtype changes, whether there is one instrument) is found once per block with array operations.
Where feeds interleave a message holds some ten rows, so a message itself must cost little: one
piece, one header that was made before for as many rows, one format. The rows of a large message
are not copied: frames hold views of them.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Final

import numpy as np
import numpy.typing as npt

from ingestor.blocks import Block, Frames, Reply, Runs
from ingestor.encode.packed import (
    ALIGNMENT,
    ENTRY,
    HEAD,
    MAGIC,
    MAX_ROW_BYTES,
    MAX_ROWS,
    MAX_SYMBOL_BYTES,
    VERSION,
    Head,
)
from ingestor.encode.reference import CRLF, check_sequences, frame_head
from ingestor.errors import BadDataError
from ingestor.records import EventType, split_by_rtype
from ingestor.symbols import SymbolTable, symbol_of

HEADERS_HELD: Final = 64
"""Most headers kept, each with its symbol table: a live feed makes a new table for every addition,
and a table of thousands of options takes some hundred KiB."""

VIEW_FROM_BYTES: Final = 16 * 1024
"""Rows of so many bytes are sent from where they lie; fewer are copied faster than listed."""

_ROW_COUNT_AT: Final = 8
_ROW_COUNT: Final = struct.Struct("<I")


class PackedEncoder:
    """Many records of one subject per message. Implements `Encoder`."""

    def __init__(self) -> None:
        self._headers = _Headers()

    def encode(self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int) -> Frames:
        """Encode rows from the front of `runs` into at most `max_messages` messages.

        Raises `BadDataError` for an unknown rtype and for a symbol that does not fit the table,
        `ValueError` when the sequence runs out of digits.
        """
        parts: list[bytes | memoryview] = []
        stops: list[int] = []
        rows, sequence = 0, first_sequence
        for block, kind, start, stop in islice(_pieces(runs, self._headers), max(max_messages, 0)):
            header = block.header(kind, start, stop)
            data = block.data[start * block.row_bytes : stop * block.row_bytes]
            head = frame_head(kind.subject, reply, sequence, len(header) + len(data))
            if len(data) < VIEW_FROM_BYTES:
                parts.append(b"".join((head, header, data, CRLF)))
            else:
                parts += head + header, data, CRLF
            rows += stop - start
            stops.append(rows)
            sequence += 1
        check_sequences(first_sequence, len(stops))
        counts = runs.part(0, rows).counts_by_rtype()
        return Frames(parts, np.array(stops, np.int64), counts)


class _PackingBlock:
    """A block while it is packed: what its rows have in common is found once."""

    def __init__(self, block: Block, headers: _Headers) -> None:
        records = np.ascontiguousarray(block.records)
        stretches = list(split_by_rtype(records))
        self._block = block
        self.row_bytes = records.dtype.itemsize
        self.data = records.view(np.uint8).data
        self._kinds = [kind for kind, _ in stretches]
        self._bounds = [0, *np.cumsum([len(rows) for _, rows in stretches]).tolist()]
        self._ids = records["instrument_id"]
        self._sole_id = self._ids[:1] if (self._ids == self._ids[:1]).all() else None
        self._limit = min(MAX_ROWS, MAX_ROW_BYTES // self.row_bytes)
        self._headers = headers
        self._made: dict[tuple[int, int], bytes] = {}
        """Headers by rtype and number of rows, where there is one instrument."""

    def cut(self, start: int, stop: int) -> tuple[EventType, int]:
        """Return what the message from row `start` on is made of, and where it ends."""
        at = bisect_right(self._bounds, start) - 1
        return self._kinds[at], min(stop, start + self._limit, self._bounds[at + 1])

    def header(self, kind: EventType, start: int, stop: int) -> bytes:
        """Return the header of the message with these rows, all of one kind."""
        if self._sole_id is None:
            ids = np.unique(self._ids[start:stop])
            return _counted(self._headers.template(kind, self._block, ids), stop - start)
        key = kind.rtype, stop - start
        if (header := self._made.get(key)) is None:
            template = self._headers.template(kind, self._block, self._sole_id)
            header = self._made[key] = _counted(template, stop - start)
        return header


def _counted(template: bytes, rows: int) -> bytes:
    count = _ROW_COUNT.pack(rows)
    return template[:_ROW_COUNT_AT] + count + template[_ROW_COUNT_AT + _ROW_COUNT.size :]


class _Headers:
    """Headers without row counts, as they were made: those of one instrument's rows recur."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, str, int, bytes], tuple[SymbolTable, bytes]] = {}

    def template(self, kind: EventType, block: Block, ids: npt.NDArray[np.uint32]) -> bytes:
        """Return the header of rows with these instruments, ascending."""
        # A symbol table that is kept beside its header cannot lose its identity to another one.
        key = (id(block.symbols), block.source, kind.rtype, ids.tobytes())
        if key not in self._made:
            if len(self._made) >= HEADERS_HELD:
                self._made.clear()
            self._made[key] = (block.symbols, _header(kind, block, ids.tolist()))
        return self._made[key][1]


def _pieces(runs: Runs, headers: _Headers) -> Iterator[tuple[_PackingBlock, EventType, int, int]]:
    """Cut runs where the rtype changes and at the bounds of a message."""
    blocks = [_PackingBlock(block, headers) for block in runs.blocks]
    columns = (runs.block_of_run.tolist(), runs.start.tolist(), runs.stop.tolist())
    for index, start, stop in zip(*columns, strict=True):
        block = blocks[index]
        while start < stop:
            kind, end = block.cut(start, stop)
            yield block, kind, start, end
            start = end  # noqa: PLW2901


def _header(kind: EventType, block: Block, instrument_ids: list[int]) -> bytes:
    """Return a whole header with row count zero; `instrument_ids` ascend."""
    schema, source = kind.schema.encode(), block.source.value.encode()
    symbols = b"".join(
        _entry(number, symbol_of(block.symbols, number)) for number in instrument_ids
    )
    texts = schema + source + symbols
    texts += bytes(-(HEAD.size + len(texts)) % ALIGNMENT)
    head = Head(
        magic=MAGIC,
        version=VERSION,
        rtype=kind.rtype,
        row_bytes=kind.dtype.itemsize,
        row_count=0,
        header_bytes=HEAD.size + len(texts),
        symbol_count=len(instrument_ids),
        schema_bytes=len(schema),
        source_bytes=len(source),
        zero=0,
    )
    return HEAD.pack(*head) + texts


def _entry(instrument_id: int, symbol: str) -> bytes:
    try:
        text = symbol.encode()
    except UnicodeEncodeError as error:
        raise BadDataError(f"a symbol cannot be written as UTF-8: {error}") from error
    if len(text) > MAX_SYMBOL_BYTES:
        raise BadDataError(f"symbol {symbol!r} has more than {MAX_SYMBOL_BYTES} bytes")
    return ENTRY.pack(instrument_id, len(text)) + text
