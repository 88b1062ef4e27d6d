"""The publisher process: rings in, JetStream out, on one uvloop event loop.

Its cycle: take what the rings hold, put it in order, wait until it is due, hand it to the
publisher, which encodes it and waits for the server when the server is behind. Nothing is taken
from a ring that the merge has no room for, so a slow server fills the rings and stops the feeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Final, Protocol

import uvloop

from ingestor.client.decode import BadMessageError, Message, decode
from ingestor.feeds.polygon.status_reporter import Gap, GapTracker
from ingestor.merge.pace import LatenessHistogram
from ingestor.merge.skip import SkipRows
from ingestor.merge.steering import NEVER
from ingestor.model.blocks import Block, Runs
from ingestor.model.clock import iso_utc, now_ns
from ingestor.model.errors import IngestorError, NatsUnreachableError, StreamError
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import EVENT_TYPES, EventType
from ingestor.model.units import NS_PER_S
from ingestor.publish.publisher import CLOSE_TIMEOUT_S, Publisher
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
from ingestor.ring.wire import Kind, RingReader
from ingestor.runtime import log as logs
from ingestor.runtime.controller import Steered
from ingestor.runtime.counters import PUBLISH_MODES, Counter, CounterTable, Total

HEARTBEAT_S: Final = 0.1
COUNT_NS: Final = 20_000_000
"""How old the counts in the table are at most while rows are sent."""
IDLE_S: Final = 0.5
"""Longest wait for the doorbell before looking again."""
LOOP_TIMER_ERROR_NS: Final = 2_000_000
"""An event loop's timer counts milliseconds; the last two are slept exactly, and block nothing
that cannot wait so long."""
STALLED_S: Final = 3.0
"""An orderly stop goes on while the server stores something at least this often."""
CLOSE_S: Final = 6.0
"""What closing takes at the most, of the time that an orderly stop may take."""
HOPELESS_FLUSH_S: Final = 0.5
"""How long closing waits for answers of a server that has given none for long."""

REPLAY: Final = "replay"
"""The feed under which a replay tells what was done to it."""

log = logging.getLogger(__name__)


class Merge(Protocol):
    """Either order: by watermark (replay) or of arrival (live)."""

    def room(self, feed: int) -> int:
        """Return how many more blocks of a feed can be held."""
        ...

    def push(self, block: Block) -> bool:
        """Take a block; False when full."""
        ...

    def end(self, feed: int) -> None:
        """Say that nothing more comes from a feed."""
        ...

    def pull(self) -> Runs | None:
        """Return the next rows in order, or None when more input is needed."""
        ...

    @property
    def done(self) -> bool:
        """Whether everything has been pulled."""
        ...


@dataclass(frozen=True, slots=True)
class RingInput:
    """One feed's ring and the reader of its messages; `name` is what its statuses go by."""

    ring: BlockRing
    reader: RingReader
    name: str = ""


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


@dataclass(slots=True)
class _Span:
    """First and last event time handed to the publisher, and when that was (monotonic ns)."""

    first_ts_event_ns: int | None = None
    last_ts_event_ns: int | None = None
    started_ns: int = field(default=0)

    def cover(self, runs: Runs) -> None:
        if self.first_ts_event_ns is None:
            first = runs.blocks[int(runs.block_of_run[0])]
            self.first_ts_event_ns = int(first.records["ts_event_ns"][int(runs.start[0])])
        last = int(runs.stop[-1]) - 1
        block = runs.blocks[int(runs.block_of_run[-1])]
        self.last_ts_event_ns = int(block.records["ts_event_ns"][last])


class PublisherProcess:
    """Runs one merge and one publisher until all feeds have ended, or until told to stop."""

    def __init__(
        self, inputs: PublisherInputs, publisher: Publisher, table: CounterTable, stop_s: float
    ) -> None:
        """Its row of the table is the one behind the feeds'."""
        self._rings = inputs.rings
        self._doorbell = inputs.doorbell
        self._merge = inputs.merge
        self._steered = inputs.steered
        self._drain_on_stop = inputs.drain_on_stop
        self._busy_poll = inputs.busy_poll
        self._skip = SkipRows(inputs.skip)
        self._publisher = publisher
        self._table = table
        self._row = table.row(len(inputs.rings))
        self._stop_s = stop_s
        self._span = _Span()
        self._lateness = LatenessHistogram()
        self._asking = False
        self._gaps = [GapTracker() for _ in inputs.rings]
        self._count_due_ns = 0
        self._trouble: str | None = None
        self._sleeper: asyncio.Future[None] | None = None

    def run(self) -> IngestorError | None:
        """Run on a new uvloop loop; what was published is in the table, also when it failed."""
        return uvloop.run(self._run())

    async def _run(self) -> IngestorError | None:
        self._doorbell.listen(asyncio.get_running_loop())
        if self._steered is not None:
            self._begin_steering(self._steered)
        heart = asyncio.create_task(self._beat())
        work = asyncio.create_task(self._work())
        watch = asyncio.create_task(self._cancel_hopeless(work))
        error: IngestorError | None = None
        try:
            await work
        except IngestorError as broken:
            error = broken
        except asyncio.CancelledError:
            error = NatsUnreachableError(
                "the orderly stop did not wait any longer for the server to store what was sent"
            )
        watch.cancel()
        finished_ns = time.monotonic_ns()
        try:
            timeout_s = CLOSE_TIMEOUT_S if error is None else HOPELESS_FLUSH_S
            report = await self._publisher.close(timeout_s)
        finally:
            heart.cancel()
        self._count()
        self._note_end(finished_ns)
        if report.lost_messages and not self._drain_on_stop:
            # Files can be published again: a replay whose stream lost a part of it is not done.
            error = error or StreamError(
                f"stream {report.stream} lost {report.lost_messages} acknowledged messages of "
                "this run; what came later is stored: publish the days again"
            )
        return error

    async def _work(self) -> None:
        await self._asked(self._publisher.open())
        if self._drain_on_stop:
            for feed in range(len(self._rings)):
                self._gaps[feed] = GapTracker(await self._stored_last(feed))
        while not self._merge.done and not self._is_over():
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
        await self._asked(self._publisher.flush())

    async def _stored_last(self, feed: int) -> tuple[int, int] | None:
        """Return when what an earlier run has stored of a feed ends: event and receipt."""
        reader, ends = self._rings[feed].reader, []
        for kind in EVENT_TYPES:
            if kind.subject.split(".")[1] != self._rings[feed].name:
                continue
            payload = await self._publisher.newest_under(kind.subject)
            if payload is None:
                continue
            try:
                events = decode(Message(kind.subject, 0, payload))
            except BadMessageError as error:
                log.warning("where the last run ended is not known: %s", error)
                continue
            # A replay into the same stream is no earlier part of this feed.
            if events and events[-1].source == reader.source.value:
                ends.append((events[-1].ts_event_ns, events[-1].ts_recv_ns))
        return max(ends, key=lambda end: end[1], default=None)

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
        """Whether the run is to stop and nothing more comes that is to be published first."""
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
                    if self._drain_on_stop and (gap := self._gaps[feed].on_records(item.records)):
                        self._tell_gap(feed, gap)
                elif isinstance(item, FeedStatus):
                    self._tell(feed, item)
                elif item is Kind.BEGIN and self._drain_on_stop:
                    self._gaps[feed].on_disconnect()
                    cause = self._table.cause_of_death(feed)
                    self._say(feed, What.RESTART, f"{cause}: started again")
            if source.reader.ended:
                self._merge.end(feed)
        return moved

    def _tell_gap(self, feed: int, gap: Gap) -> None:
        """Tell what a feed that was started again did not hear; the feed itself cannot know."""
        seconds = (gap.to_recv_ns - gap.from_recv_ns) / NS_PER_S
        text = f"the feed was started again: nothing was received for {seconds:.3f} s after"
        text += f" {iso_utc(gap.from_recv_ns)}"
        log.warning("%s: %s: whatever was traded then is missing", self._rings[feed].name, text)
        self._table.count_for(feed, Counter.GAPS)
        self._say(feed, What.GAP, text, **asdict(gap))

    def _say(self, feed: int, what: What, text: str, **span: int) -> None:
        name = self._rings[feed].name
        self._tell(feed, FeedStatus(feed=name, what=what, at_ns=now_ns(), text=text, **span))

    def _tell(self, feed: int, status: FeedStatus) -> None:
        self._publisher.statuses.tell(status)
        self._table.note_status(feed, status)

    async def _send(self, runs: Runs) -> None:
        if not len(runs):
            return
        if not self._span.started_ns:
            self._span.started_ns = time.monotonic_ns()
        if self._steered is None:
            await self._hand_over(runs)
            return
        steering = self._steered.steering
        steering.load(runs.key_ts_ns, time.monotonic_ns())
        while steering.done < len(runs):
            if not await self._until_due(self._steered, runs):
                return
            # Taken before it is sent: a command that comes meanwhile is told the exact position.
            rows = steering.take(time.monotonic_ns())
            due_ns = steering.due_ns(rows)
            await self._hand_over(runs.part(rows.start, rows.stop))
            if len(due_ns):
                self._lateness.add(time.monotonic_ns() - due_ns)

    async def _hand_over(self, runs: Runs) -> None:
        # Counted before: of a send that is cut short nobody knows what is stored.
        self._row.add(Counter.RECORDS, len(runs))
        self._span.cover(runs)
        await self._asked(self._publisher.send(runs))
        if time.monotonic_ns() >= self._count_due_ns:
            self._count()
        self._row[Counter.EVENT_TIME_NS] = int(runs.key_ts_ns[-1])

    async def _until_due(self, steered: Steered, runs: Runs) -> bool:
        """Sleep until the next row is due, to some tens of microseconds; False to stop instead."""
        steering, generation = steered.steering, -1
        while True:
            now_ns = time.monotonic_ns()
            due_ns = steering.next_due_ns(now_ns)
            if (left_ns := due_ns - now_ns) <= LOOP_TIMER_ERROR_NS:
                break
            if self._table.stopping:
                return False
            if generation != steering.generation:
                generation = steering.generation
                self._tell_changes(steered)
                held = due_ns == NEVER
                self._row[Counter.WAITS_UNTIL_NS] = 0 if held else due_ns
                self._row[Counter.WAITS_FOR_NS] = 0 if held else int(runs.key_ts_ns[steering.done])
            loop_s = (left_ns - LOOP_TIMER_ERROR_NS) / NS_PER_S
            await self._sleep(min(loop_s, IDLE_S))
        if generation != -1:
            self._row[Counter.WAITS_FOR_NS] = 0
        if left_ns > 0:
            # Blocks the loop for 2 ms at most: its timers count in ms, this is good to tens of us.
            time.sleep(left_ns / NS_PER_S)
        return True

    async def _sleep(self, delay_s: float) -> None:
        """Sleep as asyncio does, or until a command comes."""
        loop = asyncio.get_running_loop()
        self._sleeper = loop.create_future()
        timer = loop.call_later(delay_s, _wake, self._sleeper)
        try:
            await self._sleeper
        finally:
            timer.cancel()

    def _begin_steering(self, steered: Steered) -> None:
        controller, steering = steered.controller, steered.steering
        if (state := controller.state) is not None:
            # Another publisher was here before, and died.
            steering.restore(state)
        controller.show(steering)
        controller.listen(asyncio.get_running_loop(), partial(self._obey, steered))

    def _obey(self, steered: Steered) -> None:
        steered.controller.obey(steered.steering)
        self._tell_changes(steered)
        if self._sleeper is not None:
            _wake(self._sleeper)

    def _tell_changes(self, steered: Steered) -> None:
        """Tell each change that was made, be it by a command or by a bound that was reached."""
        for change in steered.steering.changes():
            log.info("replay: %s", change.text)
            status = FeedStatus(
                feed=REPLAY,
                what=What.CONTROL,
                at_ns=now_ns(),
                text=change.text,
                from_event_ns=change.position_ns,
                generation=change.generation,
            )
            self._tell(len(self._rings), status)
        steered.controller.show(steered.steering)

    async def _beat(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                self._count()
                self._tell_trouble()
                await asyncio.sleep(HEARTBEAT_S)

    def _tell_trouble(self) -> None:
        """Say once, for each live feed, that nothing is stored, and why."""
        trouble = self._publisher.trouble
        if trouble and trouble != self._trouble:
            log.warning("nothing is stored: %s", trouble)
            text = f"nothing is stored: {trouble}"
            for feed in range(len(self._rings) if self._drain_on_stop else 0):
                self._say(feed, What.ALARM, text)
        self._trouble = trouble

    def _count(self) -> None:
        """Bring the table up to date: a publisher that is killed has counted so far."""
        logs.drain()
        row, table, stored = self._row, self._table, self._publisher.report()
        now_ns = row[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        # Until something is stored each block counts, so that the first row is not missed.
        self._count_due_ns = now_ns + COUNT_NS if stored.messages else 0
        row.away(not self._publisher.connected, now_ns)
        row[Counter.PUBLISHED] = self._publisher.acked_rows
        row[Counter.MESSAGES] = stored.messages
        row[Counter.RECONNECTS] = stored.reconnects
        statuses = self._publisher.statuses
        row[Counter.STATUSES] = statuses.published
        row[Counter.STATUSES_LOST] = statuses.refused + statuses.dropped
        table.note_stored(stored.rows_by_subject)
        table.note_checkpoint(stored.last_seq, stored.rows_by_subject)
        table.note(Total.FIRST_SEQ, stored.first_seq)
        table.note(Total.LAST_SEQ, stored.last_seq)
        table.note(Total.MODE, PUBLISH_MODES.index(stored.mode) if stored.mode else None)
        table.note(Total.STARTED_NS, self._span.started_ns or None)
        table.note(Total.FIRST_EVENT_NS, self._span.first_ts_event_ns)
        table.note(Total.LAST_EVENT_NS, self._span.last_ts_event_ns)

    def _note_end(self, finished_ns: int) -> None:
        self._table.note(Total.UNANSWERED, self._publisher.unacked_rows)
        self._table.note(Total.LATE_P50_NS, self._lateness.percentile_ns(50))
        self._table.note(Total.LATE_P99_NS, self._lateness.percentile_ns(99))
        self._table.note(Total.FINISHED_NS, finished_ns)


def _wake(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
