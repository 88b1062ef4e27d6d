"""Which segments a journal has: their names, their order, and those that some days need.

``stocks-20251216-000001.journal[.zst]``: feed, date in New York, number within the date. So names
in order of the alphabet are in order of time. A segment is there plain, then compressed, and for a
moment, or after a crash in it, both; either is whole, and the plain one is taken.

A day may begin in the middle of a connection, and what is known of quotes then is part of how its
trades are judged. So the segments before it, back to where that connection began, are read too;
nothing of them is handed on.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestor.errors import BadDataError, NoDataError
from ingestor.feeds.dates import shortened
from ingestor.feeds.polygon.journal.format import MAX_HEADER_BYTES, Header, Market, read_header
from ingestor.feeds.streams import ByteStream, open_stream

SUFFIX: Final = ".journal"
COMPRESSED: Final = ".zst"
PART: Final = ".part"
"""Ends the name of a file that is still being compressed."""

_NAME: Final = re.compile(
    rf"(?P<feed>[a-z]+)-(?P<date>\d{{8}})-(?P<number>\d{{6,}})\{SUFFIX}(\{COMPRESSED})?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its path when it is plain, its date, its number, its bytes on disk."""

    path: Path
    date: dt.date
    number: int
    size: int

    @property
    def compressed_path(self) -> Path:
        """Its path when it is compressed."""
        return self.path.with_name(self.path.name + COMPRESSED)

    @property
    def path_there(self) -> Path:
        """The path that is to be named: the plain one where there is one."""
        return self.path if self.path.exists() else self.compressed_path


@dataclass(frozen=True, slots=True)
class Reading:
    """A segment to read; `silent` when only for what it says about later ones."""

    segment: Segment
    silent: bool = False


def segment_name(market: Market, date: dt.date, number: int) -> str:
    """Return the name of a plain segment.

    >>> segment_name(Market.STOCKS, dt.date(2025, 12, 16), 1)
    'stocks-20251216-000001.journal'
    """
    return f"{market.feed_name}-{date:%Y%m%d}-{number:06d}{SUFFIX}"


def list_segments(directory: Path, market: Market) -> list[Segment]:
    """Return all segments of a feed in order of time. Raises `NoDataError` without a folder."""
    found: dict[tuple[dt.date, int], Segment] = {}
    for path in sorted(_paths(directory)):
        key = _date_and_number(path.name, market)
        if key is not None and key not in found:
            plain = path.with_name(path.name.removesuffix(COMPRESSED))
            found[key] = Segment(plain, *key, _size(path))
    return [found[key] for key in sorted(found)]


def available_dates(directory: Path, market: Market) -> list[dt.date]:
    """Return the dates in New York that have a segment, in order; raises as `list_segments`."""
    return sorted({segment.date for segment in list_segments(directory, market)})


def find_segments(directory: Path, market: Market, dates: Sequence[dt.date] = ()) -> list[Reading]:
    """Return what is to be read for these dates, in order; no dates means every date there is.

    Raises `NoDataError` when the folder is missing, or it or a date has no segment.
    """
    segments = list_segments(directory, market)
    there = sorted({segment.date for segment in segments})
    missing = sorted(set(dates) - set(there))
    if missing or not there:
        raise NoDataError(_what_is_missing(directory, market, missing, there))
    return _with_what_precedes(segments, set(dates or there))


def holds_journal(directory: Path) -> bool:
    """Whether there is a segment of any feed. Raises `NoDataError` without a folder."""
    return any(list_segments(directory, market) for market in Market)


@contextmanager
def open_segment(segment: Segment) -> Iterator[ByteStream]:
    """Open a segment, compressed or not, whichever is there now.

    Raises as `open_stream` does.
    """
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open_stream(segment.path))
        except NoDataError:
            if segment.path.exists():
                raise
            stream = stack.enter_context(open_stream(segment.compressed_path))
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


def _paths(directory: Path) -> Iterable[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise NoDataError(
            f"the journal folder {directory} cannot be listed: {error.strerror}"
        ) from error


def _date_and_number(name: str, market: Market) -> tuple[dt.date, int] | None:
    found = _NAME.fullmatch(name)
    if found is None or found["feed"] != market.feed_name:
        return None
    try:
        return dt.date.fromisoformat(found["date"]), int(found["number"])
    except ValueError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # compressed and removed since it was listed
        return 0


def _with_what_precedes(segments: Sequence[Segment], dates: set[dt.date]) -> list[Reading]:
    readings: list[Reading] = []
    for index, segment in enumerate(segments):
        if segment.date not in dates:
            continue
        if index and segments[index - 1].date not in dates:
            before = _before(segments[: index + 1], dates)
            readings += [Reading(one, silent=True) for one in before]
        readings.append(Reading(segment))
    return readings


def _before(segments: Sequence[Segment], dates: set[dt.date]) -> list[Segment]:
    """Return the segments, none of these dates, that the last one's connection reaches back to."""
    header = header_of(segments[-1])
    found: list[Segment] = []
    for segment in reversed(segments[:-1]):
        if header is None or header.part == 1 or segment.date in dates:
            break
        earlier = header_of(segment)
        if earlier is None or earlier.run_ns != header.run_ns:
            break
        found.insert(0, segment)
        if earlier.connection != header.connection:
            break
        header = earlier
    return found


def _what_is_missing(
    directory: Path, market: Market, missing: Sequence[dt.date], there: Sequence[dt.date]
) -> str:
    pattern = f"{market.feed_name}-YYYYMMDD-NNNNNN{SUFFIX}[{COMPRESSED}]"
    if not missing or not there:
        return f"{directory} holds no journal of {market.feed_name}: no file is named {pattern}"
    return (
        f"{directory} holds no {market.feed_name} of {shortened(missing)}; dates there are: "
        f"{shortened(there)}"
    )
