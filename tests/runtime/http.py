"""A plain HTTP client for the metrics of a run."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Got:
    code: int
    content_type: str | None
    text: str


def fetch(
    port: int,
    path: str,
    method: str = "GET",
    host: str = "127.0.0.1",
    body: bytes | None = None,
    **headers: str,
) -> Got:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return Got(answer.status, answer.getheader("Content-Type"), answer.read().decode())


def events(port: int) -> Iterator[dict[str, Any]]:
    """What a page is sent, event by event."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        for line in connection.makefile("rb"):
            if line.startswith(b"data: "):
                yield json.loads(line[6:])


def fetch_when_up(port: int, path: str, timeout_s: float = 20.0) -> Got:
    """Fetch from a program that is just starting."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return fetch(port, path)
        except OSError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.02)
