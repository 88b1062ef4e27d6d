"""JournalRecorder: takes the frames of a live feed, at a few microseconds each.

The feed's side decides everything and writes nothing: when a segment begins, what its bytes are,
and which frames go unrecorded. The bytes go in chunks to `WriterThread`, which alone touches the
disk. A disk can stand still for seconds, and a feed must not: it only puts finished bytes into a
queue. A disk that refuses, being full, is tried again every `RETRY_S`, with the same bytes: so it
is like one that stands still. When the queue is full frames go unrecorded, which is logged and
counted; the feed goes on in any case.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from ingestor.journal.format import (
    HEAD,
    MAX_PAYLOAD_BYTES,
    NOTE,
    Entry,
    Header,
    Market,
    entry_head,
    pack_header,
    pack_note,
    seed_of,
)
from ingestor.journal.segment_writer import FolderLock, SegmentWriter, Syncer
from ingestor.journal.segments import Place, RunFollower
from ingestor.model.errors import IngestorError
from ingestor.model.units import NS_PER_S, new_york_date, new_york_ns

SEGMENT_BYTES: Final = 256 * 1024 * 1024
"""A segment that has so many bytes is full."""

CHUNK_BYTES: Final = 256 * 1024
"""Bytes held here before they are handed to the thread; `flush` hands over what there is."""

MAX_BACKLOG_BYTES: Final = 64 * 1024 * 1024
"""Handed over and not yet written: some seconds of the busiest minute."""

STEP_BACK_NS: Final = 3600 * NS_PER_S
"""A clock that steps back across midnight by more than this takes the date with it."""

CLOSE_S: Final = 10.0
"""How long the end of a run waits for the disk."""

RETRY_S: Final = 1.0
"""How often a disk that refuses is tried again."""

MAX_TROUBLES: Final = 16
"""Sentences kept for `WriterThread.take_troubles`; of more, the newest."""

_DAY: Final = dt.timedelta(days=1)
_MIDNIGHT: Final = dt.time(0)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Begin:
    """Work: go on in a new segment of this date, which opens with these bytes."""

    date: dt.date
    header: bytes


class End:
    """Work: finish the segment."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Work: look after the file, and what is being compressed; `sync` what was written."""

    sync: bool = False


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
        self._syncer = Syncer(f"journal-{market.feed_name}-sync", self.tell)
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
            # Daemon: a disk that hangs in a system call must not keep the process from ending.
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
        # Before the last work is queued: a disk that refuses is then not retried any more.
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            logger.error(
                "the disk stands still: the end of the journal in %s is lost", self._directory
            )

    def _run(self) -> None:
        # Here and not at the start, which must not wait for a disk.
        self._once(self._disk.tidy)
        while (work := self._queue.get()) is not None:
            self._do(work)
            # Ten times a second, and not with each of hundreds of reads.
            if isinstance(work, Wake):
                self._disk.look_after()
                if work.sync and (file := self._disk.file) is not None:
                    self._syncer.sync(file)
        self._once(self._disk.finish)
        self._disk.stop()
        if self._given_up_bytes:
            lost, where = self._given_up_bytes, self._directory
            logger.error("the last %d bytes of the journal in %s are lost", lost, where)

    def _do(self, work: Work) -> None:
        if isinstance(work, bytearray):
            # All there is to know takes 20 us; this takes 1, and is for hundreds of reads a second.
            if not self._disk.is_sound:
                self._look_for_file()
            if not self._until_it_is_done(partial(self._disk.append, work), self._disk.retry):
                self._given_up_bytes += len(work)
            # Only the thread writes this and only the feed writes `_put_bytes`: no lock is needed.
            self._done_bytes += len(work)
            return
        self._look_for_file()
        if isinstance(work, Begin):
            begin = partial(self._disk.begin, work.date, work.header)
            self._until_it_is_done(begin, begin)
        elif isinstance(work, End):
            self._once(self._disk.finish)

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
            # People read this on the page; the number says no more than its words.
            self.failure = re.sub(r"^\[Errno \d+\] ", "", str(error))
            return False
        return True


@dataclass(slots=True)
class JournalCounts:
    """Totals of a run: frames taken, their bytes, and frames not taken for whatever cause.

    What was taken is on its way to the disk; `JournalRecorder.failure` says why it is not there.
    """

    frames: int = 0
    bytes: int = 0
    lost: int = 0


class JournalRecorder:
    """Records one feed's frames into a folder. One thread calls it; it never waits for the disk.

    It may be made before a process is forked and used after; nothing starts before the first
    frame.

    Attributes:
        counts: What was recorded and what was not.
    """

    def __init__(
        self,
        directory: Path,
        feed_name: str,
        *,
        roots: Sequence[str] = (),
        late_after_ns: int,
        segment_bytes: int = SEGMENT_BYTES,
        sync_s: float = 0.0,
    ) -> None:
        """Make the folder if there is none.

        Args:
            directory: Where the segments go; several feeds may share it.
            feed_name: ``stocks`` or ``options``.
            roots: What the live decoder of options was given.
            late_after_ns: What the live decoder was given.
            segment_bytes: A segment that has so many bytes is full.
            sync_s: How often what was written is made to survive a power cut; 0 for never.

        Raises:
            ConfigurationError: the folder cannot be written to, or another run uses it.
            ValueError: the roots do not fit into a header.
        """
        self._market = Market[feed_name.upper()]
        self._roots = tuple(sorted(roots))
        self._late_after_ns = late_after_ns
        self._limit = segment_bytes
        self._directory = directory
        self._lock = FolderLock(directory, self._market)
        self._thread = WriterThread(directory, self._market)
        self._sync_ns = round(sync_s * NS_PER_S)
        self._synced_ns = 0
        self._chunk = bytearray()
        self._segment_bytes = 0
        self._from_ns = self._until_ns = 0
        self._date = dt.date.min
        self._run_ns = 0
        self._part = 0
        self._seed = 0
        self.number = 0
        """Number of the entry that comes next."""
        self._losing = False
        self.counts = JournalCounts()
        # Roots that do not fit are refused before anything runs, not at the first frame.
        pack_header(self._header(0))

    @property
    def failure(self) -> str | None:
        """None, or why nothing is written just now."""
        return self._thread.failure

    @property
    def place(self) -> Place | None:
        """Where the entry that comes next will be found; None while it may never be written."""
        if self._losing or self._thread.failure is not None:
            return None
        return Place(self._part, self._segment_bytes, self.number)

    def follower(self, place: Place) -> RunFollower:
        """Return what reads back, from a place on, what was recorded."""
        return RunFollower(self._directory, self._market, self._run_ns, place)

    def append(self, data: bytes, recv_ns: int, connection: int) -> bool:
        """Record a frame that was received at `recv_ns` over a connection of this run.

        Whether it was taken, and will be written unless the disk refuses for good.
        """
        if not self._record(Entry(data, recv_ns, connection, self.number), connection):
            return False
        self.counts.frames += 1
        self.counts.bytes += len(data)
        return True

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Record that names are asked for on a connection, or, for None, that it begins."""
        self._record(Entry(pack_note(names), now_ns, NOTE, self.number), connection)

    def flush(self) -> None:
        """Hand over what is held, so that it outlives this process, unless the disk is behind.

        Before events of it are handed on: whoever finds them stored finds them in the journal.
        """
        if self._thread.backlog_bytes < CHUNK_BYTES:
            self._hand_over()

    def tick(self, now_ns: int) -> Sequence[str] | None:
        """Hand over what is held; end the segment of a day that is over; return what went wrong."""
        # The distance, since this clock may be set back, and a tenth less: timers may fire early.
        is_due = 10 * abs(now_ns - self._synced_ns) >= 9 * self._sync_ns
        if sync := self._sync_ns > 0 and is_due:
            self._synced_ns = now_ns
        # First: what is handed over goes into a new file where the one that is open was renamed.
        self._thread.put(Wake(sync))
        self._hand_over()
        if self._until_ns and now_ns >= self._until_ns:
            self._thread.put(End())
            self._until_ns = 0
        return self._thread.take_troubles() or None

    def close(self) -> None:
        """Write what is held, for at most `CLOSE_S`, and let others record here."""
        self._hand_over()
        self._thread.stop()
        for trouble in self._thread.take_troubles():
            logger.error("%s", trouble)
        self._lock.release()

    def _record(self, entry: Entry, connection: int) -> bool:
        """Record an entry; whether it was."""
        # Counted even if it is lost: a hole in the numbers tells a reader how many are missing.
        self.number += 1
        size, held_bytes = len(entry.payload), self._thread.backlog_bytes + len(self._chunk)
        if held_bytes + size > MAX_BACKLOG_BYTES or size > MAX_PAYLOAD_BYTES:
            self._lose()
            return False
        on_date = self._from_ns <= entry.recv_ns < self._until_ns
        # Checked before the entry, so a segment is longer than its limit by one frame at most.
        if not on_date or self._segment_bytes >= self._limit:
            self._begin_segment(entry.recv_ns, connection)
        # Two appends to one buffer: the payload is copied once, and nothing is joined.
        self._chunk += entry_head(entry, self._seed)
        self._chunk += entry.payload
        self._segment_bytes += HEAD.size + len(entry.payload)
        self._losing = False
        if len(self._chunk) >= CHUNK_BYTES:
            self._hand_over()
        return True

    def _lose(self) -> None:
        self.counts.lost += 1
        if not self._losing:
            logger.error(
                "frame %d is not recorded: longer than %d bytes, or the disk is %d bytes behind",
                self.number - 1,
                MAX_PAYLOAD_BYTES,
                self._thread.backlog_bytes,
            )
        self._losing = True

    def _begin_segment(self, recv_ns: int, connection: int) -> None:
        self._hand_over()
        # The first frame names the run, so a header is the same however often it is written.
        self._run_ns = self._run_ns or recv_ns
        self._part += 1
        if not self._from_ns <= recv_ns < self._until_ns:
            self._date = new_york_date(recv_ns)
            # A clock that is set back a little does not lead back into a date that is done.
            self._from_ns = new_york_ns(self._date, _MIDNIGHT) - STEP_BACK_NS
            self._until_ns = new_york_ns(self._date + _DAY, _MIDNIGHT)
        header = pack_header(self._header(connection))
        self._seed = seed_of(header)
        self._segment_bytes = len(header)
        self._thread.put(Begin(self._date, header))

    def _header(self, connection: int) -> Header:
        return Header(
            market=self._market,
            run_ns=self._run_ns,
            late_after_ns=self._late_after_ns,
            date=self._date,
            part=self._part,
            connection=connection,
            roots=self._roots,
        )

    def _hand_over(self) -> None:
        if self._chunk:
            self._thread.put(self._chunk)
            self._chunk = bytearray()
