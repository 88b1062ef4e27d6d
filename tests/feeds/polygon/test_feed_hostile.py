"""A feed whose vendor lies, floods and echoes: what comes out, what is told, what is shown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ingestor.encode.reference import payloads
from ingestor.feeds.polygon.decode import StockDecoder
from ingestor.feeds.polygon.feed import FeedSettings, PolygonFeed
from ingestor.feeds.polygon.frames import Skip
from ingestor.feeds.polygon.hours import STOCKS_EXTENDED
from ingestor.feeds.polygon.journal_feed import JournalFeed
from ingestor.feeds.polygon.status_reporter import ALARMS_AT_ONCE, FrameLog
from ingestor.journal.format import Market
from ingestor.journal.recorder import JournalRecorder
from ingestor.model.blocks import whole_block
from ingestor.model.feed_status import What
from tests.feeds.polygon.rig import QUICK, Recorder
from tests.feeds.polygon.wire import frame, quote, trade

KEY = "the0secret0key0of0an0account"
Vendor = Callable[[ServerConnection], Awaitable[None]]


def status(name: str, message: Any = "") -> dict[str, Any]:
    return {"ev": "status", "status": name, "message": message}


async def let_in(connection: ServerConnection) -> None:
    """Greet, take the key, take the subscription, and acknowledge both names."""
    await connection.send(frame(status("connected")).decode())
    await connection.recv()
    await connection.send(frame(status("auth_success")).decode())
    await connection.recv()
    acks = [status("success", f"subscribed to: {name}") for name in ("T.SPY", "Q.SPY")]
    await connection.send(frame(*acks).decode())


def run(vendor: Vendor, frame_log: FrameLog | None = None) -> Recorder:
    """Run a feed until the first connection of this vendor is over."""
    over = asyncio.Event()
    sink = Recorder()

    async def serve_one(connection: ServerConnection) -> None:
        try:
            if not over.is_set():
                await vendor(connection)
                with contextlib.suppress(ConnectionClosed):
                    await (await connection.ping())  # what was sent before has been read
        finally:
            over.set()

    async def both() -> None:
        async with serve(serve_one, "127.0.0.1", 0, max_size=None) as listening:
            port = next(iter(listening.sockets)).getsockname()[1]
            settings = FeedSettings(
                name="stocks",
                url=f"ws://127.0.0.1:{port}/stocks",
                api_key=KEY,
                index=0,
                hours=STOCKS_EXTENDED,
                session=QUICK,
                drain_s=0.2,
            )
            names = ("T.SPY", "Q.SPY")
            feed = PolygonFeed(settings, StockDecoder(), sink, names=names, frame_log=frame_log)
            async with asyncio.timeout(60):
                await feed.run(over.is_set)

    uvloop.run(both())
    return sink


def test_data_before_the_key_and_of_foreign_names_is_counted_told_once_and_not_played_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def vendor(connection: ServerConnection) -> None:
        early = frame(*(trade(sym=f"E{number}") for number in range(1_000)))
        await connection.send(early.decode())
        await connection.send(frame(status("auth_success"), trade(q=1)).decode())
        await let_in(connection)
        await connection.send(frame(trade(q=2), trade(sym="QQQ", q=3), quote(q=4)).decode())
        await connection.send(frame(trade(q=5), {**trade(), "sym": ""}).decode())

    journal = JournalRecorder(tmp_path, "stocks", late_after_ns=10**9)
    sink = run(vendor, journal)
    journal.close()
    assert sink.column("sequence") == [2, 4, 5]
    assert sink.counts.skipped == {
        Skip.BEFORE_SUBSCRIPTION: 1_001,
        Skip.NOT_SUBSCRIBED: 1,
        Skip.SYMBOL: 1,
    }
    told = [each.getMessage() for each in caplog.records if "skipped" in each.getMessage()]
    assert len(told) == 3

    feed = JournalFeed(directory=tmp_path, market=Market.STOCKS, source=sink.blocks[0].source)
    again = [payload for block in feed.blocks() for payload in payloads(whole_block(block))]
    live = [payload for block in sink.blocks for payload in payloads(whole_block(block))]
    assert again == live
    assert feed.progress.skipped == sink.counts.skipped
    assert feed.progress.frames == sink.counts.frames


def test_a_hundred_thousand_errors_are_a_few_lines_and_statuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def vendor(connection: ServerConnection) -> None:
        await let_in(connection)
        for part in range(10):
            errors = [status("error", f"no {part} {number}") for number in range(10_000)]
            await connection.send(frame(*errors).decode())
        await connection.send(frame(trade(q=1)).decode())

    sink = run(vendor)
    assert sink.column("sequence") == [1]
    assert sink.counts.alarms == 100_000
    assert len(sink.told(What.ALARM)) <= ALARMS_AT_ONCE + 10
    sums = [int(text.split()[0]) for text in sink.alarms() if "more like this" in text]
    assert sum(sums) + len(sink.alarms()) - len(sums) == 100_000
    assert len(caplog.records) < ALARMS_AT_ONCE + 20


@pytest.mark.parametrize("name", ["error", "new", f"odd {KEY}", "max_connections", "auth_timeout"])
def test_the_key_and_control_characters_are_never_shown(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "ingestor")

    async def vendor(connection: ServerConnection) -> None:
        await let_in(connection)
        text = f"who is {KEY}?\nERROR forged line \x1b[2J \u202e" + "x" * 100_000 + KEY
        await connection.send(frame(status(name, text), {"ev": KEY, "sym": KEY}).decode())
        await connection.send(frame({**trade(), "p": "x" * 170 + KEY}, trade(q=1)).decode())
        await connection.send(frame(trade(q=2)).decode())
        await connection.close(1008, f"no place for {KEY}\n\x1b")

    sink = run(vendor)
    shown = [each.getMessage() for each in caplog.records] + [each.text for each in sink.statuses]
    assert any("(hidden)" in text for text in shown)
    assert all(KEY[:6] not in text and len(text) < 1_200 for text in shown)
    assert all(text.isprintable() for text in shown)


def test_a_frame_of_nothing_is_taken_with_signs_of_life_and_the_next_one_counts() -> None:
    async def vendor(connection: ServerConnection) -> None:
        await let_in(connection)
        nothing = ",".join(["1"] * 4_000_000)
        await connection.send(f"[{nothing}]")
        await connection.send(frame(trade(q=1)).decode())

    sink = run(vendor)
    assert sink.column("sequence") == [1]
    assert sink.counts.skipped == {Skip.NOT_AN_EVENT: 4_000_000}
    during = [counts.frames for counts in sink.beats if sum(counts.skipped.values()) > 0]
    assert len(during) > 3
