"""What the simulator's tests share: due times, events of a batch, a real WebSocket client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from ingestor.model.units import NS_PER_MS
from ingestor.sim.polygon.event_stream import DueTimes, EventBatch
from ingestor.sim.polygon.server_session import API_KEY

Event = dict[str, Any]
OPENING_MS = 1_790_000_000_000
WAIT_S = 10.0


def due(first: int, count: int, step_ns: int = NS_PER_MS) -> DueTimes:
    """Due times of events a fixed time apart."""
    elapsed_ns = np.arange(first, first + count, dtype=np.int64) * step_ns
    return DueTimes(elapsed_ns, OPENING_MS + elapsed_ns // NS_PER_MS)


def events_of(batch: EventBatch) -> list[Event]:
    """Every event of a batch, read back from its JSON."""
    return list(json.loads(b"[" + batch.elements(slice(0, len(batch))) + b"]"))


class Client:
    """A plain client of the feed: sends messages, hands out elements one at a time."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[list[Event]] = []
        self._elements: list[Event] = []

    def send(self, action: str, params: str) -> None:
        self.socket.send(json.dumps({"action": action, "params": params}))

    def frame(self, timeout_s: float = WAIT_S) -> list[Event]:
        frame = list(json.loads(self.socket.recv(timeout_s)))
        self.frames.append(frame)
        return frame

    def element(self, timeout_s: float = WAIT_S) -> Event:
        while not self._elements:
            self._elements = list(self.frame(timeout_s))
        return self._elements.pop(0)

    def take(self, count: int, topic: str | None = None) -> list[Event]:
        """The next market events, statuses left out."""
        taken: list[Event] = []
        while len(taken) < count:
            element = self.element()
            if element["ev"] != "status" and topic in (None, element["ev"]):
                taken.append(element)
        return taken

    def status(self) -> tuple[str, str]:
        """The next status, market events left out."""
        while (element := self.element())["ev"] != "status":
            pass
        return element["status"], element["message"]

    def goes_on(self, silence_s: float) -> bool:
        """Read what is left; False once nothing has come for so long."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                self.frame(silence_s)
            except TimeoutError:
                return False
        return True

    def log_in(self, key: str = API_KEY) -> None:
        assert self.status() == ("connected", "Connected Successfully")
        self.send("auth", key)
        assert self.status() == ("auth_success", "authenticated")

    def subscribe(self, *params: str) -> None:
        """Subscribe and wait until every parameter is acknowledged by its name."""
        self.send("subscribe", ",".join(params))
        missing = {f"subscribed to: {param}" for param in params}
        while missing:
            status, message = self.status()
            assert status == "success", message
            missing.remove(message)


@contextmanager
def client(url: str, **options: Any) -> Iterator[Client]:
    """A connected client that has not authenticated."""
    options = {"compression": None, "max_size": None, "ping_interval": None, **options}
    with connect(url, close_timeout=0.2, **options) as socket:
        yield Client(socket)


@contextmanager
def subscriber(url: str, *params: str) -> Iterator[Client]:
    """A client that is authenticated and subscribed."""
    with client(url) as joined:
        joined.log_in()
        joined.subscribe(*params)
        yield joined
