"""Which segments a journal has: their names, their order, and how one is opened.

``stocks-20251216-000001.journal[.zst]``: feed, date in New York, number within the date. So names
in order of the alphabet are in order of time. A segment is there plain, then compressed, and for a
moment, or after a crash in it, both. The compressed one is written under another name until it is
whole, which the plain one beside it need not be (a copy or a decompression that was broken off):
so the compressed one is taken, unless it has no sound end.

A run's own journal is read while it is written (`RunFollower`), from a place on up to what is on
the disk. A place is a number of bytes into a part of the run (see `ingestor.journal.format`). A
part is one file, unless somebody removed, renamed or cut it meanwhile: then further files stand
for its rest. What was read is never looked at again, and a file may be compressed while it is
read: an open one stays what it was. Entries are numbered, so that whoever reads knows what is
missing.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final, NamedTuple

from ingestor.files.streams import READ_BYTES, ByteStream, FrameWalker, open_stream
from ingestor.journal.format import (
    MAX_HEADER_BYTES,
    Entry,
    EntryReader,
    Header,
    Market,
    read_header,
    seed_of,
)
from ingestor.model.errors import BadDataError, NoDataError

SUFFIX: Final = ".journal"
COMPRESSED: Final = ".zst"
PART: Final = ".part"
"""Ends the name of a file that is still being compressed."""

LOCK: Final = ".lock"
"""Ends the name of the file whose lock a recorder holds."""

_NAME: Final = re.compile(
    rf"(?P<feed>[a-z]+)-(?P<date>\d{{8}})-(?P<number>\d{{6,}})\{SUFFIX}(\{COMPRESSED})?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its path when it is plain, its date, its number, its bytes on disk.

    `compressed_first` where it was there in both forms and the compressed one is whole.
    """

    path: Path
    date: dt.date
    number: int
    size: int
    compressed_first: bool = False

    @property
    def compressed_path(self) -> Path:
        """Its path when it is compressed."""
        return self.path.with_name(self.path.name + COMPRESSED)

    @property
    def paths(self) -> tuple[Path, Path]:
        """Where to look for it, in this order: it may be compressed at any moment."""
        both = self.path, self.compressed_path
        return both[::-1] if self.compressed_first else both

    @property
    def path_there(self) -> Path:
        """The path that is to be named: of `paths` the first that exists."""
        first, second = self.paths
        return first if first.exists() else second


def segment_name(market: Market, date: dt.date, number: int) -> str:
    """Return the name of a plain segment.

    >>> segment_name(Market.STOCKS, dt.date(2025, 12, 16), 1)
    'stocks-20251216-000001.journal'
    """
    return f"{market.feed_name}-{date:%Y%m%d}-{number:06d}{SUFFIX}"


def list_segments(directory: Path, market: Market) -> list[Segment]:
    """Return all segments of a feed in order of time. Raises `NoDataError` without a folder."""
    found: dict[tuple[dt.date, int], Segment] = {}
    for path in sorted(paths_in(directory)):
        key = _date_and_number(path.name, market)
        if key is None:
            continue
        plain = path.with_name(path.name.removesuffix(COMPRESSED))
        if key not in found:
            found[key] = Segment(plain, *key, size_of(path))
        # Sorted names: the plain form comes first, so this is the compressed one beside it.
        elif is_whole(path):
            found[key] = Segment(plain, *key, size_of(path), compressed_first=True)
    return [found[key] for key in sorted(found)]


def passed_over(directory: Path) -> list[str]:
    """Return what lies in a journal's folder and belongs to none: names, in order.

    Raises `NoDataError` without a folder.
    """
    return sorted(path.name for path in paths_in(directory) if not _belongs(path.name))


def is_whole(path: Path) -> bool:
    """Tell whether a zstd file has a sound end; its content is not looked at."""
    size = size_of(path)
    try:
        with FileIO(path) as file:
            walker = FrameWalker(BufferedReader(file, READ_BYTES))
            while walker.failure is None and walker.position < size:
                walker.read()
            walker.read()  # only so an end after a block is told from one after a frame
            return size > 0 and walker.failure is None
    except OSError:
        return False


@contextmanager
def open_segment(segment: Segment) -> Iterator[ByteStream]:
    """Open a segment, compressed or not, whichever is there now.

    Raises as `open_stream` does.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open_stream(segment.paths[0]))
        except NoDataError:
            # Between the listing and now it may have been compressed: then the other form is there.
            if segment.paths[0].exists():
                raise
            stream = stack.enter_context(open_stream(segment.paths[1]))
        yield stream


def header_of(segment: Segment) -> Header | None:
    """Read a segment's header; None when it is cut, damaged or cannot be opened."""
    try:
        with open_segment(segment) as stream:
            room = memoryview(bytearray(stream.slack + MAX_HEADER_BYTES))
            found, _ = read_opening(stream, room)
    except (BadDataError, NoDataError):
        return None
    return None if found is None else found[0]


def read_opening(
    stream: ByteStream, room: memoryview
) -> tuple[tuple[Header, int] | None, memoryview]:
    """Read up to the end of the header; return what `read_header` says, and what was read.

    Raises `BadDataError`.
    """
    data = bytearray()
    while (found := read_header(bytes(data))) is None:
        if (count := stream.read_some(room)) == 0:
            break
        data += room[: count or 0]
    return found, memoryview(data)


def paths_in(directory: Path) -> Iterable[Path]:
    """Return what lies in a folder. Raises `NoDataError` when it cannot be listed."""
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise NoDataError(
            f"the journal folder {directory} cannot be listed: {error.strerror}"
        ) from error


def _belongs(name: str) -> bool:
    if name.endswith(LOCK) or f"{SUFFIX}{COMPRESSED}{PART}" in name:
        return True
    return any(_date_and_number(name, market) is not None for market in Market)


def _date_and_number(name: str, market: Market) -> tuple[dt.date, int] | None:
    found = _NAME.fullmatch(name)
    # One folder may hold both feeds.
    if found is None or found["feed"] != market.feed_name:
        return None
    try:
        return dt.date.fromisoformat(found["date"]), int(found["number"])
    except ValueError:
        return None


def size_of(path: Path) -> int:
    """Return how many bytes a file has; 0 when it is gone."""
    try:
        return path.stat().st_size
    except OSError:  # compressed and removed since it was listed
        return 0


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
            found, data = read_opening(stream, self._room)
        except (BadDataError, NoDataError):
            # As if it were not there; what it held shows by its numbers.
            self._segment = segment
            return False
        if found is None:
            return False
        header, size = found
        if header.part != self._part:
            self._part, self._skip = header.part, 0
        start = max(self._skip, size)
        self._reader = EntryReader(seed_of(bytes(data[:size])), start)
        self._to_pass = max(0, start - len(data))
        self._reader.put(data[start:])
        self._segment, self._stream = segment, stream
        return True
