"""JetStream's JSON API, as far as a publisher needs it.

Raw requests instead of the client library's stream configuration: that one drops fields it does
not know, and a field that is dropped in an update is a setting that is lost.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Final

import msgspec

from ingestor.bounds import printable
from ingestor.errors import StreamError
from ingestor.publish.answers import ApiError
from ingestor.publish.connection import Connection
from ingestor.publish.readback import Message

Json = dict[str, Any]

REQUEST_TIMEOUT_S: Final = 5.0

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
MESSAGE_NOT_FOUND: Final = 10037

_UNAVAILABLE: Final = 503
_NOT_ENABLED: Final = ApiError(_UNAVAILABLE, description="JetStream is not enabled on the server")


class RefusedError(StreamError):
    """JetStream answered with an error."""

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {error}")
        self.error = error

    @property
    def passing(self) -> bool:
        """Whether it may be over soon: a cluster without a leader, a server that starts."""
        return self.error.code == _UNAVAILABLE


class JetStreamApi:
    """Requests to ``$JS.API``, or what stands for it.

    Every method raises `RefusedError` (a StreamError) when JetStream is off or says no,
    TimeoutError when it says nothing.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def call(self, what: str, subject: str, body: Json | None = None) -> Json:
        """Make a request; `what` opens the sentence of an error."""
        payload = msgspec.json.encode(body) if body is not None else b""
        subject = f"{self._connection.api_prefix}.{subject}"
        answer = await self._connection.request(subject, payload, REQUEST_TIMEOUT_S)
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

    async def consumer_info(self, stream: str, consumer: str) -> Json | None:
        """Return a consumer's configuration and state, or None when there is no such consumer."""
        try:
            return await self.call(f"consumer {consumer}", f"CONSUMER.INFO.{stream}.{consumer}")
        except RefusedError as refused:
            if refused.error.err_code == CONSUMER_NOT_FOUND:
                return None
            raise

    async def messages(self, stream: str, seqs: range) -> list[tuple[int, Message]]:
        """Read stored messages by stream sequence, all at once; deleted ones are left out.

        Answers with (sequence, (subject, payload)).
        """
        found = await asyncio.gather(*(self._message(stream, seq) for seq in seqs))
        return [(seq, message) for seq, message in zip(seqs, found, strict=True) if message]

    async def _message(self, stream: str, seq: int) -> Message | None:
        try:
            values = await self.call(
                f"message {seq} of stream {stream}", f"STREAM.MSG.GET.{stream}", {"seq": seq}
            )
        except RefusedError as refused:
            if refused.error.err_code == MESSAGE_NOT_FOUND:
                return None
            raise
        message = values["message"]
        return message["subject"], base64.b64decode(message.get("data", ""))


def _read(what: str, answer: bytes) -> Json:
    try:
        return msgspec.json.decode(answer, type=Json)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise StreamError(f"{what}: the answer is no JSON object: {printable(answer)!r}") from None


def _read_error(what: str, values: Any) -> ApiError:
    try:
        return msgspec.convert(values, ApiError)
    except msgspec.ValidationError as error:
        raise StreamError(f"{what}: JetStream's error makes no sense: {error}") from None
