"""Who listens on a local port? A few lines of the NATS client protocol over a blocking socket.

A NATS server speaks first: a line ``INFO {json}`` (docs.nats.io, "Client Protocol"), which says
what it is before anybody logs in.
"""

from __future__ import annotations

import socket
from typing import IO, Final

import msgspec

LOOPBACK: Final = "127.0.0.1"
ANSWER_TIMEOUT_S: Final = 2.0
"""How long a local server may take for one line."""
MAX_LINE_BYTES: Final = 65_536
"""An INFO line is below a kilobyte; whatever sends more without a line end is not NATS."""

_INBOX: Final = "_INBOX.ingestor.probe"
_ASK_JETSTREAM: Final = (
    'CONNECT {"verbose":false,"pedantic":false,"name":"ingestor-probe"}\r\n'
    f"SUB {_INBOX} 1\r\nPUB $JS.API.INFO {_INBOX} 0\r\n\r\nPING\r\n"
).encode()


class NotNatsError(Exception):
    """Something listens, and it is not a NATS server."""


class ServerInfo(msgspec.Struct, frozen=True):
    """What a server says of itself."""

    version: str
    jetstream: bool = False
    server_name: str = ""


def server_info(port: int) -> ServerInfo | None:
    """What listens on a loopback port; None when nothing does. Raises NotNatsError."""
    try:
        with socket.create_connection((LOOPBACK, port), ANSWER_TIMEOUT_S) as connection:
            return _read_info(connection.makefile("rb"))
    except ConnectionRefusedError:
        return None
    except OSError as error:
        raise NotNatsError(str(error)) from error


def jetstream_answers(port: int) -> bool:
    """Whether the server on a loopback port answers a JetStream request of a plain client."""
    try:
        with socket.create_connection((LOOPBACK, port), ANSWER_TIMEOUT_S) as connection:
            lines = connection.makefile("rb")
            if not _read_info(lines).jetstream:
                return False
            connection.sendall(_ASK_JETSTREAM)
            return _has_account_info(lines)
    except (OSError, NotNatsError):
        return False


def _read_info(lines: IO[bytes]) -> ServerInfo:
    line = lines.readline(MAX_LINE_BYTES)
    if not line.startswith(b"INFO "):
        raise NotNatsError("it does not greet as a NATS server does")
    try:
        return msgspec.json.decode(line[5:], type=ServerInfo)
    except msgspec.DecodeError as error:
        raise NotNatsError(str(error)) from error


def _has_account_info(lines: IO[bytes]) -> bool:
    """Read on to the answer; it may come before or after the PONG."""
    while line := lines.readline(MAX_LINE_BYTES):
        if line.startswith(b"MSG "):
            body = lines.readline(MAX_LINE_BYTES)
            return b"account_info_response" in body and b'"error"' not in body
        if line.startswith(b"-ERR"):
            return False
    return False
