"""The thread that writes segments: only it touches the disk.

A disk can stand still for seconds, and a feed must not: the feed only puts finished bytes into a
queue here. When the queue is full frames go unrecorded, and when the disk refuses, recording is
over for this run. Both are logged and counted by the writer; neither stops the feed.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from ingestor.errors import IngestorError
from ingestor.feeds.polygon.journal.disk import Disk
from ingestor.feeds.polygon.journal.format import Market

CLOSE_S: Final = 10.0
"""How long the end of a run waits for the disk."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begin:
    """Work: go on in a new segment of this date, which opens with these bytes."""

    date: dt.date
    header: bytes


class End:
    """Work: finish the segment."""


class Wake:
    """Work: none, but look after what is being compressed."""


Work = Begin | End | Wake | bytearray
"""Bytes are appended to the segment and must not be changed any more."""


class Recorder:
    """Does in order what is put in its queue.

    Attributes:
        failure: None, or why nothing is written any more.
    """

    def __init__(self, directory: Path, market: Market) -> None:
        self._directory = directory
        self._disk = Disk(directory, market)
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._name = f"journal-{market.feed_name}"
        self._put_bytes = 0
        self._done_bytes = 0
        self.failure: str | None = None

    @property
    def backlog_bytes(self) -> int:
        """Bytes in the queue; whoever puts them bounds them."""
        return self._put_bytes - self._done_bytes

    def put(self, work: Work) -> None:
        """Queue work; the first starts the thread, so that a fork before it is harmless."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        if isinstance(work, bytearray):
            self._put_bytes += len(work)
        self._queue.put(work)

    def stop(self) -> None:
        """Do what is queued and end the thread; a disk that stands still is given up."""
        if self._thread is None:
            return
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.error(
                "the disk stands still: the end of the journal in %s is lost", self._directory
            )

    def _run(self) -> None:
        self._guarded(self._disk.tidy)
        while (work := self._queue.get()) is not None:
            self._do(work)
            self._disk.look_after()
        self._guarded(self._disk.finish)
        self._disk.stop()

    def _do(self, work: Work) -> None:
        if isinstance(work, Begin):
            self._guarded(self._disk.begin, work.date, work.header)
        elif isinstance(work, End):
            self._guarded(self._disk.finish)
        elif isinstance(work, bytearray):
            self._guarded(self._disk.append, work)
            self._done_bytes += len(work)

    def _guarded(self, step: Callable[..., None], *arguments: object) -> None:
        if self.failure is not None:
            return
        try:
            step(*arguments)
        except (OSError, IngestorError) as error:
            self._disk.close()
            self.failure = str(error)
            logger.error(  # noqa: TRY400 - the sentence says it all
                "the journal in %s is not written any more, the feed goes on without: %s",
                self._directory,
                error,
            )
