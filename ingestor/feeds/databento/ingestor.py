"""DBNIngestor: the files of some days, as blocks of records or as event objects."""

from __future__ import annotations

import datetime as dt
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self, cast
from weakref import WeakSet

from ingestor.feeds.databento.candidates import contents_of
from ingestor.feeds.databento.files import DbnFile, DbnSchema, days_of
from ingestor.feeds.databento.record_filter import FileIssues, FileProgress, RecordFilter
from ingestor.feeds.databento.record_reader import MAX_RECORD_BYTES, DbnReader
from ingestor.feeds.databento.selection import find_files
from ingestor.feeds.databento.symbology import (
    HeaderNames,
    SymbolFilter,
    SymbologyNames,
    SymbolTables,
)
from ingestor.feeds.windows import EVERYTHING, DailyWindows, SessionTimes, Window
from ingestor.files.streams import open_stream
from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError, ConfigurationError, NoDataError
from ingestor.model.events import MBP10, FuturesTrade, events_of
from ingestor.model.units import EPOCH_DATE, NS_PER_DAY

BLOCK_BYTES: Final = 1020 * 1024
"""Default for `DBNIngestor.block_bytes`: 2838 depth records, or 21760 trades.

A little less than eight of the largest packed messages: a whole MiB would leave one record for a
ninth.
"""


@dataclass(kw_only=True, eq=False)
class DBNIngestor:
    """Reads DBN files of one data folder, a block at a time, in constant memory.

    Every file is read to its end even when a time window closes earlier: records are filtered
    by ``ts_event``, and nothing promises that it rises (the snapshot at the front of a depth
    file is hours older than its neighbours).

    Attributes:
        data_dir: Folder that holds files, in the original layout or as they are delivered; or one.
        schema: What `blocks` reads.
        dates: Days to read, in any order; none means every day there is.
        files: What to read, in this order, instead of what `data_dir` has for `dates`; these
            then say which sessions are asked for. Files found in `data_dir` that overlap in time
            are read one after the other; a replay merges them (`Catalog.lanes`).
        start: New York wall time on each file's date from which records count (``ts_event``).
        end: New York wall time before which they do; on the next day when it is not after
            `start`. See `ingestor.feeds.windows`.
        start_ns: Event time from which records count, int ns UTC.
        end_ns: Event time before which they do, int ns UTC.
        symbols: Symbols to keep, by any of their names before or after `rename`; none keeps all.
        elsewhere: Those of them that need not be in these files: other feeds bear them.
        symbol_filter: Instead of `symbols` and `elsewhere`, one that several of these share; then
            what it misses is for its owner to say.
        rename: Symbol in the file to symbol to publish.
        block_bytes: The most that a block holds.
        feed: Passed on in every block.
        source: Passed on in every block.
        progress: Counts of the newest run; a new object with every run.
    """

    data_dir: Path
    schema: DbnSchema = DbnSchema.TRADES
    dates: Sequence[dt.date] = ()
    files: Sequence[DbnFile] = ()
    start: dt.time | None = None
    end: dt.time | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    symbols: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()
    symbol_filter: SymbolFilter | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    block_bytes: int = BLOCK_BYTES
    feed: int = 0
    source: Source = Source.REPLAY
    progress: FileProgress = field(default_factory=FileProgress, init=False)
    _from_ns: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.block_bytes < MAX_RECORD_BYTES:
            raise ConfigurationError(
                f"block_bytes is {self.block_bytes}; it must be at least {MAX_RECORD_BYTES}, "
                "the longest record that DBN allows"
            )
        self._running: WeakSet[Generator[Block]] = WeakSet()

    def blocks(self) -> Iterator[Block]:
        """Return the records of `schema`, file after file, in the order of the files.

        The records of a block are a view of a buffer that is used again: **they are valid until
        the next block is asked for**. Copy what you keep (``records.tobytes()``,
        ``records.copy()``). A block's symbol table names every instrument in it. Blocks share a
        table, which may grow, until an instrument gets another name.

        Raises `NoDataError` at once when a folder or file is missing. While iterating, raises
        `BadDataError` when a file is broken, after everything whole in it, and `NoDataError` at the
        end when nothing in the files bears one of `symbols`.
        """
        return self._run(self.schema)

    def start_at(self, at_ns: int | None) -> None:
        """Have the next `blocks` yield only events at or after a time, int ns UTC; None for all.

        What it yields is what a start at `start_ns` would. An uncompressed file is searched for
        the place (see `place_before` of the reader), another is read up to it.
        """
        self._from_ns = at_ns

    def span_ns(self) -> tuple[int, int] | None:
        """Return from when to when events can be, by the headers and the windows, int ns UTC.

        None where a header leaves it open, as those of live captures do.
        """
        dates = set(self.dates or days_of(self.files))
        # Of a thousand files the first and the last say it.
        ends = (min(self.files, key=_first_day), max(self.files, key=_last_day))
        spans = [self._span_of(file, dates) for file in ends]
        first, last = spans
        return None if first is None or last is None else (first[0], max(first[1], last[1]))

    def _span_of(self, file: DbnFile, dates: set[dt.date]) -> tuple[int, int] | None:
        try:
            said = contents_of(file.path)
        except (BadDataError, NoDataError):
            return None  # its reader says what is wrong
        if said.start_ns is None or said.end_ns is None:
            return None
        # Files into which a range was split may each tell the whole of it.
        days = [(day - EPOCH_DATE).days * NS_PER_DAY for day in (_first_day(file), _last_day(file))]
        limits = Window(max(said.start_ns, days[0]), min(said.end_ns, days[1] + NS_PER_DAY))
        session = SessionTimes(self.start, self.end)
        windows = [
            window
            for day in (_first_day(file), _last_day(file))
            for window in session.of_file(day, dates, limits)
            if window.start_ns < window.end_ns
        ]
        if not windows:
            return None
        return min(one.start_ns for one in windows), max(one.end_ns for one in windows)

    def read_trades(self) -> Iterator[FuturesTrade]:
        """Return the trades as event objects, whatever `schema` says; raises as `blocks` does."""
        return cast("Iterator[FuturesTrade]", self._events(DbnSchema.TRADES))

    def read_mbp10(self) -> Iterator[MBP10]:
        """Return the depth as event objects, whatever `schema` says; raises as `blocks` does."""
        return cast("Iterator[MBP10]", self._events(DbnSchema.MBP10))

    def close(self) -> None:
        """End every run that is under way and release its file; iterators then just end."""
        # A copy: a generator that is closed leaves the set.
        for run in list(self._running):
            run.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _events(self, schema: DbnSchema) -> Iterator[object]:
        run = self._run(schema)
        return (event for block in run for event in events_of(block))

    def _run(self, schema: DbnSchema) -> Iterator[Block]:
        files = self.files or find_files(self.data_dir, schema, self.dates)
        self.progress = FileProgress(
            files_total=len(files), bytes_total=sum(file.size for file in files)
        )
        # Files are looked for at once, so that a missing one is told before a process starts.
        run = self._blocks_of_files(files, schema, self.progress)
        self._running.add(run)
        return run

    def _blocks_of_files(
        self, files: Sequence[DbnFile], schema: DbnSchema, progress: FileProgress
    ) -> Generator[Block]:
        dates = set(self.dates or days_of(files))
        symbol_filter = self.symbol_filter or SymbolFilter(
            self.symbols, self.rename, self.elsewhere
        )
        shared = _Shared(progress, symbol_filter)
        for file in files:
            windows = self._windows(file, dates)
            progress.path, done = file.path, progress.bytes_read
            yield from self._blocks_of_file(file, schema, windows, shared)
            # By its size: with it the bytes of all files add up to `bytes_total`.
            progress.files_done, progress.bytes_read = progress.files_done + 1, done + file.size
        if self.symbol_filter is None:
            shared.symbol_filter.check()

    def _blocks_of_file(
        self,
        file: DbnFile,
        schema: DbnSchema,
        windows: Sequence[Window] | DailyWindows,
        shared: _Shared,
    ) -> Generator[Block]:
        issues, symbol_filter = FileIssues(file.path), shared.symbol_filter
        try:
            with open_stream(file.path) as stream:
                reader = DbnReader(stream, file.path, schema, self.block_bytes)
                for _ in reader.open():
                    # A sign of life: a header of 256 MiB takes its time.
                    yield Block(self.feed, reader.nothing, {}, self.source)
                if self._from_ns is not None:
                    shared.progress.filtered += reader.pass_over(self._from_ns)
                folders = file.path.parent, self.data_dir
                symbology = shared.symbology.setdefault(folders, SymbologyNames(folders))
                header = HeaderNames(reader.header)
                if symbol_filter.missing:
                    symbol_filter.see(header)
                tables = SymbolTables(
                    header,
                    symbology=symbology,
                    symbol_filter=symbol_filter,
                    reported=shared.unknown,
                )
                record_filter = RecordFilter(
                    reader, tables, issues, shared.progress, feed=self.feed, source=self.source
                )
                yield from record_filter.blocks(windows)
                # Looked through last: what the file itself says may leave nothing missing.
                if symbol_filter.missing:
                    symbol_filter.see(symbology)
        finally:
            issues.log()

    def _windows(self, file: DbnFile, dates: set[dt.date]) -> Sequence[Window] | DailyWindows:
        """The file of one day is read whole; of a longer one each day's records count by day."""
        session = SessionTimes(self.start, self.end)
        limits = Window(
            max(self.start_ns or EVERYTHING.start_ns, self._from_ns or EVERYTHING.start_ns),
            EVERYTHING.end_ns if self.end_ns is None else self.end_ns,
        ).within(EVERYTHING)
        # The file of one day is published whole, also its records of other days (the contract).
        if file.last is None:
            return session.of_file(file.date, dates, limits)
        if file.days is None and session == SessionTimes():
            return [limits]
        return DailyWindows(
            lambda day: (
                session.of_file(day, dates, limits) if file.days is None or day in file.days else []
            )
        )


def _first_day(file: DbnFile) -> dt.date:
    return min(file.days) if file.days else file.date


def _last_day(file: DbnFile) -> dt.date:
    return max(file.days) if file.days else file.last or file.date


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the files of a run have in common."""

    progress: FileProgress
    symbol_filter: SymbolFilter
    unknown: set[int] = field(default_factory=set)
    symbology: dict[tuple[Path, Path], SymbologyNames] = field(default_factory=dict)
