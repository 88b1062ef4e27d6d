"""The metrics process: a small HTTP server over a run's counters, for machines and people.

    /metrics   Prometheus text
    /healthz   200, or 503 and the names of processes that give no sign of life, or are without
               their vendor or server for too long
    /          the status page

It reads shared memory and nothing else, so it costs the run nothing, and the run goes on without
it should it fail. Its socket is bound before anything starts: a port that is taken is a wrong
configuration. A thread per request, few of them and each with a time limit, so that a client that
dawdles holds up nobody; the main thread only accepts, and gives the process's own signs of life.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from ingestor.config.schema import Metrics
from ingestor.model.clock import now_ns as wall_ns
from ingestor.model.errors import ConfigurationError
from ingestor.runtime import log as logs
from ingestor.runtime.counters import Counter, CounterTable

METRICS: Final = "metrics"
HEARTBEAT_S: Final = 0.1
REQUEST_TIMEOUT_S: Final = 5.0
MAX_REQUESTS: Final = 16
"""Requests served at once; for a connection beyond that the oldest one is closed."""

_BACKLOG: Final = 16
_MAX_PORT: Final = 65_535
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MetricsPlan:
    """Where metrics are served, bound already, and when a process counts as silent or cut off."""

    listener: socket.socket
    stale_after_s: float
    away_after_s: float


@contextmanager
def listening(metrics: Metrics) -> Iterator[MetricsPlan | None]:
    """Bind the configured address for as long as the run lasts; None where there is none.

    Raises ConfigurationError when it cannot be bound.
    """
    if metrics.listen is None:
        yield None
        return
    with _bound(metrics.listen) as listener:
        log.info("metrics and the status page are at http://%s/", _shown(listener))
        yield MetricsPlan(listener, metrics.stale_after_s, metrics.away_after_s)


def serve(plan: MetricsPlan, names: Sequence[str], table: CounterTable) -> None:
    """Serve until every other process of the run has ended; `names` has this process last."""
    own, others = table.row(len(names) - 1), [table.row(index) for index in range(len(names) - 1)]
    server = _Server(plan, _answers(plan, names, table))
    try:
        while not (table.stopping and all(row[Counter.ENDED] for row in others)):
            own[Counter.HEARTBEAT_NS] = time.monotonic_ns()
            logs.drain()
            server.handle_request()
    finally:
        server.server_close()


@dataclass(frozen=True, slots=True)
class _Answer:
    content_type: str
    text: str
    code: HTTPStatus = HTTPStatus.OK


_Answers = dict[str, Callable[[], _Answer]]


def _answers(plan: MetricsPlan, names: Sequence[str], table: CounterTable) -> _Answers:
    # Only this process pays for the exposition's library, and only where metrics are wanted.
    from ingestor.runtime.run_view import RunView, exposition, status_page  # noqa: PLC0415

    view = RunView(names, table)

    def health() -> _Answer:
        now_ns = time.monotonic_ns()
        bad = {
            "silent": view.silent(now_ns, plan.stale_after_s),
            "without a connection": view.away(now_ns, plan.away_after_s),
        }
        lines = [f"{what}: {_named(ages)}\n" for what, ages in bad.items() if ages]
        if not lines:
            return _Answer(_TEXT, "ok\n")
        return _Answer(_TEXT, "".join(lines), HTTPStatus.SERVICE_UNAVAILABLE)

    def page() -> _Answer:
        times_ns = time.monotonic_ns(), wall_ns()
        return _Answer(_HTML, status_page(view, *times_ns, plan.stale_after_s))

    return {
        "/metrics": lambda: _Answer(_EXPOSITION, exposition(view, time.monotonic_ns())),
        "/healthz": health,
        "/": page,
    }


def _named(ages_s: dict[str, float]) -> str:
    return ", ".join(f"{name} for {age_s:.1f} s" for name, age_s in ages_s.items())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, plan: MetricsPlan, answers: _Answers) -> None:
        super().__init__(plan.listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = plan.listener
        # Accepting must not wait either: a client may be gone again before it is accepted.
        self.socket.settimeout(HEARTBEAT_S)
        self.timeout = HEARTBEAT_S
        self.answers = answers
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        self._open: dict[int, socket.socket] = {}

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Whether there is room; where there is not, the oldest connection makes way."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(StopIteration, OSError, KeyError):
                self._open[next(iter(self._open))].shutdown(socket.SHUT_RDWR)
            if not self._free.acquire(timeout=HEARTBEAT_S):
                return False
        self._open[id(request)] = request
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            del self._open[id(request)]
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        log.debug("a request for metrics was not answered", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "ingestor"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        log.debug(format, *args)

    def _answer(self, *, with_body: bool) -> None:
        make = self.server.answers.get(self.path.partition("?")[0])
        if make is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        answer = make()
        body = answer.text.encode()
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _bound(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if int(port) > _MAX_PORT:
        raise ConfigurationError(f"metrics.listen = {listen!r}: there are ports up to {_MAX_PORT}")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Bound before the run starts, and inherited: a port that is taken costs no run.
        return socket.create_server((host, int(port)), family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"metrics.listen = {listen!r} cannot be listened on: {reason}"
        ) from None


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
