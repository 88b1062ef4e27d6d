"""The publisher's link to its stream: connection and ledger, and what the one tells the other.

Answers to messages come in the connection's read loop, without a task, and move the window there.
Callers wait for them here, and what ends the run is kept here: every wait raises `failure`. Asking
the stream's leader is here too, since both the acknowledgement timer and the recovery do it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from ingestor.model.blocks import FENCE_BYTES, Encoder
from ingestor.model.bounds import MAX_JSON_EVENT_BYTES, MAX_PAYLOAD_BYTES
from ingestor.model.errors import IngestorError, NatsRefusedError, NatsUnreachableError
from ingestor.model.units import now_ns
from ingestor.nats.answers import UNAVAILABLE, Frame, RefusedError, Status
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings, StreamState, set_up
from ingestor.publish.ack_timer import Stall
from ingestor.publish.ledger import Ledger, StoredPrefix
from ingestor.publish.reconcile import find_stored

ANSWER_S: Final = 0.5
"""A leader that is there answers a question within this time, or is asked again."""

CheckLease = Callable[[Connection], Awaitable[None]]
"""Asks whether the subjects are still ours to write to. Raises StreamInUseError when they are not,
and what asking raises."""

Settle = Callable[[Connection], Awaitable[None]]
"""Waits until nothing more of a publisher that died can arrive."""

log = logging.getLogger(__name__)


def now_s() -> float:
    """Return a clock that never steps back, in seconds."""
    # Not the event loop's: uvloop reads it once a turn, so that who is stopped amid one, and wakes
    # up an hour later, would go on as if nothing had been.
    return time.monotonic()


class StreamLink:
    """One stream over one connection, for one publisher. Used on one event loop."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        connect_options: ConnectOptions,
        settings: StreamSettings,
        open_timeout_s: float,
        check_lease: CheckLease | None = None,
    ) -> None:
        self.encoder = encoder
        self.settings = settings
        self.connection = Connection(
            connect_options,
            on_change=self._connection_changed,
            min_payload_bytes=MAX_JSON_EVENT_BYTES,
            open_timeout_s=open_timeout_s,
        )
        self._open_timeout_s = open_timeout_s
        self._api = JetStreamApi(self.connection)
        self.leader = JetStreamApi(self.connection, timeout_s=ANSWER_S)
        self.on_acknowledged: Callable[[int], None] = lambda _rows: None
        self._check_lease = check_lease
        self._ledger: Ledger | None = None
        self._stream_bound_bytes = MAX_PAYLOAD_BYTES
        self._wakeup = asyncio.Event()
        self._told_odd = False
        self.stall = Stall()
        self.needs_recovery = asyncio.Event()
        self.failure: IngestorError | None = None
        """Why nothing can be published any more; `wait` raises it."""
        self.leader_name = ""
        """The server that answered for the stream last."""
        self.heard_s = self.acked_s = self.connected_s = 0.0
        """When the stream last answered, stored something, and the connection last changed."""
        self.last_ack_ns: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a ledger."""
        return self._ledger is not None

    @property
    def ledger(self) -> Ledger:
        """The stream's ledger. Raises RuntimeError before the link is open."""
        if self._ledger is None:
            raise RuntimeError("the publisher is not open")
        return self._ledger

    @property
    def max_message_bytes(self) -> int:
        """The longest message, headers included, that server and stream take."""
        return min(self.connection.max_payload_bytes, self._stream_bound_bytes)

    @property
    def _fence_bytes(self) -> int:
        """What is kept free in each message; 0 where none is fenced, or would not fit."""
        spare = self.max_message_bytes - MAX_JSON_EVENT_BYTES
        return FENCE_BYTES if self._check_lease is not None and spare >= FENCE_BYTES else 0

    async def open(self, settle: Settle | None = None) -> None:
        """Connect, set up the stream and find its end. Raises as `Publisher.open` does."""
        await self.connection.open()
        deadline_s = now_s() + self._open_timeout_s
        while True:
            try:
                # Whatever comes later would be taken for another's.
                if settle is not None:
                    await settle(self.connection)
                state = await set_up(self._api, self.settings)
                inbox, _ = await self.connection.tap(self)
                # A run that was frozen as a whole may have been followed by another meanwhile.
                # Asked last: the fence holds from the end of the stream that was read before.
                if settle is not None:
                    await self.check_lease()
                break
            except (TimeoutError, RefusedError) as error:
                # Whom a run has known is waited for as long as it would be amid the run.
                self._bear(error, patient=settle is not None and now_s() < deadline_s)
            await self.wait(ANSWER_S)
        self._stream_bound_bytes = state.max_message_bytes
        self.bound_messages()
        # Only now: an answer that came before would belong to no message.
        self._ledger = Ledger(inbox, state, fenced=self._fence_bytes > 0)
        self.leader_name = state.leader

    def _bear(self, error: TimeoutError | RefusedError, *, patient: bool) -> None:
        """Raise why the stream cannot be opened, unless it may be tried again."""
        if patient and (isinstance(error, TimeoutError) or error.transient):
            return
        if isinstance(error, RefusedError):
            raise error
        # A refusal may arrive after the request that it answers has timed out.
        raise self.connection.failure or NatsUnreachableError(
            f"the NATS server at {self.connection.servers} does not answer: {error}"
        ) from None

    async def set_up_again(self) -> StreamState:
        """Make the stream again. Raises TimeoutError, RefusedError."""
        return await set_up(self.leader, self.settings)

    async def find_stored(self) -> StoredPrefix:
        """Ask the stream's leader how much of the open batch is stored.

        Raises StreamLostError, RefusedError, NatsRefusedError, TimeoutError.
        """
        stored = await find_stored(self.leader, self.ledger.reconcile_request(), self.encoder)
        self.heard_s, self.leader_name = now_s(), stored.leader
        return stored

    async def check_lease(self) -> None:
        """Make sure that nobody else was given what we write to, as far as that can be asked.

        Raises StreamInUseError, and TimeoutError where nobody answers just now.
        """
        if self._check_lease is None:
            return
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._check_lease(self.connection)
        except (RefusedError, NatsRefusedError) as error:
            if isinstance(error, RefusedError) and error.transient:
                raise TimeoutError(f"whose lease it is is not known: {error}") from None
            log.debug("whose lease it is cannot be asked: %s", error)

    def bound_messages(self) -> None:
        """Cut messages as server and stream take them, once all sent before is acknowledged."""
        self.encoder.max_payload_bytes = self.max_message_bytes - self._fence_bytes

    async def wait(self, limit_s: float | None = None) -> None:
        """Wait for an answer, a change of the connection, or a failure, which is raised."""
        self.raise_failure()
        # Cleared before the wait and not after it, or a wakeup in between is lost.
        self._wakeup.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wakeup.wait()
        self.raise_failure()

    async def wait_for(self, done: Callable[[], bool], limit_s: float) -> None:
        """Wait until `done` or the time is over."""
        end_s = now_s() + limit_s
        while not done() and (left_s := end_s - now_s()) > 0:
            await self.wait(left_s)

    def wake(self, *, recover: bool = False) -> None:
        """Wake all waits to look again; `recover` says that what is stored must be found out."""
        if recover:
            self.needs_recovery.set()
        self._wakeup.set()

    def raise_failure(self) -> None:
        """Raise what ended the run, if anything did."""
        if self.failure is not None:
            raise self.failure

    def fail(self, error: IngestorError) -> None:
        """End the run."""
        self.failure = self.failure or error
        self.wake()

    def note_acknowledged(self, rows: int) -> None:
        """Tell of rows that have just become known to be stored."""
        if rows:
            self.last_ack_ns = now_ns()
            self.acked_s = now_s()
            self.stall.end()
            self.on_acknowledged(rows)

    # Called by the connection, which loses its read loop if they raise.

    def receive(self, frames: list[Frame]) -> None:
        """Take answers."""
        for subject, _, payload in frames:
            self._take(subject.decode(errors="replace"), payload)

    def status(self, status: Status) -> None:
        """Take the server's word that nobody listened."""
        if status.code == UNAVAILABLE:
            self._take(status.subject, None)

    def _take(self, subject: str, payload: bytes | None) -> None:
        ledger = self.ledger
        self.heard_s = now_s()
        try:
            self.note_acknowledged(ledger.receive(subject, payload))
        except IngestorError as error:
            self.fail(error)
        except Exception as error:
            # What `on_acknowledged` raises, or a fault of ours: the read loop must live to close in
            # order.
            log.exception("cannot process an acknowledgement")
            self.fail(IngestorError(f"cannot process an acknowledgement: {error}"))
        if ledger.odd_answers and not self._told_odd:
            self._told_odd = True
            # Once: anyone who knows our inbox could fill the log.
            log.warning("ignoring a malformed acknowledgement")
        self.wake(recover=ledger.batch.broken)

    def _connection_changed(self) -> None:
        if self.connection.failure is not None:
            self.fail(self.connection.failure)
        elif self.connection.up:
            log.info("connected to %s again", self.connection.servers)
        else:
            log.warning("the connection to %s is lost", self.connection.servers)
            self.needs_recovery.set()
        self.connected_s = now_s()
        self.wake()
