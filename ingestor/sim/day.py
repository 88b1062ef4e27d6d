"""A whole ES day as a stream of MBP-10 records.

In order: a snapshot, continuous trading, the daily break with orders gathering at its end (the
book gets crossed), the opening auction (one trade without a side, then the uncrossed book), and
trading again until midnight UTC. Continuous trading is one script, played over and over, straight
or mirrored by chance, so that the price wanders through the day.

A file holds one UTC day. Of the CME sessions (18:00 to 17:00 New York) it sees the rest of one,
the daily break, of which the last quarter of an hour gathers orders, and the start of the next.
Every date is treated as a weekday. Events come with *units*, a running count that rises with the
activity between them. `Hours.pace` gives each minute its share of a session's units, and places a
unit within its minute by integer arithmetic alone, so that no machine rounds differently.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestor.model.blocks import Int64s
from ingestor.model.records import MBP10, Records
from ingestor.model.units import NS_PER_MS, NS_PER_S, new_york_ns, to_ns
from ingestor.sim.book import (
    ASK,
    BID,
    Book,
    BookTape,
    Draws,
    Half,
    cross,
    resting_halves,
    settle,
    trade,
)
from ingestor.sim.script import TICK_E9, Script, as_records, moved_by, write_script

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


@dataclass(frozen=True, slots=True, eq=False)
class Pace:
    """Where units fall in time: int64 arrays, minute i holds units ``from_unit[i:i+2]``."""

    from_unit: Int64s
    from_ns: Int64s

    def place(self, units: Int64s, plus_ns: Int64s) -> Int64s:
        """Return times of units, each moved on by `plus_ns` but never out of its minute."""
        minute = np.searchsorted(self.from_unit, units, side="right") - 1
        # The last unit lies on the last edge, which begins no minute.
        minute = np.minimum(minute, len(self.from_ns) - 2)
        start, begin = self.from_unit[minute], self.from_ns[minute]
        end = self.from_ns[minute + 1]
        share = np.maximum(self.from_unit[minute + 1] - start, 1)
        placed: Int64s = begin + (units - start) * (end - begin) // share + plus_ns
        # A burst at the end of a minute must not overtake what the next minute begins with.
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
        # In Python's integers, which no product overflows, whatever the day's size.
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
    by_minute = np.zeros(_MINUTES_A_DAY, np.int64)
    for hour, minute, weight in _BUSY_FROM:
        by_minute[hour * 60 + minute :] = weight
    weights = np.maximum(by_minute[wall % _MINUTES_A_DAY], 1)
    return Hours(np.append(starts, np.int64(end_ns)), weights)


SCRIPT_ROWS: Final = 65_536
"""Rows after which trading repeats itself; bounds the memory used, whatever the day's size."""

LOWEST_TOUCH: Final = 4 * 6_150
TOUCH_RANGE: Final = 4 * 600
"""A day starts at a best bid of 6150 to 6750, here in ticks."""

WANDER_TICKS: Final = 4 * 80
"""How far from its start the price may be when a script begins before it is turned back."""

MAX_GATHERING_ROWS: Final = 600
AUCTION_ROWS: Final = 2
AUCTION_SIZE: Final = 200
FIRST_SEQUENCE: Final = 1_000

SNAPSHOT_ROWS: Final = 1
SNAPSHOT_FLAGS: Final = 168
SNAPSHOT_AGE_NS: Final = 11 * 3_600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Plan:
    """How many rows each part of the day gets, besides snapshot and auction."""

    first: int
    gathering: int
    second: int


def day_records(date: dt.date, seed: int, depth_events: int) -> Iterator[Records]:
    """Yield a day's MBP-10 records, `depth_events` in all.

    Each array is valid until the next is asked for; none is longer than a script.
    """
    draws = Draws([seed, date.toordinal()])
    # 65,536 rows are 24 MB; a day of 10**8 events plays them 1,500 times.
    script = trading_script(draws, min(SCRIPT_ROWS, depth_events))
    hours = hours_of(date)
    plan = plan_rows(script, hours, depth_events)
    touch = LOWEST_TOUCH + draws.below(TOUCH_RANGE)
    player = Player(FIRST_SEQUENCE, hours.midnight_ns, len(script))
    trading = _Trading(script, player, draws)
    yield _snapshot(touch, hours.midnight_ns, draws)
    yield from trading.play(plan.first, touch, hours.first)
    # The last part may have ended in the middle of a script: the book is read back from its row.
    levels = player.last["levels"]
    sides = [
        zip(
            (levels[f"{name}_px_e9"] // TICK_E9).tolist(),
            levels[f"{name}_sz"].tolist(),
            levels[f"{name}_ct"].tolist(),
            strict=True,
        )
        for name in ("bid", "ask")
    ]
    book = Book((Half(BID, list(sides[BID])), Half(ASK, list(sides[ASK]))), BookTape())
    opening = book.halves[BID].touch
    cross(book, draws, plan.gathering)
    yield player.play_all(write_script(book.tape, draws), hours.gathering)
    book.tape = BookTape()
    book.uncross(opening, AUCTION_SIZE)
    yield player.play_all(write_script(book.tape, draws), hours.auction)
    yield from trading.play(plan.second, opening - 1, hours.second)


def trading_script(draws: Draws, rows: int) -> Script:
    """Simulate continuous trading for at least `rows` rows, from rest to rest."""
    book = Book(resting_halves(0), BookTape())
    trade(book, draws, rows)
    shift = settle(book)
    return write_script(book.tape, draws, shift)


def plan_rows(script: Script, hours: DayHours, depth_events: int) -> Plan:
    """Share the rows out so that no part ends inside an event and the sum is exact."""
    gathering = min(MAX_GATHERING_ROWS, depth_events // 50)
    trading = depth_events - SNAPSHOT_ROWS - AUCTION_ROWS - gathering
    weight = hours.second.weight
    second = _whole_events(script, trading * weight // (hours.first.weight + weight))
    # What whole events leave over goes to the gathering, whose events have one row each.
    first = _whole_events(script, trading - second)
    return Plan(first, gathering + trading - first - second, second)


def _whole_events(script: Script, rows: int) -> int:
    times, rest = divmod(rows, len(script))
    return times * len(script) + script.whole_events(rest)


class _Trading:
    """Continuous trading: the script, straight or mirrored, again and again."""

    def __init__(self, script: Script, player: Player, draws: Draws) -> None:
        ways = script, script.mirrored()
        self._down, self._up = sorted(ways, key=lambda way: way.shift)
        self._player = player
        self._draws = draws

    def play(self, rows: int, touch: int, hours: Hours) -> Iterator[Records]:
        """Yield `rows` rows of trading, from a book at rest around `touch`."""
        times, rest = divmod(rows, len(self._up))
        lengths = [len(self._up)] * times + [rest] * (rest > 0)
        pace = hours.pace(sum(self._up.units_of(length) for length in lengths))
        units, wandered = 0, 0
        for length in lengths:
            way = self._way(wandered)
            yield self._player.play(way, length, touch + wandered, pace, units)
            units += way.units_of(length)
            wandered += way.shift

    def _way(self, wandered: int) -> Script:
        coin = self._draws.below(2)
        # Drawn in any case, so that turning back does not shift the chances after it.
        if abs(wandered) > WANDER_TICKS:
            return self._down if wandered > 0 else self._up
        return self._up if coin else self._down


def _snapshot(touch: int, midnight_ns: int, draws: Draws) -> Records:
    book = Book(resting_halves(touch), BookTape())
    book.tape.write(book, ord("A"), (ord("N"), touch, 1, 0))
    records = as_records(write_script(book.tape, draws).words)
    records["flags"] = SNAPSHOT_FLAGS
    records["ts_event_ns"] = midnight_ns - SNAPSHOT_AGE_NS
    # As in real files: the snapshot is hours older than its receipt, which opens the file.
    records["ts_recv_ns"] = midnight_ns
    records["ts_in_delta_ns"] = 0
    records["sequence"] = FIRST_SEQUENCE
    return records


class Player:
    """Plays scripts into one file, never back in time: its last record, times and reused buffer."""

    def __init__(self, sequence: int, ts_ns: int, max_rows: int) -> None:
        self.sequence = sequence
        self.last: Any = None
        self._ts_event_ns = self._ts_recv_ns = ts_ns
        self._buffer: Int64s = np.empty((max_rows, MBP10.itemsize // 8), np.int64)

    def play(self, script: Script, rows: int, touch: int, pace: Pace, units: int) -> Records:
        """Return the first `rows` rows of a script as records; valid until the next call.

        It starts from the best bid `touch`, in ticks, with the activity `units` behind it.
        """
        words = self._buffer[:rows]
        np.add(script.words[:rows], moved_by(touch * TICK_E9, self.sequence), out=words)
        records = as_records(words)
        moments = pace.place(script.units[:rows] + units, script.after_ns[:rows])
        event_ns = _never_back(moments, self._ts_event_ns)
        recv_ns = _never_back(event_ns + script.latency_ns[:rows], self._ts_recv_ns)
        records["ts_event_ns"], records["ts_recv_ns"] = event_ns, recv_ns
        self.sequence = int(records["sequence"][-1])
        self._ts_event_ns, self._ts_recv_ns = int(event_ns[-1]), int(recv_ns[-1])
        self.last = records[-1].copy()
        return records

    def play_all(self, script: Script, hours: Hours) -> Records:
        """Return a whole script whose prices stand as they are, spread over some hours."""
        pace = hours.pace(script.units_of(len(script)))
        return self.play(script, len(script), 0, pace, 0)


def _never_back(times_ns: Int64s, last_ns: int) -> Int64s:
    return np.maximum.accumulate(np.maximum(times_ns, last_ns, out=times_ns), out=times_ns)
