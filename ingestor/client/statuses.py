"""What live feeds tell about themselves, from the stream that keeps it.

The stream is made with the first status ever: before that there is nothing to ask, which is no
error here.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from typing import Final

from ingestor.client.connection import (
    ApiRefusedError,
    Connection,
    CutOffError,
    NobodyListensError,
)
from ingestor.client.decode import Message
from ingestor.errors import BadDataError, StreamError
from ingestor.feed_status import FeedStatus, decode_status, status_subject

LOOK_AGAIN_S: Final = 1.0
"""How often it is asked whether the stream has been made."""

STREAM_NOT_FOUND: Final = 10059
MESSAGE_NOT_FOUND: Final = 10037
_NOT_FOUND: Final = "404"

log = logging.getLogger(__name__)


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
        await connection.api(f"stream {stream}", f"STREAM.INFO.{stream}")
    except CutOffError:
        return False
    except ApiRefusedError as refused:
        if refused.err_code == STREAM_NOT_FOUND:
            return False
        raise
    return True


async def read(messages: AsyncIterator[Message]) -> AsyncIterator[FeedStatus]:
    """Yield the statuses in messages; one that is none is named in the log and passed over."""
    async for message in messages:
        try:
            yield decode_status(message.payload)
        except BadDataError as error:
            log.warning("message %d on %s: %s", message.seq, message.subject, error)


async def _last_stored(connection: Connection, stream: str, subject: str) -> FeedStatus | None:
    try:
        answer = await connection.api(
            f"stream {stream}", f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}
        )
    except ApiRefusedError as refused:
        if refused.err_code in (STREAM_NOT_FOUND, MESSAGE_NOT_FOUND):
            return None
        raise
    return decode_status(base64.b64decode(answer["message"].get("data", "")))
