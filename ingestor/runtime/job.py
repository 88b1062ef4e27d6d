"""What makes a replay the same job as an earlier one: its files, dates, filters, encoding, feeds.

Pace does not count, nor where the files lie: the order of what is published is the same. A file
counts by its name, its size and a digest of its first bytes, in which its header stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ingestor.config.schema import Config, FeedName
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.polygon.journal_feed import JournalFeed, first_event_ns
from ingestor.journal.reader import find_segments
from ingestor.model.blocks import Source
from ingestor.runtime.feed_process import FeedSource, MergedFiles
from ingestor.runtime.run_records import subjects_of

HEADER_BYTES: Final = 65_536
"""So much of a file's beginning is digested."""

MAX_FILES_TOLD: Final = 100
"""Files that a record lists; its key is made of all of them."""

_KEY_DIGITS: Final = 16


def job_of(
    config: Config, sources: Mapping[FeedName, FeedSource], source: Source
) -> dict[str, Any]:
    """Return what makes the job, as plain values."""
    replay = config.replay
    return {
        "files": [
            {"name": path.name, "size": path.stat().st_size, "header": _digest(path)}
            for feed in sources.values()
            for path in _paths(feed)
        ],
        "dates": [date.isoformat() for date in replay.dates],
        "start": replay.start,
        "end": replay.end,
        "symbols": sorted(replay.symbols),
        "rename": dict(sorted(replay.rename.items())),
        "feeds": list(sources),
        "encoding": config.publish.encoding,
        "source": source.value,
        "subjects": list(subjects_of(tuple(sources))),
        "stream": config.nats.stream,
    }


def key_of(job: Mapping[str, Any]) -> str:
    """Return the job's key: what two runs of it have in common, and no other has."""
    return hashlib.sha256(msgspec.json.encode(job)).hexdigest()[:_KEY_DIGITS]


def told(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job as a record tells it: a day may have very many files."""
    files = job["files"]
    more = {"more_files": len(files) - MAX_FILES_TOLD} if len(files) > MAX_FILES_TOLD else {}
    return {**job, "files": files[:MAX_FILES_TOLD], **more}


def _paths(source: FeedSource) -> Iterator[Path]:
    """Yield the files that a feed is read from."""
    if isinstance(source, MergedFiles):
        for lane in source.lanes:
            yield from _paths(lane)
    elif isinstance(source, DBNIngestor):
        yield from (file.path for file in source.files or ())
    elif isinstance(source, JournalFeed):
        readings = find_segments(source.directory, source.market, source.dates, first_event_ns)
        yield from (reading.segment.path_there for reading in readings)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()[:_KEY_DIGITS]
