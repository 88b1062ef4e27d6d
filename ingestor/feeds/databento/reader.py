"""One DBN file, front to back: its header, then its records a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from ingestor.feeds.databento.buffer import ReadBuffer
from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.framing import (
    MAX_RECORD_BYTES,
    TS_OUT_BYTES,
    WORD_BYTES,
    Framed,
    Layout,
    frame,
)
from ingestor.feeds.databento.header import Header, header_steps
from ingestor.files.streams import ByteStream
from ingestor.model.errors import BadDataError
from ingestor.model.records import FUTURES_TRADE, MBP10, Records, RType

RTYPES: Final = {DbnSchema.TRADES: RType.FUTURES_TRADE, DbnSchema.MBP10: RType.MBP10}
DTYPES: Final = {DbnSchema.TRADES: FUTURES_TRADE, DbnSchema.MBP10: MBP10}

MIN_BLOCK_BYTES: Final = MAX_RECORD_BYTES
"""Any record, of whatever type, fits in a chunk."""


class DbnReader:
    """The records of one schema in an open file.

    Attributes:
        header: What the file says about itself; there once it is opened.
        found: Records of any kind in the chunks handed out so far.
    """

    def __init__(self, stream: ByteStream, path: Path, schema: DbnSchema, block_bytes: int) -> None:
        """Take an open file of which nothing has been read."""
        self._stream = stream
        self._path = path
        self._schema = schema
        self._block_bytes = block_bytes
        self._buffer = ReadBuffer(stream, block_bytes)
        self.header: Header
        self._layout = Layout(DTYPES[schema], RTYPES[schema], DTYPES[schema].itemsize)
        self.found = 0

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far."""
        return self._stream.position

    @property
    def nothing(self) -> Records:
        """No records."""
        return np.empty(0, self._layout.dtype)

    @property
    def other_feeds(self) -> frozenset[int]:
        """Types of records that are for other feeds: a file without a schema may hold them."""
        mine = {self._layout.rtype}
        return frozenset() if self.header.schema else frozenset(RTYPES.values()) - mine

    def open(self) -> Iterator[None]:
        """Read the header; yield now and then where it takes long.

        Raises `BadDataError` when it is not one of this schema.
        """
        header = yield from header_steps(self._buffer, self._path)
        self.header = _checked(header, self._path, self._schema)
        if self.header.ts_out:
            self._layout = replace(self._layout, stride=self._layout.stride + TS_OUT_BYTES)

    def chunks(self) -> Iterator[Framed]:
        """Yield at most `block_bytes` of the file at a time, as whole records.

        A chunk without any is a sign of life. A chunk is valid until the next one is asked for.
        `found` still counts what came before the chunk while it is looked at. Raises `BadDataError`
        after the last whole record when the file does not end there.
        """
        while (chunk := self._next_chunk()).found or (self._buffer.waiting and not chunk.broken):
            yield chunk
            self._buffer.consume(chunk.consumed)
            self.found += chunk.found
        self._check_end(chunk)

    def _next_chunk(self) -> Framed:
        self._buffer.fill()
        return frame(self._buffer.view(self._block_bytes), self._layout)

    def _check_end(self, rest: Framed) -> None:
        trouble = self._stream.failure
        held = self._buffer.view(MAX_RECORD_BYTES)
        if rest.broken:
            trouble = f"holds a record of impossible length ({held[0] * WORD_BYTES} bytes)"
        elif trouble is None and held:
            trouble = f"ends inside a record ({len(held)} of {held[0] * WORD_BYTES} bytes)"
        if trouble is not None:
            raise BadDataError(
                f"{self._path} {trouble}; {self.found} whole records were read before, "
                f"up to byte {self._buffer.offset} of its decompressed content"
            )


def _checked(header: Header, path: Path, schema: DbnSchema) -> Header:
    """A header without a schema, as live captures have it, may hold any."""
    if header.schema not in (None, schema):
        raise BadDataError(f"{path} holds schema {header.schema}, not {schema} as its name says")
    return header
