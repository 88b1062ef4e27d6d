"""One run: rings, counters and processes for a set of feeds and one publisher.

Live and replay differ in what they plug in here: where blocks come from, how they are ordered,
and whether they are paced. Row i of the counter table belongs to feed i, the last one to the
publisher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from ingestor.blocks import Source
from ingestor.config.schema import Log, Process
from ingestor.merge.pace import Pacer
from ingestor.publish.publisher import Publisher
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.doorbell import Doorbell
from ingestor.ring.wire import RingReader
from ingestor.runtime.child import ChildPlan, Outcome, pin
from ingestor.runtime.counters import CounterTable
from ingestor.runtime.feed_process import FeedProcess, FeedReport, FeedSource
from ingestor.runtime.progress import Progress
from ingestor.runtime.publisher_process import (
    Flow,
    Inlet,
    Merge,
    PublisherProcess,
    PublisherReport,
)
from ingestor.runtime.supervisor import Failure, Limits, Supervisor

PUBLISHER: Final = "publisher"

_Report = TypeVar("_Report", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class FeedPlan:
    """A feed: its name, where its blocks come from, its ``source``, its CPUs."""

    name: str
    blocks_from: FeedSource
    source: Source
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """The publishing side; `publisher` is made inside its process."""

    publisher: Callable[[], Publisher]
    merge: Merge
    pacer: Pacer | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """What every process reported, the first failure and the exit code of a stop by signal."""

    publisher: PublisherReport
    feeds: dict[str, FeedReport] = field(default_factory=dict)
    failure: Failure | None = None
    signal_number: int | None = None


def run(
    feeds: Sequence[FeedPlan],
    publish: PublishPlan,
    process: Process,
    log: Log,
    watch: Callable[[], str | None],
) -> RunReport:
    """Run all processes to the end; `watch` may return a sentence that stops the run."""
    pin(process.supervisor_cpus)
    table = CounterTable(len(feeds) + 1)
    doorbell = Doorbell()
    rings = [BlockRing(doorbell, process.ring_bytes) for _ in feeds]
    flow = Flow(_inlets(feeds, rings), doorbell, publish.merge, publish.pacer)
    plans = [
        _feed_plan(plan, ring, table, index, log)
        for index, (plan, ring) in enumerate(zip(feeds, rings, strict=True))
    ]
    plans.append(_publisher_plan(flow, publish, process, table, log))
    progress = Progress(
        [table.row(index) for index in range(len(feeds))], table.row(len(feeds)), log.progress_s
    )

    def tick() -> str | None:
        progress.tick()
        return watch()

    limits = Limits(process.silence_s, process.stop_s)
    try:
        result = Supervisor(plans, table, doorbell, limits).run(tick)
    finally:
        progress.close()
        doorbell.close()
    return RunReport(
        _decoded(result.outcomes.get(PUBLISHER), PublisherReport),
        {plan.name: _decoded(result.outcomes.get(plan.name), FeedReport) for plan in feeds},
        result.failure,
        result.stopped_by,
    )


def _inlets(feeds: Sequence[FeedPlan], rings: Sequence[BlockRing]) -> list[Inlet]:
    return [
        Inlet(ring, RingReader(index, plan.source, {}))
        for index, (plan, ring) in enumerate(zip(feeds, rings, strict=True))
    ]


def _feed_plan(
    plan: FeedPlan, ring: BlockRing, table: CounterTable, index: int, log: Log
) -> ChildPlan:
    feed = FeedProcess(plan.blocks_from, ring, table, table.row(index))
    return ChildPlan(plan.name, feed.run, plan.cpus, log.level)


def _publisher_plan(
    flow: Flow, publish: PublishPlan, process: Process, table: CounterTable, log: Log
) -> ChildPlan:
    row = table.row(len(flow.inlets))

    def main() -> PublisherReport:
        return PublisherProcess(flow, publish.publisher(), table, row, process.stop_s).run()

    return ChildPlan(PUBLISHER, main, process.publisher_cpus, log.level, ends_run=True)


def _decoded(outcome: Outcome | None, kind: type[_Report]) -> _Report:
    """Return a process's report; an empty one where it ended without."""
    if outcome is None or bytes(outcome.report) == b"null":
        return kind()
    return msgspec.json.decode(outcome.report, type=kind)
