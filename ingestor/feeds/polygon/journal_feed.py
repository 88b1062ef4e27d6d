"""JournalFeed: the frames of some days through the decoder of the live feed, as blocks."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ingestor.feeds.polygon.journal_choice import Choice
from ingestor.feeds.polygon.journal_progress import REPEATED, JournalProgress
from ingestor.feeds.polygon.playback import Playback
from ingestor.feeds.windows import EVERYTHING, Session
from ingestor.journal.days import Reading, find_segments, oddities
from ingestor.journal.format import NOTE, Entry, Market
from ingestor.journal.frames import SegmentFrames
from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.records import Records

BLOCK_BYTES: Final = 256 * 1024
MIN_BLOCK_BYTES: Final = 4096

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class JournalFeed:
    """Reads one feed of a journal, in memory that does not depend on its size.

    Attributes:
        directory: Folder of the journal.
        market: Whose frames to read; a folder may hold both.
        dates: Days in New York to read, in any order; none means every day there is.
        start: New York wall time on each date from which records count (``ts_event``).
        end: New York wall time before which they do; see `ingestor.feeds.windows`.
        symbols: Symbols to keep, of options also their underlyings; none keeps all.
        block_bytes: A block holds at most so many bytes.
        feed: Passed on in every block.
        source: Passed on in every block.
        progress: Counts of the newest run; a new object with every run.
    """

    directory: Path
    market: Market
    dates: Sequence[dt.date] = ()
    start: dt.time | None = None
    end: dt.time | None = None
    symbols: frozenset[str] = frozenset()
    block_bytes: int = BLOCK_BYTES
    feed: int = 0
    source: Source = Source.REPLAY
    progress: JournalProgress = field(default_factory=JournalProgress, init=False)

    def __post_init__(self) -> None:
        if self.block_bytes < MIN_BLOCK_BYTES:
            raise ConfigurationError(
                f"block_bytes is {self.block_bytes}; it must be at least {MIN_BLOCK_BYTES}"
            )

    def blocks(self) -> Iterator[Block]:
        """Return the records of the journal in its order, empty blocks as signs of life.

        Raises `NoDataError` at once when the folder or a date is missing. After everything that
        is whole has been yielded, raises `BadDataError` when there was damage.
        """
        readings = find_segments(self.directory, self.market, self.dates)
        for sentence in oddities(self.directory, readings):
            logger.warning("%s", sentence)
        return self.blocks_of(readings)

    def blocks_of(self, readings: Sequence[Reading]) -> Iterator[Block]:
        """Return the records of these segments; raises as `blocks` does while iterating."""
        self.progress = JournalProgress(bytes_total=sum(one.segment.size for one in readings))
        return self._blocks(readings, self.progress)

    def _blocks(self, readings: Sequence[Reading], progress: JournalProgress) -> Iterator[Block]:
        dates = {reading.date for reading in readings if not reading.silent}
        session = Session(self.start, self.end)
        run = _Run(Playback(), Choice(self.market, self.symbols, self.block_bytes), progress)
        for reading in readings:
            run.choice.windows = session.of_file(reading.date, dates, EVERYTHING)
            for records in run.records_of(reading):
                yield Block(self.feed, records, run.playback.symbols, self.source)
        if progress.damaged is not None:
            raise BadDataError(
                f"{progress.damaged}; all else was read (places like this: {progress.damages})"
            )


@dataclass(frozen=True, slots=True)
class _Run:
    """What the segments of a run over the journal have in common."""

    playback: Playback
    choice: Choice
    progress: JournalProgress

    def records_of(self, reading: Reading) -> Iterator[Records]:
        """Yield a segment's records; none is held over to the next, whose run may be another."""
        rows, alive = bytearray(), False
        for entry in SegmentFrames(reading.segment, self.progress, self.playback.begin).entries():
            if entry is not None:
                rows += self._decode(entry, silent=reading.silent)
            if len(rows) >= self.choice.block_bytes:
                yield from self._chosen(rows)
                rows, alive = bytearray(), True
            elif entry is None:
                if not alive:
                    yield self.choice.nothing
                alive = False
        yield from self._chosen(rows)

    def _decode(self, entry: Entry, *, silent: bool) -> bytes:
        """Return the rows of a frame, none when it is only to be known or is known already."""
        if self.playback.is_known(entry):
            self.progress.skipped[REPEATED] += not silent
            return b""
        missing = self.playback.missing(entry)
        if entry.connection == NOTE:
            self.playback.note(entry)
            self.progress.count_missing(0 if silent else missing)
            return b""
        decoded = self.playback.decode(entry)
        if silent:
            return b""
        self.progress.count(decoded, missing)
        return decoded.records.tobytes()

    def _chosen(self, rows: bytearray) -> Iterator[Records]:
        yield from self.choice.of(rows, self.playback.symbols, self.progress)
