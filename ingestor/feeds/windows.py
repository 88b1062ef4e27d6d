"""Which event times are wanted: half-open windows of int nanoseconds UTC.

A session is given as New York wall times and holds on the date of a file: from `start` on that
date to `end` on that date, or on the next when `end` is not after `start`. Without `start` it is
open to the past, without `end` to the future, since a date means every record of its file.

Files are cut at midnight UTC, which is 19:00 or 20:00 in New York. So an evening session that
begins on one date runs on in the file of the next; that file's window is therefore joined by
the one of the date before when that date is asked for too. (CME's session of Tuesday begins on
Monday evening: ask for both dates, from 18:00 to 17:00.)

A file of several days is as good as a file of each of them, one after the other: the windows of a
day hold for its records of that day, by ``ts_recv``, by which the vendor cuts days.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from ingestor.model.records import UInt64s
from ingestor.model.units import EPOCH_DATE, INT64_MAX, NS_PER_DAY, new_york_ns

Mask = npt.NDArray[np.bool_]

_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """Event times from `start_ns` on and before `end_ns`; by default all there are."""

    start_ns: int = 0
    end_ns: int = INT64_MAX + 1

    def within(self, other: Window) -> Window:
        """Return the part that lies in another window too."""
        return Window(max(self.start_ns, other.start_ns), min(self.end_ns, other.end_ns))


EVERYTHING: Final = Window()


@dataclass(frozen=True, slots=True)
class SessionTimes:
    """New York wall times; None leaves that side open."""

    start: dt.time | None = None
    end: dt.time | None = None

    @property
    def crosses_midnight(self) -> bool:
        """Whether the session ends on the day after it began."""
        return self.start is not None and self.end is not None and self.end <= self.start

    def on(self, date: dt.date) -> Window:
        """Return the session that begins on a date."""
        last = date + _DAY if self.crosses_midnight else date
        return Window(
            EVERYTHING.start_ns if self.start is None else new_york_ns(date, self.start),
            EVERYTHING.end_ns if self.end is None else new_york_ns(last, self.end),
        )

    def of_file(self, date: dt.date, dates: Collection[dt.date], limits: Window) -> list[Window]:
        """Return the windows that hold in the file of a date, when `dates` are asked for."""
        begins = [date]
        if self.end is not None and date - _DAY in dates:
            # The session of the day before belongs here if it ends after this date began in UTC.
            midnight_ns = (date - EPOCH_DATE).days * NS_PER_DAY
            if self.on(date - _DAY).end_ns > midnight_ns:
                begins.insert(0, date - _DAY)
        return [self.on(begin).within(limits) for begin in begins]


class DailyWindows:
    """The windows that hold in a file of several days: for each record those of its day."""

    def __init__(self, of_day: Callable[[dt.date], Sequence[Window]]) -> None:
        """Take what gives the windows of a UTC day; none of them when it is not wanted."""
        self._of_day = of_day
        self._known: dict[int, Sequence[Window]] = {}

    def inside(self, ts_event_ns: UInt64s, ts_recv_ns: UInt64s) -> Mask | None:
        """Return which records to keep; None when all. Times are none beyond int64, at least one.

        Records are grouped by day first, so days in any order cost one sort.
        """
        days = (ts_recv_ns // np.uint64(NS_PER_DAY)).astype(np.int64)
        if days.min() == days.max():
            return inside(ts_event_ns, self._windows(int(days[0])))
        # Around midnight a block goes to and fro between days; a split by changes could be per
        # record.
        order = np.argsort(days, kind="stable")
        edges = np.flatnonzero(np.diff(days[order])) + 1
        kept = np.ones(len(days), np.bool_)
        for rows in np.split(order, edges):
            mask = inside(ts_event_ns[rows], self._windows(int(days[rows[0]])))
            if mask is not None:
                kept[rows] = mask
        return None if kept.all() else kept

    def _windows(self, day: int) -> Sequence[Window]:
        if day not in self._known:
            self._known[day] = self._of_day(EPOCH_DATE + dt.timedelta(days=day))
        return self._known[day]


def inside(ts_ns: UInt64s, windows: Sequence[Window]) -> Mask | None:
    """Return which times, none beyond int64, lie in any of the windows; None when all do."""
    # The way of nearly every block; nothing is looked at.
    if EVERYTHING in windows:
        return None
    first, last = int(ts_ns.min()), int(ts_ns.max())
    # Two comparisons tell for a block that lies inside, without a mask.
    if any(window.start_ns <= first and last < window.end_ns for window in windows):
        return None
    kept = np.zeros(len(ts_ns), np.bool_)
    for window in windows:
        if window.end_ns <= first or last < window.start_ns:
            continue
        kept |= (_bound(window.start_ns) <= ts_ns) & (ts_ns < _bound(window.end_ns))
    return kept


def _bound(ts_ns: int) -> np.uint64:
    # A window may begin before 1970 or end after int64, which uint64 cannot hold or need not.
    return np.uint64(min(max(ts_ns, EVERYTHING.start_ns), EVERYTHING.end_ns))
