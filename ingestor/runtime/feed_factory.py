"""Live feeds: whose they are, how each is made of the configuration, and what runs its process.

A feed's process has one connection to the vendor, on a uvloop event loop. The loop drains the
socket and nothing else: what a full ring does not take waits in the feed's own backlog, and is
dropped and told of where that is full too; the ring is never waited for.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import numpy as np
import uvloop

from ingestor.config.schema import Config, LiveFeedName, Polygon
from ingestor.feeds.polygon.commands import channel_names
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.feed import FeedSettings, PolygonFeed
from ingestor.feeds.polygon.hours import OPTIONS, STOCKS_EXTENDED, MarketHours, TradingHours
from ingestor.feeds.polygon.option_follower import FollowedStrikes, ReferencePrice
from ingestor.feeds.polygon.sink import FeedStats, FrameLog, Sink
from ingestor.feeds.polygon.socket import SocketLimits
from ingestor.feeds.polygon.spill_queue import BacklogLimits
from ingestor.feeds.polygon.spool import MakeSpool, Spool, StoredEnd, left_in
from ingestor.feeds.polygon.strikes import Focus, StrikeManager, StrikePlan, option_root
from ingestor.journal.format import Market
from ingestor.journal.recorder import JournalCounts, JournalRecorder
from ingestor.model.blocks import Block, Source
from ingestor.model.clock import now_ns
from ingestor.model.errors import ConfigurationError, VendorRefusedError
from ingestor.model.feed_status import FeedStatus
from ingestor.model.records import OPTION_TRADE, RType
from ingestor.model.symbols import STRIKE_E9_PER_UNIT, parse_option_ticker
from ingestor.model.units import NS_PER_S, PRICE_SCALE
from ingestor.ring.kept import KeptRows, KeptStatuses
from ingestor.runtime.counters import MAX_LAST_TRADES, Counter, CounterRow, CounterTable, LastTrade
from ingestor.runtime.feed_process import FeedContext, FeedMain, RingWriter
from ingestor.runtime.latency import Hop
from ingestor.runtime.positions import FeedPosition
from ingestor.runtime.reload import LiveSettings
from ingestor.sim.polygon.simulator_process import SimulatorProcess

END_TIMEOUT_S: Final = 0.5
"""How long the end of a feed may wait for room in its ring; the supervisor sees it end anyway."""
END_PAUSE_S: Final = 0.001
"""Pause before a ring is looked at again meanwhile."""

MAX_NOTED_BLOCKS: Final = 1_024
"""Blocks of trades between two signs of life that the page hears of; of more, the last ones."""

DEMO_RATES: Final = ("--rate", "1000", "--options-rate", "200")
"""Events a second: a lively market."""
DEMO_KEY: Final = "demo"

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


class LiveFeed(Protocol):
    """What a live feed process runs: a connection that hands its results to a sink."""

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Run until `stopping` turns true. Raises VendorRefusedError."""
        ...


MakeFeed = Callable[[Sink, FrameLog | None, FeedContext], LiveFeed]
"""Makes a feed inside its process."""


class Journal(FrameLog, Protocol):
    """Records frames, and counts those that it did not take."""

    counts: JournalCounts

    @property
    def failure(self) -> str | None:
        """Why nothing is written just now, None while it is."""
        ...


class RingSink(RingWriter):
    """A live feed's sink: its ring, which takes blocks and statuses, and its row of counters.

    What the ring has taken is kept until the publisher has told that it is stored. One that was
    started again gets all that is not stored once more, before anything new.
    """

    def __init__(self, context: FeedContext, journal: Journal | None = None) -> None:
        super().__init__(context, stamps=True)
        self._context = context
        self._journal = journal
        self._rows = KeptRows()
        self._statuses = KeptStatuses()
        self._last: Block | None = None
        latencies = context.table.latencies
        self._to_receive = latencies.recorder(context.index, Hop.VENDOR_TO_RECEIVE)
        self._to_ring = latencies.recorder(context.index, Hop.RECEIVE_TO_RING)
        self._last_trades = LastTrades(context.table)

    def put(self, block: Block, timeout_s: float = 0.0) -> bool:
        """Put a block, and keep it until it is stored; False when that is too much, or full."""
        if self._rows.full:
            self._forget_stored()
        if not self._caught_up() or self._rows.full or not super().put(block, timeout_s):
            return False
        self._rows.add(block.records)
        self._last = block
        self._note(block)
        return True

    def tell(self, status: FeedStatus, timeout_s: float = 0.0) -> bool:
        """Put a status, and keep it until it is settled; False when that is too much, or full."""
        if self._statuses.full:
            self._forget_stored()
        if not self._caught_up() or self._statuses.full or not super().tell(status, timeout_s):
            return False
        self._statuses.add(status)
        return True

    def beat(self) -> None:
        """Give a sign of life, and go on handing on again what another publisher needs."""
        super().beat()
        self._forget_stored()
        self._caught_up()

    def end(self, timeout_s: float = 0.0) -> bool:
        """Say that nothing more comes; False when the ring is still full."""
        deadline_s = time.monotonic() + timeout_s
        while not self._caught_up() and time.monotonic() < deadline_s:
            time.sleep(END_PAUSE_S)
        if behind := self._rows.behind:
            self._row.add(Counter.UNDELIVERED, behind)
        return super().end(timeout_s)

    def _note(self, block: Block) -> None:
        """Count how long its records have taken, and show what was traded last."""
        event_ns, recv_ns = block.records["ts_event_ns"], block.records["ts_recv_ns"]
        self._to_receive.add_each((recv_ns - event_ns).view(np.int64))
        # A block comes from one read, so its first record tells when all were received; of what
        # has waited in the backlog it is the oldest.
        self._to_ring.add(now_ns() - int(recv_ns[0]), len(block.records))
        if block.records.dtype == OPTION_TRADE:
            self._last_trades.note(block)

    def _caught_up(self) -> bool:
        """Hand on again what another publisher needs; whether it has all of it."""
        if self._ring.renewed:
            stored = self._stored()
            rows, statuses = self._rows.rewind(stored.stored), self._statuses.rewind(stored.told)
            self._begin_again(rows, statuses)
        while (status := self._statuses.again()) is not None:
            if not super().tell(status):
                return False
            self._statuses.advance()
        while (records := self._rows.again()) is not None and self._last is not None:
            if not self._put_block(replace(self._last, records=records), 0.0):
                return False
            self._rows.advance(len(records))
        return True

    def _forget_stored(self) -> None:
        stored = self._stored()
        self._rows.forget(stored.stored)
        self._statuses.forget(stored.told)

    def _stored(self) -> FeedPosition:
        """Return how much of this process is stored."""
        position = self._context.table.position
        if position is None or self._context.index >= len(position.feeds):
            return FeedPosition()
        mine = position.feeds[self._context.index]
        # The publisher may not have heard yet that this process follows another.
        return mine if mine.process == self._process else FeedPosition()

    def price(self, price_e9: int) -> None:
        """Show the newest reference price to the other processes."""
        self._context.table.reference_price_e9 = price_e9

    def show(self, stats: FeedStats) -> None:
        """Show the totals to the other processes, as a sign of life."""
        self.beat()
        self._to_receive.flush()
        self._to_ring.flush()
        self._last_trades.show()
        _show(stats, self._row)
        self._context.table.note_skipped(self._context.index, stats.skipped)
        self._row.away(not stats.streaming, time.monotonic_ns())
        trouble: str | None = stats.trouble
        if self._journal is not None:
            trouble = trouble or self._journal.failure
            self._row[Counter.UNRECORDED] = self._journal.counts.lost
            self._row[Counter.JOURNAL_BYTES] = self._journal.counts.bytes
        self._context.table.note_trouble(self._context.index, trouble)


class LastTrades:
    """The last trade of each option contract that a feed has seen, for the page to show."""

    def __init__(self, table: CounterTable) -> None:
        self._table = table
        self._trades: dict[int, LastTrade] = {}
        self._blocks: deque[Block] = deque(maxlen=MAX_NOTED_BLOCKS)

    def note(self, block: Block) -> None:
        """Note a block of trades, which is looked at with the next sign of life."""
        self._blocks.append(block)

    def show(self) -> None:
        """Show those nearest to the money to the other processes, if there was any."""
        if not self._blocks:
            return
        while self._blocks:
            self._take(self._blocks.popleft())
        price_e9 = self._table.reference_price_e9 or 0

        def distance_e9(trade: LastTrade) -> int:
            return abs(parse_option_ticker(trade[0]).strike_e9 - price_e9)

        nearest = sorted(self._trades.items(), key=lambda item: distance_e9(item[1]))
        # Strikes follow the price: of a whole day's contracts only those around it are kept.
        self._trades = dict(nearest[:MAX_LAST_TRADES])
        self._table.note_last_trades([*self._trades.values()])

    def _take(self, block: Block) -> None:
        columns = ("instrument_id", "price_e9", "size", "ts_event_ns")
        rows = zip(*(block.records[one].tolist() for one in columns), strict=True)
        for instrument, price_e9, size, ts_event_ns in rows:
            self._trades[instrument] = (block.symbols[instrument], price_e9, size, ts_event_ns)


class LiveProcess:
    """Runs one live feed until the run is to stop, and closes its journal, if it has one."""

    def __init__(self, make_feed: MakeFeed, journal: Journal | None, context: FeedContext) -> None:
        self._context = context
        self._sink = RingSink(context, journal)
        self._journal = journal
        self._feed = make_feed(self._sink, journal, context)

    def run(self) -> None:
        """Run to the end. Raises VendorRefusedError."""
        try:
            # Raises what the vendor refuses; the journal is closed all the same.
            uvloop.run(self._feed.run(lambda: self._context.stopping))
            self._sink.end(END_TIMEOUT_S)
        finally:
            if self._journal is not None:
                self._journal.close()


def live_feed_main(make_feed: MakeFeed, journal: Journal | None) -> FeedMain:
    """Return the main function of a live feed's process."""

    def main(context: FeedContext) -> None:
        if context.again:
            context.table.go_on(context.index)
        LiveProcess(make_feed, journal, context).run()

    return main


def _show(stats: FeedStats, row: CounterRow) -> None:
    row[Counter.FRAMES] = stats.frames
    row[Counter.BYTES_READ] = stats.bytes
    row[Counter.ODDITIES] = sum(stats.oddities.values())
    row[Counter.LATE] = stats.late
    row[Counter.RECONNECTS] = stats.reconnects
    row[Counter.GAPS] = stats.gaps
    row[Counter.DROPPED_TRADES] = stats.dropped_trades
    row[Counter.DROPPED_QUOTES] = stats.dropped_quotes
    row[Counter.HELD] = stats.backlog_rows
    row[Counter.SPOOLED] = stats.spooled_rows
    row[Counter.SPOOL_LAG_NS] = stats.spool_lag_ns
    row[Counter.UNDELIVERED] = stats.undelivered
    row[Counter.ATTEMPTS] = stats.attempts
    row[Counter.SUBSCRIBED] = stats.subscribed
    row[Counter.RECEIVED_NS] = stats.last_recv_ns


@dataclass(frozen=True, slots=True)
class Vendor:
    """Where the feeds are, the key to them, the ``source`` of their events.

    `problem` answers with a sentence when it is known that nothing more will come.
    """

    stocks_url: str
    options_url: str
    api_key: str = field(repr=False)
    source: Source
    problem: Callable[[], str | None] = lambda: None


@contextlib.contextmanager
def real_vendor(polygon: Polygon) -> Iterator[Vendor]:
    """Yield the vendor of the configuration. Raises VendorRefusedError without a key."""
    if polygon.api_key is None:
        raise VendorRefusedError(
            "there is no API key for the live feeds: set POLYGON_API_KEY, or polygon.api_key in a"
            " file that only you can read (--demo needs none)"
        )
    for url in (polygon.stocks_url, polygon.options_url):
        _warn_of_plain_text(url)
    yield Vendor(polygon.stocks_url, polygon.options_url, polygon.api_key, Source.POLYGON_WS)


@contextlib.contextmanager
def demo_vendor() -> Iterator[Vendor]:
    """Run the simulator that comes with this program for as long as the feeds run."""
    with SimulatorProcess("--api-key", DEMO_KEY, *DEMO_RATES) as simulator:
        log.info("demo: the feeds are those of the simulator at %s", simulator.stocks_url)
        yield Vendor(
            simulator.stocks_url,
            simulator.options_url,
            DEMO_KEY,
            Source.SIM,
            simulator.problem,
        )


def _warn_of_plain_text(url: str) -> None:
    address = urlsplit(url)
    if address.scheme == "ws" and address.hostname not in _LOOPBACK:
        log.warning("%s is not encrypted: everybody on the way can read the API key", url)


@dataclass(frozen=True, slots=True)
class LiveFeeds:
    """Makes the feeds of one configuration and one vendor, each inside its process.

    What may change while they run is read in `live`. `ends` are those of what is stored of feeds
    that an earlier run has left a journal of.
    """

    config: Config
    vendor: Vendor
    ends: Mapping[LiveFeedName, Mapping[RType, StoredEnd]] = field(default_factory=dict)
    live: LiveSettings = field(default_factory=LiveSettings)

    def stocks(self, sink: Sink, frame_log: FrameLog | None, context: FeedContext) -> PolygonFeed:
        """Return the feed of trades and quotes, which also follows the price of the underlying."""
        watch = self.live.watch(self.config)
        polygon = watch.config.polygon

        def renamed() -> tuple[str, ...] | None:
            changed, newest = watch.changed(), watch.config.polygon.stocks
            return channel_names(polygon.channels, newest) if changed else None

        return PolygonFeed(
            self._settings("stocks", self.vendor.stocks_url, context, STOCKS_EXTENDED),
            StockDecoder(_late_after_ns(self.config)),
            sink,
            names=channel_names(polygon.channels, polygon.stocks),
            frame_log=frame_log,
            reference=ReferencePrice(self.config.strikes.underlying),
            make_spool=self._spool("stocks", context),
            renamed=renamed,
        )

    def options(self, sink: Sink, frame_log: FrameLog | None, context: FeedContext) -> PolygonFeed:
        """Return the feed of option trades."""
        watch = self.live.watch(self.config)
        strikes = watch.config.strikes
        manager = StrikeManager(strike_plan(watch.config), MarketHours(OPTIONS).trading_days_from)

        def replanned() -> StrikePlan | None:
            before = watch.config.strikes
            changed = watch.changed() and watch.config.strikes != before
            return strike_plan(watch.config) if changed else None

        return PolygonFeed(
            self._settings("options", self.vendor.options_url, context, OPTIONS),
            OptionDecoder((option_root(strikes.underlying),), _late_after_ns(self.config)),
            sink,
            frame_log=frame_log,
            strikes=FollowedStrikes(
                manager=manager,
                price=price_of(lambda: watch.config, context),
                quotes=self.config.polygon.option_quotes,
                replanned=replanned,
            ),
            make_spool=self._spool("options", context),
        )

    def _spool(self, name: LiveFeedName, context: FeedContext) -> MakeSpool | None:
        """Return what makes the spool of a feed, if it has one."""
        directory, ends = self.config.record.dir, self.ends.get(name)
        # How far the process that died has come with it the stream alone knows: the next run asks.
        if directory is None or ends is None or context.again:
            return None
        # Before the first frame of this run is recorded.
        segments = left_in(directory, Market[name.upper()])
        return lambda symbols: Spool(name, segments, ends, symbols)

    def _settings(
        self, name: LiveFeedName, url: str, context: FeedContext, hours: TradingHours
    ) -> FeedSettings:
        polygon = self.config.polygon
        return FeedSettings(
            name=name,
            url=url,
            api_key=self.vendor.api_key,
            index=context.index,
            source=self.vendor.source,
            hours=hours,
            silence_limit_ns=int(polygon.silence_s * NS_PER_S),
            socket=SocketLimits(message_bytes=polygon.max_frame_bytes),
            backlog=BacklogLimits(rows=polygon.backlog_rows, bytes=polygon.backlog_bytes),
            catch_up_per_s=self.config.record.catch_up_per_s,
            drain_s=polygon.drain_s,
        )


def price_of(newest: Callable[[], Config], context: FeedContext) -> Callable[[], int | None]:
    """Return what asks for the newest price of the underlying in 1e-9, None before the first.

    The stocks' feed shows it in the shared memory; where there is none the focus is the price.
    """
    if "stocks" not in newest().polygon.feeds:

        def focus_e9() -> int | None:
            # Asked each time, since it may change while the feed runs.
            focus = strike_plan(newest()).focus
            return focus.strike_e9 if focus else None

        return focus_e9
    table = context.table
    return lambda: table.reference_price_e9


@contextlib.contextmanager
def journals(config: Config) -> Iterator[Mapping[LiveFeedName, JournalRecorder]]:
    """Yield what records each feed; empty when recording is off.

    Raises ConfigurationError for a folder that cannot be recorded into.
    """
    directory = config.record.dir
    opened: dict[LiveFeedName, JournalRecorder] = {}
    with contextlib.ExitStack() as stack:
        if directory is not None:
            for name in dict.fromkeys(config.polygon.feeds):
                journal = contextlib.closing(_journal(config, directory, name))
                opened[name] = stack.enter_context(journal)
        yield opened


def _journal(config: Config, directory: Path, name: LiveFeedName) -> JournalRecorder:
    # The journal keeps the roots beside the frames, so that a replay decodes without this file.
    roots = (option_root(config.strikes.underlying),) if name == "options" else ()
    return JournalRecorder(
        *(directory, name),
        roots=roots,
        late_after_ns=_late_after_ns(config),
        sync_s=config.record.sync_s,
    )


def _late_after_ns(config: Config) -> int:
    return int(config.polygon.late_after_s * NS_PER_S)


def strike_plan(config: Config) -> StrikePlan:
    """Return what contracts to follow. Raises ConfigurationError."""
    strikes = config.strikes
    focus = strikes.focus
    return StrikePlan(
        underlying=strikes.underlying,
        step_e9=_strike_e9("step", strikes.step),
        each_side=strikes.each_side,
        expiries=strikes.expiries,
        expiries_ahead=strikes.expiries_ahead,
        recentre_e9=_strike_e9("recentre", strikes.recentre),
        focus=Focus(_strike_e9("focus", focus), strikes.focus_each_side) if focus else None,
        max_contracts=strikes.max_contracts,
    )


def _strike_e9(name: str, price: float) -> int:
    price_e9 = Decimal(repr(price)) * PRICE_SCALE
    if price_e9 % STRIKE_E9_PER_UNIT:
        raise ConfigurationError(
            f"strikes.{name} = {price} is not allowed: expected a multiple of 0.001"
        )
    return int(price_e9)
