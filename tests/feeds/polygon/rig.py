"""Runs a feed against a simulator of its own process, and looks at what comes out."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import uvloop

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.feed import FeedSettings, PolygonFeed
from ingestor.feeds.polygon.hours import STOCKS_EXTENDED
from ingestor.feeds.polygon.option_follower import FollowedStrikes, ReferencePrice
from ingestor.feeds.polygon.session import SessionLimits
from ingestor.feeds.polygon.socket import SocketLimits
from ingestor.feeds.polygon.status_reporter import FeedStats, FrameLog
from ingestor.journal.segments import Place, RunFollower
from ingestor.model.blocks import Block, Source
from ingestor.model.events import Event, events_of
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import Records, RType, rtype_counts
from ingestor.model.units import NS_PER_MS, new_york_ns, now_ns
from ingestor.sim.polygon.server_session import API_KEY
from ingestor.sim.polygon.simulator_process import SimulatorProcess

WAIT_S: Final = 30.0
"""What has not come by then never comes, also on a busy machine."""
QUICK: Final = SessionLimits(
    handshake_ns=400 * NS_PER_MS,
    ack_ns=400 * NS_PER_MS,
    survival_ns=400 * NS_PER_MS,
    cool_down_ns=500 * NS_PER_MS,
    backoff_base_ns=100 * NS_PER_MS,
    unreachable_delay_ns=100 * NS_PER_MS,
)
"""The limits of a session, made short enough to be waited for."""

BOTH: Final = ("T.SPY", "Q.SPY")
WORKDAY: Final = dt.date(2026, 11, 24)
SUNDAY: Final = dt.date(2026, 11, 29)


def clock_from(date: dt.date, wall: dt.time = dt.time(12)) -> Callable[[], int]:
    """A clock that shows this New York time now, and goes on from there."""
    offset_ns = new_york_ns(date, wall) - now_ns()
    return lambda: now_ns() + offset_ns


@dataclass
class Recorder:
    """A sink that keeps everything, and may be told to take nothing."""

    full: bool = False
    blocks: list[Block] = field(default_factory=list)
    statuses: list[FeedStatus] = field(default_factory=list)
    prices: list[int] = field(default_factory=list)
    beats: list[FeedStats] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, block: Block) -> bool:
        self.news.set()
        if not self.full:
            self.blocks.append(block)
        return not self.full

    def tell(self, status: FeedStatus) -> bool:
        self.news.set()
        if not self.full:
            self.statuses.append(status)
        return not self.full

    def price(self, price_e9: int) -> None:
        self.prices.append(price_e9)

    def show(self, stats: FeedStats) -> None:
        self.news.set()
        skipped, oddities = Counter(stats.skipped), Counter(stats.oddities)
        self.beats.append(replace(stats, skipped=skipped, oddities=oddities))

    @property
    def counts(self) -> FeedStats:
        return self.beats[-1] if self.beats else FeedStats()

    @property
    def rows(self) -> int:
        return sum(len(block.records) for block in self.blocks)

    def rows_of(self, rtype: RType) -> int:
        return sum(rtype_counts(block.records).get(rtype, 0) for block in self.blocks)

    def events(self) -> list[Event]:
        return [event for block in self.blocks for event in events_of(block)]

    def column(self, name: str) -> list[int]:
        values: list[int] = np.concatenate([b.records[name] for b in self.blocks]).tolist()
        return values

    def told(self, what: What) -> list[FeedStatus]:
        return [status for status in self.statuses if status.what is what]

    def alarms(self) -> list[str]:
        return [status.text for status in self.told(What.ALARM)]


class NoPlace:
    """What a frame log has to have beyond what is recorded: nothing of it is read back."""

    number = 0
    place: Place | None = None

    def follower(self, place: Place) -> RunFollower:
        raise AssertionError(f"nobody left anything at {place}")

    def flush(self) -> None:
        """Nothing is held."""


class Room:
    """A sink with room for this many blocks and statuses."""

    def __init__(self, blocks: int, statuses: int = 1_000_000) -> None:
        self.room, self.status_room = blocks, statuses
        self.taken: list[Records] = []
        self.statuses: list[FeedStatus] = []

    def put(self, block: Block) -> bool:
        if self.room:
            self.room -= 1
            self.taken.append(block.records)
            return True
        return False

    def tell(self, status: FeedStatus) -> bool:
        if self.status_room:
            self.status_room -= 1
            self.statuses.append(status)
            return True
        return False

    def price(self, price_e9: int) -> None:
        raise AssertionError(f"nobody asked for {price_e9}")

    def show(self, stats: FeedStats) -> None:
        raise AssertionError(f"nobody asked for {stats}")

    @property
    def numbers(self) -> list[int]:
        return [number for records in self.taken for number in records["sequence"].tolist()]


class Rig:
    """A running feed and its simulator."""

    def __init__(self, simulator: SimulatorProcess, market: str) -> None:
        self.simulator = simulator
        self.market = market
        self.sink = Recorder()
        self.stopped = False

    def control(self, do: str, **fields: Any) -> dict[str, Any]:
        return self.simulator.control(do, **fields)

    def stats(self) -> dict[str, Any]:
        return dict(self.control("stats")[self.market])

    def history(self, action: str = "subscribe") -> list[tuple[int, list[str]]]:
        """Connection and names of each message of this kind that the server got."""
        return [
            (said["connection"], said["params"].split(","))
            for said in self.stats()["history"]
            if said["action"] == action
        ]

    async def until(self, condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
        """Wait for what the sink is given to make a condition true."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self.sink.news.clear()
                    await self.sink.news.wait()
        except TimeoutError:
            sink = self.sink
            raise AssertionError(
                f"not within {timeout_s} s: {sink.statuses} {sink.counts}"
            ) from None

    async def until_told(self, what: What, times: int = 1) -> FeedStatus:
        await self.until(lambda: len(self.sink.told(what)) >= times)
        return self.sink.told(what)[times - 1]

    async def until_beat(self) -> None:
        """Wait for the feed's next look around."""
        beats = len(self.sink.beats)
        await self.until(lambda: len(self.sink.beats) > beats)

    async def until_rows(self, more: int = 1) -> None:
        rows = self.sink.rows + more
        await self.until(lambda: self.sink.rows >= rows)


Scenario = Callable[[Rig], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an options feed is set up."""

    strikes: FollowedStrikes | None = None
    roots: Collection[str] = ("SPY",)


def drive(
    simulator: SimulatorProcess,
    scenario: Scenario,
    names: tuple[str, ...] = BOTH,
    *,
    options: Options | None = None,
    frame_log: FrameLog | None = None,
    **settings: Any,
) -> Recorder:
    """Run a feed of stocks or options while a scenario goes on; raise what either raises."""
    market = "stocks" if options is None else "options"
    rig = Rig(simulator, market)
    known: dict[str, Any] = {
        "name": market,
        "url": simulator.stocks_url if options is None else simulator.options_url,
        "api_key": API_KEY,
        "index": 3,
        "source": Source.SIM,
        "hours": STOCKS_EXTENDED,
        "session": QUICK,
        "socket": SocketLimits(close_s=0.3),
        "drain_s": 0.2,
        **settings,
    }
    decoder = StockDecoder() if options is None else OptionDecoder(options.roots)
    feed = PolygonFeed(
        FeedSettings(**known),
        decoder,
        rig.sink,
        names=names,
        frame_log=frame_log,
        reference=ReferencePrice("SPY") if options is None else None,
        strikes=options.strikes if options else None,
    )

    async def both() -> None:
        running = asyncio.create_task(feed.run(lambda: rig.stopped))
        acting = asyncio.ensure_future(scenario(rig))
        await asyncio.wait((running, acting), return_when=asyncio.FIRST_COMPLETED)
        rig.stopped = True
        if not acting.done():
            acting.cancel()
        await running
        if not acting.cancelled():
            await acting

    uvloop.run(both())
    return rig.sink
