"""Which days of data there are: in DBN files, in a journal, and what of it a stream holds.

Files are not read through: their headers say which days, symbols and time range they are of. What
a stream holds of them the records of earlier runs tell, as long as the stream still holds the
sequences that they name.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ingestor.config.schema import FeedName
from ingestor.feeds.databento.candidates import Lane, contents_of
from ingestor.feeds.databento.files import DbnFile
from ingestor.feeds.databento.selection import Catalog
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.journal_feed import first_event_ns
from ingestor.journal.segments import Segment, list_segments
from ingestor.model.errors import NoDataError
from ingestor.model.units import new_york_date
from ingestor.nats.connection import Connection
from ingestor.runtime.replay_feeds import MARKETS, SCHEMAS
from ingestor.runtime.run_records import LIVE_JOB, RunRecord, records, runs_bucket

Held = Literal["all", "part", "none", "unknown"]
"""What of a day a stream holds; unknown where no run has left a record of what it wrote."""


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """A day of one feed; UTC of files, New York's of a journal.

    Attributes:
        size_bytes: On disk; a file of several days is divided evenly.
        symbols: The first of `symbol_count`; a journal does not list them.
        first_ns: Start of the time range, int ns UTC; of a journal its first event.
        end_ns: Its end, which lies outside; None where nobody tells.
        names: Of the files, by which a job knows them.
        held: What of it the stream holds.
    """

    date: dt.date
    feed: FeedName
    files: int
    size_bytes: int
    symbols: tuple[str, ...] = ()
    symbol_count: int = 0
    first_ns: int | None = None
    end_ns: int | None = None
    names: tuple[str, ...] = ()
    held: Held = "unknown"


def days_of_files(catalog: Catalog) -> list[Day]:
    """Return the days of each feed that there are files of, in order."""
    found: list[Day] = []
    for feed, schema in SCHEMAS.items():
        try:
            lanes = catalog.lanes(schema)
        except NoDataError:
            continue
        found += _days_of_lanes(feed, lanes)
    return sorted(found, key=lambda day: (day.date, day.feed))


def days_of_journal(directory: Path) -> list[Day]:
    """Return the days of each feed that a journal holds. Raises `NoDataError` without a folder."""
    found: list[Day] = []
    for feed, market in MARKETS.items():
        by_date: dict[dt.date, list[Segment]] = defaultdict(list)
        for segment in list_segments(directory, market):
            by_date[segment.date].append(segment)
        found += [
            Day(
                date=date,
                feed=feed,
                files=len(segments),
                size_bytes=sum(segment.size for segment in segments),
                first_ns=first_event_ns(segments[0]),
                names=tuple(segment.path_there.name for segment in segments),
            )
            for date, segments in by_date.items()
        ]
    return sorted(found, key=lambda day: (day.date, day.feed))


def holes(days: Sequence[Day]) -> dict[FeedName, list[dt.date]]:
    """Return the trading days of New York that each feed lacks between its first and its last."""
    hours, lacking = MarketHours(OPTIONS), {}
    by_feed: dict[FeedName, set[dt.date]] = defaultdict(set)
    for day in days:
        by_feed[day.feed].add(day.date)
    for feed, dates in by_feed.items():
        date, last = min(dates), max(dates)
        missing = []
        while date < last:
            date += dt.timedelta(days=1)
            if date not in dates and hours.is_trading_day(date):
                missing.append(date)
        if missing:
            lacking[feed] = missing
    return lacking


async def with_what_is_held(
    connection: Connection, stream: str, first_seq: int, days: Sequence[Day]
) -> list[Day]:
    """Return the days with what a stream holds of each, by the records of runs."""
    kept = [one for one in await records(runs_bucket(connection)) if one.stream == stream]
    return [msgspec.structs.replace(day, held=held_of(day, kept, first_seq)) for day in days]


def held_of(day: Day, kept: Sequence[RunRecord], first_seq: int) -> Held:
    """Return what of a day is in a stream that begins at `first_seq`."""
    best: Held = "none" if kept else "unknown"
    for record in kept:
        if record.last_seq is None or record.last_seq < first_seq or not _is_of(record, day):
            continue
        begun = record.job_seq or record.first_seq or 0
        # One that took less than the whole of its days has not all; a live one never knows.
        filters = ("start", "end", "symbols")
        narrowed = record.job == LIVE_JOB or any(record.what.get(name) for name in filters)
        if record.state == "done" and begun >= first_seq and not narrowed:
            return "all"
        best = "part"
    return best


def _is_of(record: RunRecord, day: Day) -> bool:
    """Whether a run published some of a day."""
    if day.feed not in record.feeds:
        return False
    if record.job == LIVE_JOB:
        first, last = map(new_york_date, (record.started_ns, record.updated_ns))
        return first <= day.date <= last
    dates = record.what.get("dates") or []
    if dates and day.date.isoformat() not in dates:
        return False
    files = record.what.get("files") or []
    # A record lies in a bucket that others may write to: what is no table has no name.
    names = {str(file.get("name")) for file in files if isinstance(file, Mapping)}
    return not names.isdisjoint(day.names)


def _days_of_lanes(feed: FeedName, lanes: Sequence[Lane]) -> Iterator[Day]:
    by_date: dict[dt.date, list[DbnFile]] = defaultdict(list)
    for lane in lanes:
        for file in lane:
            for date in file.taken:
                by_date[date].append(file)
    for date, files in by_date.items():
        contents = [contents_of(file.path) for file in files]
        symbols = dict.fromkeys(symbol for one in contents for symbol in one.symbols)
        starts = [one.start_ns for one in contents if one.start_ns is not None]
        ends = [one.end_ns for one in contents if one.end_ns is not None]
        yield Day(
            date=date,
            feed=feed,
            files=len(files),
            size_bytes=sum(file.size // len(file.taken) for file in files),
            symbols=tuple(symbols),
            # Files split by symbol list one each; the longest header tells of all others.
            symbol_count=max(len(symbols), *(one.symbol_count for one in contents)),
            first_ns=min(starts, default=None),
            end_ns=max(ends, default=None),
            names=tuple(file.path.name for file in files),
        )
