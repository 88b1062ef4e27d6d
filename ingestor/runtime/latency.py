"""How long records take from hop to hop: log-linear histograms in shared memory.

    vendor ──► receive ──► ring ──► publish ──► stored        and in a paced replay: due ──► sent

Each process has a histogram for every `Hop` and writes its own alone, as it does its counters; a
process that is started again counts on. Sixteen buckets to a power of two, so that a quantile is
right to a sixteenth of itself whatever its size: what HdrHistogram and Prometheus' native
histograms do. Latencies are int nanoseconds; below 1, by clocks that differ, they count as 1.

Counting costs a block, not a record: a recorder only appends what it is given, and bins all of it
at once at the next sign of life. A process that is killed takes at most that tenth of a second
along.
"""

from __future__ import annotations

import mmap
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

import numpy as np

from ingestor.model.blocks import Int64s, Runs


class Hop(IntEnum):
    """A stretch of the data path, with a sentence `about` it."""

    about: str

    def __new__(cls, about: str) -> Self:
        """Take the next number; `about` is the sentence that metrics and the page show."""
        hop = int.__new__(cls, len(cls.__members__))
        hop._value_, hop.about = int(hop), about
        return hop

    VENDOR_TO_RECEIVE = "From the vendor's event time until a live feed has read its bytes."
    RECEIVE_TO_RING = "From reading a live event's bytes until it is in the feed's ring."
    RING_TO_PUBLISH = "From a live feed's ring until the last byte is handed to the socket."
    PUBLISH_TO_STORED = "From handing rows to the publisher until the server has stored them."
    DUE_TO_SENT = "How late rows of a paced replay were sent."


STEPS_PER_OCTAVE: Final = 16
OCTAVES: Final = 42
"""Latencies up to 2**42 ns (73 minutes) are told apart; longer ones count as that."""
BUCKETS: Final = OCTAVES * STEPS_PER_OCTAVE
MAX_LATENCY_NS: Final = 2**OCTAVES - 1

MAX_HELD: Final = 4_096
"""Latencies that wait to be binned."""

_STEP_BITS: Final = 4
_MANTISSA_SHIFT: Final = 52 - _STEP_BITS
_BIAS: Final = 1_023 << _STEP_BITS
_SUM, _MAX = BUCKETS, BUCKETS + 1


def bucket_of(latencies_ns: Int64s) -> Int64s:
    """Return the bucket of each latency of 1 to `MAX_LATENCY_NS`."""
    # A float64 *is* log-linear: its exponent counts octaves, the head of its mantissa steps.
    bits: Int64s = latencies_ns.astype(np.float64).view(np.int64)
    return (bits >> _MANTISSA_SHIFT) - _BIAS


def edges_ns() -> Int64s:
    """Return what the latencies of each bucket are below, int64 of `BUCKETS`."""
    octave, step = np.divmod(np.arange(1, BUCKETS + 1), STEPS_PER_OCTAVE)
    edges: Int64s = np.ceil(2.0**octave * (1 + step / STEPS_PER_OCTAVE)).astype(np.int64)
    return edges


_EDGES_NS: Final = edges_ns()


@dataclass(frozen=True, slots=True)
class Latencies:
    """A histogram as it was when it was read: rows by bucket, their sum and their largest."""

    counts: Int64s
    sum_ns: int = 0
    max_ns: int = 0

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self.counts.sum())

    def quantile_ns(self, share: float) -> int | None:
        """Return what `share` of the rows stay below, to a sixteenth; None without rows."""
        cumulated = np.cumsum(self.counts)
        if not cumulated[-1]:
            return None
        rank = max(1, int(np.ceil(cumulated[-1] * share)))
        return min(int(_EDGES_NS[np.searchsorted(cumulated, rank)]), self.max_ns)

    def since(self, earlier: Latencies) -> Latencies:
        """Return what was counted after an earlier look, whose largest nobody noted."""
        counts = self.counts - earlier.counts
        highest = counts.nonzero()[0]
        max_ns = min(int(_EDGES_NS[highest[-1]]), self.max_ns) if len(highest) else 0
        return Latencies(counts, self.sum_ns - earlier.sum_ns, max_ns)

    def by_octave(self) -> list[tuple[int, int]]:
        """Return powers of two in ns, and the rows whose latency is below each."""
        cumulated = np.cumsum(self.counts)[STEPS_PER_OCTAVE - 1 :: STEPS_PER_OCTAVE]
        return [(2 << octave, int(rows)) for octave, rows in enumerate(cumulated)]


def together(each: Iterable[Latencies]) -> Latencies:
    """Return several histograms as one."""
    total = Latencies(np.zeros(BUCKETS, np.int64))
    for one in each:
        counts = total.counts + one.counts
        total = Latencies(counts, total.sum_ns + one.sum_ns, max(total.max_ns, one.max_ns))
    return total


class LatencyRecorder:
    """Counts the latencies of one process and hop; only that process may."""

    def __init__(self, cells: Int64s) -> None:
        self._cells = cells
        self._latencies: list[int] = []
        self._rows: list[int] = []
        self._each: list[Int64s] = []
        self._held = 0

    def add(self, latency_ns: int, rows: int) -> None:
        """Count rows that took equally long."""
        self._latencies.append(latency_ns)
        self._rows.append(rows)
        if len(self._rows) >= MAX_HELD:
            self.flush()

    def add_each(self, latencies_ns: Int64s) -> None:
        """Count a row for each latency."""
        self._each.append(latencies_ns)
        self._held += len(latencies_ns)
        if self._held >= MAX_HELD:
            self.flush()

    def flush(self) -> None:
        """Show what was counted to the other processes."""
        if self._rows:
            latencies, rows = np.array(self._latencies), np.array(self._rows)
            self._latencies, self._rows = [], []
            self._bin(latencies, rows)
        if self._each:
            latencies = np.concatenate(self._each)
            self._each, self._held = [], 0
            self._bin(latencies, np.ones(len(latencies), np.int64))

    def _bin(self, latencies_ns: Int64s, rows: Int64s) -> None:
        if not len(latencies_ns):
            return
        within: Int64s = np.clip(latencies_ns, 1, MAX_LATENCY_NS)
        cells = self._cells
        cells[:BUCKETS] += np.bincount(bucket_of(within), rows, BUCKETS).astype(np.int64)
        cells[_SUM] += int(within @ rows)
        cells[_MAX] = max(int(cells[_MAX]), int(within.max()))


class LatencyTable:
    """Shared memory for every hop of `processes` processes, made before they fork."""

    def __init__(self, processes: int) -> None:
        shape = (processes, len(Hop), BUCKETS + 2)
        # 27 KB a process, of which only what is counted in is ever touched.
        memory = mmap.mmap(-1, 8 * int(np.prod(shape)))
        self._cells = np.frombuffer(memory, np.int64).reshape(shape)

    def recorder(self, process: int, hop: Hop) -> LatencyRecorder:
        """Return what counts for a process."""
        return LatencyRecorder(self._cells[process, hop])

    def read(self, process: int, hop: Hop) -> Latencies:
        """Return what was counted so far."""
        cells = self._cells[process, hop].copy()
        return Latencies(cells[:BUCKETS], int(cells[_SUM]), int(cells[_MAX]))


class PublisherLatencies:
    """What rows take in a publisher.

    Attributes:
        lateness: From when a row of a paced replay is due to when it is sent.
        under_way: Rows that were handed to the publisher and when (monotonic ns), oldest first.
    """

    def __init__(self, table: LatencyTable, process: int) -> None:
        self._from_ring = table.recorder(process, Hop.RING_TO_PUBLISH)
        self.lateness = table.recorder(process, Hop.DUE_TO_SENT)
        self.under_way: deque[tuple[int, int]] = deque()
        self._to_stored = table.recorder(process, Hop.PUBLISH_TO_STORED)

    def on_handed(self, runs: Runs) -> None:
        """Count how long blocks of live feeds took until here, where the last hop begins."""
        now_ns = time.monotonic_ns()
        self.under_way.append((len(runs), now_ns))
        for block in runs.blocks:
            if block.put_ns:
                self._from_ring.add(now_ns - block.put_ns, len(block.records))

    def on_stored(self, rows: int) -> None:
        """Count how long the oldest rows under way took until the server has stored them."""
        now_ns = time.monotonic_ns()
        while rows and self.under_way:
            held, handed_ns = self.under_way.popleft()
            stored = min(rows, held)
            self._to_stored.add(now_ns - handed_ns, stored)
            rows -= stored
            # An acknowledgement may end in the middle of what was handed over at a time.
            if stored < held:
                self.under_way.appendleft((held - stored, handed_ns))

    def flush(self) -> None:
        """Show what was counted to the other processes."""
        for recorder in (self._from_ring, self.lateness, self._to_stored):
            recorder.flush()
