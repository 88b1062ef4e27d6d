from __future__ import annotations

import numpy as np

from ingestor.feeds.polygon.status_reporter import Gap, GapTracker
from ingestor.model.records import STOCK_TRADE, Records


def records(*times: tuple[int, int]) -> Records:
    rows = np.zeros(len(times), STOCK_TRADE)
    rows["ts_event_ns"] = [event for event, _ in times]
    rows["ts_recv_ns"] = [recv for _, recv in times]
    return rows


def test_a_feed_that_stays_connected_has_no_gap() -> None:
    gaps = GapTracker()
    assert [gaps.on_records(records((time, time + 1))) for time in range(5)] == [None] * 5


def test_a_gap_runs_from_the_last_record_before_to_the_first_one_after() -> None:
    gaps = GapTracker()
    gaps.on_records(records((1, 2), (3, 4)))
    gaps.on_disconnect()
    assert gaps.on_records(records((7, 8), (9, 10))) == Gap(3, 4, 7, 8)
    assert gaps.on_records(records((11, 12))) is None


def test_several_attempts_are_one_gap() -> None:
    gaps = GapTracker()
    gaps.on_records(records((3, 4)))
    gaps.on_disconnect()
    gaps.on_disconnect()
    assert gaps.on_records(records()) is None
    gaps.on_disconnect()
    assert gaps.on_records(records((7, 8))) == Gap(3, 4, 7, 8)


def test_the_first_connection_ends_no_gap() -> None:
    gaps = GapTracker()
    gaps.on_disconnect()
    assert gaps.on_records(records((1, 2))) is None


def test_each_loss_is_its_own_gap() -> None:
    gaps = GapTracker()
    gaps.on_records(records((1, 2)))
    gaps.on_disconnect()
    gaps.on_records(records((3, 4)))
    gaps.on_disconnect()
    assert gaps.on_records(records((5, 6))) == Gap(3, 4, 5, 6)
