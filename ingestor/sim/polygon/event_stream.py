"""One market's stream: events that are due, cut into frames. Time comes in; nothing is sent here.

Events are written ahead in batches of about a tenth of a second, each with the time it is due as
its ``t``. A sender that falls behind therefore sends old times: the delay shows, and shows as ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon.market_tape import DueTimes, EventBatch, Ints, MarketTape

AHEAD_PER_S: Final = 10
"""A batch holds a tenth of a second of events, within the next bound."""
FRAME_EVENTS: Final = 2_000
"""Most events in a batch, hence in a frame: about 300 kB, well under a reader's usual limit of
1 MiB, and written in 3 ms."""
TICK_EVENTS: Final = 20_000
"""Most events sent in one go when catching up, so that the control channel stays alive."""


class Schedule:
    """Events at a fixed rate a second from an anchor on; a rate of 0 is silence.

    Event ``k`` is due at the anchor plus ``k / rate`` seconds, rounded up to a whole ns. All of it
    is integer arithmetic from one anchor, so that errors never add up.
    """

    def __init__(self, rate: int, now_ns: int) -> None:
        self.rate = rate
        self._event, self._time_ns = 0, now_ns

    def anchor(self, event: int, now_ns: int, rate: int) -> None:
        """From now on: event number ``event`` is due now, the others after it at ``rate``."""
        self.rate = rate
        self._event, self._time_ns = event, now_ns

    def due(self, now_ns: int) -> int:
        """How many events are due by now, counted from the first ever."""
        if not self.rate:
            return self._event
        return self._event + (now_ns - self._time_ns) * self.rate // NS_PER_S + 1

    def due_at(self, event: int) -> int:
        """Due time of one event; the rate must not be 0."""
        return self._time_ns - (self._event - event) * NS_PER_S // self.rate

    def due_ns(self, first: int, count: int) -> Ints:
        """Due times of ``count`` events from ``first`` on; the rate must not be 0."""
        self._move_anchor(first)
        numbers = np.arange(first - self._event, first - self._event + count, dtype=np.int64)
        # Negated twice, floor division rounds up: no event is due before its time.
        return self._time_ns - (-numbers * NS_PER_S // self.rate)

    def _move_anchor(self, event: int) -> None:
        """Move the anchor by whole seconds, which is exact, so that products stay in 64 bits."""
        seconds = max(0, event - self._event) // self.rate
        self._event += seconds * self.rate
        self._time_ns += seconds * NS_PER_S


class MarketTime:
    """From the monotonic clock to market time (0 at the first subscription) and to vendor ms."""

    def __init__(self, wall_offset_ns: int) -> None:
        self._offset_ns = wall_offset_ns
        self._opened_ns: int | None = None

    def open(self, now_ns: int) -> None:
        """Begin, once."""
        if self._opened_ns is None:
            self._opened_ns = now_ns

    def jump(self, ms: int) -> None:
        """Set the vendor's clock forward, or back."""
        self._offset_ns += ms * NS_PER_MS

    def elapsed_ns(self, now_ns: int) -> int:
        """Time since the opening."""
        return 0 if self._opened_ns is None else now_ns - self._opened_ns

    def wall_ms(self, now_ns: int) -> int:
        """The vendor's clock."""
        return (now_ns + self._offset_ns) // NS_PER_MS

    def due(self, due_ns: Ints) -> DueTimes:
        """Both times of many events."""
        opened_ns = self._opened_ns or 0
        return DueTimes(due_ns - opened_ns, (due_ns + self._offset_ns) // NS_PER_MS)


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Events ``rows`` of a batch, to be sent as one frame."""

    batch: EventBatch
    rows: slice


class EventStream:
    """Paces a tape; ``limit`` is the number of events after which it falls silent, 0 for none."""

    def __init__(self, tape: MarketTape, time: MarketTime, rate: int, limit: int = 0) -> None:
        self.tape = tape
        self.sent = 0
        self.behind_ns = 0
        self.behind_max_ns = 0
        self._time = time
        self._limit = limit
        self._schedule = Schedule(rate, 0)
        self._running = False
        self._left_ns: int | None = None
        self._batch: EventBatch | None = None
        self._used = 0

    @property
    def rate(self) -> int:
        """Events a second."""
        return self._schedule.rate

    @property
    def finished(self) -> bool:
        """The limit is reached."""
        return bool(self._limit) and self.sent >= self._limit

    def select(self, subscriptions: Collection[str], now_ns: int) -> None:
        """Start, stop or go on, by what anybody is subscribed to."""
        wanted = self.tape.select(subscriptions)
        # What is written ahead is for those who were subscribed until now.
        self.rewrite()
        if wanted and not self._running:
            self._time.open(now_ns)
            self._skip_unsent(now_ns)
            # Due from now on: what nobody was sent is not made up for.
            self._schedule.anchor(self.sent, now_ns, self.rate)
        elif self._running and not wanted:
            self._left_ns = now_ns
        self._running = wanted

    def set_rate(self, rate: int, now_ns: int) -> None:
        """Go on at another rate from now."""
        self._schedule.anchor(self.sent, now_ns, rate)
        self.rewrite()

    def rewrite(self) -> None:
        """Forget what is written ahead: the next events are to be written anew."""
        self._batch, self._used = None, 0

    def next_due_ns(self) -> int | None:
        """When the next event is due, or None for never."""
        if not self._running or not self.rate or self.finished:
            return None
        return self._schedule.due_at(self.sent)

    def slices(self, now_ns: int, tolerance_ns: int) -> Iterator[Slice]:
        """Yield what is due and take it as sent; more than ``tolerance_ns`` late is behind."""
        next_due_ns = self.next_due_ns()
        if next_due_ns is None:
            return
        self.behind_ns = max(0, now_ns - next_due_ns - tolerance_ns)
        self.behind_max_ns = max(self.behind_max_ns, self.behind_ns)
        due = min(self._schedule.due(now_ns), self.sent + TICK_EVENTS)
        due = min(due, self._limit) if self._limit else due
        while self.sent < due:
            yield self._next_slice(due - self.sent)

    def _next_slice(self, wanted: int) -> Slice:
        batch = self._batch
        if batch is None or self._used == len(batch):
            batch, self._used = self._write(), 0
        first = self._used
        self._used = min(first + wanted, len(batch))
        self._batch = batch
        self.sent += self._used - first
        return Slice(batch, slice(first, self._used))

    def _write(self) -> EventBatch:
        count = min(max(self.rate // AHEAD_PER_S, 1), FRAME_EVENTS)
        return self.tape.batch(self._time.due(self._schedule.due_ns(self.sent, count)))

    def _skip_unsent(self, now_ns: int) -> None:
        """Nobody was sent what happened since the last subscriber left."""
        if self._left_ns is not None:
            self.tape.skip(max(0, self._schedule.due(now_ns) - self._schedule.due(self._left_ns)))
