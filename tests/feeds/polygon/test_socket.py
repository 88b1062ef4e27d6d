"""One socket against the library's own server, which says what came over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from ingestor.feeds.polygon.socket import Ended, Endpoint, FeedSocket, SocketLimits
from ingestor.model.units import now_ns


@dataclass
class Receiver:
    """Keeps what a socket brings."""

    reads: list[tuple[list[bytes], int]] = field(default_factory=list)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def on_open(self) -> None:
        self.opened.set()

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        self.reads.append((messages, recv_ns))
        self.arrived.set()

    @property
    def messages(self) -> list[bytes]:
        return [message for messages, _ in self.reads for message in messages]


Server = Callable[[ServerConnection], Awaitable[None]]
Client = Callable[[FeedSocket, Receiver], Awaitable[None]]


async def nothing(socket: FeedSocket, receiver: Receiver) -> None:
    """The client only listens."""


def converse(
    server: Server,
    client: Client = nothing,
    limits: SocketLimits | None = None,
    gone: asyncio.Event | None = None,
) -> tuple[Ended, Receiver]:
    """Let a server and a client of one connection do something; return how it ended.

    `gone` is set when the client's side has ended, or has not within seconds.
    """

    async def both() -> tuple[Ended, Receiver]:
        async with serve(server, "127.0.0.1", 0, ping_interval=None) as listening:
            port = next(iter(listening.sockets)).getsockname()[1]
            target = Endpoint(f"ws://127.0.0.1:{port}/stocks", limits or SocketLimits())
            receiver = Receiver()
            socket = FeedSocket(target, receiver, now_ns)
            running = asyncio.create_task(socket.run())
            try:
                await client(socket, receiver)
                return await asyncio.wait_for(running, 30), receiver
            finally:
                if gone is not None:
                    gone.set()

    return uvloop.run(both())


async def stay(connection: ServerConnection) -> None:
    """The server waits for the end."""
    await connection.wait_closed()


def test_messages_come_whole_and_in_order() -> None:
    async def server(connection: ServerConnection) -> None:
        await connection.send("[1]")
        await connection.send([b"[", b"2", b"]"])
        await connection.send(["[", "3]"])
        await connection.send(b"[4]")

    before = now_ns()
    ended, receiver = converse(server)
    assert receiver.messages == [b"[1]", b"[2]", b"[3]", b"[4]"]
    stamps = [recv_ns for _, recv_ns in receiver.reads]
    assert before <= stamps[0] <= stamps[-1] <= now_ns()
    assert stamps == sorted(stamps)
    assert ended == Ended("closed by the server: 1000 (OK)", 1000)


def test_a_message_is_stamped_when_its_last_bytes_were_read() -> None:
    async def server(connection: ServerConnection) -> None:
        await connection.send(parts())

    async def parts() -> AsyncIterator[str]:
        yield "["
        await asyncio.sleep(0.1)
        sent.append(now_ns())
        yield "]"

    sent: list[int] = []
    _, receiver = converse(server)
    assert receiver.messages == [b"[]"]
    assert receiver.reads[0][1] >= sent[0]


def test_what_is_sent_arrives() -> None:
    async def server(connection: ServerConnection) -> None:
        said.append(await connection.recv())

    async def client(socket: FeedSocket, receiver: Receiver) -> None:
        await receiver.opened.wait()
        socket.send('{"action":"auth"}')

    said: list[str | bytes] = []
    converse(server, client)
    assert said == ['{"action":"auth"}']


def test_closing_sends_a_close_frame() -> None:
    async def server(connection: ServerConnection) -> None:
        await connection.wait_closed()
        codes.append(connection.close_code)

    async def client(socket: FeedSocket, receiver: Receiver) -> None:
        await receiver.opened.wait()
        socket.close()

    codes: list[int | None] = []
    ended, _ = converse(server, client)
    assert codes == [1000]
    assert ended.cause == "closed by us: 1000 (OK)"


def test_a_goodbye_that_is_not_answered_cuts_the_connection() -> None:
    async def server(connection: ServerConnection) -> None:
        await connection.send("[]")
        connection.transport.pause_reading()
        await gone.wait()
        connection.transport.abort()

    async def client(socket: FeedSocket, receiver: Receiver) -> None:
        await receiver.arrived.wait()
        socket.close(cause="it was silent")

    gone = asyncio.Event()
    ended, _ = converse(server, client, SocketLimits(close_s=0.1), gone)
    assert ended == Ended("it was silent")


def test_nothing_is_sent_after_the_goodbye() -> None:
    async def server(connection: ServerConnection) -> None:
        said.extend([message async for message in connection])

    async def client(socket: FeedSocket, receiver: Receiver) -> None:
        await receiver.opened.wait()
        socket.close()
        socket.send("more")

    said: list[str | bytes] = []
    converse(server, client)
    assert said == []


def test_a_connection_that_answers_pings_lives() -> None:
    async def server(connection: ServerConnection) -> None:
        await asyncio.sleep(0.3)
        await connection.close(1001, "lunch")

    ended, _ = converse(server, limits=SocketLimits(ping_s=0.05))
    assert ended == Ended("closed by the server: 1001 (going away) lunch", 1001)


def test_a_connection_without_a_byte_between_two_pings_is_dead() -> None:
    async def server(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        await gone.wait()
        connection.transport.abort()

    gone = asyncio.Event()
    ended, _ = converse(server, limits=SocketLimits(ping_s=0.1), gone=gone)
    assert ended == Ended("not a byte within 0.1 s of a ping")


def test_a_message_beyond_the_limit_ends_the_connection() -> None:
    async def server(connection: ServerConnection) -> None:
        await connection.send(b"x" * 1_000)
        await connection.send(b"x" * 1_001)
        await connection.wait_closed()

    ended, receiver = converse(server, limits=SocketLimits(message_bytes=1_000))
    assert receiver.messages == [b"x" * 1_000]
    assert "1009" in ended.cause
    assert "1001 bytes" in ended.cause


def test_messages_of_many_megabytes_are_taken() -> None:
    async def server(connection: ServerConnection) -> None:
        await connection.send(b"x" * 12_000_000)

    _, receiver = converse(server)
    assert [len(message) for message in receiver.messages] == [12_000_000]


def test_a_connection_that_is_cut_is_told_as_such() -> None:
    async def server(connection: ServerConnection) -> None:
        connection.transport.abort()

    ended, _ = converse(server)
    assert ended.cause.startswith("lost without a close frame")
    assert ended.code is None


def test_an_answer_that_is_not_http_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    ended = meet(server)
    assert ended.cause == "did not receive a valid HTTP response"
    assert (ended.opened, ended.unreachable) == (False, False)


def test_a_server_that_never_answers_is_not_waited_for() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    ended = meet(server, SocketLimits(open_s=0.1))
    assert ended.cause == "no connection within 0.1 s"
    assert (ended.opened, ended.unreachable) == (False, False)


def meet(
    server: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    limits: SocketLimits | None = None,
) -> Ended:
    """Go to a server that speaks no WebSocket."""

    async def both() -> Ended:
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            target = Endpoint(f"ws://127.0.0.1:{port}/", limits or SocketLimits())
            return await asyncio.wait_for(FeedSocket(target, Receiver(), now_ns).run(), 5)

    return uvloop.run(both())


def test_what_a_receiver_raises_comes_out() -> None:
    class Broken(Receiver):
        def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
            raise RuntimeError("a fault of ours")

    async def both() -> None:
        async def server(connection: ServerConnection) -> None:
            await connection.send("[]")
            await connection.wait_closed()

        async with serve(server, "127.0.0.1", 0) as listening:
            port = next(iter(listening.sockets)).getsockname()[1]
            target = Endpoint(f"ws://127.0.0.1:{port}/", SocketLimits())
            await asyncio.wait_for(FeedSocket(target, Broken(), now_ns).run(), 5)

    with pytest.raises(RuntimeError, match="a fault of ours"):
        uvloop.run(both())


def test_an_address_is_shown_without_its_secrets() -> None:
    target = Endpoint("wss://me:secret@example.com/stocks?key=secret", SocketLimits())
    assert target.shown == "wss://example.com:443/stocks"


PING, PONG = b"\x89\x00", b"\x8a\x00"
FRAGMENT, MORE = b"\x01\x00", b"\x00\x00"


def flood(data: bytes, limits: SocketLimits | None = None, *, reads: bool = True) -> Ended:
    """A server that writes these bytes, and reads what comes back or does not."""
    gone = asyncio.Event()

    async def server(connection: ServerConnection) -> None:
        if not reads:
            connection.transport.pause_reading()
        connection.transport.write(data)
        await gone.wait()
        connection.transport.abort()

    return converse(server, limits=limits, gone=gone)[0]


@pytest.mark.parametrize("frame", [PING, PONG])
def test_a_flood_of_pings_ends_the_connection(frame: bytes) -> None:
    ended = flood(frame * 500, SocketLimits(control_frames=400))
    assert ended.cause == "more than 400 pings and pongs at once"


def test_pings_at_a_sound_pace_are_answered_for_ever() -> None:
    async def server(connection: ServerConnection) -> None:
        for _ in range(10):
            connection.transport.write(PING * 5)
            await asyncio.sleep(0.05)
        await connection.close()

    ended, _ = converse(server, limits=SocketLimits(ping_s=0.02, control_frames=30))
    assert ended.code == 1000


def test_a_server_that_does_not_read_is_left_before_much_waits_for_it() -> None:
    ping = b"\x89\x7d" + bytes(125)
    limits = SocketLimits(control_frames=10**9, unread_bytes=100_000)
    ended = flood(ping * 100_000, limits, reads=False)
    assert ended.cause.endswith("bytes wait for a server that does not read")
    assert int(ended.cause.split()[0]) < 500_000


def test_a_message_of_too_many_fragments_ends_the_connection() -> None:
    ended = flood(FRAGMENT + MORE * 200_000, SocketLimits(message_fragments=1_000))
    assert ended.cause == "a message of more than 1000 fragments"


def test_a_message_of_some_fragments_is_taken() -> None:
    async def server(connection: ServerConnection) -> None:
        connection.transport.write(FRAGMENT + MORE * 999 + b"\x80\x02[]")
        await connection.close()

    _, receiver = converse(server, limits=SocketLimits(message_fragments=1_001))
    assert receiver.messages == [b"[]"]
