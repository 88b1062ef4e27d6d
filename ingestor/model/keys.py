"""Event keys: what a record is ordered by, and how one that steps back in time keeps its place.

The key of a record is (``ts_event_ns``, ``ts_recv_ns``, ``sequence``). A file's own order is the
truth, so keys must never decrease along it: a record whose key is smaller than that of the record
before takes that key. Along a feed the key is therefore a running maximum. The maximum of triples
is found without a loop: sort the block once by key, take the running maximum of the resulting
ranks, and read the key of the record that holds it. Blocks already in order (all, in practice)
cost one comparison a record, compiled where there was a compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from ingestor.model.records import Records

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
