"""JournalRecorder: takes the frames of a live feed, at a few microseconds each.

Here everything is decided and nothing written: when a segment begins, what its bytes are, and
which frames go unrecorded. The bytes go to the recorder's thread in chunks.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestor.feeds.polygon.decode import LATE_AFTER_NS
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
from ingestor.journal.segment_writer import FolderLock
from ingestor.journal.writer_thread import Begin, End, Wake, WriterThread
from ingestor.model.clock import new_york_date, new_york_ns
from ingestor.model.units import NS_PER_S

SEGMENT_BYTES: Final = 256 * 1024 * 1024
"""A segment that has so many bytes is full."""

CHUNK_BYTES: Final = 256 * 1024
"""Bytes held here before they are handed to the thread; `tick` hands over what there is."""

MAX_BACKLOG_BYTES: Final = 64 * 1024 * 1024
"""Handed over and not yet written: some seconds of the busiest minute."""

STEP_BACK_NS: Final = 3600 * NS_PER_S
"""A clock that steps back across midnight by more than this takes the date with it."""

_DAY: Final = dt.timedelta(days=1)
_MIDNIGHT: Final = dt.time(0)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class JournalCounts:
    """Totals of a run: frames taken, their bytes, and frames not taken for whatever cause.

    What was taken is on its way to the disk; while that refuses, `JournalRecorder.failure` says why.
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
        late_after_ns: int = LATE_AFTER_NS,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Make the folder if there is none.

        Args:
            directory: Where the segments go; several feeds may share it.
            feed_name: ``stocks`` or ``options``.
            roots: What the live decoder of options was given.
            late_after_ns: What the live decoder was given.
            segment_bytes: A segment that has so many bytes is full.

        Raises:
            ConfigurationError: the folder cannot be written to, or another run uses it.
            ValueError: the roots do not fit into a header.
        """
        self._market = Market[feed_name.upper()]
        self._roots = tuple(sorted(roots))
        self._late_after_ns = late_after_ns
        self._limit = segment_bytes
        self._lock = FolderLock(directory, self._market)
        self._thread = WriterThread(directory, self._market)
        self._chunk = bytearray()
        self._segment_bytes = 0
        self._from_ns = self._until_ns = 0
        self._date = dt.date.min
        self._run_ns = 0
        self._part = 0
        self._seed = 0
        self._number = 0
        self._losing = False
        self.counts = JournalCounts()
        pack_header(self._header(0))

    @property
    def failure(self) -> str | None:
        """None, or why nothing is written just now."""
        return self._thread.failure

    def append(self, data: bytes, recv_ns: int, connection: int) -> None:
        """Record a frame that was received at `recv_ns` over a connection of this run."""
        if self._record(Entry(data, recv_ns, connection, self._number), connection):
            self.counts.frames += 1
            self.counts.bytes += len(data)

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Record that names are asked for on a connection, or, for None, that it begins."""
        self._record(Entry(pack_note(names), now_ns, NOTE, self._number), connection)

    def tick(self, now_ns: int) -> Sequence[str] | None:
        """Hand over what is held; end the segment of a day that is over; return what went wrong."""
        self._hand_over()
        if self._until_ns and now_ns >= self._until_ns:
            self._thread.put(End())
            self._until_ns = 0
        self._thread.put(Wake())
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
        self._number += 1
        if not self._can_take(entry.payload):
            self._lose()
            return False
        on_date = self._from_ns <= entry.recv_ns < self._until_ns
        if not on_date or self._segment_bytes >= self._limit:
            self._begin_segment(entry.recv_ns, connection)
        self._chunk += entry_head(entry, self._seed)
        self._chunk += entry.payload
        self._segment_bytes += HEAD.size + len(entry.payload)
        self._losing = False
        if len(self._chunk) >= CHUNK_BYTES:
            self._hand_over()
        return True

    def _can_take(self, data: bytes) -> bool:
        thread = self._thread
        held_bytes = thread.backlog_bytes + len(self._chunk)
        return held_bytes + len(data) <= MAX_BACKLOG_BYTES and len(data) <= MAX_PAYLOAD_BYTES

    def _lose(self) -> None:
        self.counts.lost += 1
        if not self._losing:
            logger.error(
                "frame %d is not recorded: longer than %d bytes, or the disk is %d bytes behind",
                self._number - 1,
                MAX_PAYLOAD_BYTES,
                self._thread.backlog_bytes,
            )
        self._losing = True

    def _begin_segment(self, recv_ns: int, connection: int) -> None:
        self._hand_over()
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
