"""A subscription: what a consumer iterates over, across reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import replace
from operator import lt
from typing import Final

import numpy as np

from ingestor.client.consumer import AtSequence, Consumer
from ingestor.client.payloads import (
    Batch,
    Cause,
    Message,
    Skips,
    bad_message,
    batches_of,
    events_by_seq,
)
from ingestor.client.pull import Chunk, ConsumerLostError, GapWatch, OnGap, Pull, stored_ns_of
from ingestor.encode.packed import is_packed
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError, StreamError
from ingestor.model.events import Event, read_json
from ingestor.nats.answers import CutOffError, Frame, NoAnswerError, NotConnectedError, RefusedError
from ingestor.nats.connection import Connection

REOPEN_PAUSE_S: Final = 0.25
"""Pause before another try to go on."""

BATCH_MESSAGES: Final = 1_024
BATCH_BYTES: Final = 4 * 1024 * 1024
"""What `Subscription.batches` gathers, if it has arrived, before it makes arrays."""

PACKED_BYTES: Final = 256 * 1024
"""What `Subscription.events` gathers of packed messages; their columns take ten times as much."""

_NOTHING: Final = Chunk([], [], 0)


log = logging.getLogger(__name__)


class Subscription:
    """Messages of one stream in stream order, each once; made by `Client.subscribe`.

    Iterate over `events`, `batches` or `messages`, always the same. An iteration that was left is
    continued by the next one. A lost connection, a restarted server or a gap is recovered from,
    and said in the log. A message that is no event of ours is passed over by `events` and
    `batches`: counted in `skipped`, and the first of each cause said in the log.

    A durable acknowledges what was handed out when more is asked for than had arrived together,
    and when it is left in order; it takes up there next time. After a crash, what was handed out
    since is repeated. `ack` acknowledges at once, and says whether the server has it.

    `gaps.count` is how often the stream dropped messages before they were read, `gaps.messages`
    how many those were at most (`ingestor.client.Gap`).
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: Consumer,
        skips: Skips,
        *,
        follow: bool,
        on_gap: OnGap | None = None,
        from_event_ns: int = 0,
        to_event_ns: int = MAX_TIME_NS + 1,
    ) -> None:
        """`skips` counts what all subscriptions of a client pass over; the rest as `subscribe`."""
        self.skips = Skips(skips)
        self.gaps = GapWatch(connection, stream, consumer.subject, on_gap)
        self._follow = follow
        self._from_event_ns, self._to_event_ns = from_event_ns, to_event_ns
        # Whether every event counts, so that none need be asked for its time.
        self._whole_time = from_event_ns <= 0 and to_event_ns > MAX_TIME_NS
        self._connection = connection
        self._stream = stream
        self._consumer = consumer
        self._pull: Pull | None = None
        self._closed = False
        self._received_seq: int | None = None
        # The messages at hand, how many of them are handed out completely, and from which life.
        self._chunk = _NOTHING
        self._handed = 0
        self._origin: Pull | None = None
        # What was the last of the messages that were at hand before those, of a durable.
        self._before: tuple[Pull, Frame] | None = None
        # Events of packed messages at hand by sequence; those of the next one, and how many of them
        # are handed out.
        self._events: dict[int, Iterator[Event]] = {}
        self._rows: list[Event] = []
        self._row = 0
        # Batches of the messages after those, and `_handed` once they are gone.
        self._batches: deque[Batch] = deque()
        self._handed_then = 0
        # Where it stood before the messages at hand.
        self._position: AtSequence | None = None

    @property
    def skipped(self) -> Mapping[Cause, int]:
        """Number of messages passed over, by cause; what never happened is not listed."""
        return dict(self.skips.counts)

    @property
    def arrived(self) -> int:
        """Number of messages that have arrived and are not handed out."""
        waiting = 0 if self._pull is None else self._pull.waiting_messages
        return len(self._chunk) - self._handed + waiting

    @property
    def position(self) -> AtSequence | None:
        """Where to go on after what was handed out: a `start` for `Client.subscribe`.

        None before anything was. Stored together with what an event led to, it makes a consumer
        exactly once (INTERFACES.md, "Exactly once").
        """
        if self._row:
            return AtSequence(self._chunk.seqs[self._handed], self._row)
        if self._handed:
            return AtSequence(self._chunk.seqs[self._handed - 1] + 1)
        return self._position

    @property
    def seq(self) -> int | None:
        """Stream sequence of the message that the event handed out last is from."""
        position = self.position
        return None if position is None else position.seq - (not position.row)

    async def events(self) -> AsyncIterator[Event]:
        """Yield typed events (`ingestor.model.events`); `seq` and `position` tell where one stands.

        Raises StreamError, NatsUnreachableError, NatsRefusedError when the stream cannot be read.
        """
        whole = self._whole_time
        while await self._more():
            for index in range(self._handed, len(self._chunk)):
                subject, _, payload = self._chunk.frames[index]
                if is_packed(payload):
                    for event in self._events_at(index):
                        if whole or self._is_timely(event):
                            yield event
                    continue
                self._handed = index + 1
                try:
                    event = read_json(subject, payload)
                except BadDataError as error:
                    self.skips.add(bad_message(subject, self._chunk.seqs[index], error))
                    continue
                if whole or self._is_timely(event):
                    yield event

    async def messages(self) -> AsyncIterator[Message]:
        """Yield messages as they stand in the stream; `ingestor.client.payloads` reads one.

        Raises StreamError, NatsUnreachableError, NatsRefusedError.
        """
        while await self._more():
            for index in range(self._handed, len(self._chunk)):
                self._handed = index + 1
                subject, reply, payload = self._chunk.frames[index]
                seq = self._chunk.seqs[index]
                text = subject.decode("utf-8", "replace")
                yield Message(text, seq, payload, stored_ns_of(reply))

    async def chunks(self) -> AsyncIterator[Chunk]:
        """Yield messages as they arrived together: the fast way to what stands in the stream.

        Raises as `messages` does.
        """
        while await self._more(gather=True):
            self._handed = len(self._chunk)
            yield self._chunk

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield NumPy arrays of what arrived together, one per event type and source.

        Raises as `events` does.
        """
        while await self._more(gather=True):
            if not self._batches:
                first, stop = self._handed, len(self._chunk)
                batches, bad = batches_of(self._chunk.frames[first:], self._chunk.seqs[first:])
                for one in bad:
                    self.skips.add(one)
                self._batches.extend(self._wanted_rows(batches))
                self._handed_then = stop
                if not self._batches:
                    self._handed = stop
            while self._batches:
                batch = self._batches.popleft()
                if not self._batches:
                    self._handed = self._handed_then
                yield batch

    async def ack(self) -> bool:
        """Acknowledge the messages handed out (of a durable), and wait until the server has it.

        False where it did not get it, or did not say so: they may then be delivered again, to the
        next subscription of this name.
        """
        last = self._last_handed_out
        return last is not None and await last[0].confirm(last[1])

    async def close(self, *, in_order: bool = True) -> None:
        """End it. In order, what was handed out is acknowledged (of a durable)."""
        if in_order and not self._closed and self._pull is not None:
            await self.ack()
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

    def _events_at(self, index: int) -> Iterator[Event]:
        """Hand out the events of a packed message that are not yet; none if it is bad."""
        seq = self._chunk.seqs[index]
        if not self._row:
            if seq not in self._events:
                # Packed messages in a row are decoded together, up to one that is not packed.
                frames = self._chunk.frames
                stop = index
                while stop < len(frames) and is_packed(frames[stop][2]):
                    stop += 1
                self._events, bad = events_by_seq(frames[index:stop], self._chunk.seqs[index:stop])
                for one in bad:
                    self.skips.add(one)
            # The iterator of a message must be used up before that of the next one is touched.
            self._rows = list(self._events.pop(seq))
        events = self._rows
        for row in range(self._row or self._rows_to_leave_out(seq), len(events)):
            if row + 1 < len(events):
                self._row = row + 1
            else:
                self._done(index)
            yield events[row]
        if self._handed == index:
            self._done(index)

    def _rows_to_leave_out(self, seq: int) -> int:
        """Rows at the front of a message that `start` leaves out."""
        start = self._consumer.start
        return start.row if isinstance(start, AtSequence) and start.seq == seq else 0

    def _is_timely(self, event: Event) -> bool:
        return self._from_event_ns <= event.ts_event_ns < self._to_event_ns

    def _wanted_rows(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Leave out the rows before `start`, and those whose time is not asked for."""
        for batch in batches:
            times = batch.records["ts_event_ns"].astype(np.int64)
            rows = (times >= self._from_event_ns) & (times < self._to_event_ns)
            of_first = int((batch.seqs == batch.first_seq).sum())
            rows[: min(self._rows_to_leave_out(batch.first_seq), of_first)] = False
            if rows.all():
                yield batch
            elif rows.any():
                yield replace(batch, records=batch.records[rows], seqs=batch.seqs[rows])

    def _done(self, index: int) -> None:
        self._handed, self._row = index + 1, 0

    async def _more(self, *, gather: bool = False) -> bool:
        """Have something at hand that is not handed out; False at the stream's end."""
        while self._handed == len(self._chunk):
            # Asking for more says that the last ones are done with, so they are acknowledged.
            self._before = self._last_handed_out
            if self._before is not None:
                await self._before[0].ack(self._before[1])
            chunk = await self._next()
            if chunk is None:
                await self.ack()
                return False
            if gather:
                chunk = await self._gathered(chunk, BATCH_BYTES)
            elif is_packed(chunk.frames[0][2]):
                chunk = await self._gathered(chunk, PACKED_BYTES)
            last_seq = self._received_seq
            self._position = self.position
            self._origin = self._pull
            self._chunk, self._handed = await self._unseen(chunk), 0
            self._events.clear()
            await self.gaps.look(last_seq, self._chunk.seqs)
        return True

    async def _gathered(self, chunk: Chunk, limit_bytes: int) -> Chunk:
        """Return it with what has arrived since; what waits in the socket is read meanwhile."""
        frames, seqs, size = list(chunk.frames), list(chunk.seqs), chunk.payload_bytes
        while len(frames) < BATCH_MESSAGES and size < limit_bytes:
            # One turn of the loop: what lies in the socket by now becomes chunks of the pull.
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
        # Nearly always so. Equal ones are deliveries of one message that waited too long.
        if chunk.seqs[0] > last and all(map(lt, chunk.seqs, chunk.seqs[1:])):
            return chunk
        kept = []
        for index, seq in enumerate(chunk.seqs):
            if seq > last:
                kept.append(index)
                last = seq
        # Nothing of it will be handed out, so nothing else would acknowledge it.
        if not kept and self._origin is not None and self._consumer.acknowledges:
            await self._origin.ack(chunk.frames[-1])
        return Chunk([chunk.frames[i] for i in kept], [chunk.seqs[i] for i in kept], 0)

    async def _next(self) -> Chunk | None:
        while not self._closed:
            try:
                pull = self._pull or await self._open()
                return await pull.next()
            except NotConnectedError:
                # While it was waited, the client was closed: the iteration just ends.
                if not self._closed:
                    raise
            except ConsumerLostError as lost:
                if not self._closed:
                    log.warning("stream %s: %s; going on", self._stream, lost)
                    await self._drop_pull()
                    await asyncio.sleep(REOPEN_PAUSE_S)
        return None

    async def _open(self) -> Pull:
        while True:
            await self._connection.ready()
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
            isinstance(error, RefusedError) and error.transient
        )

    async def _try_open(self) -> Pull:
        if self._received_seq is None:
            await self.gaps.open()
        opened = await self._consumer.open(self._received_seq)
        if self._received_seq is None:
            start = self._consumer.start
            # What the stream has dropped of it would otherwise not be missed.
            wanted = start.seq - 1 if isinstance(start, AtSequence) else opened.last_seq
            self._received_seq = min(opened.last_seq, wanted)
        pull = Pull(self._connection, self._stream, opened, follow=self._follow)
        await pull.open()
        self._pull = pull
        return pull

    async def _drop_pull(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            await pull.close()
