"""The service by which a replay is steered over NATS: ``nats micro`` lists it (ADR-32).

It is one process beside the others, with a connection of its own, so that nobody who asks stands in
the way of data. Each command is an endpoint, ``ingestor.control.<run>.<command>``, and takes as
text what is typed behind its word. A server that does not let us subscribe costs the service alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

import msgspec
import uvloop
from nats.micro.request import Request, ServiceError
from nats.micro.service import Service, ServiceConfig

from ingestor import __version__
from ingestor.model.errors import ConfigurationError, NatsRefusedError
from ingestor.model.replay_control import (
    MAX_COMMAND_BYTES,
    ControlAnswer,
    Do,
    parse_command,
)
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.controller import Controller
from ingestor.runtime.counters import Counter, CounterTable
from ingestor.runtime.nats_service import metadata, offer
from ingestor.runtime.progress_reporter import SpeedMeter
from ingestor.runtime.run_keeper import beat
from ingestor.runtime.run_records import RunRecord

SERVICE: Final = "ingestor-replay"
SUBJECT: Final = "ingestor.control"

log = logging.getLogger(__name__)


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

        try:
            await offer(
                self.options,
                "ingestor.control",
                lambda connection: self._begin(connection, meter, ended),
                ended,
                measure,
            )
        except NatsRefusedError as refused:
            log.warning("this replay cannot be steered over NATS: %s", refused)
        finally:
            heart.cancel()

    async def _begin(self, connection: Connection, meter: SpeedMeter, ended: asyncio.Event) -> None:
        record = self.record
        service = Service(
            connection.client,
            ServiceConfig(
                name=SERVICE,
                version=__version__,
                description="steers a replay: pause, resume, speed, step, until, stop",
                metadata=metadata(record),
                stats_handler=lambda _: self._figures(meter),
            ),
        )
        await service.start()
        for do in Do:

            async def handle(request: Request, do: Do = do) -> None:
                answer = await self._answered(do, request.data, meter, ended)
                await request.respond(msgspec.json.encode(answer))

            subject = f"{SUBJECT}.{record.run}.{do}"
            await service.add_endpoint(name=do.value, subject=subject, handler=handle)

    async def _answered(
        self, do: Do, payload: bytes, meter: SpeedMeter, ended: asyncio.Event
    ) -> ControlAnswer:
        """Do what a request asks for. Raises ServiceError, which becomes the answer's headers."""
        if len(payload) > MAX_COMMAND_BYTES:
            raise ServiceError("400", f"a command has at most {MAX_COMMAND_BYTES} bytes")
        try:
            words = payload.decode(errors="replace").split()
            # Only its time may be told from where the replay is; asking costs a round to it.
            at_ns = await self.controller.position_ns(ended) if do is Do.UNTIL else None
            command = parse_command([do, *words], at_ns)
        except ConfigurationError as error:
            raise ServiceError("400", str(error)) from None
        answer = await self.controller.ask(command, ended)
        if answer is None:
            raise ServiceError("503", "the replay has come to its end")
        if not answer.ok:
            raise ServiceError("503", answer.text)
        if do is Do.STATUS and answer.state is not None:
            text = answer.state.sentence(meter.speed)
            answer = msgspec.structs.replace(answer, text=text)
        return msgspec.structs.replace(answer, attained_speed=meter.speed)

    def _figures(self, meter: SpeedMeter) -> object:
        """Return what ``nats micro stats`` shows besides its own."""
        state = self.controller.state
        figures = {} if state is None else msgspec.to_builtins(state)
        return figures | {"attained_speed": meter.speed}
