"""A feed process: takes blocks from a source of records and puts them in the feed's ring."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import msgspec

from ingestor.blocks import Block
from ingestor.errors import IngestorError
from ingestor.ring.block_ring import BlockRing
from ingestor.ring.wire import END_MESSAGE, records_message, symbols_message
from ingestor.runtime.counters import Counter, CounterRow, CounterTable

PUT_TIMEOUT_S: Final = 0.2
"""How long a feed waits on a full ring before it looks whether it is to stop."""


class FeedReport(msgspec.Struct, frozen=True):
    """What a feed did: records handed on, skipped by cause, late; and what it broke on, if so."""

    records: int = 0
    skipped: dict[str, int] = {}
    late: int = 0
    error: str | None = None
    exit_code: int = 0


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

    @property
    def progress(self) -> FeedProgress:
        """How far the newest `blocks` has come."""
        ...


class FeedProcess:
    """Moves blocks from `source` to `ring` until the source ends or the run is to stop."""

    def __init__(
        self, source: FeedSource, ring: BlockRing, table: CounterTable, row: CounterRow
    ) -> None:
        self._source = source
        self._ring = ring
        self._table = table
        self._row = row
        self._announced: Mapping[int, str] = {}

    def run(self) -> FeedReport:
        """Run to the end. What was whole is in the ring before an error is reported."""
        error: IngestorError | None = None
        try:
            self._move_all()
        except IngestorError as broken:
            error = broken
        self._put(END_MESSAGE)
        return FeedReport(
            self._row[Counter.RECORDS],
            dict(self._source.progress.skipped),
            self._source.progress.late,
            str(error) if error else None,
            error.exit_code if error else 0,
        )

    def _move_all(self) -> None:
        for block in self._source.blocks():
            self._count()
            if len(block.records) and not self._hand_on(block):
                return
            if self._table.stopping:
                return
        self._count()

    def _hand_on(self, block: Block) -> bool:
        if block.symbols is not self._announced:
            news = {k: v for k, v in block.symbols.items() if self._announced.get(k) != v}
            if news and not self._put(symbols_message(news)):
                return False
            self._announced = block.symbols
        if not self._put(records_message(block.records)):
            return False
        self._row.add(Counter.RECORDS, len(block.records))
        self._row[Counter.EVENT_TIME_NS] = int(block.records["ts_event_ns"][-1])
        return True

    def _put(self, message: bytes) -> bool:
        """Wait until the message is in the ring; False when the run is to stop instead."""
        while not self._ring.put(message, PUT_TIMEOUT_S):
            self._row.add(Counter.RING_FULL)
            self._beat()
            if self._table.stopping:
                return False
        return True

    def _beat(self) -> None:
        self._row[Counter.HEARTBEAT_NS] = time.monotonic_ns()

    def _count(self) -> None:
        self._beat()
        progress = self._source.progress
        self._row[Counter.BYTES_TOTAL] = progress.bytes_total
        self._row[Counter.BYTES_READ] = progress.bytes_read
        self._row[Counter.SKIPPED] = sum(progress.skipped.values())
        self._row[Counter.LATE] = progress.late
