"""A live run: whose feeds it has, where they go, and what must fit together before it starts."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from ingestor.config.schema import Config, LiveFeedName
from ingestor.feeds.polygon.commands import shown
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.spool import left_in
from ingestor.journal.format import Market
from ingestor.merge.ordering import ArrivalMerge
from ingestor.model.errors import ConfigurationError, ExitCode, StreamInUseError
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.feed_factory import (
    Journal,
    LiveFeeds,
    Vendor,
    demo_vendor,
    journals,
    live_feed_main,
    real_vendor,
    strike_plan,
)
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import listening, shown_by
from ingestor.runtime.progress_reporter import LiveProgress
from ingestor.runtime.publisher_factory import (
    checked_options,
    is_watched,
    make_publisher,
    server_of,
    tell_demo,
)
from ingestor.runtime.report import RunReport
from ingestor.runtime.run import FeedPlan, Run
from ingestor.runtime.run_keeper import begin
from ingestor.runtime.run_records import new_record, subjects_of
from ingestor.runtime.standby import wait_for_turn
from ingestor.runtime.stored_ends import Ends, stored_ends

FEED_ORDER: Final[tuple[LiveFeedName, ...]] = ("stocks", "options")
"""Stocks come first: the strikes of the options follow their price."""

MAX_PORT: Final = 65_535

DEMO_S: Final = 15.0
"""How long a demo runs that is not told, and that nobody watches."""


log = logging.getLogger(__name__)


class StreamIngestor:
    """Publishes the live feeds to JetStream, as the configuration says."""

    def __init__(self, config: Config, *, demo: bool = False) -> None:
        self._config = config
        self._demo = demo

    def run(self) -> RunReport:
        """Stream until stopped. Raises IngestorError for what is wrong before anything starts."""
        # Before anything is bound, locked or started: a wrong configuration changes nothing.
        check(self._config)
        # Importing the calendar takes 0.1 to 0.6 s: here it is done before the feeds fork, and one
        # that is started again has it, as a standby has.
        MarketHours(OPTIONS)
        if not self._config.live.standby:
            return self._run()
        while True:
            # Nor while it waits: the run that it is to follow may have the same journal and port.
            over = wait_for_turn(self._config.nats, self._subjects)
            try:
                return self._run(over)
            except StreamInUseError as other:
                log.info("standby: another one was faster: %s", other)

    @property
    def _names(self) -> tuple[LiveFeedName, ...]:
        return tuple(name for name in FEED_ORDER if name in self._config.polygon.feeds)

    @property
    def _subjects(self) -> tuple[str, ...]:
        return subjects_of(self._names)

    def _run(self, over: Mapping[str, int] | None = None) -> RunReport:
        """Stream until stopped, with leases of these revisions taken from whoever holds them."""
        config = self._config
        with (
            demo_vendor() if self._demo else real_vendor(config.polygon) as vendor,
            journals(config) as frame_logs,
            listening(config.metrics, demo=self._demo) as listener,
            server_of(config, demo=self._demo) as server,
        ):
            options = checked_options(config.nats, server.url)
            record = new_record(
                "live",
                config.nats.stream,
                feeds=self._names,
                subjects=self._subjects,
                what={"symbols": list(config.polygon.stocks), "source": vendor.source.value},
            )
            # A demo in a server of its own has nobody to meet there.
            own = self._demo and config.nats.url is None
            demo_s = DEMO_S if self._demo and not is_watched() else None
            if self._demo:
                tell_demo(server.url)
            keeping = None if own else begin(options, record, config.nats, over=over)
            # Only now: whoever wrote before writes no more.
            feeds = self._feeds(vendor, frame_logs, self._unfinished(options, vendor))
            run = Run(
                feeds,
                config,
                publisher=lambda again: make_publisher(
                    config, options, keeping, give_up_after_s=math.inf, again=again
                ),
                merge=ArrivalMerge(len(feeds)),
                progress=LiveProgress,
                live=True,
                run_s=config.live.stop_after_s or demo_s,
                metrics=shown_by(listener, config, options, keeping, live=True, demo=self._demo),
                keeping=keeping,
            )
            run.to_the_end(
                (ExitCode.EMBEDDED_SERVER, server.problem),
                (ExitCode.CHILD_FAILED, vendor.problem),
            )
        return run.report()

    def _unfinished(self, options: ConnectOptions, vendor: Vendor) -> dict[LiveFeedName, Ends]:
        """Return where what is stored of each feed ends that an earlier run has a journal of."""
        directory = self._config.record.dir
        if directory is None:
            return {}
        left = [name for name in self._names if left_in(directory, Market[name.upper()])]
        if not left:
            return {}
        return stored_ends(options, self._config.nats.stream, left, vendor.source)

    def _feeds(
        self,
        vendor: Vendor,
        frame_logs: Mapping[LiveFeedName, Journal],
        ends: Mapping[LiveFeedName, Ends],
    ) -> list[FeedPlan]:
        process = self._config.process
        made = LiveFeeds(self._config, vendor, ends)
        mains = {"stocks": made.stocks, "options": made.options}
        cpus = {"stocks": process.stocks_cpus, "options": process.options_cpus}
        return [
            FeedPlan(
                name,
                live_feed_main(mains[name], frame_logs.get(name)),
                vendor.source,
                cpus[name],
                spooled=name in ends,
            )
            for name in self._names
        ]


def check(config: Config) -> None:
    """Refuse settings that do not go together. Raises ConfigurationError."""
    polygon, strikes = config.polygon, config.strikes
    check_machine(config.process)
    if config.live.standby and not (config.nats.url and config.nats.lease):
        raise ConfigurationError(
            "live.standby = true is not allowed: it needs nats.url, the server of the run that it"
            " is to follow, and nats.lease, by which it knows of it"
        )
    strike_plan(config)
    _check_port("polygon.stocks_url", polygon.stocks_url)
    _check_port("polygon.options_url", polygon.options_url)
    if "options" not in polygon.feeds:
        return
    if "stocks" not in polygon.feeds:
        if strikes.focus is None:
            raise ConfigurationError(
                'polygon.feeds = ["options"] is not allowed: the strikes follow the price in the'
                " stocks feed; add it, or set strikes.focus"
            )
    elif not polygon.follows(strikes.underlying):
        raise ConfigurationError(
            f"strikes.underlying = {strikes.underlying!r} is not allowed: the price that strikes"
            f" follow comes from polygon.symbols, which are {shown(polygon.stocks)}"
        )


def _check_port(key: str, url: str) -> None:
    try:
        _ = urlsplit(url).port
    except ValueError:
        raise ConfigurationError(
            f"{key} = {url!r} is not allowed: the port is no number from 0 to {MAX_PORT}"
        ) from None
