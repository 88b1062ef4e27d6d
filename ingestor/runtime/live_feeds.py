"""From configuration to live feeds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from ingestor.config.live import LiveFeedName
from ingestor.config.schema import Config
from ingestor.feeds.polygon.commands import channel_names
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.feed import FeedSettings, PolygonFeed
from ingestor.feeds.polygon.hours import OPTIONS, STOCKS_EXTENDED, MarketHours, TradingHours
from ingestor.feeds.polygon.option_follower import ReferencePrice, Strikes
from ingestor.feeds.polygon.sink import FrameLog, Sink
from ingestor.feeds.polygon.socket import SocketLimits
from ingestor.feeds.polygon.spill_queue import BacklogLimits
from ingestor.feeds.polygon.strikes import Focus, StrikeManager, StrikePlan, option_root
from ingestor.journal.recorder import JournalRecorder
from ingestor.model.errors import ConfigurationError
from ingestor.model.symbols import STRIKE_E9_PER_UNIT
from ingestor.model.units import NS_PER_S, PRICE_SCALE
from ingestor.runtime.counters import Counter
from ingestor.runtime.feed_place import FeedPlace
from ingestor.runtime.live_vendor import Vendor


@dataclass(frozen=True, slots=True)
class LiveFeeds:
    """Makes the feeds of one configuration and one vendor, each inside its process."""

    config: Config
    vendor: Vendor

    def stocks(self, sink: Sink, frame_log: FrameLog | None, place: FeedPlace) -> PolygonFeed:
        """Return the feed of trades and quotes, which also follows the price of the underlying."""
        polygon = self.config.polygon
        return PolygonFeed(
            self._settings("stocks", self.vendor.stocks_url, place, STOCKS_EXTENDED),
            StockDecoder(_late_after_ns(self.config)),
            sink,
            names=channel_names(polygon.channels, polygon.stocks),
            frame_log=frame_log,
            reference=ReferencePrice(self.config.strikes.underlying),
        )

    def options(self, sink: Sink, frame_log: FrameLog | None, place: FeedPlace) -> PolygonFeed:
        """Return the feed of option trades."""
        strikes = self.config.strikes
        manager = StrikeManager(strike_plan(self.config), MarketHours(OPTIONS).trading_days_from)
        return PolygonFeed(
            self._settings("options", self.vendor.options_url, place, OPTIONS),
            OptionDecoder((option_root(strikes.underlying),), _late_after_ns(self.config)),
            sink,
            frame_log=frame_log,
            strikes=Strikes(
                manager=manager,
                price=price_of(self.config, place),
                quotes=self.config.polygon.option_quotes,
            ),
        )

    def _settings(
        self, name: LiveFeedName, url: str, place: FeedPlace, hours: TradingHours
    ) -> FeedSettings:
        polygon = self.config.polygon
        return FeedSettings(
            name=name,
            url=url,
            api_key=self.vendor.api_key,
            index=place.index,
            source=self.vendor.source,
            hours=hours,
            silence_limit_ns=int(polygon.silence_s * NS_PER_S),
            socket=SocketLimits(message_bytes=polygon.max_frame_bytes),
            backlog=BacklogLimits(rows=polygon.backlog_rows, bytes=polygon.backlog_bytes),
            drain_s=polygon.drain_s,
        )


def price_of(config: Config, place: FeedPlace) -> Callable[[], int | None]:
    """Return what asks for the newest price of the underlying in 1e-9, None before the first.

    Feed 0, the stocks, shows it in its counters; where there is none the focus is the price.
    """
    if "stocks" not in config.polygon.feeds:
        focus = strike_plan(config).focus
        return lambda: focus.strike_e9 if focus else None
    stocks = place.table.row(0)
    return lambda: stocks[Counter.REFERENCE_PRICE_E9] or None


@contextlib.contextmanager
def journals(config: Config) -> Iterator[Mapping[LiveFeedName, JournalRecorder]]:
    """Yield what records each feed, nothing where nothing is to be recorded.

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
    roots = (option_root(config.strikes.underlying),) if name == "options" else ()
    return JournalRecorder(directory, name, roots=roots, late_after_ns=_late_after_ns(config))


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
