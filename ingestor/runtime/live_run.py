"""A live run: whose feeds it has, where they go, and what must fit together before it starts.

A hot standby is a live run that waits until nobody else writes what it is to write. A run that
writes renews its leases twice a second; the standby reads them ten times a second, and takes over
those that have stood still for `TAKEOVER_S` or were given up. It may be wrong: the other run may be
alive, and slow. That costs a change for nothing and no more, since the other run's next renewal is
refused, and the stream refuses what it writes (see `publish.batches`). So it need not wait for a
lease to expire. With a second key it hears the vendor meanwhile (`ingestor.runtime.standby`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import uvloop

from ingestor.config.schema import Config, LiveFeedName, Nats
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours
from ingestor.feeds.polygon.relay import RowSource, StoredTail
from ingestor.feeds.polygon.spool import left_in
from ingestor.feeds.polygon.subscriptions import shown
from ingestor.journal.format import Market
from ingestor.merge.ordering import ArrivalMerge
from ingestor.model.blocks import Source
from ingestor.model.errors import (
    ConfigurationError,
    ExitCode,
    IngestorError,
    NatsRefusedError,
    NatsUnreachableError,
    PlaceInUseError,
    StreamInUseError,
)
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.feed_factory import (
    LiveFeeds,
    Vendor,
    demo_vendor,
    journals,
    real_vendor,
    strike_plan,
)
from ingestor.runtime.live_process import Journal, live_feed_main
from ingestor.runtime.machine import check_machine
from ingestor.runtime.metrics import MetricsPlan, RunFacts, listening, shown_by
from ingestor.runtime.notify import NotifySocket
from ingestor.runtime.progress_reporter import LiveProgress
from ingestor.runtime.publisher_factory import (
    checked_options,
    is_watched,
    make_publisher,
    server_of,
    tell_demo,
)
from ingestor.runtime.reload import LiveSettings, Reload
from ingestor.runtime.report import RunReport
from ingestor.runtime.resume import Ends, stored_ends
from ingestor.runtime.run import FeedPlan, Run, RunPlan
from ingestor.runtime.run_keeper import ANSWER_S, Keeping, begin, connected
from ingestor.runtime.run_records import Lease, Leases, RunRecord, new_record, subjects_of
from ingestor.runtime.standby import Receivers, stored_tails

FEED_ORDER: Final[tuple[LiveFeedName, ...]] = ("stocks", "options")
"""Stocks come first: the strikes of the options follow their price."""

MAX_PORT: Final = 65_535

DEMO_S: Final = 15.0
"""How long a demo runs that is not told, and that nobody watches."""

log = logging.getLogger(__name__)

POLL_S: Final = 0.1

TAKEOVER_S: Final = 1.5
"""A lease that stands still this long has missed two renewals, and the third is due."""

RETRY_S: Final = 1.0
"""Pause before a server that is not there is asked again."""


class StreamIngestor:
    """Publishes the live feeds to JetStream, as the configuration says."""

    def __init__(
        self, config: Config, *, demo: bool = False, read_again: Callable[[], Config] | None = None
    ) -> None:
        """SIGHUP has `read_again` called, and what can change is heeded; None stops the run."""
        self._config = config
        self._demo = demo
        self._read_again = read_again
        self._settings = LiveSettings()

    def run(self) -> RunReport:
        """Stream until stopped. Raises IngestorError for what is wrong before anything starts."""
        # Before anything is bound, locked or started: a wrong configuration changes nothing.
        check(self._config)
        # Importing the calendar takes 0.1 to 0.6 s: here it is done before the feeds fork, and one
        # that is started again has it, as a standby has.
        MarketHours(OPTIONS)
        if not self._config.live.standby:
            return self._run()
        receivers = self._receivers()
        try:
            return self._follow(receivers)
        finally:
            if receivers is not None:
                receivers.close()

    def _follow(self, receivers: Receivers | None) -> RunReport:
        """Stream once it is this run's turn, until stopped."""
        systemd = NotifySocket()
        held = ""
        while True:
            # Nor while it waits: the run that it is to follow may have the same journal and port.
            systemd.status("standby: ready to follow the run that writes now")
            whole = None if receivers is None else receivers.are_whole
            over = wait_for_turn(self._config.nats, self._subjects, whole)
            if over is None:
                receivers = receivers and receivers.begin()
                continue
            try:
                return self._run(over, receivers if whole is not None and whole() else None)
            except StreamInUseError as other:
                log.info("standby: another one was faster: %s", other)
            except NatsUnreachableError as error:
                log.warning("standby: not taken over: %s", error)
            except PlaceInUseError as error:
                # Its journal's folder or its port: one that is stopped keeps them until it is
                # killed for that, one that hands over for a moment.
                if str(error) != held:
                    log.warning("standby: not taken over yet: %s", error)
                held = str(error)
                time.sleep(POLL_S)

    def _receivers(self) -> Receivers | None:
        """Return what hears the vendor while this run waits, if there is a key for it."""
        polygon = self._config.polygon
        if polygon.standby_api_key is None or self._demo:
            return None
        vendor = Vendor(
            polygon.stocks_url, polygon.options_url, polygon.standby_api_key, Source.POLYGON_WS
        )
        return Receivers(self._config, vendor, self._names, self._settings)

    @property
    def _names(self) -> tuple[LiveFeedName, ...]:
        return tuple(name for name in FEED_ORDER if name in self._config.polygon.feeds)

    @property
    def _subjects(self) -> tuple[str, ...]:
        return subjects_of(self._names)

    def _run(
        self, over: Mapping[str, int] | None = None, receivers: Receivers | None = None
    ) -> RunReport:
        """Stream until stopped, with leases of these revisions taken from whoever holds them."""
        config = self._config
        with (
            demo_vendor() if self._demo else real_vendor(config.polygon) as vendor,
            journals(config) as frame_logs,
            listening(config.metrics, demo=self._demo) as listener,
            server_of(config, demo=self._demo) as server,
        ):
            options = checked_options(config.nats, server.url)
            if self._demo:
                tell_demo(server.url)
            # A demo in a server of its own has nobody to meet there.
            own = self._demo and config.nats.url is None
            record = self._record(vendor.source)
            keeping = None if own else begin(options, record, config.nats, over=over)
            # Only now: whoever wrote before writes no more.
            ends = self._unfinished(options, vendor)
            relays = self._relays(receivers, options, vendor)
            feeds = self._feeds(vendor, frame_logs, ends, relays)
            metrics = shown_by(listener, config, options, keeping, live=True, demo=self._demo)
            run = Run(self._run_plan(feeds, options, keeping, metrics))
            run.to_the_end(
                (ExitCode.EMBEDDED_SERVER, server.problem),
                (ExitCode.CHILD_FAILED, vendor.problem),
            )
        return run.report()

    def _record(self, source: Source) -> RunRecord:
        return new_record(
            "live",
            self._config.nats.stream,
            feeds=self._names,
            subjects=self._subjects,
            what={"symbols": list(self._config.polygon.stocks), "source": source.value},
        )

    def _run_plan(
        self,
        feeds: Sequence[FeedPlan],
        options: ConnectOptions,
        keeping: Keeping | None,
        metrics: tuple[MetricsPlan, RunFacts] | None,
    ) -> RunPlan:
        config = self._config
        demo_s = DEMO_S if self._demo and not is_watched() else None
        read = self._read_again
        return RunPlan(
            feeds=feeds,
            config=config,
            publisher=lambda again: make_publisher(
                config, options, keeping, give_up_after_s=math.inf, again=again
            ),
            merge=ArrivalMerge(len(feeds)),
            progress=LiveProgress,
            live=True,
            run_s=config.live.stop_after_s or demo_s,
            metrics=metrics,
            keeping=keeping,
            reload=read and Reload(config, read, check, self._settings),
        )

    def _unfinished(self, options: ConnectOptions, vendor: Vendor) -> dict[LiveFeedName, Ends]:
        """Return where what is stored of each feed ends that an earlier run has a journal of."""
        directory = self._config.record.dir
        if directory is None:
            return {}
        left = [name for name in self._names if left_in(directory, Market[name.upper()])]
        if not left:
            return {}
        return stored_ends(options, self._config.nats.stream, left, vendor.source)

    def _relays(
        self, receivers: Receivers | None, options: ConnectOptions, vendor: Vendor
    ) -> dict[LiveFeedName, tuple[RowSource, StoredTail]]:
        """Return what each feed is to hand on before its own, and the last rows stored of it."""
        if receivers is None:
            return {}
        receivers.turn()
        tails = stored_tails(options, self._config.nats.stream, self._names, vendor.source)
        for name in self._names:
            if name not in tails:
                receivers.rows_of(name).close()
        return {name: (receivers.rows_of(name), tail) for name, tail in tails.items()}

    def _feeds(
        self,
        vendor: Vendor,
        frame_logs: Mapping[LiveFeedName, Journal],
        ends: Mapping[LiveFeedName, Ends],
        relays: Mapping[LiveFeedName, tuple[RowSource, StoredTail]],
    ) -> list[FeedPlan]:
        process = self._config.process
        made = LiveFeeds(self._config, vendor, ends, self._settings, relays)
        mains = {"stocks": made.stocks, "options": made.options}
        cpus = {"stocks": process.stocks_cpus, "options": process.options_cpus}
        return [
            FeedPlan(
                name,
                live_feed_main(mains[name], frame_logs.get(name)),
                vendor.source,
                cpus[name],
                spooled=name in ends or name in relays,
                recorded=name in frame_logs,
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
    if polygon.standby_api_key is not None and polygon.standby_api_key == polygon.api_key:
        raise ConfigurationError(
            "polygon.standby_api_key is not allowed to be polygon.api_key: the vendor serves one"
            " connection a key, and would end the one of the run that is to be followed"
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


class LeaseWatch:
    """Tells from what is read of leases, again and again, when nobody renews them any more."""

    def __init__(self) -> None:
        self._stands: dict[str, tuple[int, float]] = {}
        """By key the revision that was seen last, and since when it is that one."""

    def forget(self) -> None:
        """Begin anew: whoever could not ask does not know what was renewed meanwhile."""
        self._stands.clear()

    def is_free(self, leases: Mapping[str, Lease], now_s: float) -> bool:
        """Whether none of these leases, as they are now, is renewed by anybody."""
        for key, lease in leases.items():
            if key not in self._stands or self._stands[key][0] != lease.revision:
                self._stands[key] = lease.revision, now_s
        return all(
            lease.holder.is_dead or now_s - self._stands[key][1] >= TAKEOVER_S
            for key, lease in leases.items()
        )


def wait_for_turn(
    nats: Nats, subjects: tuple[str, ...], go_on: Callable[[], bool] | None = None
) -> dict[str, int] | None:
    """Wait until nobody writes to these subjects; return what leases are to be taken over.

    These are revisions by key. A server that is away is waited for. `go_on` is asked while somebody
    writes; None once it says False. Raises NatsRefusedError.
    """
    record = new_record("live", nats.stream, subjects=subjects)

    async def watch(connection: Connection) -> dict[str, int] | None:
        return await _watch(connection, Leases(connection, record, timeout_s=ANSWER_S), go_on)

    while True:
        try:
            return uvloop.run(connected(nats.connect_options(nats.url or ()), watch))
        except NatsUnreachableError as error:
            log.warning("standby: %s", error)
            time.sleep(RETRY_S)


async def _watch(
    connection: Connection, leases: Leases, go_on: Callable[[], bool] | None
) -> dict[str, int] | None:
    watch, told = LeaseWatch(), ""
    while True:
        try:
            held = await leases.held()
        except (NatsRefusedError, NatsUnreachableError):
            raise
        except IngestorError as error:
            log.debug("standby: the leases cannot be read: %s", error)
            watch.forget()
            # A server that is frozen keeps its socket: there may be another one.
            if not await connection.answers(ANSWER_S):
                connection.drop()
        else:
            if watch.is_free(held, time.monotonic()):
                log.info("standby: nobody writes what this run is to write: taking over")
                return {key: lease.revision for key, lease in held.items()}
            if go_on is not None and not go_on():
                return None
            holder = next(iter(held.values())).holder
            if holder.run != told:
                told = holder.run
                log.info("standby: ready to follow run %s (host %s, pid %d)", *holder.name)
        await asyncio.sleep(POLL_S)
