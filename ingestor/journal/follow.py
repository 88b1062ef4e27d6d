"""Reading a run's own journal while it is written: from a place on, up to what is on the disk.

A place is a number of bytes into a part of the run (see `ingestor.journal.format`). A part is one
file, unless somebody removed, renamed or cut it meanwhile: then further files stand for its rest.
What was read is never looked at again, and a file may be compressed while it is read: an open one
stays what it was. Entries are numbered, so that whoever reads knows what is missing.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from ingestor.files.streams import ByteStream
from ingestor.journal.format import (
    MAX_HEADER_BYTES,
    Entry,
    EntryReader,
    Market,
    read_header,
    seed_of,
)
from ingestor.journal.segments import Segment, header_of, list_segments, open_segment
from ingestor.model.errors import BadDataError, NoDataError

PIECE_BYTES: Final = 64 * 1024
"""Read at a time, uncompressed: some hundred frames, which take a few milliseconds to decode."""

PIECES_PASSED: Final = 64
"""Read at a time of what stands before the place: 4 MiB."""

ENDS_BETWEEN: Final = 10
"""So often the end of a segment is met before the folder is looked through for the next one."""


class Place(NamedTuple):
    """Where an entry is to be looked for: `offset` bytes into a part of its run, uncompressed."""

    part: int
    offset: int
    number: int


class RunFollower:
    """Reads the entries of the run `run_ns` of a market from a place on.

    Attributes:
        next_number: Number of the entry that is read next.
    """

    def __init__(self, directory: Path, market: Market, run_ns: int, place: Place) -> None:
        self._directory = directory
        self._market = market
        self._run_ns = run_ns
        self._part = place.part
        self._skip = place.offset
        self._file = ExitStack()
        self._segment: Segment | None = None
        self._after: Segment | None = None
        self._stream: ByteStream | None = None
        self._reader = EntryReader(0)
        self._to_pass = 0
        self._ends = 0
        self._room = memoryview(b"")
        self.next_number = place.number

    def read(self) -> list[Entry] | None:
        """Return the entries of the next piece; none where it held none, None at the end for now.

        Of entries that are missing nothing is said but by the numbers of those that follow.
        """
        if self._stream is None:
            return self._taken() if self._open(self._find()) else None
        for _ in range(PIECES_PASSED):
            count = self._stream.read_some(self._room)
            if count == 0:
                return self._at_end()
            passed = min(count or 0, self._to_pass)
            self._to_pass -= passed
            if count is not None and passed < count:
                self._reader.put(self._room[passed:count])
                return self._taken()
        return []

    def close(self) -> None:
        """Close what is open."""
        self._file.close()
        self._stream = None

    def _at_end(self) -> list[Entry] | None:
        """Look whether another segment follows, and go on with it."""
        if self._skip and self._to_pass:
            # Shorter than it was: another file stands there, and what is wanted is in its front.
            self._skip = 0
            return self._taken() if self._open(self._segment) else None
        if self._after is None:
            # Not each time: a folder of a year has thousands of segments.
            self._ends += 1
            self._after = self._find() if self._ends % ENDS_BETWEEN == 0 else None
            # Read once more: what was written before the other one was begun may be new here.
            return None if self._after is None else []
        after, self._after = self._after, None
        return self._taken() if self._open(after) else None

    def _taken(self) -> list[Entry]:
        found = []
        while (one := self._reader.take()) is not None:
            # A file that stands for the rest of another begins with what that one may hold too.
            if isinstance(one, Entry) and one.number >= self.next_number:
                if self._skip and one.number > self.next_number:
                    # What stands there is not what stood there: from the front, all is found.
                    self._skip = 0
                    return self._taken() if self._open(self._segment) else []
                self._skip = 0
                self.next_number = one.number + 1
                found.append(one)
        return found

    def _find(self) -> Segment | None:
        """Return the segment that follows the one that is read; the first there is, before it."""
        found: Segment | None = None
        try:
            there = list_segments(self._directory, self._market)
        except NoDataError:
            return None
        for segment in reversed(there):
            mine = self._segment
            if mine is not None and (segment.date, segment.number) <= (mine.date, mine.number):
                break
            header = header_of(segment)
            # One that was just begun may not have its header yet; one of another run ends ours.
            if header is not None and header.run_ns != self._run_ns:
                break
            if header is not None and header.part < self._part:
                break
            found = segment if header is not None else found
        return found

    def _open(self, segment: Segment | None) -> bool:
        self.close()
        if segment is None:
            return False
        self._file = ExitStack()
        try:
            stream = self._file.enter_context(open_segment(segment))
            self._room = memoryview(bytearray(stream.slack + max(PIECE_BYTES, MAX_HEADER_BYTES)))
            data = bytearray()
            while (found := read_header(bytes(data))) is None:
                if not (count := stream.read_some(self._room)) and count is not None:
                    return False
                data += self._room[: count or 0]
        except (BadDataError, NoDataError):
            # As if it were not there; what it held shows by its numbers.
            self._segment = segment
            return False
        header, size = found
        if header.part != self._part:
            self._part, self._skip = header.part, 0
        start = max(self._skip, size)
        self._reader = EntryReader(seed_of(bytes(data[:size])), start)
        self._to_pass = max(0, start - len(data))
        self._reader.put(memoryview(data)[start:])
        self._segment, self._stream = segment, stream
        return True
