"""The table of counters: shared memory, one row per process, one documented column per counter.

Every process writes its own row only and reads the others' at will (`ENDED` alone is written by
the supervisor); a value is one aligned int64, so a reader sees an old or a new value, never half
of one. The table is made before the processes fork and lives as long as any of them.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from ingestor.model.feed_status import FeedStatus, decode_status, encode_status, shortened


class Counter(IntEnum):
    """Columns; what is not a count of something says its unit."""

    HEARTBEAT_NS = 0
    """CLOCK_MONOTONIC of the last sign of life."""
    BYTES_TOTAL = 1
    """Bytes on disk of all files of a feed."""
    BYTES_READ = 2
    """Bytes on disk read so far; of a live feed, bytes received."""
    RECORDS = 3
    """Records a feed put in its ring, or rows that the publisher was handed."""
    SKIPPED = 4
    """Records left out because they make no sense."""
    LATE = 5
    """Records that stepped back in time within their file; of a live feed, prints reported late."""
    RING_FULL = 6
    """Times a feed found its ring full."""
    PUBLISHED = 7
    """Rows that the server has acknowledged."""
    MESSAGES = 8
    """Messages that the server has acknowledged."""
    EVENT_TIME_NS = 9
    """Event time of the newest row handled."""
    RECONNECTS = 10
    """Connections after the first: of a live feed to its vendor, of the publisher to NATS."""
    FRAMES = 11
    """Messages of the vendor that a live feed received."""
    DROPPED_TRADES = 12
    """Trades that were dropped because the pipeline could not follow."""
    DROPPED_QUOTES = 13
    """Quotes that were dropped because the pipeline could not follow."""
    GAPS = 14
    """Times that a live feed lost its connection and data flowed again."""
    ODDITIES = 15
    """Records that were kept although something about them is odd."""
    REFERENCE_PRICE_E9 = 16
    """Newest price of the options' underlying; 0 before the first."""
    ENDED = 17
    """1 once the process has ended, however it did."""
    STATUSES = 18
    """Statuses of feeds that the server has acknowledged."""
    STATUSES_LOST = 19
    """Statuses of feeds that the server refused, or that were dropped while it was away."""
    UNRECORDED = 20
    """Messages of the vendor that the journal did not take."""
    HELD = 21
    """Records that wait in a live feed for room in its ring."""
    UNDELIVERED = 22
    """Records that a live feed had not handed on when the run was to stop."""
    AWAY_SINCE_NS = 23
    """CLOCK_MONOTONIC since when a feed has no vendor, or the publisher no server; 0 if not."""
    WAITS_FOR_NS = 24
    """Event time of the row that a paced replay waits for; 0 while it does not wait."""
    WAITS_UNTIL_NS = 25
    """CLOCK_MONOTONIC when that row is due."""


GAUGES: Final = frozenset({Counter.BYTES_TOTAL, Counter.ENDED, Counter.HELD})
"""Columns that tell how something is now, as times and prices do too; all others only grow."""


MONOTONIC: Final = frozenset({Counter.HEARTBEAT_NS, Counter.AWAY_SINCE_NS, Counter.WAITS_UNTIL_NS})
"""Times of a clock that nobody else has: they are told as ages."""


STOP_NOTHING: Final = 0
STOP_ORDERLY: Final = 1
STOP_GIVE_UP: Final = 2
"""Stop, and wait for no server: it is gone for good."""


class CounterTable:
    """Rows for `processes` processes, plus one word by which the supervisor says stop."""

    def __init__(self, processes: int) -> None:
        columns = len(Counter)
        self._memory = mmap.mmap(-1, 8 * (processes * columns + 1))
        words = np.frombuffer(self._memory, np.int64)
        self._stop = words[:1]
        self._rows = words[1:].reshape(processes, columns)

    def row(self, process: int) -> CounterRow:
        """Return one process's row."""
        return CounterRow(self._rows[process])

    @property
    def stopping(self) -> bool:
        """Whether the supervisor has asked everybody to stop in order."""
        return bool(self._stop[0] != STOP_NOTHING)

    @property
    def giving_up(self) -> bool:
        """Whether it is known that nothing can be published any more."""
        return bool(self._stop[0] == STOP_GIVE_UP)

    def stop(self, *, give_up: bool = False) -> None:
        """Ask everybody to stop in order."""
        self._stop[0] = STOP_GIVE_UP if give_up else STOP_ORDERLY


class CounterRow:
    """One process's counters."""

    def __init__(self, cells: npt.NDArray[np.int64]) -> None:
        self._cells = cells

    def __getitem__(self, counter: Counter) -> int:
        """Read a counter."""
        return int(self._cells[counter])

    def __setitem__(self, counter: Counter, value: int) -> None:
        """Write a counter."""
        self._cells[counter] = value

    def away(self, away: bool, now_ns: int) -> None:
        """Note whether the process is without its vendor or server."""
        if not away:
            self[Counter.AWAY_SINCE_NS] = 0
        elif not self[Counter.AWAY_SINCE_NS]:
            self[Counter.AWAY_SINCE_NS] = now_ns

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Add to a counter; only its own process may."""
        self._cells[counter] += amount


SLOT_BYTES: Final = 8_192
"""A status with the longest text, every character escaped, and a feed's name."""

_HEAD: Final = struct.Struct("<II")
_READ_TRIES: Final = 3


class StatusBoard:
    """Slots for `feeds` feeds; made before the processes fork."""

    def __init__(self, feeds: int) -> None:
        self._memory = mmap.mmap(-1, max(feeds, 1) * SLOT_BYTES)

    def put(self, feed: int, status: FeedStatus) -> bool:
        """Show a status, its text shortened; False when it does not fit. For one process only."""
        data = encode_status(shortened(status))
        if len(data) > SLOT_BYTES - _HEAD.size:
            return False
        at = feed * SLOT_BYTES
        self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, at, len(data), zlib.crc32(data))
        return True

    def get(self, feed: int) -> FeedStatus | None:
        """Return the last status; None when there is none, or when it changes all the time."""
        for _ in range(_READ_TRIES):
            slot = self._memory[feed * SLOT_BYTES : (feed + 1) * SLOT_BYTES]
            size, checksum = _HEAD.unpack_from(slot)
            data = slot[_HEAD.size : _HEAD.size + size]
            if not size:
                return None
            if zlib.crc32(data) == checksum:
                return decode_status(data)
        return None
