"""StreamIngestor: which feeds a live run has, and where they go. Wiring only.

``python -m ingestor.main`` is the command ``bin/ingestor-live``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final
from urllib.parse import urlsplit

from ingestor.config.live import LiveFeedName
from ingestor.config.schema import Config
from ingestor.feeds.polygon.commands import shown
from ingestor.merge.arrival import ArrivalMerge
from ingestor.model.errors import ConfigurationError, ExitCode
from ingestor.runtime.connect import access_of, make_publisher, server_of
from ingestor.runtime.live_feeds import LiveFeeds, journals, strike_plan
from ingestor.runtime.live_process import Journal, streams
from ingestor.runtime.live_progress import tell_live
from ingestor.runtime.live_vendor import Vendor, demo_vendor, real_vendor
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import listening
from ingestor.runtime.outcome import RunOutcome, live_outcome
from ingestor.runtime.run import FeedPlan, PublishPlan, RunPlan, run, watching

FEED_ORDER: Final[tuple[LiveFeedName, ...]] = ("stocks", "options")
"""Stocks come first: the options' process reads the price in their row of the counters."""

MAX_PORT: Final = 65_535

DEMO_S: Final = 15.0
"""How long a demo runs that is not told."""


class StreamIngestor:
    """Publishes the live feeds to JetStream, as the configuration says."""

    def __init__(self, config: Config, *, demo: bool = False) -> None:
        self._config = config
        self._demo = demo

    def run(self) -> RunOutcome:
        """Stream until stopped. Raises IngestorError for what is wrong before anything starts."""
        check(self._config)
        with (
            self._vendor() as vendor,
            journals(self._config) as frame_logs,
            listening(self._config.metrics) as metrics,
            server_of(self._config, demo=self._demo) as server,
        ):
            access = access_of(self._config.nats, server.url)
            feeds = self._feeds(vendor, frame_logs)
            publish = PublishPlan(
                lambda: make_publisher(self._config, access, give_up_after_s=math.inf),
                ArrivalMerge(len(feeds)),
                drains=True,
            )
            report = run(
                RunPlan(feeds, publish, tell_live, self._run_s(), metrics),
                self._config.process,
                self._config.log,
                watching(
                    (ExitCode.EMBEDDED_SERVER, server.problem),
                    (ExitCode.CHILD_FAILED, vendor.problem),
                ),
            )
        return live_outcome(report)

    def _vendor(self) -> AbstractContextManager[Vendor]:
        return demo_vendor() if self._demo else real_vendor(self._config.polygon)

    def _run_s(self) -> float | None:
        return self._config.live.stop_after_s or (DEMO_S if self._demo else None)

    def _feeds(self, vendor: Vendor, frame_logs: Mapping[LiveFeedName, Journal]) -> list[FeedPlan]:
        process = self._config.process
        made = LiveFeeds(self._config, vendor)
        mains = {"stocks": made.stocks, "options": made.options}
        cpus = {"stocks": process.stocks_cpus, "options": process.options_cpus}
        return [
            FeedPlan(name, streams(mains[name], frame_logs.get(name)), vendor.source, cpus[name])
            for name in FEED_ORDER
            if name in self._config.polygon.feeds
        ]


def check(config: Config) -> None:
    """Refuse settings that do not go together. Raises ConfigurationError."""
    polygon, strikes = config.polygon, config.strikes
    check_machine(config.process)
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
