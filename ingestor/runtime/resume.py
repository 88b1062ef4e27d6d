"""Where a replay goes on: how many rows of each subject of its job a stream holds.

The newest record of the same job says how far everything was stored for certain. What was stored
after that is behind its sequence, and is found by comparing what lies there with what the files
hold next: exact whoever else wrote to the subjects meanwhile. It is read until the stream no longer
grows, since what a killed publisher had sent may still be on its way into the server.

A job is its files, dates, filters, encoding and feeds. Pace does not count, nor where the files
lie: the order of what is published is the same. A file counts by its name, its size and a digest
of its first bytes, in which its header stands.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from ingestor.config.schema import Config, FeedName
from ingestor.feeds.databento.ingestor import DBNIngestor
from ingestor.feeds.polygon.journal_feed import JournalFeed, first_event_ns
from ingestor.journal.reader import find_segments
from ingestor.model.blocks import Source
from ingestor.model.clock import iso_utc
from ingestor.model.errors import JobExistsError
from ingestor.nats.answers import STREAM_NOT_FOUND, RefusedError
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, StreamEnd
from ingestor.runtime.comparison import Item
from ingestor.runtime.feed_process import FeedSource, MergedFiles
from ingestor.runtime.positions import quiet
from ingestor.runtime.run_records import (
    Checkpoint,
    RunRecord,
    records,
    runs_bucket,
    subjects_of,
    types_of,
)
from ingestor.runtime.verification import Expected, Opening, items_of

log = logging.getLogger(__name__)

HEADER_BYTES: Final = 65_536
"""How much of a file's beginning is digested."""

MAX_FILES_TOLD: Final = 100
"""Files that a record lists; its key is made of all of them."""

_KEY_DIGITS: Final = 16


class Resume:
    """Finds out what a job goes on behind; `existing` is the setting of that name."""

    def __init__(
        self, sources: Mapping[FeedName, FeedSource], opening: Opening, existing: str
    ) -> None:
        self._sources = sources
        self._opening = opening
        self._existing = existing

    async def prepare(self, connection: Connection, record: RunRecord) -> RunRecord:
        """Return the record of a run with what it continues; as ``done`` if there is nothing to do.

        Raises `JobExistsError`, and what reading the stream and the files raises.
        """
        api = JetStreamApi(connection)
        if self._existing == "fresh":
            await _purge(api, record)
        if self._existing in ("fresh", "again"):
            return record
        end = await api.stream_end(record.stream)
        found = await records(runs_bucket(connection))
        mine = [one for one in found if one.job == record.job]
        # A run that was killed before it knew the stream that it made has no rows to rely on: what
        # is there is compared from the beginning on.
        here = [one for one in mine if end is not None and one.stream_id in ("", end.identity)]
        last = here[-1] if here else None
        if end is None or last is None:
            _tell_others(record, found, mine, end)
            return record
        if not await _is_held(api, last):
            log.info(
                "stream %s no longer holds what run %s published of these files: all is published"
                " anew",
                *(record.stream, last.run),
            )
            return record
        if last.sought:
            raise JobExistsError(
                f"run {last.run} of these files was sought in, so what stream {last.stream} holds"
                " of them is no beginning to go on behind: --again publishes all of them behind"
                " it, --fresh removes what is there first"
            )
        if last.state == "done" and last.checkpoint.rows:
            self._refuse(last)
            return _complete(record, last)
        return await self._behind(api, record, last)

    def _refuse(self, last: RunRecord) -> None:
        if self._existing == "refuse":
            raise JobExistsError(
                f"stream {last.stream} holds these files, or a part of them, from sequence"
                f" {last.job_seq} on (run {last.run}), and replay.existing is refuse"
            )

    async def _behind(self, api: JetStreamApi, record: RunRecord, last: RunRecord) -> RunRecord:
        # Our subjects alone: another run may write to the same stream all the time.
        await quiet(api, last.stream, last.subjects)
        end = await api.stream_end(record.stream)
        checkpoint = await self._position(api, last, end)
        rows = sum(checkpoint.rows.values())
        if rows:
            self._refuse(last)
            log.info(
                "going on behind %s events that run %s and any before it have stored in %s",
                *(f"{rows:,}", last.run, record.stream),
            )
        return msgspec.structs.replace(
            record,
            checkpoint=checkpoint,
            job_seq=last.job_seq,
            continues=last.run if rows else None,
        )

    async def _position(
        self, api: JetStreamApi, last: RunRecord, end: StreamEnd | None
    ) -> Checkpoint:
        """Return how far a job is stored, and the sequence up to which that is known."""
        rows = dict(last.checkpoint.rows)
        start = last.checkpoint.seq + 1
        for feed, source in self._sources.items():
            for subject in subjects_of((feed,)):
                stored = await api.count(last.stream, [subject], start)
                if stored == 0:
                    continue
                rows[subject] = await self._matched(
                    api, (last.stream, subject, start), source, rows
                )
        return Checkpoint(end.last_seq if end else last.checkpoint.seq, rows)

    async def _matched(
        self,
        api: JetStreamApi,
        place: tuple[str, str, int],
        source: FeedSource,
        rows: Mapping[str, int],
    ) -> int:
        """Count on through what is stored on a subject from a sequence on."""
        stream, subject, start = place
        expected = self._next_items(source, subject, rows)
        count, due = rows.get(subject, 0), next(expected, None)
        key = subject.encode()
        async for chunk in api.stored(stream, [subject], start):
            for _, payload in chunk:
                items = items_of(key, payload) if self._opening.packed else [(key, payload)]
                for item in items:
                    # Whatever else lies there is another's, or was counted before.
                    if item == due:
                        count, due = count + 1, next(expected, None)
        return count

    def _next_items(
        self, source: FeedSource, subject: str, rows: Mapping[str, int]
    ) -> Iterator[Item]:
        key = subject.encode()
        skip = {kind: count for kind, count in types_of(rows).items() if kind.subject == subject}
        for items in Expected([source], self._opening, skip).pieces():
            yield from (item for item in items if item[0] == key)


def _complete(record: RunRecord, last: RunRecord) -> RunRecord:
    log.info(
        "stream %s holds all of these files, %s events from sequence %s to %s (run %s, ended %s):"
        " nothing is published; --again publishes them once more",
        *(record.stream, f"{sum(last.checkpoint.rows.values()):,}"),
        *(f"{last.job_seq:,}", f"{last.checkpoint.seq:,}", last.run, iso_utc(last.updated_ns)[:19]),
    )
    return msgspec.structs.replace(
        record, state="done", job_seq=last.job_seq, checkpoint=last.checkpoint
    )


def _tell_others(
    record: RunRecord,
    found: list[RunRecord],
    mine: list[RunRecord],
    end: StreamEnd | None,
) -> None:
    """Say why an earlier run is not continued, where somebody might think that it is."""
    if mine:
        log.info(
            "stream %s was made anew since run %s: all is published anew",
            *(record.stream, mine[-1].run),
        )
        return
    others = [
        one
        for one in found
        if one.kind == "replay"
        and end is not None
        and one.stream_id == end.identity
        and not set(one.subjects).isdisjoint(record.subjects)
    ]
    if others:
        log.info(
            "stream %s holds another job on the same subjects (run %s: other files, dates, filters"
            " or encoding); this one is published behind it",
            *(record.stream, others[-1].run),
        )


async def _is_held(api: JetStreamApi, last: RunRecord) -> bool:
    """Whether the stream still holds something of what a job has published, if it has."""
    first, checkpoint = last.job_seq, last.checkpoint
    if first is None or not sum(checkpoint.rows.values()):
        return True
    there = await api.count(last.stream, last.subjects, first)
    behind = await api.count(last.stream, last.subjects, checkpoint.seq + 1)
    return there is None or behind is None or there > behind


async def _purge(api: JetStreamApi, record: RunRecord) -> None:
    for subject in record.subjects:
        try:
            answer = await api.call(
                f"stream {record.stream}", f"STREAM.PURGE.{record.stream}", {"filter": subject}
            )
        except RefusedError as refused:
            if refused.error.err_code == STREAM_NOT_FOUND:
                return
            raise
        if purged := answer.get("purged"):
            log.info("removed %s messages of %s from stream %s", purged, subject, record.stream)


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
