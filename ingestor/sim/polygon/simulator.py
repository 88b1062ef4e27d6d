"""The simulator: one listening port for both markets, one ticker, and a hub for each market.

A hub knows who is connected, what they asked for, and what each of them is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic_ns, time_ns
from typing import Any, BinaryIO, Final

import numpy as np

from ingestor.model.errors import ConfigurationError
from ingestor.model.units import NS_PER_MS, NS_PER_S, new_york_date
from ingestor.sim.polygon.client_connection import ClientConnection
from ingestor.sim.polygon.event_stream import (
    Bools,
    EventBatch,
    EventStream,
    Ints,
    MarketTape,
    MarketTime,
    Underlying,
)
from ingestor.sim.polygon.option_tape import OptionTape
from ingestor.sim.polygon.server_session import (
    API_KEY,
    CONNECTED,
    MAX_CONNECTIONS,
    Answer,
    Request,
    Rules,
    ServerSession,
    SimMarket,
)
from ingestor.sim.polygon.stock_tape import StockTape

PLAN: Final = frozenset(
    f"{market}-{topic}" for market in SimMarket for topic in ("T", "Q", "A", "AM")
)

EVICT_OLDER: Final = "evict-older"
REFUSE_NEWER: Final = "refuse-newer"


@dataclass(frozen=True, slots=True)
class PricePath:
    """A move of the price from the opening on: `by_cents` cents within `over_ns`."""

    by_cents: int
    over_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """Every field is explained by ``--help``; ``rate`` and the others in a group are per market."""

    host: str = "127.0.0.1"
    port: int = 0
    control_port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None

    api_key: str = API_KEY
    standby_api_key: str | None = None
    plan: frozenset[str] = PLAN
    delayed_tier: frozenset[SimMarket] = frozenset()
    auth_timeout_s: float = 10.0
    quota: int = 1
    over_quota: str = EVICT_OLDER
    quota_delay_s: float = 1.0
    buffer_bytes: int = 16 * 1024 * 1024

    rate: int = 1_000
    options_rate: int = 100
    count: int = 0
    quote_share: float = 0.8
    stocks: int = 1
    frame_ms: int = 5

    seed: int = 1
    price_cents: int = 68_600
    volatility: float = 4.5
    path: PricePath = PricePath(0, NS_PER_S)
    script: Path | None = None
    log: Path | None = None

    def rate_of(self, market: SimMarket) -> int:
        """Events a second of a market."""
        return self.rate if market is SimMarket.STOCKS else self.options_rate

    def rules(self, market: SimMarket) -> Rules:
        """What the account may do on a market."""
        prefix = f"{market}-"
        topics = frozenset(p.removeprefix(prefix) for p in self.plan if p.startswith(prefix))
        keys = frozenset(key for key in (self.api_key, self.standby_api_key) if key is not None)
        return Rules(keys, topics, market in self.delayed_tier)


HISTORY_MESSAGES: Final = 10_000
"""Requests and answers remembered for `stats`; older ones are forgotten."""
POLICY_VIOLATION: Final = 1008

Key = tuple[str, ...]
Mask = Bools | None


class MarketHub:
    """One market; `changed` is called when connections, subscriptions or the rate have changed."""

    def __init__(
        self, market: SimMarket, settings: SimulatorSettings, stream: EventStream, time: MarketTime
    ) -> None:
        self.market = market
        self.stream = stream
        self.connections: list[ClientConnection] = []
        self.history: deque[dict[str, Any]] = deque(maxlen=HISTORY_MESSAGES)
        self.opened = 0
        self.events: Counter[str] = Counter()
        self.buffer_bytes = settings.buffer_bytes
        self.auth_timeout_s = settings.auth_timeout_s
        self.changed: Callable[[], None] = lambda: None
        self._settings = settings
        self._rules = settings.rules(market)
        self._time = time
        self._duplicates = 0
        self._batch: EventBatch | None = None
        self._masks: dict[Key, Mask] = {}

    # Connections.

    def joined(self, connection: ClientConnection) -> ServerSession:
        """A client has opened a connection."""
        self.connections.append(connection)
        self.opened += 1
        connection.say(CONNECTED)
        return ServerSession(self.market, self._rules)

    def received(self, connection: ClientConnection, request: Request) -> Answer:
        """A client has said something."""
        answer = connection.session.answer(request)
        self.history.append(
            {
                "at_ms": self._time.wall_ms(monotonic_ns()),
                "connection": connection.number,
                "action": request.action,
                # The parameter of auth is a key, and keys are kept nowhere.
                "params": request.params if request.action != "auth" else "",
                "answers": [f"{s.status}: {s.message}" for s in answer.statuses],
            }
        )
        if connection.session.authenticated and request.action == "auth":
            # The vendor accepts a connection too many first, and evicts a moment later.
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.quota_delay_s, self._enforce_quota, request.params)
        else:
            self._select()
        self.changed()
        return answer

    def left(self, connection: ClientConnection) -> None:
        """A connection is gone."""
        self.connections.remove(connection)
        self._select()
        self.changed()

    @property
    def members(self) -> list[ClientConnection]:
        """The authenticated connections that are not being closed, oldest first."""
        return [c for c in self.connections if c.is_open and c.session.authenticated]

    def evict(self, connections: Iterable[ClientConnection]) -> None:
        """Say that the account has too many connections, then close."""
        for connection in connections:
            connection.say(MAX_CONNECTIONS)
            connection.close(POLICY_VIOLATION)

    def _enforce_quota(self, account: str) -> None:
        members = [one for one in self.members if one.session.account == account]
        surplus = max(0, len(members) - self._settings.quota) if self._settings.quota else 0
        older = self._settings.over_quota == EVICT_OLDER
        self.evict(members[:surplus] if older else members[len(members) - surplus :])

    def _select(self) -> None:
        wanted = dict.fromkeys(name for c in self.members for name in c.session.subscriptions)
        self.stream.select(wanted, monotonic_ns())
        # Masks say who gets what of a batch: they are wrong once anybody has asked for more.
        self._batch = None

    # Events.

    def tick(self, now_ns: int, tolerance_ns: int) -> None:
        """Send what is due."""
        for piece in self.stream.slices(now_ns, tolerance_ns):
            if piece.batch is not self._batch:
                self._batch, self._masks = piece.batch, {}
            index = self._repeat(piece.rows)
            # Clients with equal subscriptions are sent the same bytes, joined once.
            shares: dict[Key, tuple[bytes, Counter[str]]] = {}
            for connection in self.members:
                session = connection.session
                if session.key not in shares:
                    shares[session.key] = self._share(piece.batch, index, session)
                elements, events = shares[session.key]
                if elements:
                    connection.send_elements(elements, events)
                    self.events.update(events)

    def duplicate(self, count: int) -> None:
        """Let each of the next events be sent twice."""
        self._duplicates = count

    def _repeat(self, rows: slice) -> slice | Ints:
        """The rows, the first of them twice while duplicates are wanted."""
        if not self._duplicates:
            return rows
        index = np.arange(rows.start, rows.stop)
        twice = min(self._duplicates, len(index))
        self._duplicates -= twice
        # Sorted, a duplicate stands right behind its original, as a resending vendor's does.
        return np.sort(np.concatenate((index, index[:twice])))

    def _share(
        self, batch: EventBatch, index: slice | Ints, session: ServerSession
    ) -> tuple[bytes, Counter[str]]:
        """What clients with the subscriptions of this one get: JSON elements, and how many."""
        if session.key not in self._masks:
            self._masks[session.key] = batch.wanted_by(session.wants)
        mask = self._masks[session.key]
        if mask is not None:
            rows = np.arange(index.start, index.stop) if isinstance(index, slice) else index
            index = rows[mask[rows]]
        return batch.elements(index), batch.count(index)


GOING_AWAY: Final = 1001
STOP_S: Final = 1.0
"""How long clients have to answer the close frame when the simulator stops."""
POLL_S: Final = 0.01


class Simulator:
    """Both markets. `start` listens, `stop` closes everything; ``quit_event`` asks for that."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.quit_event = asyncio.Event()
        self.time = MarketTime(time_ns() - monotonic_ns())
        self.underlying = Underlying(settings.seed, settings.price_cents, settings.volatility)
        if settings.path.by_cents:
            target = settings.price_cents + settings.path.by_cents
            self.underlying.move(target, 0, settings.path.over_ns)
        self.stock_tape = StockTape(
            settings.seed, self.underlying, settings.quote_share, settings.stocks
        )
        tapes: dict[SimMarket, MarketTape] = {
            SimMarket.STOCKS: self.stock_tape,
            SimMarket.OPTIONS: OptionTape(
                settings.seed, self.underlying, settings.quote_share, new_york_date(time_ns())
            ),
        }
        self.hubs = {}
        for market, tape in tapes.items():
            stream = EventStream(tape, self.time, settings.rate_of(market), settings.count)
            self.hubs[market] = MarketHub(market, settings, stream, self.time)
        self.port = settings.port
        self._numbers = itertools.count(1)
        self._log: BinaryIO | None = None
        self._server: asyncio.Server | None = None
        self._refusing_http = False
        self._refusal: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last_tick_ns = 0
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    async def start(self) -> None:
        """Listen. Raises `OSError` when the port is taken, or the log cannot be written."""
        if self.settings.log is not None:
            self._log = self.settings.log.open("ab")
        await self._listen()
        for hub in self.hubs.values():
            hub.changed = self._on_change

    async def stop(self) -> None:
        """Close the connections (the vendor goes away), then what is left of them."""
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
        for hub in self.hubs.values():
            # A copy: a connection that is closed leaves its hub.
            for connection in list(hub.connections):
                connection.close(GOING_AWAY)
        # The connections leave one by one, each when its client has answered the close frame.
        deadline = monotonic_ns() + round(STOP_S * NS_PER_S)
        while self.connections and monotonic_ns() < deadline:
            await asyncio.sleep(POLL_S)
        for connection in self.connections:
            connection.drop()
        if self._log is not None:
            self._log.close()

    @property
    def connections(self) -> list[ClientConnection]:
        """Connections of both markets."""
        return [c for hub in self.hubs.values() for c in hub.connections]

    def admit(self, path: str) -> MarketHub | HTTPStatus:
        """The hub of ``/stocks`` or ``/options``."""
        if self._refusing_http:
            return HTTPStatus.SERVICE_UNAVAILABLE
        try:
            return self.hubs[SimMarket(path.removeprefix("/"))]
        except ValueError:
            return HTTPStatus.NOT_FOUND

    def refuse(self, how: str, for_s: float) -> None:
        """Take no new connections for a while, by ``port`` or ``http``; those that exist stay.

        Raises:
            ConfigurationError: they are being refused already.
        """
        if self._refusal is not None and not self._refusal.done():
            raise ConfigurationError("new connections are being refused already")
        if how == "http":
            self._refusing_http = True
        else:
            self._stop_listening()
        # The task is kept because the loop itself holds tasks weakly.
        self._refusal = asyncio.get_running_loop().create_task(self._accept_in(for_s))

    async def _accept_in(self, for_s: float) -> None:
        await asyncio.sleep(for_s)
        self._refusing_http = False
        if self._server is None:
            await self._listen()

    def rewrite(self) -> None:
        """Let both markets write anew what they have written ahead."""
        for hub in self.hubs.values():
            hub.stream.rewrite()

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

    async def _listen(self) -> None:
        loop, context = asyncio.get_running_loop(), None
        if self.settings.tls_cert is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.settings.tls_cert, self.settings.tls_key)
        self._server = await loop.create_server(
            lambda: ClientConnection(self.admit, next(self._numbers), self._log),
            self.settings.host,
            self.port,
            ssl=context,
        )
        # Kept: after a refusal it listens on the same port, as its clients expect.
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
        # One reading for both markets: their frames of a tick share their lateness.
        self._last_tick_ns = now_ns = monotonic_ns()
        for hub in self.hubs.values():
            hub.tick(now_ns, self.settings.frame_ms * NS_PER_MS)
        self.reschedule()
