"""The publisher process: rings in, JetStream out, on one uvloop event loop.

Its cycle: take what the rings hold, put it in order, wait until it is due, hand it to the
publisher, which encodes it and waits for the server when the server is behind. Nothing is taken
from a ring that the merge has no room for, so a slow server fills the rings and stops the feeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
import uvloop

from ingestor.blocks import Block, Runs
from ingestor.errors import IngestorError, StreamError
from ingestor.feed_status import FeedStatus
from ingestor.merge.lateness import LatenessHistogram
from ingestor.merge.pace import Pacer
from ingestor.publish.publisher import Publisher, PublishReport
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.counters import Counter, CounterRow, CounterTable
from ingestor.runtime.status_board import StatusBoard
from ingestor.units import NS_PER_S

HEARTBEAT_S: Final = 0.1
IDLE_S: Final = 0.5
"""Longest wait for the doorbell before looking again."""
LOOP_TIMER_ERROR_NS: Final = 2_000_000
"""An event loop's timer counts milliseconds; the last two are slept exactly, and block nothing
that cannot wait so long."""
FLUSH_SHARE_OF_STOP: Final = 0.8
"""An orderly stop gives the server this much of its time to acknowledge what is under way."""


class Merge(Protocol):
    """Either order: by horizon (replay) or of arrival (live)."""

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


class PublisherReport(msgspec.Struct, frozen=True):
    """What was published: acknowledged rows only, by subject; times in ns, sequences or None."""

    published: int = 0
    by_subject: dict[str, int] = {}
    messages: int = 0
    elapsed_s: float = 0.0
    first_ts_event_ns: int | None = None
    last_ts_event_ns: int | None = None
    stream: str = ""
    first_seq: int | None = None
    last_seq: int | None = None
    publish_mode: str | None = None
    reconnects: int = 0
    lost_messages: int = 0
    statuses: int = 0
    late_p50_ns: int | None = None
    late_p99_ns: int | None = None
    error: str | None = None
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Inlet:
    """One feed's ring and the reader of its messages."""

    ring: BlockRing
    reader: RingReader


@dataclass(frozen=True, slots=True)
class Flow:
    """What feeds the publisher: inlets by feed index, their doorbell, the order and the pace.

    A run that is to stop in order leaves what is in the rings (files can be read again), or first
    publishes what the feeds still put in until they have ended (a live feed cannot): `drains`.
    The feeds' statuses are also shown on the `board`. A publisher that `spins` looks at its rings
    again and again instead of waiting for the doorbell: a CPU of its own for an earlier start.
    """

    inlets: Sequence[Inlet]
    doorbell: Doorbell
    merge: Merge
    pacer: Pacer | None = None
    drains: bool = False
    spins: bool = False
    board: StatusBoard | None = None


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
        self, flow: Flow, publisher: Publisher, table: CounterTable, row: CounterRow, stop_s: float
    ) -> None:
        self._inlets = flow.inlets
        self._doorbell = flow.doorbell
        self._merge = flow.merge
        self._pacer = flow.pacer
        self._drains = flow.drains
        self._spins = flow.spins
        self._board = flow.board
        self._publisher = publisher
        self._table = table
        self._row = row
        self._stop_s = stop_s
        self._span = _Span()
        self._lateness = LatenessHistogram()

    def run(self) -> PublisherReport:
        """Run on a new uvloop loop; a failure is in the report, beside what was published."""
        return uvloop.run(self._run())

    async def _run(self) -> PublisherReport:
        self._doorbell.listen(asyncio.get_running_loop())
        heart = asyncio.create_task(self._beat())
        error: IngestorError | None = None
        try:
            await self._publish_all()
        except IngestorError as broken:
            error = broken
        finished_ns = time.monotonic_ns()
        try:
            report = await self._publisher.close()
        finally:
            heart.cancel()
        self._count()
        if report.lost_messages and not self._drains:
            # Files can be published again: a replay whose stream lost a part of it is not done.
            error = error or StreamError(
                f"stream {report.stream} lost {report.lost_messages} acknowledged messages of "
                "this run; what came later is stored: publish the days again"
            )
        return self._report(report, finished_ns, error)

    async def _publish_all(self) -> None:
        await self._publisher.open()
        work = asyncio.create_task(self._work())
        watch = asyncio.create_task(self._cancel_late(work))
        try:
            await work
        except asyncio.CancelledError:
            raise IngestorError("the orderly stop ran out of time before all was stored") from None
        finally:
            watch.cancel()

    async def _work(self) -> None:
        while not self._merge.done and not self._is_over():
            taken = self._take()
            runs = self._merge.pull()
            if runs is not None:
                await self._send(runs)
            elif not taken:
                await (asyncio.sleep(0) if self._spins else self._doorbell.wait(IDLE_S))
        await self._publisher.flush()

    def _is_over(self) -> bool:
        return self._table.stopping and not (self._drains and self._may_come())

    def _may_come(self) -> bool:
        """Whether a feed is running or a ring holds something."""
        ended = [self._table.row(feed)[Counter.ENDED] for feed in range(len(self._inlets))]
        return not all(ended) or any(inlet.ring.used_bytes for inlet in self._inlets)

    async def _cancel_late(self, work: asyncio.Task[None]) -> None:
        while not self._table.stopping:
            await asyncio.sleep(HEARTBEAT_S)
        await asyncio.sleep(self._stop_s * FLUSH_SHARE_OF_STOP)
        work.cancel()

    def _take(self) -> bool:
        """Move messages from rings to merge as far as it has room; True if any moved."""
        moved = False
        for feed, inlet in enumerate(self._inlets):
            for message in inlet.ring.take(self._merge.room(feed)):
                moved = True
                item = inlet.reader.read(message)
                if isinstance(item, Block):
                    self._merge.push(item)
                elif item is not None:
                    self._tell(feed, item)
            if inlet.reader.ended:
                self._merge.end(feed)
        return moved

    def _tell(self, feed: int, status: FeedStatus) -> None:
        self._publisher.statuses.tell(status)
        if self._board is not None:
            self._board.put(feed, status)

    async def _send(self, runs: Runs) -> None:
        if not self._span.started_ns:
            self._span.started_ns = time.monotonic_ns()
        if self._pacer is None:
            await self._hand_over(runs)
            return
        due_ns = self._pacer.due_ns(runs.key_ts_ns, time.monotonic_ns())
        done = 0
        while done < len(runs) and await self._sleep_until(int(due_ns[done])):
            ready = int(np.searchsorted(due_ns, time.monotonic_ns(), "right"))
            await self._hand_over(runs.part(done, ready))
            self._lateness.add(time.monotonic_ns() - due_ns[done:ready])
            done = ready

    async def _hand_over(self, runs: Runs) -> None:
        await self._publisher.send(runs)
        self._span.cover(runs)
        self._row.add(Counter.RECORDS, len(runs))
        self._row[Counter.EVENT_TIME_NS] = int(runs.key_ts_ns[-1])

    async def _sleep_until(self, due_ns: int) -> bool:
        """Sleep to a due time, to some tens of microseconds; False if the run is to stop."""
        while (left_ns := due_ns - time.monotonic_ns()) > LOOP_TIMER_ERROR_NS:
            if self._table.stopping:
                return False
            loop_s = (left_ns - LOOP_TIMER_ERROR_NS) / NS_PER_S
            await asyncio.sleep(min(loop_s, IDLE_S))
        if left_ns > 0:
            time.sleep(left_ns / NS_PER_S)
        return True

    async def _beat(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                self._count()
                await asyncio.sleep(HEARTBEAT_S)

    def _count(self) -> None:
        self._row[Counter.HEARTBEAT_NS] = time.monotonic_ns()
        self._row[Counter.PUBLISHED] = self._publisher.acked_rows
        self._row[Counter.MESSAGES] = self._publisher.acked_messages
        self._row[Counter.RECONNECTS] = self._publisher.reconnects
        statuses = self._publisher.statuses
        self._row[Counter.STATUSES] = statuses.published
        self._row[Counter.STATUSES_LOST] = statuses.refused + statuses.dropped

    def _report(
        self, report: PublishReport, finished_ns: int, error: IngestorError | None
    ) -> PublisherReport:
        published = sum(report.rows_by_subject.values())
        started_ns = self._span.started_ns or finished_ns
        return PublisherReport(
            published=published,
            by_subject=report.rows_by_subject,
            messages=report.messages,
            elapsed_s=(finished_ns - started_ns) / NS_PER_S,
            first_ts_event_ns=self._span.first_ts_event_ns if published else None,
            last_ts_event_ns=self._span.last_ts_event_ns if published else None,
            stream=report.stream,
            first_seq=report.first_seq,
            last_seq=report.last_seq,
            publish_mode=report.mode,
            reconnects=report.reconnects,
            lost_messages=report.lost_messages,
            statuses=self._publisher.statuses.published,
            late_p50_ns=self._lateness.percentile_ns(50),
            late_p99_ns=self._lateness.percentile_ns(99),
            error=str(error) if error else None,
            exit_code=error.exit_code if error else 0,
        )
