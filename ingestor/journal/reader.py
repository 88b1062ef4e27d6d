"""Reading a journal: which segments there are for some days, and the frames of each.

A segment's name says the date by the recorder's clock, and that may have been wrong, or the file
may have been renamed. So its frames are asked too: where the first that holds data was made more
than `SLACK` outside of the date in the name, by the vendor's clock, the segment is also of the day
that this clock says. (Not of that day alone: a simulator may play any day today.) What a frame
holds only its feed knows, which hands in that time as a `FirstEvent`.

A day may begin in the middle of a connection, and what is known of quotes then is part of how its
trades are judged. So the segments before it, back to where that connection began, are read too, for
context only: nothing of them is handed on.

Two things end a segment early. A *torn tail*, bytes at its end that are no whole entry, is what
any crash leaves; it is told and nothing is wrong with what was before. *Damage* is anything else:
bytes in the middle that agree with no checksum, a header that is none, a compressed file that is
corrupt or cut. It is passed over as far as can be, and told in a way that is not overlooked.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ingestor.files.streams import ByteStream, Searchable
from ingestor.journal.format import Damage, Entry, EntryReader, Header, Market, read_header, seed_of
from ingestor.journal.segments import (
    COMPRESSED,
    SUFFIX,
    Segment,
    header_of,
    list_segments,
    open_segment,
    passed_over,
)
from ingestor.model.bounds import MAX_TIME_NS, printable
from ingestor.model.errors import BadDataError, NoDataError
from ingestor.model.units import NS_PER_S, dates_text, new_york_date, new_york_ns

SLACK: Final = dt.timedelta(hours=1)
"""How far outside of its date a segment's first data may be."""

PROBE_BYTES: Final = 256 * 1024
"""How much of a segment is looked through for its first data."""

READ_BYTES: Final = 256 * 1024
"""Read at a time, uncompressed."""

MAX_DAMAGES_TOLD: Final = 100
"""Damages that are logged; those after them are only counted."""

_NAMES_TOLD: Final = 10
_NAME_CHARS: Final = 80
_DAY: Final = dt.timedelta(days=1)
_MIDNIGHT: Final = dt.time(0)

FirstEvent = Callable[[Segment], int | None]
"""When a segment's first data was made, int ns UTC; None where nobody can tell."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """A segment to read; `context_only` when only for what it says about later ones.

    `date` is the day in New York that its frames are of.
    """

    segment: Segment
    date: dt.date
    context_only: bool = False


def dates_recorded(directory: Path, market: Market, first_event: FirstEvent) -> list[dt.date]:
    """Return the dates in New York that have a segment, in order; raises as `list_segments`."""
    by_content = _dates_by_content(list_segments(directory, market), first_event)
    return sorted({segment.date for segment in by_content} | {*by_content.values()})


def find_segments(
    directory: Path, market: Market, dates: Sequence[dt.date], first_event: FirstEvent
) -> list[Reading]:
    """Return what is to be read for these dates, in order; no dates means every date there is.

    Raises `NoDataError` when the folder is missing, or it or a date has no segment.
    """
    segments = list_segments(directory, market)
    by_content = _dates_by_content(segments, first_event)
    there = {segment.date for segment in segments} | {*by_content.values()}
    missing = set(dates) - there
    if missing or not there:
        raise NoDataError(_what_is_missing(directory, market, sorted(missing), sorted(there)))
    readings = _with_what_precedes(segments, set(dates) or there, by_content)
    if all(reading.date == reading.segment.date for reading in readings):
        return readings
    # Names that lie about dates lie about order too: the vendor's clock decides, and what holds no
    # frame says nothing wherever it stands.
    return sorted(readings, key=lambda reading: first_event(reading.segment) or 0)


def oddities(directory: Path, readings: Sequence[Reading]) -> Iterator[str]:
    """Yield a sentence about each thing in a journal that is not as its name says.

    Of segments, those that are read are looked at. Raises `NoDataError` without a folder.
    """
    # A folder of recordings gathers other files; silence about them hides a misnamed segment.
    names = passed_over(directory)
    if names:
        yield f"{directory}: passed over, being no part of a journal: {_listed(names)}"
    for reading in readings:
        segment = reading.segment
        if reading.date != segment.date:
            yield f"{segment.path_there} holds frames of {reading.date}: it is read as that day's"
        if segment.path.exists() and segment.compressed_path.exists():
            yield f"{segment.path} is there plain and compressed: {segment.path_there} is read"


def first_entries(segment: Segment) -> tuple[Header, list[Entry]] | None:
    """Return a segment's header and the entries in its first `PROBE_BYTES`; None without a header.

    Notes are among the entries; a file that cannot be opened or read has none.
    """
    data = bytearray()
    try:
        with open_segment(segment) as stream:
            room = memoryview(bytearray(stream.slack + PROBE_BYTES))
            while len(data) < PROBE_BYTES and (count := stream.read_some(room)):
                data += room[:count]
        found = read_header(bytes(data))
    except (BadDataError, NoDataError):
        return None
    if found is None:
        return None
    header, size = found
    # `end` is not called: what the probe cuts off is no torn tail.
    reader = EntryReader(seed_of(bytes(data[:size])), size)
    reader.put(memoryview(data)[size:])
    return header, [entry for entry in iter(reader.take, None) if isinstance(entry, Entry)]


def _offset_before(plain: Searchable, seed: int, first: int, recv_ns: int) -> int:
    """Return where, from `first` on, an entry begins before which nothing is as new as this.

    It stands little before the first that was received at `recv_ns` or later, if no clock was set.
    """
    low, high = first, plain.size
    # Halved, not read: a full segment of 256 MiB takes ten looks instead of some seconds.
    while high - low > PROBE_BYTES:
        middle = (low + high) // 2
        found = _entry_behind(plain, seed, middle)
        if found is None or found[1].recv_ns >= recv_ns:
            high = middle
        else:
            low = found[0]
    return low


def _entry_behind(plain: Searchable, seed: int, offset: int) -> tuple[int, Entry] | None:
    """Return the first entry from an offset on and where it begins, if it is near."""
    reader = EntryReader(seed, offset)
    reader.put(plain.peek(offset, PROBE_BYTES))
    while (found := reader.take()) is not None:
        if isinstance(found, Entry):
            return offset, found
        if isinstance(found, Damage):
            # The rest of the entry in whose middle this began.
            offset = found.stop
    return None


def _listed(names: Sequence[str]) -> str:
    shown = [printable(name, _NAME_CHARS) for name in names[:_NAMES_TOLD]]
    more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
    return ", ".join(shown) + more


def _dates_by_content(
    segments: Sequence[Segment], first_event: FirstEvent
) -> dict[Segment, dt.date]:
    """Return the date of each segment: that of its name, unless its first data is beyond it."""
    slack_ns = int(SLACK.total_seconds()) * NS_PER_S
    dates: dict[Segment, dt.date] = {}
    for segment in segments:
        first_ns = first_event(segment)
        start_ns = new_york_ns(segment.date, _MIDNIGHT) - slack_ns
        end_ns = new_york_ns(segment.date + _DAY, _MIDNIGHT) + slack_ns
        dates[segment] = segment.date
        if first_ns is not None and not start_ns <= first_ns < end_ns:
            dates[segment] = new_york_date(first_ns)
    return dates


def _with_what_precedes(
    segments: Sequence[Segment], dates: set[dt.date], by_content: Mapping[Segment, dt.date]
) -> list[Reading]:
    readings: list[Reading] = []
    for index, segment in enumerate(segments):
        if segment.date not in dates:
            if by_content[segment] in dates:
                readings.append(Reading(segment, by_content[segment]))
            continue
        # Only at the first segment of a span of days: within it the one before is read anyway.
        if index and segments[index - 1].date not in dates:
            before = _before(segments[: index + 1], dates)
            readings += [Reading(one, one.date, context_only=True) for one in before]
        readings.append(Reading(segment, segment.date))
    return readings


def _before(segments: Sequence[Segment], dates: set[dt.date]) -> list[Segment]:
    """Return the segments, none of these dates, that the last one's connection reaches back to."""
    header = header_of(segments[-1])
    found: list[Segment] = []
    for segment in reversed(segments[:-1]):
        # The first segment of a run begins with its connection: nothing precedes it.
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
        names = passed_over(directory)
        seen = f"; passed over: {_listed(names)}" if names else ""
        return (
            f"{directory} holds no journal of {market.feed_name}: no file is named {pattern}{seen}"
        )
    return (
        f"{directory} holds no {market.feed_name} of {dates_text(missing)}; dates there are: "
        f"{dates_text(there)}"
    )


@dataclass(slots=True)
class JournalProgress:
    """Counts of one run over a journal, updated with every block.

    Attributes:
        bytes_total: Bytes on disk of the segments to read.
        bytes_read: Bytes of them read so far.
        frames: Frames decoded.
        records: Records yielded.
        filtered: Records outside the time windows or of other symbols.
        skipped: What was left out, by cause, as the feed names it.
        late: Records yielded that step back in time.
        damaged: Where bytes were passed over, in words; the first of them.
        damages: How many such places there are.
    """

    bytes_total: int = 0
    bytes_read: int = 0
    frames: int = 0
    records: int = 0
    filtered: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    late: int = 0
    damaged: str | None = None
    damages: int = 0

    def damage(self, path: Path, what: str) -> None:
        """Note and log bytes that were passed over."""
        if self.damages < MAX_DAMAGES_TOLD:
            logger.error("%s %s", path, what)
        self.damages += 1
        self.damaged = self.damaged or f"{path} {what}"


class SegmentFrames:
    """Reads one segment; tells `begin` its header before the first entry."""

    def __init__(
        self,
        segment: Segment,
        progress: JournalProgress,
        begin: Callable[[Header], None],
        from_ns: int | None = None,
    ) -> None:
        """What was received before `from_ns` is passed over, if it need not be read for that."""
        self._segment = segment
        self._from_ns = from_ns
        self._progress = progress
        self._begin = begin
        self._before = progress.bytes_read

    def entries(self) -> Iterator[Entry | None]:
        """Yield what is whole, in order; None after every piece that was read or searched.

        Raises `NoDataError` when the file cannot be opened.
        """
        try:
            with open_segment(self._segment) as stream:
                yield from self._of_stream(stream)
                if stream.failure is not None:
                    self._damage(stream.failure)
        except BadDataError as error:
            self._damage(str(error).removeprefix(f"{self._segment.path_there} "))
        # A damaged file ends early, but the sum over all segments must still come out.
        self._progress.bytes_read = self._before + self._segment.size

    def _of_stream(self, stream: ByteStream) -> Iterator[Entry | None]:
        pieces = self._pieces(stream)
        reader = self._behind_header(stream, pieces)
        if reader is None:
            return
        yield from self._whole(reader)
        for piece in pieces:
            reader.put(piece)
            yield from self._whole(reader)
            yield None
        reader.end()
        yield from self._whole(reader)
        # A compressed file that is cut is damage, and told as such by the caller.
        if reader.torn_from is not None and stream.failure is None:
            self._torn(reader.torn_from)

    def _pieces(self, stream: ByteStream) -> Iterator[memoryview]:
        room = memoryview(bytearray(stream.slack + READ_BYTES))
        while count := stream.read_some(room):
            self._progress.bytes_read = self._before + stream.position
            yield room[:count]

    def _behind_header(
        self, stream: ByteStream, pieces: Iterator[memoryview]
    ) -> EntryReader | None:
        """Read the header; return a reader that holds what was read beyond it."""
        data = b""
        for piece in pieces:
            data += piece
            found = read_header(data)
            if found is not None:
                header, size = found
                if not self._segment.path.name.startswith(f"{header.market.feed_name}-"):
                    raise BadDataError(f"holds frames of {header.market.feed_name}")
                self._begin(header)
                seed, plain = seed_of(data[:size]), stream.searchable
                if self._from_ns is not None and plain is not None:
                    start = _offset_before(plain, seed, size, self._from_ns)
                    plain.jump(start)
                    return EntryReader(seed, start)
                reader = EntryReader(seed, size)
                reader.put(data[size:])
                return reader
        self._torn(0)
        return None

    def _whole(self, reader: EntryReader) -> Iterator[Entry | None]:
        while (found := reader.take()) is not None:
            if isinstance(found, Damage):
                self._damage(f"is damaged from byte {found.start} to {found.stop} uncompressed")
            # The checksum agrees, so the clock of the recorder was wrong.
            elif isinstance(found, Entry) and found.recv_ns > MAX_TIME_NS:
                self._damage(f"says that frame {found.number} was received after the year 2262")
            else:
                yield found if isinstance(found, Entry) else None

    def _torn(self, start: int) -> None:
        logger.warning(
            "%s ends in the middle of an entry, at byte %d uncompressed: all before it is read",
            self._segment.path_there,
            start,
        )

    def _damage(self, what: str) -> None:
        self._progress.damage(self._segment.path_there, what)
