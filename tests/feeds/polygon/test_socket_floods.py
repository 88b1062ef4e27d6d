"""Floods at full size, over as many connections as they take: memory and ticks stay bounded.

A server sends so much in all; each connection is ended by a limit, and the client opens the next.
The client runs in a process of its own, whose memory is then known.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import uvloop
from websockets.utils import accept_key

from ingestor.feeds.polygon.socket import Endpoint, FeedSocket, SocketLimits
from ingestor.model.units import now_ns

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PING: Final = b"\x89\x7d" + bytes(125)
PONG_BYTES: Final = 131
"""Of the answer, which is masked."""

EMPTY: Final = b"\x00\x00"
FIRST: Final = b"\x01\x00"
FRAGMENTS: Final = 20_000_000
PINGS: Final = 880 * 2**20 // PONG_BYTES
AT_ONCE: Final = 4_096

MAX_GROWTH_BYTES: Final = 32 * 2**20
MAX_TICK_S: Final = 1.0
"""CPU time between two turns of the loop: a loaded machine makes no long tick."""

BEAT_S: Final = 0.005
_KEY: Final = re.compile(rb"Sec-WebSocket-Key: (\S+)", re.IGNORECASE)


class Flood:
    """A server that sends `first` on each connection, then `frame`, until there were enough."""

    def __init__(self, frame: bytes, first: bytes, frames: int, *, reads: bool) -> None:
        self._chunk = frame * AT_ONCE
        self._first = first
        self._frames = frames
        self._reads = reads
        self.sent = 0
        self.over = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        request = await reader.readuntil(b"\r\n\r\n")
        found = _KEY.search(request)
        assert found is not None
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept_key(found[1].decode()).encode()
        )
        if not self._reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(self._first)
        try:
            while self.sent < self._frames:
                writer.write(self._chunk)
                await writer.drain()
                self.sent += AT_ONCE
            self.over.set()
        except ConnectionError:
            pass  # the client has had enough of it
        finally:
            writer.transport.abort()


class Receiver:
    """Of a feed to which nothing is said."""

    def on_open(self) -> None:
        pass

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        raise AssertionError(messages[:1])


class Heartbeat:
    """The longest tick of a loop, in seconds of CPU time."""

    def __init__(self) -> None:
        self._before_s = time.process_time()
        self.longest_s = 0.0
        self._beat()

    def _beat(self) -> None:
        now_s = time.process_time()
        self.longest_s = max(self.longest_s, now_s - self._before_s)
        self._before_s = now_s
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)


def _peak_bytes() -> int:
    """Of this process alone; what `getrusage` says begins with what its parent had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def be_flooded(port: int, limits: SocketLimits, said: Connection) -> None:
    """Connect again and again until the server has gone; say how that was."""

    async def run() -> dict[str, Any]:
        causes: Counter[str] = Counter()
        before = _peak_bytes()
        heart = Heartbeat()
        target = Endpoint(f"ws://127.0.0.1:{port}/stocks", limits)
        while not said.poll():
            ended = await FeedSocket(target, Receiver(), now_ns).run()
            causes[re.sub(r"^\d+ bytes", "N bytes", ended.cause)] += 1
        peak = _peak_bytes()
        return {
            "connections": causes.total(),
            "causes": dict(causes.most_common(3)),
            "peak_bytes": peak,
            "growth_bytes": peak - before,
            "longest_tick_s": round(heart.longest_s, 3),
        }

    said.send(uvloop.run(run()))


async def flooded(flood: Flood, limits: SocketLimits) -> dict[str, Any]:
    """Have a process flooded; return what it says of it."""
    listening = await asyncio.start_server(flood.talk, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=be_flooded, args=(port, limits, theirs))
    child.start()
    try:
        await flood.over.wait()
        ours.send("over")
        found: dict[str, Any] = await asyncio.to_thread(ours.recv)
    finally:
        child.join(10)
        child.kill()
        listening.close()
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "limits", "cause"),
    [
        ("fragments", SocketLimits(), "a message of more than 65536 fragments"),
        ("pings", SocketLimits(), "more than 10000 pings and pongs at once"),
        (
            "pings",
            SocketLimits(control_frames=10**9),
            "N bytes wait for a server that does not read",
        ),
    ],
    ids=["fragments", "pings", "unread pongs"],
)
def test_a_flood_of_full_size_costs_bounded_memory_and_no_long_tick(
    kind: str, limits: SocketLimits, cause: str
) -> None:
    async def run() -> dict[str, Any]:
        if kind == "pings":
            return await flooded(Flood(PING, b"", PINGS, reads=False), limits)
        return await flooded(Flood(EMPTY, FIRST, FRAGMENTS, reads=True), limits)

    found = asyncio.run(run())
    print(json.dumps({"kind": kind} | found))
    assert cause in found["causes"]
    assert found["growth_bytes"] < MAX_GROWTH_BYTES
    assert found["longest_tick_s"] < MAX_TICK_S
