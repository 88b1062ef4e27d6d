"""What the front of a DBN file says: schema, dataset and days; bounded bytes of it.

Opening thousands of files is what costs at the start of a run, so there are two looks. The first
reads `GLANCE_BYTES` and the fixed fields at the front of every version's metadata. The second reads
`READ_BYTES` and what is needed to tell two files apart that may hold the same data: the instruments
and the first record. Where a header is longer than that (all symbols of a venue) the file counts
as holding any instrument.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from struct import Struct
from typing import Final

from zstandard import ZstdDecompressor, ZstdError

from ingestor.feeds.databento.buffer import ReadBuffer
from ingestor.feeds.databento.header import MAGIC, PRELUDE_BYTES, SCHEMAS, VERSIONS, read_header
from ingestor.files.zstd import is_zstd
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError, NoDataError
from ingestor.model.units import NS_PER_S

GLANCE_BYTES: Final = 4 * 1024
READ_BYTES: Final = 128 * 1024
MAX_FRONT_BYTES: Final = 1024 * 1024
"""What these may decompress to; the rest is not looked at."""
MAX_SPAN_DAYS: Final = 36_600
"""A hundred years; a header that claims more says nothing about its days."""

_BUFFER_BYTES: Final = 64 * 1024
_FIXED: Final = Struct("<16sHQQ")
"""dataset, schema, start, end: the same in versions 1 to 3 (see `header`)."""
_NO_SCHEMA: Final = 0xFFFF
_RECORD_BYTES: Final = 48
_TS_EVENT: Final = slice(8, 16)
_NS_PER_DAY: Final = 86_400 * NS_PER_S
_EPOCH: Final = dt.date(1970, 1, 1)
_LENGTH: Final = slice(4, 8)
_OPENINGS: Final = tuple(MAGIC + bytes([version]) for version in VERSIONS)


@dataclass(frozen=True, slots=True)
class Front:
    """What a file says about itself.

    Attributes:
        dataset: Such as ``GLBX.MDP3``.
        schema: Databento's name; None in a live capture.
        first: UTC day of its start; None where the header leaves it open.
        last: UTC day of its last nanosecond; None likewise.
    """

    dataset: str
    schema: str | None
    first: dt.date | None
    last: dt.date | None


@dataclass(frozen=True, slots=True)
class Contents:
    """By what a file is told from another of its schema and days.

    Attributes:
        instruments: Ids, or symbols where it maps none; None when it may hold any.
        names: Those and their symbols; empty when it may hold any.
        record: The first bytes behind the header, empty when they are not looked at.
    """

    instruments: frozenset[str] | None
    names: frozenset[str]
    record: bytes

    @property
    def date(self) -> dt.date | None:
        """UTC day of the first record's ``ts_event``; None where it has none."""
        ts_ns = int.from_bytes(self.record[_TS_EVENT], "little")
        return _date(ts_ns) if 0 < ts_ns <= MAX_TIME_NS else None


def front_of(path: Path) -> Front:
    """Glance at a file. Raises `NoDataError`, `BadDataError` as its reader would."""
    content = _Head(path, GLANCE_BYTES).content
    if len(content) < PRELUDE_BYTES + _FIXED.size:
        content = _Head(path, READ_BYTES).content
    if len(content) < PRELUDE_BYTES + _FIXED.size or not content.startswith(_OPENINGS):
        read_header(ReadBuffer(_Head(path, READ_BYTES), _BUFFER_BYTES), path)
        raise BadDataError(f"{path} has no DBN header in its first {READ_BYTES} bytes")
    dataset, schema, start, end = _FIXED.unpack_from(content, PRELUDE_BYTES)
    first, last = _span(start, end)
    return Front(dataset.rstrip(b"\0").decode(errors="replace"), _schema(schema), first, last)


def contents_of(path: Path) -> Contents:
    """Look further into a file; one that cannot be read so far may hold anything."""
    try:
        head = _Head(path, READ_BYTES)
        length = int.from_bytes(head.content[_LENGTH], "little")
        if head.is_cut and PRELUDE_BYTES + length > len(head.content):
            return Contents(None, frozenset(), b"")
        buffer = ReadBuffer(head, _BUFFER_BYTES)
        header = read_header(buffer, path)
    except (BadDataError, NoDataError):
        return Contents(None, frozenset(), b"")
    ones, others = frozenset(header.mappings.symbols_in), frozenset(header.mappings.symbols_out)
    ids = ones if header.stype_in == "instrument_id" else others
    instruments = (ids - {""}) or frozenset(header.symbols) or None
    buffer.fill()
    return Contents(instruments, ones | others, bytes(buffer.view(_RECORD_BYTES)))


class _Head:
    """The front of a file as a stream of its decompressed bytes.

    Attributes:
        content: These bytes.
        is_cut: Whether the file goes on behind them.
    """

    slack = 0
    position = 0

    def __init__(self, path: Path, read_bytes: int) -> None:
        self.failure: str | None = None
        self._given = 0
        try:
            with path.open("rb", buffering=0) as file:
                raw = file.read(read_bytes)
        except OSError as error:
            raise NoDataError(f"{path} cannot be opened: {error.strerror}") from error
        self.content = self._decompressed(raw) if is_zstd(raw) else raw
        self.is_cut = len(raw) == read_bytes or len(self.content) == MAX_FRONT_BYTES

    def read_some(self, room: memoryview) -> int:
        """See `ByteStream`."""
        piece = self.content[self._given : self._given + len(room)]
        room[: len(piece)] = piece
        self._given += len(piece)
        return len(piece)

    def _decompressed(self, raw: bytes) -> bytes:
        found = bytearray()
        source = ZstdDecompressor().stream_reader(BytesIO(raw), read_across_frames=True)
        try:
            while len(found) < MAX_FRONT_BYTES and (
                piece := source.read1(MAX_FRONT_BYTES - len(found))
            ):
                found += piece
                if _holds_front(found):
                    break
        except ZstdError as error:
            self.failure = f"holds corrupt zstd data in its first {len(raw)} bytes ({error})"
        return bytes(found)


def _holds_front(content: bytearray) -> bool:
    """Whether the header and a first record are there."""
    length = int.from_bytes(content[_LENGTH], "little")
    return len(content) >= PRELUDE_BYTES + length + _RECORD_BYTES > PRELUDE_BYTES + _RECORD_BYTES


def _schema(number: int) -> str | None:
    if number == _NO_SCHEMA:
        return None
    return SCHEMAS[number] if number < len(SCHEMAS) else f"schema {number}"


def _span(start_ns: int, end_ns: int) -> tuple[dt.date | None, dt.date | None]:
    first = _date(start_ns) if 0 < start_ns <= MAX_TIME_NS else None
    last = _date(end_ns - 1) if 0 < end_ns <= MAX_TIME_NS else None
    if first is None or last is None or not 0 <= (last - first).days <= MAX_SPAN_DAYS:
        return first, None
    return first, last


def _date(ts_ns: int) -> dt.date:
    return _EPOCH + dt.timedelta(days=ts_ns // _NS_PER_DAY)
