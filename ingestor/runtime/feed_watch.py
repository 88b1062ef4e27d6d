"""What the publisher knows of its feeds beyond their rows, and tells on their statuses.

A feed tells what it sees of its vendor. What only the publisher can see is told here: that a
process was started again, what lies between the last record before and the first one after, and
that nothing is stored. All of it survives a publisher that dies: feeds keep their statuses until
they are settled, and those of the publisher itself are part of its `Position` until then; each has
an id by which the stream stores it once, whoever sends it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final, cast
from uuid import uuid4

import msgspec

from ingestor.config.schema import LiveFeedName
from ingestor.feeds.polygon.status_reporter import FeedGap, GapTracker
from ingestor.model.blocks import Block
from ingestor.model.errors import IngestorError, NatsUnreachableError
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S, iso_utc, now_ns
from ingestor.nats.answers import RefusedError
from ingestor.publish.publisher import Publisher
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.wire import FeedBegin, RingReader
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.positions import FeedPosition, FeedPositions, Position
from ingestor.runtime.resume import Ends, ends_in_stream, newest_times, note_ends

UNTOLD: Final = 4
"""Statuses of the publisher's own that a `Position` holds; of more, the newest."""
UNTOLD_CHARS: Final = 200
"""Of their texts, so that they fit."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RingInput:
    """One feed's ring and the reader of its messages; `name` is what its statuses go by.

    `subjects` are those of its events. A live feed that is `spooled` begins where what is stored
    ends, and tells itself what is missing; so does one that is `recorded` when it is started again.
    """

    ring: BlockRing
    reader: RingReader
    name: str = ""
    subjects: tuple[str, ...] = ()
    spooled: bool = False
    recorded: bool = False


class FeedWatch:
    """Watches the feeds of one run; of one that is not `live` it passes on statuses, no more."""

    def __init__(
        self,
        feeds: Sequence[RingInput],
        publisher: Publisher,
        table: CounterTable,
        *,
        live: bool,
        run: str,
    ) -> None:
        """`run` is part of the ids of statuses: the same for all publishers of a run."""
        self._feeds = feeds
        self._publisher = publisher
        self._table = table
        self._live = live
        self._run = run
        self._begun = Position(feeds=tuple(FeedPosition(gap=not feed.spooled) for feed in feeds))
        self._positions = FeedPositions(self._begun, [0] * len(feeds))
        self._recorded = [index for index, feed in enumerate(feeds) if feed.recorded]
        self._waiting: dict[int, tuple[int, int]] = {}
        self._gaps: list[GapTracker] = []
        self._read = [0] * len(feeds)
        self._own: dict[str, FeedStatus] = {}
        self._trouble: str | None = None

    @property
    def untold(self) -> tuple[tuple[str, FeedStatus], ...]:
        """The publisher's own statuses that are not settled, with their ids."""
        newest = list(self._own.items())[-UNTOLD:]
        return tuple(
            (key, msgspec.structs.replace(status, text=status.text[:UNTOLD_CHARS]))
            for key, status in newest
        )

    def feeds(self, stored: Mapping[int, int]) -> tuple[FeedPosition, ...]:
        """Return how far each live feed is stored, of which these rows by this publisher."""
        if not self._live:
            return ()
        gaps = [gaps.is_open for gaps in self._gaps] if self._gaps else self._positions.gaps
        return self._positions.now(stored, gaps)

    def follow(self, position: Position, rows: Mapping[str, int]) -> None:
        """Go on behind a publisher that died: these rows by subject are stored."""
        by_feed = [sum(rows.get(subject, 0) for subject in feed.subjects) for feed in self._feeds]
        # One that died before it told anything leaves its follower what it was left.
        self._positions = FeedPositions(
            position if position.feeds else self._begun, by_feed, self._recorded
        )
        # Whether they were told before is not known; who has gone on does not ask any more.
        for feed in self._recorded:
            if process := self._positions.process(feed):
                self._waiting[feed] = process, 0
        for key, status in position.untold:
            self._tell(self._index(status.feed), status, key)

    def _index(self, name: str) -> int:
        """Return whose status it is: one that is no feed's is the publisher's, behind them."""
        indices = (index for index, feed in enumerate(self._feeds) if feed.name == name)
        return next(indices, len(self._feeds))

    async def find_gaps(self) -> None:
        """Look up where each live feed's stored events end: its next ones may end a gap."""
        found = []
        for feed in range(len(self._feeds) if self._live else 0):
            found.append(GapTracker(await self._stored_last(feed)))
            # Of a feed that runs on, and keeps what is not stored, nothing is missing.
            if self._positions.gaps[feed]:
                found[feed].on_disconnect()
        # All at once: a publisher that dies before leaves its follower what it was left.
        self._gaps = found

    def hand_on_again(self) -> None:
        """Have live feeds put what is not stored once more; by the `Position` they know it."""
        cause = self._table.cause_of_death(len(self._feeds))
        for feed, source in enumerate(self._feeds if self._live else ()):
            source.ring.begin_generation()
            self._say(feed, What.RESTART, f"{cause}: started again, behind what is stored")

    async def _stored_last(self, feed: int) -> tuple[int, int] | None:
        """Return when what an earlier run has stored of a feed ends: event and receipt."""
        source = self._feeds[feed]
        stream = self._publisher.report().stream
        try:
            return await newest_times(
                self._publisher.api, stream, source.subjects, source.reader.source
            )
        except (TimeoutError, IngestorError) as error:
            # A stream that does not say does not stop the run: it takes messages.
            text = f"what is missing since the last run is not known: {error}"
            log.warning("%s: %s", source.name, text)
            self._say(feed, What.ALARM, text)
            return None

    def on_block(self, block: Block) -> None:
        """Look whether the first record of a block ends a gap."""
        if self._live and (gap := self._gaps[block.feed].on_records(block.records)):
            self._tell_gap(block.feed, gap)

    def on_status(self, feed: int, status: FeedStatus) -> None:
        """Tell what a feed tells of itself."""
        process, number = self._positions.process(feed), self._read[feed]
        self._read[feed] += 1
        settled = partial(self._positions.settled, feed, process, number)
        key = f"{self._run}.{feed}.{process}.{number}"
        self._publisher.statuses.tell(status, key, settled)
        self._table.note_status(feed, status)

    def on_begin(self, feed: int, begin: FeedBegin) -> bool:
        """Note who puts from here on; whether it is another process of a live feed."""
        self._read[feed] = begin.next_status
        rows = self._feeds[feed].reader.rows
        # The same process hands on again what is not stored.
        if not self._live or not self._positions.begin(feed, begin.process, rows):
            return False
        if feed in self._recorded:
            self._waiting[feed] = begin.process, rows
        else:
            self._gaps[feed].on_disconnect()
        self._say(feed, What.RESTART, f"{self._table.cause_of_death(feed)}: started again")
        return True

    @property
    def is_asked(self) -> bool:
        """Whether a feed waits for `tell_ends`."""
        return bool(self._waiting and self._gaps)

    async def tell_ends(self, stored: Mapping[int, int], stream: str) -> None:
        """Tell feeds that were started again where to go on, once all before is stored.

        `stored` are rows by feed of this publisher.
        """
        for feed, (process, rows) in [*self._waiting.items()]:
            if stored.get(feed, 0) < rows or (ends := await self._ends(feed, stream)) is None:
                continue
            # Another process may have begun while the stream was asked.
            if self._waiting.get(feed) != (process, rows):
                continue
            del self._waiting[feed]
            if not ends:
                self._gaps[feed].on_disconnect()
            note_ends(self._table, feed, process, ends)

    async def _ends(self, feed: int, stream: str) -> Ends | None:
        """Return where what is stored of a feed ends; None where it is to be asked again."""
        name = cast("LiveFeedName", self._feeds[feed].name)
        source = self._feeds[feed].reader.source
        try:
            api = self._publisher.api
            found = await ends_in_stream(api, stream, [name], source, settled=True)
        except (TimeoutError, NatsUnreachableError):
            return None
        except (IngestorError, LookupError) as error:
            if isinstance(error, RefusedError) and error.transient:
                return None
            log.warning("what stream %s lacks of %s is not known: %s", stream, name, error)
            return {}
        return found.get(name, {})

    def tell(self, status: FeedStatus) -> None:
        """Tell what was done to the whole run; a follower tells it where this publisher cannot."""
        self._tell(self._index(status.feed), status, uuid4().hex)

    def tell_trouble(self) -> None:
        """Say once, for each live feed, that nothing is stored, and why."""
        trouble = self._publisher.trouble
        self._table.note_trouble(len(self._feeds), trouble)
        if trouble and trouble != self._trouble:
            log.warning("nothing is stored: %s", trouble)
            for feed in range(len(self._feeds) if self._live else 0):
                self._say(feed, What.ALARM, f"nothing is stored: {trouble}")
        self._trouble = trouble

    def _tell_gap(self, feed: int, gap: FeedGap) -> None:
        """Tell what a feed that was started again did not hear; the feed itself cannot know."""
        seconds = (gap.to_recv_ns - gap.from_recv_ns) / NS_PER_S
        text = f"the feed was started again: nothing was received for {seconds:.3f} s after"
        text += f" {iso_utc(gap.from_recv_ns)}"
        log.warning("%s: %s: whatever was traded then is missing", self._feeds[feed].name, text)
        self._table.count_for(feed, Counter.GAPS)
        self._say(feed, What.GAP, text, **asdict(gap))

    def _say(self, feed: int, what: What, text: str, **span: int) -> None:
        name = self._feeds[feed].name
        status = FeedStatus(feed=name, what=what, at_ns=now_ns(), text=text, **span)
        self._tell(feed, status, uuid4().hex)

    def _tell(self, feed: int, status: FeedStatus, key: str) -> None:
        self._own[key] = status
        self._publisher.statuses.tell(status, key, lambda: self._own.pop(key, None))
        self._table.note_status(feed, status)
