"""The reference packed encoder (the format is described in `ingestor.encode.packed`).

It says what the bytes are and serves where there is no compiler; the compiled encoder must equal
it byte for byte, and takes the pieces of its headers from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

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
from ingestor.encode.reference import CRLF, check_payload, check_sequences, frame_head
from ingestor.model.blocks import Block, Frames, Reply, Runs
from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.model.errors import BadDataError
from ingestor.model.records import EventType, Records, split_by_rtype
from ingestor.model.symbols import symbol_of


class PackedEncoder:
    """Many records of one subject per message. Implements `Encoder`."""

    def __init__(self) -> None:
        self.max_payload_bytes = MAX_PAYLOAD_BYTES

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
            limit = _row_limit(kind.dtype.itemsize, max_bytes)
            start = 0
            while start < len(records):
                most = records[start : start + limit]
                rows = fitting_rows(kind, block, most, max_bytes)
                yield block, kind, most[:rows]
                start += rows


def _row_limit(row_bytes: int, max_bytes: int) -> int:
    """Return how many rows a message of `max_bytes` holds at most, whatever its header, or 1."""
    return max(1, min(MAX_ROWS, MAX_ROW_BYTES // row_bytes, (max_bytes - HEAD.size) // row_bytes))


def fitting_rows(kind: EventType, block: Block, records: Records, max_bytes: int) -> int:
    """Return how many of these rows, from the front, fit one message with header and symbols.

    Raises `BadDataError` where not even one does.
    """
    ids, first = np.unique(records["instrument_id"], return_index=True)
    texts = np.zeros(len(records), np.int64)
    entries = (entry(number, symbol_of(block.symbols, number)) for number in ids.tolist())
    texts[first] = list(map(len, entries))
    header = HEAD.size + len(kind.schema) + len(block.source.value) + np.cumsum(texts)
    header += -header % ALIGNMENT
    sizes = header + kind.dtype.itemsize * np.arange(1, len(records) + 1)
    check_payload(int(sizes[0]), max_bytes)
    return int(np.searchsorted(sizes, max_bytes, "right"))


def _header(kind: EventType, block: Block, records: Records) -> bytes:
    """Return a whole header of rows of one type."""
    numbers = np.unique(records["instrument_id"]).tolist()
    source = block.source.value.encode()
    texts = b"".join(entry(number, symbol_of(block.symbols, number)) for number in numbers)
    header = opening(kind) + source + texts
    header += bytes(-len(header) % ALIGNMENT)
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
    head = Head(
        magic=MAGIC,
        version=VERSION,
        rtype=kind.rtype,
        row_bytes=kind.dtype.itemsize,
        row_count=0,
        header_bytes=0,
        symbol_count=0,
        schema_bytes=len(schema),
        source_bytes=0,
        zero=0,
    )
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
