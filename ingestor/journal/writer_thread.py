"""The thread that writes segments: only it touches the disk.

A disk can stand still for seconds, and a feed must not: the feed only puts finished bytes into a
queue here. A disk that refuses, being full, is tried again every `RETRY_S`, with the same bytes:
so it is like one that stands still. When the queue is full frames go unrecorded, which the writer
logs and counts; the feed goes on in any case.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from ingestor.journal.format import Market
from ingestor.journal.segment_writer import SegmentWriter
from ingestor.model.errors import IngestorError

CLOSE_S: Final = 10.0
"""How long the end of a run waits for the disk."""

RETRY_S: Final = 1.0
"""How often a disk that refuses is tried again."""

MAX_TROUBLES: Final = 16
"""Sentences kept for `WriterThread.take_troubles`; of more, the newest."""

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


class WriterThread:
    """Does in order what is put in its queue.

    Attributes:
        failure: None, or why nothing is written just now.
    """

    def __init__(self, directory: Path, market: Market) -> None:
        self._directory = directory
        self._disk = SegmentWriter(directory, market)
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._name = f"journal-{market.feed_name}"
        self._put_bytes = 0
        self._done_bytes = 0
        self._given_up_bytes = 0
        self._stopping = threading.Event()
        self._troubles: deque[str] = deque(maxlen=MAX_TROUBLES)
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

    def tell(self, what: str) -> None:
        """Keep a sentence for `take_troubles`; any thread may."""
        self._troubles.append(f"the journal in {self._directory}: {what}")

    def take_troubles(self) -> list[str]:
        """Return what happened since the last call, a sentence each."""
        return [self._troubles.popleft() for _ in range(len(self._troubles))]

    def stop(self) -> None:
        """Do what is queued and end the thread; a disk that stands still is given up."""
        if self._thread is None:
            return
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.error(
                "the disk stands still: the end of the journal in %s is lost", self._directory
            )

    def _run(self) -> None:
        self._once(self._disk.tidy)
        while (work := self._queue.get()) is not None:
            self._do(work)
            self._disk.look_after()
        self._once(self._disk.finish)
        self._disk.stop()
        if self._given_up_bytes:
            lost, where = self._given_up_bytes, self._directory
            logger.error("the last %d bytes of the journal in %s are lost", lost, where)

    def _do(self, work: Work) -> None:
        self._look_for_file()
        if isinstance(work, Begin):
            begin = partial(self._disk.begin, work.date, work.header)
            self._until_it_is_done(begin, begin)
        elif isinstance(work, End):
            self._once(self._disk.finish)
        elif isinstance(work, bytearray):
            if not self._until_it_is_done(partial(self._disk.append, work), self._disk.retry):
                self._given_up_bytes += len(work)
            self._done_bytes += len(work)

    def _until_it_is_done(self, step: Callable[[], None], again: Callable[[], None]) -> bool:
        """Try until it succeeds or the run ends; whether it succeeded."""
        done = self._once(step)
        while not done and not self._stopping.wait(RETRY_S):
            self._look_for_file()
            done = self._once(again)
        if done and self.failure is not None:
            self.failure = None
            self.tell("it is written again")
        return done

    def _look_for_file(self) -> None:
        missing = self._disk.missing()
        if missing is not None:
            self.tell(missing)

    def _once(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except (OSError, IngestorError) as error:
            if self.failure is None:
                text = "the feed goes on, and the recording when that is over"
                self.tell(f"it cannot be written: {error}; {text}")
            self.failure = str(error)
            return False
        return True
