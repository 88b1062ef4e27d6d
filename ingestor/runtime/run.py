"""One run: rings, shared memory and processes for a set of feeds and one publisher.

Live and replay differ in what they plug in here: what a feed's process does, how blocks are
ordered, whether they are paced, how a run ends, and how its progress is told. Row i of the counter
table belongs to feed i, the next one to the publisher, and one more to the metrics, to the keeper
of the record and to the service of control, where these are on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from ingestor.config.schema import Config, FeedName
from ingestor.model.blocks import Source
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.publish.publisher import Publisher
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
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
    """A feed: its name, what its process does, its ``source``, its CPUs."""

    name: FeedName
    main: FeedMain
    source: Source
    cpus: tuple[int, ...] = ()


class Run:
    """All processes of a run.

    Args:
        feeds: in the order in which they go first where keys tie.
        config: whose tables `process`, `log` and `nats` are heeded here.
        publisher: makes the publisher, inside its process; told whether it follows one that died.
        merge: the order of rows.
        steered: how a replay is steered; None sends rows as fast as the server takes them.
        progress: makes what reads from the counters how far the run is.
        live: what the feeds have received is published before the run ends.
        run_s: the run stops by itself after so long, where that is set.
        metrics: where metrics are served, and what they say the run is.
        keeping: the run's record and leases, where it has any, and what it goes on behind.
    """

    def __init__(
        self,
        feeds: Sequence[FeedPlan],
        config: Config,
        *,
        publisher: Callable[[bool], Publisher],
        merge: Merge,
        progress: MakeProgress,
        steered: Steered | None = None,
        live: bool = False,
        run_s: float | None = None,
        metrics: tuple[MetricsPlan, RunFacts] | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        process = config.process
        pin(process.supervisor_cpus)
        self._config = config
        self._names = [feed.name for feed in feeds]
        self._live = live
        self._progress = progress
        self._table = table = CounterTable(
            len(feeds)
            + 1
            + (metrics is not None)
            + (keeping is not None)
            + (steered is not None and steered.service is not None)
        )
        self._keeping = keeping
        self._steered = steered
        self._doorbell = Doorbell()
        # A ring for every feed: what one leaves in it when it dies concerns no other.
        rings = [BlockRing(self._doorbell, process.ring_bytes) for _ in feeds]
        inputs = PublisherInputs(
            [
                RingInput(
                    ring,
                    RingReader(index, feed.source, {}),
                    feed.name,
                    subjects_of((feed.name,)),
                )
                for index, (feed, ring) in enumerate(zip(feeds, rings, strict=True))
            ],
            self._doorbell,
            merge,
            steered,
            drain_on_stop=live,
            busy_poll=process.publisher_spins,
            skip=keeping.skip if keeping is not None else {},
        )

        def publish() -> IngestorError | None:
            again = table.row(len(feeds))[Counter.RESTARTS] > 0
            return PublisherProcess(inputs, publisher(again), table, process.stop_s).run()

        def renew() -> None:
            for index, ring in enumerate(rings):
                ring.begin_generation()
                table.row(index).count_from(Counter.RECORDS, 0)

        children = [
            ChildPlan(
                feed.name,
                partial(feed.main, FeedContext(index, ring, table)),
                feed.cpus,
                config.log.level,
                restarts=True,
            )
            for index, (feed, ring) in enumerate(zip(feeds, rings, strict=True))
        ]
        plan = ChildPlan(
            PUBLISHER,
            publish,
            process.publisher_cpus,
            config.log.level,
            ends_run=True,
            restarts=True,
        )
        # Files are read again from their beginning; a live feed goes on, since nobody repeats it.
        children.append(
            plan if live else replace(plan, with_it=tuple(range(len(feeds))), renew=renew)
        )
        if metrics is not None:
            role = Role.LIVE if live else Role.FILES
            processes: list[tuple[str, Role]] = [(name, role) for name in self._names]
            processes += [(PUBLISHER, Role.PUBLISHER), (METRICS, Role.OTHER)]
            if keeping is not None:
                processes.append((KEEPER, Role.OTHER))
            if steered is not None and steered.service is not None:
                processes.append((CONTROL, Role.OTHER))
            controller = None if steered is None else steered.controller
            shows = partial(serve, *metrics, processes, table, progress, controller=controller)
            children.append(ChildPlan(METRICS, shows, log_level=config.log.level, optional=True))
        if keeping is not None:
            keeps = partial(keep, keeping, table, len(feeds), len(children))
            plan = ChildPlan(
                KEEPER, keeps, log_level=config.log.level, optional=True, restarts=True
            )
            children.append(plan)
        if steered is not None and steered.service is not None:
            serves = partial(steered.service, table, len(feeds), len(children))
            plan = ChildPlan(
                CONTROL, serves, log_level=config.log.level, optional=True, restarts=True
            )
            children.append(plan)
        limits = Limits(process.silence_s, process.stop_s, run_s)
        self._supervisor = Supervisor(children, table, self._doorbell, limits)

    def to_the_end(self, *problems: Problem) -> None:
        """Run all processes to the end; a problem there is stops the run with its exit code."""
        rows = [(name, self._table.row(index)) for index, name in enumerate(self._names)]
        progress = self._progress(rows, self._table.row(len(rows)))
        reporter = ProgressReporter(progress, self._config.log.progress_s)
        systemd = NotifySocket()
        notifier = RunNotifier(
            systemd, self._table, rows, self._table.row(len(rows)), progress, live=self._live
        )
        keyboard = None
        if self._steered is not None:
            keyboard = Keyboard(self._steered.controller, self._table.row(len(rows)))

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
            self._supervisor.run(tick)
        finally:
            reporter.close()
            systemd.close()
            if keyboard is not None:
                keyboard.close()
            self._doorbell.close()
            if self._steered is not None:
                self._steered.controller.close()
            if self._keeping is not None:
                end(self._keeping, self._table, self.report())

    def report(self) -> RunReport:
        """Return what became of the run, once all that it used is closed."""
        ended, stream = self._supervisor.outcome, self._config.nats.stream
        return report_of(
            self._table,
            self._names,
            stream,
            live=self._live,
            stored_before=sum(self._keeping.skip.values()) if self._keeping is not None else 0,
            error=ended.error,
            exit_code=ended.exit_code,
        )
