"""Messages that arrived together to NumPy arrays: one batch per event type and source.

Packed messages are often short, since each one is a stretch of one subject in a stream that mixes
several. Those whose headers say the same (but for the number of rows) are joined before they are
read, so that what a message costs is a few slices.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.blocks import Source
from ingestor.client.decode import (
    EVENT_TYPE_BY_SUBJECT,
    JSON_DECODE,
    BadMessageError,
    Message,
    check_subject,
    event_type_of,
)
from ingestor.client.json_records import records_of
from ingestor.client.wire import Frame
from ingestor.encode.packed import HEAD, Head, decode_packed, is_packed
from ingestor.errors import BadDataError
from ingestor.events import Event
from ingestor.records import EventType, Records
from ingestor.symbols import SymbolTable

_ROW_COUNT: Final = struct.Struct("<I")
_ROW_COUNT_AT: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Records of one event type and source, in stream order.

    `records` is an array of ``event_type.dtype`` (`ingestor.records`): times in int ns UTC,
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

    @property
    def first_seq(self) -> int:
        """Stream sequence of the first record."""
        return int(self.seqs[0])

    @property
    def last_seq(self) -> int:
        """Stream sequence of the last record."""
        return int(self.seqs[-1])


def batches_of(frames: Sequence[Frame], seqs: Sequence[int]) -> list[Batch]:
    """Return the records of all messages. Raises `BadDataError`, which names no message."""
    json_groups: dict[tuple[bytes, str], _Json] = {}
    packed_groups: dict[tuple[bytes, bytes], _Packed] = {}
    for (subject, _, payload), seq in zip(frames, seqs, strict=True):
        if is_packed(payload):
            head, rows, row_count = _taken_apart(payload)
            packed = packed_groups.setdefault((subject, head), _Packed())
            packed.add(rows, row_count, seq)
        else:
            event = _decoded(subject, payload)
            json_groups.setdefault((subject, event.source), _Json()).add(event, payload, seq)
    return [
        *(group.batch(subject, source) for (subject, source), group in json_groups.items()),
        *(group.batch(subject, head) for (subject, head), group in packed_groups.items()),
    ]


def first_bad(frames: Sequence[Frame], seqs: Sequence[int]) -> tuple[int, BadMessageError]:
    """Return the index of the first bad message, and what is wrong with it; there must be one."""
    for index, (frame, seq) in enumerate(zip(frames, seqs, strict=True)):
        message = Message(frame[0].decode("utf-8", "replace"), seq, frame[2])
        try:
            event_type_of(message)
            batches_of([frame], [seq])
        except BadMessageError as error:
            return index, error
        except BadDataError as error:
            return index, BadMessageError(message.subject, seq, str(error))
    raise AssertionError("no message is bad")


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
        try:
            known_source = Source(source)
        except ValueError as error:
            raise BadDataError(f"unknown source {source!r}") from error
        records, symbols = records_of(kind, self.events, self.payloads)
        return Batch(kind, records, symbols, known_source, np.array(self.seqs, np.int64))


@dataclass(slots=True)
class _Packed:
    rows: list[bytes] = field(default_factory=list)
    row_counts: list[int] = field(default_factory=list)
    seqs: list[int] = field(default_factory=list)

    def add(self, rows: bytes, row_count: int, seq: int) -> None:
        self.rows.append(rows)
        self.row_counts.append(row_count)
        self.seqs.append(seq)

    def batch(self, subject: bytes, head: bytes) -> Batch:
        row_count = _ROW_COUNT.pack(sum(self.row_counts))
        head = head[:_ROW_COUNT_AT] + row_count + head[_ROW_COUNT_AT + _ROW_COUNT.size :]
        block = decode_packed(b"".join((head, *self.rows)))
        check_subject(block.event_type, subject.decode("utf-8", "replace"))
        seqs = np.repeat(np.array(self.seqs, np.int64), self.row_counts)
        return Batch(block.event_type, block.records, block.symbols, block.source, seqs)


def _taken_apart(payload: bytes) -> tuple[bytes, bytes, int]:
    """Return the header with a row count of 0, the rows, and how many they are."""
    if len(payload) < HEAD.size:
        raise BadDataError("packed message ends within its header")
    head = Head(*HEAD.unpack_from(payload))
    rows = payload[head.header_bytes :]
    if len(rows) != head.row_count * head.row_bytes:
        raise BadDataError(f"packed message has {len(payload)} bytes, not what its header says")
    header = payload[:_ROW_COUNT_AT] + bytes(_ROW_COUNT.size)
    return (
        header + payload[_ROW_COUNT_AT + _ROW_COUNT.size : head.header_bytes],
        rows,
        head.row_count,
    )


def _decoded(subject: bytes, payload: bytes) -> Event:
    try:
        return JSON_DECODE[subject](payload)
    except KeyError:
        raise BadDataError("no event type has this subject") from None
    except msgspec.MsgspecError as error:
        raise BadDataError(str(error)) from error
