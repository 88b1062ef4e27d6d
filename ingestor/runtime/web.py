"""The metrics process's web server: an ASGI application over the shared memory of a run.

    /          the page for people, which /events feeds four times a second
    /events    server-sent events: the state, and what of samples and notes is new to this client
    /metrics   Prometheus text
    /healthz   200, or 503 and who is unwell, and why
    /control   a command for a replay, posted by one who has the token of the run

The same process shows the texts of /metrics and /healthz over NATS (`nats_service`).

Nothing else can be changed from here. A client is bounded in what it can hold: `MAX_CONNECTIONS`
are open at once, beyond which the oldest makes way; one that sends no request is closed; one that
reads slowly gets the newest state when it has read the one before. Nothing is queued for anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ingestor.model.errors import ConfigurationError, NatsRefusedError
from ingestor.model.replay_control import (
    MAX_COMMAND_BYTES,
    ControlAnswer,
    decode_command,
)
from ingestor.model.units import NS_PER_S
from ingestor.model.units import now_ns as wall_ns
from ingestor.runtime import log as logs
from ingestor.runtime.controller import Controller, pause
from ingestor.runtime.counters import Counter, Role
from ingestor.runtime.health import Health, told
from ingestor.runtime.metrics import MetricsPlan
from ingestor.runtime.nats_service import View, offer_view
from ingestor.runtime.page import Page, frame
from ingestor.runtime.progress_reporter import Progress
from ingestor.runtime.run_view import RunView, exposition

HEARTBEAT_S: Final = 0.1
TICK_NS: Final = NS_PER_S // 4
"""How often the page is brought up to date."""
REQUEST_TIMEOUT_S: Final = 5.0
MAX_CONNECTIONS: Final = 16
"""Open at once; for one beyond that the oldest is closed, and a page that is still open returns."""
NICENESS: Final = 5
GRACE_S: Final = 1
"""How long the end of the run waits for answers that are under way."""

log = logging.getLogger(__name__)

_STATIC: Final = Path(__file__).parent / "static"
_FILES: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_EXPOSITION: Final = "text/plain; version=0.0.4; charset=utf-8"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Web:
    """Serves one run until every other process of it has ended; its own row is number `own`."""

    def __init__(
        self,
        plan: MetricsPlan,
        view: RunView,
        progress: Progress,
        own: int,
        controller: Controller | None = None,
    ) -> None:
        """The `controller` is that of a replay, which whoever has the plan's token may steer."""
        self._plan = plan
        self._controller = controller
        self._view = view
        self._progress = progress
        self._health = Health(view, plan.limits)
        self._page = Page(view, self._health, progress, time.monotonic_ns())
        self._row = view.table.row(own)
        self._others = [
            view.table.row(index) for index, _, _ in view.having(Role.FEED | Role.PUBLISHER)
        ]
        self._ended = asyncio.Event()

    async def serve(self) -> None:
        """Serve; returns when the run is over."""
        config = uvicorn.Config(
            Starlette(routes=self._routes()),
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        server = _Server(config)
        beating = asyncio.create_task(self._beat(server))
        viewing = asyncio.create_task(self._offer_view())
        try:
            await server.serve([self._plan.listener])
            await asyncio.wait((viewing,), timeout=GRACE_S)
        finally:
            beating.cancel()
            viewing.cancel()

    async def _offer_view(self) -> None:
        if self._plan.service is None:
            return
        try:
            await offer_view(*self._plan.service, self._view_now, self._ended)
        except NatsRefusedError as refused:
            # No warning: most runs are looked at over HTTP, and need no such right.
            log.info("this run cannot be looked at over NATS: %s", refused)

    def _view_now(self) -> View:
        return View(self._exposition(), told(self._health.findings(time.monotonic_ns(), wall_ns())))

    async def _beat(self, server: uvicorn.Server) -> None:
        ticked_ns = 0
        while not (self._view.table.stopping and all(row[Counter.ENDED] for row in self._others)):
            now_ns = self._row[Counter.HEARTBEAT_NS] = time.monotonic_ns()
            logs.drain()
            if now_ns - ticked_ns >= TICK_NS:
                ticked_ns = now_ns
                self._page.tick(now_ns, wall_ns())
            await asyncio.sleep(HEARTBEAT_S)
        self._page.tick(time.monotonic_ns(), wall_ns())
        self._ended.set()
        server.should_exit = True

    def _routes(self) -> list[Route]:
        routes = [Route(path, _static(*file)) for path, file in _FILES.items()]
        if self._controller is not None and self._plan.token is not None:
            routes.append(_control(self._controller, self._plan.token, self._ended))
        return [
            *routes,
            Route("/events", self._events),
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
        ]

    def _exposition(self) -> str:
        now_ns = time.monotonic_ns()
        findings = self._health.findings(now_ns, wall_ns())
        unwell = [(one.process, one.what) for one in findings if one.bad]
        return exposition(self._view, self._progress, now_ns, unwell)

    async def _metrics(self, _: Request) -> Response:
        return Response(self._exposition(), headers=_HEADERS, media_type=_EXPOSITION)

    async def _healthz(self, _: Request) -> Response:
        findings = self._health.findings(time.monotonic_ns(), wall_ns())
        code = 503 if any(finding.bad for finding in findings) else 200
        return Response(told(findings), code, headers=_HEADERS, media_type="text/plain")

    async def _events(self, _: Request) -> Response:
        return StreamingResponse(self._news(), headers=_HEADERS, media_type="text/event-stream")

    async def _news(self) -> AsyncIterator[bytes]:
        sampled = noted = 0
        while not self._ended.is_set():
            news = self._page.news(sampled, noted)
            sampled, noted = self._page.sampled, self._page.noted
            yield frame(news)
            await pause(self._ended, TICK_NS / NS_PER_S)
        # The last word: by it the page knows an end from a lost connection.
        yield frame(self._page.news(sampled, noted))


def _static(name: str, media_type: str) -> Any:
    body = (_STATIC / name).read_bytes()

    async def answer(_: Request) -> Response:
        return Response(body, headers=_HEADERS, media_type=media_type)

    return answer


def _control(controller: Controller, token: str, ended: asyncio.Event) -> Route:
    """Return where commands are posted, as JSON or as what is typed behind ``ctl``.

    The answer is a `ControlAnswer` as JSON.
    """

    async def answered(request: Request) -> tuple[int, ControlAnswer]:
        if (why := refusal(request.headers, token)) is not None:
            return 403, ControlAnswer(ok=False, text=why)
        try:
            body = await _body(request)
            if body.lstrip().startswith(b"{"):
                answer = await controller.ask(decode_command(body), ended)
            else:
                words = body.decode(errors="replace").split()
                answer = await controller.ask_typed(words, ended)
        except ConfigurationError as wrong:
            return 400, ControlAnswer(ok=False, text=str(wrong))
        return 200 if answer.ok else 503, answer

    async def answer(request: Request) -> Response:
        code, told = await answered(request)
        body = msgspec.json.encode(told)
        return Response(body, code, headers=_HEADERS, media_type="application/json")

    return Route("/control", answer, methods=["POST"])


def refusal(headers: Headers, token: str) -> str | None:
    """Say why a request may not steer the replay; None if it may.

    The token comes as a header, as in Jupyter, and never from a cookie: a browser adds nothing by
    itself that lets a page of another origin steer, and asks here before it sends such a header for
    one, to which nobody answers. The origin is looked at all the same.
    """
    host = headers.get("host")
    if headers.get("origin", f"http://{host}") not in (f"http://{host}", f"https://{host}"):
        return "a page of another origin may not steer this replay"
    scheme, _, given = headers.get("authorization", "").partition(" ")
    # In a time that does not tell how much of it is right.
    right = secrets.compare_digest(given.strip().encode(), token.encode())
    if scheme.lower() not in ("token", "bearer") or not right:
        return "steering needs the token of this run: it stands in the page's address in the log"
    return None


async def _body(request: Request) -> bytes:
    """Return a command as it was posted, in bounded memory and time. Raises ConfigurationError."""
    body = b""
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_COMMAND_BYTES:
                    break
    except (TimeoutError, ClientDisconnect):
        raise ConfigurationError("the command does not come to its end") from None
    if len(body) > MAX_COMMAND_BYTES:
        raise ConfigurationError(f"a command has at most {MAX_COMMAND_BYTES} bytes")
    return body


class _Server(uvicorn.Server):
    """Leaves signals to the supervisor: a Ctrl-C that reaches this process too must not end it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """A connection that makes way for newer ones, and is closed if it asks for nothing."""

    connected: ClassVar[dict[_Protocol, None]] = {}
    """Those that are open, the oldest first."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.connected[self] = None
        if len(self.connected) > MAX_CONNECTIONS:
            oldest = next(iter(self.connected))
            del self.connected[oldest]
            # Not an orderly close: one that reads nothing would never be gone.
            oldest.transport.abort()
        self.loop.call_later(REQUEST_TIMEOUT_S, self._close_unasked)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected.pop(self, None)
        super().connection_lost(exc)

    def _close_unasked(self) -> None:
        if self not in self.connected or self.cycle:
            return
        self.transport.abort()


def run(
    plan: MetricsPlan, view: RunView, progress: Progress, own: int, controller: Controller | None
) -> None:
    """Serve on an event loop of its own."""
    # Where CPUs are short, data goes first: a page may be late, an event may not.
    os.nice(NICENESS)

    async def serving() -> None:
        await Web(plan, view, progress, own, controller).serve()

    uvloop.run(serving())
