"""Where what a stream holds of live feeds ends, for the journal to go on behind it.

Asked by a run that has begun, and taken the leases, but writes nothing yet; and by the publisher
for a feed that was started again, once all that its predecessor had handed on is stored. The feed
finds the answer in shared memory, and hands on nothing before.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import uvloop

from ingestor.client.payloads import BadMessageError, Message, decode
from ingestor.config.schema import LiveFeedName
from ingestor.feeds.polygon.spool import StoredEnd
from ingestor.model.blocks import Source
from ingestor.model.clock import to_ns
from ingestor.model.errors import NatsRefusedError, NatsUnreachableError, StreamError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, RType
from ingestor.model.units import NS_PER_S
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, StreamEnd
from ingestor.nats.options import ConnectOptions
from ingestor.publish.reconcile import mapped_subject
from ingestor.runtime.counters import CounterTable
from ingestor.runtime.positions import quiet
from ingestor.runtime.run_keeper import connected
from ingestor.runtime.run_records import RTYPES

TAIL_SEQS: Final = 64
"""Of the stream's end that are read at first; eight times as many whenever more are needed."""

MAX_TAIL_MESSAGES: Final = 1_000_000
"""A feed's last event is not looked for behind more messages of others on its own subject."""

SLACK_NS: Final = 10 * NS_PER_S
"""A run receives before its publisher has made the stream, and the server's clock is another's."""

Ends = Mapping[RType, StoredEnd]

log = logging.getLogger(__name__)


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
    places: dict[RType, str] = {}
    for rtype in (rtype for feed in feeds for rtype in RTYPES[feed]):
        place = mapped_subject(EVENT_TYPE_BY_RTYPE[rtype].subject, stream_end.transform)
        if place is None:
            raise LookupError("the server alone knows under which subjects it stores")
        places[rtype] = place
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
            found[feed] = dict.fromkeys(ends, StoredEnd(0, _made_ns(stream_end) - SLACK_NS, 0))
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


def _made_ns(end: StreamEnd) -> int:
    return to_ns(dt.datetime.fromisoformat(end.identity))


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
