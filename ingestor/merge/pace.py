"""Pace: when each event of a replay is due.

The schedule is absolute. The first event is due at once; every other is due by its distance in
event time from the first, divided by the speed. Due times are computed from that one anchor, never
from the event before, so an error in sending one event does not move the next. Holes longer than
`max_gap_ns` are shortened to it: the time removed so far is one offset. Another speed, and the end
of a pause, move the anchor once, and the schedule is absolute from there.
"""

from __future__ import annotations

import numpy as np

from ingestor.model.blocks import Int64s


class Pacer:
    """Maps event times to due times; speed is seconds of event time per second, above 0."""

    def __init__(self, speed: float, max_gap_ns: int | None = None) -> None:
        self._speed = speed
        self._max_gap_ns = max_gap_ns
        self._anchor: tuple[int, int] | None = None
        self._previous_ns = 0
        self._cut_ns = 0

    @property
    def anchored(self) -> bool:
        """Whether the first event has been seen."""
        return self._anchor is not None

    def due_ns(self, key_ts_ns: Int64s, now_ns: int) -> Int64s:
        """Return due times (int64 ns on the clock of `now_ns`) of the next events in order.

        `now_ns` is read only by the first call, which anchors the schedule to it.
        """
        if len(key_ts_ns) == 0:
            return key_ts_ns
        # Anchored by the first event, not at the start: until then files may be opened for minutes.
        if self._anchor is None:
            self._anchor = (int(key_ts_ns[0]), now_ns)
            self._previous_ns = int(key_ts_ns[0])
        first_ns, start_ns = self._anchor
        elapsed_ns = key_ts_ns - first_ns - self._cuts_ns(key_ts_ns)
        self._previous_ns = int(key_ts_ns[-1])
        # float64 holds 104 days of ns exactly; only what has elapsed goes through it.
        due: Int64s = start_ns + np.rint(elapsed_ns / self._speed).astype(np.int64)
        return due

    def reschedule(self, due_ns: Int64s, speed: float, now_ns: int, at_ns: int) -> Int64s:
        """Go on at a speed; return anew the due times of rows that have theirs already.

        What was due at `at_ns` is due at `now_ns`, and the rest by its distance from that. The
        error of a due time, 1 ns, is stretched with it: once a change, and not once an event.
        """
        factor = self._speed / speed
        if self._anchor is not None:
            first_ns, start_ns = self._anchor
            self._anchor = (first_ns, now_ns + round((start_ns - at_ns) * factor))
        self._speed = speed
        due: Int64s = now_ns + np.rint((due_ns - at_ns) * factor).astype(np.int64)
        return due

    def _cuts_ns(self, key_ts_ns: Int64s) -> Int64s | int:
        if self._max_gap_ns is None:
            return 0
        # Across blocks too: a hole may lie between the last event of one and the first of the next.
        gaps = np.diff(key_ts_ns, prepend=self._previous_ns)
        cuts: Int64s = self._cut_ns + np.cumsum(np.maximum(gaps - self._max_gap_ns, 0))
        self._cut_ns = int(cuts[-1])
        return cuts
