from __future__ import annotations

import time

from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.progress import ReplayProgress, Snapshot
from ingestor.units import NS_PER_S


def test_a_snapshot_reads_as_one_line() -> None:
    snapshot = Snapshot(1_234_567, 98_765.4, 1_703_548_800 * NS_PER_S, 120.0, 0.5, 3_725)
    assert snapshot.sentence() == (
        "1,234,567 events, 98,765/s, at 2023-12-26T00:00:00Z, x120, 50% done, 1:02:05 left"
    )


def test_before_the_first_event_no_time_is_told() -> None:
    assert Snapshot(0, 0.0, 0, 0.0, 0.0, None).sentence() == "0 events, 0/s, 0% done"


def test_rate_speed_share_and_time_left_come_from_the_counters() -> None:
    table = CounterTable(2)
    feed, publisher = table.row(0), table.row(1)
    progress = ReplayProgress([feed], publisher)
    started_ns = time.monotonic_ns()
    publisher[Counter.EVENT_TIME_NS] = 1_000 * NS_PER_S
    progress.snapshot(started_ns)
    feed[Counter.BYTES_TOTAL], feed[Counter.BYTES_READ] = 400, 200
    feed[Counter.RECORDS] = 8_000
    publisher[Counter.PUBLISHED] = 4_000
    publisher[Counter.EVENT_TIME_NS] = 1_040 * NS_PER_S
    snapshot = progress.snapshot(started_ns + 4 * NS_PER_S)
    assert round(snapshot.rate) == 1_000
    assert round(snapshot.speed) == 10
    assert snapshot.share == 0.25
    assert snapshot.eta_s is not None
    assert round(snapshot.eta_s) == 12
