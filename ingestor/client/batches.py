"""Messages that arrived together to NumPy arrays: one batch per event type and source.

Packed messages are often short, since each one is a stretch of one subject in a stream that mixes
several. Those whose headers say the same (but for the number of rows) are joined before they are
read, so that what a message costs is a few slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ingestor.client.decode import (
    EVENT_TYPE_BY_SUBJECT,
    BadMessageError,
    bad_message,
    check_subject,
    read_json,
)
from ingestor.client.json_records import check_record, records_of
from ingestor.client.tables import arrow_of, columns_of, pandas_of, polars_of
from ingestor.client.wire import Frame
from ingestor.encode.packed import check_rows, is_packed, read_header, take_apart
from ingestor.model.blocks import Block, Source
from ingestor.model.errors import BadDataError
from ingestor.model.events import Event, events_of
from ingestor.model.records import EventType, Records
from ingestor.model.symbols import SymbolTable


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records of one event type and source, in stream order.

    `records` is an array of ``event_type.dtype`` (`ingestor.model.records`): times in int ns UTC,
    prices in int 1e-9, read-only where the messages were packed. `symbols` tells what their
    ``instrument_id`` stands for, in this batch only. `seqs` (int64, one per record) holds the
    stream sequence of each record's message: with it, batches that arrived together can be
    brought back into one order.
    """

    event_type: EventType
    records: Records
    symbols: SymbolTable
    source: Source
    seqs: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def columns(self) -> dict[str, Any]:
        """Return the records as one masked array a field, for tables; of the levels, one a level.

        Beside the fields of the dtype (``bid_px_e9_00`` to ``ask_ct_09`` of the levels, a matrix
        of ``conditions``) there are ``symbol``, ``source`` and ``stream_seq``. Unknown prices,
        sequences and exchanges are masked; prices are int64 of 1e-9, times uint64 ns.
        """
        return columns_of(self)

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table``: times as UTC timestamps, unknown as null, prices int 1e-9.

        Raises ConfigurationError where pyarrow is not installed, as the others do for theirs.
        """
        return arrow_of(self)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` of the columns of `to_arrow`; integers stay integers."""
        return pandas_of(self)

    def to_polars(self) -> Any:
        """Return a ``polars.DataFrame`` of the columns of `to_arrow`."""
        return polars_of(self)

    @property
    def first_seq(self) -> int:
        """Stream sequence of the first record."""
        return int(self.seqs[0])

    @property
    def last_seq(self) -> int:
        """Stream sequence of the last record."""
        return int(self.seqs[-1])


def batches_of(
    frames: Sequence[Frame], seqs: Sequence[int]
) -> tuple[list[Batch], list[BadMessageError]]:
    """Return the records of all messages that are sound, and what is wrong with the others."""
    json_groups: dict[tuple[bytes, str], _Json] = {}
    packed_groups: dict[tuple[bytes, bytes], _Packed] = {}
    bad: list[BadMessageError] = []
    for (subject, _, payload), seq in zip(frames, seqs, strict=True):
        try:
            if is_packed(payload):
                opening, rows = take_apart(payload)
                packed = packed_groups.get((subject, opening))
                if packed is None:
                    packed = packed_groups[subject, opening] = _Packed(subject, opening)
                packed.add(rows, seq)
            else:
                event = read_json(subject, payload)
                check_record(event)
                json_groups.setdefault((subject, event.source), _Json()).add(event, payload, seq)
        except BadDataError as error:
            bad.append(bad_message(subject, seq, error))
    found = [group.batch(subject, source) for (subject, source), group in json_groups.items()]
    for group in packed_groups.values():
        found += group.batches(bad)
    return found, bad


def events_by_seq(
    frames: Sequence[Frame], seqs: Sequence[int]
) -> tuple[dict[int, Iterator[Event]], list[BadMessageError]]:
    """Return the events of packed messages by stream sequence, and what is wrong with the others.

    They are built from joined records: to build those of one short message costs about 40 us.
    They are made as they are asked for, which must be in the order of the sequences, each wholly.
    """
    batches, bad = batches_of(frames, seqs)
    found: dict[int, Iterator[Event]] = {seq: iter(()) for seq in seqs}
    for batch in batches:
        events = events_of(Block(0, batch.records, batch.symbols, batch.source))
        cuts = np.flatnonzero(np.diff(batch.seqs)) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(batch)]):
            found[int(batch.seqs[start])] = islice(events, stop - start)
    return found, bad


@dataclass(slots=True)
class _Json:
    events: list[Event] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)

    def add(self, event: Event, payload: bytes, seq: int) -> None:
        self.events.append(event)
        self.payloads.append(payload)
        self.seqs.append(seq)

    def batch(self, subject: bytes, source: str) -> Batch:
        kind = EVENT_TYPE_BY_SUBJECT[subject.decode()]
        records, symbols = records_of(kind, self.events, self.payloads)
        return Batch(kind, records, symbols, Source(source), np.array(self.seqs, np.int64))


class _Packed:
    """Messages of one subject whose headers say the same."""

    def __init__(self, subject: bytes, opening: bytes) -> None:
        """Raise `BadDataError` when the header is none of this subject."""
        self._subject = subject
        self._header = read_header(opening)
        check_subject(self._header.event_type, subject.decode("utf-8", "replace"))
        self._rows: list[memoryview] = []
        self._seqs: list[int] = []

    def add(self, rows: memoryview, seq: int) -> None:
        self._rows.append(rows)
        self._seqs.append(seq)

    def batches(self, bad: list[BadMessageError]) -> list[Batch]:
        """Return one batch, or none; messages with a bad row are added to `bad` and left out."""
        try:
            return [self._joined(self._rows, self._seqs)]
        except BadDataError:
            sound = [
                (rows, seq)
                for rows, seq in zip(self._rows, self._seqs, strict=True)
                if self._is_sound(rows, seq, bad)
            ]
        return [self._joined(*zip(*sound, strict=True))] if sound else []

    def _is_sound(self, rows: memoryview, seq: int, bad: list[BadMessageError]) -> bool:
        try:
            self._joined([rows], [seq])
        except BadDataError as error:
            bad.append(bad_message(self._subject, seq, error))
            return False
        return True

    def _joined(self, parts: Sequence[memoryview], seqs: Sequence[int]) -> Batch:
        kind, symbols, source = self._header
        records = np.frombuffer(b"".join(parts), kind.dtype)
        check_rows(records, self._header)
        row_counts = [len(part) // kind.dtype.itemsize for part in parts]
        return Batch(
            kind, records, symbols, source, np.repeat(np.array(seqs, np.int64), row_counts)
        )
