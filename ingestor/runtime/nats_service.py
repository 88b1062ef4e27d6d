"""Services that a run offers over NATS, each on a connection of its own, and who finds them.

``nats micro`` lists them (ADR-32). One steers a replay: a process beside the others, so that nobody
who asks stands in the way of data. Each command is an endpoint of it, such as
``ingestor.control.<run>.pause``, and takes as text what is typed behind its word. The other shows
how a run stands.

A server that is away is looked for until the run ends. One that does not let us subscribe costs the
service alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import uvloop
from nats.micro.request import Request, ServiceError
from nats.micro.service import Service, ServiceConfig

from ingestor import __version__
from ingestor.model.bounds import printable
from ingestor.model.errors import (
    ConfigurationError,
    NatsRefusedError,
    NatsUnreachableError,
    NoDataError,
)
from ingestor.model.replay_control import (
    MAX_COMMAND_BYTES,
    Do,
)
from ingestor.nats.answers import Frame, Status
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.controller import Controller, pause
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.progress_reporter import SpeedMeter
from ingestor.runtime.run_keeper import beat, connection_to
from ingestor.runtime.run_records import RunRecord

log = logging.getLogger(__name__)

CONTROL_SERVICE: Final = "ingestor-replay"
CONTROL_SUBJECT: Final = "ingestor.control"
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


Endpoint = tuple[str, str, Callable[[bytes], Awaitable[bytes]]]
"""Its name, its subject, and what answers a request."""


async def offer(
    options: ConnectOptions,
    subject: str,
    service: ServiceConfig,
    endpoints: Sequence[Endpoint],
    ended: asyncio.Event,
    *,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Offer a service below a subject until `ended`; `tick` is called meanwhile.

    Raises NatsRefusedError.
    """
    while not ended.is_set():
        try:
            async with connection_to(options, subject) as connection:
                await _begin(connection, service, endpoints)
                while not ended.is_set():
                    if connection.failure is not None:
                        raise connection.failure
                    tick()
                    await pause(ended, MEASURE_S)
                # Who asked just now has an answer before the connection goes: else he waits for it.
                await connection.answers(LAST_WORD_S)
        except NatsUnreachableError:
            # The publisher tells who does not come; this one is there when it does.
            await pause(ended, RETRY_S)


async def _begin(
    connection: Connection, config: ServiceConfig, endpoints: Sequence[Endpoint]
) -> None:
    service = Service(connection.client, config)
    await service.start()
    for name, subject, answer in endpoints:

        async def handle(
            request: Request, answer: Callable[[bytes], Awaitable[bytes]] = answer
        ) -> None:
            await request.respond(await answer(request.data))

        await service.add_endpoint(name=name, subject=subject, handler=handle)


async def offer_view(
    options: ConnectOptions, record: RunRecord, look: Callable[[], View], ended: asyncio.Event
) -> None:
    """Let a run be looked at by its number, until it has ended. Raises NatsRefusedError."""

    async def answer(_: bytes) -> bytes:
        return msgspec.json.encode(look())

    config = ServiceConfig(
        name=VIEW_SERVICE,
        version=__version__,
        description="shows how a run stands, as its metrics do",
        metadata=metadata(record),
    )
    endpoint = "view", f"{VIEW_SUBJECT}.{record.run}", answer
    await offer(options, VIEW_SUBJECT, config, [endpoint], ended)


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


async def only_run(connection: Connection, service: str, *, nobody: str, several: str) -> str:
    """Return the only run with a service of this name.

    Raises NoDataError, which says `nobody`, or ConfigurationError where there are `several`.
    """
    found = await running(connection, service)
    if not found:
        raise NoDataError(nobody)
    if len(found) > 1:
        listed = "\n  ".join(one.line for one in found)
        raise ConfigurationError(f"{several}; name one with --run:\n  {listed}")
    return found[0].run


@dataclass(frozen=True, slots=True)
class ControlService:
    """The service of one run: whom it speaks for, and where it is offered."""

    controller: Controller
    options: ConnectOptions
    record: RunRecord

    def serve(self, table: CounterTable, feeds: int, row: int) -> None:
        """Offer the service until publisher and feeds have ended."""
        uvloop.run(self._serve(table, feeds, row))

    async def _serve(self, table: CounterTable, feeds: int, row: int) -> None:
        ended, meter = asyncio.Event(), SpeedMeter()
        heart = asyncio.create_task(beat(table, feeds, row, ended))

        def measure() -> None:
            meter.update(time.monotonic_ns(), table.row(feeds)[Counter.EVENT_TIME_NS])

        run = self.record.run
        config = ServiceConfig(
            name=CONTROL_SERVICE,
            version=__version__,
            description="steers a replay: pause, resume, speed, step, until, seek, loop, stop",
            metadata=metadata(self.record),
            stats_handler=lambda _: self._figures(meter),
        )
        endpoints = [
            (do.value, f"{CONTROL_SUBJECT}.{run}.{do}", partial(self._answered, do, meter, ended))
            for do in Do
        ]
        try:
            await offer(self.options, CONTROL_SUBJECT, config, endpoints, ended, tick=measure)
        except NatsRefusedError as refused:
            log.warning("this replay cannot be steered over NATS: %s", refused)
        finally:
            heart.cancel()

    async def _answered(
        self, do: Do, meter: SpeedMeter, ended: asyncio.Event, payload: bytes
    ) -> bytes:
        """Do what a request asks for. Raises ServiceError, which becomes the answer's headers."""
        if len(payload) > MAX_COMMAND_BYTES:
            raise ServiceError("400", f"a command has at most {MAX_COMMAND_BYTES} bytes")
        words = payload.decode(errors="replace").split()
        try:
            answer = await self.controller.ask_typed([do, *words], ended)
        except ConfigurationError as error:
            raise ServiceError("400", str(error)) from None
        if not answer.ok:
            raise ServiceError("503", answer.text)
        if do is Do.STATUS and answer.state is not None:
            text = answer.state.sentence(meter.speed)
            answer = msgspec.structs.replace(answer, text=text)
        return msgspec.json.encode(msgspec.structs.replace(answer, attained_speed=meter.speed))

    def _figures(self, meter: SpeedMeter) -> object:
        """Return what ``nats micro stats`` shows besides its own."""
        state = self.controller.state
        figures = {} if state is None else msgspec.to_builtins(state)
        return figures | {"attained_speed": meter.speed}
