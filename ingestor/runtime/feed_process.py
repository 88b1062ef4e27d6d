"""A feed process: takes blocks from a source of records and puts them in the feed's ring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Final, Protocol

import numpy as np

from ingestor.model.blocks import Block
from ingestor.model.errors import IngestorError
from ingestor.model.feed_status import FeedStatus
from ingestor.model.replay_control import ReplaySpan
from ingestor.model.symbols import SymbolTable
from ingestor.ring.block_ring import BlockRing, Message
from ingestor.ring.wire import (
    END_MESSAGE,
    MAX_SYMBOLS_BYTES,
    NEW_ROWS,
    FeedBegin,
    begin_message,
    order_message,
    records_message,
    status_message,
    symbols_messages,
)
from ingestor.runtime import log as logs
from ingestor.runtime.counters import Counter, CounterRow, CounterTable

SYMBOLS_SHARE: Final = 4
"""A message of symbols takes at most a quarter of the ring, so that a table of any size fits."""


@dataclass(frozen=True, slots=True)
class FeedContext:
    """Feed `index` of a run: what was made for it before the processes forked."""

    index: int
    ring: BlockRing
    table: CounterTable

    @property
    def row(self) -> CounterRow:
        """Its own counters."""
        return self.table.row(self.index)

    @property
    def stopping(self) -> bool:
        """Whether the feed is to come to its end."""
        return self.table.stopping

    @property
    def again(self) -> bool:
        """Whether another process was in its place before, and died."""
        return self.row[Counter.RESTARTS] > 0


FeedMain = Callable[[FeedContext], IngestorError | None]
"""What a feed process runs; an error that it returns is told at the end of the run, and lets the
others go on, one that it raises stops them."""


class RingWriter:
    """Puts blocks in a feed's ring, what is new in their symbol tables before them.

    While blocks come with the same table, only what it has grown by is looked at: the last of its
    symbols. Another table is compared with the one before it, once.
    """

    def __init__(
        self, context: FeedContext, next_row: int = NEW_ROWS, *, stamps: bool = False
    ) -> None:
        """`next_row` is the number of the first row of a feed that was started again.

        With `stamps` each block says when it was put.
        """
        self._ring = context.ring
        self._stamps = stamps
        self._ring.join()
        self._process = context.row[Counter.RESTARTS]
        self._begin = begin_message(FeedBegin(self._process, next_row)) if context.again else b""
        self._row = context.row
        self._row[Counter.RING_BYTES] = context.ring.max_message_bytes
        # A table of thousands of symbols goes in pieces, so that a small ring takes it too.
        self._symbols_bytes = min(
            MAX_SYMBOLS_BYTES, context.ring.max_message_bytes // SYMBOLS_SHARE
        )
        self._table: SymbolTable = {}
        self._seen = 0
        self._pending: list[tuple[int, str]] = []
        self._in_order = False

    def put(self, block: Block, timeout_s: float = 0.0) -> bool:
        """Put a block that is not empty, and count it; False when the ring is still full.

        A block that was refused may be put again: nothing of it is in the ring but its symbols.
        """
        if not self._put_block(block, timeout_s):
            return False
        self._row.add(Counter.RECORDS, len(block.records))
        self._row[Counter.EVENT_TIME_NS] = int(block.records["ts_event_ns"][-1])
        return True

    def _put_block(self, block: Block, timeout_s: float) -> bool:
        if not self._announce(block.symbols, timeout_s):
            return False
        # Nearly all blocks are alike in this, so it is a message of its own and no byte in each.
        if block.in_order is not self._in_order:
            if not self._put(order_message(in_order=block.in_order), timeout_s):
                return False
            self._in_order = block.in_order
        put_ns = time.monotonic_ns() if self._stamps else 0
        return self._put(records_message(block.records, put_ns), timeout_s)

    def begin_again(self, next_row: int, next_status: int) -> None:
        """Put for a reader that has just begun: it knows nothing."""
        self._ring.join()
        self._begin = begin_message(FeedBegin(self._process, next_row, next_status))
        self._table, self._seen, self._pending, self._in_order = {}, 0, [], False

    def tell(self, status: FeedStatus, timeout_s: float = 0.0) -> bool:
        """Put what the feed tells about itself; False when the ring is still full."""
        return self._put(status_message(status), timeout_s)

    def end(self, timeout_s: float = 0.0) -> bool:
        """Say that nothing more comes; False when the ring is still full."""
        return self._put(END_MESSAGE, timeout_s)

    def beat(self) -> None:
        """Give a sign of life, and write what of the log nobody has read yet."""
        logs.drain()
        self._has_begun(0.0)
        self._row[Counter.RING_USED_BYTES] = self._ring.used_bytes
        self._row[Counter.HEARTBEAT_NS] = time.monotonic_ns()

    def _has_begun(self, timeout_s: float) -> bool:
        """Say before all else that the feed was started again, once the ring has room for it."""
        if self._begin and self._ring.put(self._begin, timeout_s):
            self._begin = b""
        return not self._begin

    def _announce(self, symbols: SymbolTable, timeout_s: float) -> bool:
        """Put the symbols of a table that the reader does not know; False when the ring is full."""
        # Tables only grow, so their length says whether there is anything new: no comparing.
        if symbols is not self._table or len(symbols) != self._seen:
            self._pending += self._news(symbols)
            self._table, self._seen = symbols, len(symbols)
        sent = 0
        for count, message in symbols_messages(self._pending, self._symbols_bytes):
            if not self._put(message, timeout_s):
                break
            sent += count
        # What the ring took is not sent again: the reader knows it, also when the block is refused.
        del self._pending[:sent]
        return not self._pending

    def _news(self, symbols: SymbolTable) -> Iterable[tuple[int, str]]:
        """Return what a table holds beyond what was seen of it, or of the table before it."""
        if symbols is self._table:
            return [*islice(reversed(symbols.items()), len(symbols) - self._seen)][::-1]
        # A table that grew since it was announced tells nothing of what the reader knows.
        known = self._table if self._seen == len(self._table) else {}
        return [pair for pair in symbols.items() if known.get(pair[0]) != pair[1]]

    def _put(self, message: Message, timeout_s: float) -> bool:
        if self._has_begun(timeout_s) and self._ring.put(message, timeout_s):
            return True
        # Counted by attempt: a server that is behind shows here before anything else does.
        self._row.add(Counter.RING_FULL)
        return False


PUT_TIMEOUT_S: Final = 0.2
"""How long a feed waits on a full ring before it looks whether it is to stop."""

BEAT_S: Final = 0.5
"""How often a feed gives a sign of life whose files are read, and that waits for a seek."""


class FeedProgress(Protocol):
    """How far a source has come."""

    @property
    def bytes_total(self) -> int:
        """Bytes on disk there are to read; 0 for a live feed."""
        ...

    @property
    def bytes_read(self) -> int:
        """Bytes on disk read so far."""
        ...

    @property
    def skipped(self) -> Mapping[str, int]:
        """Records left out, by cause."""
        ...

    @property
    def late(self) -> int:
        """Records that stepped back in time within their file."""
        ...


class FeedSource(Protocol):
    """What a feed process runs."""

    def blocks(self) -> Iterator[Block]:
        """Yield blocks, empty ones as signs of life; a block is valid until the next."""
        ...

    def start_at(self, at_ns: int | None) -> None:
        """Have the next `blocks` yield only events at or after a time; None for all."""
        ...

    def span_ns(self) -> tuple[int, int] | None:
        """Return from when to when its events are before they are read; None where nothing says."""
        ...

    @property
    def progress(self) -> FeedProgress:
        """How far the newest `blocks` has come."""
        ...


class FeedProcess:
    """Moves blocks from `source` to the feed's ring until the source ends or the run is to stop.

    A source yields the same rows again. So what a process that died has counted, which it did once
    the ring had it, is passed over; what it had put and not counted the reader leaves out.

    A publisher that seeks begins a new generation of the ring: the source then begins again at the
    time of the seek, and its rows are counted from there. So one that `stays` does not end with its
    source, since it may be sought back into it, but with the run.
    """

    def __init__(self, source: FeedSource, context: FeedContext, *, stays: bool = False) -> None:
        self._source = source
        self._context = context
        self._stays = stays
        self._row = context.row
        seek = context.table.seek
        # What is counted belongs to the seek that the process before had followed.
        if self._row[Counter.SEEKS] != seek.number:
            self._row.count_from(Counter.RECORDS, 0)
            self._row[Counter.SEEKS] = seek.number
        self._done_before = self._row[Counter.RECORDS]
        self._is_whole = seek.at_ns is None
        self._newest_ns = 0
        self._has_begun = False
        self._note_span()
        source.start_at(seek.at_ns)
        self._writer = RingWriter(context, self._done_before)
        if context.table.seek.number != seek.number:
            self._begin_anew()

    def run(self) -> IngestorError | None:
        """Run to the end. What was whole is in the ring before an error is returned."""
        error = self._run_once()
        while self._stays and self._is_sought():
            self._begin_anew()
            error = self._run_once() or error
        return error

    def _is_sought(self) -> bool:
        """Wait for a seek; False when the run is to stop instead."""
        while not self._context.stopping:
            self._writer.beat()
            if self._context.ring.wait_renewed(BEAT_S):
                return True
        return False

    def _begin_anew(self) -> None:
        # The ring first: a seek after this one renews it again.
        self._writer.begin_again(0, 0)
        seek = self._context.table.seek
        self._row.count_from(Counter.RECORDS, 0)
        self._row[Counter.SEEKS] = seek.number
        self._done_before = self._newest_ns = 0
        self._is_whole = seek.at_ns is None
        self._source.start_at(seek.at_ns)

    def _run_once(self) -> IngestorError | None:
        error: IngestorError | None = None
        try:
            self._move_all()
        except IngestorError as broken:
            error = broken
        self._count()
        if not self._leaves:
            self._note_end()
        # After an error too: without an end the merge would wait for this feed for ever.
        self._wait(lambda: self._writer.end(PUT_TIMEOUT_S))
        return error

    def _move_all(self) -> None:
        for block in self._source.blocks():
            self._count()
            self._note_times(block)
            if self._done_before:
                # A file gives the same rows again: those that the process which died has put are
                # counted off.
                done = min(self._done_before, len(block.records))
                self._done_before -= done
                block = replace(block, records=block.records[done:])  # noqa: PLW2901
            # A block is a view of the source's buffer: nothing more is read until the ring has it.
            put = partial(self._writer.put, block, PUT_TIMEOUT_S)
            if (len(block.records) and not self._wait(put)) or self._leaves:
                return

    @property
    def _leaves(self) -> bool:
        """Whether what is read here is of no more use."""
        return self._context.stopping or self._context.ring.renewed

    # Where all that the source has begins and ends, whatever part of it is read now.

    def _note_span(self) -> None:
        if self._row[Counter.ENDS_NS] or (span_ns := self._source.span_ns()) is None:
            return
        self._row[Counter.BEGINS_NS], self._row[Counter.ENDS_NS] = span_ns

    def _note_times(self, block: Block) -> None:
        if not len(block.records):
            return
        times_ns = block.records["ts_event_ns"]
        if self._is_whole and not self._has_begun:
            # Snapshots at the front of a file are of hours before: the header says what was asked.
            later = np.flatnonzero(times_ns >= np.uint64(self._row[Counter.BEGINS_NS]))
            if len(later):
                self._row[Counter.BEGINS_NS] = int(times_ns[later[0]])
                self._has_begun = True
        self._newest_ns = max(self._newest_ns, int(times_ns[-1]))

    def _note_end(self) -> None:
        # Read from behind its last event on, a source says nothing of where that is.
        if self._newest_ns or self._is_whole:
            self._row[Counter.ENDS_NS], self._row[Counter.END_READ] = self._newest_ns, 1
        if self._is_whole and not self._newest_ns:
            self._row[Counter.BEGINS_NS] = 0  # its headers tell of days in which nothing is

    def _wait(self, put: Callable[[], bool]) -> bool:
        """Try until there is room in the ring; False when the run is to stop or was sought."""
        # Of a generation that is over nothing is put, not even its end.
        while not self._context.ring.renewed and not put():
            self._writer.beat()
            if self._leaves:
                return False
        return not self._context.ring.renewed

    def _count(self) -> None:
        self._writer.beat()
        progress = self._source.progress
        self._row[Counter.BYTES_TOTAL] = progress.bytes_total
        self._row[Counter.BYTES_READ] = progress.bytes_read
        self._row[Counter.LATE] = progress.late
        self._context.table.note_skipped(self._context.index, progress.skipped)


def file_feed_main(source: FeedSource, *, stays: bool) -> FeedMain:
    """Return the main function of a process that moves blocks from a source to its ring.

    One that `stays` waits at its end for a seek.
    """
    return lambda context: FeedProcess(source, context, stays=stays).run()


# Where a whole replay begins and ends, by what its feeds have noted so far: the headers of their
# files at first, exactly once these are read. A seek changes neither.


def span_of(feeds: Sequence[CounterRow], first_event_ns: int) -> ReplaySpan | None:
    """Return the span of a replay by its feeds' counters; None before anything is known.

    `first_event_ns` is the first event that was published, 0 before it.
    """
    begins_ns = [row[Counter.BEGINS_NS] for row in feeds if row[Counter.BEGINS_NS]]
    first_ns = min(begins_ns, default=first_event_ns)
    ends_ns = max((_ends_ns(row, first_ns) for row in feeds), default=0)
    if not first_ns or ends_ns <= first_ns:
        return None
    return ReplaySpan(first_ns, ends_ns, all(row[Counter.END_READ] for row in feeds))


def _ends_ns(row: CounterRow, first_ns: int) -> int:
    """Event time at which a feed ends, as far as can be told."""
    if row[Counter.ENDS_NS] or row[Counter.END_READ]:
        return row[Counter.ENDS_NS]
    event_ns, total, read = (
        row[counter] for counter in (Counter.EVENT_TIME_NS, Counter.BYTES_TOTAL, Counter.BYTES_READ)
    )
    if row[Counter.ENDED] or not read or read >= total or event_ns <= first_ns:
        return event_ns
    # Bytes are no time, but all there is to go by before the end of the file is read.
    return first_ns + (event_ns - first_ns) * total // read
