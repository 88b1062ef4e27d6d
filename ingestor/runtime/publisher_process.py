"""The publisher process: rings in, JetStream out, on one uvloop event loop.

Its cycle: take what the rings hold, put it in order, wait until it is due, hand it to the
publisher, which encodes it and waits for the server when the server is behind. Nothing is taken
from a ring that the merge has no room for, so a slow server fills the rings and stops the feeds.

One that follows another that died goes on exactly behind what that one has stored (`positions`):
files are read again from their beginning, and what is stored is left out; live feeds hand on again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import uvloop

from ingestor.merge.ordering import ArrivalMerge, SkipRows, WatermarkMerge
from ingestor.model.blocks import Block, Runs
from ingestor.model.errors import IngestorError, NatsUnreachableError, StreamError
from ingestor.model.feed_status import FeedStatus
from ingestor.model.records import EventType
from ingestor.model.units import NS_PER_S
from ingestor.publish.publisher import CLOSE_TIMEOUT_S, Publisher
from ingestor.ring.block_ring import Doorbell
from ingestor.ring.wire import FeedBegin
from ingestor.runtime import log as logs
from ingestor.runtime.controller import Pace, Steered
from ingestor.runtime.counters import PUBLISH_MODES, Counter, CounterRow, CounterTable, Total
from ingestor.runtime.feed_process import span_of
from ingestor.runtime.feed_watch import FeedWatch, RingInput
from ingestor.runtime.latency import PublisherLatencies
from ingestor.runtime.positions import Position, Predecessor, Seek, Stored
from ingestor.runtime.run_records import types_of

HEARTBEAT_S: Final = 0.1
IDLE_S: Final = 0.5
"""Longest wait for the doorbell before looking again."""
STALLED_S: Final = 3.0
"""An orderly stop goes on while the server stores something at least this often."""
CLOSE_S: Final = 6.0
"""What closing takes at the most, of the time that an orderly stop may take."""
HOPELESS_FLUSH_S: Final = 0.5
"""How long closing waits for answers of a server that has given none for long."""

RECORD_LOOK_S: Final = 0.002
RECORD_S: Final = 1.0
"""How long what comes after the first seek waits for the record of the run to tell of it."""

log = logging.getLogger(__name__)

Merge = WatermarkMerge | ArrivalMerge
"""Order by watermark (replay), or of arrival (live)."""


@dataclass(frozen=True, slots=True)
class PublisherInputs:
    """What feeds the publisher: rings by feed index, their doorbell, the order, and who steers it.

    A run that is to stop in order leaves what is in the rings (files can be read again), or, with
    `drain_on_stop`, first publishes what the feeds still put in until they have ended (a live feed
    cannot be asked again). A publisher with `busy_poll` looks at its rings again and again instead
    of waiting for the doorbell: a CPU of its own for an earlier start.
    """

    rings: Sequence[RingInput]
    doorbell: Doorbell
    merge: Merge
    steered: Steered | None = None
    drain_on_stop: bool = False
    busy_poll: bool = False
    skip: Mapping[EventType, int] = field(default_factory=dict)
    """Rows of each type that are stored already: the first of a replay that goes on."""
    keeper: tuple[Doorbell, CounterRow] | None = None
    """Has the record of the run written at once, and the row of the process that writes it."""
    run: str = field(default_factory=lambda: uuid4().hex)
    """The same for every publisher of a run."""


class PublisherProcess:
    """Runs one merge and one publisher until all feeds have ended, or until told to stop."""

    def __init__(
        self, inputs: PublisherInputs, publisher: Publisher, table: CounterTable, stop_s: float
    ) -> None:
        """Its row of the table is the one behind the feeds'."""
        self._rings = inputs.rings
        self._doorbell = inputs.doorbell
        self._merge = inputs.merge
        self._keeper = inputs.keeper
        self._drain_on_stop = inputs.drain_on_stop
        self._busy_poll = inputs.busy_poll
        self._of_earlier = Tally(inputs.skip)
        self._skip = SkipRows(inputs.skip)
        self._publisher = publisher
        self._table = table
        self._row = table.row(len(inputs.rings))
        self._stop_s = stop_s
        self._began_ns = 0
        self._first_event_ns: int | None = None
        self._last_event_ns: int | None = None
        self._latencies = PublisherLatencies(table.latencies, len(inputs.rings))
        publisher.tell_stored(self._latencies.on_stored)
        self._asking = False
        self._again = self._row[Counter.RESTARTS] > 0
        self._before = Stored()
        self._watch = FeedWatch(
            inputs.rings,
            publisher,
            table,
            live=inputs.drain_on_stop,
            run=inputs.run,
        )
        self._is_counted = False
        self._at_beat = (0, 0)
        """Rows acknowledged and rows under way, at the last beat."""
        self._pace: Pace | None = None
        if inputs.steered is not None:
            self._pace = Pace(inputs.steered, table, self._row, self._watch.tell)

    def run(self) -> IngestorError | None:
        """Run on a new uvloop loop; what was published is in the table, also when it failed."""
        return uvloop.run(self._run())

    async def _run(self) -> IngestorError | None:
        loop = asyncio.get_running_loop()
        self._doorbell.listen(loop)
        if self._again:
            self._table.go_on(len(self._rings))
        if self._pace is not None:
            feeds = [self._table.row(feed) for feed in range(len(self._rings))]
            self._pace.steering.span = lambda: span_of(feeds, self._row[Counter.FIRST_EVENT_NS])
            self._pace.listen(loop, self._doorbell.ring)
        heart = asyncio.create_task(self._beat())
        work = asyncio.create_task(self._work())
        watch = asyncio.create_task(self._cancel_hopeless(work))
        ends = asyncio.create_task(self._tell_ends())
        error: IngestorError | None = None
        await asyncio.wait({work, ends}, return_when=asyncio.FIRST_COMPLETED)
        if ends.done():
            # It ends by a fault of this program alone: feeds would wait for it for ever.
            ends.result()
        try:
            await work
        except IngestorError as broken:
            error = broken
        except asyncio.CancelledError:
            error = NatsUnreachableError(
                "the orderly stop did not wait any longer for the server to store what was sent"
            )
        watch.cancel()
        ends.cancel()
        finished_ns = time.monotonic_ns()
        try:
            timeout_s = CLOSE_TIMEOUT_S if error is None else HOPELESS_FLUSH_S
            report = await self._publisher.close(timeout_s)
        finally:
            heart.cancel()
        self._count()
        self._latencies.flush()
        self._table.note(Total.UNANSWERED, self._publisher.unacked_rows)
        self._table.note(Total.FINISHED_NS, finished_ns)
        if report.lost_messages and not self._drain_on_stop:
            # Files can be published again: a replay whose stream lost a part of it is not done.
            error = error or StreamError(
                f"stream {report.stream} lost {report.lost_messages} acknowledged messages of "
                "this run; what came later is stored: publish the days again"
            )
        return error

    async def _work(self) -> None:
        await self._asked(self._open())
        while True:
            await self._publish_all()
            await self._asked(self._publisher.flush())
            if self._is_over() or not self._is_to_seek():
                return
            await self._begin_anew()

    async def _publish_all(self) -> None:
        """Send all there is, or until the run stops or is sought elsewhere."""
        while not self._merge.done and not self._is_over() and not self._seeks():
            taken = self._take()
            runs = self._merge.pull()
            if runs is not None and not self._skip.done:
                runs = self._skip.rest(runs)
                await asyncio.sleep(0)  # Signs of life are given while a long front is passed.
            if runs is not None:
                await self._send(runs)
            elif not taken:
                # Nothing to take, nothing to send: the loop goes round once, or sleeps to the bell.
                await (asyncio.sleep(0) if self._busy_poll else self._doorbell.wait(IDLE_S))

    def _seeks(self) -> bool:
        """Whether a seek is under way: nothing more is sent of what is here."""
        return self._pace is not None and self._pace.seeks

    def _is_to_seek(self) -> bool:
        """Whether the replay goes on elsewhere though all is sent, since a loop goes round."""
        if self._pace is not None and self._merge.done:
            self._pace.come_to_end()
        return self._seeks()

    async def _begin_anew(self) -> None:
        """Have the files read from another time on. All that was sent before is stored."""
        if self._pace is None:
            return
        steering = self._pace.steering
        self._count()
        position = self._table.position or Position()
        number = self._table.seek.number + 1
        self._table.note_seek(Seek(number, steering.seeking_ns, position.rows))
        await self._tell_record()
        # Nothing is awaited any more: meanwhile it may have been sought to yet another time.
        # In this order: a feed that finds its ring renewed finds the time too, and who dies between
        # two of these lines leaves a seek that is still under way to its follower.
        self._table.note_seek(Seek(number, steering.seeking_ns, position.rows))
        for source in self._rings:
            source.ring.begin_generation()
            source.reader.begin_anew()
        self._merge.begin_anew()
        self._skip = SkipRows({})
        # Shown before the seek is: whoever measures the speed sees the jump with it, and a replay
        # that is paused shows where it stands.
        self._row[Counter.EVENT_TIME_NS] = steering.seeking_ns or 0
        steering.begin_anew()
        self._pace.show()

    async def _tell_record(self) -> None:
        """Wait until the record of the run says that it was sought in.

        Killed as soon as something is stored behind a seek, a run must not look like one that the
        next may go on behind.
        """
        if self._keeper is None:
            return
        bell, keeper = self._keeper
        bell.ring()
        by_ns = time.monotonic_ns() + int(RECORD_S * NS_PER_S)
        while not (keeper[Counter.SEEKS] or keeper[Counter.ENDED] or self._table.stopping):
            if time.monotonic_ns() > by_ns:
                log.debug("the record of this run does not tell of the seek yet")
                return
            await asyncio.sleep(RECORD_LOOK_S)

    async def _open(self) -> None:
        """Open the stream, and go on behind what an earlier publisher of this run has stored."""
        position = (self._table.position if self._again else None) or Position()
        former = Predecessor(
            position,
            self._publisher.report().stream,
            [subject for feed in self._rings for subject in feed.subjects],
            self._rings[0].reader.source,
        )
        await self._publisher.open(former.settle if self._again else None)
        self._before = former.stored
        if self._again:
            self._go_on(position)
        # Before anything is sent: a successor must know where this publisher began.
        self._count()
        if self._again:
            self._watch.hand_on_again()
        await self._watch.find_gaps()

    def _go_on(self, position: Position) -> None:
        """Count on from what is stored; rows of files that are stored are left out."""
        before = self._before
        rows = sum(before.rows.values())
        log.warning("going on behind %s events", f"{rows:,}")
        self._row.count_from(Counter.RECORDS, rows)
        self._row.count_from(Counter.PUBLISHED, rows)
        self._row.count_from(Counter.MESSAGES, before.messages)
        self._note_first(Total.FIRST_SEQ, before.first_seq)
        self._note_last(Total.LAST_SEQ, before.last_seq)
        self._watch.follow(position, before.rows)
        if self._drain_on_stop:
            return
        stored, seek = Tally(types_of(before.rows)), self._table.seek
        # What lies before a seek is another part of the files, whoever has stored it.
        self._skip = SkipRows(
            stored - Tally(types_of(seek.rows)) if seek.number else stored + self._of_earlier
        )

    async def _asked(self, answer: Awaitable[None]) -> None:
        """Wait for the server."""
        self._asking = True
        await answer
        self._asking = False

    async def _cancel_hopeless(self, work: asyncio.Task[None]) -> None:
        """End an orderly stop in which the server stores nothing more, or too slowly."""
        while not self._table.stopping:
            await asyncio.sleep(HEARTBEAT_S)
        now_s = progress_s = time.monotonic()
        # The supervisor kills at `stop_s`: what closing takes must be left of it.
        end_s = now_s + max(self._stop_s - CLOSE_S, self._stop_s / 2)
        stored = self._publisher.acked_rows
        while now_s < min(end_s, progress_s + STALLED_S) and not self._table.giving_up:
            await asyncio.sleep(HEARTBEAT_S)
            now_s = time.monotonic()
            if not self._asking or self._publisher.acked_rows != stored:
                stored, progress_s = self._publisher.acked_rows, now_s
        work.cancel()

    def _is_over(self) -> bool:
        """Whether the run stops and nothing that must be published first is still to come."""
        if not self._table.stopping or not self._drain_on_stop:
            return self._table.stopping
        ended = [self._table.row(feed)[Counter.ENDED] for feed in range(len(self._rings))]
        # A feed that is killed has ended with rows in its ring: they count as received.
        return all(ended) and not any(source.ring.used_bytes for source in self._rings)

    def _take(self) -> bool:
        """Move messages from rings to merge as far as it has room; True if any moved."""
        moved = False
        for feed, source in enumerate(self._rings):
            for message in source.ring.take(self._merge.room(feed)):
                moved = True
                item = source.reader.read(message)
                if isinstance(item, Block):
                    self._merge.push(item)
                    self._watch.on_block(item)
                elif isinstance(item, FeedStatus):
                    self._watch.on_status(feed, item)
                elif isinstance(item, FeedBegin) and self._watch.on_begin(feed, item):
                    # Before its rows are sent: a successor must know whose they are.
                    self._count()
            if source.reader.ended:
                self._merge.end(feed)
        return moved

    async def _send(self, runs: Runs) -> None:
        if not len(runs):
            return
        self._began_ns = self._began_ns or time.monotonic_ns()
        if self._pace is None:
            await self._hand_over(runs)
            return
        steering = self._pace.steering
        if self._seeks():
            return
        steering.load(runs.key_ts_ns, time.monotonic_ns())
        while steering.done < len(runs):
            if not await self._pace.until_due(runs):
                return
            # Taken before it is sent: a command that comes meanwhile is told the exact position.
            rows = steering.take(time.monotonic_ns())
            due_ns = steering.due_ns(rows)
            await self._hand_over(runs.part(rows.start, rows.stop))
            if len(due_ns):
                self._latencies.lateness.add_each(time.monotonic_ns() - due_ns)

    async def _hand_over(self, runs: Runs) -> None:
        # Counted before: of a send that is cut short nobody knows what is stored.
        self._row.add(Counter.RECORDS, len(runs))
        if self._first_event_ns is None:
            self._first_event_ns = runs.event_ns(0)
        self._last_event_ns = runs.event_ns(-1)
        self._latencies.on_handed(runs)
        await self._asked(self._publisher.send(runs))
        # Until something is stored each block counts, so that the first row is not missed. Then
        # beats do: every 20 ms cost a live run's publisher a sixth.
        if not self._is_counted:
            self._count()
        self._row[Counter.EVENT_TIME_NS] = int(runs.key_ts_ns[-1])

    async def _beat(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                self._note_stall()
                self._count()
                self._watch.tell_trouble()
                self._latencies.flush()
                await asyncio.sleep(HEARTBEAT_S)

    def _note_stall(self) -> None:
        """Note whether nothing was stored since the last beat, though rows were under way then."""
        acked, under_way = self._at_beat
        self._at_beat = self._publisher.acked_rows, self._publisher.unacked_rows
        stalled = under_way > 0 and acked == self._at_beat[0]
        self._row.note_since(Counter.STALLED_SINCE_NS, stalled, time.monotonic_ns())

    async def _tell_ends(self) -> None:
        """Tell feeds that were started again where to go on."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            if self._watch.is_asked:
                report = self._publisher.report()
                await self._watch.tell_ends(report.rows_by_feed, report.stream)

    def _count(self) -> None:
        """Bring the table up to date: a publisher that is killed has counted so far."""
        logs.drain()
        row, place, now_ns = self._row, self._publisher.place, time.monotonic_ns()
        row[Counter.HEARTBEAT_NS] = now_ns
        row.note_since(Counter.AWAY_SINCE_NS, not self._publisher.connected, now_ns)
        if place is None:
            return
        stored = self._publisher.report()
        self._is_counted = stored.messages > 0
        row[Counter.UNACKED] = self._publisher.unacked_rows
        first_ns = self._first_event_ns
        row[Counter.FIRST_EVENT_NS] = row[Counter.FIRST_EVENT_NS] or first_ns or 0
        row[Counter.PUBLISHED] = self._publisher.acked_rows
        row[Counter.MESSAGES] = stored.messages
        row[Counter.RECONNECTS] = stored.reconnects
        statuses = self._publisher.statuses
        row[Counter.STATUSES] = statuses.published
        row[Counter.STATUSES_LOST] = statuses.refused + statuses.dropped
        feeds = self._watch.feeds(stored.rows_by_feed)
        position = self._before.position(place, stored, feeds, self._watch.untold)
        self._table.note_position(position)
        self._table.note_stored(position.rows)
        self._note_first(Total.FIRST_SEQ, stored.first_seq)
        self._note_last(Total.LAST_SEQ, stored.last_seq)
        self._note_last(Total.MODE, PUBLISH_MODES.index(stored.mode) if stored.mode else None)
        self._note_first(Total.STARTED_NS, self._began_ns or None)
        self._note_first(Total.FIRST_EVENT_NS, first_ns)
        self._note_last(Total.LAST_EVENT_NS, self._last_event_ns)

    def _note_first(self, total: Total, value: int | None) -> None:
        if self._table.total(total) is None:
            self._table.note(total, value)

    def _note_last(self, total: Total, value: int | None) -> None:
        # What an earlier publisher has noted holds until there is something newer.
        if value is not None:
            self._table.note(total, value)
