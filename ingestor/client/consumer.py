"""The server's side of a subscription: where it starts, and the JetStream consumer that serves it.

After any failure (a lost connection, a restarted server, a gap), recovering is the same as
starting: `open` again, with the sequence after which to go on.

- **Ephemeral**: acknowledges nothing, lives in the server's memory, and is made again at the
  sequence wanted. The server removes it some time after its client is gone.
- **Durable**: acknowledges everything up to a message at once (policy ``all``). What was delivered
  and not acknowledged would come again only after `ACK_WAIT_S`, and in no certain order; so the
  consumer is first set back to what is acknowledged. Servers before 2.14 cannot do that: there it
  is deleted and made again at that place, which a spare consumer holds meanwhile (`_replace`).
"""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec

from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import ConfigurationError, StreamError
from ingestor.model.units import NS_PER_S, iso_utc, now_ns, to_ns
from ingestor.nats.answers import CONSUMER_NOT_FOUND, RefusedError
from ingestor.nats.connection import Connection

ACK_WAIT_S: Final = 10.0
"""How long the server waits for an acknowledgement before it delivers again."""

MAX_ACK_PENDING: Final = 65_536
"""Messages that a durable may have delivered and not acknowledged; beyond, the server waits."""

KEPT_WITHOUT_CLIENT_S: Final = 60.0
"""How long the server keeps an ephemeral consumer that nobody asks."""

RESET_SINCE: Final = (2, 14)
"""First server version that can set a consumer back."""

SPARE_SUFFIX: Final = "-spare"
"""Appended to a durable's name: the consumer that holds its place while it is made again."""

IN_USE_LOOKS: Final = 4
IN_USE_PAUSE_S: Final = 0.25


T = TypeVar("T")


class From(Enum):
    """Named start positions.

    `BEGINNING`: everything the stream holds; `NEW`: only what is stored from now on;
    `LAST_PER_SUBJECT`: the newest message of every subject, and what is stored from now on.
    """

    BEGINNING = "all"
    NEW = "new"
    LAST_PER_SUBJECT = "last_per_subject"


@dataclass(frozen=True, slots=True)
class Since:
    """Messages stored at or after a moment, int nanoseconds UTC.

    The stream's time is meant, at which a message was stored, not an event's: they are one on a
    live feed, but a replay stores today what happened long ago (`Subscription.between` reads by
    event time). An aware `datetime` is taken, too. Raises ConfigurationError for a naive one, and
    for what is before 1970 or after 2262; `Client.subscribe` does for a time that is still to come.
    """

    ts_ns: int | dt.datetime

    def __post_init__(self) -> None:
        ts_ns = self.ts_ns
        if isinstance(ts_ns, dt.datetime):
            if ts_ns.tzinfo is None:
                raise ConfigurationError(
                    f"{self} has no time zone: use dt.datetime(..., tzinfo=dt.UTC)"
                )
            ts_ns = to_ns(ts_ns)
            object.__setattr__(self, "ts_ns", ts_ns)
        if not isinstance(ts_ns, int) or isinstance(ts_ns, bool):
            raise ConfigurationError(f"{self} is neither int nanoseconds nor a datetime")
        if not 0 <= ts_ns <= MAX_TIME_NS:
            raise ConfigurationError(f"{self} is no time in int nanoseconds of 1970 to 2262")


@dataclass(frozen=True, slots=True, order=True)
class AtSequence:
    """Messages from a stream sequence on; of that one's events, those from `row` on.

    A message of JSON has one event, row 0; a packed one has many. Raises ConfigurationError for
    a number below 1, or a row below 0.
    """

    seq: int
    row: int = 0

    def __post_init__(self) -> None:
        if self.seq < 1 or self.row < 0:
            raise ConfigurationError(
                f"{self} is not a position in a stream: seq starts at 1, row at 0"
            )


CLOCKS_DIFFER_S: Final = 60.0
"""How far a server's clock may be ahead of ours."""

Start = From | Since | AtSequence


def check_start(start: Start) -> None:
    """Raise ConfigurationError for a time that is still to come, by this machine's clock."""
    if isinstance(start, Since) and isinstance(start.ts_ns, int):
        ahead_s = (start.ts_ns - now_ns()) / NS_PER_S
        if ahead_s > CLOCKS_DIFFER_S:
            raise ConfigurationError(
                f"{start} is {ahead_s:,.0f} s in the future: nothing can have been stored since"
            )


def deliver_policy(start: Start) -> dict[str, Any]:
    """Return the part of a JetStream consumer's configuration that says this."""
    match start:
        case Since(int(ts_ns)):
            return {"deliver_policy": "by_start_time", "opt_start_time": iso_utc(ts_ns)}
        case AtSequence(seq):
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}
        case From():
            return {"deliver_policy": start.value}
    raise ConfigurationError(f"{start!r} is not a start: use From, Since or AtSequence")


@dataclass(frozen=True, slots=True)
class Opened:
    """A consumer that is ready: messages after `last_seq` come, numbered from `next_number` on."""

    name: str
    last_seq: int
    next_number: int


class Sequences(msgspec.Struct, frozen=True):
    """How far a consumer has got: the number of its delivery, and the stream's sequence."""

    consumer_seq: int
    stream_seq: int


class ConsumerInfo(msgspec.Struct, frozen=True):
    """What the server tells of a consumer: the parts used here."""

    name: str
    config: dict[str, Any]
    delivered: Sequences
    ack_floor: Sequences
    num_ack_pending: int = 0
    num_waiting: int = 0


class _StreamState(msgspec.Struct, frozen=True):
    last_seq: int


class _StreamInfo(msgspec.Struct, frozen=True):
    state: _StreamState


class Ephemeral:
    """A consumer that lives as long as its subscription."""

    acknowledges = False

    def __init__(self, connection: Connection, stream: str, subject: str, start: Start) -> None:
        self._connection = connection
        self._stream = stream
        self.subject = subject
        self.start = start
        self._name: str | None = None

    async def open(self, last_seq: int | None) -> Opened:
        """Make a consumer of what follows `last_seq`, None at first. Raises StreamError."""
        await self.close()
        start = self.start if last_seq is None else AtSequence(last_seq + 1)
        name = uuid4().hex
        config = {
            "name": name,
            "ack_policy": "none",
            "mem_storage": True,  # its state is ours: a restarted server need not remember it
            # A quorum for what is made again in a moment would only cost time.
            "num_replicas": 1,
            "inactive_threshold": int(KEPT_WITHOUT_CLIENT_S * NS_PER_S),
            "filter_subject": self.subject,
            **deliver_policy(start),
        }
        info = await _create(self._connection, self._stream, config)
        self._name = name
        return _opened(info)

    async def close(self) -> None:
        """Remove it; the server does so later where this fails."""
        name, self._name = self._name, None
        if name is not None:
            api = self._connection.api_prefix
            # Not asked: whether it is gone already changes nothing here.
            await self._connection.publish(f"{api}.CONSUMER.DELETE.{self._stream}.{name}")


class Durable:
    """A consumer that outlives its subscriptions, of which it serves one at a time."""

    acknowledges = True

    def __init__(
        self, connection: Connection, stream: str, subject: str, start: Start, *, name: str
    ) -> None:
        self._connection = connection
        self._stream = stream
        self.subject = subject
        self.start = start
        self._name = name

    async def open(self, last_seq: int | None) -> Opened:
        """Make it, or take up where it stands. Raises StreamError when it is of another kind."""
        info = await self._unused(await self._info(self._name))
        if not self._can_reset:
            # What a life before was killed in the middle of is done to its end.
            if info is None:
                info = await self._recover()
            else:
                await self._remove(self._spare)
        if info is not None:
            self._check(info.config)
        else:
            start = await self._first_start() if last_seq is None else AtSequence(last_seq + 1)
            config = {
                "ack_policy": "all",
                "ack_wait": int(ACK_WAIT_S * NS_PER_S),
                "max_ack_pending": MAX_ACK_PENDING,
                "filter_subject": self.subject,
                **deliver_policy(start),
            }
            info = await self._make(self._name, config)
        if info.num_ack_pending:
            # Delivered and never acknowledged, in a life before: else they come again only after
            # `ACK_WAIT_S`, in no certain order.
            info = await self._set_back(info)
        return _opened(info)

    async def close(self) -> None:
        """Leave it to the next subscription."""

    @property
    def _can_reset(self) -> bool:
        return self._connection.server_version >= RESET_SINCE

    async def _unused(self, info: ConsumerInfo | None) -> ConsumerInfo | None:
        """Refuse a durable that another subscription asks for messages right now.

        Requests of a subscription that has just ended may stay a moment. Raises StreamError.
        """
        for _ in range(IN_USE_LOOKS):
            if info is None or not info.num_waiting:
                return info
            await asyncio.sleep(IN_USE_PAUSE_S)
            info = await self._info(self._name)
        raise StreamError(
            f"durable {self._name} of stream {self._stream} is read by another subscription: "
            "each needs a name of its own"
        )

    async def _first_start(self) -> Start:
        """Return where a new one begins, in words that mean the same when it is made again."""
        if self.start is not From.NEW:
            return self.start
        what = f"the end of stream {self._stream}"
        stream = await self._connection.api(what, f"STREAM.INFO.{self._stream}", _StreamInfo)
        return AtSequence(stream.state.last_seq + 1)

    async def _set_back(self, info: ConsumerInfo) -> ConsumerInfo:
        if self._can_reset:
            return await self._ask("RESET", self._name, ConsumerInfo)
        # A floor of 0 is a consumer that never acknowledged: it begins where it began.
        config, floor = info.config, info.ack_floor
        if floor.consumer_seq:
            kept = {key: value for key, value in config.items() if not key.startswith("opt_start")}
            config = kept | deliver_policy(AtSequence(floor.stream_seq + 1))
        return await self._replace(config)

    async def _replace(self, config: dict[str, Any]) -> ConsumerInfo:
        """Delete and make it again. Killed at any point, one of the two exists."""
        await self._make(self._spare, config)
        await self._remove(self._name)
        return await self._recover() or await self._make(self._name, config)

    async def _recover(self) -> ConsumerInfo | None:
        """Make it as the spare says, and remove that; None if there is none."""
        spare = await self._info(self._spare)
        if spare is None:
            return None
        info = await self._make(self._name, spare.config)
        await self._remove(self._spare)
        return info

    @property
    def _spare(self) -> str:
        return f"{self._name}{SPARE_SUFFIX}"

    async def _make(self, name: str, config: dict[str, Any]) -> ConsumerInfo:
        named = config | {"durable_name": name, "name": name}
        return await _create(self._connection, self._stream, named)

    async def _info(self, name: str) -> ConsumerInfo | None:
        return await self._ask_unless_gone("INFO", name, ConsumerInfo)

    async def _remove(self, name: str) -> None:
        await self._ask_unless_gone("DELETE", name, dict)

    async def _ask_unless_gone(self, verb: str, name: str, kind: type[T]) -> T | None:
        try:
            return await self._ask(verb, name, kind)
        except RefusedError as refused:
            if refused.error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise

    async def _ask(self, verb: str, name: str, kind: type[T]) -> T:
        what = f"durable {name} of stream {self._stream}"
        return await self._connection.api(what, f"CONSUMER.{verb}.{self._stream}.{name}", kind)

    def _check(self, config: dict[str, Any]) -> None:
        wanted = {"ack_policy": "all", "filter_subject": self.subject}
        for key, value in wanted.items():
            if config.get(key) != value:
                raise StreamError(
                    f"durable {self._name} of stream {self._stream} exists with {key} "
                    f"{config.get(key)!r}, not {value!r}: use another name, or delete it"
                )


Consumer = Ephemeral | Durable
"""What serves a subscription."""


async def _create(connection: Connection, stream: str, config: dict[str, Any]) -> ConsumerInfo:
    return await connection.api(
        f"a consumer of {config['filter_subject']} in stream {stream}",
        f"CONSUMER.CREATE.{stream}.{config['name']}",
        ConsumerInfo,
        {"stream_name": stream, "config": config, "action": "create"},
    )


def _opened(info: ConsumerInfo) -> Opened:
    """What is acknowledged will not come again: without acknowledgements, all that is delivered."""
    floor = info.delivered if info.config.get("ack_policy") == "none" else info.ack_floor
    return Opened(info.name, floor.stream_seq, info.delivered.consumer_seq + 1)
