"""What a standby has heard over a connection of its own, handed on before what its feed hears.

A standby with a second key hears the vendor while it waits. When it takes over, the rows that the
run before has not stored are in its memory, and its connection stays until the feed's own, made
with the first key, brings everything.

Theory. Connections of one vendor bring the same rows at different times, and need not bring the
rows of two symbols in one order. Therefore no place in what one has brought says where another
stands, and rows are compared: by symbol and by all that the vendor says of them (`identities`).
Rows that are equal in all of it are real, so they are counted, never merely found. There are two
seams, and each is cut so:

    stored | relayed    the last rows of the stream are read. What the relay has of them is left
                        out; so is what is older than these, since all of it was stored, or was
                        never published by a run that lived.
    relayed | own       the feed's own rows wait until its names have been answered for
                        `OVERLAP_NS`. Then the relay ends, and what it has brought is left out
                        of them, and of what comes within `LINGER_NS`: by then a slower connection
                        has brought it too.

Where it is not certain that a row is stored, it is left out: nothing is ever published twice.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from ingestor.feeds.polygon.spool import IDLE, PIECE_ROWS, Piece, Renamer, Spool
from ingestor.feeds.polygon.status_reporter import FeedGap, GapTracker
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, Records, RType
from ingestor.model.symbols import SymbolTable
from ingestor.model.units import NS_PER_S

OVERLAP_NS: Final = NS_PER_S
"""Both connections are heard for so long: each may be behind the other by less."""

LINGER_NS: Final = NS_PER_S

TAIL_NS: Final = 3 * NS_PER_S
"""Event time before the last row stored in which rows are compared: one connection is never so far
behind another, and a feed's rows are never so far out of the order of their times."""

OF_A_CONNECTION: Final = ("publisher_id", "instrument_id", "ts_recv_ns", "aggressor", "reserved")
OF_A_CONTRACT: Final = ("opt_bid_e9", "opt_ask_e9", "exchange")
"""Fields that are not the vendor's word on a row: set by us, made of what a connection has brought
before, or, of a contract's trade, not stored in JSON."""

log = logging.getLogger(__name__)

Rows = tuple[Records, SymbolTable]


class StoredTail(NamedTuple):
    """The last rows that are stored of a feed: `rows` are those with a time of `since_ns` or later.

    `last` are the times of the very last one: its event and its receipt.
    """

    last: tuple[int, int]
    since_ns: int
    rows: Sequence[Rows]


class RowSource(Protocol):
    """The other connection."""

    @property
    def is_closed(self) -> bool:
        """Whether anybody has called `close`, in whatever process."""
        ...

    def take(self) -> Rows | None:
        """Return rows in the order of that connection, perhaps none; None when it is lost."""
        ...

    def close(self) -> None:
        """Have it end: nothing more is wanted."""
        ...


def identities(records: Records, symbols: SymbolTable) -> list[int]:
    """Return a number for each row that is the same on every connection; 64 bits of a hash.

    Of 300,000 rows on either side two different ones are taken for one once in 10**8 times.
    """
    found = np.zeros(len(records), np.int64)
    for rtype in np.unique(records["rtype"]).tolist():
        places = np.flatnonzero(records["rtype"] == rtype)
        mine = records[places].view(EVENT_TYPE_BY_RTYPE[rtype].dtype)
        names = [symbols[number] for number in mine["instrument_id"].tolist()]
        for field in (*OF_A_CONNECTION, *(OF_A_CONTRACT if rtype == RType.OPTION_TRADE else ())):
            if field in (mine.dtype.names or ()):
                mine[field] = 0
        data, size = mine.tobytes(), mine.itemsize
        found[places] = [
            hash((name, data[at : at + size]))
            for name, at in zip(names, range(0, len(data), size), strict=True)
        ]
    return found.tolist()


class SeenRows:
    """Counts rows, and leaves out of others as many as it has of each."""

    def __init__(self) -> None:
        self._left: Counter[int] = Counter()

    def add(self, records: Records, symbols: SymbolTable) -> None:
        """Count rows."""
        self._left.update(identities(records, symbols))

    def rest(self, records: Records, symbols: SymbolTable) -> Records:
        """Return what was not seen; a row that was is left out once for each time."""
        new = np.ones(len(records), bool)
        for place, identity in enumerate(identities(records, symbols)):
            if self._left[identity] > 0:
                self._left[identity] -= 1
                new[place] = False
        return records[new]


class Relay:
    """Reads what another connection has, without what is stored, until the feed's own has all.

    Attributes:
        rows: How many rows were handed on.
    """

    def __init__(
        self,
        feed: str,
        source: RowSource,
        tail: StoredTail,
        symbols: SymbolTable,
        spool: Spool | None = None,
    ) -> None:
        """`symbols` is the table of the live feed: names are added to it under ids of their own.

        `spool` is read instead where the other connection began after the last row stored.
        """
        self._feed = feed
        self._source = source
        self._tail = tail
        self._renamer = Renamer(symbols)
        self._spool = spool
        self._before: Spool | None = None
        self._stored, self._seen = SeenRows(), SeenRows()
        self._gaps = GapTracker(tail.last)
        self._gaps.on_disconnect()
        self._now_ns = 0
        self._whole_ns: int | None = None
        self._whole_recv_ns = self._last_recv_ns = 0
        self._over_ns: int | None = None
        self._is_stopped = False
        self.rows = 0

    def on_own(self, *, is_whole: bool, now_ns: int, recv_ns: int) -> None:
        """Hear, some ten times a second, whether the feed's own connection brings all it is to.

        `now_ns` is by a clock that cannot be set, `recv_ns` by that of receipts.
        """
        self._now_ns = now_ns
        if not is_whole:
            self._whole_ns = None
        elif self._whole_ns is None:
            self._whole_ns, self._whole_recv_ns = now_ns, recv_ns

    def stop(self) -> None:
        """Hear that the feed's own connection is closed for good: what has come is all there is."""
        self._is_stopped = True

    def pieces(self) -> Iterator[Piece]:
        """Yield what is not stored, in order, and `IDLE` where more is to come."""
        rows = yield from self._next()
        reaches_back = rows is not None and int(rows[0]["ts_event_ns"][0]) <= self._tail.last[0]
        if self._spool is not None and not reaches_back:
            self._source.close()
            self._before = self._spool
            yield from self._spool.pieces()
            return
        if reaches_back:
            self._gaps = GapTracker(self._tail.last)
        for stored in self._tail.rows:
            self._stored.add(*stored)
            # The feed's own rows may have begun before the last one that is stored.
            self._seen.add(*stored)
        while rows is not None:
            yield from self._new(*rows)
            rows = yield from self._next()
        self._over_ns = self._now_ns
        log.warning(
            "%s: %s events that were not stored are published from the standby's connection",
            *(self._feed, f"{self.rows:,}"),
        )

    @property
    def is_done(self) -> bool:
        """Whether nothing that the feed hears can be among what was handed on, or compared."""
        if self._before is not None:
            return True
        return self._over_ns is not None and self._now_ns >= self._over_ns + LINGER_NS

    def own(self, records: Records, symbols: SymbolTable) -> Records:
        """Return what of the feed's own rows was not handed on; asked once `pieces` have ended.

        Rows that it has returned may be asked for again.
        """
        return records if self._before is not None else self._seen.rest(records, symbols)

    def join(self, records: Records) -> FeedGap | None:
        """Return what is missing between the last row handed on and the feed's first own ones."""
        if self._before is not None:
            return self._before.join(records)
        return self._gaps.on_records(records)

    def _next(self) -> Generator[Piece, None, Rows | None]:
        """Return the next rows; None when no more are to come."""
        # It may be behind by more than the overlap: it ends where there is nothing to be read.
        while (rows := self._source.take()) is not None:
            if len(rows[0]):
                self._last_recv_ns = int(rows[0]["ts_recv_ns"][-1])
                return rows
            is_over = self._whole_ns is not None and self._now_ns >= self._whole_ns + OVERLAP_NS
            if is_over or self._is_stopped:
                break
            yield IDLE
        if rows is None and (self._whole_ns is None or self._last_recv_ns < self._whole_recv_ns):
            self._gaps.on_disconnect()
        self._source.close()
        return None

    def _new(self, records: Records, symbols: SymbolTable) -> Iterator[Piece]:
        records = records[records["ts_event_ns"] >= self._tail.since_ns]
        rest = self._stored.rest(records, symbols)
        self._seen.add(rest, symbols)
        self.rows += len(rest)
        gap = self._gaps.on_records(rest)
        rest = self._renamer.renamed(rest, symbols)
        for first in range(0, len(rest), PIECE_ROWS):
            yield Piece(rest[first : first + PIECE_ROWS], gap)
            gap = None


MakeSpool = Callable[[SymbolTable], Spool | Relay]
"""Makes what goes before all that a feed hears, given its symbols."""
