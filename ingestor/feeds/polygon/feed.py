"""The driver of one connection to the vendor: sockets, time, and what the session asks for.

Two things go on. A task has one socket after the other, as the session wants them; what they bring
is taken in the very callback that read it (`FrameHandler`), never queued. And `run` itself looks around
every `TICK_S`: overdue answers, silence, strikes to follow, a sign of life; and more often while
something waits for a full sink.

The session and the keepalive go by a clock that cannot be set; only what compares with the market's
hours or stands in records goes by the wall clock.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Final

from ingestor.feeds.polygon.attempts import ConnectLog
from ingestor.feeds.polygon.backlog import Backlog
from ingestor.feeds.polygon.commands import (
    Close,
    Command,
    Fail,
    Reconnect,
    Report,
    ReportKind,
    Send,
)
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.endpoint import Ended, Target
from ingestor.feeds.polygon.frame_handler import FrameHandler, Ways
from ingestor.feeds.polygon.hours import MarketHours
from ingestor.feeds.polygon.option_follower import OptionFollower
from ingestor.feeds.polygon.reference import ReferencePrice
from ingestor.feeds.polygon.session import Phase, Session
from ingestor.feeds.polygon.settings import FeedSettings, Strikes
from ingestor.feeds.polygon.sink import FrameLog, Sink
from ingestor.feeds.polygon.socket import FeedSocket
from ingestor.feeds.polygon.spill_queue import SpillQueue
from ingestor.feeds.polygon.status_reporter import StatusReporter
from ingestor.feeds.polygon.totals import Totals
from ingestor.feeds.polygon.watchdog import Watchdog
from ingestor.model.blocks import Block
from ingestor.model.errors import VendorRefusedError
from ingestor.model.records import Records
from ingestor.model.units import NS_PER_MS, NS_PER_S

__all__ = ["FeedSettings", "PolygonFeed", "Strikes"]

TICK_S: Final = 0.1
BEAT_NS: Final = 90 * NS_PER_MS
"""Least pause between two signs of life: a little below a tick, since timers may fire early."""

DRAIN_S: Final = 0.01
"""Pause between two attempts to hand on what a full sink did not take."""

LOG_TICK_NS: Final = NS_PER_S // 2

log = logging.getLogger(__name__)


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
        strikes: Strikes | None = None,
    ) -> None:
        """`names` are channels such as ``T.SPY``; `reference` is for stocks, `strikes` for options.

        `frame_log` stays open: whoever made it closes it.

        Raises:
            ConfigurationError: the address is none.
        """
        self._settings = settings
        self._decoder = decoder
        self._sink = sink
        self._frame_log = frame_log
        self._target = Target(settings.url, settings.socket)
        self._session = Session(
            settings.api_key, names, random=random.random, limits=settings.session
        )
        hours = MarketHours(settings.hours)
        self._watchdog = Watchdog(hours, settings.silence_limit_ns)
        patience_ns = settings.session.unfollowed_ns
        self._follower = (
            None if strikes is None else OptionFollower(strikes, self._session, hours, patience_ns)
        )
        self._connect_log = ConnectLog(settings.name, self._target.shown)
        self._totals = Totals()
        self._reporter = StatusReporter(settings.name, sink, self._totals)
        backlog = Backlog(decoder.dtype, settings.backlog)
        self._spill = SpillQueue(sink, self._block_of, backlog, self._reporter)
        ways = Ways(
            sink=sink,
            spill=self._spill,
            reporter=self._reporter,
            totals=self._totals,
            frame_log=frame_log,
            shown=settings.shown,
        )
        self._handler = FrameHandler(settings.name, decoder, ways, reference)
        self._socket: FeedSocket | None = None
        self._refusal: VendorRefusedError | None = None
        self._next_beat_ns = 0
        self._last_sign_ns = 0
        self._next_log_tick_ns = 0

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Stream until `stopping` turns true; then close the socket and hand on what is held.

        Raises:
            VendorRefusedError: the key or the plan is refused for good.
        """
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
            self._socket = FeedSocket(self._target, self, self._settings.clock)
            try:
                ended = await self._socket.run()
            finally:
                self._socket = None
            at_ns = self._on_ended(ended, time.monotonic_ns())
            await asyncio.sleep((at_ns - time.monotonic_ns()) / NS_PER_S)

    def _on_ended(self, ended: Ended, now_ns: int) -> int:
        """Note the end of a socket; return when the next one is due."""
        self._handler.on_disconnect()
        self._watchdog.on_disconnect()
        cause = self._settings.shown(ended.cause)
        if ended.unreachable:
            commands = self._session.on_unreachable(now_ns, cause)
        else:
            commands = self._session.on_close(now_ns, cause, ended.code)
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
        self._totals.sockets += 1
        self._connect_log.opened()
        self._handler.on_open(self._settings.clock())
        self._carry_out(self._session.on_open(time.monotonic_ns()))

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        """Whole messages of one read."""
        self._watchdog.on_frame(time.monotonic_ns())
        for statuses in self._handler.take(messages, recv_ns):
            now_ns = time.monotonic_ns()
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
                    if command.names:
                        self._handler.on_ask(command.names, self._settings.clock())
                    self._socket.send(command.text)
                case Close() if self._socket is not None:
                    self._socket.close(command.code)
                case Report(ReportKind.INFO):
                    log.info("%s: %s", self._settings.name, command.text)
                case Report():
                    self._reporter.alarm(command.text, self._settings.clock(), command.kind)
                case Fail():
                    self._reporter.alarm(command.text, self._settings.clock())
                    self._refusal = VendorRefusedError(f"{self._settings.name}: {command.text}")
                case _:
                    pass

    def _block_of(self, records: Records) -> Block:
        settings = self._settings
        return Block(settings.index, records, self._decoder.instruments.table, settings.source)

    # Time.

    def _on_tick(self) -> bool:
        """Look around; whether nothing waits for the sink."""
        wall_ns, now_ns = self._settings.clock(), time.monotonic_ns()
        drained = self._spill.drain(wall_ns) & self._reporter.drain()
        if now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + BEAT_NS
            self._reporter.tell_sums(wall_ns)
            self._watch(wall_ns, now_ns)
            self._carry_out(self._session.on_tick(now_ns))
            if self._follower is not None:
                self._carry_out(self._follower.on_tick(now_ns, wall_ns))
            self._beat()
        if self._frame_log is not None and now_ns >= self._next_log_tick_ns:
            self._next_log_tick_ns = now_ns + LOG_TICK_NS
            for trouble in self._frame_log.tick(wall_ns) or ():
                self._reporter.alarm(trouble, wall_ns)
        return drained

    def _watch(self, wall_ns: int, now_ns: int) -> None:
        """Drop a connection that is silent for too long, though its market is open.

        Of what the vendor never granted nothing is awaited.
        """
        session = self._session
        if session.phase is not Phase.STREAMING or not session.subscribed:
            self._watchdog.on_frame(now_ns)
            return
        silence = self._watchdog.on_tick(now_ns, wall_ns)
        if silence is not None and self._socket is not None:
            text = f"no data for {silence.silent_ns / NS_PER_S:.1f} s of an open market"
            self._reporter.silence(text, wall_ns - silence.silent_ns, wall_ns)
            self._socket.close(cause=text)

    def _give_sign(self, now_ns: int) -> None:
        """Give a sign of life where the loop has much to take in before its next tick."""
        if now_ns - self._last_sign_ns >= BEAT_NS:
            self._last_sign_ns = now_ns
            self._beat()

    def _beat(self) -> None:
        session = self._session
        self._sink.beat(
            self._totals.counts(
                backlog_rows=self._spill.held,
                subscribed=session.subscribed,
                streaming=session.phase is Phase.STREAMING,
            )
        )

    async def _finish(self, sockets: asyncio.Task[None]) -> None:
        """Close the socket, then hand on what is held, each within its time."""
        goodbye = self._session.stop()
        self._carry_out(goodbye)
        if goodbye:
            await asyncio.wait((sockets,), timeout=2 * self._settings.socket.close_s)
        deadline_ns = time.monotonic_ns() + round(self._settings.drain_s * NS_PER_S)
        while not self._on_tick() and time.monotonic_ns() < deadline_ns:
            await asyncio.sleep(DRAIN_S)
        self._spill.give_up(self._settings.clock())
        self._reporter.tell_sums(self._settings.clock(), at_once=True)
        self._beat()
