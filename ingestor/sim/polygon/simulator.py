"""The simulator: one listening port for both markets, one ticker, and the hubs behind it."""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic_ns, time_ns
from typing import Final

from ingestor.model.clock import new_york_date
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon.arguments import SimulatorSettings
from ingestor.sim.polygon.client_connection import ClientConnection
from ingestor.sim.polygon.event_stream import EventStream, MarketTime
from ingestor.sim.polygon.market_hub import MarketHub
from ingestor.sim.polygon.market_tape import MarketTape, Underlying
from ingestor.sim.polygon.option_tape import OptionTape
from ingestor.sim.polygon.server_session import Market
from ingestor.sim.polygon.stock_tape import StockTape

GOING_AWAY: Final = 1001
STOP_S: Final = 1.0
"""How long clients have to answer the close frame when the simulator stops."""
POLL_S: Final = 0.01


class Simulator:
    """Both markets. `start` listens, `stop` closes everything."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.time = MarketTime(time_ns() - monotonic_ns())
        self.underlying = Underlying(settings.seed, settings.price_cents, settings.volatility)
        if settings.path.by_cents:
            target = settings.price_cents + settings.path.by_cents
            self.underlying.move(target, 0, settings.path.over_ns)
        self.stock_tape = StockTape(
            settings.seed, self.underlying, settings.quote_share, settings.stocks
        )
        self.hubs = {market: self._hub(market) for market in Market}
        self.port = settings.port
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._refusing_http = False
        self._timer: asyncio.TimerHandle | None = None
        self._last_tick_ns = 0
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def start(self) -> None:
        """Listen. Raises `OSError` when the port is taken."""
        await self._listen()
        for hub in self.hubs.values():
            hub.changed = self._on_change

    async def stop(self) -> None:
        """Close the connections (the vendor goes away), then what is left of them."""
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for hub in self.hubs.values():
            for connection in list(hub.connections):
                connection.close(GOING_AWAY)
        # The connections leave one by one, each when its client has answered the close frame.
        deadline = monotonic_ns() + round(STOP_S * NS_PER_S)
        while self.connections and monotonic_ns() < deadline:
            await asyncio.sleep(POLL_S)
        for connection in self.connections:
            connection.drop()

    @property
    def connections(self) -> list[ClientConnection]:
        """Connections of both markets."""
        return [c for hub in self.hubs.values() for c in hub.connections]

    def admit(self, path: str) -> MarketHub | HTTPStatus:
        """The hub of ``/stocks`` or ``/options``."""
        if self._refusing_http:
            return HTTPStatus.SERVICE_UNAVAILABLE
        try:
            return self.hubs[Market(path.removeprefix("/"))]
        except ValueError:
            return HTTPStatus.NOT_FOUND

    def refuse(self, how: str) -> None:
        """Take no new connections from now on, by ``port`` or ``http``; those that exist stay."""
        if how == "http":
            self._refusing_http = True
        else:
            self._stop_listening()

    async def accept_again(self) -> None:
        """End a refusal."""
        self._refusing_http = False
        if self._server is None:
            await self._listen()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on connections and subscriptions holds."""
        if not condition():
            future = asyncio.get_running_loop().create_future()
            self._watchers.append((condition, future))
            await future

    def reschedule(self) -> None:
        """Set the timer anew: something has changed that says when the next event is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [hub.stream.next_due_ns() for hub in self.hubs.values()]
        next_due_ns = min((at for at in due if at is not None), default=None)
        if next_due_ns is not None:
            # Frames lie apart even at rates at which every moment has something due.
            at_ns = max(next_due_ns, self._last_tick_ns + self.settings.frame_ms * NS_PER_MS)
            delay_s = max(0, at_ns - monotonic_ns()) / NS_PER_S
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _hub(self, market: Market) -> MarketHub:
        settings, tape = self.settings, self._tape(market)
        stream = EventStream(tape, self.time, settings.rate_of(market), settings.count)
        return MarketHub(market, settings, stream, self.time)

    def _tape(self, market: Market) -> MarketTape:
        if market is Market.STOCKS:
            return self.stock_tape
        seed, share = self.settings.seed, self.settings.quote_share
        return OptionTape(seed, self.underlying, share, new_york_date(time_ns()))

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self.admit, next(self._numbers)),
            self.settings.host,
            self.port,
            ssl=_tls(self.settings),
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _on_change(self) -> None:
        self.reschedule()
        for condition, future in self._watchers:
            if not future.done() and condition():
                future.set_result(None)
        # A cancelled script leaves futures behind that are done as well.
        self._watchers = [watcher for watcher in self._watchers if not watcher[1].done()]

    def _tick(self) -> None:
        """Send what is due; ticks lie at least ``frame_ms`` apart."""
        self._last_tick_ns = now_ns = monotonic_ns()
        for hub in self.hubs.values():
            hub.tick(now_ns, self.settings.frame_ms * NS_PER_MS)
        self.reschedule()


def _tls(settings: SimulatorSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.tls_cert, settings.tls_key)
    return context
