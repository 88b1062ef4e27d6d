"""What the stages hand to each other: blocks of records, ordered runs over them, finished frames.

A `Block` is a slice of one feed's records with the symbol table that holds for it. The merge
answers with `Runs`: an order over several blocks, written as (block, start, stop) triples in
three arrays, so that no Python object exists per record. The encoder turns runs into `Frames`:
the bytes of finished ``PUB`` commands, one message per row (JSON) or per piece of a run (packed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ingestor.model.records import SOLE_RTYPE, Records, rtype_counts
from ingestor.model.symbols import SymbolTable

Int64s = npt.NDArray[np.int64]


class Source(StrEnum):
    """The envelope's ``source``."""

    POLYGON_WS = "polygon_ws"
    DIRECT_FEED = "direct_feed"
    REPLAY = "replay"
    SIM = "sim"


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Contiguous records of one feed, all of one itemsize; the rtype byte tells each one's type.

    `in_order` says that no key is below the one before it, so that the last is the watermark of
    all; a producer that has not looked leaves it False, and a reader that needs to know looks.
    `put_ns` is when a live feed put it in its ring (CLOCK_MONOTONIC), 0 where nobody noted it.
    """

    feed: int
    records: Records
    symbols: SymbolTable
    source: Source
    in_order: bool = False
    put_ns: int = 0


def ranges(start: Int64s, stop: Int64s) -> Int64s:
    """Return the numbers of all ranges one after another, without a Python step a range."""
    lengths = stop - start
    return np.arange(int(lengths.sum())) + np.repeat(stop - np.cumsum(lengths), lengths)


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows of several blocks in publishing order.

    ``block_of_run``, ``start`` and ``stop`` are int64 arrays of one length: run i is
    ``blocks[block_of_run[i]].records[start[i]:stop[i]]``. Runs are never empty.
    ``key_ts_ns`` (int64, one per row) is the event time each row is due by, never decreasing in
    a replay.
    """

    blocks: Sequence[Block]
    block_of_run: Int64s
    start: Int64s
    stop: Int64s
    key_ts_ns: Int64s

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.key_ts_ns)

    def pieces(self) -> Iterator[tuple[Block, Records]]:
        """Yield every run as its block and the records in it."""
        columns = (self.block_of_run.tolist(), self.start.tolist(), self.stop.tolist())
        for index, start, stop in zip(*columns, strict=True):
            block = self.blocks[index]
            yield block, block.records[start:stop]

    def event_ns(self, end: int) -> int:
        """Return the event time of the first row, for 0, or of the last, for -1."""
        row = int(self.start[0] if end == 0 else self.stop[-1] - 1)
        return int(self.blocks[int(self.block_of_run[end])].records["ts_event_ns"][row])

    @cached_property
    def ends(self) -> Int64s:
        """Number of rows up to and including each run."""
        return np.cumsum(self.stop - self.start)

    def split(self, rows: int) -> tuple[Runs, Runs]:
        """Cut after `rows` rows; either part may be empty."""
        return self.part(0, rows), self.part(rows, len(self))

    def part(self, first: int, last: int) -> Runs:
        """Return rows `first` up to but not including `last`, as far as there are such."""
        first, last = max(first, 0), min(last, len(self))
        # Most parts are all of it; then nothing is copied.
        if first == 0 and last == len(self):
            return self
        if first >= last:
            nothing = self.start[:0]
            return Runs(self.blocks, nothing, nothing, nothing, self.key_ts_ns[:0])
        one, other = np.searchsorted(self.ends, (first, last - 1), "right").tolist()
        # Copies: the runs that are cut are also part of the other half.
        start, stop = self.start[one : other + 1].copy(), self.stop[one : other + 1].copy()
        start[0] = self.stop[one] - (self.ends[one] - first)
        stop[-1] -= self.ends[other] - last
        runs = self.block_of_run[one : other + 1]
        return Runs(self.blocks, runs, start, stop, self.key_ts_ns[first:last])

    def gathered(self) -> Records:
        """Return a copy of the rows in their order, where all blocks have one dtype."""
        # Only the span of each block that is wanted is copied, then rows are picked from the copy.
        low = np.full(len(self.blocks), np.iinfo(np.int64).max)
        high = np.zeros(len(self.blocks), np.int64)
        np.minimum.at(low, self.block_of_run, self.start)
        np.maximum.at(high, self.block_of_run, self.stop)
        low = np.minimum(low, high)
        parts = [
            block.records[first:last]
            for block, first, last in zip(self.blocks, low.tolist(), high.tolist(), strict=True)
        ]
        lengths = high - low
        shift = (np.cumsum(lengths) - lengths - low)[self.block_of_run]
        rows = ranges(self.start + shift, self.stop + shift)
        gathered: Records = np.concatenate(parts)[rows]
        return gathered

    def counts_by_rtype(self) -> dict[int, int]:
        """Return the number of rows of each rtype, without a step per run."""
        counts: Counter[int] = Counter()
        per_block = np.bincount(self.block_of_run, self.stop - self.start, len(self.blocks))
        for index, rows in enumerate(per_block.tolist()):
            # Of a dtype that only one type has the rows need not be looked at.
            sole = SOLE_RTYPE.get(self.blocks[index].records.itemsize)
            if not rows:
                continue
            if sole is None:
                runs = self.block_of_run == index
                start = self.start[runs]
                stop = self.stop[runs]
                counts.update(rtype_counts(self.blocks[index].records[ranges(start, stop)]))
            else:
                counts[sole] += int(rows)
        return dict(counts)

    def counts_by_feed(self) -> dict[int, int]:
        """Return the number of rows of each feed, by its index, without a step per run."""
        if len(self.blocks) == 1:
            return {self.blocks[0].feed: len(self)}
        counts: Counter[int] = Counter()
        per_block = np.bincount(self.block_of_run, self.stop - self.start, len(self.blocks))
        for block, rows in zip(self.blocks, per_block.tolist(), strict=True):
            counts[block.feed] += int(rows)
        return dict(counts)


def whole_block(block: Block) -> Runs:
    """Return the runs that publish one block as it stands."""
    rows = len(block.records)
    at: Any = np.array([0] if rows else [], dtype=np.int64)
    return Runs([block], at, at, at + rows, block.records["ts_event_ns"].astype(np.int64))


class Fence(NamedTuple):
    """Has the stream refuse messages that do not stand where they are to stand.

    Message 1 of a batch is to follow stream sequence `behind`, message 2 that one, and so on. Of
    every `every` messages the first, from 1 on, bears a header that says so.
    """

    behind: int
    every: int

    def header(self, sequence: int) -> bytes:
        """Return the headers of message number `sequence`; empty where it bears none."""
        if (sequence - 1) % self.every:
            return b""
        return b"%b%0*d\r\n\r\n" % (FENCE_OPENING, FENCE_DIGITS, self.behind + sequence - 1)


FENCE_OPENING: Final = b"NATS/1.0\r\nNats-Expected-Last-Sequence: "
FENCE_DIGITS: Final = 16
"""Zero-padded width of a stream sequence."""
FENCE_BYTES: Final = len(FENCE_OPENING) + FENCE_DIGITS + len(b"\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply subject of every message: prefix, sequence in `SEQUENCE_DIGITS` digits, suffix.

    Where there is a `fence`, those messages that it names bear its header.
    """

    prefix: bytes
    suffix: bytes
    fence: Fence | None = None


SEQUENCE_DIGITS = 12
"""Zero-padded width of the sequence in a reply subject; enough for 38 days at 300,000/s."""


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Finished ``PUB`` or ``HPUB`` commands, as `parts` to be sent one after the other.

    A part may be a view of records, which are then not copied. ``rows_stop`` (int64, one per
    message) is the number of rows that the messages up to and including this one carry; for one
    message a row it is 1, 2, 3... `rows_by_rtype` counts the rows of all of them.
    """

    parts: Sequence[bytes | memoryview]
    rows_stop: Int64s
    rows_by_rtype: Mapping[int, int]

    @property
    def data(self) -> bytes:
        """The commands in one piece."""
        return b"".join(self.parts)

    @property
    def size_bytes(self) -> int:
        """Size of `data`."""
        return sum(map(len, self.parts))

    @property
    def messages(self) -> int:
        """Number of commands."""
        return len(self.rows_stop)


class Encoder(Protocol):
    """Ordered runs in, finished bytes out."""

    max_payload_bytes: int
    """No payload is longer: what the server takes, less what a fence's header takes of it. Set
    between calls only, and only once what was sent under the old bound is settled: the bound
    decides how rows are cut into messages."""

    def encode(self, runs: Runs, reply: Reply, first_sequence: int, max_messages: int) -> Frames:
        """Encode rows from the front of `runs` into at most `max_messages` messages."""
