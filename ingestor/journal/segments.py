"""Which segments a journal has: their names, their order, and how one is opened.

``stocks-20251216-000001.journal[.zst]``: feed, date in New York, number within the date. So names
in order of the alphabet are in order of time. A segment is there plain, then compressed, and for a
moment, or after a crash in it, both. The compressed one is written under another name until it is
whole, which the plain one beside it need not be (a copy or a decompression that was broken off):
so the compressed one is taken, unless it has no sound end.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from ingestor.files.streams import READ_BYTES, ByteStream, FrameWalker, open_stream
from ingestor.journal.format import MAX_HEADER_BYTES, Header, Market, read_header
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
    data = bytearray()
    try:
        with open_segment(segment) as stream:
            room = memoryview(bytearray(stream.slack + MAX_HEADER_BYTES))
            while (found := read_header(bytes(data))) is None:
                count = stream.read_some(room)
                if not count:
                    return None
                data += room[:count]
    except (BadDataError, NoDataError):
        return None
    return found[0]


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
