"""One client's connection, down to the bytes: `websockets` does the protocol, this does the I/O.

The library's protocol without I/O is used, and not its server, because the scenarios are about
bytes: a peer that no longer answers pings, a frame that trickles, a socket that goes without a
close frame.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import BinaryIO, Final, Protocol, cast

from websockets.exceptions import InvalidState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HttpRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from ingestor.sim.polygon.server_session import (
    AUTH_TIMEOUT,
    Answer,
    Request,
    ServerSession,
    StatusElement,
    read_request,
)

RIDE_S: Final = 0.05
"""Longest wait of an element that is to ride in a data frame, when no data flows."""
TRICKLE_S: Final = 0.02
CLOSE_TIMEOUT_S: Final = 2.0
"""After our close frame the peer has this long before the socket is cut."""

_logger = logging.getLogger(__name__)


class Hub(Protocol):
    """The market that a connection joins."""

    buffer_bytes: int
    auth_timeout_s: float

    def joined(self, connection: ClientConnection) -> ServerSession:
        """A client has opened a connection."""

    def received(self, connection: ClientConnection, request: Request) -> Answer:
        """A client has said something readable."""

    def left(self, connection: ClientConnection) -> None:
        """The connection is gone."""


class ClientConnection(asyncio.Protocol):
    """A client; `session` is there from the handshake on.

    ``admit`` says which market a request path leads to, or with which HTTP status it is refused.
    What is sent goes into ``log`` too, whether or not it arrives.
    """

    def __init__(
        self,
        admit: Callable[[str], Hub | HTTPStatus],
        number: int,
        log: BinaryIO | None = None,
    ) -> None:
        self.number = number
        self._log = log
        self.session: ServerSession
        self.events: Counter[str] = Counter()
        self.frames = 0
        self.sent_bytes = 0
        self._admit = admit
        self._hub: Hub | None = None
        self._loop = asyncio.get_running_loop()
        self._protocol = ServerProtocol()
        self._transport: asyncio.Transport
        self._half_open = False
        self._bytes_per_s = 0
        self._outbox = bytearray()
        self._riders: list[bytes] = []
        self._message = bytearray()
        self._acks = 0

    # What the market does with it.

    @property
    def is_open(self) -> bool:
        """Neither side has begun to close."""
        return self._protocol.state is State.OPEN and not self._transport.is_closing()

    def send(self, frame: bytes, *, binary: bool = False) -> None:
        """Send one frame, bytes as they are."""
        try:
            (self._protocol.send_binary if binary else self._protocol.send_text)(frame)
        except InvalidState:
            return
        if self._log is not None and not self._half_open:
            # JSON may hold line ends between its elements, a line of the log may not.
            self._log.write(b"%d %b\n" % (self.number, frame.replace(b"\n", b" ")))
        self.frames += 1
        self._flush()

    def send_elements(self, elements: bytes, events: Mapping[str, int]) -> None:
        """Send elements as an array, with whatever waits for a data frame to ride in."""
        if self._half_open:
            return
        self.events.update(events)
        self._send_array(elements)

    def ride(self, element: bytes) -> None:
        """Put an element into the next data frame, or into one of its own if none comes."""
        if not self._riders:
            self._loop.call_later(RIDE_S, self._send_array)
        self._riders.append(element)

    def say(self, *statuses: StatusElement) -> None:
        """Send statuses as one frame."""
        self.send(b"[%b]" % b",".join(status.text for status in statuses))

    def drop(self) -> None:
        """Cut the TCP connection now: no close frame, unsent bytes are lost."""
        self._transport.abort()

    def hang_up(self) -> None:
        """Close the TCP connection after what is already said, without a close frame."""
        self._transport.close()

    def close(self, code: int, reason: str = "") -> None:
        """Close with a close frame, and cut if the peer does not answer."""
        try:
            self._protocol.send_close(code, reason)
        except InvalidState:
            return
        self._flush()
        self._loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def go_half_open(self) -> None:
        """Neither read nor write any more, and leave the TCP connection as it is."""
        self._half_open = True

    def slow_down(self, bytes_per_s: int) -> None:
        """Let bytes out at this rate only; 0 lifts the limit."""
        if not self._bytes_per_s and bytes_per_s:
            self._loop.call_later(TRICKLE_S, self._trickle)
        self._bytes_per_s = bytes_per_s
        if not bytes_per_s:
            self._write_outbox(len(self._outbox))

    # What asyncio does with it.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP (and TLS) is up."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        # Read and forgotten, not paused: TCP must go on acknowledging what a dead peer is sent.
        if self._half_open:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, HttpRequest):
                hub = self._admit(event.path.partition("?")[0])
                if isinstance(hub, HTTPStatus):
                    response = self._protocol.reject(hub, f"{hub.phrase}\n")
                else:
                    response = self._protocol.accept(event)
                self._protocol.send_response(response)
                self._flush()
                if (
                    not isinstance(hub, HTTPStatus)
                    and response.status_code == HTTPStatus.SWITCHING_PROTOCOLS
                ):
                    self._hub = hub
                    self.session = hub.joined(self)
                    self._loop.call_later(hub.auth_timeout_s, self._expire)
            elif isinstance(event, Frame):
                self._take_frame(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        _logger.debug("connection %d is gone: %s", self.number, exc)
        if self._hub is not None:
            hub, self._hub = self._hub, None
            hub.left(self)

    # Inside.

    def _expire(self) -> None:
        if self._hub is not None and not self.session.authenticated:
            self._reply(Answer((AUTH_TIMEOUT,), hang_up=True))

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return
        self._message += frame.data
        if not frame.fin:
            return
        request = read_request(bytes(self._message))
        self._message.clear()
        if self._hub is not None and request is not None:
            self._reply(self._hub.received(self, request))

    def _reply(self, answer: Answer) -> None:
        """Answer at once; every other acknowledgement rides in a data frame, as some do."""
        if answer.statuses:
            # Seen on the wire: acknowledgements come alone and inside frames of data.
            self._acks += self.session.authenticated
            if self._acks > 1 and self._acks % 2:
                for status in answer.statuses:
                    self.ride(status.text)
            else:
                self.say(*answer.statuses)
        if answer.hang_up:
            self.hang_up()

    def _send_array(self, *elements: bytes) -> None:
        """Send elements and riders as one frame, if there are any."""
        riders, self._riders = self._riders, []
        if elements or riders:
            self.send(b"[%b]" % b",".join((*elements, *riders)))

    def _flush(self) -> None:
        """Write what the protocol wants written; an empty chunk is its end of the stream."""
        for chunk in self._protocol.data_to_send():
            # Taken from the protocol even so: its output would grow for as long as we are silent.
            if self._half_open:
                continue
            if not chunk:
                self._transport.close()
            elif self._bytes_per_s:
                self._outbox += chunk
            else:
                self._transport.write(chunk)
            self.sent_bytes += len(chunk)
        # A client that does not keep up is cut without a word, as the vendor does.
        backlog_bytes = len(self._outbox) + self._transport.get_write_buffer_size()
        if self._hub is not None and backlog_bytes > self._hub.buffer_bytes:
            _logger.warning("connection %d is %d bytes behind: cut", self.number, backlog_bytes)
            self.drop()

    def _trickle(self) -> None:
        if self._bytes_per_s and not self._transport.is_closing():
            self._write_outbox(max(1, round(self._bytes_per_s * TRICKLE_S)))
            self._loop.call_later(TRICKLE_S, self._trickle)

    def _write_outbox(self, count: int) -> None:
        chunk = bytes(self._outbox[:count])
        del self._outbox[:count]
        if chunk and not self._half_open:
            self._transport.write(chunk)
