"""JetStream's JSON API, as far as a publisher needs it.

Raw requests instead of the client library's stream configuration: that one drops fields it does
not know, and a field that is dropped in an update is a setting that is lost.

What is asked about a stream is asked of its leader: a direct get may be answered by a follower,
and lag behind.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingestor.model.bounds import printable
from ingestor.model.errors import StreamError
from ingestor.nats.answers import ApiError
from ingestor.nats.connection import Connection

Json = dict[str, Any]

REQUEST_TIMEOUT_S: Final = 5.0

PULL_TIMEOUT_S: Final = 3.0

CHUNK_MESSAGES: Final = 5_000
"""Stored messages that are read at a time where they have to be compared."""

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
MESSAGE_NOT_FOUND: Final = 10037

_DELIVERED: Final = re.compile(
    r"\$JS\.ACK\.(?:[^.]+\.[^.]+\.)?[^.]+\.([^.]+)\.\d+\.(\d{1,16})\.\d+\.\d+\.\d+(?:\.[^.]+)?"
).fullmatch
"""Reply subject of a delivered message, in it its consumer and the stream's sequence; domain and
account hash stand in front where there are any (ADR-15 of the NATS design records)."""

_UNAVAILABLE: Final = 503
_NOT_ENABLED: Final = ApiError(_UNAVAILABLE, description="JetStream is not enabled on the server")
_LOOKER_LIFE_NS: Final = 5_000_000_000
_PULL_LIFE_NS: Final = 2_000_000_000
_SHOWN_CHARS: Final = 200


class RefusedError(StreamError):
    """JetStream answered with an error."""

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {error}")
        self.error = error

    @property
    def transient(self) -> bool:
        """Whether it may be over soon: a cluster without a leader, a server that starts."""
        return self.error.code == _UNAVAILABLE


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream holds it: under its own sequence and, after a transform, subject."""

    seq: int
    subject: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """Which stream it is, and where it begins and ends.

    `identity` is the time at which it was made: one deleted and made again has another.
    `transform` is its subject transform, source and destination.
    """

    identity: str
    first_seq: int
    last_seq: int
    removed_amid: int
    """Messages removed out of order, between the first one and the last."""
    transform: tuple[str, str] | None
    leader: str
    """See `leader_of`."""


class JetStreamApi:
    """Requests to ``$JS.API``, or what stands for it.

    Every method raises `RefusedError` (a StreamError) when JetStream is off or says no,
    TimeoutError when it says nothing within `timeout_s`, or nothing that makes sense.
    """

    def __init__(self, connection: Connection, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._inbox: str | None = None
        self._pulls = 0
        self._pulled: list[tuple[int, bytes]] = []
        self._looker = ""
        self._wanted = 0
        self._arrived = asyncio.Event()

    async def call(self, what: str, subject: str, body: Json | None = None) -> Json:
        """Make a request; `what` opens the sentence of an error."""
        payload = msgspec.json.encode(body) if body is not None else b""
        subject = f"{self._connection.api_prefix}.{subject}"
        answer = await self._connection.request(subject, payload, self._timeout_s)
        if answer is None:
            raise RefusedError(what, _NOT_ENABLED)
        values = _read(what, answer)
        if "error" in values:
            raise RefusedError(what, _read_error(what, values["error"]))
        return values

    async def stream_info(self, stream: str) -> Json | None:
        """Return configuration and state, or None when there is no such stream."""
        try:
            return await self.call(f"stream {stream}", f"STREAM.INFO.{stream}")
        except RefusedError as refused:
            if refused.error.err_code == STREAM_NOT_FOUND:
                return None
            raise

    async def stream_end(self, stream: str) -> StreamEnd | None:
        """Return where a stream ends, or None when there is no such stream."""
        info = await self.stream_info(stream)
        if info is None:
            return None
        with _sense(f"stream {stream}"):
            state, transform = info["state"], info["config"].get("subject_transform")
            return StreamEnd(
                str(info["created"]),
                int(state["first_seq"]),
                int(state["last_seq"]),
                int(state.get("num_deleted", 0)),
                (str(transform["src"]), str(transform["dest"])) if transform else None,
                leader_of(info),
            )

    async def consumer_info(self, stream: str, consumer: str) -> Json | None:
        """Return a consumer's configuration and state, or None when there is no such consumer."""
        try:
            return await self.call(f"consumer {consumer}", f"CONSUMER.INFO.{stream}.{consumer}")
        except RefusedError as refused:
            if refused.error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise

    async def message(self, stream: str, **which: Any) -> StoredMessage | None:
        """Read a stored message, or None when it is gone.

        `which` is ``seq=``, ``last_by_subj=``, or ``next_by_subj=`` with the lowest ``seq=``.
        """
        what = f"a message of stream {stream}"
        try:
            values = await self.call(what, f"STREAM.MSG.GET.{stream}", which)
        except RefusedError as refused:
            if refused.error.err_code == MESSAGE_NOT_FOUND:
                return None
            raise
        with _sense(what):
            message = values["message"]
            payload = base64.b64decode(message.get("data", ""))
            return StoredMessage(int(message["seq"]), str(message["subject"]), payload)

    async def count(self, stream: str, subjects: Sequence[str], start: int) -> int | None:
        """Have the server count messages of some subjects from a sequence on.

        None where it does not: a work queue has no consumer that only looks.
        """
        looker = await self._make_looker(stream, subjects, start)
        if looker is None:
            return None
        await self._drop_looker(stream, looker[0])
        return looker[1]

    async def stored(
        self, stream: str, subjects: Sequence[str], start: int
    ) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield sequence and payload of some subjects from a sequence on, many at a time.

        Raises LookupError where the server lets nobody only look.
        """
        looker = await self._make_looker(stream, subjects, start)
        if looker is None:
            raise LookupError(stream)
        name, left = looker
        try:
            while left > 0:
                chunk = await self._pull(stream, name, min(left, CHUNK_MESSAGES))
                if not chunk:
                    return  # The rest was removed meanwhile.
                left -= len(chunk)
                yield chunk
        finally:
            await self._drop_looker(stream, name)

    async def _pull(self, stream: str, name: str, messages: int) -> list[tuple[int, bytes]]:
        if self._inbox is None:
            self._inbox = self._connection.new_inbox()
            await self._connection.listen(f"{self._inbox}.*", self._receive)
        self._pulls += 1
        inbox = f"{self._inbox}.{self._pulls}"
        self._looker = name
        self._pulled, self._wanted, self._arrived = [], messages, asyncio.Event()
        body = msgspec.json.encode({"batch": messages, "expires": _PULL_LIFE_NS})
        subject = f"{self._connection.api_prefix}.CONSUMER.MSG.NEXT.{stream}.{name}"
        self._connection.write(f"PUB {subject} {inbox} {len(body)}\r\n".encode() + body + b"\r\n")
        async with asyncio.timeout(PULL_TIMEOUT_S):
            await self._arrived.wait()
        return self._pulled

    def _receive(self, subject: str, data: bytes, status: str | None, reply: str) -> None:
        del subject
        delivered = _DELIVERED(reply)
        if delivered is not None and delivered[1] == self._looker:
            self._pulled.append((int(delivered[2]), data))
        if status is not None or len(self._pulled) >= self._wanted:
            self._arrived.set()

    async def _make_looker(
        self, stream: str, subjects: Sequence[str], start: int
    ) -> tuple[str, int] | None:
        """Make a consumer that only looks; return its name and what it has to look at."""
        config: Json = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "filter_subjects": list(subjects),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _LOOKER_LIFE_NS,
        }
        what = f"looking at stream {stream}"
        body = {"stream_name": stream, "config": config}
        try:
            made = await self.call(what, f"CONSUMER.CREATE.{stream}", body)
        except RefusedError as refused:
            if refused.transient:
                raise
            return None
        with _sense(what):
            return str(made["name"]), int(made["num_pending"])

    async def _drop_looker(self, stream: str, name: str) -> None:
        with contextlib.suppress(TimeoutError, RefusedError):
            await self.call(f"consumer {name}", f"CONSUMER.DELETE.{stream}.{name}")


def leader_of(info: Json) -> str:
    """Return who leads a stream, and since when; empty where there is no choice.

    One that was elected again has forgotten the open batches, as any other leader has. Servers
    older than 2.12 tell the name alone.
    """
    cluster = info.get("cluster") or {}
    return f"{cluster.get('leader', '')} {cluster.get('leader_since', '')}".strip()


@contextlib.contextmanager
def _sense(what: str) -> Any:
    """Turn an answer whose parts are missing or of another type into no answer."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise _nonsense(what, "the answer makes no sense") from None


def _read(what: str, answer: bytes) -> Json:
    try:
        return msgspec.json.decode(answer, type=Json)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise _nonsense(what, f"the answer is no JSON object: {printable(answer)!r}") from None


def _read_error(what: str, values: Any) -> ApiError:
    try:
        return msgspec.convert(values, ApiError)
    except msgspec.ValidationError as error:
        raise _nonsense(what, f"JetStream's error makes no sense: {error}") from None


def _nonsense(what: str, text: str) -> RefusedError:
    """Return an answer that nobody can read as one that may be better next time."""
    return RefusedError(what, ApiError(_UNAVAILABLE, description=text))
