"""What feeds tell about themselves, published into a stream of its own: each once and in order.

It shares the publisher's connection and nothing else. Nothing here waits for market data: a status
is put in a bounded queue, and one task at a time sends it, waits for its acknowledgement, and sends
it again until there is one. Market data waits for this in one case: what ends a gap is sent once
the gap is stored, or after `GAP_WAIT_S`. A run that dies between the two would leave events whose
gap nobody tells, since the next run tells what is missing behind the last event stored. Each has a
message id, so that the stream stores it once however often it is sent (within
`DUPLICATE_WINDOW_S`).

The stream is made when the first status comes: a replay has none. A stream that refuses a status
is named in the log, and the status is counted; nothing else ends by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from ingestor.model.errors import NatsRefusedError, StreamError
from ingestor.model.feed_status import (
    ALL_SUBJECTS,
    STATUS_STREAM,
    FeedStatus,
    What,
    encode_status,
    shortened,
)
from ingestor.nats.answers import (
    BUSY,
    Answer,
    ForbiddenError,
    NobodyListensError,
    PubAck,
    Refusal,
    RefusedError,
    parse_answer,
)
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.stream import StreamSettings, set_up

MAX_PENDING_STATUSES: Final = 1_024
"""What waits to be acknowledged; beyond, the oldest is dropped, so that the last one stays true."""

ACK_TIMEOUT_S: Final = 2.0
"""What is not acknowledged by then is sent again."""

RETRY_S: Final = 0.1

GAP_WAIT_S: Final = 1.0
"""For so long events wait for the gap that they end; an acknowledgement takes milliseconds."""

CLOSE_TIMEOUT_S: Final = 2.0
NEW_MAX_AGE_S: Final = 7 * 86_400.0
DUPLICATE_WINDOW_S: Final = 3_600.0

STATUS_SETTINGS: Final = StreamSettings(
    name=STATUS_STREAM,
    subjects=(ALL_SUBJECTS,),
    batched=False,
    new_max_age_s=NEW_MAX_AGE_S,
    new_duplicate_window_s=DUPLICATE_WINDOW_S,
)
"""Seven days in files, limits retention, as every stream of ours where it is made anew."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pending:
    status: FeedStatus
    message_id: str
    settled: Callable[[], object]


class StatusPublisher:
    """Publishes statuses over an open connection, whose event loop it shares.

    `stream` may be replaced before the first status. `published`, `refused` and `dropped` count.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = JetStreamApi(connection)
        self.stream = STATUS_SETTINGS
        self._pending: deque[_Pending] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._run_id = uuid4().hex
        self._told = 0
        self._gap = 0
        """The number of the last gap told; 0 when nothing waits for one."""
        self._gap_settled = asyncio.Event()
        self._ready = False
        self._complained = False
        self._closed = False
        self.published = 0
        """Acknowledged by the stream."""
        self.refused = 0
        """Not taken by the stream."""
        self.dropped = 0
        """Given up because too many waited, or because the end came first."""

    @property
    def pending(self) -> int:
        """Statuses whose fate is not known yet."""
        return self._told - self._fates

    @property
    def _fates(self) -> int:
        return self.published + self.refused + self.dropped

    @property
    def gap_is_pending(self) -> bool:
        """Whether what ends a gap must wait for `gap_stored`."""
        return self._fates < self._gap

    async def gap_stored(self) -> None:
        """Return when the gaps told are stored, or refused, or `GAP_WAIT_S` later."""
        self._gap_settled.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GAP_WAIT_S):
                await self._gap_settled.wait()
        # Waited for once: a stream that does not answer must not hold each block up.
        self._gap = 0

    def tell(
        self,
        status: FeedStatus,
        message_id: str | None = None,
        settled: Callable[[], object] = lambda: None,
    ) -> None:
        """Have a status published; returns at once. Call it on the connection's event loop.

        The stream stores one of an id once, whoever sends it again; `settled` is called when
        nothing more becomes of it, in order.
        """
        self._told += 1
        if self._closed:
            self.dropped += 1
            return
        if len(self._pending) >= MAX_PENDING_STATUSES:
            self._drop_oldest()
        if status.what is What.GAP:
            self._gap = self._told
        key = message_id or f"{self._run_id}.{self._told}"
        self._pending.append(_Pending(status, key, settled))
        if self._worker is None or self._worker.done():
            # One at a time keeps them in order; a second one would overtake a retry.
            self._worker = asyncio.create_task(self._work())
            self._worker.add_done_callback(_log_fault)

    async def close(self) -> None:
        """Publish what is pending within `CLOSE_TIMEOUT_S`; what is left is dropped, and said."""
        self._closed = True
        if self._worker is not None:
            # Waits for the worker and not for the queue: a worker that has failed would never empty
            # it.
            await asyncio.wait({self._worker}, timeout=CLOSE_TIMEOUT_S)
            self._worker.cancel()
            await asyncio.wait({self._worker})
        if self.pending:
            log.warning("%d statuses of feeds are not published", self.pending)
            self.dropped += self.pending

    def _drop_oldest(self) -> None:
        told = self._pending.popleft()
        self.dropped += 1
        log.warning("too many statuses wait: dropped %s of %s", told.status.what, told.status.feed)
        told.settled()

    async def _work(self) -> None:
        while self._pending and self._connection.failure is None:
            told = self._pending.popleft()
            await self._deliver(told.status, told.message_id)
            if self._connection.failure is None:
                told.settled()
            if not self.gap_is_pending:
                self._gap_settled.set()

    async def _deliver(self, status: FeedStatus, message_id: str) -> None:
        """Return once the stream has stored it or refused it, or the connection has failed."""
        while self._connection.failure is None:
            try:
                if self._connection.up:
                    await self._publish(status, message_id)
                    return
            except ForbiddenError as error:
                self._refuse(f"we may not publish: {error}")
                return
            except NatsRefusedError:
                return  # The connection has failed; what is not published yet is dropped.
            except TimeoutError as error:
                log.debug("a status is sent again: %s", error)
            except StreamError as error:
                if not (isinstance(error, RefusedError) and error.transient):
                    self._refuse(str(error))
                    return
                log.debug("a status is sent again: %s", error)
            await asyncio.sleep(RETRY_S)

    async def _publish(self, status: FeedStatus, message_id: str) -> None:
        """Send it and take the acknowledgement. Raises TimeoutError, StreamError."""
        # Made with the first status: a replay, which has none, leaves no empty stream behind.
        if not self._ready:
            await set_up(self._api, self.stream)
            self._ready = True
        try:
            answer = await self._connection.request(
                "a status",
                status.subject,
                encode_status(shortened(status)),
                timeout_s=ACK_TIMEOUT_S,
                # The stream drops a second copy by this id: sent again, it is stored once.
                headers={"Nats-Msg-Id": message_id},
            )
        except NobodyListensError:
            self._ready = False  # The stream is gone: it is made again.
            raise
        _check(parse_answer(answer.data))
        self.published += 1
        self._complained = False

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        if not self._complained:
            self._complained = True
            log.warning("statuses of feeds cannot be published: %s", reason)


def _check(answer: Answer) -> None:
    """Raise TimeoutError where it may be taken later, StreamError where it is refused."""
    if isinstance(answer, Refusal):
        if answer.error.number in BUSY:
            raise TimeoutError(str(answer.error))
        raise StreamError(f"the stream refuses them: {answer.error}")
    if not isinstance(answer, PubAck):
        raise StreamError(f"the stream's answer is of another kind: {answer}")


def _log_fault(worker: asyncio.Task[None]) -> None:
    if not worker.cancelled() and (error := worker.exception()) is not None:
        log.error("publishing statuses ended by a fault of this program", exc_info=error)
