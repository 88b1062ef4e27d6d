"""The server's side of a subscription: a JetStream pull consumer, ephemeral or durable.

Whatever goes wrong in between (a lost connection, a restarted server, a gap), recovering is the
same as starting: `open` again, with the sequence after which to go on.

- **Ephemeral**: acknowledges nothing, lives in the server's memory, and is made anew at the
  sequence wanted. The server removes it some time after its client is gone.
- **Durable**: acknowledges everything up to a message at once (policy ``all``). What was delivered
  and not acknowledged would come again only after `ACK_WAIT_S`, behind newer messages; so the
  consumer is first set back to what is acknowledged. Servers before 2.14 cannot do that: there,
  nothing is asked for until that time is over, and then the old messages come first.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import uuid4

from ingestor.client.connection import ApiRefusedError, Connection
from ingestor.client.start import AtSequence, Start, deliver_policy
from ingestor.errors import StreamError
from ingestor.units import NS_PER_S

ACK_WAIT_S: Final = 10.0
"""How long the server waits for an acknowledgement before it delivers again."""

MAX_ACK_PENDING: Final = 65_536
"""Messages that a durable may have delivered and not acknowledged; beyond, the server waits."""

KEPT_WITHOUT_CLIENT_S: Final = 60.0
"""How long the server keeps an ephemeral consumer that nobody asks."""

RESET_SINCE: Final = (2, 14)
"""First server version that can set a consumer back."""

CONSUMER_NOT_FOUND: Final = 10014

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A consumer that is ready: messages after `last_seq` come, numbered from `next_number` on."""

    name: str
    last_seq: int
    next_number: int


class Consumer(Protocol):
    """What a subscription needs of the server."""

    acknowledges: bool

    async def open(self, last_seq: int | None) -> Opened:
        """Get ready to deliver what follows `last_seq`, None at first. Raises StreamError."""

    async def close(self) -> None:
        """Leave; an ephemeral consumer is gone then."""


class Ephemeral:
    """A consumer that lives as long as its subscription."""

    acknowledges = False

    def __init__(self, connection: Connection, stream: str, subject: str, start: Start) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._start = start
        self._name: str | None = None

    async def open(self, last_seq: int | None) -> Opened:
        """Make a consumer. Raises StreamError."""
        await self.close()
        start = self._start if last_seq is None else AtSequence(last_seq + 1)
        name = uuid4().hex
        config = {
            "name": name,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(KEPT_WITHOUT_CLIENT_S * NS_PER_S),
            "filter_subject": self._subject,
            **deliver_policy(start),
        }
        info = await _create(self._connection, self._stream, config)
        self._name = name
        return _opened(info)

    async def close(self) -> None:
        """Remove it; the server does so later where this fails."""
        name, self._name = self._name, None
        if name is not None:
            await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{name}")


class Durable:
    """A consumer that outlives its subscriptions, of which it serves one at a time."""

    acknowledges = True

    def __init__(
        self, connection: Connection, stream: str, subject: str, start: Start, *, name: str
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._start = start
        self._name = name

    async def open(self, last_seq: int | None) -> Opened:
        """Make it, or take up where it stands. Raises StreamError when it is of another kind."""
        info = await self._info()
        if info is None:
            start = self._start if last_seq is None else AtSequence(last_seq + 1)
            info = await self._make(start)
        self._check(info["config"])
        if info["num_ack_pending"]:
            info = await self._set_back()
        return _opened(info)

    async def close(self) -> None:
        """Leave it to the next subscription."""

    async def _info(self) -> Any:
        try:
            return await self._ask("INFO")
        except ApiRefusedError as refused:
            if refused.err_code == CONSUMER_NOT_FOUND:
                return None
            raise

    async def _make(self, start: Start) -> Any:
        config = {
            "durable_name": self._name,
            "name": self._name,
            "ack_policy": "all",
            "ack_wait": int(ACK_WAIT_S * NS_PER_S),
            "max_ack_pending": MAX_ACK_PENDING,
            "filter_subject": self._subject,
            **deliver_policy(start),
        }
        return await _create(self._connection, self._stream, config)

    async def _set_back(self) -> Any:
        if self._connection.server_version >= RESET_SINCE:
            return await self._ask("RESET")
        log.warning("durable %s: waiting %g s for what comes again", self._name, ACK_WAIT_S)
        await asyncio.sleep(ACK_WAIT_S)
        return await self._ask("INFO")

    async def _ask(self, verb: str) -> Any:
        what = f"durable {self._name} of stream {self._stream}"
        return await self._connection.api(what, f"CONSUMER.{verb}.{self._stream}.{self._name}")

    def _check(self, config: dict[str, Any]) -> None:
        wanted = {"ack_policy": "all", "filter_subject": self._subject}
        for key, value in wanted.items():
            if config.get(key) != value:
                raise StreamError(
                    f"durable {self._name} of stream {self._stream} exists with {key} "
                    f"{config.get(key)!r}, not {value!r}: use another name, or delete it"
                )


async def _create(connection: Connection, stream: str, config: dict[str, Any]) -> Any:
    return await connection.api(
        f"a consumer of {config['filter_subject']} in stream {stream}",
        f"CONSUMER.CREATE.{stream}.{config['name']}",
        {"stream_name": stream, "config": config, "action": "create"},
    )


def _opened(info: dict[str, Any]) -> Opened:
    """What is acknowledged will not come again: without acknowledgements, all that is delivered."""
    floor = info["delivered" if info["config"]["ack_policy"] == "none" else "ack_floor"]
    return Opened(info["name"], floor["stream_seq"], info["delivered"]["consumer_seq"] + 1)
