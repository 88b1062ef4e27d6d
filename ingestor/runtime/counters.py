"""The shared memory of a run: what its processes count, and the few values that they share.

    rows      one a process, one documented column per `Counter`; served as metrics
    bases     what processes had counted that were started again: their followers count on from it
    totals    what only the run's report needs: `Total`, and rows stored by subject
    texts     JSON of a process that fits a slot: why it skipped records, a feed's last status, what
              keeps it from its work, how far the run is stored
    words     "stop", and the reference price that option strikes follow
    latencies histograms of every hop (`ingestor.runtime.latency`)

It is made before the processes fork and lives as long as any of them, so whoever was killed has
still counted: the report of a run is read from here and from nowhere else. Every process writes
what is its own and reads the rest at will (`ENDED` alone is written by the supervisor). A number is
one aligned int64, so a reader sees an old or a new one, never half of each; a text has a checksum.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections import Counter as Tally
from collections.abc import Mapping, Sequence
from enum import Flag, IntEnum, auto
from typing import Final, Self

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.model.bounds import MAX_LINE_CHARS, printable
from ingestor.model.feed_status import FeedStatus, decode_status, encode_status, shortened
from ingestor.model.records import EVENT_TYPES
from ingestor.runtime.latency import LatencyTable
from ingestor.runtime.positions import Position, Seek


class Role(Flag):
    """What a process of a run does: which columns mean something in its row."""

    FILES = auto()
    """A feed of files."""
    LIVE = auto()
    """A live feed."""
    PUBLISHER = auto()
    OTHER = auto()
    """Metrics, the keeper of the record."""
    FEED = FILES | LIVE
    ANY = FILES | LIVE | PUBLISHER | OTHER


GAUGE: Final = True
"""Of a column that tells how something is now, as times do too; all others only grow."""


class Counter(IntEnum):
    """Columns, each with a sentence `about` it and `whose` rows it means something in.

    What is not a count of something says its unit.
    """

    about: str
    whose: Role
    is_gauge: bool

    def __new__(cls, whose: Role, about: str, is_gauge: bool = False) -> Self:
        """Take the next column; `about` is the sentence that metrics show."""
        counter = int.__new__(cls, len(cls.__members__))
        counter._value_, counter.about, counter.whose = int(counter), about, whose
        counter.is_gauge = is_gauge
        return counter

    HEARTBEAT_NS = Role.ANY, "CLOCK_MONOTONIC of the last sign of life."
    BYTES_TOTAL = Role.FILES, "Bytes on disk of all files of a feed.", GAUGE
    BYTES_READ = Role.FEED, "Bytes on disk read so far; of a live feed, bytes received."
    RECORDS = (
        Role.FEED | Role.PUBLISHER,
        "Records a feed put in its ring, or rows that the publisher was handed.",
    )
    SKIPPED = Role.FEED, "Records left out because they make no sense."
    LATE = (
        Role.FEED,
        "Records that stepped back in time within their file; of a live feed, prints reported"
        " late.",
    )
    RING_FULL = Role.FEED, "Times a feed found its ring full."
    PUBLISHED = Role.PUBLISHER, "Rows that the server has acknowledged."
    MESSAGES = Role.PUBLISHER, "Messages that the server has acknowledged."
    EVENT_TIME_NS = Role.FEED | Role.PUBLISHER, "Event time of the newest row handled."
    RECONNECTS = (
        Role.LIVE | Role.PUBLISHER,
        "Connections after the first: of a live feed to its vendor, of the publisher to NATS.",
    )
    FRAMES = Role.LIVE, "Messages of the vendor that a live feed received."
    DROPPED_TRADES = Role.LIVE, "Trades dropped because the pipeline could not follow."
    DROPPED_QUOTES = Role.LIVE, "Quotes dropped because the pipeline could not follow."
    GAPS = Role.LIVE, "Times that a live feed lost its connection and data flowed again."
    ODDITIES = Role.LIVE, "Records that were kept although something about them is odd."
    ENDED = Role.ANY, "1 once the process has ended, however it did.", GAUGE
    STATUSES = Role.PUBLISHER, "Statuses of feeds that the server has acknowledged."
    STATUSES_LOST = (
        Role.PUBLISHER,
        "Statuses of feeds that the server refused, or that were dropped while it was away.",
    )
    UNRECORDED = Role.LIVE, "Messages of the vendor that the journal did not take."
    HELD = Role.LIVE, "Records that wait in a live feed for room in its ring.", GAUGE
    UNDELIVERED = Role.LIVE, "Records that a live feed had not handed on when the run was to stop."
    AWAY_SINCE_NS = (
        Role.LIVE | Role.PUBLISHER,
        "CLOCK_MONOTONIC since when a feed has no vendor, or the publisher no server; 0 if not.",
    )
    WAITS_FOR_NS = (
        Role.PUBLISHER,
        "Event time of the row that a paced replay waits for; 0 while it does not wait.",
    )
    WAITS_UNTIL_NS = Role.PUBLISHER, "CLOCK_MONOTONIC when that row is due."
    RESTARTS = Role.ANY, "Times that the process died or fell silent and was started again."
    RING_USED_BYTES = Role.FEED, "Bytes that wait in a feed's ring.", GAUGE
    RING_BYTES = Role.FEED, "Bytes that a feed's ring holds at most.", GAUGE
    UNACKED = Role.PUBLISHER, "Rows that were sent and that the server has not answered for.", GAUGE
    STALLED_SINCE_NS = (
        Role.PUBLISHER,
        "CLOCK_MONOTONIC since when rows are under way and the server stores none; 0 if not.",
    )
    ATTEMPTS = Role.LIVE, "Attempts of a live feed to connect to its vendor."
    SUBSCRIBED = Role.LIVE, "Channels that the vendor has acknowledged on this connection.", GAUGE
    RECEIVED_NS = Role.LIVE, "When a live feed received the vendor's newest message, UTC."
    JOURNAL_BYTES = Role.LIVE, "Bytes of the vendor's messages that the journal took."
    STARTED_NS = Role.ANY, "CLOCK_MONOTONIC when the process was started, last."
    PID = Role.ANY, "Number of the process.", GAUGE
    FIRST_EVENT_NS = Role.PUBLISHER, "Event time of the first row handled."
    SPOOLED = Role.LIVE, "Records that wait in the journal of a live feed to be read back.", GAUGE
    SPOOL_LAG_NS = Role.LIVE, "How old the record is that is read back from the journal next."
    SEEKS = Role.FILES, "Seeks of a replay that a feed has followed."
    BEGINS_NS = (
        Role.FILES,
        "Event time of the first event of all files of a feed; what their headers say before it is"
        " read.",
    )
    ENDS_NS = (
        Role.FILES,
        "Event time of the last event of all files of a feed; what their headers say before it is"
        " read.",
    )
    END_READ = Role.FILES, "1 once the last event of all files of a feed was read.", GAUGE


TIMES: Final = frozenset(counter for counter in Counter if counter.name.endswith("_NS"))

MONOTONIC: Final = frozenset(
    {
        Counter.HEARTBEAT_NS,
        Counter.AWAY_SINCE_NS,
        Counter.WAITS_UNTIL_NS,
        Counter.STALLED_SINCE_NS,
        Counter.STARTED_NS,
    }
)
"""Times of a clock that nobody else has: they are told as ages."""


class Total(IntEnum):
    """What the publisher notes for the report of the run; unset until it is known."""

    STARTED_NS = 0
    """CLOCK_MONOTONIC when the first rows were handed over."""
    FINISHED_NS = 1
    """CLOCK_MONOTONIC when nothing was left to do; unset for a publisher that was killed."""
    FIRST_EVENT_NS = 2
    LAST_EVENT_NS = 3
    """Event times of the first and the last row that were handed over."""
    FIRST_SEQ = 4
    LAST_SEQ = 5
    """Stream sequences of our first and our last message known to be stored."""
    MODE = 6
    """Place in `PUBLISH_MODES`."""
    UNANSWERED = 7
    """Rows that were sent and that the server had not answered for at the end."""


PUBLISH_MODES: Final = ("fast_ingest", "ack_window")

SUBJECTS: Final = tuple(kind.subject for kind in EVENT_TYPES)

STOP_NOTHING: Final = 0
STOP_ORDERLY: Final = 1
STOP_GIVE_UP: Final = 2
"""Stop, and wait for no server: it is gone for good."""

SLOT_BYTES: Final = 8_192
"""A status with the longest text, every character escaped, and a feed's name."""

LastTrade = tuple[str, int, int, int]
"""A contract's ticker, price in 1e-9, size, and event time in ns."""

MAX_LAST_TRADES: Final = 80
"""Of at most 90 bytes each they fit a slot."""

_UNSET: Final = np.iinfo(np.int64).min
"""0 is a time, and a lateness may be negative."""
_STOP, _PRICE = 0, 1
_WORDS: Final = 2
_HEAD: Final = struct.Struct("<II")
_READ_TRIES: Final = 3


class CounterTable:
    """Shared memory for `processes` processes; feeds come first, then the publisher."""

    def __init__(self, processes: int) -> None:
        columns, sizes = len(Counter), (_WORDS, len(Total), 2 * len(SUBJECTS))
        self._memory = mmap.mmap(-1, 8 * (sum(sizes) + 2 * processes * columns))
        # An aligned int64 is read and written as a whole on our CPUs: columns need no lock.
        words = np.frombuffer(self._memory, np.int64)
        self._words, self._totals, stored, rows = np.split(words, np.cumsum(sizes))
        self._totals[:] = _UNSET
        self._rows, self._bases = rows.reshape(2, processes, columns)
        # Row counts, and which subject came first, second, ...: the report names them in order.
        self._stored, self._rank = stored.reshape(2, len(SUBJECTS))
        self.statuses = Slots(processes)
        self.skips = Slots(processes)
        self._causes = Slots(processes)
        self._troubles = Slots(processes)
        self._last_trades = Slots(1)
        self._skipped_before: dict[str, int] = {}
        self._position = Slots(1)
        self._seek = Slots(1)
        self.ends = Slots(processes)
        """See `resume.note_ends`."""
        self.latencies = LatencyTable(processes)

    def row(self, process: int) -> CounterRow:
        """Return one process's row."""
        return CounterRow(self._rows[process], self._bases[process])

    def note_death(self, process: int, cause: str) -> None:
        """Count a process that died and starts again, and show why; for the supervisor alone."""
        self.row(process).add(Counter.RESTARTS)
        self._causes.put(process, cause.encode())

    def cause_of_death(self, process: int) -> str:
        """Return why a process was started again last; empty when it was not."""
        return (self._causes.get(process) or b"").decode()

    @property
    def last_trades(self) -> list[LastTrade]:
        """The last trades of option contracts, nearest to the money first."""
        data = self._last_trades.get(0)
        return [] if data is None else msgspec.json.decode(data, type=list[LastTrade])

    def note_last_trades(self, trades: Sequence[LastTrade]) -> None:
        """Show the last trades, at most `MAX_LAST_TRADES`; for the options' feed alone."""
        self._last_trades.put(0, msgspec.json.encode(trades[:MAX_LAST_TRADES]))

    def trouble(self, process: int) -> str:
        """Return what keeps a process from its work now: of a vendor, a server, a disk."""
        return (self._troubles.get(process) or b"").decode(errors="replace")

    def note_trouble(self, process: int, text: str | None) -> None:
        """Show what keeps a process from its work, None where nothing does."""
        shown = printable(text or "", MAX_LINE_CHARS)
        # Told ten times a second and nearly always the same: a read is cheaper than a write.
        if shown != self.trouble(process):
            self._troubles.put(process, shown.encode())

    def go_on(self, process: int) -> None:
        """Count on from what the one before counted; for a process that is started again."""
        row, base = self._rows[process], self._bases[process]
        growing = [counter for counter in Counter if not (counter.is_gauge or counter in TIMES)]
        base[growing] = row[growing]
        # What waited in its memory is gone with it.
        base[Counter.UNDELIVERED] += row[Counter.HELD] + row[Counter.SPOOLED]
        # Causes are a text in a slot, not columns: they have no base that is added to them.
        self._skipped_before = self.skipped(process)

    def count_for(self, process: int, counter: Counter) -> None:
        """Count one for another process, which shows it when it writes the counter next."""
        # Not its cell: the process that owns the row would write over it with its own count.
        self._bases[process][counter] += 1

    @property
    def stopping(self) -> bool:
        """Whether the supervisor has asked everybody to stop in order."""
        return bool(self._words[_STOP] != STOP_NOTHING)

    @property
    def giving_up(self) -> bool:
        """Whether it is known that nothing can be published any more."""
        return bool(self._words[_STOP] == STOP_GIVE_UP)

    def stop(self, *, give_up: bool = False) -> None:
        """Ask everybody to stop in order."""
        self._words[_STOP] = STOP_GIVE_UP if give_up else STOP_ORDERLY

    @property
    def reference_price_e9(self) -> int | None:
        """Newest price of the options' underlying in 1e-9; None before the first."""
        # Memory starts as zeros, and no underlying costs nothing.
        return int(self._words[_PRICE]) or None

    @reference_price_e9.setter
    def reference_price_e9(self, price_e9: int) -> None:
        self._words[_PRICE] = price_e9

    def total(self, total: Total) -> int | None:
        """Return a total of the publisher, None before it is known."""
        value = int(self._totals[total])
        return None if value == _UNSET else value

    def note(self, total: Total, value: int | None) -> None:
        """Set a total; for the publisher alone."""
        self._totals[total] = _UNSET if value is None else value

    @property
    def stored(self) -> dict[str, int]:
        """Rows known to be stored by subject, in the order in which subjects first had some."""
        ranked = sorted((rank, i) for i, rank in enumerate(self._rank.tolist()) if rank)
        return {SUBJECTS[i]: rows for _, i in ranked if (rows := int(self._stored[i]))}

    def note_stored(self, rows_by_subject: Mapping[str, int]) -> None:
        """Set the rows known to be stored; for the publisher alone."""
        for subject, rows in rows_by_subject.items():
            index = SUBJECTS.index(subject)
            self._stored[index] = rows
            self._rank[index] = self._rank[index] or self._rank.max() + 1

    @property
    def position(self) -> Position | None:
        """How far the run is stored; None before its publisher has opened the stream."""
        data = self._position.get(0)
        return None if data is None else msgspec.json.decode(data, type=Position)

    def note_position(self, position: Position) -> None:
        """Show how far the run is stored, all of it as one; for the publisher alone."""
        self._position.put(0, msgspec.json.encode(position))

    @property
    def seek(self) -> Seek:
        """Where the feeds of a replay begin; number 0 before the first seek."""
        data = self._seek.get(0)
        return Seek() if data is None else msgspec.json.decode(data, type=Seek)

    def note_seek(self, seek: Seek) -> None:
        """Show where the feeds are to begin; for the publisher alone."""
        self._seek.put(0, msgspec.json.encode(seek))

    def status(self, feed: int) -> FeedStatus | None:
        """Return what a feed has told last; None when there is none, or it changes all the time."""
        data = self.statuses.get(feed)
        return None if data is None else decode_status(data)

    def note_status(self, feed: int, status: FeedStatus) -> bool:
        """Show a status, its text shortened; False when it does not fit. For one process only."""
        return self.statuses.put(feed, encode_status(shortened(status)))

    def skipped(self, process: int) -> dict[str, int]:
        """Return the records that a feed left out, by cause."""
        data = self.skips.get(process)
        return {} if data is None else msgspec.json.decode(data, type=dict[str, int])

    def note_skipped(self, process: int, skipped: Mapping[str, int]) -> None:
        """Count what a feed left out; for the feed alone, and cheap while there is nothing new."""
        row, total = self.row(process), sum(skipped.values())
        if row[Counter.SKIPPED] != total + sum(self._skipped_before.values()):
            causes = Tally(skipped) + Tally(self._skipped_before)
            self.skips.put(process, msgspec.json.encode(causes))
            row[Counter.SKIPPED] = total


class CounterRow:
    """One process's counters."""

    def __init__(self, cells: npt.NDArray[np.int64], base: npt.NDArray[np.int64]) -> None:
        self._cells = cells
        self._base = base

    def __getitem__(self, counter: Counter) -> int:
        """Read a counter."""
        return int(self._cells[counter])

    def __setitem__(self, counter: Counter, value: int) -> None:
        """Write a counter: what this process has counted itself."""
        self._cells[counter] = self._base[counter] + value

    def note_since(self, since: Counter, is_so: bool, now_ns: int) -> None:
        """Note whether something is so, and if it is, since when."""
        if not is_so:
            self[since] = 0
        elif not self[since]:
            self[since] = now_ns

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Add to a counter; only its own process may."""
        self._cells[counter] += amount

    def count_from(self, counter: Counter, value: int) -> None:
        """Have a counter stand at a value, and count on from there."""
        self._cells[counter] = self._base[counter] = value


class Slots:
    """Texts of bounded length in shared memory, each written by one process only.

    A slot has two halves, and before all slots a byte for each says which half shows. That byte is
    written last: whoever is killed while it writes leaves the text before. Of a half:

    offset 0  u4   bytes of text that follow, 0 while there are none
    offset 4  u4   CRC-32 of these bytes, by which a reader knows that it read no half of two
    offset 8       the text
    """

    def __init__(self, count: int, slot_bytes: int = SLOT_BYTES) -> None:
        self._count, self._bytes = max(count, 1), slot_bytes
        self._memory = mmap.mmap(-1, self._count * (1 + 2 * slot_bytes))

    def _at(self, slot: int, half: int) -> int:
        return self._count + (2 * slot + half) * self._bytes

    def put(self, slot: int, data: bytes) -> bool:
        """Show a text; False when it does not fit, and the one before stays."""
        if len(data) > self._bytes - _HEAD.size:
            return False
        half = 1 - self._memory[slot]
        at = self._at(slot, half)
        self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _HEAD.pack_into(self._memory, at, len(data), zlib.crc32(data))
        # Last, and a single byte: who dies before this line leaves the old text in force.
        self._memory[slot] = half
        return True

    def get(self, slot: int) -> bytes | None:
        """Return the last text; None when there is none, or when it changes all the time."""
        # Only two puts during one copy spoil it: the first of them writes the other half.
        for _ in range(_READ_TRIES):
            at = self._at(slot, self._memory[slot])
            copy = self._memory[at : at + self._bytes]
            size, checksum = _HEAD.unpack_from(copy)
            data = copy[_HEAD.size : _HEAD.size + size]
            if not size:
                return None
            if zlib.crc32(data) == checksum:
                return data
        return None
