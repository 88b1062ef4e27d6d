"""Messages in either encoding to events or NumPy arrays, or the reason one is invalid.

Those that arrived together become one batch per event type and source. Packed messages are often
short, since each one is a stretch of one subject in a stream that mixes several. Those whose
headers say the same (but for the number of rows) are joined before they are read, so that what a
message costs is a few slices.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from itertools import islice, pairwise
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from ingestor.encode.json_records import NoRecordError, read_rows
from ingestor.encode.packed import (
    UnknownVersionError,
    check_rows,
    decode_packed,
    is_packed,
    read_header,
    take_apart,
)
from ingestor.model.blocks import Block, Source
from ingestor.model.bounds import printable
from ingestor.model.errors import BadDataError, ConfigurationError
from ingestor.model.events import NO_SUBJECT_OF_OURS, Event, InvalidError, events_of, read_json
from ingestor.model.records import (
    EVENT_TYPES,
    LEVELS,
    UNDEF_EXCHANGE,
    UNDEF_SEQUENCE,
    EventType,
    Records,
    RType,
)
from ingestor.model.symbols import SymbolTable, symbol_of
from ingestor.model.units import UNDEF_PRICE
from ingestor.nats.answers import Frame

log = logging.getLogger(__name__)


class Cause(StrEnum):
    """Why a message is skipped; each is counted apart (`Subscription.skipped`)."""

    UNKNOWN_SUBJECT = "unknown_subject"
    """No event type has its subject: it is not ours, or of a later version of this program."""
    UNKNOWN_VERSION = "unknown_version"
    """It is packed in a version, with a schema or of an rtype that is not known."""
    MALFORMED = "malformed"
    """It is neither whole JSON nor a whole packed message; an empty one is this, too."""
    INVALID = "invalid"
    """It is JSON, but no event: a key is missing, of another type or out of its bounds."""
    NO_RECORD = "no_record"
    """It is an event, but no record: a future's ``seq`` is null. Only of `Subscription.batches`."""
    NO_STATUS = "no_status"
    """It is no status of a feed. Only of `Client.statuses`."""


class BadMessageError(BadDataError):
    """A message is not what its subject promises; names the subject, stream sequence and cause."""

    def __init__(self, subject: str, seq: int, reason: str, cause: Cause = Cause.MALFORMED) -> None:
        super().__init__(f"message {seq} on {printable(subject)}: {printable(reason)}")
        self.subject = subject
        self.seq = seq
        self.reason = reason
        self.cause = cause


class UnknownSubjectError(BadMessageError):
    """No event type belongs to the message's subject."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as it stands in the stream: its sequence, and when the server stored it.

    `stored_ns` is int nanoseconds UTC by the server's clock, 0 where nobody told.
    """

    subject: str
    seq: int
    payload: bytes
    stored_ns: int = 0


class Skips:
    """Counts the messages that are passed over, by cause, and tells the first of each cause."""

    def __init__(self, within: Skips | None = None) -> None:
        """What is counted here is also counted `within`."""
        self.counts: Counter[Cause] = Counter()
        self._within = within

    def add(self, bad: BadMessageError) -> None:
        """Count a message that is passed over."""
        if not self.counts[bad.cause]:
            log.warning(
                "%s; it is skipped, and more of the kind (%s) are only counted", bad, bad.cause
            )
        skips: Skips | None = self
        while skips is not None:
            skips.counts[bad.cause] += 1
            skips = skips._within


SUBJECTS: Final = {kind.subject: kind for kind in EVENT_TYPES}

_CAUSES: Final[tuple[tuple[type[BadDataError], Cause], ...]] = (
    (UnknownVersionError, Cause.UNKNOWN_VERSION),
    (InvalidError, Cause.INVALID),
    (NoRecordError, Cause.NO_RECORD),
)


def decode(message: Message) -> list[Event]:
    """Return the events of a message: one of JSON, any number of packed.

    Raises `BadMessageError`, and of its kind `UnknownSubjectError`; nothing else, whatever the
    bytes are.
    """
    subject = message.subject.encode("utf-8", "replace")
    try:
        if not is_packed(message.payload):
            return [read_json(subject, message.payload)]
        packed = decode_packed(message.payload)
        check_subject(packed.event_type, message.subject)
        return list(events_of(Block(0, packed.records, packed.symbols, packed.source)))
    except BadDataError as error:
        raise bad_message(subject, message.seq, error) from error


def bad_message(subject: bytes, seq: int, error: BadDataError) -> BadMessageError:
    """Return what is wrong with a message as the error that names it."""
    text = subject.decode("utf-8", "replace")
    if text not in SUBJECTS:
        return UnknownSubjectError(text, seq, NO_SUBJECT_OF_OURS, Cause.UNKNOWN_SUBJECT)
    cause = next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.MALFORMED)
    return BadMessageError(text, seq, str(error), cause)


def check_subject(kind: EventType, subject: str) -> None:
    """Raise `BadDataError` when a packed message of `kind` came on another subject."""
    if kind.subject != subject:
        raise BadDataError(f"holds packed {kind.name} records, which belong on {kind.subject}")


_LETTERS: Final = ("action", "side")
_TIMES: Final = ("ts_event_ns", "ts_recv_ns")
_LEFT_OUT: Final = ("length", "rtype", "reserved", "levels", "conditions", "n_conditions")
_EXCHANGES: Final = ("exchange", "bid_exch", "ask_exch")


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
        records = self.records
        columns: dict[str, Any] = {"stream_seq": np.ma.array(self.seqs)}
        columns["source"] = np.ma.array(np.full(len(records), self.source.value))
        ids, rows = np.unique(records["instrument_id"], return_inverse=True)
        symbols = np.array([symbol_of(self.symbols, number) for number in ids.tolist()])
        columns["symbol"] = np.ma.array(symbols[rows])
        for name in records.dtype.names or ():
            if name not in _LEFT_OUT:
                columns[name] = _masked(name, records[name], self.event_type)
        if "conditions" in (records.dtype.names or ()):
            columns["conditions"] = np.ma.array(
                records["conditions"],
                mask=np.arange(records["conditions"].shape[1]) >= records["n_conditions"][:, None],
            )
        if "levels" in (records.dtype.names or ()):
            for level in range(LEVELS):
                for name in records["levels"].dtype.names or ():
                    values = records["levels"][name][:, level]
                    columns[f"{name}_{level:02}"] = _masked(name, values, self.event_type)
        return columns

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table``: times as UTC timestamps, unknown as null, prices int 1e-9.

        Raises ConfigurationError where pyarrow is not installed, as the others do for theirs.
        """
        pa = _imported("pyarrow")
        columns = {}
        for name, values in self.columns().items():
            mask = np.ma.getmaskarray(values)
            if name in _TIMES:
                times = values.filled(0).astype(np.int64)
                columns[name] = pa.array(times, pa.timestamp("ns", "UTC"), mask=mask)
            elif values.ndim > 1:
                # Conditions: a list a record, as long as it has some.
                rows = [
                    row[~hidden].tolist() for row, hidden in zip(values.data, mask, strict=True)
                ]
                columns[name] = pa.array(rows, pa.list_(pa.uint16()))
            else:
                columns[name] = pa.array(np.ascontiguousarray(values.data), mask=mask)
        return pa.table(columns)

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` of the columns of `to_arrow`; integers stay integers."""
        pandas = _imported("pandas")
        # pandas' own types make doubles of integers with nulls, and prices would lose digits.
        return self.to_arrow().to_pandas(types_mapper=pandas.ArrowDtype)

    def to_polars(self) -> Any:
        """Return a ``polars.DataFrame`` of the columns of `to_arrow`."""
        return _imported("polars").from_arrow(self.to_arrow())

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
    found = read_rows(frames)
    all_seqs = np.array(seqs, np.int64)
    batches = [
        Batch(rows.event_type, rows.records, rows.symbols, rows.source, all_seqs[rows.messages])
        for rows in found.rows
    ]
    bad = [bad_message(frames[index][0], seqs[index], error) for index, error in found.bad]
    groups: dict[tuple[bytes, bytes], _Packed] = {}
    for index in found.packed:
        subject, _, payload = frames[index]
        try:
            opening, rows_of_message = take_apart(payload)
            # Equal openings have equal symbol tables: rows are joined without renumbering them.
            group = groups.get((subject, opening))
            if group is None:
                group = groups[subject, opening] = _Packed(subject, opening)
            group.add(rows_of_message, seqs[index])
        except BadDataError as error:
            bad.append(bad_message(subject, seqs[index], error))
    for group in groups.values():
        batches += group.batches(bad)
    return batches, bad


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
            # Rare, so only now each message is looked at alone.
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


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"this needs {name}: pip install 'ingestor[tables]' ({error})"
        ) from error


def _masked(name: str, values: npt.NDArray[Any], kind: EventType) -> Any:
    # One byte each, viewed as text: no Python string a row.
    if name in _LETTERS:
        return np.ma.array(np.ascontiguousarray(values).view("S1").astype("U1"), mask=values == 0)
    if name.endswith("_e9"):
        return np.ma.array(values, mask=values == UNDEF_PRICE)
    if name in _EXCHANGES:
        return np.ma.array(values, mask=values == UNDEF_EXCHANGE)
    if name == "sequence" and kind.rtype not in (RType.FUTURES_TRADE, RType.MBP10):
        return np.ma.array(values, mask=values == np.uint64(UNDEF_SEQUENCE))
    return np.ma.array(values)
