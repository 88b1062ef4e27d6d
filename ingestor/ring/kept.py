"""What a live feed has handed on and may have to hand on again: not known to be stored.

Bounded: a feed whose rows are not stored hands on no more than this, and what comes then waits in
its backlog. Rows and statuses are numbered from 0, the first that the feed's process handed on.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Any, Final

import numpy as np

from ingestor.model.feed_status import FeedStatus
from ingestor.model.records import Records

MAX_KEPT_ROWS: Final = 256 * 1024
MAX_KEPT_BYTES: Final = 16 * 1024 * 1024
"""As much as the backlog that lies behind it, and some seconds of the busiest minute."""

MAX_KEPT_STATUSES: Final = 1_000

BLOCK_ROWS: Final = 1024
"""Rows handed on again at a time."""


class KeptRows:
    """A queue of records of one dtype, out of which any part may be read again."""

    def __init__(self) -> None:
        # One buffer: arrays of a few rows, as live frames bring them, take five times the room.
        self._bytes = bytearray()
        self._dtype: np.dtype[Any] | None = None
        self._first = self._next = 0

    @property
    def _row_bytes(self) -> int:
        return 1 if self._dtype is None else self._dtype.itemsize

    @property
    def end(self) -> int:
        """Number of the row that is handed on next for the first time."""
        return self._first + len(self._bytes) // self._row_bytes

    @property
    def behind(self) -> int:
        """How many rows are to be handed on again."""
        return self.end - self._next

    @property
    def full(self) -> bool:
        """Whether no more can be kept; one block may go beyond."""
        return len(self._bytes) >= min(MAX_KEPT_BYTES, MAX_KEPT_ROWS * self._row_bytes)

    def add(self, records: Records) -> None:
        """Keep records that were just handed on."""
        self._dtype = records.dtype
        self._bytes += records.tobytes()
        self._next = self.end

    def forget(self, row: int) -> None:
        """Forget what comes before a row: it is stored."""
        rows = min(row, self._next) - self._first
        if rows > 0:
            # Cutting off the front of a bytearray moves nothing.
            del self._bytes[: rows * self._row_bytes]
            self._first += rows

    def rewind(self, row: int) -> int:
        """Hand on again from a row, or from the first one kept; return its number."""
        self._next = max(self._first, min(row, self.end))
        return self._next

    def again(self) -> Records | None:
        """Return the next rows that are to be handed on again; None where there are none."""
        if self._dtype is None or not self.behind:
            return None
        start = (self._next - self._first) * self._row_bytes
        stop = start + min(self.behind, BLOCK_ROWS) * self._row_bytes
        # A copy: the buffer cannot be cut while a view of it is there.
        return np.frombuffer(bytes(self._bytes[start:stop]), self._dtype)

    def advance(self, rows: int) -> None:
        """Note that so many of them were handed on."""
        self._next += rows


class KeptStatuses:
    """The same for what a feed tells about itself."""

    def __init__(self) -> None:
        self._held: deque[FeedStatus] = deque()
        self._first = self._next = 0

    @property
    def full(self) -> bool:
        """Whether no more can be kept."""
        return len(self._held) >= MAX_KEPT_STATUSES

    def add(self, status: FeedStatus) -> None:
        """Keep a status that was just handed on."""
        self._held.append(status)
        self._next += 1

    def forget(self, number: int) -> None:
        """Forget what comes before a number: it is settled."""
        while self._first < min(number, self._next):
            self._held.popleft()
            self._first += 1

    def rewind(self, number: int) -> int:
        """Hand on again from a number, or from the first one kept; return which it is."""
        self._next = max(self._first, min(number, self._first + len(self._held)))
        return self._next

    def again(self) -> FeedStatus | None:
        """Return the next one that is to be handed on again; None where there is none."""
        return next(islice(self._held, self._next - self._first, None), None)

    def advance(self) -> None:
        """Note that it was handed on."""
        self._next += 1
