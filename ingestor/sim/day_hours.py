"""How busy each minute of an ES day is, and the map from activity to time.

A file holds one UTC day. Of the CME sessions (18:00 to 17:00 New York) it sees the rest of one,
the daily break, of which the last quarter of an hour gathers orders, and the start of the next.
Every date is treated as a weekday.

Events come with *units*, a running count that rises with the activity between them. `Hours.pace`
gives each minute its share of a session's units, and places a unit within its minute by integer
arithmetic alone, so that no machine rounds differently.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

import numpy as np

from ingestor.model.blocks import Int64s
from ingestor.model.clock import new_york_ns, to_ns
from ingestor.model.units import NS_PER_MS, NS_PER_S

MINUTE_NS: Final = 60 * NS_PER_S
_MINUTES_A_DAY: Final = 1_440

CLOSE: Final = dt.time(17, 0)
GATHERING: Final = dt.time(17, 45)
REOPEN: Final = dt.time(18, 0)

QUIET_HOUR: Final = 23
"""New York hour in which least happens."""

_BUSY_FROM: Final = (
    (0, 0, 2),
    (3, 0, 8),
    (8, 30, 14),
    (9, 30, 70),
    (10, 0, 35),
    (11, 30, 18),
    (13, 30, 22),
    (15, 0, 32),
    (15, 50, 70),
    (16, 0, 20),
    (16, 15, 4),
    (18, 0, 8),
    (20, 0, 4),
    (QUIET_HOUR, 0, 1),
)
"""New York hour and minute from which a weight holds, and the weight of each minute."""

END_MARGIN_NS: Final = 10 * NS_PER_MS
"""Kept free at the end of the day, so that what happens in it is also received in it."""


def _weights_by_minute() -> Int64s:
    weights = np.zeros(_MINUTES_A_DAY, np.int64)
    for hour, minute, weight in _BUSY_FROM:
        weights[hour * 60 + minute :] = weight
    return weights


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """Where units fall in time: int64 arrays, minute i holds units ``from_unit[i:i+2]``."""

    from_unit: Int64s
    from_ns: Int64s

    def place(self, units: Int64s, plus_ns: Int64s) -> Int64s:
        """Return times of units, each moved on by `plus_ns` but never out of its minute."""
        minute = np.searchsorted(self.from_unit, units, side="right") - 1
        minute = np.minimum(minute, len(self.from_ns) - 2)
        start, begin = self.from_unit[minute], self.from_ns[minute]
        end = self.from_ns[minute + 1]
        share = np.maximum(self.from_unit[minute + 1] - start, 1)
        placed: Int64s = begin + (units - start) * (end - begin) // share + plus_ns
        return np.minimum(placed, end - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Hours:
    """A stretch of the day, minute by minute; `weights` int64, `edges_ns` one longer."""

    edges_ns: Int64s
    weights: Int64s

    @property
    def weight(self) -> int:
        """Share of the day's events, against the other hours."""
        return int(self.weights.sum())

    def pace(self, units: int) -> Pace:
        """Spread `units` over the minutes by weight."""
        ends = np.cumsum(self.weights)
        shares = [units * int(end) // self.weight for end in ends]
        return Pace(np.array([0, *shares], np.int64), self.edges_ns)


@dataclass(frozen=True, slots=True, eq=False)
class DayHours:
    """What one UTC day holds, in order."""

    midnight_ns: int
    first: Hours
    gathering: Hours
    auction: Hours
    second: Hours


def hours_of(date: dt.date) -> DayHours:
    """Lay out the hours of a UTC date."""
    midnight = to_ns(dt.datetime.combine(date, dt.time(), tzinfo=dt.UTC))
    close, gathering, reopen = (new_york_ns(date, wall) for wall in (CLOSE, GATHERING, REOPEN))
    return DayHours(
        midnight,
        _hours(midnight, close, close),
        _hours(gathering, reopen, close),
        _hours(reopen, reopen + 1, close),
        _hours(reopen, midnight + _MINUTES_A_DAY * MINUTE_NS - END_MARGIN_NS, close),
    )


def _hours(start_ns: int, end_ns: int, close_ns: int) -> Hours:
    starts = np.arange(start_ns, end_ns, MINUTE_NS, dtype=np.int64)
    wall = (starts - close_ns) // MINUTE_NS + CLOSE.hour * 60
    weights = np.maximum(_weights_by_minute()[wall % _MINUTES_A_DAY], 1)
    return Hours(np.append(starts, np.int64(end_ns)), weights)
