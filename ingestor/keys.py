"""Event keys: what a record is ordered by, and how one that steps back in time keeps its place.

The key of a record is (``ts_event_ns``, ``ts_recv_ns``, ``sequence``). A file's own order is the
truth, so keys must never decrease along it: a record whose key is smaller than that of the record
before takes that key. Along a feed the key is therefore a running maximum. The maximum of triples
is found without a loop: sort the block once by key, take the running maximum of the resulting
ranks, and read the key of the record that holds it. Blocks that already rise (all, in practice)
cost one comparison a record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ingestor.records import Records

UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Keys of a block, uint64 arrays of one length, never decreasing as triples."""

    ts_event_ns: UInt64s
    ts_recv_ns: UInt64s
    sequence: UInt64s

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

    def advance(self, records: Records) -> tuple[Keys, int]:
        """Return the keys of the next records, and how many of them stepped back in time.

        Stepping back is judged by the two times; a smaller vendor sequence at equal times
        takes the key before it but is not counted, since the sequence proves no order.
        """
        event, recv, sequence = (
            np.concatenate(([np.uint64(last)], records[name].astype(np.uint64)))
            for last, name in zip(
                self._last, ("ts_event_ns", "ts_recv_ns", "sequence"), strict=True
            )
        )
        late = 0
        if not _rises(event, recv, sequence):
            holder = _running_maximum(event, recv, sequence)
            late = _count_late(event, recv, holder)
            event, recv, sequence = event[holder], recv[holder], sequence[holder]
        keys = Keys(event[1:], recv[1:], sequence[1:])
        if len(keys):
            self._last = keys.at(-1)
        return keys, late


def _rises(event: UInt64s, recv: UInt64s, sequence: UInt64s) -> bool:
    falls = event[1:] < event[:-1]
    ties = event[1:] == event[:-1]
    falls |= ties & (recv[1:] < recv[:-1])
    ties &= recv[1:] == recv[:-1]
    falls |= ties & (sequence[1:] < sequence[:-1])
    return not falls.any()


def _running_maximum(event: UInt64s, recv: UInt64s, sequence: UInt64s) -> npt.NDArray[np.intp]:
    order = np.lexsort((sequence, recv, event))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return order[np.maximum.accumulate(rank)]


def _count_late(event: UInt64s, recv: UInt64s, holder: npt.NDArray[np.intp]) -> int:
    before_event, before_recv = event[holder[:-1]], recv[holder[:-1]]
    late = (event[1:] < before_event) | ((event[1:] == before_event) & (recv[1:] < before_recv))
    return int(late.sum())
