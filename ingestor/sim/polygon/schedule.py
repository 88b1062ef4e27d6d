"""When the k-th event is due: exact integer arithmetic from one anchor, so errors never add up."""

from __future__ import annotations

import numpy as np

from ingestor.sim.polygon.phrases import Ints
from ingestor.units import NS_PER_S


class Schedule:
    """Events at a fixed rate a second from an anchor on; a rate of 0 is silence.

    Event ``k`` is due at the anchor plus ``k / rate`` seconds, rounded up to a whole ns.
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
        return self._time_ns - (-numbers * NS_PER_S // self.rate)

    def _move_anchor(self, event: int) -> None:
        """Move the anchor by whole seconds, which is exact, so that products stay in 64 bits."""
        seconds = max(0, event - self._event) // self.rate
        self._event += seconds * self.rate
        self._time_ns += seconds * NS_PER_S
