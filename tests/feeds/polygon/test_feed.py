"""A feed against the simulator: streaming, and every way in which it can be interrupted."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pytest

from ingestor.feeds.polygon.decode import StockDecoder
from ingestor.model.blocks import Source
from ingestor.model.errors import VendorRefusedError
from ingestor.model.events import StockQuote, StockTrade
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import RType
from tests.feeds.polygon.rig import BOTH, NoPlace, Rig, drive
from tests.sim.polygon.conftest import Start


def test_trades_and_quotes_of_spy_stream(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: rig.sink.counts.records > 500)
        assert rig.sink.counts.streaming
        assert rig.sink.counts.subscribed == 2

    simulator = start("--count", "600")
    sink = drive(simulator, scenario)
    assert sink.rows_of(RType.STOCK_TRADE) + sink.rows_of(RType.STOCK_QUOTE) == sink.rows
    assert {type(event) for event in sink.events()} == {StockTrade, StockQuote}
    assert {block.feed for block in sink.blocks} == {3}
    assert {block.source for block in sink.blocks} == {Source.SIM}
    assert len({event.aggressor for event in sink.events() if isinstance(event, StockTrade)}) > 1
    (status,) = sink.statuses
    assert (status.feed, status.what) == ("stocks", What.STREAMING)
    assert status.to_event_ns == sink.column("ts_event_ns")[0]
    assert sink.counts.records == sink.rows
    assert sink.counts.last_event_ns == sink.column("ts_event_ns")[-1]


def test_a_stopped_feed_says_goodbye(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)

    caplog.set_level(logging.INFO)
    simulator = start()
    drive(simulator, scenario)
    assert caplog.messages[-1].endswith("/stocks is gone: closed by us: 1000 (OK)")
    stats = simulator.control("stats")["stocks"]
    assert stats["connections"] == []
    assert stats["opened"] == 1


def test_a_stop_while_nobody_listens_is_quick(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        rig.control("refuse", for_s=60)
        rig.control("drop")
        await rig.until(lambda: not rig.sink.counts.streaming)

    sink = drive(start(), scenario)
    assert sink.counts.streaming is False


def test_the_key_is_in_no_log_line(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(10)
        rig.control("drop")
        await rig.until_told(What.GAP)

    caplog.set_level(logging.DEBUG)
    drive(start("--api-key", "s3cret"), scenario, api_key="s3cret")
    assert "connected to ws://" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_refused_key_is_an_alarm_and_ends_the_feed(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        told.append((await rig.until_told(What.ALARM)).text)
        await rig.until(lambda: False)

    told: list[str] = []
    with pytest.raises(VendorRefusedError, match="refuses the API key: authentication failed"):
        drive(start(), scenario, api_key="another")
    assert told == ["the vendor refuses the API key: authentication failed"]


def test_a_plan_without_websocket_access_ends_the_feed(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: False)

    with pytest.raises(VendorRefusedError, match="Your plan doesn't include websocket access"):
        drive(start("--plan", "options-T"), scenario)


def test_a_plan_that_grants_none_of_the_names_ends_the_feed(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: False)

    with pytest.raises(VendorRefusedError, match=r"plan holds none of T\.SPY, Q\.SPY"):
        drive(start("--plan", "stocks-A"), scenario)


class Broken(NoPlace):
    """A frame log that breaks at its third frame."""

    def __init__(self, fault: Exception) -> None:
        self.fault = fault
        self.frames = 0

    def append(self, data: bytes, recv_ns: int, connection: int) -> bool:
        self.frames += 1
        if self.frames == 3:
            raise self.fault
        return True

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Nothing breaks here."""

    def tick(self, now_ns: int) -> None:
        """Nothing to flush."""

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("fault", [RuntimeError("out of paper"), OSError("out of paper")])
def test_a_fault_of_ours_ends_the_feed(start: Start, fault: Exception) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until(lambda: False)

    with pytest.raises(type(fault), match="out of paper"):
        drive(start(), scenario, frame_log=Broken(fault))


class Paper(NoPlace):
    """A frame log that keeps everything."""

    def __init__(self) -> None:
        self.frames: list[tuple[bytes, int, int]] = []
        self.notes: list[tuple[Sequence[str] | None, int]] = []
        self.ticks = 0

    def append(self, data: bytes, recv_ns: int, connection: int) -> bool:
        self.frames.append((data, recv_ns, connection))
        return True

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        self.notes.append((names, connection))

    def tick(self, now_ns: int) -> list[str] | None:
        self.ticks += 1
        return None

    def close(self) -> None:
        """Nothing to close."""


def test_every_frame_is_recorded_as_it_came(start: Start) -> None:
    async def scenario(rig: Rig) -> None:
        await rig.until_rows(50)
        rig.control("drop")
        await rig.until_told(What.GAP)
        await rig.until_rows(50)

    paper = Paper()
    sink = drive(start(), scenario, frame_log=paper)
    assert [number for _, _, number in paper.frames] == sorted(
        number for _, _, number in paper.frames
    )
    assert {number for _, _, number in paper.frames} == {1, 2}
    assert paper.ticks >= 1
    assert len(paper.frames) == sink.counts.frames
    assert sum(len(data) for data, _, _ in paper.frames) == sink.counts.bytes
    assert paper.notes == [(None, 1), (BOTH, 1), (None, 2), (BOTH, 2)]
    decoder = StockDecoder()
    again = [decoder.decode(data, recv_ns).records for data, recv_ns, _ in paper.frames]
    assert np.concatenate(again)["ts_recv_ns"].tolist() == sink.column("ts_recv_ns")
    assert np.concatenate(again)["sequence"].tolist() == sink.column("sequence")


class Torn(Paper):
    """A frame log that tells of trouble at its second tick."""

    def tick(self, now_ns: int) -> list[str] | None:
        super().tick(now_ns)
        return ["the paper was torn"] if self.ticks == 2 else None


def test_what_goes_wrong_with_the_frame_log_is_told_as_an_alarm_within_a_second(
    start: Start,
) -> None:
    told: list[FeedStatus] = []

    async def scenario(rig: Rig) -> None:
        told.append(await rig.until_told(What.ALARM))

    sink = drive(start(), scenario, frame_log=Torn())
    assert told[0].text == "the paper was torn"
    assert sink.counts.alarms == 1
