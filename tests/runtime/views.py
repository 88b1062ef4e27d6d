"""Runs to look at from outside, without processes."""

from __future__ import annotations

from dataclasses import dataclass

from ingestor.model.feed_status import FeedStatus
from ingestor.runtime.counters import Counter, CounterRow, CounterTable
from ingestor.runtime.run_view import RunView
from ingestor.runtime.status_board import StatusBoard

NAMES = ("stocks", "options", "publisher", "metrics")
FEEDS = 2
NOW_NS = 1_000_000_000_000


@dataclass
class Looked:
    table: CounterTable
    board: StatusBoard
    view: RunView

    def row(self, name: str) -> CounterRow:
        return self.table.row(NAMES.index(name))

    def tell(self, status: FeedStatus) -> None:
        assert self.board.put(NAMES.index(status.feed), status)


def looked(age_ns: int = 0) -> Looked:
    """A run of two live feeds, every process of which gave a sign of life `age_ns` ago."""
    table, board = CounterTable(len(NAMES)), StatusBoard(FEEDS)
    rows = [(name, table.row(index)) for index, name in enumerate(NAMES)]
    for _, row in rows:
        row[Counter.HEARTBEAT_NS] = NOW_NS - age_ns
    return Looked(table, board, RunView(rows, FEEDS, board))
