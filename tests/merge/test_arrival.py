from __future__ import annotations

from ingestor.merge.arrival import in_order_of_arrival
from tests.rows import block, published


def test_blocks_come_out_as_they_arrived_whatever_their_times() -> None:
    late, early = block([(9, 0, 0), (8, 0, 0)], feed=1), block([(1, 0, 0)], feed=0)
    runs = in_order_of_arrival([late, early])
    assert published(runs) == [(1, 0), (1, 1), (0, 0)]
    assert runs.key_ts_ns.tolist() == [9, 8, 1]


def test_empty_blocks_leave_no_run() -> None:
    assert len(in_order_of_arrival([block([]), block([])])) == 0
    assert published(in_order_of_arrival([block([]), block([(1, 0, 0)])])) == [(0, 0)]
