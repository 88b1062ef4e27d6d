"""The control channel: lines of JSON over loopback TCP, one command and one answer a line."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from ingestor.model.errors import ConfigurationError
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.sim.polygon import control_commands as commands
from ingestor.sim.polygon.client_connection import ClientConnection
from ingestor.sim.polygon.market_hub import MarketHub
from ingestor.sim.polygon.market_tape import CENTS_PER_UNIT
from ingestor.sim.polygon.server_session import Market
from ingestor.sim.polygon.simulator import Simulator

LINE_BYTES: Final = 16 * 1024 * 1024
"""Longest command: an exact frame may be large."""

_logger = logging.getLogger(__name__)

Reply = dict[str, Any]


class ControlHandler:
    """Carries out commands on a running simulator; ``quit_event`` is set by ``quit``."""

    def __init__(self, simulator: Simulator) -> None:
        self.quit_event = asyncio.Event()
        self._simulator = simulator
        self._refusal: asyncio.Task[None] | None = None
        self._actions: Final[Mapping[type[commands.Command], Callable[[Any], Reply]]] = {
            commands.Drop: self._each(lambda connection, _: connection.drop()),
            commands.CloseConnections: self._each(
                lambda connection, do: connection.close(do.code, do.reason)
            ),
            commands.HalfOpen: self._each(lambda connection, _: connection.go_half_open()),
            commands.Slow: self._each(lambda connection, do: connection.slow_down(do.bytes_per_s)),
            commands.Refuse: self._refuse,
            commands.Evict: self._evict,
            commands.Duplicate: self._duplicate,
            commands.Malformed: self._malformed,
            commands.Delayed: self._delayed,
            commands.ClockJump: self._clock_jump,
            commands.SetRate: self._set_rate,
            commands.SetPrice: self._set_price,
            commands.SendFrame: self._send,
            commands.Stats: self._stats,
            commands.Quit: self._quit,
        }

    def apply(self, command: commands.Command) -> Reply:
        """Carry out a command and say what was done. Raises `ConfigurationError`."""
        return self._actions[type(command)](command)

    def _hubs(self, market: Market | None) -> list[MarketHub]:
        hubs = self._simulator.hubs
        return list(hubs.values()) if market is None else [hubs[market]]

    def _members(self, market: Market | None) -> list[ClientConnection]:
        return [member for hub in self._hubs(market) for member in hub.members]

    def _each(
        self, action: Callable[[ClientConnection, Any], None]
    ) -> Callable[[commands.Aimed], Reply]:
        """An action on every connection of the markets that are meant."""

        def apply(command: commands.Aimed) -> Reply:
            # A list of its own: a connection that is cut leaves its hub at once.
            connections = [
                connection
                for hub in self._hubs(command.market)
                for connection in list(hub.connections)
            ]
            for connection in connections:
                action(connection, command)
            return {"connections": len(connections)}

        return apply

    def _refuse(self, command: commands.Refuse) -> Reply:
        if self._refusal is not None and not self._refusal.done():
            raise ConfigurationError("new connections are being refused already")
        self._simulator.refuse(command.how)
        self._refusal = asyncio.get_running_loop().create_task(self._accept_in(command.for_s))
        return {"for_s": command.for_s, "how": command.how}

    async def _accept_in(self, for_s: float) -> None:
        await asyncio.sleep(for_s)
        await self._simulator.accept_again()

    def _evict(self, command: commands.Evict) -> Reply:
        evicted = 0
        for hub in self._hubs(command.market):
            members = hub.members
            hub.evict(members)
            evicted += len(members)
        return {"connections": evicted}

    def _duplicate(self, command: commands.Duplicate) -> Reply:
        for hub in self._hubs(command.market):
            hub.duplicate(command.n)
        return {"n": command.n}

    def _malformed(self, command: commands.Malformed) -> Reply:
        kind, members = command.kind, self._members(command.market)
        if kind not in commands.KINDS:
            allowed = ", ".join(commands.KINDS)
            raise ConfigurationError(f"malformed kind {kind!r} is not one of {allowed}")
        for member in members:
            if kind in commands.ELEMENTS:
                member.ride(commands.ELEMENTS[kind])
            elif kind in commands.FRAMES:
                member.send(commands.FRAMES[kind])
            else:
                member.send(commands.BINARY_FRAME, binary=True)
        return {"connections": len(members)}

    def _delayed(self, command: commands.Delayed) -> Reply:
        self._simulator.stock_tape.delay_prints(command.n, command.ms)
        self._simulator.hubs[Market.STOCKS].stream.rewrite()
        return {"n": command.n}

    def _clock_jump(self, command: commands.ClockJump) -> Reply:
        self._simulator.time.jump(command.ms)
        for hub in self._hubs(None):
            # What is written ahead bears the old time.
            hub.stream.rewrite()
        return {"wall_ms": self._simulator.time.wall_ms(time.monotonic_ns())}

    def _set_rate(self, command: commands.SetRate) -> Reply:
        for hub in self._hubs(command.market):
            hub.stream.set_rate(command.events_per_s, time.monotonic_ns())
        self._simulator.reschedule()
        return {"events_per_s": command.events_per_s}

    def _set_price(self, command: commands.SetPrice) -> Reply:
        at_ns = self._simulator.time.elapsed_ns(time.monotonic_ns())
        cents = round(command.value * CENTS_PER_UNIT)
        self._simulator.underlying.move(cents, at_ns, round(command.over_s * NS_PER_S))
        for hub in self._hubs(None):
            hub.stream.rewrite()
        return {"value": command.value}

    def _send(self, command: commands.SendFrame) -> Reply:
        members = self._members(command.market)
        frame = bytes(command.frame) or command.text.encode()
        for member in members:
            member.send(frame)
        return {"connections": len(members)}

    def _stats(self, command: commands.Stats) -> Reply:
        now_ns = time.monotonic_ns()
        elapsed_ns = self._simulator.time.elapsed_ns(now_ns)
        return {
            "cpu_s": time.process_time(),
            "wall_ms": self._simulator.time.wall_ms(now_ns),
            "price": self._simulator.underlying.at(elapsed_ns) / CENTS_PER_UNIT,
            **{hub.market: _hub_stats(hub) for hub in self._hubs(command.market)},
        }

    def _quit(self, _: commands.Quit) -> Reply:
        self.quit_event.set()
        return {}


def _hub_stats(hub: MarketHub) -> Reply:
    stream = hub.stream
    return {
        "rate": stream.rate,
        "generated": stream.sent,
        "finished": stream.finished,
        "events": {"T": hub.events["T"], "Q": hub.events["Q"]},
        "behind_ms": stream.behind_ns / NS_PER_MS,
        "behind_max_ms": stream.behind_max_ns / NS_PER_MS,
        "opened": hub.opened,
        "connections": [_connection_stats(connection) for connection in hub.connections],
        "history": list(hub.history),
    }


def _connection_stats(connection: ClientConnection) -> Reply:
    return {
        "number": connection.number,
        "authenticated": connection.session.authenticated,
        "subscriptions": list(connection.session.subscriptions),
        "events": dict(connection.events),
        "frames": connection.frames,
        "bytes": connection.sent_bytes,
    }


def reply_to(line: bytes, handler: ControlHandler) -> bytes:
    """Carry out one line; ``ok`` is false and ``error`` says why when it cannot be."""
    try:
        command = commands.DECODER.decode(line)
        done = handler.apply(command)
    except (msgspec.DecodeError, ConfigurationError) as error:
        return msgspec.json.encode({"ok": False, "error": str(error)}) + b"\n"
    return msgspec.json.encode({"ok": True, **done}) + b"\n"


class ControlServer:
    """Takes commands for a handler; `start` listens, `stop` ends every conversation."""

    def __init__(self, handler: ControlHandler) -> None:
        self._handler = handler
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
        await asyncio.gather(*self._conversations)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations[task] = writer
        try:
            while line := await reader.readline():
                writer.write(reply_to(line, self._handler))
                await writer.drain()
        except ConnectionError as error:
            _logger.debug("a client left without waiting for its answer: %s", error)
        finally:
            del self._conversations[task]
            writer.close()
