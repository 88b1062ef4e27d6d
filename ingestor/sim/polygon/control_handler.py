"""The control channel: lines of JSON over loopback TCP, one command and one answer a line.

A command is told apart by ``do``; the docstrings of the commands are what ``--help`` shows. The
malformed elements and frames are things that a feed must never send, and sometimes does.
"""

# What a command does stands in the docstring of its class, where `--help` takes it from.
# ruff: noqa: D102

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from ingestor.model.errors import ConfigurationError
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon.client_connection import ClientConnection
from ingestor.sim.polygon.event_stream import CENTS_PER_UNIT
from ingestor.sim.polygon.server_session import SimMarket
from ingestor.sim.polygon.simulator import MarketHub, Simulator

LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest command: an exact frame may be large."""

_logger = logging.getLogger(__name__)

ELEMENTS: Final[Mapping[str, bytes]] = {
    "no_price": b'{"ev":"T","sym":"SPY","i":"x1","x":4,"s":100,"t":1790000000000,"q":1}',
    "types": b'{"ev":"T","sym":"SPY","i":7,"x":"4","p":"686.0","s":"100","t":"now","q":null}',
    "float_time": b'{"ev":"T","sym":"SPY","i":"x2","x":4,"p":686.0,"s":1,"t":1.79e12,"q":1.5}',
    "seconds": b'{"ev":"T","sym":"SPY","i":"x3","x":4,"p":686.0,"s":100,"t":1790000000,"q":1}',
    "negative": b'{"ev":"T","sym":"SPY","i":"x4","x":4,"p":-1,"s":-5,"t":1790000000000,"q":1}',
    "ticker": b'{"ev":"T","sym":"O:SPY","x":302,"p":1.5,"s":1,"t":1790000000000,"q":1}',
    "unknown_ev": b'{"ev":"ZZ","sym":"SPY","t":1790000000000}',
    "no_ev": b'{"sym":"SPY","p":686.0,"s":100,"t":1790000000000}',
    "number": b"42",
    "null": b"null",
    "array": b"[]",
}
"""Bad elements: they ride in a frame of good events, which must survive."""

FRAMES: Final[Mapping[str, bytes]] = {
    "json": b"this is not JSON",
    "truncated": b'[{"ev":"T","sym":"SPY","i":"x5","x":4,"p":686.0,"s":10',
    "object": b'{"ev":"T","sym":"SPY","i":"x6","x":4,"p":686.0,"s":1,"t":1790000000000,"q":1}',
    "empty_array": b"[]",
    "empty": b"",
    "utf8": b'[{"ev":"T","sym":"\xff\xfe"}]',
}
"""Bad text frames, sent as frames of their own; ``utf8`` breaks the WebSocket rules as well."""

BINARY: Final = "binary"
"""A good array in a binary frame."""
BINARY_FRAME: Final = b'[{"ev":"status","status":"success","message":"in binary"}]'

KINDS: Final = (*ELEMENTS, *FRAMES, BINARY)


MAX_RATE: Final = 1_000_000

NonNegative = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Rate = Annotated[int, msgspec.Meta(ge=0, le=MAX_RATE)]
Reply = dict[str, Any]


class Command(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True
):
    """A command to the simulator as a whole; called with it, it says what was done."""

    def __call__(self, simulator: Simulator) -> Reply:
        raise NotImplementedError


class Aimed(Command, frozen=True, kw_only=True):
    """A command about the connections of one market, or of both, which is the default."""

    market: SimMarket | None = None

    def hubs(self, simulator: Simulator) -> list[MarketHub]:
        """The markets that are meant."""
        return [hub for hub in simulator.hubs.values() if self.market in (None, hub.market)]

    def members(self, simulator: Simulator) -> list[ClientConnection]:
        """Their authenticated connections."""
        return [member for hub in self.hubs(simulator) for member in hub.members]

    def each(self, simulator: Simulator, action: Callable[[ClientConnection], None]) -> Reply:
        """Do something to every connection, also to those that are not authenticated."""
        # A list of its own: a connection that is cut leaves its hub while we iterate.
        connections = [one for hub in self.hubs(simulator) for one in hub.connections]
        for connection in connections:
            action(connection)
        return {"connections": len(connections)}


class Drop(Aimed, frozen=True, kw_only=True, tag="drop"):
    """Cut the connections: no close frame, unsent bytes are lost."""

    def __call__(self, simulator: Simulator) -> Reply:
        return self.each(simulator, ClientConnection.drop)


class CloseConnections(Aimed, frozen=True, kw_only=True, tag="close"):
    """Close the connections with a close frame."""

    code: int = 1001
    reason: str = ""

    def __call__(self, simulator: Simulator) -> Reply:
        return self.each(simulator, lambda connection: connection.close(self.code, self.reason))


class HalfOpen(Aimed, frozen=True, kw_only=True, tag="half_open"):
    """Fall silent: nothing sent, no ping answered, TCP stays up."""

    def __call__(self, simulator: Simulator) -> Reply:
        return self.each(simulator, ClientConnection.go_half_open)


class Slow(Aimed, frozen=True, kw_only=True, tag="slow"):
    """Let bytes trickle at this rate, cutting frames anywhere; 0 lifts it."""

    bytes_per_s: NonNegative

    def __call__(self, simulator: Simulator) -> Reply:
        return self.each(simulator, lambda connection: connection.slow_down(self.bytes_per_s))


class Refuse(Command, frozen=True, kw_only=True, tag="refuse"):
    """Take no new connections for a while: ``port`` stops listening, ``http`` answers 503."""

    for_s: Annotated[float, msgspec.Meta(ge=0)]
    how: Literal["port", "http"] = "port"

    def __call__(self, simulator: Simulator) -> Reply:
        simulator.refuse(self.how, self.for_s)
        return {"for_s": self.for_s, "how": self.how}


class Evict(Aimed, frozen=True, kw_only=True, tag="evict"):
    """Say max_connections, then close with 1008."""

    def __call__(self, simulator: Simulator) -> Reply:
        # Counted first: whoever is evicted leaves its hub.
        evicted = self.members(simulator)
        for hub in self.hubs(simulator):
            hub.evict(hub.members)
        return {"connections": len(evicted)}


class Duplicate(Aimed, frozen=True, kw_only=True, tag="duplicate"):
    """Send each of the next n events twice."""

    n: Positive = 1

    def __call__(self, simulator: Simulator) -> Reply:
        for hub in self.hubs(simulator):
            hub.duplicate(self.n)
        return {"n": self.n}


class Malformed(Aimed, frozen=True, kw_only=True, tag="malformed"):
    """Send something broken; kinds: see `malformed`."""

    kind: str

    def __call__(self, simulator: Simulator) -> Reply:
        if self.kind not in KINDS:
            allowed = ", ".join(KINDS)
            raise ConfigurationError(f"malformed kind {self.kind!r} is not one of {allowed}")
        members = self.members(simulator)
        for member in members:
            if self.kind in ELEMENTS:
                member.ride(ELEMENTS[self.kind])
            elif self.kind in FRAMES:
                member.send(FRAMES[self.kind])
            else:
                member.send(BINARY_FRAME, binary=True)
        return {"connections": len(members)}


class Delayed(Command, frozen=True, kw_only=True, tag="delayed"):
    """Make the next n stock trades late prints, reported ms after they happened."""

    ms: Positive
    n: Positive = 1

    def __call__(self, simulator: Simulator) -> Reply:
        simulator.stock_tape.delay_prints(self.n, self.ms)
        # Events are written ahead: those that wait were made without the delay.
        simulator.hubs[SimMarket.STOCKS].stream.rewrite()
        return {"n": self.n}


class ClockJump(Command, frozen=True, kw_only=True, tag="clock_jump"):
    """Set the vendor's clock (every t from now on) forward by ms, or back."""

    ms: int

    def __call__(self, simulator: Simulator) -> Reply:
        simulator.time.jump(self.ms)
        # What is written ahead bears the old time.
        simulator.rewrite()
        return {"wall_ms": simulator.time.wall_ms(time.monotonic_ns())}


class SetRate(Aimed, frozen=True, kw_only=True, tag="rate"):
    """Change the event rate; 0 is a quiet market that still answers pings."""

    events_per_s: Rate
    market: SimMarket | None = SimMarket.STOCKS

    def __call__(self, simulator: Simulator) -> Reply:
        for hub in self.hubs(simulator):
            hub.stream.set_rate(self.events_per_s, time.monotonic_ns())
        # The timer stands at an event of the old rate, or at none where that was 0.
        simulator.reschedule()
        return {"events_per_s": self.events_per_s}


class SetPrice(Command, frozen=True, kw_only=True, tag="price"):
    """Let SPY go to a price: at once, or in a straight line over some seconds."""

    value: Annotated[float, msgspec.Meta(ge=1)]
    over_s: Annotated[float, msgspec.Meta(ge=0)] = 0

    def __call__(self, simulator: Simulator) -> Reply:
        at_ns = simulator.time.elapsed_ns(time.monotonic_ns())
        cents = round(self.value * CENTS_PER_UNIT)
        simulator.underlying.move(cents, at_ns, round(self.over_s * NS_PER_S))
        simulator.rewrite()
        return {"value": self.value}


class SendFrame(Aimed, frozen=True, kw_only=True, tag="send"):
    """Send an exact frame: ``frame`` is JSON, sent byte for byte; ``text`` is any text."""

    frame: msgspec.Raw = msgspec.Raw()
    text: str = ""
    market: SimMarket | None = SimMarket.STOCKS

    def __call__(self, simulator: Simulator) -> Reply:
        members = self.members(simulator)
        for member in members:
            member.send(bytes(self.frame) or self.text.encode())
        return {"connections": len(members)}


class Stats(Aimed, frozen=True, kw_only=True, tag="stats"):
    """Report counts, connections, subscriptions and what every client has said."""

    def __call__(self, simulator: Simulator) -> Reply:
        now_ns = time.monotonic_ns()
        price_cents = simulator.underlying.at(simulator.time.elapsed_ns(now_ns))
        return {
            "cpu_s": time.process_time(),
            "wall_ms": simulator.time.wall_ms(now_ns),
            "price": price_cents / CENTS_PER_UNIT,
            **{hub.market: hub_stats(hub) for hub in self.hubs(simulator)},
        }


class Quit(Command, frozen=True, kw_only=True, tag="quit"):
    """Stop the simulator."""

    def __call__(self, simulator: Simulator) -> Reply:
        simulator.quit_event.set()
        return {}


AnyCommand = (
    Drop | CloseConnections | HalfOpen | Slow | Refuse | Evict | Duplicate | Malformed | Delayed
    | ClockJump | SetRate | SetPrice | SendFrame | Stats | Quit
)  # fmt: skip

COMMANDS: Final[tuple[type[Command], ...]] = AnyCommand.__args__
DECODER: Final = msgspec.json.Decoder(AnyCommand)


def hub_stats(hub: MarketHub) -> Reply:
    """What `Stats` says about one market."""
    stream = hub.stream
    return {
        "rate": stream.rate,
        "generated": stream.sent,
        "finished": stream.finished,
        "events": {"T": hub.events["T"], "Q": hub.events["Q"]},
        "behind_ms": stream.behind_ns / NS_PER_MS,
        "behind_max_ms": stream.behind_max_ns / NS_PER_MS,
        "opened": hub.opened,
        "connections": [
            {
                "number": connection.number,
                "authenticated": connection.session.authenticated,
                "subscriptions": list(connection.session.subscriptions),
                "events": dict(connection.events),
                "frames": connection.frames,
                "bytes": connection.sent_bytes,
            }
            for connection in hub.connections
        ],
        "history": list(hub.history),
    }


def reply_to(line: bytes, simulator: Simulator) -> bytes:
    """Carry out one line; ``ok`` is false and ``error`` says why when it cannot be."""
    try:
        reply = {"ok": True, **DECODER.decode(line)(simulator)}
    except (msgspec.DecodeError, ConfigurationError) as error:
        reply = {"ok": False, "error": str(error)}
    return msgspec.json.encode(reply) + b"\n"


class ControlHandler:
    """Takes commands for a simulator; `start` listens, `stop` ends every conversation."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._server: asyncio.Server | None = None
        self._conversations: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. Raises `OSError` when it is taken."""
        self._server = await asyncio.start_server(self._converse, host, port, limit=LINE_BYTES)
        bound_port: int = self._server.sockets[0].getsockname()[1]
        return bound_port

    async def stop(self) -> None:
        """Close what is open."""
        if self._server is not None:
            self._server.close()
        for writer in self._conversations.values():
            writer.close()
        # A reader that is closed under a conversation ends it; nothing is cancelled in a write.
        await asyncio.gather(*self._conversations)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations[task] = writer
        try:
            while line := await reader.readline():
                writer.write(reply_to(line, self._simulator))
                await writer.drain()
        except ConnectionError as error:
            _logger.debug("a client left without waiting for its answer: %s", error)
        finally:
            del self._conversations[task]
            writer.close()
