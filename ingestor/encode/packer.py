"""Runs of records to packed messages (the format is described in `ingestor.encode.packed`).

Nothing here is done per record in Python: what the rows of a block have in common (where the
rtype changes, whether there is one instrument) is found once per block with array operations,
each message costs a few slices, headers are kept and used again, and the rows' bytes are not
copied: frames hold views of them.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate, islice
from typing import Final, NamedTuple

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
        pieces = list(islice(_pieces(runs, self._headers), max(max_messages, 0)))
        check_sequences(first_sequence, len(pieces))
        parts: list[bytes | memoryview] = []
        counts: Counter[int] = Counter()
        for sequence, piece in enumerate(pieces, first_sequence):
            header, rows = piece.header(), piece.rows()
            payload_bytes = len(header) + len(rows)
            head = frame_head(piece.kind.subject, reply, sequence, payload_bytes)
            parts += head + header, rows, CRLF
            counts[piece.kind.rtype] += piece.stop - piece.start
        row_counts = accumulate(piece.stop - piece.start for piece in pieces)
        return Frames(parts, np.fromiter(row_counts, np.int64, len(pieces)), counts)


class _Piece(NamedTuple):
    """Rows `start` to `stop` of a block, all of one type: what becomes one message."""

    block: _PackingBlock
    kind: EventType
    start: int
    stop: int

    def header(self) -> bytes:
        template = self.block.header_template(self)
        count = _ROW_COUNT.pack(self.stop - self.start)
        return template[:_ROW_COUNT_AT] + count + template[_ROW_COUNT_AT + _ROW_COUNT.size :]

    def rows(self) -> memoryview:
        size = self.block.row_bytes
        return self.block.data[self.start * size : self.stop * size]


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
        self._headers = headers
        self._templates: dict[int, bytes] = {}
        """By rtype, where there is one instrument."""

    def pieces(self, start: int, stop: int) -> Iterator[_Piece]:
        """Cut a run where its rtype changes and at the bounds of a message."""
        at = bisect_right(self._bounds, start) - 1
        limit = min(MAX_ROWS, MAX_ROW_BYTES // self.row_bytes)
        while start < stop:
            end = min(stop, start + limit, self._bounds[at + 1])
            yield _Piece(self, self._kinds[at], start, end)
            at += end == self._bounds[at + 1]
            start = end

    def header_template(self, piece: _Piece) -> bytes:
        """Return the header of a piece, but for its row count."""
        kind = piece.kind
        if self._sole_id is None:
            ids = np.unique(self._ids[piece.start : piece.stop])
            return self._headers.template(kind, self._block, ids)
        template = self._templates.get(kind.rtype)
        if template is None:
            template = self._headers.template(kind, self._block, self._sole_id)
            self._templates[kind.rtype] = template
        return template


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


def _pieces(runs: Runs, headers: _Headers) -> Iterator[_Piece]:
    blocks = [_PackingBlock(block, headers) for block in runs.blocks]
    columns = (runs.block_of_run.tolist(), runs.start.tolist(), runs.stop.tolist())
    for index, start, stop in zip(*columns, strict=True):
        yield from blocks[index].pieces(start, stop)


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
