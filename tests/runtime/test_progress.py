from __future__ import annotations

import time

from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.progress import ReplayProgress, Snapshot


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


HOUR_NS = 3_600 * NS_PER_S
DAY_NS = 1_765_843_200 * NS_PER_S
"""2025-12-16, midnight UTC."""


class Paced:
    """A paced replay of one file that is read ahead to its middle when an hour of it is out."""

    def __init__(self, speed: float, *, shortens: bool = False) -> None:
        table = CounterTable(2)
        self.feed, self.publisher = table.row(0), table.row(1)
        self.progress = ReplayProgress([self.feed], self.publisher, speed, shortens=shortens)
        self.now_ns = time.monotonic_ns()
        self.publisher[Counter.EVENT_TIME_NS] = DAY_NS
        self.progress.snapshot(self.now_ns)
        self.feed[Counter.BYTES_TOTAL], self.feed[Counter.BYTES_READ] = 400, 200
        self.feed[Counter.EVENT_TIME_NS] = DAY_NS + 2 * HOUR_NS
        self.publisher[Counter.EVENT_TIME_NS] = DAY_NS + HOUR_NS

    def snapshot(self) -> Snapshot:
        return self.progress.snapshot(self.now_ns)


def test_a_paced_replay_is_as_far_as_its_schedule_and_not_as_what_is_read_ahead() -> None:
    paced = Paced(speed=2)
    assert (paced.snapshot().share, paced.snapshot().eta_s) == (0.25, 3 * 3_600 / 2)
    paced.feed[Counter.BYTES_READ] = 400
    assert (paced.snapshot().share, paced.snapshot().eta_s) == (0.5, 3_600 / 2)
    paced.publisher[Counter.EVENT_TIME_NS] = DAY_NS + 2 * HOUR_NS
    assert (paced.snapshot().share, paced.snapshot().eta_s) == (1.0, 0)


def test_a_wait_in_a_hole_is_told_with_its_end_and_is_part_of_the_schedule() -> None:
    paced = Paced(speed=1)
    paced.feed[Counter.BYTES_READ] = 400
    paced.feed[Counter.EVENT_TIME_NS] = DAY_NS + 24 * HOUR_NS
    paced.publisher[Counter.WAITS_FOR_NS] = DAY_NS + 24 * HOUR_NS
    paced.publisher[Counter.WAITS_UNTIL_NS] = paced.now_ns + 12 * HOUR_NS
    snapshot = paced.snapshot()
    assert (snapshot.share, snapshot.eta_s) == (0.5, 12 * 3_600)
    told = "next event in 12 h: 2025-12-17T00:00Z; --max-gap shortens"
    assert snapshot.sentence().endswith(told)
    paced.publisher[Counter.WAITS_UNTIL_NS] = paced.now_ns + NS_PER_S
    assert paced.snapshot().waits is None


def test_where_holes_are_shortened_already_nobody_is_told_how() -> None:
    paced = Paced(speed=1, shortens=True)
    paced.publisher[Counter.WAITS_FOR_NS] = DAY_NS + 2 * HOUR_NS
    paced.publisher[Counter.WAITS_UNTIL_NS] = paced.now_ns + 60 * NS_PER_S
    assert paced.snapshot().waits == "next event in 60 s: 2025-12-16T02:00Z"
