"""Key-value buckets (ADR-8 of the NATS design records) over the one JetStream API.

A bucket is a stream of its own, one message a key, the stream's sequence its revision. It is made
when it is first written to. Values are read from the stream's leader: a direct get may be answered
by a follower, and a lease that is read late is no lease.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec

from ingestor.model.errors import StreamError
from ingestor.model.units import NS_PER_S
from ingestor.nats.answers import (
    STREAM_EXISTS,
    WRONG_LAST_SEQUENCE,
    NobodyListensError,
    PubAck,
    Refusal,
    RefusedError,
    parse_answer,
)
from ingestor.nats.connection import REQUEST_TIMEOUT_S, Connection
from ingestor.nats.jetstream import JetStreamApi, Json, StoredMessage

NEW: Final = 0
"""The revision of a key that is not there."""

_PLAIN_PREFIX: Final = "$JS.API"
_DUPLICATE_WINDOW_S: Final = 120

_HEARD_OF_S: Final = 0.05
_HEARD_OF_ATTEMPTS: Final = 40


class WrongRevisionError(StreamError):
    """Somebody else has written the key since."""


class BucketValue(msgspec.Struct, frozen=True):
    """A value and its revision, with which alone it may be replaced."""

    value: bytes
    revision: int


class Bucket:
    """One bucket; keys are words of letters, digits, ``-_=/`` with dots between them.

    A value that is not written again within `ttl_s` is gone. Every method raises what
    `JetStreamApi` does.
    """

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        ttl_s: float,
        replicas: int | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._api = JetStreamApi(connection, timeout_s=timeout_s)
        self._name = name
        self._stream = f"KV_{name}"
        self._ttl_s = ttl_s
        self._replicas = replicas or 1

    async def get(self, key: str) -> BucketValue | None:
        """Return the value of a key, None when there is none, or no bucket yet."""
        stored = await self._last(key)
        # A key that was deleted leaves a message without a value; ours are never empty.
        return (
            BucketValue(stored.payload, stored.seq)
            if stored is not None and stored.payload
            else None
        )

    async def put(self, key: str, value: bytes, revision: int | None = None) -> int:
        """Write a key, and return its new revision; `revision` is the one it must have, or `NEW`.

        Raises `WrongRevisionError`.
        """
        try:
            return await self._publish(key, value, revision, {})
        except NobodyListensError:
            await self._make()
            return await self._publish_first(key, value, revision)
        except WrongRevisionError:
            # What a deleted key leaves has a revision too, and the key is new all the same.
            left = await self._last(key) if revision == NEW else None
            if left is None or left.payload:
                raise
            return await self._publish(key, value, left.seq, {})

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove a key. Raises `WrongRevisionError`."""
        await self._publish(key, b"", revision, {"KV-Operation": "DEL"})

    async def values(self, keys: str = ">") -> list[BucketValue]:
        """Return all values, or those whose keys match, in the order in which they were written.

        ``*`` in `keys` stands for a word, ``>`` at the end for the rest.
        """
        if await self._api.stream_info(self._stream) is None:
            return []
        found: list[BucketValue] = []
        async for chunk in self._api.stored(self._stream, [f"$KV.{self._name}.{keys}"], 1):
            found += [BucketValue(value, revision) for revision, value in chunk if value]
        return found

    async def grow(self) -> None:
        """Have a bucket that is there kept by as many servers as are asked for."""
        info = await self._api.stream_info(self._stream) if self._replicas > 1 else None
        if info is None or info["config"]["num_replicas"] >= self._replicas:
            return
        config = info["config"] | {"num_replicas": self._replicas}
        await self._api.call(f"bucket {self._name}", f"STREAM.UPDATE.{self._stream}", config)

    async def _last(self, key: str) -> StoredMessage | None:
        return await self._api.last_message(self._stream, f"$KV.{self._name}.{key}")

    async def _publish(
        self, key: str, value: bytes, revision: int | None, headers: dict[str, str]
    ) -> int:
        if revision is not None:
            headers = headers | {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        prefix = self._connection.api_prefix
        # What is imported from another account is reached below its prefix, as its API is.
        subject = f"$KV.{self._name}.{key}"
        subject = subject if prefix == _PLAIN_PREFIX else f"{prefix}.{subject}"
        what = f"bucket {self._name}"
        answer = await self._connection.request(
            what, subject, value, timeout_s=self._timeout_s, headers=headers or None
        )
        match parse_answer(answer.data):
            case PubAck(stream_seq=sequence):
                return sequence
            case Refusal(error) if error.number in WRONG_LAST_SEQUENCE:
                raise WrongRevisionError(f"{what}: {key} has another revision than {revision}")
            case Refusal(error):
                raise RefusedError(what, error)
        raise StreamError(f"{what}: the answer is no acknowledgement")

    async def _publish_first(self, key: str, value: bytes, revision: int | None) -> int:
        # The servers of a cluster learn one after the other who listens to a stream that was made.
        for _ in range(_HEARD_OF_ATTEMPTS):
            with contextlib.suppress(NobodyListensError):
                return await self._publish(key, value, revision, {})
            await asyncio.sleep(_HEARD_OF_S)
        return await self._publish(key, value, revision, {})

    async def _make(self) -> None:
        ttl_ns = int(self._ttl_s * NS_PER_S)
        config: Json = {
            "name": self._stream,
            "subjects": [f"$KV.{self._name}.>"],
            "max_msgs_per_subject": 1,
            "max_age": ttl_ns,
            "duplicate_window": min(ttl_ns, _DUPLICATE_WINDOW_S * NS_PER_S),
            "discard": "new",
            "storage": "file",
            "num_replicas": self._replicas,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
            "allow_direct": True,
        }
        what = f"bucket {self._name}"
        try:
            # Three replicas that have just been chosen take longer than a value that is written.
            await JetStreamApi(self._connection).call(what, f"STREAM.CREATE.{self._stream}", config)
        except RefusedError as refused:
            # Another program has made it in between, perhaps with other settings.
            if refused.error.err_code != STREAM_EXISTS:
                raise
