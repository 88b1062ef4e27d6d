"""One WebSocket, from the name of the host to the end of the connection. The feed's only I/O.

`websockets` does the protocol and asyncio the bytes, with nothing between them: what has been read
is parsed and handed on before the next read, in the callback that brought it. So the socket is
drained as fast as its frames are taken, no queue can fill and pause the reading (which is what
makes pongs go unread and a library kill its own connection), and a frame is stamped when its last
byte was read and not when some task got its turn. The library's own connection object costs half
as much again for each frame, for its queue and the switch between tasks.

Compression is not offered: it would have to be undone for every frame, before anything else is
known of it, and whether the vendor would take it is not even known.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from ingestor.feeds.polygon.subscriptions import CLOSE_NORMAL
from ingestor.model.errors import ConfigurationError

PING_PAYLOAD: Final = b"ingestor"
SLICE_BYTES: Final = 64 * 1024
"""Bytes of a read that are parsed at a time: they may hold half as many frames."""

NOBODY_BEHIND: Final = frozenset((502, 503, 504))
"""HTTP statuses of a door-keeper with nobody behind it."""

_quiet: Final = logging.getLogger("ingestor.websockets")
_quiet.setLevel(logging.WARNING)
"""Below that the library logs what is sent, and the key is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketLimits:
    """How long a socket may take, and how large what it brings may be.

    Attributes:
        open_s: From the name of the host to an open WebSocket.
        ping_s: Pause between two pings; without a single byte between them the connection is dead.
        close_s: From our close frame to the server's; then the connection is cut.
        message_bytes: A longer message ends the connection (1009). The vendor names no maximum;
            its own clients take 1 to 4 MB.
        message_fragments: A message in more fragments ends the connection.
        control_frames: More pings and pongs than these between two pings of ours end it.
        unread_bytes: What may wait for a server that does not read; more ends the connection.
    """

    open_s: float = 10.0
    ping_s: float = 20.0
    close_s: float = 1.0
    message_bytes: int = 16 * 1024 * 1024
    message_fragments: int = 65_536
    control_frames: int = 10_000
    unread_bytes: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Ended:
    """How it ended: a cause for the log, and the close code where the server sent one.

    `opened` tells whether there was a WebSocket, `unreachable` that nobody was there to open one.
    """

    cause: str
    code: int | None = None
    opened: bool = True
    unreachable: bool = False


class FrameReceiver(Protocol):
    """Takes what a socket brings, at once; an exception ends the socket and comes out of `run`."""

    def on_open(self) -> None:
        """The WebSocket is open."""

    def on_messages(self, messages: list[bytes], recv_ns: int) -> None:
        """Whole messages of one read, in order, and when that read was."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a socket goes, and how long it may take. Raises `ConfigurationError`."""

    url: str
    limits: SocketLimits

    def __post_init__(self) -> None:
        """Refuse what is no address."""
        try:
            parse_uri(self.url)
        except (InvalidURI, ValueError) as error:
            raise ConfigurationError(f"not the address of a WebSocket: {error}") from None

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        uri = parse_uri(self.url)
        return f"{'wss' if uri.secure else 'ws'}://{uri.host}:{uri.port}{uri.path}"


class FeedSocket(asyncio.Protocol):
    """One connection; `run` it once. `clock` is the wall clock in nanoseconds."""

    def __init__(self, target: Endpoint, receiver: FrameReceiver, clock: Callable[[], int]) -> None:
        self._uri = parse_uri(target.url)
        self._limits = target.limits
        self._receiver = receiver
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._protocol = ClientProtocol(
            self._uri, max_size=self._limits.message_bytes, logger=_quiet
        )
        self._transport: asyncio.Transport | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._fragments: list[bytes] = []
        # Pings cost us a pong each and hold no data, so a server that sends only them is cut.
        self._control_frames = 0
        self._heard = True
        self._cause = ""
        self._cut = False
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # What the feed does with it.

    async def run(self) -> Ended:
        """Open the connection and return when it is gone, whoever ended it.

        Raises what the receiver raises.
        """
        try:
            failure = await self._open()
            return failure or await self._ended
        finally:
            self._stop()

    async def _open(self) -> Ended | None:
        """Return when the WebSocket is open or gone again; how it failed if there was none."""
        try:
            # One timeout for the name, TCP, TLS and the handshake: each of them may hang for ever.
            async with asyncio.timeout(self._limits.open_s):
                await self._loop.create_connection(
                    lambda: self,
                    self._uri.host,
                    self._uri.port,
                    ssl=ssl.create_default_context() if self._uri.secure else None,
                )
                await asyncio.wait((self._opened, self._ended), return_when="FIRST_COMPLETED")
        except OSError as error:
            # A handshake that fails or breaks off was with somebody. `ConnectionRefusedError` is
            # none of these: nobody listens there.
            broken = (ssl.SSLError, ConnectionResetError, ConnectionAbortedError)
            unreachable = not isinstance(error, broken) and self._transport is None
            return Ended(self._why_not_open(error), opened=False, unreachable=unreachable)
        return None

    def send(self, text: str) -> None:
        """Send a message, unless the connection is being closed."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(text.encode())
            self._flush()

    def close(self, code: int = CLOSE_NORMAL, cause: str = "") -> None:
        """Say goodbye, and cut the connection when the server does not answer that soon."""
        self._cause = self._cause or cause
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)
            self._flush()
        # There is nobody to say goodbye to before the handshake is done.
        elif self._transport is not None and self._protocol.state is State.CONNECTING:
            self._transport.abort()

    # What asyncio does with it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP and TLS are up: ask for a WebSocket."""
        self._transport = cast("asyncio.Transport", transport)
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Bytes were read."""
        # The stamp of all messages in this read: taken first, before anything is parsed.
        recv_ns = self._clock()
        self._heard = True
        for first in range(0, len(data), SLICE_BYTES):
            # uvloop reads up to 256,000 bytes at once; the frames of a slice are held as objects.
            self._protocol.receive_data(data[first : first + SLICE_BYTES])
            try:
                self._take_events(recv_ns)
            # asyncio only logs what a callback raises: `run` has to hear of it too.
            except Exception as fault:
                if not self._ended.done():
                    self._ended.set_exception(fault)
                raise
            self._flush()
            # What is left of this read belongs to a connection that is given up.
            if self._cut:
                return

    def eof_received(self) -> None:
        """The server has sent all it will; asyncio closes the connection."""
        self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._protocol.receive_eof()
        if not self._ended.done():
            received, refusal = self._protocol.close_rcvd, self._protocol.handshake_exc
            code = received.code if received else None
            unreachable = (
                isinstance(refusal, InvalidStatus) and refusal.response.status_code in NOBODY_BEHIND
            )
            self._ended.set_result(
                Ended(self._why_lost(exc), code, self._opened.done(), unreachable)
            )

    # Inside.

    def _take_events(self, recv_ns: int) -> None:
        messages: list[bytes] = []
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._take_frame(event, messages)
            # A refused handshake is a Response too; `connection_lost` tells its status.
            elif isinstance(event, Response) and self._protocol.handshake_exc is None:
                self._opened.set_result(None)
                self._set_timer("ping", self._limits.ping_s, self._ping)
                self._receiver.on_open()
        if messages:
            self._receiver.on_messages(messages, recv_ns)

    def _take_frame(self, frame: Frame, messages: list[bytes]) -> None:
        """Text and binary alike: what is in it is for the decoder to judge."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._control_frames += 1
            if self._control_frames > self._limits.control_frames:
                self._abort(f"more than {self._limits.control_frames} pings and pongs at once")
            return
        if frame.fin and not self._fragments:
            # The vendor sends whole messages; this is the path of all but hostile servers.
            messages.append(bytes(frame.data))
            return
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > self._limits.message_fragments:
            self._abort(f"a message of more than {self._limits.message_fragments} fragments")
        if frame.fin:
            messages.append(b"".join(self._fragments))
            self._fragments.clear()

    def _flush(self) -> None:
        """Write what the protocol wants written."""
        transport = self._transport
        if transport is None or self._cut:
            return
        for chunk in self._protocol.data_to_send():
            if chunk:
                transport.write(chunk)
            else:
                transport.close()
        # A few KB are written in a run: a buffer of a megabyte means that nobody reads.
        unread_bytes = transport.get_write_buffer_size()
        if unread_bytes > self._limits.unread_bytes:
            self._abort(f"{unread_bytes} bytes wait for a server that does not read")
        # A server that never closes TCP would else hold the place of the next connection.
        if self._protocol.close_expected() and "close" not in self._timers:
            self._set_timer("close", self._limits.close_s, transport.abort)

    def _ping(self) -> None:
        # Any byte counts as an answer: pongs have been seen missing while data flowed.
        if not self._heard:
            self._cause = f"not a byte within {self._limits.ping_s:g} s of a ping"
            self._stop()
        elif self._protocol.state is State.OPEN:
            self._heard = False
            self._control_frames = 0
            self._protocol.send_ping(PING_PAYLOAD)
            self._flush()
            self._set_timer("ping", self._limits.ping_s, self._ping)

    def _abort(self, cause: str) -> None:
        """Cut the connection, whatever is under way."""
        self._cause = self._cause or cause
        self._cut = True
        self._fragments.clear()
        if self._transport is not None:
            self._transport.abort()

    def _set_timer(self, name: str, delay_s: float, then: Callable[[], None]) -> None:
        self._timers[name] = self._loop.call_later(delay_s, then)

    def _stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        if self._transport is not None:
            self._transport.abort()

    # Words for the log.

    def _why_not_open(self, error: OSError) -> str:
        # The kernel's own timeout has arguments, `asyncio.timeout` has none.
        if isinstance(error, TimeoutError) and not error.args:
            return f"no connection within {self._limits.open_s:g} s"
        if isinstance(error, ConnectionResetError) and self._uri.secure:
            return "the server broke off the TLS handshake"
        # Without its number, which says the same to fewer people.
        return re.sub(r"\[Errno \d+\] ", "", f"{error}") or type(error).__name__

    def _why_lost(self, error: Exception | None) -> str:
        protocol = self._protocol
        # What we did comes first: the library sees only the end that we brought about.
        if self._cause:
            return self._cause
        if protocol.handshake_exc is not None:
            return f"{protocol.handshake_exc}"
        if protocol.close_rcvd is not None and protocol.close_rcvd_then_sent:
            return f"closed by the server: {protocol.close_rcvd}"
        if isinstance(protocol.parser_exc, Exception) and protocol.close_sent is not None:
            return f"closed by us, {protocol.close_sent}: {protocol.parser_exc}"
        if protocol.close_sent is not None:
            return f"closed by us: {protocol.close_sent}"
        return f"lost without a close frame{f': {error}' if error else ''}"
