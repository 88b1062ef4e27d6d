"""Finding out what a stream has stored of a batch that ended otherwise than planned.

After a lost connection, a gap or a refused message nobody has said how much of the batch is
stored, and some of it may still be on its way into the stream. So, in this order:

1. A fence: a message that is never stored follows the batch. Its answer says that everything
   before it is dealt with. A living batch of fast ingest answers with its exact count, and
   nothing is left to find out.
2. The stream is asked for its last sequence until that stands still, since what a cut connection
   had delivered to the server may come to the stream by another way than the fence.
3. What lies behind the last message known to be ours is read and compared with what was sent:
   ours is a prefix of it, in order, whatever other publishers put between.

That a stream holds fewer messages than were purged or expired is no loss: only sequences count.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ingestor.blocks import Encoder, Reply, Runs
from ingestor.errors import StreamError
from ingestor.publish.jetstream import JetStreamApi
from ingestor.publish.readback import Matcher, Message, Stored, messages_of

SETTLE_S: Final = 0.1
"""The stream's last sequence must stand still for this long."""

LOOKS: Final = 5
"""How often it is looked at: where another publisher writes it never stands still."""

READ_AHEAD: Final = 64
"""Stored messages asked for at a time."""

_NO_REPLY: Final = Reply(b"_", b"")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Question:
    """How much of `sent` does `stream` hold behind sequence `floor`, where ours were acked?

    Each of the runs in `sent` was encoded by itself.
    """

    stream: str
    floor: int
    sent: Sequence[Runs]


async def find_stored(api: JetStreamApi, question: Question, encoder: Encoder) -> Stored:
    """Read the stream and compare.

    Raises StreamError when the stream has lost what it acknowledged, or can no longer tell;
    TimeoutError when the server does not answer.
    """
    first, last = await _bounds(api, question.stream)
    if last < question.floor:
        raise StreamError(
            f"stream {question.stream} ends at sequence {last} though it acknowledged messages up "
            f"to {question.floor}: they were lost with its server, or the stream was made anew"
        )
    matcher = Matcher(_messages(question.sent, encoder))
    if last > question.floor and not matcher.complete:
        await _compare(api, question, matcher, (first, last))
    return matcher.stored


async def _compare(
    api: JetStreamApi, question: Question, matcher: Matcher, bounds: tuple[int, int]
) -> None:
    first, last = bounds
    seq = question.floor + 1
    gone = min(first, last + 1) - seq
    if gone > matcher.missing:
        raise _cannot_tell(question.stream)
    if gone > 0:
        matcher.assume(seq, seq + gone - 1)
        seq += gone
    while seq <= last and not matcher.complete:
        stop = min(last + 1, seq + READ_AHEAD)
        matcher.look_at(await api.messages(question.stream, range(seq, stop)))
        seq = stop
    if matcher.strangers and gone > 0:
        raise _cannot_tell(question.stream)
    if matcher.strangers:
        log.warning("another publisher writes into stream %s", question.stream)


def _cannot_tell(stream: str) -> StreamError:
    return StreamError(
        f"stream {stream} dropped messages while the connection was away, and has others than "
        "ours: which of ours it had stored cannot be known"
    )


async def _bounds(api: JetStreamApi, stream: str) -> tuple[int, int]:
    """Return first and last sequence once the last stands still, or after `LOOKS`."""
    first, last = await _look(api, stream)
    for _ in range(LOOKS - 1):
        await asyncio.sleep(SETTLE_S)
        before = last
        first, last = await _look(api, stream)
        if last == before:
            break
    return first, last


async def _look(api: JetStreamApi, stream: str) -> tuple[int, int]:
    info = await api.stream_info(stream)
    if info is None:
        raise StreamError(f"stream {stream} is gone: somebody deleted it while we published")
    return int(info["state"]["first_seq"]), int(info["state"]["last_seq"])


def _messages(sent: Sequence[Runs], encoder: Encoder) -> list[Message]:
    """Encode again as it was: the same rows make the same messages."""
    messages: list[Message] = []
    for runs in sent:
        rest = runs
        while len(rest):
            frames = encoder.encode(rest, _NO_REPLY, 1, len(rest))
            messages += messages_of(frames.data)
            _, rest = rest.split(int(frames.rows_stop[-1]))
    return messages
