"""A run as it is seen from outside: its processes' counters and its feeds' last statuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ingestor.model.feed_status import FeedStatus
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.status_board import StatusBoard


@dataclass(frozen=True, slots=True)
class RunView:
    """Names and counters of all processes, feeds first, and the board of the feeds' statuses."""

    processes: Sequence[tuple[str, CounterRow]]
    feeds: int
    board: StatusBoard

    def statuses(self) -> Iterator[tuple[str, FeedStatus]]:
        """Yield the last status of each feed that has told any, with the name of its process."""
        for feed, (name, _) in enumerate(self.processes[: self.feeds]):
            status = self.board.get(feed)
            if status is not None:
                yield name, status

    def silent(self, now_ns: int, limit_s: float) -> dict[str, float]:
        """Return the processes without a sign of life for over `limit_s`: name to seconds.

        `now_ns` is of the monotonic clock. A process that has ended is not silent.
        """
        ages = {name: heartbeat_age_s(row, now_ns) for name, row in self.processes}
        return {
            name: age_s for name, age_s in ages.items() if age_s is not None and age_s > limit_s
        }

    def away(self, now_ns: int, limit_s: float) -> dict[str, float]:
        """Return the feeds without a vendor, and the publisher without a server, as `silent`."""
        ages = {name: away_s(row, now_ns) for name, row in self.processes}
        return {name: age_s for name, age_s in ages.items() if age_s > limit_s}


def away_s(row: CounterRow, now_ns: int) -> float:
    """Return how long a process has been without its vendor or server; 0 if it is not."""
    since_ns = row[Counter.AWAY_SINCE_NS]
    return 0.0 if row[Counter.ENDED] or not since_ns else max(now_ns - since_ns, 0) / NS_PER_S


def heartbeat_age_s(row: CounterRow, now_ns: int) -> float | None:
    """Return the seconds since a process's last sign of life, None once it has ended."""
    if row[Counter.ENDED]:
        return None
    return max(now_ns - row[Counter.HEARTBEAT_NS], 0) / NS_PER_S
