"""How a live run is doing: each feed's rate and age, and what was lost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingestor.model.clock import now_ns as wall_ns
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.runtime.counters import Counter, CounterRow
from ingestor.runtime.tell import Rate, Teller

_LOSSES: Final = {
    Counter.DROPPED_TRADES: "trades dropped",
    Counter.DROPPED_QUOTES: "quotes dropped",
    Counter.GAPS: "gaps",
}
AHEAD_NS: Final = NS_PER_S
"""Clocks that differ by less are as right as clocks are; such an event is 0 ms old."""
_MINUTE_NS: Final = 60 * NS_PER_S
_HOUR_NS: Final = 60 * _MINUTE_NS


@dataclass(frozen=True, slots=True)
class FeedSnapshot:
    """One feed: events per second, ns since its newest event happened (None before the first)."""

    name: str
    rate: float
    age_ns: int | None
    losses: tuple[str, ...] = ()

    def phrase(self) -> str:
        """A part of the line for people."""
        return ", ".join((f"{self.name} {self.rate:,.0f}/s", self._age(), *self.losses))

    def _age(self) -> str:
        if self.age_ns is None:
            return "no event yet"
        if self.age_ns <= -AHEAD_NS:
            return f"the vendor's clock is ahead of ours by {age_text(-self.age_ns)}"
        return f"{age_text(max(self.age_ns, 0))} old"


@dataclass(frozen=True, slots=True)
class LiveSnapshot:
    """Where a live run stands: events that the server has, and each feed."""

    published: int
    rate: float
    feeds: tuple[FeedSnapshot, ...]
    share: float | None = None

    def sentence(self) -> str:
        """One line for people."""
        published = f"{self.published:,} events, {self.rate:,.0f}/s"
        return "; ".join((published, *(feed.phrase() for feed in self.feeds)))


class LiveProgress:
    """Reads the counters and says how the run is doing."""

    def __init__(self, feeds: Sequence[tuple[str, CounterRow]], publisher: CounterRow) -> None:
        self._feeds = feeds
        self._publisher = publisher
        started_ns = time.monotonic_ns()
        self._rate = Rate(started_ns)
        self._rates = [Rate(started_ns) for _ in feeds]

    def snapshot(self, now_ns: int) -> LiveSnapshot:
        """Return where the run stands at `now_ns` of the monotonic clock."""
        published = self._publisher[Counter.PUBLISHED]
        feeds = (
            FeedSnapshot(
                name, rate.update(now_ns, row[Counter.RECORDS]), _age_ns(row), _losses(row)
            )
            for (name, row), rate in zip(self._feeds, self._rates, strict=True)
        )
        return LiveSnapshot(published, self._rate.update(now_ns, published), tuple(feeds))


def tell_live(
    feeds: Sequence[tuple[str, CounterRow]], publisher: CounterRow, interval_s: float
) -> Teller:
    """Return what tells the progress of a live run."""
    return Teller(LiveProgress(feeds, publisher).snapshot, interval_s)


def age_text(age_ns: int) -> str:
    """Return an age in the unit that suits it.

    >>> age_text(7_300_000), age_text(90 * NS_PER_S), age_text(20 * _HOUR_NS)
    ('7 ms', '90 s', '20 h')
    """
    if age_ns < 2 * NS_PER_S:
        return f"{age_ns // NS_PER_MS} ms"
    if age_ns < 2 * _MINUTE_NS:
        return f"{age_ns // NS_PER_S} s"
    if age_ns < 2 * _HOUR_NS:
        return f"{age_ns // _MINUTE_NS} min"
    return f"{age_ns // _HOUR_NS} h"


def _age_ns(row: CounterRow) -> int | None:
    event_ns = row[Counter.EVENT_TIME_NS]
    return wall_ns() - event_ns if event_ns else None


def _losses(row: CounterRow) -> tuple[str, ...]:
    return tuple(f"{row[counter]:,} {what}" for counter, what in _LOSSES.items() if row[counter])
