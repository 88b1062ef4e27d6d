"""How far a replay is: its rate, its place in event time, and what is left of its input."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ingestor.model.clock import iso_utc
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.live_progress import age_text
from ingestor.runtime.tell import Rate, Teller

LONG_WAIT_NS: Final = 10 * NS_PER_S
"""A wait that is told of, since people would take it for a fault."""

TellsOf = Callable[[Sequence[tuple[str, CounterRow]], CounterRow, float], Teller]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands; `rate` in events per second, `share` of the input done (0 to 1)."""

    published: int
    rate: float
    event_time_ns: int
    speed: float
    share: float
    eta_s: float | None
    waits: str | None = None

    def sentence(self) -> str:
        """One line for people."""
        parts = [f"{self.published:,} events", f"{self.rate:,.0f}/s"]
        if self.event_time_ns:
            parts.append(f"at {iso_utc(self.event_time_ns)[:19]}Z")
            parts.append(f"x{self.speed:,.4g}")
        parts.append(f"{self.share:.0%} done")
        if self.eta_s is not None:
            parts.append(f"{_clock(self.eta_s)} left")
        if self.waits is not None:
            parts.append(self.waits)
        return ", ".join(parts)


class ReplayProgress:
    """Reads the counters and says how far the run is.

    A run as fast as possible is as far as its input is read and published. A paced one is as far as
    its schedule: what is read ahead of it says only where it ends, exactly once all is read, and
    before that by the share of the bytes that is read.
    """

    def __init__(
        self,
        feeds: Sequence[CounterRow],
        publisher: CounterRow,
        speed: float = 0.0,
        *,
        shortens: bool = False,
    ) -> None:
        """`speed` 0 is as fast as possible; `shortens` says that holes are cut short."""
        self._feeds = feeds
        self._publisher = publisher
        self._paced_speed = speed
        self._shortens = shortens
        self._started_ns = time.monotonic_ns()
        self._rate = Rate(self._started_ns)
        self._speed: Rate | None = None
        self._first_event_ns = 0

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        published = self._publisher[Counter.PUBLISHED]
        event_ns = self._publisher[Counter.EVENT_TIME_NS]
        self._first_event_ns = self._first_event_ns or event_ns
        if self._paced_speed:
            share, eta_s = self._scheduled(now_ns, event_ns)
        else:
            share = self._share(published)
            elapsed_s = (now_ns - self._started_ns) / NS_PER_S
            eta_s = elapsed_s * (1 - share) / share if share else None
        return Snapshot(
            published,
            self._rate.update(now_ns, published),
            event_ns,
            self._speed_at(now_ns, event_ns),
            share,
            eta_s,
            self._waits(now_ns),
        )

    def _scheduled(self, now_ns: int, event_ns: int) -> tuple[float, float | None]:
        """Return the share of the schedule that is over, and the seconds that are left of it."""
        ends_ns = max((self._ends_ns(row) for row in self._feeds), default=0)
        if not event_ns or not ends_ns:
            return 0.0, None
        at_ns = event_ns
        if waits_for_ns := self._publisher[Counter.WAITS_FOR_NS]:
            due_ns = max(self._publisher[Counter.WAITS_UNTIL_NS] - now_ns, 0)
            at_ns = max(at_ns, waits_for_ns - int(due_ns * self._paced_speed))
        whole_ns, left_ns = ends_ns - self._first_event_ns, max(ends_ns - at_ns, 0)
        share = 1 - left_ns / whole_ns if whole_ns > 0 else 1.0
        return min(max(share, 0.0), 1.0), left_ns / NS_PER_S / self._paced_speed

    def _ends_ns(self, row: CounterRow) -> int:
        """Event time at which a feed ends, as far as can be told."""
        event_ns, first_ns = row[Counter.EVENT_TIME_NS], self._first_event_ns
        total, read = row[Counter.BYTES_TOTAL], row[Counter.BYTES_READ]
        if row[Counter.ENDED] or not read or read >= total or event_ns <= first_ns:
            return event_ns
        return first_ns + (event_ns - first_ns) * total // read

    def _waits(self, now_ns: int) -> str | None:
        """Say what a wait is for that people would take for a fault."""
        event_ns = self._publisher[Counter.WAITS_FOR_NS]
        left_ns = self._publisher[Counter.WAITS_UNTIL_NS] - now_ns
        if not event_ns or left_ns < LONG_WAIT_NS:
            return None
        hint = "" if self._shortens else "; --max-gap shortens"
        return f"next event in {age_text(left_ns)}: {iso_utc(event_ns)[:16]}Z{hint}"

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


def teller_of(speed: float, *, shortens: bool) -> TellsOf:
    """Return what makes the teller of a replay; see `ReplayProgress`."""

    def tell(
        feeds: Sequence[tuple[str, CounterRow]], publisher: CounterRow, interval_s: float
    ) -> Teller:
        rows = [row for _, row in feeds]
        progress = ReplayProgress(rows, publisher, speed, shortens=shortens)
        return Teller(progress.snapshot, interval_s)

    return tell


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
