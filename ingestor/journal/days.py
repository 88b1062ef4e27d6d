"""What is to be read for some days: segments of that date by name, or by what is in them.

A segment's name says the date by the recorder's clock, and that may have been wrong, or the file
may have been renamed. So its frames are asked too: where the first that holds data was made more
than `SLACK` outside of the date in the name, by the vendor's clock, the segment is also of the day
that this clock says. (Not of that day alone: a simulator may play any day today.)

A day may begin in the middle of a connection, and what is known of quotes then is part of how its
trades are judged. So the segments before it, back to where that connection began, are read too;
nothing of them is handed on.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from ingestor.model.clock import dates_text
from ingestor.feeds.polygon.playback import decoder_of
from ingestor.files.streams import ByteStream
from ingestor.journal.entries import EntryReader
from ingestor.journal.format import Entry, Market, read_header, seed_of
from ingestor.journal.segments import (
    COMPRESSED,
    SUFFIX,
    Segment,
    header_of,
    list_segments,
    open_segment,
    passed_over,
)
from ingestor.model.bounds import printable
from ingestor.model.clock import new_york_date, new_york_ns
from ingestor.model.errors import BadDataError, NoDataError
from ingestor.model.units import NS_PER_S

SLACK: Final = dt.timedelta(hours=1)
"""How far outside of its date a segment's first data may be."""

PROBE_BYTES: Final = 256 * 1024
"""How much of a segment is looked through for its first data."""

_NAMES_TOLD: Final = 10
_NAME_CHARS: Final = 80
_PROBES_HELD: Final = 65_536
_DAY: Final = dt.timedelta(days=1)
_MIDNIGHT: Final = dt.time(0)


@dataclass(frozen=True, slots=True)
class Reading:
    """A segment to read; `context_only` when only for what it says about later ones.

    `date` is the day in New York that its frames are of.
    """

    segment: Segment
    date: dt.date
    context_only: bool = False


def dates_recorded(directory: Path, market: Market) -> list[dt.date]:
    """Return the dates in New York that have a segment, in order; raises as `list_segments`."""
    segments = list_segments(directory, market)
    return sorted({date for segment in segments for date in (segment.date, _date_of(segment))})


def find_segments(directory: Path, market: Market, dates: Sequence[dt.date] = ()) -> list[Reading]:
    """Return what is to be read for these dates, in order; no dates means every date there is.

    Raises `NoDataError` when the folder is missing, or it or a date has no segment.
    """
    there = dates_recorded(directory, market)
    missing = sorted(set(dates) - set(there))
    if missing or not there:
        raise NoDataError(_what_is_missing(directory, market, missing, there))
    return _with_what_precedes(list_segments(directory, market), set(dates or there))


def oddities(directory: Path, readings: Sequence[Reading]) -> Iterator[str]:
    """Yield a sentence about each thing in a journal that is not as its name says.

    Of segments, those that are read are looked at. Raises `NoDataError` without a folder.
    """
    names = passed_over(directory)
    if names:
        yield f"{directory}: passed over, being no part of a journal: {_listed(names)}"
    for reading in readings:
        segment = reading.segment
        if reading.date != segment.date:
            yield f"{segment.path_there} holds frames of {reading.date}: it is read as that day's"
        if segment.path.exists() and segment.compressed_path.exists():
            yield f"{segment.path} is there plain and compressed: {segment.path_there} is read"


def _listed(names: Sequence[str]) -> str:
    shown = [printable(name, _NAME_CHARS) for name in names[:_NAMES_TOLD]]
    more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
    return ", ".join(shown) + more


def _date_of(segment: Segment) -> dt.date:
    first_ns = _first_ns(segment)
    if first_ns is None:
        return segment.date
    slack_ns = int(SLACK.total_seconds()) * NS_PER_S
    start_ns = new_york_ns(segment.date, _MIDNIGHT) - slack_ns
    end_ns = new_york_ns(segment.date + _DAY, _MIDNIGHT) + slack_ns
    return segment.date if start_ns <= first_ns < end_ns else new_york_date(first_ns)


@lru_cache(maxsize=_PROBES_HELD)
def _first_ns(segment: Segment) -> int | None:
    """When a segment's first data was made; failing that, when its first frame was received."""
    try:
        with open_segment(segment) as stream:
            return _first_ns_in(_piece(stream))
    except (BadDataError, NoDataError):
        return None


def _piece(stream: ByteStream) -> bytes:
    room = memoryview(bytearray(stream.slack + PROBE_BYTES))
    data = bytearray()
    while len(data) < PROBE_BYTES and (count := stream.read_some(room)):
        data += room[:count]
    return bytes(data)


def _first_ns_in(data: bytes) -> int | None:
    found = read_header(data)
    if found is None:
        return None
    header, size = found
    reader, decoder = EntryReader(seed_of(data[:size]), size), decoder_of(header)
    reader.put(data[size:])
    received_ns = None
    while (entry := reader.take()) is not None:
        if isinstance(entry, Entry):
            records = decoder.decode(entry.payload, entry.recv_ns).records
            if len(records):
                return int(records["ts_event_ns"][0])
            received_ns = received_ns or entry.recv_ns
    return received_ns


def _with_what_precedes(segments: Sequence[Segment], dates: set[dt.date]) -> list[Reading]:
    readings: list[Reading] = []
    for index, segment in enumerate(segments):
        if segment.date not in dates:
            if _date_of(segment) in dates:
                readings.append(Reading(segment, _date_of(segment)))
            continue
        if index and segments[index - 1].date not in dates:
            before = _before(segments[: index + 1], dates)
            readings += [Reading(one, one.date, context_only=True) for one in before]
        readings.append(Reading(segment, segment.date))
    return readings if _as_named(readings) else sorted(readings, key=_began_ns)


def _as_named(readings: Sequence[Reading]) -> bool:
    return all(reading.date == reading.segment.date for reading in readings)


def _began_ns(reading: Reading) -> int:
    """In order of the vendor's clock; what holds no frame says nothing wherever it stands."""
    return _first_ns(reading.segment) or 0


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
        names = passed_over(directory)
        seen = f"; passed over: {_listed(names)}" if names else ""
        return (
            f"{directory} holds no journal of {market.feed_name}: no file is named {pattern}{seen}"
        )
    return (
        f"{directory} holds no {market.feed_name} of {dates_text(missing)}; dates there are: "
        f"{dates_text(there)}"
    )
