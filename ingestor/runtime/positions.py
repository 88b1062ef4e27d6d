"""How far a run is stored, for the publisher that follows one that died.

The publisher shows a `Position` in shared memory: rows stored by subject, and a stream sequence to
which that is exact. Whatever of ours lies behind that sequence was stored too, though its answer
may never have come. So the follower waits until nothing more of its predecessor can arrive, counts
the rows behind the sequence (JSON: one a message; packed: as the header says), and knows how many
rows of each subject are stored, since each subject has one writer, and every feed's order is kept.

A feed's rows are numbered from the first that its present process put. The publisher counts rows
over all processes of a feed, and notes at which count each began: what is stored beyond that is of
the process of now, which keeps its rows until then and hands them on again from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from ingestor.encode.packed import is_packed, read_header, take_apart
from ingestor.model.blocks import Source
from ingestor.model.errors import BadDataError
from ingestor.model.feed_status import FeedStatus
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.publish.publisher import PublishReport, StreamPlace
from ingestor.publish.reconcile import mapped_subject
from ingestor.publish.recovery import FORMER_S

QUIET_S: Final = 0.2
"""Subjects that have not grown for so long have taken what a dead publisher had sent."""

QUIET_LOOKS: Final = 25
"""So often it is looked: others that write our subjects never let them be quiet."""

log = logging.getLogger(__name__)


class FeedPosition(msgspec.Struct, frozen=True):
    """How far a feed is stored: rows of its `process` (0, then 1, 2... when started again).

    `first` is the number of its first row, counted over all processes of the feed.
    """

    process: int = 0
    first: int = 0
    stored: int = 0
    told: int = 0
    """Statuses of the process that are settled."""
    gap: bool = False
    """Its next row ends a gap."""


class Position(msgspec.Struct, frozen=True):
    """How far a run is stored: rows by subject, all at or before `seq`.

    `certain_rows` are stored up to `certain_seq` and no more; `seq` may be too low where others
    write to the stream.
    """

    seq: int = 0
    rows: dict[str, int] = {}
    messages: int = 0
    stream_id: str = ""
    certain_seq: int = 0
    certain_messages: int = 0
    certain_rows: dict[str, int] = {}
    marks: tuple[str, ...] = ()
    """Subjects on which somebody listens while the server reads from the publisher."""
    feeds: tuple[FeedPosition, ...] = ()
    """Of live feeds alone."""
    untold: tuple[tuple[str, FeedStatus], ...] = ()
    """Statuses of the publisher's own that are not settled, and their ids."""


class Seek(msgspec.Struct, frozen=True):
    """The newest seek of a replay: its number from 1, its time, and the rows stored before it.

    Rows of each subject are counted from it on: a publisher that follows one that died leaves out
    what is stored beyond them.
    """

    number: int = 0
    at_ns: int | None = None
    rows: dict[str, int] = {}


class FeedPositions:
    """Numbers of the rows, and of the statuses, of live feeds, for their publisher.

    `before` are the rows of each feed that earlier publishers of the run have stored. Feeds that
    are `recorded` read from their journal what died with a publisher, and hand on nothing before.
    """

    def __init__(
        self, position: Position, before: Sequence[int], recorded: Collection[int] = ()
    ) -> None:
        self._before = before
        known = [*position.feeds, *[FeedPosition(gap=True)] * (len(before) - len(position.feeds))]
        self._process = [feed.process for feed in known]
        self._told = [feed.told for feed in known]
        # Rows that were put and are not stored died with their publisher where their feed is dead
        # too: whatever the feed of now puts follows what is stored.
        self._first = list(map(min, (feed.first for feed in known), before))
        self.gaps = [
            feed.gap or (first < feed.first and index not in recorded)
            for index, (feed, first) in enumerate(zip(known, self._first, strict=True))
        ]
        """Whether something is missing before the next row of a feed."""

    def process(self, feed: int) -> int:
        """Return which process of a feed puts now."""
        return self._process[feed]

    def begin(self, feed: int, process: int, rows_read: int) -> bool:
        """Note that a feed's process begins after so many rows; False for one that was known."""
        if process == self._process[feed]:
            return False
        self._process[feed], self._told[feed] = process, 0
        self._first[feed] = self._before[feed] + rows_read
        return True

    def settled(self, feed: int, process: int, number: int) -> None:
        """Note that a status of a feed's process is settled, and so are those before it."""
        if process == self._process[feed]:
            self._told[feed] = max(self._told[feed], number + 1)

    def now(self, stored: Mapping[int, int], gaps: Sequence[bool]) -> tuple[FeedPosition, ...]:
        """Return how far each feed is stored.

        `stored` are rows by feed of this publisher; `gaps` say whether a gap is open.
        """
        return tuple(
            FeedPosition(process, first, max(before + stored.get(feed, 0) - first, 0), told, gap)
            for feed, (process, first, before, told, gap) in enumerate(
                zip(self._process, self._first, self._before, self._told, gaps, strict=True)
            )
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """What a run has stored when another publisher begins."""

    rows: Mapping[str, int] = field(default_factory=dict)
    """By subject."""
    messages: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    """Sequences of the first and the last message that was found behind the position."""

    def position(
        self,
        place: StreamPlace,
        since: PublishReport,
        feeds: tuple[FeedPosition, ...],
        untold: tuple[tuple[str, FeedStatus], ...],
    ) -> Position:
        """Return what a publisher needs that follows the present one, which has stored `since`."""
        rows, certain = Counter(self.rows), Counter(self.rows)
        rows.update(since.rows_by_subject)
        certain.update(place.certain_rows)
        return Position(
            place.floor_seq,
            dict(rows),
            self.messages + since.messages,
            place.identity,
            place.certain_seq,
            self.messages + place.certain_messages,
            dict(certain),
            place.marks,
            feeds,
            untold,
        )


class Predecessor:
    """A publisher that died. `settle` is for its follower's connection; then `stored` is known."""

    def __init__(
        self, position: Position, stream: str, subjects: Sequence[str], source: Source
    ) -> None:
        self._position = position
        self._stream = stream
        self._subjects = subjects
        self._source = source
        self.stored = Stored(position.rows, position.messages)

    async def settle(self, connection: Connection) -> None:
        """Wait until nothing more of it can arrive, and count what is stored.

        Raises TimeoutError and `RefusedError`; may then be called again.
        """
        position = self._position
        if not await connection.former_closed(FORMER_S, position.marks):
            log.debug("the server still reads from the publisher that died: going on")
        api = JetStreamApi(connection)
        end = await api.stream_end(self._stream)
        # One that was made anew holds nothing that was not counted.
        if end is None or end.identity != position.stream_id:
            return
        places = {one: mapped_subject(one, end.transform) for one in self._subjects}
        known = {one: there for one, there in places.items() if there is not None}
        await quiet(api, self._stream, list(known.values()))
        try:
            self.stored = await self._count(api, known)
        except LookupError:
            known = {}
        # The server alone knows under which subjects some transforms store a message.
        if len(known) < len(places):
            log.warning(
                "stream %s does not show what the publisher that died had stored last: events of"
                " its last moments may be published twice",
                self._stream,
            )

    async def _count(self, api: JetStreamApi, places: Mapping[str, str]) -> Stored:
        """Count what lies behind the position. Raises LookupError where nobody may look."""
        position, stream = self._position, self._stream
        seq, rows = position.certain_seq, Counter(position.certain_rows)
        messages = position.certain_messages
        ours = await api.count(stream, list(places.values()), seq + 1)
        if ours is not None and ours == await api.count(stream, [">"], seq + 1):
            # Nobody else has written meanwhile, so the newer sequence is exact too.
            seq, rows, messages = position.seq, Counter(position.rows), position.messages
        seqs: list[int] = []
        for subject, place in places.items():
            async for chunk in api.stored(stream, [place], seq + 1):
                for at, payload in chunk:
                    if count := rows_in(payload, self._source):
                        rows[subject] += count
                        messages += 1
                        seqs.append(at)
        # What was acknowledged and has aged out, or was removed, was stored all the same.
        return Stored(
            rows | Counter(position.rows),
            max(messages, position.messages),
            min(seqs, default=None),
            max(seqs, default=None),
        )


async def quiet(api: JetStreamApi, stream: str, places: Sequence[str]) -> None:
    """Wait until subjects of a stream do not grow any more."""
    before: list[int] | None = None
    for _ in range(QUIET_LOOKS):
        found = [await api.message(stream, last_by_subj=place) for place in places]
        ends = [message.seq if message else 0 for message in found]
        if ends == before:
            return
        before = ends
        await asyncio.sleep(QUIET_S)


class _Envelope(msgspec.Struct):
    source: str


_envelope_decoder: Final = msgspec.json.Decoder(_Envelope)


def rows_in(payload: bytes, source: Source) -> int:
    """Return how many rows of a source a message holds: 0 for whatever is not ours."""
    try:
        if not is_packed(payload):
            return int(_envelope_decoder.decode(payload).source == source.value)
        opening, rows = take_apart(payload)
        header = read_header(opening)
    except (BadDataError, msgspec.MsgspecError, ValueError):
        return 0
    return len(rows) // header.event_type.dtype.itemsize if header.source == source else 0
