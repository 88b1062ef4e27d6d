"""One market: who is connected, what they are sent, what they asked for."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable
from time import monotonic_ns
from typing import Any, Final

import numpy as np

from ingestor.sim.polygon.arguments import EVICT_OLDER, SimulatorSettings
from ingestor.sim.polygon.client_connection import ClientConnection
from ingestor.sim.polygon.event_stream import EventStream, MarketTime, Slice
from ingestor.sim.polygon.market_tape import Bools, EventBatch, Ints
from ingestor.sim.polygon.server_session import (
    CONNECTED,
    MAX_CONNECTIONS,
    Answer,
    Market,
    Request,
    ServerSession,
)

HISTORY_MESSAGES: Final = 10_000
"""Requests and answers remembered for `stats`; older ones are forgotten."""
POLICY_VIOLATION: Final = 1008

Key = tuple[str, ...]
Mask = Bools | None


class MarketHub:
    """One market; `changed` is called when connections, subscriptions or the rate have changed."""

    def __init__(
        self, market: Market, settings: SimulatorSettings, stream: EventStream, time: MarketTime
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
        self._remember(connection, request, answer)
        if connection.session.authenticated and request.action == "auth":
            # The vendor accepts a connection too many first, and evicts a moment later.
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.quota_delay_s, self._enforce_quota)
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

    def _enforce_quota(self) -> None:
        members = self.members
        surplus = max(0, len(members) - self._settings.quota) if self._settings.quota else 0
        older = self._settings.over_quota == EVICT_OLDER
        self.evict(members[:surplus] if older else members[len(members) - surplus :])

    def _select(self) -> None:
        wanted = dict.fromkeys(name for c in self.members for name in c.session.subscriptions)
        self.stream.select(wanted, monotonic_ns())
        self._batch = None

    def _remember(self, connection: ClientConnection, request: Request, answer: Answer) -> None:
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

    # Events.

    def tick(self, now_ns: int, tolerance_ns: int) -> None:
        """Send what is due."""
        for piece in self.stream.slices(now_ns, tolerance_ns):
            if piece.batch is not self._batch:
                self._batch, self._masks = piece.batch, {}
            self._send(piece)

    def duplicate(self, count: int) -> None:
        """Let each of the next events be sent twice."""
        self._duplicates = count

    def _send(self, piece: Slice) -> None:
        index = self._repeat(piece.rows)
        # Clients with equal subscriptions are sent the same bytes, put together once.
        shares: dict[Key, tuple[bytes, Counter[str]]] = {}
        for connection in self.members:
            session = connection.session
            if session.key not in shares:
                shares[session.key] = self._share(piece.batch, index, session)
            elements, events = shares[session.key]
            if elements:
                connection.send_elements(elements, events)
                self.events.update(events)

    def _repeat(self, rows: slice) -> slice | Ints:
        """The rows, the first of them twice while duplicates are wanted."""
        if not self._duplicates:
            return rows
        index = np.arange(rows.start, rows.stop)
        twice = min(self._duplicates, len(index))
        self._duplicates -= twice
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
