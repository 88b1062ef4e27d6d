"""A pipeline that does not follow: the socket is drained, and what is lost is told."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from ingestor.feeds.polygon.spill_queue import MAX_BLOCK_ROWS, BacklogLimits
from ingestor.model.events import StockQuote, StockTrade
from ingestor.model.feed_status import What
from ingestor.model.records import RType
from tests.feeds.polygon.rig import Rig, drive
from tests.sim.polygon.conftest import Start

# The simulator cuts a client that is this far behind; half a second of what it sends here.
IMPATIENT = ("--rate", "20000", "--count", "20000", "--buffer-bytes", "1000000")


def test_a_full_sink_never_stops_the_socket_and_quotes_go_first(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sink.full = True
        await rig.until(lambda: rig.sink.counts.records == 20_000)
        assert rig.sink.counts.backlog_rows <= 8_000
        rig.sink.full = False
        await rig.until_told(What.OVERFLOW)

    simulator = start(*IMPATIENT)
    sink = drive(simulator, scenario, backlog=BacklogLimits(rows=8_000))
    stats = simulator.control("stats")["stocks"]
    assert stats["opened"] == 1
    assert sink.rows_of(RType.STOCK_TRADE) == stats["events"]["T"]
    (overflow,) = sink.told(What.OVERFLOW)
    assert overflow.lost_trades == 0
    assert overflow.lost_quotes == stats["events"]["Q"] - sink.rows_of(RType.STOCK_QUOTE) > 0
    assert sink.counts.dropped_quotes == overflow.lost_quotes
    assert overflow.from_recv_ns is not None
    assert overflow.to_recv_ns is not None
    recv_ns = sink.column("ts_recv_ns")
    assert overflow.from_recv_ns < overflow.to_recv_ns < recv_ns[-1]
    for kind in (StockTrade, StockQuote):
        numbers = [event.seq for event in sink.events() if type(event) is kind]
        assert all(sooner < later for sooner, later in pairwise(numbers))  # type: ignore[operator]
    assert all(sooner <= later for sooner, later in pairwise(recv_ns))
    assert {status.what for status in sink.statuses} == {What.STREAMING, What.OVERFLOW}


def test_trades_go_too_when_nothing_else_is_left(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sink.full = True
        await rig.until(lambda: rig.sink.counts.records == 20_000)
        rig.sink.full = False
        await rig.until_told(What.OVERFLOW)

    simulator = start(*IMPATIENT)
    sink = drive(simulator, scenario, backlog=BacklogLimits(rows=1_000))
    events = simulator.control("stats")["stocks"]["events"]
    (overflow,) = sink.told(What.OVERFLOW)
    trades, quotes = sink.rows_of(RType.STOCK_TRADE), sink.rows_of(RType.STOCK_QUOTE)
    assert (overflow.lost_trades, overflow.lost_quotes) == (
        events["T"] - trades,
        events["Q"] - quotes,
    )
    assert overflow.lost_trades
    assert trades + quotes <= 1_000


def test_each_episode_is_told_by_itself(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await overflow(rig)
        await rig.until_told(What.OVERFLOW)
        await overflow(rig)
        await rig.until_told(What.OVERFLOW, times=2)

    async def overflow(rig: Rig) -> None:
        rig.sink.full = True
        enough = rig.sink.counts.records + 1_000
        await rig.until(lambda: rig.sink.counts.records > enough)
        rig.sink.full = False

    simulator = start("--rate", "10000")
    sink = drive(simulator, scenario, backlog=BacklogLimits(rows=100))
    first, second = sink.told(What.OVERFLOW)
    assert first.to_recv_ns is not None
    assert second.from_recv_ns is not None
    assert first.to_recv_ns < second.from_recv_ns
    lost = [(told.lost_trades or 0) + (told.lost_quotes or 0) for told in (first, second)]
    assert sum(lost) == sink.counts.dropped_trades + sink.counts.dropped_quotes
    assert sink.rows + sum(lost) == sink.counts.records


def test_a_full_sink_for_a_moment_costs_nothing(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sink.full = True
        await rig.until(lambda: rig.sink.counts.backlog_rows > 500)
        rig.sink.full = False
        await rig.until(lambda: rig.sink.rows == 5_000)

    sink = drive(start("--rate", "5000", "--count", "5000"), scenario)
    assert [status.what for status in sink.statuses] == [What.STREAMING]
    assert max(len(block.records) for block in sink.blocks) <= MAX_BLOCK_ROWS


def test_what_is_held_at_the_end_is_handed_on_when_there_is_room_in_time(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sink.full = True
        await rig.until(lambda: rig.sink.counts.records == 2_000)
        asyncio.get_running_loop().call_later(0.1, make_room, rig)

    def make_room(rig: Rig) -> None:
        rig.sink.full = False

    sink = drive(start("--count", "2000", "--rate", "4000"), scenario, drain_s=3)
    assert sink.rows == 2_000


def test_what_is_held_at_the_end_is_given_up_when_there_is_no_room(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(rig: Rig) -> None:
        rig.sink.full = True
        await rig.until(lambda: rig.sink.counts.records == 2_000)

    sink = drive(start("--count", "2000", "--rate", "4000"), scenario, drain_s=0.1)
    assert sink.rows == 0
    assert sink.counts.undelivered == 2_000
    assert sink.counts.dropped_trades + sink.counts.dropped_quotes == 0
    assert sink.counts.backlog_rows == 0
    assert "were not handed on before the stop" in caplog.text
