"""What a simulator can let happen to a feed."""

from __future__ import annotations

import json
import logging
import time
from itertools import pairwise
from typing import Any

import pytest

from ingestor.feeds.polygon.frames import Skip
from ingestor.feeds.polygon.session import SessionLimits
from ingestor.model.events import Aggressor, StockTrade
from ingestor.model.feed_status import What
from ingestor.model.records import RType
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon.control_handler import BINARY, ELEMENTS, FRAMES
from tests.feeds.polygon.rig import Rig, drive
from tests.sim.polygon.conftest import Start


def test_after_a_drop_data_flows_within_a_second_and_the_gap_is_told(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(50)
        rig.control("drop")
        await rig.until_told(What.GAP)
        await rig.until_rows(50)

    simulator = start()
    sink = drive(simulator, scenario, session=SessionLimits())
    (gap,) = sink.told(What.GAP)
    event_ns, recv_ns = sink.column("ts_event_ns"), sink.column("ts_recv_ns")
    first_after = recv_ns.index(gap.at_ns)
    assert gap.from_recv_ns == recv_ns[first_after - 1]
    assert (gap.from_event_ns, gap.to_event_ns) == (
        event_ns[first_after - 1],
        event_ns[first_after],
    )
    assert gap.at_ns == gap.to_recv_ns
    assert gap.at_ns - recv_ns[first_after - 1] < NS_PER_S
    assert gap.lost_trades is None
    assert sink.counts.gaps == sink.counts.reconnects == 1
    subscribed = [
        said["params"]
        for said in simulator.control("stats")["stocks"]["history"]
        if said["action"] == "subscribe"
    ]
    assert subscribed == ["T.SPY,Q.SPY"] * 2


@pytest.mark.parametrize("code", [1000, 1001, 1011])
def test_a_close_by_the_server_is_a_reconnection(
    start: Start, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("close", code=code, reason="maintenance")
        await rig.until_told(What.GAP)

    sink = drive(start(), scenario)
    assert sink.counts.reconnects == 1
    assert f"closed by the server: {code}" in caplog.text
    assert "maintenance" in caplog.text


def test_after_a_gap_no_old_quote_decides_an_aggressor(start: Start) -> None:
    quote = {"ev": "Q", "sym": "SPY", "bp": 686.0, "ap": 686.02, "t": 1_790_000_000_000}
    trade = {"ev": "T", "sym": "SPY", "p": 686.02, "s": 100, "t": 1_790_000_000_000}

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        rig.control("send", frame=[quote, trade])
        await rig.until_rows(2)
        rig.control("drop")
        await rig.until(lambda: rig.sink.counts.reconnects == 1)
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        rig.control("send", frame=[trade, quote, trade])
        await rig.until_rows(3)

    sink = drive(start("--rate", "0"), scenario)
    trades = [event for event in sink.events() if isinstance(event, StockTrade)]
    assert [trade.aggressor for trade in trades] == [Aggressor.BUY, Aggressor.MID, Aggressor.BUY]


def test_frames_that_trickle_lose_nothing(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        rig.control("slow", bytes_per_s=20_000)
        await rig.until_rows(50)
        rig.control("slow", bytes_per_s=0)
        await rig.until(lambda: rig.sink.rows >= 400)

    simulator = start("--count", "400", "--rate", "2000", "--quota-delay", "0")
    sink = drive(simulator, scenario)
    assert sink.rows == 400
    assert sink.counts.reconnects == 0
    assert all(sooner <= later for sooner, later in pairwise(sink.column("ts_recv_ns")))


@pytest.mark.parametrize("how", ["port", "http"])
def test_a_server_that_was_away_is_streamed_within_a_second(start: Start, how: str) -> None:
    away_s = 1.0

    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        back.append(time.time() + away_s)
        rig.control("refuse", for_s=away_s, how=how)
        rig.control("drop")
        back.append(time.time() + away_s)
        await rig.until_told(What.GAP)

    back: list[float] = []
    sink = drive(start(), scenario, session=SessionLimits())
    (gap,) = sink.told(What.GAP)
    earliest, latest = back
    assert earliest <= gap.at_ns / NS_PER_S < latest + 1


def test_attempts_that_fail_are_told_with_their_cause_and_not_each_time(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("refuse", for_s=1)
        rig.control("drop")
        await rig.until_told(What.GAP)

    caplog.set_level(logging.INFO)
    drive(start(), scenario)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("cannot connect to ws://" in line for line in lines) == 1
    assert any("onnect" in line and "failed attempts before" in line for line in lines)


def test_duplicates_are_published_as_they_come(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        rig.control("duplicate", n=5)
        rig.control("rate", events_per_s=2_000)
        await rig.until(lambda: rig.sink.rows >= 305)

    simulator = start("--rate", "0", "--count", "300")
    sink = drive(simulator, scenario)
    assert sink.rows == 305
    assert sum(simulator.control("stats")["stocks"]["events"].values()) == 305


def test_late_prints_are_counted_and_say_nothing_about_the_quotes_of_now(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        rig.control("delayed", ms=600_000, n=300)
        rig.control("rate", events_per_s=2_000)
        await rig.until(lambda: rig.sink.rows >= 200)

    sink = drive(start("--rate", "0", "--count", "200"), scenario)
    trades = [event for event in sink.events() if isinstance(event, StockTrade)]
    assert sink.counts.late == len(trades) > 10
    assert {trade.aggressor for trade in trades} == {Aggressor.MID}


@pytest.mark.parametrize("ms", [3_600_000, -3_600_000])
def test_the_vendors_clock_may_jump(start: Start, ms: int) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(50)
        rig.control("clock_jump", ms=ms)
        await rig.until_rows(50)

    sink = drive(start(), scenario)
    event_ns = sink.column("ts_event_ns")
    jump_ms = (event_ns[-1] - event_ns[0]) // NS_PER_MS
    assert abs(jump_ms - ms) < 60_000
    assert [status.what for status in sink.statuses] == [What.STREAMING]


def test_nothing_malformed_costs_a_good_event_or_the_connection(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        for _ in range(2):
            for kind in (*ELEMENTS, *FRAMES, BINARY):
                rig.control("malformed", kind=kind)
        rig.control("rate", events_per_s=2_000)
        await rig.until(lambda: rig.sink.rows >= 502)

    simulator = start("--rate", "0", "--count", "500")
    sink = drive(simulator, scenario)
    readable = 2  # "object" is a frame of one event
    assert sink.rows == 500 + readable
    assert sink.counts.skipped == {
        Skip.PRICE: 4,
        Skip.TIME: 4,
        Skip.FIELD: 2,
        Skip.UNKNOWN_EV: 2,
        Skip.NOT_AN_EVENT: 8,
        Skip.NOT_JSON: 8,
        Skip.NOT_SUBSCRIBED: 2,  # "ticker" makes a sound trade of a symbol nobody asked for
    }
    assert simulator.control("stats")["stocks"]["opened"] == 1
    notices = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(notices) == len(set(notices))


def test_an_element_that_cannot_be_read_costs_only_itself(start: Start) -> None:
    def trade(**fields: Any) -> dict[str, Any]:
        return {"ev": "T", "sym": "SPY", "p": 686.5, "s": 7, "t": 1_790_000_000_000, **fields}

    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.subscribed == 2)
        frame = [trade(q=1), trade(q=2, p="?"), {"ev": "X"}, trade(q=3)]
        rig.control("send", text=json.dumps(frame))
        await rig.until_rows(2)

    sink = drive(start("--rate", "0"), scenario)
    assert sink.column("sequence") == [1, 3]
    assert sink.rows_of(RType.STOCK_TRADE) == 2
    assert sum(sink.counts.skipped.values()) == 2
