"""One DBN file, front to back: its header, then its records a chunk at a time.

Bytes go through one buffer: they are read behind those not yet consumed, and what is left of them
moves to the front before the next read, so a file of any size passes through the same few hundred
KiB. Nearly every file holds records of one type and size, and two bytes of each (length in 4-byte
words, rtype) prove it with one strided comparison: then the bytes *are* the array. A live capture
mixes types; there the lengths are walked one by one, which costs Python time per record, less than
its decompression. The send time that ``ts_out`` files append to each record is cut off.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ingestor.feeds.databento.files import DbnSchema
from ingestor.feeds.databento.header import PRELUDE_BYTES, Bytes, DbnHeader, header_bytes, header_of
from ingestor.files.streams import ByteStream, ReadBuffer
from ingestor.model.blocks import Int64s
from ingestor.model.errors import BadDataError
from ingestor.model.records import FUTURES_TRADE, HEAD, MBP10, Records, RType
from ingestor.model.units import NS_PER_S

RTYPES: Final = {DbnSchema.TRADES: RType.FUTURES_TRADE, DbnSchema.MBP10: RType.MBP10}
DTYPES: Final = {DbnSchema.TRADES: FUTURES_TRADE, DbnSchema.MBP10: MBP10}

WORD_BYTES: Final = 4
MAX_RECORD_BYTES: Final = 255 * WORD_BYTES
"""What one byte of length can say; so any record, of whatever type, fits in a chunk of as much."""
TS_OUT_BYTES: Final = 8

SLACK_NS: Final = 60 * NS_PER_S
PROBES: Final = 64
"""Looks at a file, evenly spaced, that tell whether it is in order; bisecting takes 30 more."""

logger = logging.getLogger(__name__)


class ControlRType(IntEnum):
    """rtypes of the records that a gateway puts between the data.

    A capture holds them as they came. Each has a layout of version 1 and one of versions 2 and 3
    (Databento's ``SymbolMappingMsg``, ``ErrorMsg``, ``SystemMsg``,
    https://databento.com/docs/standards-and-conventions), told apart by their size:

        symbol mapping   v1  head 16, symbol in 22, symbol out 22, padding 4, start 8, end 8
                         v2  head 16, type 1, symbol in 71, type 1, symbol out 71, start 8, end 8
        error            v1  head 16, text 64
                         v2  head 16, text 302, code 1, is last 1
        system message   v1  head 16, text 64
                         v2  head 16, text 303, code 1

    Symbols and texts are C strings. With ``ts_out`` the send time stands behind all of this.
    """

    ERROR = 0x15
    SYMBOL_MAPPING = 0x16
    SYSTEM = 0x17


_IS_CONTROL: Final = np.isin(np.arange(256), list(ControlRType))

HEARTBEAT: Final = "Heartbeat"
"""Text of the system message that only says that the gateway is there."""

_HEAD_BYTES: Final = HEAD.itemsize
_INSTRUMENT_ID: Final = slice(4, 8)
_V1_BYTES: Final = 80
_MAPPING_V2_BYTES: Final = 176
_MAPPING_V1: Final = (slice(38, 60), slice(16, 38))
"""Where the symbol out and the symbol in stand."""
_MAPPING_V2: Final = (slice(89, 160), slice(17, 88))
_TEXT_V1: Final = slice(_HEAD_BYTES, 80)
_TEXT_V2_BYTES: Final = 320
_TEXT_V2: Final = slice(_HEAD_BYTES, 318)
"""Of both kinds: no text of a system message reaches its last byte, which is its final zero."""


def mapping_of(record: bytes) -> tuple[int, tuple[str, str]] | None:
    """Return the instrument id of a symbol mapping, and its symbols: out, then in.

    None when the record is too short or its symbols are no UTF-8.
    """
    if len(record) < _V1_BYTES:
        return None
    out, given = _MAPPING_V2 if len(record) >= _MAPPING_V2_BYTES else _MAPPING_V1
    try:
        names = _c_string(record[out]).decode(), _c_string(record[given]).decode()
    except UnicodeDecodeError:
        return None
    return int.from_bytes(record[_INSTRUMENT_ID], "little"), names


def text_of(record: bytes) -> str:
    """Return the text of an error or a system message; bytes that are no UTF-8 are replaced."""
    where = _TEXT_V2 if len(record) >= _TEXT_V2_BYTES else _TEXT_V1
    return _c_string(record[where]).decode(errors="replace")


def _c_string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a record looks like in the file: dtype, rtype and bytes from one to the next."""

    dtype: np.dtype[Any]
    rtype: int
    stride: int

    @property
    def words(self) -> int:
        """The record's own length field."""
        return self.stride // WORD_BYTES


@dataclass(frozen=True, slots=True)
class Framed:
    """What a buffer begins with.

    Attributes:
        records: Those of the wanted kind, in the file's order; a view of the buffer or a copy.
        numbers: int64, of each its place among all the records found, from 0.
        found: How many records of any kind there are.
        consumed: Bytes they take.
        others: Cause to places (int64, from 0), of the records left out.
        control: Place and bytes of each record that a gateway puts between the data.
        broken: True when the next record has a length that no record can have.
    """

    records: Records
    numbers: Int64s
    found: int
    consumed: int
    others: Mapping[str, Int64s]
    broken: bool
    control: Sequence[tuple[int, bytes]] = ()


def frame(data: memoryview, layout: Layout) -> Framed:
    """Find whole records in `data`, which begins with one.

    A shorter record of another kind at the very end may be left for the next call; only when
    nothing is found is there nothing whole.
    """
    # No copy: the array lies over the buffer that was decompressed into.
    matrix = np.frombuffer(data, np.uint8)
    count = len(matrix) // layout.stride
    # Length and rtype of every record, read as one little-endian word with a record's stride.
    heads: Any = np.ndarray((count,), "<u2", matrix, strides=(layout.stride,))
    if count and (heads == (layout.rtype << 8 | layout.words)).all():
        rows = matrix[: count * layout.stride].reshape(count, layout.stride)
        return Framed(_as_records(rows, layout), np.arange(count), count, rows.size, {}, False)
    return _walk(matrix, layout)


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
        self.header: DbnHeader
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
        # What is another feed's is no loss of this one, and is not told as one.
        mine = {self._layout.rtype}
        return frozenset() if self.header.schema else frozenset(RTYPES.values()) - mine

    def open(self) -> Iterator[None]:
        """Read the header; yield now and then where it takes long.

        Raises `BadDataError` when the file is no DBN file, ends inside its header, says in it what
        cannot be, or is of another schema.
        """
        content = bytearray()
        yield from self._buffer.read_to(content, PRELUDE_BYTES)
        size = header_bytes(content, self._path, self._stream.failure)
        yield from self._buffer.read_to(content, size)
        self.header = header_of(content, self._path, self._stream.failure)
        # A header without a schema, as live captures have it, may stand before any.
        if self.header.schema not in (None, self._schema):
            raise BadDataError(
                f"{self._path} holds schema {self.header.schema}, "
                f"not {self._schema} as its name says"
            )
        if self.header.ts_out:
            self._layout = replace(self._layout, stride=self._layout.stride + TS_OUT_BYTES)

    def pass_over(self, at_ns: int) -> int:
        """Go on before the first record with an event time at or after `at_ns`; to be filtered.

        Returns how many records were passed over: 0 where the file has to be read up to there.
        Call it once, after `open`.
        """
        first, stride = self._buffer.offset, self._layout.stride
        file = self._stream.searchable
        # A capture names its instruments between the records: none of that may be missed.
        if file is None or self.header.schema is None:
            logger.info("%s cannot be searched for a time: it is read up to there", self._path)
            return 0
        dtype, length = self._layout.dtype, stride // WORD_BYTES

        def recv_ns(place: int) -> int | None:
            data = file.peek(first + place * stride, dtype.itemsize)
            if len(data) < dtype.itemsize or data[0] != length or data[1] != self._layout.rtype:
                return None
            return int(np.frombuffer(data, dtype)["ts_recv_ns"][0])

        place = place_before(recv_ns, (file.size - first) // stride, at_ns)
        if place:
            file.jump(first + place * stride)
            self._buffer.drop(first + place * stride)
            self.found = place
        return place

    def chunks(self) -> Iterator[Framed]:
        """Yield at most `block_bytes` of the file at a time, as whole records.

        A chunk without any is a sign of life. A chunk is valid until the next one is asked for.
        `found` still counts what came before the chunk while it is looked at. Raises `BadDataError`
        after the last whole record when the file does not end there.
        """
        while True:
            self._buffer.fill()
            chunk = frame(self._buffer.view(self._block_bytes), self._layout)
            # An empty chunk of a stream that waits is handed on: a file of empty frames is alive
            # too.
            if not chunk.found and (chunk.broken or not self._buffer.waiting):
                break
            yield chunk
            # Only now: the records of the chunk are a view of these bytes.
            self._buffer.consume(chunk.consumed)
            self.found += chunk.found
        self._check_end(chunk)

    def _check_end(self, rest: Framed) -> None:
        trouble = self._stream.failure
        # Fewer bytes than a record's own length are left, or its length cannot be.
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


def place_before(recv_ns: Callable[[int], int | None], records: int, at_ns: int) -> int:
    """Return a place before which no event is at or after `at_ns`; 0 where that cannot be known.

    `recv_ns` returns when the record at a place was received, None where there is no such record.

    By bisection, since the vendor writes a file in the order of receipt. Event times may step back,
    by hours in the snapshot at the front of a depth file; times of receipt do not. No record is
    received before it was made, but for clocks that disagree: `SLACK_NS` is left for that. So every
    event at or after a time stands behind the last record that was received `SLACK_NS` earlier;
    what is between is read and filtered. A file that is not in order is read whole.
    """
    probes = sorted({records * number // PROBES for number in range(PROBES)}) if records else []
    times = [recv_ns(place) for place in probes]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(after < before for before, after in pairwise(known)):
        return 0
    wanted_ns = at_ns - SLACK_NS
    # Between two of the probes, or behind the last.
    number = bisect_left(known, wanted_ns)
    low = probes[number - 1] if number else 0
    high = probes[number] if number < len(probes) else records
    while low < high:
        middle = (low + high) // 2
        if (time := recv_ns(middle)) is None:
            return 0
        low, high = (middle + 1, high) if time < wanted_ns else (low, middle)
    return low


def rtype_cause(rtype: int) -> str:
    """Return the cause under which records of a type are left out."""
    return f"rtype 0x{rtype:02X}"


def _as_records(rows: Bytes, layout: Layout) -> Records:
    """Rows of `stride` bytes as records; without ``ts_out`` this is a view."""
    if layout.stride == layout.dtype.itemsize:
        return rows.reshape(-1).view(layout.dtype)
    # The send time ends each record, so what is kept is a rectangle of bytes, copied once.
    kept = rows[:, : layout.dtype.itemsize].copy()
    # The length field says 8 bytes more than what goes on from here; consumers check it.
    kept[:, 0] = layout.dtype.itemsize // WORD_BYTES
    return kept.reshape(-1).view(layout.dtype)


def _walk(data: Bytes, layout: Layout) -> Framed:
    starts, end, broken = _starts(data.tobytes())
    # From here on whole arrays again: Python sees each record once, in `_starts`.
    at = np.array(starts, np.int64)
    words, rtypes = data[at], data[at + 1]
    kind = rtypes == layout.rtype
    wanted = kind & (words == layout.words)
    control = _IS_CONTROL[rtypes]
    left_out = set(rtypes[~(kind | control)].tolist())
    others = {rtype_cause(value): rtypes == value for value in left_out}
    others["unexpected record length"] = kind & ~wanted
    records: Records = np.empty(0, layout.dtype)
    if wanted.any():
        records = _as_records(sliding_window_view(data, layout.stride)[at[wanted]], layout)
    return Framed(
        records,
        np.flatnonzero(wanted),
        len(starts),
        end,
        {cause: np.flatnonzero(mask) for cause, mask in others.items() if mask.any()},
        broken,
        [
            (place, data[at[place] : at[place] + int(words[place]) * WORD_BYTES].tobytes())
            for place in np.flatnonzero(control).tolist()
        ],
    )


def _starts(data: bytes) -> tuple[list[int], int, bool]:
    """Return where each whole record begins, where the last ends, whether the next is broken."""
    starts: list[int] = []
    at, end = 0, len(data)
    while at < end:
        size = data[at] * WORD_BYTES
        # A length below its own header's would never get on: a 0 would loop forever.
        if size < HEAD.itemsize:
            return starts, at, True
        # Cut by the end of the buffer, not broken: the next call begins with it.
        if at + size > end:
            break
        starts.append(at)
        at += size
    return starts, at, False
