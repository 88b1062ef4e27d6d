"""A feed process: takes blocks from a source of records and puts them in the feed's ring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from ingestor.model.blocks import Block
from ingestor.model.errors import IngestorError
from ingestor.runtime.counters import Counter
from ingestor.runtime.feed_place import FeedMain, FeedPlace, FeedReport, RingWriter

PUT_TIMEOUT_S: Final = 0.2
"""How long a feed waits on a full ring before it looks whether it is to stop."""


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
    """Moves blocks from `source` to the feed's ring until the source ends or the run is to stop."""

    def __init__(self, source: FeedSource, place: FeedPlace) -> None:
        self._source = source
        self._place = place
        self._row = place.row
        self._writer = RingWriter(place)

    def run(self) -> FeedReport:
        """Run to the end. What was whole is in the ring before an error is reported."""
        error: IngestorError | None = None
        try:
            self._move_all()
        except IngestorError as broken:
            error = broken
        self._wait(lambda: self._writer.end(PUT_TIMEOUT_S))
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
            if self._place.stopping:
                return
        self._count()

    def _hand_on(self, block: Block) -> bool:
        return self._wait(lambda: self._writer.put(block, PUT_TIMEOUT_S))

    def _wait(self, put: Callable[[], bool]) -> bool:
        """Try until there is room in the ring; False when the run is to stop instead."""
        while not put():
            self._writer.beat()
            if self._place.stopping:
                return False
        return True

    def _count(self) -> None:
        self._writer.beat()
        progress = self._source.progress
        self._row[Counter.BYTES_TOTAL] = progress.bytes_total
        self._row[Counter.BYTES_READ] = progress.bytes_read
        self._row[Counter.SKIPPED] = sum(progress.skipped.values())
        self._row[Counter.LATE] = progress.late


def moves(source: FeedSource) -> FeedMain:
    """Return the main function of a process that moves blocks from a source."""
    return lambda place: FeedProcess(source, place).run()
