"""What live feeds tell about themselves, from the stream that keeps it.

The stream is made with the first status ever: before that there is nothing to ask, which is no
error here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from ingestor.client.connection import (
    ApiRefusedError,
    Connection,
    CutOffError,
    NobodyListensError,
)
from ingestor.client.decode import BadMessageError, Cause, Message, Skips
from ingestor.model.errors import BadDataError, StreamError
from ingestor.model.feed_status import FeedStatus, decode_status, status_subject

LOOK_AGAIN_S: Final = 1.0
"""How often it is asked whether the stream has been made."""

STREAM_NOT_FOUND: Final = 10059
MESSAGE_NOT_FOUND: Final = 10037
_NOT_FOUND: Final = "404"


class _Body(msgspec.Struct, frozen=True):
    data: bytes = b""


class _Stored(msgspec.Struct, frozen=True):
    message: _Body


async def last_status(connection: Connection, stream: str, feed: str) -> FeedStatus | None:
    """Return the newest status of a feed, None when there is none.

    Raises StreamError, BadDataError, NatsUnreachableError, NatsRefusedError.
    """
    await connection.up()
    subject = status_subject(feed)
    what = f"the last message on {subject}"
    try:
        answer = await connection.ask(
            what, f"{connection.api_prefix}.DIRECT.GET.{stream}.{subject}"
        )
    except NobodyListensError:
        # No such stream, or one that is not read directly.
        return await _last_stored(connection, stream, subject)
    code = (answer.headers or {}).get("Status")
    if code == _NOT_FOUND:
        return None
    if code is not None:
        raise StreamError(f"{what}: the server answers {code}")
    return decode_status(answer.data)


async def exists(connection: Connection, stream: str) -> bool:
    """Whether there is such a stream. Raises as `last_status`."""
    await connection.up()
    try:
        await connection.api(f"stream {stream}", f"STREAM.INFO.{stream}", dict)
    except CutOffError:
        return False
    except ApiRefusedError as refused:
        if refused.err_code == STREAM_NOT_FOUND:
            return False
        raise
    return True


async def read(messages: AsyncIterator[Message], skips: Skips) -> AsyncIterator[FeedStatus]:
    """Yield the statuses in messages; one that is none is passed over."""
    async for message in messages:
        try:
            status = decode_status(message.payload)
        except BadDataError as error:
            place = (message.subject, message.seq)
            skips.add(BadMessageError(*place, str(error), Cause.NO_STATUS))
            continue
        yield status


async def _last_stored(connection: Connection, stream: str, subject: str) -> FeedStatus | None:
    try:
        answer = await connection.api(
            f"stream {stream}", f"STREAM.MSG.GET.{stream}", _Stored, {"last_by_subj": subject}
        )
    except ApiRefusedError as refused:
        if refused.err_code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
            return None
        raise
    return decode_status(answer.message.data)
