"""Progress of a run: a bar when a person watches a terminal, log lines when not."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingestor.clock import iso_utc
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.units import NS_PER_S

_SMOOTHING_S: Final = 2.0
"""The rate shown is that of about the last two seconds."""

log = logging.getLogger(__name__)


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


class Progress:
    """Reads the counters at every tick and tells how far the run is."""

    def __init__(
        self, feeds: Sequence[CounterRow], publisher: CounterRow, interval_s: float
    ) -> None:
        self._feeds = feeds
        self._publisher = publisher
        self._interval_ns = int(interval_s * NS_PER_S)
        self._started_ns = self._told_ns = self._marked_ns = time.monotonic_ns()
        self._marked = (0, 0)
        self._rate = self._speed = 0.0
        self._bar = _Bar() if sys.stderr.isatty() else None

    def tick(self) -> None:
        """Draw the bar again, or log a line if it is time for one."""
        now_ns = time.monotonic_ns()
        snapshot = self.snapshot(now_ns)
        if self._bar is not None:
            self._bar.draw(snapshot)
        elif now_ns - self._told_ns >= self._interval_ns:
            self._told_ns = now_ns
            log.info("%s", snapshot.sentence())

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()

    def snapshot(self, now_ns: int) -> Snapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        published = self._publisher[Counter.PUBLISHED]
        event_ns = self._publisher[Counter.EVENT_TIME_NS]
        self._measure(now_ns, published, event_ns)
        share = self._share(published)
        elapsed_s = (now_ns - self._started_ns) / NS_PER_S
        eta_s = elapsed_s * (1 - share) / share if share else None
        return Snapshot(published, self._rate, event_ns, self._speed, share, eta_s)

    def _share(self, published: int) -> float:
        """Of the input, what is read; of that, what is published."""
        total, read, records = (
            sum(row[counter] for row in self._feeds)
            for counter in (Counter.BYTES_TOTAL, Counter.BYTES_READ, Counter.RECORDS)
        )
        return read / total * min(published / records, 1.0) if total and records else 0.0

    def _measure(self, now_ns: int, published: int, event_ns: int) -> None:
        passed_s = (now_ns - self._marked_ns) / NS_PER_S
        if passed_s < _SMOOTHING_S and self._rate:
            return
        if passed_s > 0:
            self._rate = (published - self._marked[0]) / passed_s
            moved_ns = event_ns - self._marked[1] if self._marked[1] else 0
            self._speed = moved_ns / NS_PER_S / passed_s
        self._marked_ns, self._marked = now_ns, (published, event_ns)


class _Bar:
    """A bar on the terminal that people look at, drawn only when told to."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415  (50 ms that a run without a terminal saves)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=1.0)
        self._progress.start()

    def draw(self, snapshot: Snapshot) -> None:
        self._progress.update(
            self._task, completed=snapshot.share, description=snapshot.sentence(), refresh=True
        )

    def close(self) -> None:
        self._progress.stop()


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
