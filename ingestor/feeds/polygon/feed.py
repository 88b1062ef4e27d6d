"""The driver of one connection to the vendor: sockets, time, and what the session asks for.

Two things go on. A task has one socket after the other, as the session wants them; what they bring
is taken in the very callback that read it (`Intake`), never queued. And `run` itself looks around
every `TICK_S`: overdue answers, silence, strikes to follow, a sign of life; and more often while
something waits for a full outlet.

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

from ingestor.feeds.polygon.attempts import Attempts
from ingestor.feeds.polygon.backlog import Backlog
from ingestor.feeds.polygon.decode import OptionDecoder, StockDecoder
from ingestor.feeds.polygon.endpoint import Ended, Target
from ingestor.feeds.polygon.following import OptionFollower
from ingestor.feeds.polygon.handover import Handover
from ingestor.feeds.polygon.herald import Herald
from ingestor.feeds.polygon.hours import MarketHours
from ingestor.feeds.polygon.intake import Intake, Ways
from ingestor.feeds.polygon.outlet import FrameLog, Outlet
from ingestor.feeds.polygon.outputs import Close, Fail, Output, Reconnect, Report, ReportKind, Send
from ingestor.feeds.polygon.reference import ReferencePrice
from ingestor.feeds.polygon.session import Phase, Session
from ingestor.feeds.polygon.settings import FeedSettings, Strikes
from ingestor.feeds.polygon.socket import FeedSocket
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
"""Pause between two attempts to hand on what a full outlet did not take."""

LOG_TICK_NS: Final = NS_PER_S // 2

log = logging.getLogger(__name__)


class PolygonFeed:
    """One feed, from the socket to the outlet; `run` it once, on an event loop (uvloop)."""

    def __init__(
        self,
        settings: FeedSettings,
        decoder: StockDecoder | OptionDecoder,
        outlet: Outlet,
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
        self._outlet = outlet
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
        self._attempts = Attempts(settings.name, self._target.shown)
        self._totals = Totals()
        self._herald = Herald(settings.name, outlet, self._totals)
        backlog = Backlog(decoder.dtype, settings.backlog)
        self._handover = Handover(outlet, self._block_of, backlog, self._herald)
        ways = Ways(
            outlet=outlet,
            handover=self._handover,
            herald=self._herald,
            totals=self._totals,
            frame_log=frame_log,
            shown=settings.shown,
        )
        self._intake = Intake(settings.name, decoder, ways, reference)
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
        self._intake.on_disconnect()
        self._watchdog.on_disconnect()
        cause = self._settings.shown(ended.cause)
        if ended.away:
            outputs = self._session.on_unreachable(now_ns, cause)
        else:
            outputs = self._session.on_close(now_ns, cause, ended.code)
        at_ns = next((each.at_ns for each in outputs if isinstance(each, Reconnect)), None)
        if at_ns is None:
            self._attempts.ended(cause)
            return now_ns
        if ended.opened:
            self._attempts.lost(cause, at_ns - now_ns)
        else:
            self._attempts.failed(cause, at_ns - now_ns, now_ns)
        return at_ns

    def on_open(self) -> None:
        """The WebSocket is open."""
        self._totals.sockets += 1
        self._attempts.opened()
        self._intake.on_open(self._settings.clock())
        self._carry_out(self._session.on_open(time.monotonic_ns()))

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        """Whole messages of one read."""
        self._watchdog.on_frame(time.monotonic_ns())
        for statuses in self._intake.take(messages, recv_ns):
            now_ns = time.monotonic_ns()
            for status in statuses:
                self._carry_out(self._session.on_statuses((status,), now_ns))
            self._give_sign(now_ns)
        if self._intake.has_data:
            self._watchdog.on_data()
        self._give_sign(time.monotonic_ns())

    def _carry_out(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            match output:
                case Send() if self._socket is not None:
                    if output.names:
                        self._intake.on_ask(output.names, self._settings.clock())
                    self._socket.send(output.text)
                case Close() if self._socket is not None:
                    self._socket.close(output.code)
                case Report(ReportKind.INFO):
                    log.info("%s: %s", self._settings.name, output.text)
                case Report():
                    self._herald.alarm(output.text, self._settings.clock(), output.kind)
                case Fail():
                    self._herald.alarm(output.text, self._settings.clock())
                    self._refusal = VendorRefusedError(f"{self._settings.name}: {output.text}")
                case _:
                    pass

    def _block_of(self, records: Records) -> Block:
        settings = self._settings
        return Block(settings.index, records, self._decoder.instruments.table, settings.source)

    # Time.

    def _on_tick(self) -> bool:
        """Look around; whether nothing waits for the outlet."""
        wall_ns, now_ns = self._settings.clock(), time.monotonic_ns()
        drained = self._handover.drain(wall_ns) & self._herald.drain()
        if now_ns >= self._next_beat_ns:
            self._next_beat_ns = now_ns + BEAT_NS
            self._herald.tell_sums(wall_ns)
            self._watch(wall_ns, now_ns)
            self._carry_out(self._session.on_tick(now_ns))
            if self._follower is not None:
                self._carry_out(self._follower.on_tick(now_ns, wall_ns))
            self._beat()
        if self._frame_log is not None and now_ns >= self._next_log_tick_ns:
            self._next_log_tick_ns = now_ns + LOG_TICK_NS
            for trouble in self._frame_log.tick(wall_ns) or ():
                self._herald.alarm(trouble, wall_ns)
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
            self._herald.silence(text, wall_ns - silence.silent_ns, wall_ns)
            self._socket.close(cause=text)

    def _give_sign(self, now_ns: int) -> None:
        """Give a sign of life where the loop has much to take in before its next tick."""
        if now_ns - self._last_sign_ns >= BEAT_NS:
            self._last_sign_ns = now_ns
            self._beat()

    def _beat(self) -> None:
        session = self._session
        self._outlet.beat(
            self._totals.counts(
                backlog_rows=self._handover.held,
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
        self._handover.give_up(self._settings.clock())
        self._herald.tell_sums(self._settings.clock(), at_once=True)
        self._beat()
