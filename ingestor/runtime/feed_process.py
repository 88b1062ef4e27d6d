"""A feed process: takes blocks from a source of records and puts them in the feed's ring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Final, Protocol

from ingestor.merge.ordering import WatermarkMerge
from ingestor.model.blocks import Block, Runs
from ingestor.model.errors import IngestorError
from ingestor.model.feed_status import FeedStatus
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

SEEK_POLL_S: Final = 0.01
"""How often a feed whose files are read looks whether it is sought back into them."""


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
        while not self._context.ring.renewed:
            if self._context.stopping:
                return False
            self._writer.beat()
            time.sleep(SEEK_POLL_S)
        return True

    def _begin_anew(self) -> None:
        # The ring first: a seek after this one renews it again.
        self._writer.begin_again(0, 0)
        seek = self._context.table.seek
        self._row.count_from(Counter.RECORDS, 0)
        self._row[Counter.SEEKS] = seek.number
        self._done_before = 0
        self._source.start_at(seek.at_ns)

    def _run_once(self) -> IngestorError | None:
        error: IngestorError | None = None
        try:
            self._move_all()
        except IngestorError as broken:
            error = broken
        self._count()
        # After an error too: without an end the merge would wait for this feed for ever.
        self._wait(lambda: self._writer.end(PUT_TIMEOUT_S))
        return error

    def _move_all(self) -> None:
        for block in self._source.blocks():
            self._count()
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


def file_feed_main(source: FeedSource) -> FeedMain:
    """Return the main function of a process that moves blocks from a source to its ring."""
    return lambda context: FeedProcess(source, context, stays=True).run()


MIN_LANE_BYTES: Final = 64 * 1024
"""A lane's block is never smaller, since a step of the merge costs the same for few rows."""


def lane_bytes(block_bytes: int, lanes: int) -> int:
    """Return the size of each lane's blocks."""
    return min(block_bytes, max(MIN_LANE_BYTES, block_bytes // lanes))


@dataclass(frozen=True, slots=True)
class MergedProgress:
    """How far all lanes have come, taken together."""

    bytes_total: int
    bytes_read: int
    skipped: dict[str, int]
    late: int


@dataclass(eq=False, slots=True)
class MergedFiles:
    """Merges `lanes`, each of which yields records of one dtype, into blocks of `block_bytes`.

    Where keys tie, the lane that stands first goes first. A lane that breaks ends; the others are
    read to their end, and then its error is raised. `at_end` may raise what concerns all of them.
    """

    lanes: Sequence[FeedSource]
    block_bytes: int
    at_end: Callable[[], None] = lambda: None
    _tables: _Tables = field(init=False)

    def __post_init__(self) -> None:
        self._tables = _Tables()

    @property
    def progress(self) -> MergedProgress:
        """The sums of the lanes' counts."""
        each = [lane.progress for lane in self.lanes]
        skipped: dict[str, int] = {}
        for progress in each:
            for cause, count in progress.skipped.items():
                skipped[cause] = skipped.get(cause, 0) + count
        return MergedProgress(
            sum(progress.bytes_total for progress in each),
            sum(progress.bytes_read for progress in each),
            skipped,
            sum(progress.late for progress in each),
        )

    def start_at(self, at_ns: int | None) -> None:
        """Have every lane begin at a time."""
        for lane in self.lanes:
            lane.start_at(at_ns)

    def blocks(self) -> Iterator[Block]:
        """Yield blocks in order, empty ones as signs of life; each is valid until the next."""
        merge = WatermarkMerge(len(self.lanes))
        runs = [lane.blocks() for lane in self.lanes]
        broken: IngestorError | None = None
        while not merge.done:
            for lane in merge.waiting_for():
                try:
                    block = next(runs[lane], None)
                except IngestorError as error:
                    broken, block = broken or error, None
                if block is None:
                    merge.end(lane)
                    continue
                # The merge holds a view: the next block is asked for only when this is used up.
                merge.push(replace(block, feed=lane))
                yield replace(block, records=block.records[:0])
            ordered = merge.pull()
            if ordered is not None:
                yield from self._joined(ordered)
        if broken is not None:
            raise broken
        self.at_end()

    def _joined(self, runs: Runs) -> Iterator[Block]:
        table = self._tables.joined(runs.blocks)
        if table is None or len(runs.start) == 1:
            for block, records in runs.pieces():
                symbols = block.symbols if table is None else table
                yield Block(0, records, symbols, block.source, block.in_order)
            return
        records = runs.gathered()
        step = max(1, self.block_bytes // records.itemsize)
        for start in range(0, len(records), step):
            yield Block(0, records[start : start + step], table, runs.blocks[0].source)


class _Tables:
    """Symbol tables of all lanes as one, which grows until an instrument gets another symbol."""

    def __init__(self) -> None:
        self._whole: dict[int, str] = {}
        self._known: dict[int, tuple[SymbolTable, int]] = {}

    def joined(self, blocks: Sequence[Block]) -> SymbolTable | None:
        """Return one table for all; None where they give an instrument different symbols."""
        if not all(map(self._add, blocks)):
            self._whole, self._known = {}, {}
            if not all(map(self._add, blocks)):
                self._whole, self._known = {}, {}
                return None
        return self._whole

    def _add(self, block: Block) -> bool:
        """Add what is new in a block's table; False when it contradicts what is there."""
        table, count = self._known.get(block.feed, ({}, 0))
        if table is not block.symbols:
            table, count = block.symbols, 0
        if count < len(table):
            for instrument, symbol in islice(table.items(), count, None):
                if self._whole.setdefault(instrument, symbol) != symbol:
                    return False
            self._known[block.feed] = table, len(table)
        return True
