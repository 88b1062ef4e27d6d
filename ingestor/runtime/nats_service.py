"""Services that a run offers over NATS, each on a connection of its own, and who finds them.

``nats micro`` lists them.

A server that is away is looked for until the run ends. One that does not let us subscribe costs the
service alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from nats.micro.request import Request
from nats.micro.service import Service, ServiceConfig

from ingestor import __version__
from ingestor.model.bounds import printable
from ingestor.model.errors import NatsUnreachableError
from ingestor.nats.answers import Frame, Status
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.run_records import RunRecord

VIEW_SERVICE: Final = "ingestor-run"
VIEW_SUBJECT: Final = "ingestor.view"

RETRY_S: Final = 1.0
"""How often a server that is not there yet is looked for."""
MEASURE_S: Final = 0.2
LAST_WORD_S: Final = 0.5

DISCOVERY_S: Final = 2.0
"""How long the first run has to say that it is there; where there is none the server says so."""
OTHERS_S: Final = 0.3
"""How long the others have after it."""
MAX_SERVICES: Final = 1_000
"""Answers that are read of those that say so."""


class View(msgspec.Struct, frozen=True):
    """How a run stands: the texts of its /metrics and /healthz."""

    metrics: str
    health: str


def metadata(record: RunRecord) -> dict[str, str]:
    """Return what a service says of its run."""
    return {
        "run": record.run,
        "stream": record.stream,
        "subjects": " ".join(record.subjects),
        "host": record.host,
        "pid": str(record.pid),
    }


async def offer(
    options: ConnectOptions,
    name: str,
    begin: Callable[[Connection], Awaitable[None]],
    ended: asyncio.Event,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Have `begin` start a service on each connection until `ended`; `tick` is called meanwhile.

    Raises NatsRefusedError.
    """
    while not ended.is_set():
        try:
            await _offer_once(options, name, begin, ended, tick)
        except NatsUnreachableError:
            # The publisher tells who does not come; this one is there when it does.
            await _pause(ended, RETRY_S)


async def _offer_once(
    options: ConnectOptions,
    name: str,
    begin: Callable[[Connection], Awaitable[None]],
    ended: asyncio.Event,
    tick: Callable[[], None],
) -> None:
    connection = Connection(options, on_change=lambda: None, open_timeout_s=None, name=name)
    await connection.open()
    try:
        await begin(connection)
        while not ended.is_set():
            if connection.failure is not None:
                raise connection.failure
            tick()
            await _pause(ended, MEASURE_S)
        # Who asked just now has an answer before the connection goes: else he waits for it.
        await connection.answers(LAST_WORD_S)
    finally:
        await connection.close()


async def offer_view(
    options: ConnectOptions, record: RunRecord, look: Callable[[], View], ended: asyncio.Event
) -> None:
    """Let a run be looked at by its number, until it has ended. Raises NatsRefusedError."""

    async def begin(connection: Connection) -> None:
        about = "shows how a run stands, as its metrics do"
        config = ServiceConfig(
            name=VIEW_SERVICE, version=__version__, description=about, metadata=metadata(record)
        )
        service = Service(connection.client, config)
        await service.start()

        async def answer(request: Request) -> None:
            await request.respond(msgspec.json.encode(look()))

        subject = f"{VIEW_SUBJECT}.{record.run}"
        await service.add_endpoint(name="view", subject=subject, handler=answer)

    await offer(options, "ingestor.view", begin, ended)


class RunningService(msgspec.Struct, frozen=True):
    """A run as its service tells of it."""

    id: str
    metadata: dict[str, str]

    @property
    def run(self) -> str:
        """What it is named by."""
        return self.metadata.get("run", "")

    @property
    def line(self) -> str:
        """One line for people."""
        host, pid, stream = (self.metadata.get(key, "") for key in ("host", "pid", "stream"))
        return printable(f"{self.run}  stream {stream}, host {host}, pid {pid}")


class _Heard:
    """Takes what services answer."""

    def __init__(self) -> None:
        self.found: list[RunningService] = []
        self.heard = asyncio.Event()

    def receive(self, frames: list[Frame]) -> None:
        for _, _, payload in frames:
            try:
                service = msgspec.json.decode(payload, type=RunningService)
            except (msgspec.MsgspecError, ValueError):
                continue  # another program's service of this name
            if service.run and len(self.found) < MAX_SERVICES:
                self.found.append(service)
                self.heard.set()

    def status(self, _: Status) -> None:
        # Nobody offers such a service: there is nothing to wait for.
        self.heard.set()


async def running(connection: Connection, service: str) -> list[RunningService]:
    """Return the runs with a service of this name that say that they are there."""
    heard = _Heard()
    inbox, subscription = await connection.tap(heard)
    await connection.publish(f"$SRV.PING.{service}", reply=f"{inbox}.run")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCOVERY_S):
            await heard.heard.wait()
            await asyncio.sleep(OTHERS_S if heard.found else 0)
    await connection.untap(subscription)
    return sorted(heard.found, key=lambda one: one.run)


async def _pause(ended: asyncio.Event, pause_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(pause_s):
            await ended.wait()
