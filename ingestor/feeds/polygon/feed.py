"""The driver of one connection to the vendor: sockets, time, and what the session asks for.

Two things go on. A task has one socket after the other, as the session wants them; what they bring
is taken in the very callback that read it (`FrameHandler`), never queued. And `run` itself looks
around every `TICK_S`: overdue answers, silence, strikes to follow, a sign of life; and more often
while something waits for a full sink.

The session and the keepalive go by a clock that cannot be set; only what compares with the market's
hours or stands in records goes by the wall clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.frame_handler import FrameHandler
from ingestor.feeds.polygon.hours import SILENCE_LIMIT_NS, MarketHours, TradingHours, Watchdog
from ingestor.feeds.polygon.option_follower import FollowedStrikes, OptionFollower, ReferencePrice
from ingestor.feeds.polygon.relay import MakeSpool
from ingestor.feeds.polygon.session import Phase, Session, SessionLimits
from ingestor.feeds.polygon.socket import Ended, Endpoint, FeedSocket, SocketLimits
from ingestor.feeds.polygon.spill_queue import CATCH_UP_PER_S, Backlog, BacklogLimits, SpillQueue
from ingestor.feeds.polygon.status_reporter import (
    ConnectLog,
    FeedStats,
    FrameLog,
    Sink,
    StatusReporter,
)
from ingestor.feeds.polygon.subscriptions import (
    Close,
    Command,
    Fail,
    Reconnect,
    Report,
    ReportKind,
    Send,
)
from ingestor.model.blocks import Source
from ingestor.model.bounds import MAX_LINE_CHARS, printable, without
from ingestor.model.errors import VendorRefusedError
from ingestor.model.units import NS_PER_MS, NS_PER_S, now_ns

TICK_S: Final = 0.1
BEAT_NS: Final = 90 * NS_PER_MS
"""Least pause between two signs of life: a little below a tick, since timers may fire early."""

DRAIN_S: Final = 0.01
"""Pause between two attempts to hand on what a full sink did not take."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedSettings:
    """One connection to the vendor.

    Attributes:
        name: ``stocks`` or ``options``; names the feed in statuses and in the log.
        url: WebSocket address, ``wss://socket.massive.com/stocks``.
        api_key: Sent in a message after connecting, and shown nowhere.
        index: Number of the feed, `Block.feed`.
        source: The envelope's ``source``.
        hours: When silence is a fault.
        silence_limit_ns: How long an open market may be silent.
        session: Limits of the conversation.
        socket: Limits of the socket.
        backlog: Limits of what waits for a full sink.
        catch_up_per_s: How many records a second are read back from the journal.
        drain_s: How long the end of the feed waits for a full sink to take the backlog.
        clock: The wall clock, int nanoseconds UTC.
    """

    name: str
    url: str
    api_key: str = field(repr=False)
    index: int
    source: Source = Source.POLYGON_WS
    hours: TradingHours
    silence_limit_ns: int = SILENCE_LIMIT_NS
    session: SessionLimits = field(default_factory=SessionLimits)
    socket: SocketLimits = field(default_factory=SocketLimits)
    backlog: BacklogLimits = field(default_factory=BacklogLimits)
    catch_up_per_s: float = CATCH_UP_PER_S
    drain_s: float = 2.0
    clock: Callable[[], int] = now_ns

    def shown(self, text: str) -> str:
        """Return text that may hold the vendor's as a line to show: without the key."""
        return printable(without(text, self.api_key), MAX_LINE_CHARS)


class PolygonFeed:
    """One feed, from the socket to the sink; `run` it once, on an event loop (uvloop)."""

    def __init__(
        self,
        settings: FeedSettings,
        decoder: StockDecoder | OptionDecoder,
        sink: Sink,
        *,
        names: Iterable[str] = (),
        frame_log: FrameLog | None = None,
        reference: ReferencePrice | None = None,
        strikes: FollowedStrikes | None = None,
        make_spool: MakeSpool | None = None,
        renamed: Callable[[], Iterable[str] | None] = lambda: None,
    ) -> None:
        """`names` are channels such as ``T.SPY``; `reference` is for stocks, `strikes` for options.

        `renamed` is asked ten times a second for names to follow instead; None: those of before.

        `make_spool` makes what goes before all that this feed hears.

        `frame_log` stays open: whoever made it closes it.

        Raises:
            ConfigurationError: the address is none.
        """
        self._settings = settings
        self._sink = sink
        self._frame_log = frame_log
        self._renamed = renamed
        self._target = Endpoint(settings.url, settings.socket)
        limits = settings.session
        self._session = Session(settings.api_key, names, random=random.random, limits=limits)
        hours = MarketHours(settings.hours)
        self._watchdog = Watchdog(hours, settings.silence_limit_ns)
        self._follower: OptionFollower | None = None
        if strikes is not None:
            self._follower = OptionFollower(strikes, self._session, hours, limits.unfollowed_ns)
        self._connect_log = ConnectLog(settings.name, self._target.shown)
        self._stats = FeedStats()
        self._reporter = StatusReporter(settings.name, sink, self._stats)
        self._spill = SpillQueue(
            sink,
            Backlog(decoder.dtype, settings.backlog),
            self._reporter,
            feed=settings.index,
            symbols=decoder.instruments.table,
            source=settings.source,
            spool=None if make_spool is None else make_spool(decoder.instruments.table),
            frame_log=frame_log,
            catch_up_per_s=settings.catch_up_per_s,
        )
        self._handler = FrameHandler(
            settings.name,
            decoder,
            sink=sink,
            spill=self._spill,
            reporter=self._reporter,
            stats=self._stats,
            shown=settings.shown,
            frame_log=frame_log,
            reference=reference,
        )
        self._socket: FeedSocket | None = None
        self._refusal: VendorRefusedError | None = None
        self._next_beat_ns = self._last_sign_ns = 0

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Stream until `stopping` turns true; then close the socket and hand on what is held.

        Raises:
            VendorRefusedError: the key or the plan is refused for good.
        """
        # The only task beside `run`; sockets report to callbacks of this object.
        sockets = asyncio.create_task(self._one_after_the_other())
        try:
            while not (stopping() or sockets.done()):
                pause_s = TICK_S if self._on_tick() else DRAIN_S
                await asyncio.wait((sockets,), timeout=pause_s)
            await self._finish(sockets)
        finally:
            sockets.cancel()
            await asyncio.wait((sockets,))
        if not sockets.cancelled():
            sockets.result()
        if self._refusal is not None:
            raise self._refusal

    # Sockets.

    async def _one_after_the_other(self) -> None:
        """Have sockets until the session ends."""
        while self._session.phase is not Phase.ENDED:
            self._stats.attempts += 1
            self._socket = FeedSocket(self._target, self, self._settings.clock)
            try:
                ended = await self._socket.run()
            finally:
                self._socket = None
            at_ns = self._on_ended(ended, time.monotonic_ns())
            # A delay in the past is none: `sleep` returns at the next turn of the loop.
            await asyncio.sleep((at_ns - time.monotonic_ns()) / NS_PER_S)

    def _on_ended(self, ended: Ended, now_ns: int) -> int:
        """Note the end of a socket; return when the next one is due."""
        self._handler.on_disconnect()
        self._watchdog.on_disconnect()
        cause = self._stats.trouble = self._settings.shown(ended.cause)
        if ended.unreachable:
            commands = self._session.on_unreachable(now_ns, cause)
        else:
            commands = self._session.on_close(now_ns, cause, ended.code)
        # Only a session that goes on asks for another socket.
        at_ns = next((each.at_ns for each in commands if isinstance(each, Reconnect)), None)
        if at_ns is None:
            self._connect_log.ended(cause)
            return now_ns
        if ended.opened:
            self._connect_log.lost(cause, at_ns - now_ns)
        else:
            self._connect_log.failed(cause, at_ns - now_ns, now_ns)
        return at_ns

    def on_open(self) -> None:
        """The WebSocket is open."""
        self._stats.sockets += 1
        self._stats.trouble = ""
        self._connect_log.opened()
        self._handler.on_open(self._settings.clock())
        self._carry_out(self._session.on_open(time.monotonic_ns()))

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        """Whole messages of one read."""
        # Not `recv_ns`, which is the wall clock and may be set.
        self._watchdog.on_frame(time.monotonic_ns())
        for statuses in self._handler.take(messages, recv_ns):
            now_ns = time.monotonic_ns()
            # One by one: what the first asks for is sent before the second is looked at.
            for status in statuses:
                self._carry_out(self._session.on_statuses((status,), now_ns))
            self._give_sign(now_ns)
        if self._handler.has_data:
            self._watchdog.on_data()
        self._give_sign(time.monotonic_ns())

    def _carry_out(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Send() if self._socket is not None:
                    # Noted before it is sent: the journal must hold it before the answer.
                    if command.names:
                        self._handler.on_ask(command.names, self._settings.clock())
                    self._socket.send(command.text)
                case Close() if self._socket is not None:
                    self._socket.close(command.code)
                case Report(ReportKind.INFO):
                    log.info("%s: %s", self._settings.name, command.text)
                case Report(ReportKind.SETTINGS):
                    self._reporter.settings(command.text, self._settings.clock())
                case Report():
                    self._reporter.alarm(command.text, self._settings.clock(), command.kind)
                case Fail():
                    self._reporter.alarm(command.text, self._settings.clock())
                    self._refusal = VendorRefusedError(f"{self._settings.name}: {command.text}")
                case _:
                    pass

    # Time.

    def _on_tick(self) -> bool:
        """Look around; whether nothing waits for the sink."""
        wall_ns, now_ns = self._settings.clock(), time.monotonic_ns()
        # Not `and`: statuses go out even while records wait.
        drained = self._spill.drain(wall_ns) & self._reporter.drain()
        if now_ns >= self._next_beat_ns:
            self._next_beat_ns, self._last_sign_ns = now_ns + BEAT_NS, now_ns
            self._reporter.tell_sums(wall_ns)
            self._watch(wall_ns, now_ns)
            self._carry_out(self._session.on_tick(now_ns))
            if (names := self._renamed()) is not None:
                self._carry_out(self._session.subscriptions.follow(names, now_ns))
            if self._follower is not None:
                self._carry_out(self._follower.on_tick(now_ns, wall_ns))
            self._beat()
            self._tick_log(wall_ns)
        return drained

    def _tick_log(self, wall_ns: int) -> None:
        # Each time: what was not handed over yet dies with this process.
        if self._frame_log is not None:
            # A disk that refuses costs the journal, never the feed.
            for trouble in self._frame_log.tick(wall_ns) or ():
                self._reporter.alarm(trouble, wall_ns)

    def _watch(self, wall_ns: int, now_ns: int) -> None:
        """Drop a connection that is silent for too long, though its market is open.

        Of what the vendor never granted nothing is awaited.
        """
        session = self._session
        if session.phase is not Phase.STREAMING or not session.subscriptions.subscribed:
            # Silence before the first grant is the session's to judge.
            self._watchdog.on_frame(now_ns)
            return
        silent_ns = self._watchdog.on_tick(now_ns, wall_ns)
        if silent_ns is not None and self._socket is not None:
            text = f"no data for {silent_ns / NS_PER_S:.1f} s of an open market"
            self._reporter.silence(text, wall_ns - silent_ns, wall_ns)
            self._socket.close(cause=text)

    def _give_sign(self, now_ns: int) -> None:
        """Give a sign of life where the loop has much to take in before its next tick."""
        # A frame of 16 MiB takes seconds to read: the supervisor must not take that for a hang.
        # Only where a tick is late: signs beside it cost a feed of small frames 3 %.
        if now_ns - self._last_sign_ns >= 2 * BEAT_NS:
            self._last_sign_ns = now_ns
            self._beat()

    def _beat(self) -> None:
        self._stats.backlog_rows = len(self._spill)
        self._stats.spooled_rows = self._spill.left_rows
        self._stats.spool_lag_ns = self._spill.lag_ns(self._settings.clock())
        self._stats.subscribed = self._session.subscriptions.subscribed
        self._stats.streaming = self._session.phase is Phase.STREAMING
        self._spill.on_own(
            is_whole=self._stats.streaming and self._session.subscriptions.answered,
            now_ns=time.monotonic_ns(),
            recv_ns=self._settings.clock(),
        )
        self._sink.show(self._stats)

    async def _finish(self, sockets: asyncio.Task[None]) -> None:
        """Close the socket, then hand on what is held, each within its time."""
        goodbye = self._session.stop()
        self._carry_out(goodbye)
        # Twice: once for the server's close frame, once for the cut when it does not come.
        if goodbye:
            await asyncio.wait((sockets,), timeout=2 * self._settings.socket.close_s)
        self._spill.stop()
        deadline_ns = time.monotonic_ns() + round(self._settings.drain_s * NS_PER_S)
        while not self._on_tick() and time.monotonic_ns() < deadline_ns:
            await asyncio.sleep(DRAIN_S)
        self._spill.give_up(self._settings.clock())
        self._reporter.tell_sums(self._settings.clock(), at_once=True)
        self._beat()
