"""The ceiling: what one nats-server takes from one connection that has nothing else to do.

Frames are built before the clock starts and written to a bare blocking socket as one fast-ingest
batch, as far ahead as the server's flow control lets anybody. No client library, no merge, no
encoder: whatever is faster than this is not storing the same messages.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from ingestor.model.errors import StreamError

MAX_FLOW: Final = 500
"""Messages between acknowledgements; the server grants no more."""
OUTSTANDING: Final = 32
"""Acknowledgements waited for at most. Twice what a replay has, to be sure of the ceiling."""
MAX_AHEAD_BYTES: Final = 64 * 1024 * 1024
"""Bytes of large messages under way at most: again twice what a replay has, and nothing that a
server could not keep in memory."""
_RECEIVE_BYTES: Final = 65_536
_TIMEOUT_S: Final = 30.0
_ACK: Final = re.compile(rb'"type":"ack","seq":(\d+)')
_MESSAGE: Final = re.compile(rb"MSG [^\r]*? (\d+)\r\n")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive frames to write at once."""

    data: bytes
    messages: int


@dataclass(frozen=True, slots=True)
class FramesAhead:
    """All frames of a batch, of which the last commits it, the rows they carry and their size.

    The server acknowledges every `flow` messages.
    """

    chunks: Sequence[Chunk]
    rows: int
    size_bytes: int
    flow: int


def flow_of(message_bytes: int) -> int:
    """Return the messages between acknowledgements for messages of about this size."""
    return max(1, min(MAX_FLOW, MAX_AHEAD_BYTES // OUTSTANDING // message_bytes))


class RawConnection:
    """Just enough of the NATS protocol to publish into a stream and read acknowledgements."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection(
            (parts.hostname or "127.0.0.1", parts.port or 4222), _TIMEOUT_S
        )
        self._received = bytearray()
        self.inbox = f"_INBOX.ceiling{time.monotonic_ns()}"
        self._receive_until(b"\r\n")
        self._socket.sendall(
            b'CONNECT {"verbose":false,"pedantic":false,"lang":"bench"}\r\nPING\r\n'
        )
        self._receive_until(b"PONG\r\n")
        self._socket.sendall(f"SUB {self.inbox}.> 1\r\n".encode())

    def request(self, subject: str, body: object) -> dict[str, object]:
        """Ask the JetStream API and return its answer. Raises StreamError."""
        payload = json.dumps(body).encode()
        head = f"PUB {subject} {self.inbox}.request {len(payload)}\r\n"
        self._socket.sendall(head.encode() + payload + b"\r\n")
        answer: dict[str, object] = json.loads(self._next_message())
        if "error" in answer:
            raise StreamError(f"{subject}: {answer['error']}")
        return answer

    def blast(self, frames: FramesAhead) -> float:
        """Write all frames, wait until all are stored, and return the seconds it took.

        Raises StreamError for anything but acknowledgements.
        """
        began = time.perf_counter()
        sent = acked = 0
        for chunk in frames.chunks:
            while sent and sent + chunk.messages > acked + frames.flow * OUTSTANDING:
                acked = self._acknowledged(acked)
            self._socket.sendall(chunk.data)
            sent += chunk.messages
            if not acked and sent == chunk.messages:
                self._next_message()
        self._receive_until(b'"count":')
        return time.perf_counter() - began

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _acknowledged(self, acked: int) -> int:
        self._receive()
        if b'"error"' in self._received:
            raise StreamError(f"the server refuses: {bytes(self._received[-300:])!r}")
        for match in _ACK.finditer(self._received):
            acked = max(acked, int(match[1]))
        del self._received[: max(self._received.rfind(b"MSG "), 0)]
        return acked

    def _next_message(self) -> bytes:
        while True:
            match = _MESSAGE.search(self._received)
            if match and len(self._received) >= match.end() + int(match[1]) + 2:
                body = bytes(self._received[match.end() : match.end() + int(match[1])])
                del self._received[: match.end() + int(match[1]) + 2]
                return body
            self._receive()

    def _receive_until(self, mark: bytes) -> None:
        while mark not in self._received:
            self._receive()
        self._received.clear()

    def _receive(self) -> None:
        data = self._socket.recv(_RECEIVE_BYTES)
        if not data:
            raise StreamError("the server closed the connection")
        self._received += data
