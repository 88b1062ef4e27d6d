"""Records that wait for a full sink: bounded, quotes given up before trades.

Theory. Rows lie in chunks, oldest first. Quotes are given up oldest first, so chunks split into
two queues: `lean`, in front, out of which all quotes are gone already, and `mixed` behind it,
where there may be some. Whatever has to go goes from the first chunk of `mixed`; a chunk that has
lost its last quote moves over to the end of `lean`, and is joined with the chunk there while both
fit into one. Only when `mixed` is used up does a trade go: the oldest, the first of `lean`. Each
chunk is thus looked through once, and the order of what stays is never touched.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ingestor.feeds.polygon.limits import MAX_BLOCK_ROWS, BacklogLimits
from ingestor.model.records import Records, RType, joined

SLACK_SHARE: Final = 64
"""When rows must go, a further 64th of the limit goes too: not every frame is to cost a search."""


@dataclass(slots=True)
class Losses:
    """What was given up in one episode, and the spans of its times, both ends among the lost."""

    trades: int = 0
    quotes: int = 0
    from_event_ns: int = 2**64
    to_event_ns: int = 0
    from_recv_ns: int = 2**64
    to_recv_ns: int = 0

    def add(self, records: Records) -> None:
        """Count records, at least one."""
        quotes = int(np.count_nonzero(_is_quote(records)))
        self.quotes += quotes
        self.trades += len(records) - quotes
        event_ns, recv_ns = records["ts_event_ns"], records["ts_recv_ns"]
        self.from_event_ns = min(self.from_event_ns, int(event_ns.min()))
        self.to_event_ns = max(self.to_event_ns, int(event_ns.max()))
        self.from_recv_ns = min(self.from_recv_ns, int(recv_ns.min()))
        self.to_recv_ns = max(self.to_recv_ns, int(recv_ns.max()))


class Backlog:
    """A queue of records of one dtype, shape (n,), that never holds more than its limits."""

    def __init__(self, dtype: np.dtype[Any], limits: BacklogLimits) -> None:
        self._dtype = dtype
        self._max_rows = min(limits.rows, limits.bytes // dtype.itemsize)
        self._rows = 0
        self._lean: deque[Records] = deque()
        self._mixed: deque[Records] = deque()
        self._newest = bytearray()
        self._losses: Losses | None = None

    def __len__(self) -> int:
        """Number of rows held."""
        return self._rows

    @property
    def losing(self) -> bool:
        """Whether something was given up since `take_losses`."""
        return self._losses is not None

    def add(self, records: Records) -> None:
        """Hold records, and give up what is then too much."""
        self._newest += records.tobytes()
        self._rows += len(records)
        chunk_bytes = MAX_BLOCK_ROWS * self._dtype.itemsize
        while len(self._newest) >= chunk_bytes:
            self._mixed.append(np.frombuffer(self._newest[:chunk_bytes], self._dtype))
            del self._newest[:chunk_bytes]
        if self._rows > self._max_rows:
            self._shrink(self._max_rows - self._max_rows // SLACK_SHARE)

    def first(self) -> Records:
        """Return the oldest records, at most `MAX_BLOCK_ROWS`; none only where none are held."""
        if not self._lean and not self._mixed:
            self._seal()
        oldest = self._lean or self._mixed
        return oldest[0] if oldest else np.empty(0, self._dtype)

    def remove_first(self) -> None:
        """Forget what `first` returns: it was handed on."""
        self._rows -= len(self.first())
        (self._lean or self._mixed).popleft()

    def give_up(self) -> None:
        """Give up everything."""
        self._shrink(0)

    def take_losses(self) -> Losses | None:
        """Return what was given up since the last call."""
        losses, self._losses = self._losses, None
        return losses

    def _shrink(self, rows: int) -> None:
        while (surplus := self._rows - rows) > 0:
            if not self._mixed:
                self._seal()
            if self._mixed:
                self._give_up_quotes(surplus)
            else:
                self._give_up_oldest(surplus)

    def _seal(self) -> None:
        if self._newest:
            self._mixed.append(np.frombuffer(self._newest, self._dtype))
            self._newest = bytearray()

    def _give_up_quotes(self, most: int) -> None:
        """Out of the first chunk that may hold some."""
        chunk = self._mixed.popleft()
        quotes = np.flatnonzero(_is_quote(chunk))
        going = quotes[:most]
        if len(going):
            self._lose(chunk[going])
        kept = np.delete(chunk, going)
        if len(going) < len(quotes):
            self._mixed.appendleft(kept)
        elif len(kept):
            self._append_lean(kept)

    def _append_lean(self, chunk: Records) -> None:
        if self._lean and len(self._lean[-1]) + len(chunk) <= MAX_BLOCK_ROWS:
            chunk = joined((self._lean.pop(), chunk))
        self._lean.append(chunk)

    def _give_up_oldest(self, most: int) -> None:
        chunk = self._lean.popleft()
        self._lose(chunk[:most])
        if most < len(chunk):
            self._lean.appendleft(chunk[most:])

    def _lose(self, records: Records) -> None:
        self._rows -= len(records)
        if self._losses is None:
            self._losses = Losses()
        self._losses.add(records)


def _is_quote(records: Records) -> Any:
    return records["rtype"] == RType.STOCK_QUOTE
