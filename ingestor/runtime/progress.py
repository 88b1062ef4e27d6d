"""How far a replay is: its rate, its place in event time, and what is left of its input."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ingestor.clock import iso_utc
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.tell import Rate, Teller
from ingestor.units import NS_PER_S


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands; `rate` in events per second, `share` of the input done (0 to 1)."""

    published: int
    rate: float
    event_time_ns: int
    speed: float
    share: float
    eta_s: float | None

    def sentence(self) -> str:
        """One line for people."""
        parts = [f"{self.published:,} events", f"{self.rate:,.0f}/s"]
        if self.event_time_ns:
            parts.append(f"at {iso_utc(self.event_time_ns)[:19]}Z")
            parts.append(f"x{self.speed:,.4g}")
        parts.append(f"{self.share:.0%} done")
        if self.eta_s is not None:
            parts.append(f"{_clock(self.eta_s)} left")
        return ", ".join(parts)


class ReplayProgress:
    """Reads the counters and says how far the run is."""

    def __init__(self, feeds: Sequence[CounterRow], publisher: CounterRow) -> None:
        self._feeds = feeds
        self._publisher = publisher
        self._started_ns = time.monotonic_ns()
        self._rate = Rate(self._started_ns)
        self._speed: Rate | None = None

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        published = self._publisher[Counter.PUBLISHED]
        event_ns = self._publisher[Counter.EVENT_TIME_NS]
        share = self._share(published)
        elapsed_s = (now_ns - self._started_ns) / NS_PER_S
        return Snapshot(
            published,
            self._rate.update(now_ns, published),
            event_ns,
            self._speed_at(now_ns, event_ns),
            share,
            elapsed_s * (1 - share) / share if share else None,
        )

    def _speed_at(self, now_ns: int, event_ns: int) -> float:
        """Event time per time; it is measured from the first event on."""
        if self._speed is None:
            self._speed = Rate(now_ns, event_ns) if event_ns else None
            return 0.0
        return self._speed.update(now_ns, event_ns) / NS_PER_S

    def _share(self, published: int) -> float:
        """Of the input, what is read; of that, what is published."""
        total, read, records = (
            sum(row[counter] for row in self._feeds)
            for counter in (Counter.BYTES_TOTAL, Counter.BYTES_READ, Counter.RECORDS)
        )
        return read / total * min(published / records, 1.0) if total and records else 0.0


def tell_replay(
    feeds: Sequence[tuple[str, CounterRow]], publisher: CounterRow, interval_s: float
) -> Teller:
    """Return what tells the progress of a replay."""
    return Teller(ReplayProgress([row for _, row in feeds], publisher).snapshot, interval_s)


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
