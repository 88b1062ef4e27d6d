"""Where a run goes on behind what a stream holds, asked before it writes anything.

Of a replay that is how many rows of each subject of its job are stored, of a live run where each
feed ends, for the journal to go on behind it. The publisher asks the latter too, for a feed that
was started again, once all that its predecessor had handed on is stored; the feed finds the answer
in shared memory, and hands on nothing before.

The newest record of the same job says how far everything was stored for certain. What was stored
after that is behind its sequence, and is found by comparing what lies there with what the files
hold next: exact whoever else wrote to the subjects meanwhile. It is read until the stream no longer
grows, since what a killed publisher had sent may still be on its way into the server.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import uvloop

from ingestor.client.payloads import BadMessageError, Message, decode
from ingestor.config.schema import FeedName, LiveFeedName
from ingestor.feeds.polygon.spool import StoredEnd
from ingestor.model.blocks import Source
from ingestor.model.errors import (
    JobExistsError,
    NatsRefusedError,
    NatsUnreachableError,
    StreamError,
)
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, RType
from ingestor.model.units import NS_PER_S, iso_utc, to_ns
from ingestor.nats.answers import STREAM_NOT_FOUND, RefusedError
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, StreamEnd
from ingestor.nats.options import ConnectOptions
from ingestor.publish.reconcile import mapped_subject
from ingestor.runtime.comparison import Item
from ingestor.runtime.counters import CounterTable
from ingestor.runtime.feed_process import FeedSource
from ingestor.runtime.positions import quiet
from ingestor.runtime.run_keeper import connected
from ingestor.runtime.run_records import (
    RTYPES,
    Checkpoint,
    RunRecord,
    records,
    runs_bucket,
    subjects_of,
    types_of,
)
from ingestor.runtime.verification import Expected, Opening, items_of

TAIL_SEQS: Final = 64
"""Of the stream's end that are read at first; eight times as many whenever more are needed."""

MAX_TAIL_MESSAGES: Final = 1_000_000
"""A feed's last event is not looked for behind more messages of others on its own subject."""

SLACK_NS: Final = 10 * NS_PER_S
"""A run receives before its publisher has made the stream, and the server's clock is another's."""

Ends = Mapping[RType, StoredEnd]

log = logging.getLogger(__name__)


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


class _NotedEnds(msgspec.Struct, frozen=True):
    """What the shared memory holds; the ends are those of event types, by `RType`."""

    process: int
    ends: dict[int, StoredEnd]


def note_ends(table: CounterTable, feed: int, process: int, ends: Ends) -> None:
    """Tell a process of a feed (1, 2... when started again) where it is to go on."""
    noted = _NotedEnds(process, {int(rtype): end for rtype, end in ends.items()})
    table.ends.put(feed, msgspec.json.encode(noted))


def noted_ends(table: CounterTable, feed: int, process: int) -> Ends | None:
    """Return what a process of a feed was told; None while it was told nothing."""
    data = table.ends.get(feed)
    noted = None if data is None else msgspec.json.decode(data, type=_NotedEnds)
    if noted is None or noted.process != process:
        return None
    return {RType(rtype): end for rtype, end in noted.ends.items()}


def stored_ends(
    options: ConnectOptions, stream: str, feeds: Sequence[LiveFeedName], source: Source
) -> dict[LiveFeedName, Ends]:
    """Return the ends of each feed of which something is stored, or of which nothing ever was.

    Of the latter an end is when the stream was made, and has no event (0).

    Raises NatsUnreachableError, NatsRefusedError.
    """

    async def work(connection: Connection) -> dict[LiveFeedName, Ends]:
        return await ends_in_stream(JetStreamApi(connection), stream, feeds, source)

    try:
        return uvloop.run(connected(options, work))
    except (NatsUnreachableError, NatsRefusedError):
        raise
    except (StreamError, TimeoutError, LookupError) as error:
        log.warning(
            "what stream %s lacks of the journal is not known, and not published: %s",
            *(stream, error or type(error).__name__),
        )
        return {}


def places_of(feeds: Sequence[LiveFeedName], stream_end: StreamEnd) -> dict[RType, str]:
    """Return under which subject the stream stores each type of these feeds.

    Raises LookupError where the server alone knows that.
    """
    places: dict[RType, str] = {}
    for rtype in (rtype for feed in feeds for rtype in RTYPES[feed]):
        place = mapped_subject(EVENT_TYPE_BY_RTYPE[rtype].subject, stream_end.transform)
        if place is None:
            raise LookupError("the server alone knows under which subjects it stores")
        places[rtype] = place
    return places


async def ends_in_stream(
    api: JetStreamApi,
    stream: str,
    feeds: Sequence[LiveFeedName],
    source: Source,
    *,
    settled: bool = False,
) -> dict[LiveFeedName, Ends]:
    """As `stored_ends`, over a connection that is there; of what is `settled` nothing can follow.

    Raises what asking raises, and LookupError where the server alone knows what lies where.
    """
    stream_end = await api.stream_end(stream)
    if stream_end is None:
        return {}
    places = places_of(feeds, stream_end)
    # What a run that was killed had sent may still be on its way into the server.
    if not settled:
        await quiet(api, stream, list(places.values()))
    found: dict[LiveFeedName, Ends] = {}
    for feed in feeds:
        ends = {
            rtype: await _end(api, stream, rtype, places[rtype], source) for rtype in RTYPES[feed]
        }
        known = {rtype: end for rtype, end in ends.items() if end is not None}
        if not known and await _never_held(api, stream, stream_end, [places[one] for one in ends]):
            made_ns = to_ns(dt.datetime.fromisoformat(stream_end.identity))
            found[feed] = dict.fromkeys(ends, StoredEnd(0, made_ns - SLACK_NS, 0))
            continue
        if not known:
            log.info(
                "stream %s holds nothing of %s: nothing of the journal is published before what is"
                " new (ingestor replay --journal does it)",
                *(stream, feed),
            )
            continue
        # Of a type of which nothing is stored all is wanted that follows what is.
        first = min(known.values(), key=lambda end: end.recv_ns)
        found[feed] = {rtype: end or first._replace(rows=0) for rtype, end in ends.items()}
    return found


async def _never_held(
    api: JetStreamApi, stream: str, end: StreamEnd, places: Sequence[str]
) -> bool:
    """Whether a stream has never held anything on these subjects.

    One out of which nothing was ever removed, by age, by a limit or by hand, holds all it ever
    took. Of any other nobody knows: what an old journal has may have been stored, and aged out.
    """
    if end.first_seq > 1 or end.removed_amid:
        return False
    return not any([await api.message(stream, last_by_subj=place) for place in places])


async def newest_times(
    api: JetStreamApi, stream: str, subjects: Sequence[str], source: Source
) -> tuple[int, int] | None:
    """Return when the newest event on a feed's subjects was made and received.

    None where no subject ends with an event of this source: a replay into the same stream is no
    earlier part of the feed. Raises what asking raises.
    """
    end = await api.stream_end(stream)
    found: list[tuple[int, int]] = []
    for subject in subjects:
        place = end and mapped_subject(subject, end.transform)
        newest = await api.message(stream, last_by_subj=place) if place else None
        if newest is not None:
            found += _times(subject, newest.payload, source)[-1:]
    # A frame's events share a receipt, and may lie on several subjects.
    return max(found, key=lambda times: times[::-1], default=None)


async def _end(
    api: JetStreamApi, stream: str, rtype: RType, place: str, source: Source
) -> StoredEnd | None:
    """Return where what is stored of one type ends; None where nothing of this source is found."""
    subject = EVENT_TYPE_BY_RTYPE[rtype].subject
    newest = await api.message(stream, last_by_subj=place)
    if newest is None:
        return None
    back = TAIL_SEQS
    while True:
        start, read = max(newest.seq - back, 1), 0
        times: list[tuple[int, int]] = []
        async for chunk in api.stored(stream, [place], start):
            read += len(chunk)
            times += [one for _, payload in chunk for one in _times(subject, payload, source)]
        # The events of one read may be many: all of them are to be counted.
        is_whole = start == 1 or (times and times[0][1] != times[-1][1])
        if is_whole or read > MAX_TAIL_MESSAGES:
            break
        back *= 8
    if not times:
        return None
    event_ns, recv_ns = times[-1]
    rows = next((n for n, one in enumerate(reversed(times)) if one[1] != recv_ns), len(times))
    return StoredEnd(event_ns, recv_ns, rows)


def _times(subject: str, payload: bytes, source: Source) -> list[tuple[int, int]]:
    """Return when the events of a message were made and received, if they are of a source."""
    try:
        events = decode(Message(subject, 0, payload))
    except BadMessageError:
        return []  # Whatever else lies there is another's.
    return [(one.ts_event_ns, one.ts_recv_ns) for one in events if one.source == source.value]
