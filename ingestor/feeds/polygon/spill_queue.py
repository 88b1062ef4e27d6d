"""Hands records on to an sink that may be full, without ever waiting for it."""

from __future__ import annotations

from collections.abc import Callable

from ingestor.feeds.polygon.backlog import Backlog
from ingestor.feeds.polygon.limits import MAX_BLOCK_ROWS
from ingestor.feeds.polygon.sink import Sink
from ingestor.feeds.polygon.status_reporter import StatusReporter
from ingestor.model.blocks import Block
from ingestor.model.records import Records


class SpillQueue:
    """Keeps order: while something is held, what comes is put behind it.

    An episode of losses begins with the first record given up and ends when nothing is held any
    more; then it is told, once.
    """

    def __init__(
        self,
        sink: Sink,
        block_of: Callable[[Records], Block],
        backlog: Backlog,
        reporter: StatusReporter,
    ) -> None:
        self._sink = sink
        self._block_of = block_of
        self._backlog = backlog
        self._reporter = reporter

    @property
    def held(self) -> int:
        """Rows that wait."""
        return len(self._backlog)

    def put(self, records: Records, now_ns: int) -> None:
        """Hand on records, or hold them."""
        if self._backlog:
            self._hold(records)
            self.drain(now_ns)
            return
        for first in range(0, len(records), MAX_BLOCK_ROWS):
            if not self._sink.put(self._block_of(records[first : first + MAX_BLOCK_ROWS])):
                self._hold(records[first:])
                return

    def drain(self, now_ns: int) -> bool:
        """Hand on what is held, as far as the sink takes it; whether nothing is held any more."""
        while self._backlog and self._sink.put(self._block_of(self._backlog.first())):
            self._backlog.remove_first()
        if self._backlog:
            return False
        self._tell_losses(now_ns)
        return True

    def give_up(self, now_ns: int) -> None:
        """Drop what is still held, and tell: the end has come first, the backlog is not full."""
        self._tell_losses(now_ns)
        self._backlog.give_up()
        losses = self._backlog.take_losses()
        if losses is not None:
            self._reporter.undelivered(losses, now_ns)

    def _hold(self, records: Records) -> None:
        was_losing = self._backlog.losing
        self._backlog.add(records)
        if self._backlog.losing and not was_losing:
            self._reporter.losing()

    def _tell_losses(self, now_ns: int) -> None:
        losses = self._backlog.take_losses()
        if losses is not None:
            self._reporter.overflow(losses, now_ns)
