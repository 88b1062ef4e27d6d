"""Whole records at the front of a buffer: where they begin, and which are of the kind wanted.

Nearly every file holds records of one type and size, and two bytes of each (length in 4-byte
words, rtype) prove it with one strided comparison: then the bytes *are* the array. A live
capture mixes types; there the lengths are walked one by one, which costs Python time for every
record but less than decompressing it did. The send time that ``ts_out`` files append to each
record is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from ingestor.feeds.databento.control import ControlRType
from ingestor.model.records import HEAD, Records

WORD_BYTES: Final = 4
MAX_RECORD_BYTES: Final = 255 * WORD_BYTES
TS_OUT_BYTES: Final = 8

_IS_CONTROL: Final = np.isin(np.arange(256), list(ControlRType))

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a record looks like in the file: dtype, rtype and bytes from one to the next."""

    dtype: np.dtype[Any]
    rtype: int
    stride: int

    @property
    def words(self) -> int:
        """The record's own length field."""
        return self.stride // WORD_BYTES


@dataclass(frozen=True, slots=True)
class Framed:
    """What a buffer begins with.

    Attributes:
        records: Those of the wanted kind, in the file's order; a view of the buffer or a copy.
        numbers: int64, of each its place among all the records found, from 0.
        found: How many records of any kind there are.
        consumed: Bytes they take.
        others: Cause to places (int64, from 0), of the records left out.
        control: Place and bytes of each record that a gateway puts between the data.
        broken: True when the next record has a length that no record can have.
    """

    records: Records
    numbers: Int64s
    found: int
    consumed: int
    others: Mapping[str, Int64s]
    broken: bool
    control: Sequence[tuple[int, bytes]] = ()


def frame(data: memoryview, layout: Layout) -> Framed:
    """Find whole records in `data`, which begins with one.

    A shorter record of another kind at the very end may be left for the next call; only when
    nothing is found is there nothing whole.
    """
    matrix = np.frombuffer(data, np.uint8)
    count = len(matrix) // layout.stride
    if _is_uniform(matrix, count, layout):
        rows = matrix[: count * layout.stride].reshape(count, layout.stride)
        return Framed(_as_records(rows, layout), np.arange(count), count, rows.size, {}, False)
    return _walk(matrix, layout)


def rtype_cause(rtype: int) -> str:
    """Return the cause under which records of a type are left out."""
    return f"rtype 0x{rtype:02X}"


def _is_uniform(data: Bytes, count: int, layout: Layout) -> bool:
    heads: Any = np.ndarray((count,), "<u2", data, strides=(layout.stride,))
    return bool((heads == (layout.rtype << 8 | layout.words)).all()) and count > 0


def _as_records(rows: Bytes, layout: Layout) -> Records:
    """Rows of `stride` bytes as records; without ``ts_out`` this is a view."""
    if layout.stride == layout.dtype.itemsize:
        return rows.reshape(-1).view(layout.dtype)
    kept = rows[:, : layout.dtype.itemsize].copy()
    kept[:, 0] = layout.dtype.itemsize // WORD_BYTES
    return kept.reshape(-1).view(layout.dtype)


def _walk(data: Bytes, layout: Layout) -> Framed:
    starts, end, broken = _starts(data.tobytes())
    at = np.array(starts, np.int64)
    words, rtypes = data[at], data[at + 1]
    kind = rtypes == layout.rtype
    wanted = kind & (words == layout.words)
    control = _IS_CONTROL[rtypes]
    left_out = set(rtypes[~(kind | control)].tolist())
    others = {rtype_cause(value): rtypes == value for value in left_out}
    others["unexpected record length"] = kind & ~wanted
    return Framed(
        _gathered(data, at[wanted], layout),
        np.flatnonzero(wanted),
        len(starts),
        end,
        {cause: np.flatnonzero(mask) for cause, mask in others.items() if mask.any()},
        broken,
        [
            (place, data[at[place] : at[place] + int(words[place]) * WORD_BYTES].tobytes())
            for place in np.flatnonzero(control).tolist()
        ],
    )


def _starts(data: bytes) -> tuple[list[int], int, bool]:
    """Return where each whole record begins, where the last ends, whether the next is broken."""
    starts: list[int] = []
    at, end = 0, len(data)
    while at < end:
        size = data[at] * WORD_BYTES
        if size < HEAD.itemsize:
            return starts, at, True
        if at + size > end:
            break
        starts.append(at)
        at += size
    return starts, at, False


def _gathered(data: Bytes, at: Int64s, layout: Layout) -> Records:
    if not len(at):
        return np.empty(0, layout.dtype)
    return _as_records(sliding_window_view(data, layout.stride)[at], layout)
