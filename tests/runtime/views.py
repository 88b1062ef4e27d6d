"""Runs to look at from outside, without processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ingestor.model.feed_status import FeedStatus
from ingestor.runtime.counters import Counter, CounterRow, CounterTable, Role
from ingestor.runtime.metrics import RunFacts
from ingestor.runtime.run_view import RunView

NAMES = ("stocks", "options", "publisher", "metrics")
ROLES = (Role.LIVE, Role.LIVE, Role.PUBLISHER, Role.OTHER)
NOW_NS = 1_000_000_000_000
FACTS = RunFacts(
    mode="live",
    stream="MARKET_DATA",
    server="nats://127.0.0.1:4222",
    started_ns=1_765_895_400_000_000_000,
    pid=1,
    leases=3,
    backlog_rows=1_000,
    journal_dir=Path.cwd(),
)


@dataclass
class Looked:
    table: CounterTable
    view: RunView

    def row(self, name: str) -> CounterRow:
        return self.table.row(NAMES.index(name))

    def tell(self, status: FeedStatus) -> None:
        assert self.table.note_status(NAMES.index(status.feed), status)


def looked(age_ns: int = 0) -> Looked:
    """A run of two live feeds, every process of which gave a sign of life `age_ns` ago."""
    table = CounterTable(len(NAMES))
    for index in range(len(NAMES)):
        table.row(index)[Counter.HEARTBEAT_NS] = NOW_NS - age_ns
    return Looked(table, RunView(NAMES, ROLES, table, FACTS))
