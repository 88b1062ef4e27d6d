"""Live feeds: whose they are, and how each is made of the configuration."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ingestor.config.schema import Config, LiveFeedName, Polygon
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.feed import FeedSettings, PolygonFeed
from ingestor.feeds.polygon.hours import OPTIONS, STOCKS_EXTENDED, MarketHours, TradingHours
from ingestor.feeds.polygon.option_follower import FollowedStrikes, ReferencePrice
from ingestor.feeds.polygon.relay import MakeSpool, Relay, RowSource, StoredTail
from ingestor.feeds.polygon.socket import SocketLimits
from ingestor.feeds.polygon.spill_queue import BacklogLimits
from ingestor.feeds.polygon.spool import (
    CONTEXT_NS,
    SHORT_CONTEXT_NS,
    Spool,
    left_in,
)
from ingestor.feeds.polygon.status_reporter import FrameLog, Sink
from ingestor.feeds.polygon.strikes import Focus, StrikeManager, StrikePlan, option_root
from ingestor.feeds.polygon.subscriptions import channel_names
from ingestor.journal.format import Market
from ingestor.journal.recorder import JournalRecorder
from ingestor.model.blocks import Source
from ingestor.model.errors import ConfigurationError, VendorRefusedError
from ingestor.model.symbols import STRIKE_E9_PER_UNIT, SymbolTable
from ingestor.model.units import NS_PER_S, PRICE_SCALE
from ingestor.runtime.counters import Counter
from ingestor.runtime.feed_process import FeedContext
from ingestor.runtime.reload import LiveSettings
from ingestor.runtime.resume import Ends, noted_ends
from ingestor.sim.polygon.simulator_process import SimulatorProcess

DEMO_RATES: Final = ("--rate", "1000", "--options-rate", "200")
"""Events a second: a lively market."""
DEMO_KEY: Final = "demo"

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)


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
        address = urlsplit(url)
        if address.scheme == "ws" and address.hostname not in _LOOPBACK:
            log.warning("%s is not encrypted: everybody on the way can read the API key", url)
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


@dataclass(frozen=True, slots=True)
class LiveFeeds:
    """Makes the feeds of one configuration and one vendor, each inside its process.

    What may change while they run is read in `live`. `ends` are those of what is stored of feeds
    that an earlier run has left a journal of; `relays` what a standby has heard while it waited,
    and the last rows that are stored.
    """

    config: Config
    vendor: Vendor
    ends: Mapping[LiveFeedName, Ends] = field(default_factory=dict)
    live: LiveSettings = field(default_factory=LiveSettings)
    relays: Mapping[LiveFeedName, tuple[RowSource, StoredTail]] = field(default_factory=dict)

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
            make_spool=self._before("stocks", context),
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
            make_spool=self._before("options", context),
        )

    def _before(self, name: LiveFeedName, context: FeedContext) -> MakeSpool | None:
        """Return what makes that which goes before all that a feed hears, if there is any."""
        if name not in self.relays:
            return self._spool(name, context)
        rows, tail = self.relays[name]
        # What is stored was then received by another connection, at other times than the journal
        # says: a row may be in both. So nothing of it is read, and a gap is told.
        died_amid = context.again and not rows.is_closed
        if died_amid:
            rows.close()
        make_spool = self._spool(name, context, reads=not died_amid)
        if context.again:
            return make_spool
        return lambda symbols: Relay(name, rows, tail, symbols, make_spool and make_spool(symbols))

    def _spool(
        self, name: LiveFeedName, context: FeedContext, *, reads: bool = True
    ) -> Callable[[SymbolTable], Spool] | None:
        """Return what makes the spool of a feed, if it has one; unless it `reads`, it is empty."""
        directory, ends = self.config.record.dir, self.ends.get(name)
        if directory is None or (ends is None and not context.again):
            return None
        process = context.row[Counter.RESTARTS]

        def where() -> Ends | None:
            # How far the process that died has come the stream alone knows: the publisher asks.
            return noted_ends(context.table, context.index, process) if process else ends

        # Before the first frame of this process is recorded.
        segments = left_in(directory, Market[name.upper()]) if reads else []
        context_ns = SHORT_CONTEXT_NS if process else CONTEXT_NS
        return lambda symbols: Spool(name, segments, where, symbols, context_ns)

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
