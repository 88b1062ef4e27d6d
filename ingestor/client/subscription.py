"""A subscription: what a consumer iterates over, come what may on the way from the server."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final

from ingestor.client.batches import Batch, batches_of
from ingestor.client.connection import ApiRefusedError, Connection, CutOffError, NoAnswerError
from ingestor.client.consumer import Consumer
from ingestor.client.decode import (
    BadMessageError,
    Cause,
    Message,
    Skips,
    bad_message,
    decode,
    read_json,
)
from ingestor.client.pull import Chunk, ConsumerLostError, Pull, stored_ns_of
from ingestor.client.wire import Frame
from ingestor.encode.packed import is_packed
from ingestor.errors import BadDataError, StreamError
from ingestor.events import Event

REOPEN_PAUSE_S: Final = 0.25
"""Pause before another try to go on."""

BATCH_MESSAGES: Final = 1_024
BATCH_BYTES: Final = 4 * 1024 * 1024
"""What `Subscription.batches` gathers, if it has arrived, before it makes arrays."""

_NOTHING: Final = Chunk([], [], 0)

log = logging.getLogger(__name__)


class Subscription:
    """Messages of one stream in stream order, each once; made by `Client.subscribe`.

    Iterate over `events`, `batches` or `messages`, always the same. An iteration that was left is
    continued by the next one. A lost connection, a restarted server or a gap is recovered from,
    and said in the log. A message that is no event of ours is passed over by `events` and
    `batches`: counted in `skipped`, and the first of each cause said in the log.

    A durable acknowledges what was handed out when more is asked for than had arrived together,
    and takes up there next time: what was handed out after that is then repeated. `ack`
    acknowledges at once, and says whether the server has it.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: Consumer,
        *,
        follow: bool,
        skips: Skips | None = None,
    ) -> None:
        self.skips = Skips(skips)
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._follow = follow
        self._pull: Pull | None = None
        self._closed = False
        self._received_seq: int | None = None
        # The messages at hand, how many of them are handed out completely, and from which life.
        self._chunk = _NOTHING
        self._handed = 0
        self._origin: Pull | None = None
        # What was the last of the messages that were at hand before those, of a durable.
        self._before: tuple[Pull, Frame] | None = None
        # What the messages after those were decoded to, and `_handed` once it is gone.
        self._items: deque[Any] = deque()
        self._handed_then = 0

    @property
    def skipped(self) -> Mapping[Cause, int]:
        """Number of messages passed over, by cause; what never happened is not listed."""
        return dict(self.skips.counts)

    @property
    def arrived(self) -> int:
        """Number of messages that have arrived and are not handed out."""
        waiting = 0 if self._pull is None else self._pull.waiting_messages
        return len(self._chunk) - self._handed + waiting

    async def events(self) -> AsyncIterator[Event]:
        """Yield typed events (`ingestor.events`).

        Raises StreamError, NatsUnreachableError, NatsRefusedError when the stream cannot be read.
        """
        while await self._more():
            for item in self._take_items():
                yield item
            for index in range(self._handed, len(self._chunk)):
                subject, _, payload = self._chunk.frames[index]
                if is_packed(payload):
                    self._unpack(index)
                    break
                self._handed = index + 1
                try:
                    event = read_json(subject, payload)
                except BadDataError as error:
                    self.skips.add(bad_message(subject, self._chunk.seqs[index], error))
                    continue
                yield event

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages as they stand in the stream; `ingestor.client.decode` reads one.

        Raises StreamError, NatsUnreachableError, NatsRefusedError.
        """
        while await self._more():
            for index in range(self._handed, len(self._chunk)):
                self._handed = index + 1
                yield self._message(index)

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield NumPy arrays of what arrived together, one per event type and source.

        Raises as `events` does.
        """
        while await self._more(gather=True):
            for item in self._take_items():
                yield item
            if self._handed < len(self._chunk):
                self._collect()

    async def ack(self) -> bool:
        """Acknowledge the messages handed out (of a durable), and wait until the server has it.

        False where it did not get it, or did not say so: they may then be delivered again, to the
        next subscription of this name.
        """
        last = self._last_handed_out
        return last is not None and await last[0].confirm(last[1])

    async def close(self) -> None:
        """End it; nothing is acknowledged by this."""
        self._closed = True
        await self._drop_pull()
        await self._consumer.close()

    def lose(self, why: str) -> None:
        """Have the server's side made anew, after what has arrived."""
        if self._pull is not None:
            self._pull.lose(why)

    @property
    def _last_handed_out(self) -> tuple[Pull, Frame] | None:
        """What a durable is to acknowledge, and where: the last message handed out completely."""
        if self._handed and self._origin is not None and self._consumer.acknowledges:
            return self._origin, self._chunk.frames[self._handed - 1]
        return self._before

    def _message(self, index: int) -> Message:
        subject, reply, payload = self._chunk.frames[index]
        seq = self._chunk.seqs[index]
        return Message(subject.decode("utf-8", "replace"), seq, payload, stored_ns_of(reply))

    def _unpack(self, index: int) -> None:
        """Have the events of a packed message handed out next; none if it is bad."""
        events: list[Event] = []
        try:
            events = decode(self._message(index))
        except BadMessageError as bad:
            self.skips.add(bad)
        self._put_items(events, index, index + 1)

    def _collect(self) -> None:
        """Make batches of the messages at hand that are sound."""
        first, stop = self._handed, len(self._chunk)
        batches, bad = batches_of(self._chunk.frames[first:], self._chunk.seqs[first:])
        for one in bad:
            self.skips.add(one)
        self._put_items(batches, first, stop)

    def _put_items(self, items: list[Any], handed: int, handed_then: int) -> None:
        self._items.extend(items)
        self._handed = handed if items else handed_then
        self._handed_then = handed_then

    def _take_items(self) -> Iterator[Any]:
        while self._items:
            item = self._items.popleft()
            if not self._items:
                self._handed = self._handed_then
            yield item

    async def _more(self, *, gather: bool = False) -> bool:
        """Have something at hand that is not handed out; False at the stream's end."""
        while self._handed == len(self._chunk):
            self._before = self._last_handed_out
            if self._before is not None:
                await self._before[0].ack(self._before[1])
            chunk = await self._next()
            if chunk is None:
                await self.ack()
                return False
            if gather:
                chunk = await self._gathered(chunk)
            self._origin = self._pull
            self._chunk, self._handed = await self._unseen(chunk), 0
        return True

    async def _gathered(self, chunk: Chunk) -> Chunk:
        """Return it with what has arrived since; what waits in the socket is read meanwhile."""
        frames, seqs, size = list(chunk.frames), list(chunk.seqs), chunk.payload_bytes
        while len(frames) < BATCH_MESSAGES and size < BATCH_BYTES:
            await asyncio.sleep(0)
            if self._pull is None or not self._pull.ready:
                break
            more = await self._pull.next()
            if more is None:
                break
            frames += more.frames
            seqs += more.seqs
            size += more.payload_bytes
        return Chunk(frames, seqs, size)

    async def _unseen(self, chunk: Chunk) -> Chunk:
        """Leave out what a durable delivers again although it was handed out before."""
        last = self._received_seq or 0
        self._received_seq = max(last, *chunk.seqs)
        if chunk.seqs[0] > last and chunk.seqs == sorted(chunk.seqs):
            return chunk
        kept = []
        for index, seq in enumerate(chunk.seqs):
            if seq > last:
                kept.append(index)
                last = seq
        if not kept and self._origin is not None and self._consumer.acknowledges:
            await self._origin.ack(chunk.frames[-1])
        return Chunk([chunk.frames[i] for i in kept], [chunk.seqs[i] for i in kept], 0)

    async def _next(self) -> Chunk | None:
        while not self._closed:
            try:
                pull = self._pull or await self._open()
                return await pull.next()
            except ConsumerLostError as lost:
                if not self._closed:
                    log.warning("stream %s: %s; going on", self._stream, lost)
                    await self._drop_pull()
                    await asyncio.sleep(REOPEN_PAUSE_S)
        return None

    async def _open(self) -> Pull:
        while True:
            await self._connection.up()
            try:
                return await self._try_open()
            except StreamError as error:
                if not self._worth_another_try(error):
                    raise
                log.warning("stream %s: %s; trying again", self._stream, error)
                await asyncio.sleep(REOPEN_PAUSE_S)

    def _worth_another_try(self, error: StreamError) -> bool:
        """Once it has worked, JetStream may be away for a while; at first it ought to be there."""
        if self._received_seq is None:
            return isinstance(error, CutOffError)
        return isinstance(error, NoAnswerError) or (
            isinstance(error, ApiRefusedError) and error.passing
        )

    async def _try_open(self) -> Pull:
        opened = await self._consumer.open(self._received_seq)
        if self._received_seq is None:
            self._received_seq = opened.last_seq
        pull = Pull(self._connection, self._stream, opened, follow=self._follow)
        await pull.open()
        self._pull = pull
        return pull

    async def _drop_pull(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()
