"""A whole ES day as a stream of MBP-10 records.

In order: a snapshot, continuous trading, the daily break with orders gathering at its end (the
book gets crossed), the opening auction (one trade without a side, then the uncrossed book), and
trading again until midnight UTC. Continuous trading is one script, played over and over, straight
or mirrored by chance, so that the price wanders through the day.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestor.model.blocks import Int64s
from ingestor.model.records import MBP10, Records
from ingestor.model.units import NS_PER_S
from ingestor.sim.book import ASK, BID, Book, BookTape, Half, resting_halves, settle
from ingestor.sim.day_hours import DayHours, Hours, Pace, hours_of
from ingestor.sim.market import Draws, cross, trade
from ingestor.sim.script import TICK_E9, Script, as_records, moved_by, write_script

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
    script = trading_script(draws, min(SCRIPT_ROWS, depth_events))
    hours = hours_of(date)
    plan = plan_rows(script, hours, depth_events)
    touch = LOWEST_TOUCH + draws.below(TOUCH_RANGE)
    player = Player(FIRST_SEQUENCE, hours.midnight_ns, len(script))
    trading = _Trading(script, player, draws)
    yield _snapshot(touch, hours.midnight_ns, draws)
    yield from trading.play(plan.first, touch, hours.first)
    book = _book_of(player.last)
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
            yield self._player.play(way, length, Placement(touch + wandered, pace, units))
            units += way.units_of(length)
            wandered += way.shift

    def _way(self, wandered: int) -> Script:
        coin = self._draws.below(2)
        if abs(wandered) > WANDER_TICKS:
            return self._down if wandered > 0 else self._up
        return self._up if coin else self._down


def _snapshot(touch: int, midnight_ns: int, draws: Draws) -> Records:
    book = Book(resting_halves(touch), BookTape())
    book.tape.write(book, ord("A"), (ord("N"), touch, 1, 0))
    records = as_records(write_script(book.tape, draws).words)
    records["flags"] = SNAPSHOT_FLAGS
    records["ts_event_ns"] = midnight_ns - SNAPSHOT_AGE_NS
    records["ts_recv_ns"] = midnight_ns
    records["ts_in_delta_ns"] = 0
    records["sequence"] = FIRST_SEQUENCE
    return records


def _book_of(record: Any) -> Book:
    """Return a book whose ten visible levels are those of a record."""
    levels = record["levels"]
    sides = [
        zip(
            (levels[f"{name}_px_e9"] // TICK_E9).tolist(),
            levels[f"{name}_sz"].tolist(),
            levels[f"{name}_ct"].tolist(),
            strict=True,
        )
        for name in ("bid", "ask")
    ]
    return Book((Half(BID, list(sides[BID])), Half(ASK, list(sides[ASK]))), BookTape())


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """Where and when a script is played.

    ``touch`` is the best bid in ticks that it starts from, ``units`` the activity before it.
    """

    touch: int
    pace: Pace
    units: int = 0


class Player:
    """Plays scripts into one file, never back in time: its last record, times and reused buffer."""

    def __init__(self, sequence: int, ts_ns: int, max_rows: int) -> None:
        self.sequence = sequence
        self.last: Any = None
        self._ts_event_ns = self._ts_recv_ns = ts_ns
        self._buffer: Int64s = np.empty((max_rows, MBP10.itemsize // 8), np.int64)

    def play(self, script: Script, rows: int, placement: Placement) -> Records:
        """Return the first `rows` rows of a script as records; valid until the next call."""
        words = self._buffer[:rows]
        np.add(script.words[:rows], moved_by(placement.touch * TICK_E9, self.sequence), out=words)
        records = as_records(words)
        moments = placement.pace.place(
            script.units[:rows] + placement.units, script.after_ns[:rows]
        )
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
        return self.play(script, len(script), Placement(0, pace))


def _never_back(times_ns: Int64s, last_ns: int) -> Int64s:
    return np.maximum.accumulate(np.maximum(times_ns, last_ns, out=times_ns), out=times_ns)
