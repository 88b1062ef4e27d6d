"""A wall clock that is set while a feed streams, by seconds and hours, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingestor.feeds.polygon.journal_feed import JournalFeed
from ingestor.journal.format import Market
from ingestor.journal.recorder import JournalRecorder
from ingestor.model.feed_status import What
from ingestor.model.units import NS_PER_MS, NS_PER_S
from tests.feeds.polygon.rig import WORKDAY, Rig, clock_from, drive
from tests.sim.polygon.conftest import Start

STEPS_S = (5, -5, 3_600, -3_600)


class Clock:
    """Shows the noon of a working day, until it is set."""

    def __init__(self) -> None:
        self._clock = clock_from(WORKDAY)
        self.ahead_ns = 0

    def __call__(self) -> int:
        return self._clock() + self.ahead_ns


def in_the_market(clock: Clock) -> dict[str, Any]:
    return {"clock": clock, "silence_limit_ns": 500 * NS_PER_MS}


@pytest.mark.parametrize("step_s", STEPS_S)
def test_a_feed_that_streams_is_not_cut(start: Start, step_s: int) -> None:
    clock = Clock()

    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        clock.ahead_ns += step_s * NS_PER_S
        await rig.until_rows(10)
        for _ in range(3):
            await rig.until_beat()

    sink = drive(start(), scenario, **in_the_market(clock))
    assert (sink.counts.reconnects, sink.counts.silences, sink.counts.gaps) == (0, 0, 0)


@pytest.mark.parametrize("step_s", STEPS_S)
def test_a_feed_that_is_silent_is_noticed(start: Start, step_s: int) -> None:
    clock = Clock()

    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("half_open")
        for _ in range(2):  # what was on its way has come in
            await rig.until_beat()
        clock.ahead_ns += step_s * NS_PER_S
        await rig.until_told(What.SILENCE)
        await rig.until_told(What.GAP)

    sink = drive(start(), scenario, **in_the_market(clock))
    (silence,), (gap,) = sink.told(What.SILENCE), sink.told(What.GAP)
    assert silence.text.startswith("no data for 0.")
    assert silence.to_recv_ns is not None
    assert silence.from_recv_ns is not None
    assert 0 < silence.to_recv_ns - silence.from_recv_ns < 5 * NS_PER_S
    assert ("set back" in gap.text) == (step_s < 0)
    assert "for -" not in gap.text


@pytest.mark.parametrize("step_s", [5, -3_600])
def test_what_is_recorded_is_read_back_whole_and_in_order(
    start: Start, step_s: int, tmp_path: Path
) -> None:
    clock = Clock()
    journal = JournalRecorder(tmp_path, "stocks", roots=(), late_after_ns=NS_PER_S)

    async def scenario(rig: Rig) -> None:
        await rig.until_rows(50)
        clock.ahead_ns += step_s * NS_PER_S
        await rig.until_rows(50)

    sink = drive(start(), scenario, frame_log=journal, **in_the_market(clock))
    journal.close()
    played = JournalFeed(directory=tmp_path, market=Market.STOCKS)
    read = np.concatenate([block.records.copy() for block in played.blocks()])
    assert read["ts_recv_ns"].tolist() == sink.column("ts_recv_ns")
    assert read["sequence"].tolist() == sink.column("sequence")
