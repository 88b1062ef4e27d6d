"""One run: rings, shared memory and processes for a set of feeds and one publisher.

Live and replay differ in what they plug in here: what a feed's process does, how blocks are
ordered, whether they are paced, how a run ends, and how its progress is told. Row i of the counter
table belongs to feed i, the next one to the publisher, and one more to the metrics, to the keeper
of the record and to the service of control, where these are on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ingestor.config.schema import Config, FeedName
from ingestor.model.blocks import Source
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.publish.publisher import Publisher
from ingestor.ring.block_ring import BlockRing, Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.controller import Steered
from ingestor.runtime.counters import Counter, CounterTable, Role
from ingestor.runtime.feed_process import FeedContext, FeedMain
from ingestor.runtime.feed_watch import RingInput
from ingestor.runtime.keyboard import Keyboard
from ingestor.runtime.machine import pin
from ingestor.runtime.metrics import METRICS, MetricsPlan, RunFacts, serve
from ingestor.runtime.notify import NotifySocket, RunNotifier
from ingestor.runtime.progress_reporter import MakeProgress, ProgressReporter
from ingestor.runtime.publisher_process import (
    Merge,
    PublisherInputs,
    PublisherProcess,
)
from ingestor.runtime.report import RunReport, report_of
from ingestor.runtime.run_keeper import KEEPER, Keeping, end, keep
from ingestor.runtime.run_records import subjects_of
from ingestor.runtime.supervisor import ChildPlan, Limits, Outcome, Supervisor

PUBLISHER: Final = "publisher"
CONTROL: Final = "control"

Problem = tuple[ExitCode, Callable[[], str | None]]
"""An exit code, and what answers with a sentence once there is reason for it."""


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """A feed: its name, what its process does, its ``source``, its CPUs.

    One that is `spooled` begins with what a journal holds and the stream does not; one that is
    `recorded` does so when it is started again.
    """

    name: FeedName
    main: FeedMain
    source: Source
    cpus: tuple[int, ...] = ()
    spooled: bool = False
    recorded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run consists of.

    Attributes:
        feeds: In the order in which they go first where keys tie.
        config: Whose tables `process`, `log` and `nats` are heeded here.
        publisher: Makes the publisher, inside its process; told whether it follows one that died.
        merge: The order of rows.
        progress: Makes what reads from the counters how far the run is.
        steered: How a replay is steered; None sends rows as fast as the server takes them.
        live: What the feeds have received is published before the run ends.
        run_s: The run stops by itself after this time, where it is set.
        metrics: Where metrics are served, and what they say the run is.
        keeping: The run's record and leases, where it has any, and what it goes on behind.
        reload: What SIGHUP calls; None stops the run.
    """

    feeds: Sequence[FeedPlan]
    config: Config
    publisher: Callable[[bool], Publisher]
    merge: Merge
    progress: MakeProgress
    steered: Steered | None = None
    live: bool = False
    run_s: float | None = None
    metrics: tuple[MetricsPlan, RunFacts] | None = None
    keeping: Keeping | None = None
    reload: Callable[[], None] | None = None

    @property
    def processes(self) -> list[tuple[str, Role]]:
        """Name and role of each process, in the order of the table's rows."""
        role = Role.LIVE if self.live else Role.FILES
        found: list[tuple[str, Role]] = [(feed.name, role) for feed in self.feeds]
        found.append((PUBLISHER, Role.PUBLISHER))
        if self.metrics is not None:
            found.append((METRICS, Role.OTHER))
        if self.keeping is not None:
            found.append((KEEPER, Role.OTHER))
        if self.steered is not None and self.steered.service is not None:
            found.append((CONTROL, Role.OTHER))
        return found


class Run:
    """All processes of a run."""

    def __init__(self, plan: RunPlan) -> None:
        process = plan.config.process
        pin(process.supervisor_cpus)
        self._plan = plan
        self._table = table = CounterTable(len(plan.processes))
        self._doorbell = Doorbell()
        # A ring for every feed: what one leaves in it when it dies concerns no other.
        rings = [BlockRing(self._doorbell, process.ring_bytes) for _ in plan.feeds]
        children = [
            *_feed_children(plan, rings, table),
            _publisher_child(plan, rings, self._doorbell, table),
            *_service_children(plan, table),
        ]
        limits = Limits(process.silence_s, process.stop_s, plan.run_s)
        self._supervisor = Supervisor(children, table, self._doorbell, limits)

    def to_the_end(self, *problems: Problem) -> None:
        """Run all processes to the end; a problem there is stops the run with its exit code."""
        plan = self._plan
        rows = [(feed.name, self._table.row(index)) for index, feed in enumerate(plan.feeds)]
        publisher = self._table.row(len(rows))
        progress = plan.progress(rows, publisher)
        reporter = ProgressReporter(progress, plan.config.log.progress_s)
        systemd = NotifySocket()
        notifier = RunNotifier(systemd, self._table, rows, publisher, progress, live=plan.live)
        keyboard = None
        if plan.steered is not None:
            keyboard = Keyboard(plan.steered.controller, publisher)

        def tick() -> Outcome | None:
            reporter.tick()
            notifier.tick(time.monotonic_ns())
            if keyboard is not None:
                keyboard.tick()
            kept = self._supervisor.outcomes.get(KEEPER)
            if kept is not None and kept.exit_code == ExitCode.STREAM_IN_USE:
                return kept
            for exit_code, problem in problems:
                if (sentence := problem()) is not None:
                    return Outcome(exit_code, sentence, fatal=True)
            return None

        try:
            self._supervisor.run(tick, plan.reload and partial(notifier.around, plan.reload))
        finally:
            reporter.close()
            systemd.close()
            if keyboard is not None:
                keyboard.close()
            self._doorbell.close()
            if plan.steered is not None:
                plan.steered.controller.close()
            if plan.keeping is not None:
                plan.keeping.bell.close()
                end(plan.keeping, self._table, self.report())

    def report(self) -> RunReport:
        """Return what became of the run, once all that it used is closed."""
        plan, ended = self._plan, self._supervisor.outcome
        return report_of(
            self._table,
            [feed.name for feed in plan.feeds],
            plan.config.nats.stream,
            live=plan.live,
            stored_before=sum(plan.keeping.skip.values()) if plan.keeping is not None else 0,
            error=ended.error,
            exit_code=ended.exit_code,
        )


def _feed_children(
    plan: RunPlan, rings: Sequence[BlockRing], table: CounterTable
) -> list[ChildPlan]:
    return [
        ChildPlan(
            feed.name,
            partial(feed.main, FeedContext(index, ring, table)),
            feed.cpus,
            plan.config.log.level,
            restarts=True,
            wake=ring.wake,
        )
        for index, (feed, ring) in enumerate(zip(plan.feeds, rings, strict=True))
    ]


def _publisher_child(
    plan: RunPlan, rings: Sequence[BlockRing], doorbell: Doorbell, table: CounterTable
) -> ChildPlan:
    process, feeds, keeping = plan.config.process, range(len(plan.feeds)), plan.keeping
    keeper = [name for name, _ in plan.processes].index(KEEPER) if keeping is not None else 0
    inputs = PublisherInputs(
        [
            RingInput(
                ring,
                RingReader(index, feed.source, {}),
                feed.name,
                subjects_of((feed.name,)),
                feed.spooled,
                feed.recorded,
            )
            for index, (feed, ring) in enumerate(zip(plan.feeds, rings, strict=True))
        ],
        doorbell,
        plan.merge,
        plan.steered,
        drain_on_stop=plan.live,
        busy_poll=process.publisher_spins,
        skip=keeping.skip if keeping is not None else {},
        keeper=(keeping.bell, table.row(keeper)) if keeping is not None else None,
    )

    def publish() -> IngestorError | None:
        again = table.row(len(feeds))[Counter.RESTARTS] > 0
        return PublisherProcess(inputs, plan.publisher(again), table, process.stop_s).run()

    def renew() -> None:
        for index, ring in enumerate(rings):
            ring.begin_generation()
            table.row(index).count_from(Counter.RECORDS, 0)

    child = ChildPlan(
        PUBLISHER,
        publish,
        process.publisher_cpus,
        plan.config.log.level,
        ends_run=True,
        restarts=True,
    )
    # Files are read again from their beginning; a live feed goes on, since nobody repeats it.
    return child if plan.live else replace(child, with_it=tuple(feeds), renew=renew)


def _service_children(plan: RunPlan, table: CounterTable) -> Iterator[ChildPlan]:
    """Yield what runs beside the data path; the run goes on where one of these fails."""
    feeds, steered = len(plan.feeds), plan.steered
    child = partial(ChildPlan, log_level=plan.config.log.level, optional=True)
    row = {name: index for index, (name, _) in enumerate(plan.processes)}
    if plan.metrics is not None:
        controller = None if steered is None else steered.controller
        shows = partial(serve, *plan.metrics, plan.processes, table, plan.progress)
        yield child(METRICS, partial(shows, controller=controller), restarts=True)
    if plan.keeping is not None:
        yield child(KEEPER, partial(keep, plan.keeping, table, feeds, row[KEEPER]), restarts=True)
    if steered is not None and steered.service is not None:
        yield child(CONTROL, partial(steered.service, table, feeds, row[CONTROL]), restarts=True)
