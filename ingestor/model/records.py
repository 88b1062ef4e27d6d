"""Record layouts: one fixed-size little-endian dtype per event type.

Every record opens with the 16-byte header of DBN (`RecordHeader`: length in 4-byte words, rtype,
publisher_id, instrument_id, ts_event), so any record can be told by its ``rtype`` alone, wherever
it lies. The two futures records *are* DBN's `TradeMsg` (48 bytes) and `Mbp10Msg` (368 bytes): the
bytes of a file pass through unchanged, only the field names carry units here. The three live
records use rtypes that DBN leaves free and share one prefix (`LIVE_HEAD`); trades and quotes of
stocks have the same size, so one vendor frame is one array whatever it mixes.

All times are int nanoseconds UTC, all prices integers of 1e-9 with `UNDEF_PRICE` for unknown.
``instrument_id`` is looked up in the symbol table that travels beside the block.

Theory of keys. A record is ordered by its key (``ts_event_ns``, ``ts_recv_ns``, ``sequence``). A
file's own order is the truth, so keys must never decrease along it: a record whose key is smaller
than that of the record before takes that key. Along a feed the key is therefore a running maximum.
The maximum of triples is found without a loop: sort the block once by key, take the running maximum
of the resulting ranks, and read the key of the record that holds it. Blocks already in order (all,
in practice) cost one comparison a record, compiled where there was a compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from importlib import import_module
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from ingestor.model.errors import BadDataError

Records = npt.NDArray[np.void]
"""A 1-d structured array of one of the dtypes below."""

LEVELS: Final = 10
MAX_CONDITIONS: Final = 8
UNDEF_SEQUENCE: Final = 2**64 - 1
UNDEF_EXCHANGE: Final = -1
FLAG_SNAPSHOT: Final = 32


class RType(IntEnum):
    """Record type byte. 0x00 and 0x0A are DBN's (`Mbp0`, `Mbp10`); 0xE0 and up are ours."""

    FUTURES_TRADE = 0x00
    MBP10 = 0x0A
    STOCK_TRADE = 0xE0
    STOCK_QUOTE = 0xE1
    OPTION_TRADE = 0xE2


_HEAD: Final = [
    ("length", "u1"),
    ("rtype", "u1"),
    ("publisher_id", "<u2"),
    ("instrument_id", "<u4"),
    ("ts_event_ns", "<u8"),
]

_DBN_BODY: Final = [
    ("price_e9", "<i8"),
    ("size", "<u4"),
    ("action", "u1"),
    ("side", "u1"),
    ("flags", "u1"),
    ("depth", "u1"),
    ("ts_recv_ns", "<u8"),
    ("ts_in_delta_ns", "<i4"),
    ("sequence", "<u4"),
]

_LIVE: Final = [*_HEAD, ("ts_recv_ns", "<u8"), ("sequence", "<u8")]
_CONDITIONS: Final = [("n_conditions", "u1"), ("conditions", "<u2", (MAX_CONDITIONS,))]

HEAD: Final = np.dtype(_HEAD)
"""DBN `RecordHeader`, 16 bytes."""

LIVE_HEAD: Final = np.dtype(_LIVE)
"""What the three live records share, 32 bytes."""

LEVEL: Final = np.dtype(
    [
        ("bid_px_e9", "<i8"),
        ("ask_px_e9", "<i8"),
        ("bid_sz", "<u4"),
        ("ask_sz", "<u4"),
        ("bid_ct", "<u4"),
        ("ask_ct", "<u4"),
    ]
)
"""DBN `BidAskPair`, 32 bytes."""

FUTURES_TRADE: Final = np.dtype([*_HEAD, *_DBN_BODY])
"""DBN `TradeMsg`, 48 bytes. ``action`` and ``side`` are ASCII codes."""

MBP10: Final = np.dtype([*_HEAD, *_DBN_BODY, ("levels", LEVEL, (LEVELS,))])
"""DBN `Mbp10Msg`, 368 bytes."""

STOCK_TRADE: Final = np.dtype(
    [
        *_LIVE,
        ("price_e9", "<i8"),
        ("size", "<u4"),
        ("exchange", "<i2"),
        ("aggressor", "i1"),
        *_CONDITIONS,
    ]
)
"""64 bytes. ``exchange`` is `UNDEF_EXCHANGE` and ``sequence`` `UNDEF_SEQUENCE` where unknown."""

STOCK_QUOTE: Final = np.dtype(
    [
        *_LIVE,
        ("bid_px_e9", "<i8"),
        ("ask_px_e9", "<i8"),
        ("bid_sz", "<u4"),
        ("ask_sz", "<u4"),
        ("bid_exch", "<i2"),
        ("ask_exch", "<i2"),
        ("reserved", "<u4"),
    ]
)
"""64 bytes. An empty side has price `UNDEF_PRICE`."""

OPTION_TRADE: Final = np.dtype(
    [
        *_LIVE,
        ("price_e9", "<i8"),
        ("opt_bid_e9", "<i8"),
        ("opt_ask_e9", "<i8"),
        ("size", "<u4"),
        ("exchange", "<i2"),
        ("aggressor", "i1"),
        *_CONDITIONS,
    ]
)
"""80 bytes. Underlying, expiry, right and strike are read from the symbol."""


@dataclass(frozen=True, slots=True)
class EventType:
    """One row of the contract's subject table."""

    name: str
    rtype: RType
    subject: str
    schema: str
    dtype: np.dtype[Any]


EVENT_TYPES: Final = (
    EventType(
        "StockTrade", RType.STOCK_TRADE, "market.stocks.trades", "stocks.trades.v1", STOCK_TRADE
    ),
    EventType(
        "StockQuote", RType.STOCK_QUOTE, "market.stocks.quotes", "stocks.quotes.v1", STOCK_QUOTE
    ),
    EventType(
        "OptionTrade",
        RType.OPTION_TRADE,
        "market.options.trades",
        "options.trades.v1",
        OPTION_TRADE,
    ),
    EventType(
        "FuturesTrade",
        RType.FUTURES_TRADE,
        "market.futures.trades",
        "futures.trades.v1",
        FUTURES_TRADE,
    ),
    EventType("MBP10", RType.MBP10, "market.futures.mbp10", "futures.mbp10.v1", MBP10),
)

EVENT_TYPE_BY_RTYPE: Final = {int(kind.rtype): kind for kind in EVENT_TYPES}

_ITEMSIZES: Final = [kind.dtype.itemsize for kind in EVENT_TYPES]

SOLE_RTYPE: Final = {
    kind.dtype.itemsize: int(kind.rtype)
    for kind in EVENT_TYPES
    if _ITEMSIZES.count(kind.dtype.itemsize) == 1
}
"""Itemsize to rtype, for the sizes that tell it: trades and quotes of stocks share theirs."""


def as_bytes_matrix(records: Records) -> npt.NDArray[np.uint8]:
    """View contiguous records as shape (n, itemsize) uint8, without copying."""
    return records.view(np.uint8).reshape(len(records), records.dtype.itemsize)


def joined(parts: Sequence[Records]) -> Records:
    """Return arrays of one dtype, at least one, as one read-only array.

    By way of their bytes: NumPy's own concatenation compares structured dtypes field by field in
    Python, again for each part, which takes longer than decoding a short frame.
    """
    return np.frombuffer(b"".join(part.data for part in parts), parts[0].dtype)


def split_by_rtype(records: Records) -> Iterator[tuple[EventType, Records]]:
    """Yield the stretches of one event type, in order, viewed as that type's dtype.

    Raises `BadDataError` for an rtype that is none of ours, or one of another itemsize.
    """
    if not len(records):
        return
    rtypes = records["rtype"]
    # Stretches, not types: the order within a frame stays.
    cuts = np.flatnonzero(rtypes[1:] != rtypes[:-1]) + 1
    for start, stop in pairwise([0, *cuts.tolist(), len(records)]):
        kind = EVENT_TYPE_BY_RTYPE.get(int(rtypes[start]))
        if kind is None or kind.dtype.itemsize != records.dtype.itemsize:
            raise BadDataError(
                f"no event type has rtype {rtypes[start]:#04x} in {records.dtype.itemsize} bytes"
            )
        yield kind, records[start:stop].view(kind.dtype)


def rtype_counts(records: Records) -> dict[int, int]:
    """Return how many records of each rtype there are."""
    values, counts = np.unique(records["rtype"], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that `narrow` matches, `wide` does.

    In NATS ``*`` stands for one token and ``>`` for one or more at the end.
    """
    wides, narrows = wide.split("."), narrow.split(".")
    for at, word in enumerate(wides):
        if word == ">":
            return at < len(narrows)
        if at >= len(narrows) or narrows[at] == ">" or word not in ("*", narrows[at]):
            return False
    return len(wides) == len(narrows)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both."""
    ones, others = one.split("."), other.split(".")
    for mine, theirs in zip(ones, others, strict=False):
        # It takes whatever the other still has, and the other has at least this token.
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(ones) == len(others)


UInt64s = npt.NDArray[np.uint64]
UInts = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Keys of a block, arrays of unsigned integers and of one length, never decreasing as triples.

    Times are uint64, those of events contiguous; the sequence is as wide as the vendor's.
    """

    ts_event_ns: UInt64s
    ts_recv_ns: UInt64s
    sequence: UInts

    def __len__(self) -> int:
        """Number of records."""
        return len(self.ts_event_ns)

    def at(self, index: int) -> tuple[int, int, int]:
        """Return one key as plain integers."""
        return (
            int(self.ts_event_ns[index]),
            int(self.ts_recv_ns[index]),
            int(self.sequence[index]),
        )


class RunningKey:
    """The running maximum of keys along one file or feed."""

    def __init__(self) -> None:
        self._last: tuple[int, int, int] = (0, 0, 0)

    def follows(self, records: Records) -> bool:
        """Take the next records, at least one, if no key is below the one before it.

        False leaves everything as it was: `advance` then says how many stepped back. Where keys
        themselves are not needed this makes none, so nothing is copied.
        """
        if _key_at(records, 0) < self._last or not rises(records):
            return False
        self._last = _key_at(records, -1)
        return True

    def advance(self, records: Records, *, in_order: bool = False) -> tuple[Keys, int]:
        """Return the keys of the next records, and how many of them stepped back in time.

        Stepping back is judged by the two times; a smaller vendor sequence at equal times
        takes the key before it but is not counted, since the sequence proves no order.
        Keys of records that rise are views of them, but for the event times. Where it is known
        that they rise (`in_order`), only the first is compared, with the last one before it.
        """
        if not len(records):
            return _keys_of(records), 0
        keys, late = _keys_of(records), 0
        # A block in order may still begin before the last of another file of its feed.
        if keys.at(0) < self._last or not (in_order or rises(records)):
            keys, late = self._raised(keys)
        self._last = keys.at(-1)
        return keys, late

    def _raised(self, keys: Keys) -> tuple[Keys, int]:
        # The last key goes in front, so that it holds wherever nothing higher comes.
        event, recv, sequence = (
            np.concatenate(([np.uint64(last)], column.astype(np.uint64)))
            for last, column in zip(
                self._last, (keys.ts_event_ns, keys.ts_recv_ns, keys.sequence), strict=True
            )
        )
        order = np.lexsort((sequence, recv, event))
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        # Of each record, which one up to it has the highest key.
        holder = order[np.maximum.accumulate(rank)]
        before_event, before_recv = event[holder[:-1]], recv[holder[:-1]]
        late = (event[1:] < before_event) | ((event[1:] == before_event) & (recv[1:] < before_recv))
        return Keys(event[holder][1:], recv[holder][1:], sequence[holder][1:]), int(late.sum())


def _keys_of(records: Records) -> Keys:
    # Contiguous, since bisecting, sorting and pacing all read it; 368 bytes apart each is a miss.
    event = np.ascontiguousarray(records["ts_event_ns"])
    return Keys(event, records["ts_recv_ns"], records["sequence"])


def _key_at(records: Records, row: int) -> tuple[int, int, int]:
    one = records[row]
    return int(one["ts_event_ns"]), int(one["ts_recv_ns"]), int(one["sequence"])


def rises_by_columns(records: Records) -> bool:
    """Tell whether the keys of records, at least one, never decrease."""
    event = np.ascontiguousarray(records["ts_event_ns"])
    recv, sequence = records["ts_recv_ns"], records["sequence"]
    if (event[1:] < event[:-1]).any():
        return False
    # Only where times tie are the further columns looked at.
    ties = np.flatnonzero(event[1:] == event[:-1])
    earlier, later = recv[ties], recv[ties + 1]
    if (later < earlier).any():
        return False
    ties = ties[later == earlier]
    return not (sequence[ties + 1] < sequence[ties]).any()


def _fastest() -> Callable[[Records], bool]:
    try:
        return cast("Callable[[Records], bool]", import_module("ingestor.model._keys").rises)
    except ImportError:
        return rises_by_columns


rises: Final = _fastest()
"""As `rises_by_columns`; compiled, where that was built."""
