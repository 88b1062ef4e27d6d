"""The publisher: ordered runs in, acknowledged messages in a stream out.

One pump sends: it encodes as many rows as there is room for, writes them, and waits for answers
when there is no room. Answers move the window from the connection's read loop, without a task.

How often the stream acknowledges follows the pace of the feed, down to each single message. The
tail of a burst is asked for: a question to JetStream's API, answered by the stream's leader (see
`ack_timer`). Every message that is published is an event: nothing else ever goes out on a subject
of the market, so that a core subscriber sees what a consumer of the stream sees.

Trouble (a lost connection, a gap, a refused message, a second of silence) always ends in the same
way: recover, which is to reconcile with the stream what it holds (see `reconcile`), take back the
rest, and go on with a new batch. A living batch of fast ingest is asked first, with its own next
event: its answer is exact whatever the stream is like, and puts an end to all that is on its way.
Recovering is the pump's work too, so nothing else can be sent meanwhile; a task runs the pump when
trouble comes while nobody sends.

A stream that has lost what it acknowledged, with its server's memory or by somebody's hand, is gone
on with: made again where it is gone, and the loss is said and counted, never sent again.

What is not due cannot be late: time runs against a server only while something is to be stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from ingestor.model.blocks import Encoder, Runs
from ingestor.model.bounds import MAX_PAYLOAD_BYTES
from ingestor.model.clock import now_ns
from ingestor.model.errors import IngestorError, NatsUnreachableError, StreamError
from ingestor.nats.answers import (
    NO_RESPONDERS,
    Answer,
    ApiError,
    PubAck,
    Refusal,
    parse_answer,
)
from ingestor.nats.connection import Connection
from ingestor.nats.jetstream import JetStreamApi, RefusedError
from ingestor.nats.options import Access
from ingestor.nats.stream import StreamSettings, set_up
from ingestor.publish.ack_timer import ACK_DELAY_S, AckAction, AckTimer
from ingestor.publish.batches import FLOW_MESSAGES, Batch, FastBatch
from ingestor.publish.ledger import FULL, TRANSIENT, WRONG_LAST_SEQUENCE, Ledger
from ingestor.publish.reconcile import NO_REPLY, StreamLostError, find_stored
from ingestor.publish.status import StatusPublisher
from ingestor.publish.stored_prefix import StoredPrefix, messages_of

RETRY_S: Final = 0.1
"""Pause before trying again what has just failed."""

MAX_RETRY_S: Final = 2.0
"""Longest pause before a stream that was full is tried again; each attempt sends an event."""

GIVE_UP_AFTER_S: Final = 60.0
"""The run ends when something is due and nothing was acknowledged for so long, by default."""

FLOW_PERIOD_S: Final = 0.01
"""How often the stream is to acknowledge."""

ANSWER_S: Final = 0.5
"""A leader that is there answers a question within this time, or is asked again."""

REFUSED_REST_S: Final = 0.05
"""A batch that ends by a refused message tells its count behind the refusal, if it ever does."""

SILENCE_S: Final = 10.0
"""A connection that brings no answer for this long, though asked, is made anew."""

MAX_REFUSALS: Final = 2
"""A refusal that repeats itself while nothing is stored is the stream's own; see `answers`."""

MAX_QUEUED_S: Final = 5.0
"""A leader that answers and stores nothing of ours for this long has lost it."""

TROUBLE_S: Final = 1.0
"""A stream that stores nothing for this long is worth a word."""

BATCH_IDLE_S: Final = 5.0
"""A batch idle for this long is followed by another; the server forgets it after twice the time."""

BATCH_AGE_S: Final = 2.0
"""An older batch is committed with its next event, so that an exact sequence of late is known."""

BUSY_BATCH_AGE_S: Final = 10.0
"""The same at full speed, where to wait for the commit costs some 20 ms."""

SHARED_BATCH_AGE_S: Final = 1.0
"""The same where others write: what they write to our subjects in this time may have to be read."""

GUARD_BYTES: Final = 80
"""What the header of a guarded message takes at most."""

GUARDED_ATTEMPTS: Final = 5
"""After so many refusals of a guarded message in a row, others write its subject: no guard."""

CLOSE_TIMEOUT_S: Final = 5.0
"""An orderly close waits this long for the last acknowledgements."""

_SILENT_STREAM: Final = (
    "the stream takes messages and stores none: a disk that was full may have stopped it, "
    "until its server is started again"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What is stored for certain: acknowledged rows by subject, and the messages that hold them.

    `first_seq` and `last_seq` are stream sequences of our first and last message, None when there
    is none; `mode` is ``fast_ingest``, ``ack_window`` or, when nothing was published, None.
    """

    stream: str
    rows_by_subject: dict[str, int] = field(default_factory=dict)
    messages: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    mode: str | None = None
    reconnects: int = 0
    lost_messages: int = 0
    """Acknowledged, counted in `messages`, and lost with the stream since."""


class Publisher:
    """Publishes runs in order into one stream. Used on one event loop; `open` first.

    `on_acknowledged` is called with the number of rows, in the order of sending, that have just
    become known to be stored; it must be quick.
    Nothing acknowledged for `give_up_after_s`, though something is due, ends the run.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        access: Access,
        stream: StreamSettings,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        on_acknowledged: Callable[[int], None] | None = None,
    ) -> None:
        """Raises ConfigurationError for an access that cannot work."""
        self._encoder = encoder
        self._settings = stream
        self._give_up_after_s = give_up_after_s
        self._silence_s = min(SILENCE_S, give_up_after_s / 2)
        self._on_acknowledged = on_acknowledged
        self._connection = Connection(access, on_change=self._connection_changed)
        self._api = JetStreamApi(self._connection)
        self._leader = JetStreamApi(self._connection, timeout_s=ANSWER_S)
        self.statuses = StatusPublisher(self._connection)
        """Publishes what feeds tell about themselves, beside the market's data."""
        self._ledger: Ledger | None = None
        self._stream_bound = MAX_PAYLOAD_BYTES
        self._ack_timer = AckTimer()
        self._lock = asyncio.Lock()
        self._wakeup = asyncio.Event()
        self._needs_recovery = asyncio.Event()
        self._recovery: asyncio.Task[None] | None = None
        self._question: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written_s = self._opened_s = self._heard_s = self._connected_s = 0.0
        self._acked_s = 0.0
        self._leader_name = ""
        self._stuck_since_s: float | None = None
        self._retry_s = 0.0
        self._refusals = 0
        self._guards_held = 0
        self._probed: tuple[Batch, int] | None = None
        self._disorder: tuple[Batch, int] | None = None
        self._told_odd = False
        self._reason = ""
        self.failure: IngestorError | None = None
        """Why nothing can be published any more; `send` and `flush` raise it."""
        self.last_ack_ns: int | None = None
        """Wall clock of the newest acknowledgement."""

    @property
    def acked_rows(self) -> int:
        """Rows known to be stored."""
        return self._ledger.window.acked_rows if self._ledger else 0

    @property
    def acked_messages(self) -> int:
        """Messages known to be stored."""
        return self._ledger.window.acked_messages if self._ledger else 0

    @property
    def unacked_rows(self) -> int:
        """Rows under way: sent and not known to be stored."""
        return self._ledger.window.rows if self._ledger else 0

    @property
    def unacked_bytes(self) -> int:
        """Bytes under way."""
        return self._ledger.window.size_bytes if self._ledger else 0

    @property
    def connected(self) -> bool:
        """Whether there is a server now."""
        return self._connection.up

    @property
    def trouble(self) -> str | None:
        """Why a server that is there stores nothing, once that lasts; None while it does."""
        since_s = self._stuck_since_s
        if since_s is None or not self._connection.up or _now_s() - since_s < TROUBLE_S:
            return None
        return self._reason or "it does not say why"

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made anew."""
        return self._connection.reconnects

    async def open(self) -> None:
        """Connect, set up the stream and find its end. To be closed also when it fails.

        Raises NatsUnreachableError, NatsRefusedError, StreamError.
        """
        await self._connection.open()
        try:
            state = await set_up(self._api, self._settings)
            self._stream_bound = state.max_message_bytes
            self._bound_messages()
            inbox = self._connection.new_inbox()
            self._ledger, self._leader_name = Ledger(inbox, state), state.leader
            await self._connection.listen(f"{inbox}.>", self._receive)
        except TimeoutError as error:
            raise self._connection.failure or NatsUnreachableError(
                f"the NATS server at {self._connection.servers} does not answer: {error}"
            ) from None
        self._recovery = asyncio.create_task(self._recovery_loop())

    async def send(self, runs: Runs) -> None:
        """Send all rows in order, as fast as the stream takes them.

        Returns when the last row is on its way. What a cancelled send was to publish may be
        published or not. Raises NatsUnreachableError, NatsRefusedError, StreamError, and what
        the encoder raises.
        """
        self._books.add(runs)
        self._wakeup.set()
        async with self._lock:
            await self._pump()

    async def flush(self) -> None:
        """Return when everything sent is known to be stored, and where in the stream.

        Raises as `send` does.
        """
        async with self._lock:
            await self._pump()
            while self._books.window.messages:
                if not self._books.ack_is_coming:
                    await self._ask()
                if self._books.window.messages:
                    await self._wait(ACK_DELAY_S)
                await self._pump()
            deadline_s = _now_s() + self._silence_s
            while not self._books.exact and _now_s() < deadline_s:
                if not await self._ask():
                    await self._wait(RETRY_S)
                await self._pump()

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> PublishReport:
        """End the batch and the connection in bounded time; say what is stored for certain.

        `flush` is what says that all is stored: this drops rows that were handed over and not
        sent, waits only `timeout_s` for acknowledgements, and raises nothing.
        """
        statuses = asyncio.create_task(self.statuses.close())
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait({self._recovery})
            self._books.drop_unsent()
            with contextlib.suppress(TimeoutError, IngestorError):
                async with asyncio.timeout(timeout_s):
                    await self.flush()
        self._stop_timer()
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait({self._question})
        await statuses
        await self._connection.close()
        return self.report()

    def report(self) -> PublishReport:
        """Return what is stored for certain by now."""
        ledger = self._ledger
        if ledger is None or not ledger.window.acked_messages:
            return PublishReport(self._settings.name, reconnects=self.reconnects)
        return PublishReport(
            stream=self._settings.name,
            rows_by_subject=ledger.stored_rows_by_subject(),
            messages=ledger.window.acked_messages,
            first_seq=ledger.first_seq,
            last_seq=ledger.floor_seq,
            mode=ledger.mode,
            reconnects=self.reconnects,
            lost_messages=ledger.lost_messages,
        )

    @property
    def _books(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("the publisher is not open")
        return self._ledger

    # Sending. The lock is held by whoever pumps.

    async def _pump(self) -> None:
        """Send what is to be sent, and recover from what went wrong."""
        try:
            self._raise_failure()
            while (runs := self._books.next_runs()) is not None or self._needs_recovery.is_set():
                if self._needs_recovery.is_set() or runs is None:
                    await self._recover()
                elif (room := self._room()) > 0:
                    self._write(runs, room)
                else:
                    self._start_timer()
                    await self._wait()
        except IngestorError as error:
            self._fail(error)
            raise

    def _room(self) -> int:
        if _now_s() - self._written_s > BATCH_IDLE_S:
            self._books.leave_batch()
        return self._books.room()

    def _write(self, runs: Runs, room: int) -> None:
        ledger = self._books
        batch = ledger.batch
        frames = self._encoder.encode(runs, batch.reply, batch.sent + 1, room)
        if not self._connection.write(*frames.parts):
            self._needs_recovery.set()
            return
        self._written_s = _now_s()
        if not batch.sent:
            self._opened_s = self._written_s
        ledger.sent(frames)
        self._start_timer()

    async def _wait(self, limit_s: float | None = None) -> None:
        """Wait for an answer, a change of the connection, or a failure, which is raised."""
        self._raise_failure()
        self._wakeup.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._wakeup.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _fail(self, error: IngestorError) -> None:
        self.failure = self.failure or error
        self._wakeup.set()

    # Answers and changes: called from the client, which loses its read loop if they raise.

    def _receive(self, subject: str, data: bytes, status: str | None, reply: str) -> None:
        del reply
        try:
            self._take(subject, data, status)
        except IngestorError as error:
            self._fail(error)
        except Exception as error:
            log.exception("an acknowledgement cannot be dealt with")
            self._fail(IngestorError(f"an acknowledgement cannot be dealt with: {error}"))

    def _take(self, subject: str, data: bytes, status: str | None) -> None:
        ledger = self._books
        self._heard_s = _now_s()
        self._note_acknowledged(ledger.receive(subject, data, status))
        if ledger.odd_answers and not self._told_odd:
            self._told_odd = True
            log.warning("an answer that makes no sense came as acknowledgement: left unheeded")
        if ledger.batch.broken:
            self._needs_recovery.set()
        self._wakeup.set()

    def _note_acknowledged(self, rows: int) -> None:
        if rows:
            self.last_ack_ns = now_ns()
            self._acked_s = _now_s()
            self._stuck_since_s = None
            self._retry_s, self._reason = 0.0, ""
            self._refusals = 0
            if self._on_acknowledged is not None:
                self._on_acknowledged(rows)

    def _connection_changed(self) -> None:
        if self._connection.failure is not None:
            self._fail(self._connection.failure)
        elif self._connection.up:
            log.info("connected to %s again", self._connection.servers)
        else:
            log.warning("the connection to %s is lost", self._connection.servers)
            self._needs_recovery.set()
        self._connected_s = _now_s()
        self._wakeup.set()

    # What is not acknowledged in time.

    def _start_timer(self) -> None:
        if self._timer is None:
            ledger = self._books
            acked = ledger.window.acked_messages
            self._set_timer(self._ack_timer.start(ledger.sent_messages, acked, _now_s()))

    def _set_timer(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_ack_timer)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_ack_timer(self) -> None:
        self._timer = None
        ledger, timer = self._books, self._ack_timer
        if self._needs_recovery.is_set():
            return
        sent, acked = ledger.sent_messages, ledger.window.acked_messages
        action, next_s = timer.poll(sent, acked, _now_s(), coming=ledger.ack_is_coming)
        outpaced = ledger.pace(round(timer.messages_per_s * FLOW_PERIOD_S))
        asks = action in (AckAction.ASK, AckAction.RECONCILE)
        if outpaced or action is AckAction.ASK or self._batch_is_old():
            ledger.batch.closing = True
        if action is AckAction.REST and ledger.next_runs() is not None:
            # All is stored, and an answer without which no more may be sent is lost.
            self._needs_recovery.set()
            self._wakeup.set()
        elif asks or (action is AckAction.REST and not ledger.exact):
            self._put_question(recover=action is AckAction.RECONCILE)
        if action is not AckAction.REST:
            self._set_timer(next_s)

    def _batch_is_old(self) -> bool:
        busy = self._books.batch.flow == FLOW_MESSAGES
        oldest_s = BUSY_BATCH_AGE_S if busy else BATCH_AGE_S
        return _now_s() - self._opened_s > (oldest_s if self._books.alone else SHARED_BATCH_AGE_S)

    def _put_question(self, *, recover: bool) -> None:
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._question_leader(recover))

    async def _question_leader(self, recover: bool) -> None:
        """Ask; recover where nothing moves though it should, unless the same leader is at work.

        What waits in its queue will be stored, and to send it again would not make it faster.
        """
        acked, leader = self.acked_messages, self._leader_name
        answered = await self._ask()
        if not recover or acked != self.acked_messages:
            return
        silent_s = _now_s() - max(self._acked_s, self._opened_s)
        if not answered or leader != self._leader_name or silent_s > MAX_QUEUED_S:
            log.info("nothing is acknowledged%s", "" if answered else " and nobody answers")
            self._needs_recovery.set()
            self._wakeup.set()

    async def _ask(self) -> bool:
        """Ask how much of the open batch is stored; False when nobody can tell just now."""
        ledger, began_s = self._books, _now_s()
        batch, acked = ledger.batch, ledger.batch.acked
        try:
            stored = await find_stored(self._leader, ledger.reconcile_request(), self._encoder)
        except StreamLostError:
            self._needs_recovery.set()
        except (TimeoutError, RefusedError) as error:
            log.debug("what is stored is not known yet: %s", error)
        else:
            self._heard_s, self._leader_name = _now_s(), stored.leader
            self._ack_timer.answered(self._heard_s - began_s)
            if batch is ledger.batch and not batch.broken:
                self._note_acknowledged(ledger.note_stored(stored, acked))
            self._wakeup.set()
            return True
        return False

    # Recovery.

    async def _recovery_loop(self) -> None:
        with contextlib.suppress(IngestorError):
            while True:
                await self._needs_recovery.wait()
                async with self._lock:
                    await self._pump()

    async def _recover(self) -> None:
        """Reconcile and restart, or fail to; called again as long as that is needed."""
        if self._stuck_for_s() >= self._give_up_after_s:
            raise self._given_up()
        if self._retry_s:
            await self._wait_for(lambda: False, self._retry_s)
        self._retry_s = max(self._retry_s, RETRY_S)
        try:
            await self._connected()
            await self._reconcile()
        except StreamLostError as lost:
            await self._go_on_after(lost)
        except TimeoutError as error:
            self._reason = str(error)
            self._drop_if_silent()
        except RefusedError as refused:
            if not refused.transient:
                raise
            self._reason = str(refused)
        else:
            self._restart()

    async def _connected(self) -> None:
        """Wait for a connection. Raises TimeoutError when something is late by then."""
        while not self._connection.up:
            left_s = self._give_up_after_s - self._stuck_for_s()
            if left_s <= 0:
                raise TimeoutError("the connection is lost")
            await self._wait(min(left_s, MAX_RETRY_S))

    async def _reconcile(self) -> None:
        """Find out what is stored. Raises TimeoutError when the server does not help."""
        ledger = self._books
        batch = ledger.batch
        if isinstance(batch, FastBatch) and not batch.ended:
            await self._probe(batch)
        if not batch.ended:
            acked = batch.acked
            stored = await find_stored(self._leader, ledger.reconcile_request(), self._encoder)
            self._heard_s, self._leader_name = _now_s(), stored.leader
            self._note_acknowledged(ledger.note_stored(stored, acked))
            if ledger.window.messages:
                await self._send_guarded(stored)

    async def _send_guarded(self, stored: StoredPrefix) -> None:
        """Have the next message stored, if nothing has come in between since we asked.

        It waits behind all that was on its way: only when it is stored is anything sent again.
        Raises TimeoutError when it is not, StreamError when it never will be.
        """
        ledger = self._books
        frames = self._encoder.encode(ledger.window.message(0), NO_REPLY, 1, 1)
        subject, payload = messages_of(frames.data)[0]
        guard = None if self._guards_held >= GUARDED_ATTEMPTS else stored.guard(subject)
        if guard is None or len(payload) + GUARD_BYTES > self._max_message_bytes:
            self._guards_held = 0
            return
        try:
            data = await self._connection.request(subject, payload, ANSWER_S, dict([guard]))
        except TimeoutError:
            raise TimeoutError(_SILENT_STREAM) from None
        answer = NO_RESPONDERS if data is None else _sensible(data)
        if isinstance(answer, Refusal):
            self._guard_refused(answer.error, contended=stored.end is None)
        if not isinstance(answer, PubAck) or not stored.is_next(answer.stream_seq):
            raise TimeoutError("the answer to a message makes no sense")
        self._guards_held = 0
        acked, seq = ledger.batch.acked, answer.stream_seq
        end = None if stored.end is None else seq
        self._note_acknowledged(ledger.note_stored(StoredPrefix(1, seq, seq, end), acked))
        ledger.forget_refusal()

    def _guard_refused(self, error: ApiError, *, contended: bool) -> None:
        self._reason = str(error)
        if error.number in WRONG_LAST_SEQUENCE:
            self._guards_held += contended
        elif error.number in FULL:
            self._bear_with(error)
        elif error.number not in TRANSIENT:
            self._count_refusal(error)
        raise TimeoutError(str(error))

    def _count_refusal(self, error: ApiError) -> None:
        self._refusals += 1
        if self._refusals >= MAX_REFUSALS:
            raise StreamError(f"stream {self._settings.name} refuses messages: {error}")

    async def _probe(self, batch: FastBatch) -> None:
        """Ask a living batch with an event of it; once a connection."""
        question, attempt = batch.probe, (batch, self.reconnects)
        if question is None or self._probed == attempt:
            if batch.refusal is not None and not batch.unknown:
                await self._wait_for(lambda: batch.ended, REFUSED_REST_S)
            return
        self._probed = attempt
        number, reply = question
        rows = self._books.window.message(number - 1 - batch.acked)
        refusal = batch.refusal
        frames = self._encoder.encode(rows, reply, number, 1)
        if self._connection.write(*frames.parts):
            await self._wait_for(
                lambda: batch.ended or batch.unknown or batch.refusal is not refusal, ANSWER_S
            )

    def _drop_if_silent(self) -> None:
        heard_s = max(self._heard_s, self._connected_s)
        if self._connection.up and _now_s() - heard_s > self._silence_s:
            log.warning("%s says nothing: connecting anew", self._connection.servers)
            self._connection.drop()

    async def _go_on_after(self, lost: StreamLostError) -> None:
        """Go on in what is left of the stream, or in one made again, and say what is lost."""
        ledger = self._books
        try:
            if lost.last_seq is None:
                state = replace(await set_up(self._leader, self._settings), last_seq=0)
                gone = ledger.window.acked_messages - ledger.lost_messages
            else:
                state = replace(ledger.stream, last_seq=lost.last_seq)
                gone = ledger.floor_seq - lost.last_seq
        except (TimeoutError, RefusedError) as error:
            if isinstance(error, RefusedError) and not error.transient:
                raise
            self._reason = str(error)
            return
        if gone:
            log.error(
                "%s: %d acknowledged messages of ours, up to sequence %d, are lost; going on",
                *(lost, gone, ledger.floor_seq),
            )
        else:
            log.warning("%s: nothing of ours was in it; going on", lost)
        ledger.go_on_in(state, gone)

    def _stuck_for_s(self) -> float:
        """Return for how long something has been due and nothing was acknowledged."""
        if not self._books.unstored_rows:
            self._stuck_since_s = None
            return 0.0
        if self._stuck_since_s is None:
            self._stuck_since_s = _now_s()
        return _now_s() - self._stuck_since_s

    def _given_up(self) -> IngestorError:
        servers, left = self._connection.servers, f"for {self._give_up_after_s:g} s"
        if not self._connection.up or self._heard_s < (self._stuck_since_s or 0.0):
            rows = self._books.unstored_rows
            return NatsUnreachableError(
                f"no NATS server has answered at {servers} {left}: {rows} rows are not stored"
            )
        reason = f" ({self._reason})" if self._reason else ""
        name = self._settings.name
        return StreamError(f"stream {name} at {servers} has acknowledged nothing {left}{reason}")

    def _restart(self) -> None:
        ledger = self._books
        batch, name = ledger.batch, self._settings.name
        if (disorder := (batch, batch.out_of_order)) != self._disorder:
            self._disorder = disorder
            if batch.out_of_order > batch.acked:
                return  # Those before it may have been stored by now.
        if batch.out_of_order > batch.acked:
            raise StreamError(
                f"stream {name} refused a message ({batch.refusal}) and stored "
                "one behind it: the order is broken"
            )
        if ledger.fatal is not None:
            self._count_refusal(ledger.fatal)
        if ledger.full is not None:
            self._bear_with(ledger.full)
        if batch.refusal is not None:
            self._reason = str(batch.refusal)
        if ledger.window.rows:
            rows = ledger.window.rows
            log.info("%d rows that stream %s has not stored are sent again", rows, name)
        self._needs_recovery.clear()
        if not self._connection.up:
            self._needs_recovery.set()
        self._bound_messages()
        ledger.restart()

    def _bound_messages(self) -> None:
        """Cut messages as this server and the stream take them, once all before is settled."""
        self._encoder.max_payload_bytes = self._max_message_bytes

    @property
    def _max_message_bytes(self) -> int:
        return min(self._connection.max_payload_bytes, self._stream_bound)

    def _bear_with(self, full: ApiError) -> None:
        """Have a full stream tried more and more rarely, and say that it is full, once."""
        if self._retry_s <= RETRY_S:
            limit_s = self._give_up_after_s
            log.warning(
                "stream %s takes nothing: %s; waiting for up to %g s",
                *(self._settings.name, full, limit_s),
            )
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    async def _wait_for(self, done: Callable[[], bool], limit_s: float) -> None:
        """Wait until `done`, the connection is lost, or the time is over."""
        end_s = _now_s() + limit_s
        while not done() and (left_s := end_s - _now_s()) > 0:
            await self._wait(left_s)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _sensible(data: bytes) -> Answer | None:
    try:
        return parse_answer(data)
    except StreamError:
        return None
