"""The whole tape: more symbols than anybody names one by one."""

from __future__ import annotations

import numpy as np
import pytest

from ingestor.feeds.polygon.session import SessionLimits
from ingestor.feeds.polygon.subscriptions import MAX_NAMES_PER_MESSAGE, channel_names
from ingestor.sim.polygon.stock_tape import symbols_of
from tests.feeds.polygon.rig import Rig, drive
from tests.sim.polygon.conftest import Start

STOCKS = 11_000
RATE = 20_000


@pytest.mark.parametrize("asked", [("*",), symbols_of(STOCKS)], ids=["all", "by name"])
def test_the_whole_tape_streams_and_nothing_is_dropped(
    start: Start, asked: tuple[str, ...]
) -> None:
    names = channel_names(("T", "Q"), asked)

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == len(names))
        await rig.until_rows(3 * RATE)
        messages = rig.history()
        assert max(len(said) for _, said in messages) <= MAX_NAMES_PER_MESSAGE
        assert [name for _, said in messages for name in said] == list(names)

    simulator = start("--stocks", str(STOCKS), "--rate", str(RATE))
    sink = drive(simulator, scenario, names, session=SessionLimits())
    counts, table = sink.counts, sink.blocks[-1].symbols
    seen = np.unique(sink.column("instrument_id"))
    assert len(seen) > 0.9 * STOCKS
    assert {table[number] for number in seen.tolist()} <= set(symbols_of(STOCKS))
    assert counts.records == sink.rows
    assert (counts.dropped_trades, counts.dropped_quotes, counts.skipped) == (0, 0, {})
    assert (counts.alarms, counts.reconnects) == (0, 0)
