"""From the chunks of one file to the records to publish, with the symbol table that holds.

In this order: records that make no sense go, then those outside the time windows; then the rest
is cut where the UTC date changes, since symbols are told by date; then other symbols go; and what
is left is checked for steps back in time. Each step looks at a whole array and costs next to
nothing when it has nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ingestor.feeds.databento.framing import Framed
from ingestor.feeds.databento.nonsense import nonsense
from ingestor.feeds.databento.progress import Progress, Remarks
from ingestor.feeds.databento.reader import DbnReader
from ingestor.feeds.databento.symbology import NS_PER_DAY, SymbolTables
from ingestor.feeds.windows import Window, inside
from ingestor.keys import RunningKey
from ingestor.records import Records
from ingestor.symbols import SymbolTable

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records, and of each (int64) its number in its file, from 0."""

    records: Records
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def where(self, kept: Mask) -> Batch:
        """Return a copy of some of the records."""
        return Batch(self.records[kept], self.numbers[kept])

    def by_day(self) -> Iterator[tuple[int, Batch]]:
        """Yield runs of records with the same UTC date of ``ts_recv`` (days since 1970)."""
        recv = self.records["ts_recv_ns"]
        first, last = int(recv.min()) // NS_PER_DAY, int(recv.max()) // NS_PER_DAY
        if first == last:
            yield first, self
            return
        days = recv // np.uint64(NS_PER_DAY)
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for start, stop in pairwise(edges):
            yield int(days[start]), Batch(self.records[start:stop], self.numbers[start:stop])


class FilePass:
    """One file's way through the filters; counts as it goes."""

    def __init__(
        self,
        reader: DbnReader,
        tables: SymbolTables,
        remarks: Remarks,
        progress: Progress,
    ) -> None:
        self._reader = reader
        self._tables = tables
        self._remarks = remarks
        self._progress = progress
        self._order = RunningKey()
        self._before = progress.bytes_read

    def batches(
        self, windows: Sequence[Window], symbols: frozenset[str]
    ) -> Iterator[tuple[Records, SymbolTable]]:
        """Yield the records in the windows and of the symbols (all when none are given).

        A chunk that holds none of them yields an empty batch: a sign of life.
        """
        for chunk in self._reader.chunks():
            self._progress.bytes_read = self._before + self._reader.position
            before = self._progress.records
            sensible = self._sensible(self._numbered(chunk))
            for day, batch in self._filtered_by_time(sensible, windows):
                table = self._tables.table(day, _distinct(batch.records["instrument_id"]))
                wanted = self._filtered_by_symbol(batch, symbols) if symbols else batch
                if len(wanted):
                    self._look_at_order(wanted)
                    self._progress.records += len(wanted)
                    yield wanted.records, table
            if self._progress.records == before:
                yield chunk.records[:0], {}

    def _numbered(self, chunk: Framed) -> Batch:
        for cause, places in chunk.others.items():
            self._skip(cause, places + self._reader.found)
        return Batch(chunk.records, chunk.numbers + self._reader.found)

    def _sensible(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        bad = np.zeros(len(batch), np.bool_)
        for cause, mask in nonsense(batch.records):
            self._skip(cause, batch.numbers[mask & ~bad])
            bad |= mask
        return batch.where(~bad) if bad.any() else batch

    def _skip(self, cause: str, numbers: npt.NDArray[np.int64]) -> None:
        if not len(numbers):
            return
        skipped = self._progress.skipped
        skipped[cause] = skipped.get(cause, 0) + len(numbers)
        self._remarks.skipped(cause, len(numbers), int(numbers[0]))

    def _filtered_by_time(
        self, batch: Batch, windows: Sequence[Window]
    ) -> Iterator[tuple[int, Batch]]:
        if len(batch):
            kept = inside(batch.records["ts_event_ns"], windows)
            batch = batch if kept is None else self._keep(batch, kept)
        return batch.by_day() if len(batch) else iter(())

    def _filtered_by_symbol(self, batch: Batch, symbols: frozenset[str]) -> Batch:
        instruments = batch.records["instrument_id"]
        present = _distinct(instruments)
        wanted = [number for number in present if self._tables.is_wanted(number, symbols)]
        if len(wanted) == len(present):
            return batch
        return self._keep(batch, np.isin(instruments, wanted))

    def _keep(self, batch: Batch, kept: Mask) -> Batch:
        result = batch.where(kept)
        self._progress.filtered += len(batch) - len(result)
        return result

    def _look_at_order(self, batch: Batch) -> None:
        keys, late = self._order.advance(batch.records)
        if late:
            stepped = (keys.ts_event_ns != batch.records["ts_event_ns"]) | (
                keys.ts_recv_ns != batch.records["ts_recv_ns"]
            )
            self._progress.late += late
            self._remarks.late(late, int(batch.numbers[stepped.argmax()]))


def _distinct(instruments: npt.NDArray[np.uint32]) -> list[int]:
    first = instruments[0]
    if (instruments == first).all():
        return [int(first)]
    numbers: list[int] = np.unique(instruments).tolist()
    return numbers
