r"""The journal's format: what one segment file is, byte by byte.

A journal keeps what the vendor sent, not what became of it: each frame exactly as it was received,
when, and over which connection. All that decides how it is decoded stands in the header, so the
decoder that reads the journal says what the live one said.

A segment is a header and then entries, only ever appended to. Nothing points forward and nothing
is written again, so a file is sound wherever it is cut: what was whole before the cut still is. An
entry is believed when its checksum agrees, and its checksum starts from the header's: one from
another file, left behind on the disk or held by a frame, is none of this file's.

What follows a damaged entry need not be lost. Entries open with a mark that begins no UTF-8 text;
a reader goes on at the next mark whose entry agrees with its checksum. Entries are numbered
along the run, so whoever reads knows how many frames are missing, whatever the cause: damage, a
lost file, or a recorder that could not keep up.

A file that is removed, renamed or cut while it is written is followed by one with the same header,
which stands for the rest of the segment.

A *run* is one process of one feed. It begins a segment when it starts, when one is full, and
when the date changes in New York: there, since midnight UTC lies in the middle of a session (it is
19:00 in New York in winter, an hour before stocks close) and no session crosses midnight there.

All numbers are unsigned and little-endian.

====== ===== ===================================================================================
offset bytes field of the header
====== ===== ===================================================================================
0      4     magic ``AB 4A 4E 4C`` (``\xabJNL``)
4      1     version of this format: 1
5      1     market: 1 stocks, 2 options
6      2     header_bytes: offset of the first entry
8      8     run_ns: when the first frame of the run was received; the name of the run
16     8     late_after_ns: a trade reported so much later than it was made has no aggressor
24     4     date in New York as the number YYYYMMDD
28     4     part: which segment of its run this is, from 1
32     4     connection: of the first entry
36     2     roots_bytes
38     2     zero
40     ...   roots of the options that were kept, ASCII, commas between; none for stocks
...    4     checksum: CRC-32 of everything before
====== ===== ===================================================================================

====== ===== ===================================================================================
offset bytes field of an entry
====== ===== ===================================================================================
0      4     mark ``AB 46 52 4D`` (``\xabFRM``)
4      4     checksum: CRC-32 of all bytes after it, starting from the header's checksum
8      4     payload_bytes
12     4     connection: 1, 2, ... within the run; 0 for a note
16     8     recv_ns: when its bytes were read, ns UTC
24     8     number of the frame within the run, from 0; also those not recorded are counted
32     ...   payload: the frame as it was received
====== ===== ===================================================================================

A *note* is no frame but says what the feed did, since it decides what of the frames was taken:
``null`` where a connection begins, and a JSON array of the names that are asked for on it.

Reading back is bounded. `EntryReader` passes over whatever does not agree with its checksum, up to
the next entry that does. While more bytes may come, an entry that is not all there is waited for;
at the end nothing is, so an entry whose length was damaged hides nothing that stands behind it. A
checksum that disagrees was computed in vain, and bytes made up of marks could ask for one of 16 MiB
at every fourth byte. So `SEARCH_FACTOR` bytes are checked in vain for every byte that is read; a
place that would take more is believed to be no entry. And whoever reads hears from here while many
places are looked at.
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple
from zlib import crc32

import msgspec

from ingestor.model.errors import BadDataError

MAGIC: Final = b"\xabJNL"
MARK: Final = b"\xabFRM"
VERSION: Final = 1

MAX_ROOTS_BYTES: Final = 4096
MAX_PAYLOAD_BYTES: Final = 16 * 1024 * 1024
"""Longest frame that is kept; the longest seen are some 100 KB."""

HEADER: Final = struct.Struct("<4sBBHQQIIIHH")
CHECKSUM: Final = struct.Struct("<I")
HEAD: Final = struct.Struct("<4sIIIQQ")
_COVERED: Final = struct.Struct("<IIQQ")
CHECKED_FROM: Final = HEAD.size - _COVERED.size
"""Offset in an entry from which its checksum covers it."""

_NOTES: Final[msgspec.json.Decoder[list[str] | None]] = msgspec.json.Decoder(list[str] | None)

MAX_HEADER_BYTES: Final = HEADER.size + MAX_ROOTS_BYTES + CHECKSUM.size

SEARCH_FACTOR: Final = 8
SEARCH_AT_FIRST_BYTES: Final = 4 * MAX_PAYLOAD_BYTES
"""What may be checked in vain, for every byte that is read and from the start."""

PLACES_AT_ONCE: Final = 4096
"""Places that are looked at in vain before `EntryReader.take` returns for a moment."""

_MARK_REST: Final = len(MARK) - 1
"""Bytes at the end that may turn out to be the beginning of a mark."""

NOTE: Final = 0
"""The connection of an entry that is a note."""


class Market(IntEnum):
    """Whose frames a segment holds."""

    STOCKS = 1
    OPTIONS = 2

    @property
    def feed_name(self) -> str:
        """What the feed is called: ``stocks`` or ``options``."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a segment opens with; the fields are those of the table above."""

    market: Market
    run_ns: int
    late_after_ns: int
    date: dt.date
    part: int
    connection: int
    roots: tuple[str, ...] = ()


class Entry(NamedTuple):
    """One frame, when it was received (ns UTC), over which connection, which of the run it is.

    Or a note, whose connection is `NOTE`.
    """

    payload: bytes
    recv_ns: int
    connection: int
    number: int


def pack_header(header: Header) -> bytes:
    """Return the header's bytes; its last four are the checksum that entries start from."""
    roots = ",".join(header.roots).encode("ascii")
    if len(roots) > MAX_ROOTS_BYTES:
        raise ValueError(f"{len(header.roots)} roots have more than {MAX_ROOTS_BYTES} bytes")
    date = header.date.year * 10_000 + header.date.month * 100 + header.date.day
    body = HEADER.pack(
        MAGIC,
        VERSION,
        header.market,
        HEADER.size + len(roots) + CHECKSUM.size,
        header.run_ns,
        header.late_after_ns,
        date,
        header.part,
        header.connection,
        len(roots),
        0,
    )
    return body + roots + CHECKSUM.pack(crc32(body + roots))


def seed_of(header: bytes) -> int:
    """Return the checksum of a packed header."""
    return int.from_bytes(header[-CHECKSUM.size :], "little")


def read_header(data: bytes) -> tuple[Header, int] | None:
    """Return the header that `data` begins with and its length; None when more is needed.

    Raises `BadDataError`, in words that follow the file's name.
    """
    _require(MAGIC.startswith(data[: len(MAGIC)]), "is no journal: it does not begin as one")
    if len(data) < HEADER.size:
        return None
    _, version, market, size, run_ns, late_ns, date, part, connection, roots_bytes, _ = (
        HEADER.unpack_from(data)
    )
    _require(version == VERSION, f"has version {version} of the journal's format, not {VERSION}")
    _require(
        size == HEADER.size + roots_bytes + CHECKSUM.size and size <= MAX_HEADER_BYTES,
        "has a damaged header: its lengths disagree",
    )
    if len(data) < size:
        return None
    _require(
        crc32(data[: size - CHECKSUM.size]) == seed_of(data[:size]),
        "has a damaged header: its checksum disagrees",
    )
    roots = data[HEADER.size : size - CHECKSUM.size]
    try:
        header = Header(
            market=Market(market),
            run_ns=run_ns,
            late_after_ns=late_ns,
            date=dt.date(date // 10_000, date // 100 % 100, date % 100),
            part=part,
            connection=connection,
            roots=tuple(roots.decode("ascii").split(",")) if roots else (),
        )
    except ValueError as error:
        raise BadDataError(f"has a header that makes no sense: {error}") from error
    return header, size


def entry_head(entry: Entry, seed: int) -> bytes:
    """Return what stands before the payload of an entry in the file whose checksum is `seed`."""
    payload, recv_ns, connection, number = entry
    # The seed ties an entry to its file: a stale block of another segment does not fit.
    covered = _COVERED.pack(len(payload), connection, recv_ns, number)
    return MARK + CHECKSUM.pack(crc32(payload, crc32(covered, seed))) + covered


def pack_note(names: Sequence[str] | None) -> bytes:
    """Return the payload of a note: the names asked for, None where a connection begins."""
    return msgspec.json.encode(names)


def read_note(payload: bytes) -> list[str] | None:
    """Return what a note says. Raises `BadDataError`."""
    try:
        return _NOTES.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadDataError(f"a note that is none: {error}") from None


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadDataError(otherwise)


class Searching(Enum):
    """What `EntryReader.take` returns while a search goes on."""

    SEARCHING = auto()


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment, from `start` up to `stop`, that are passed over."""

    start: int
    stop: int


class _Verdict(Enum):
    SHORT = auto()
    BAD = auto()


class EntryReader:
    """Takes the bytes behind a header, gives entries.

    It holds at most one entry and one piece: `MAX_PAYLOAD_BYTES` and what `put` was given.

    Attributes:
        torn_from: None, or, after the end, where in the file the bytes begin that hold no entry
            and are followed by none.
    """

    def __init__(self, seed: int, offset: int = 0) -> None:
        """Read entries whose checksums start from `seed`; the first is `offset` in the file."""
        self._seed = seed
        self._held = bytearray()
        self._offset = offset
        self._at = 0
        self._bad_from: int | None = None
        self._search_bytes = SEARCH_AT_FIRST_BYTES
        self._ended = False

    @property
    def torn_from(self) -> int | None:
        """See the class."""
        return self._bad_from if self._ended else None

    def put(self, data: bytes | memoryview) -> None:
        """Add what follows in the file."""
        # Once a piece, not once an entry: each deletion moves all that is left.
        del self._held[: self._at]
        self._offset += self._at
        self._at = 0
        self._held += data
        self._search_bytes += SEARCH_FACTOR * len(data)

    def end(self) -> None:
        """Say that nothing follows."""
        self._ended = True

    def take(self) -> Entry | Damage | Searching | None:
        """Return what comes next; None when more is needed, or, after the end, nothing is left.

        A damage is told when the entry after it has been found.
        """
        for _ in range(PLACES_AT_ONCE):
            found = self._look()
            if isinstance(found, Entry):
                # The entry itself is returned by the next call: `_at` stands still.
                if self._bad_from is not None:
                    damage = Damage(self._bad_from, self._offset + self._at)
                    self._bad_from = None
                    return damage
                self._at += HEAD.size + len(found.payload)
                return found
            # At the end what is short can only be a torn tail, or a damaged length.
            if found is _Verdict.SHORT and (not self._ended or self._at == len(self._held)):
                return None
            self._pass_over()
        return Searching.SEARCHING

    def _look(self) -> Entry | _Verdict:
        """Return the entry at this place, if there is one and all of it is there."""
        with memoryview(self._held)[self._at :] as held:
            if len(held) < HEAD.size:
                return _Verdict.SHORT if MARK.startswith(bytes(held[: len(MARK)])) else _Verdict.BAD
            mark, checksum, size, connection, recv_ns, number = HEAD.unpack_from(held)
            if mark != MARK or size > MAX_PAYLOAD_BYTES:
                return _Verdict.BAD
            if len(held) < HEAD.size + size:
                return _Verdict.SHORT
            # The search has used up its budget: believe it to be no entry.
            if size > self._search_bytes:
                return _Verdict.BAD
            if crc32(held[CHECKED_FROM : HEAD.size + size], self._seed) != checksum:
                self._search_bytes -= size
                return _Verdict.BAD
            return Entry(bytes(held[HEAD.size : HEAD.size + size]), recv_ns, connection, number)

    def _pass_over(self) -> None:
        """Go to the next mark, or to where one may have begun."""
        if self._bad_from is None:
            self._bad_from = self._offset + self._at
        found = self._held.find(MARK, self._at + 1)
        if found < 0:
            # The last three bytes may begin a mark whose rest is in the next piece.
            found = max(self._at + 1, len(self._held) - _MARK_REST)
        self._at = found
