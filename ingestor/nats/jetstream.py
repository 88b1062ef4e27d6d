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

from ingestor.nats.answers import (
    CONSUMER_NOT_FOUND,
    MESSAGE_NOT_FOUND,
    STREAM_NOT_FOUND,
    Frame,
    RefusedError,
    Status,
    nonsense,
)
from ingestor.nats.connection import REQUEST_TIMEOUT_S, Connection

Json = dict[str, Any]

PULL_TIMEOUT_S: Final = 3.0

CHUNK_MESSAGES: Final = 5_000
"""Stored messages that are read at a time where they have to be compared."""

_DELIVERED: Final = re.compile(
    rb"\$JS\.ACK\.(?:[^.]+\.[^.]+\.)?[^.]+\.([^.]+)\.\d+\.(\d{1,16})\.\d+\.\d+\.\d+(?:\.[^.]+)?"
).fullmatch
"""Reply subject of a delivered message, in it its consumer and the stream's sequence; domain and
account hash stand in front where there are any (ADR-15 of the NATS design records)."""

_LOOKER_LIFE_NS: Final = 5_000_000_000
_PULL_LIFE_NS: Final = 2_000_000_000


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


@dataclass(frozen=True, slots=True)
class StreamContents:
    """What a stream holds: times of storing as the server writes them, messages by subject."""

    messages: int
    size_bytes: int
    first_seq: int
    last_seq: int
    first_stored: str
    last_stored: str
    subjects: dict[str, int]


class JetStreamApi:
    """What a stream and its consumers are asked, all of it in JSON.

    Every method raises `RefusedError` (a StreamError) when JetStream is off, says no or what makes
    no sense, `NoAnswerError` (a TimeoutError as well) when it says nothing within `timeout_s`, and
    NatsRefusedError.
    """

    def __init__(self, connection: Connection, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._inbox: str | None = None
        self._pulls = 0
        self._pulled: list[tuple[int, bytes]] = []
        self._looker = b""
        self._wanted = 0
        self._arrived = asyncio.Event()

    async def call(self, what: str, subject: str, body: Json | None = None) -> Json:
        """Make a request; `what` opens the sentence of an error."""
        api, timeout_s = self._connection.api, self._timeout_s
        return await api(what, subject, dict, body, timeout_s=timeout_s)

    async def _find(
        self, missing: int, what: str, subject: str, body: Json | None = None
    ) -> Json | None:
        """Make a request; None if the server's error is `missing`."""
        try:
            return await self.call(what, subject, body)
        except RefusedError as refused:
            if refused.error.err_code == missing:
                return None
            raise

    async def stream_info(self, stream: str) -> Json | None:
        """Return configuration and state, or None when there is no such stream."""
        return await self._find(STREAM_NOT_FOUND, f"stream {stream}", f"STREAM.INFO.{stream}")

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

    async def stream_contents(self, stream: str) -> StreamContents | None:
        """Return what a stream holds, or None when there is no such stream."""
        what, subject = f"stream {stream}", f"STREAM.INFO.{stream}"
        info = await self._find(STREAM_NOT_FOUND, what, subject, {"subjects_filter": ">"})
        if info is None:
            return None
        with _sense(what):
            state = info["state"]
            subjects = state.get("subjects") or {}
            return StreamContents(
                int(state["messages"]),
                int(state["bytes"]),
                int(state["first_seq"]),
                int(state["last_seq"]),
                str(state["first_ts"]),
                str(state["last_ts"]),
                {str(one): int(count) for one, count in sorted(subjects.items())},
            )

    async def consumer_info(self, stream: str, consumer: str) -> Json | None:
        """Return a consumer's configuration and state, or None when there is no such consumer."""
        subject = f"CONSUMER.INFO.{stream}.{consumer}"
        return await self._find(CONSUMER_NOT_FOUND, f"consumer {consumer}", subject)

    async def message(self, stream: str, **which: Any) -> StoredMessage | None:
        """Read a stored message, or None when it is gone.

        `which` is ``seq=``, ``last_by_subj=``, or ``next_by_subj=`` with the lowest ``seq=``.
        """
        what = f"a message of stream {stream}"
        values = await self._find(MESSAGE_NOT_FOUND, what, f"STREAM.MSG.GET.{stream}", which)
        if values is None:
            return None
        with _sense(what):
            message = values["message"]
            # JSON carries bytes as base64; a message without payload leaves the key out.
            payload = base64.b64decode(message.get("data", ""))
            return StoredMessage(int(message["seq"]), str(message["subject"]), payload)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """Read the newest message under a subject, None when there is none, or no stream."""
        try:
            return await self.message(stream, last_by_subj=subject)
        except RefusedError as refused:
            if refused.error.err_code == STREAM_NOT_FOUND:
                return None
            raise

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
                messages = min(left, CHUNK_MESSAGES)
                if self._inbox is None:
                    self._inbox, _ = await self._connection.tap(self)
                self._pulls += 1
                inbox = f"{self._inbox}.{self._pulls}"
                self._looker = name.encode()
                self._pulled, self._wanted, self._arrived = [], messages, asyncio.Event()
                body = msgspec.json.encode({"batch": messages, "expires": _PULL_LIFE_NS})
                subject = f"{self._connection.api_prefix}.CONSUMER.MSG.NEXT.{stream}.{name}"
                # A frame: a request would go through nats-py's one inbox, message by message.
                self._connection.write(
                    f"PUB {subject} {inbox} {len(body)}\r\n".encode() + body + b"\r\n"
                )
                async with asyncio.timeout(PULL_TIMEOUT_S):
                    await self._arrived.wait()
                chunk = self._pulled
                if not chunk:
                    return  # The rest was removed meanwhile.
                left -= len(chunk)
                yield chunk
        finally:
            await self._drop_looker(stream, name)

    def receive(self, frames: list[Frame]) -> None:
        """Take messages that were pulled; called by the connection."""
        for _, reply, payload in frames:
            # Who knows the inbox can write to it: only what bears our consumer's name counts.
            delivered = _DELIVERED(reply)
            if delivered is not None and delivered[1] == self._looker:
                self._pulled.append((int(delivered[2]), payload))
        if len(self._pulled) >= self._wanted:
            self._arrived.set()

    def status(self, status: Status) -> None:
        """Take the server's word that a pull has ended; called by the connection."""
        # The end of an earlier pull that timed out here may come late.
        if status.subject == f"{self._inbox}.{self._pulls}":
            self._arrived.set()

    async def _make_looker(
        self, stream: str, subjects: Sequence[str], start: int
    ) -> tuple[str, int] | None:
        """Make a consumer that acknowledges nothing; return its name and what it has to look at."""
        config: Json = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "filter_subjects": list(subjects),
            "mem_storage": True,
            "num_replicas": 1,
            # Gone by itself where deleting it fails, or we die.
            "inactive_threshold": _LOOKER_LIFE_NS,
        }
        what = f"looking at stream {stream}"
        body = {"stream_name": stream, "config": config}
        try:
            made = await self.call(what, f"CONSUMER.CREATE.{stream}", body)
        except RefusedError as refused:
            # A work queue allows one consumer a subject: then there is none to look with.
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
    """Treat an answer with missing or mistyped fields as no answer."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise nonsense(what, "the answer makes no sense") from None
