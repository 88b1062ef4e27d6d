"""One run: rings, counters and processes for a set of feeds and one publisher.

Live and replay differ in what they plug in here: what a feed's process does, how blocks are
ordered, whether they are paced, how a run ends, and how its progress is told. Row i of the counter
table belongs to feed i, the next one to the publisher, and one more to the metrics if they are on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, TypeVar

import msgspec

from ingestor.config.schema import Log, Process
from ingestor.merge.pace import Pacer
from ingestor.model.blocks import Source
from ingestor.model.errors import ExitCode
from ingestor.publish.publisher import Publisher
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.child import ChildPlan, Outcome, pin
from ingestor.runtime.counters import Counter, CounterRow, CounterTable
from ingestor.runtime.feed_place import FeedMain, FeedPlace, FeedReport, counted_of_feed
from ingestor.runtime.metrics import METRICS, MetricsPlan, serve
from ingestor.runtime.publisher_process import (
    Flow,
    Inlet,
    Merge,
    PublisherProcess,
    PublisherReport,
    counted_of_publisher,
)
from ingestor.runtime.run_view import RunView
from ingestor.runtime.status_board import StatusBoard
from ingestor.runtime.supervisor import Failure, Limits, RunResult, Supervisor

PUBLISHER: Final = "publisher"

_Report = TypeVar("_Report", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """A feed: its name, what its process does, its ``source``, its CPUs."""

    name: str
    main: FeedMain
    source: Source
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """The publishing side; `publisher` is made inside its process. For `drains` see `Flow`."""

    publisher: Callable[[], Publisher]
    merge: Merge
    pacer: Pacer | None = None
    drains: bool = False


class Tells(Protocol):
    """Tells people how far a run is."""

    def tick(self) -> None:
        """Time has passed."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


TellsOf = Callable[[Sequence[tuple[str, CounterRow]], CounterRow, float], Tells]
"""Makes it from the feeds' names and counters, the publisher's, and the seconds between lines."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is run; it stops by itself after `run_s` seconds, where that is set."""

    feeds: Sequence[FeedPlan]
    publish: PublishPlan
    progress: TellsOf
    run_s: float | None = None
    metrics: MetricsPlan | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What every process reported, the first failure, and the signal that stopped the run.

    Of a process that ended without a report there is what it had counted. `handed_on` are the rows
    that feeds put in their rings. `stopped_first` says that the signal came before the failure.
    """

    publisher: PublisherReport
    feeds: dict[str, FeedReport] = field(default_factory=dict)
    failure: Failure | None = None
    signal_number: int | None = None
    stopped_first: bool = False
    handed_on: int = 0


Watch = Callable[[], Failure | None]


def watching(*problems: tuple[ExitCode, Callable[[], str | None]]) -> Watch:
    """Return what finds the first problem there is, as the failure with its exit code."""

    def watch() -> Failure | None:
        for exit_code, problem in problems:
            if (sentence := problem()) is not None:
                return Failure(exit_code, sentence)
        return None

    return watch


def run(plan: RunPlan, process: Process, log: Log, watch: Watch) -> RunReport:
    """Run all processes to the end; a failure that `watch` returns stops the run."""
    pin(process.supervisor_cpus)
    feeds = plan.feeds
    table = CounterTable(len(feeds) + (1 if plan.metrics is None else 2))
    board = StatusBoard(len(feeds))
    doorbell = Doorbell()
    places = [
        FeedPlace(index, BlockRing(doorbell, process.ring_bytes), table)
        for index in range(len(feeds))
    ]
    children = [_feed_child(feed, place, log) for feed, place in zip(feeds, places, strict=True)]
    flow = replace(_flow(plan, places, doorbell, process), board=board)
    children.append(_publisher_child(flow, plan.publish, process, table, log))
    if plan.metrics is not None:
        names = [feed.name for feed in feeds]
        children.append(_metrics_child(plan.metrics, names, (table, board), log))
    named = [(feed.name, table.row(index)) for index, feed in enumerate(feeds)]
    progress = plan.progress(named, table.row(len(feeds)), log.progress_s)

    def tick() -> Failure | None:
        progress.tick()
        return watch()

    limits = Limits(process.silence_s, process.stop_s, plan.run_s)
    try:
        result = Supervisor(children, table, doorbell, limits).run(tick)
    finally:
        progress.close()
        doorbell.close()
    return _report(result, named, table.row(len(feeds)))


def _report(
    result: RunResult, feeds: Sequence[tuple[str, CounterRow]], publisher: CounterRow
) -> RunReport:
    by_name = {
        name: _decoded(result.outcomes.get(name), FeedReport) or counted_of_feed(row)
        for name, row in feeds
    }
    return RunReport(
        _decoded(result.outcomes.get(PUBLISHER), PublisherReport)
        or counted_of_publisher(publisher),
        by_name,
        result.failure,
        result.stopped_by,
        result.stopped_first,
        sum(row[Counter.RECORDS] for _, row in feeds),
    )


def _flow(plan: RunPlan, places: Sequence[FeedPlace], doorbell: Doorbell, process: Process) -> Flow:
    inlets = [
        Inlet(place.ring, RingReader(place.index, feed.source, {}), feed.name)
        for feed, place in zip(plan.feeds, places, strict=True)
    ]
    publish = plan.publish
    return Flow(
        inlets,
        doorbell,
        publish.merge,
        publish.pacer,
        drains=publish.drains,
        spins=process.publisher_spins,
    )


def _feed_child(plan: FeedPlan, place: FeedPlace, log: Log) -> ChildPlan:
    return ChildPlan(plan.name, lambda: plan.main(place), plan.cpus, log.level)


def _publisher_child(
    flow: Flow, publish: PublishPlan, process: Process, table: CounterTable, log: Log
) -> ChildPlan:
    row = table.row(len(flow.inlets))

    def main() -> PublisherReport:
        return PublisherProcess(flow, publish.publisher(), table, row, process.stop_s).run()

    return ChildPlan(PUBLISHER, main, process.publisher_cpus, log.level, ends_run=True)


def _metrics_child(
    plan: MetricsPlan, feeds: Sequence[str], memory: tuple[CounterTable, StatusBoard], log: Log
) -> ChildPlan:
    table, board = memory
    names = (*feeds, PUBLISHER, METRICS)
    processes = [(name, table.row(index)) for index, name in enumerate(names)]
    view = RunView(processes, len(feeds), board)
    return ChildPlan(METRICS, lambda: serve(plan, view, table), log_level=log.level, optional=True)


def _decoded(outcome: Outcome | None, kind: type[_Report]) -> _Report | None:
    """Return a process's report; None where it ended without."""
    if outcome is None or bytes(outcome.report) == b"null":
        return None
    return msgspec.json.decode(outcome.report, type=kind)
