"""The publisher: ordered runs in, acknowledged messages in a stream out.

One pump sends: it encodes as many rows as there is room for, writes them, and waits for answers
when there is no room. Answers move the window from the connection's read loop (see `link`).

How often the stream acknowledges follows the pace of the feed, down to each single message. The
tail of a burst is asked for: a question to JetStream's API, answered by the stream's leader (see
`ack_timer`). Every message that is published is an event: nothing else ever goes out on a subject
of the market, so that a core subscriber sees what a consumer of the stream sees.

Whatever goes wrong ends in recovering (see `recovery`). That is the pump's work too, so nothing
else can be sent meanwhile; a task runs the pump when trouble comes while nobody sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ingestor.model.blocks import Encoder, Runs
from ingestor.model.errors import IngestorError, NatsRefusedError
from ingestor.nats.answers import RefusedError
from ingestor.nats.connection import OPEN_TIMEOUT_S
from ingestor.nats.jetstream import JetStreamApi
from ingestor.nats.options import ConnectOptions
from ingestor.nats.stream import StreamSettings
from ingestor.publish.ack_timer import ACK_DELAY_S, RETRY_S, AckAction, AckTimer
from ingestor.publish.batches import FLOW_MESSAGES
from ingestor.publish.link import CheckLease, Settle, StreamLink, now_s
from ingestor.publish.reconcile import StreamLostError
from ingestor.publish.recovery import Recovery
from ingestor.publish.status import StatusPublisher

GIVE_UP_AFTER_S: Final = 60.0
"""Default of `give_up_after_s`."""

FLOW_PERIOD_S: Final = 0.01
"""How often the stream is to acknowledge."""

MAX_QUEUED_S: Final = 2.0
"""A leader that answers and stores nothing of ours for this long has lost it."""

TROUBLE_S: Final = 1.0
"""A stream that stores nothing for this long is reported."""

BATCH_IDLE_S: Final = 5.0
"""A batch idle for this long is followed by another; the server forgets it after twice the time."""

BATCH_AGE_S: Final = 2.0
"""An older batch is committed with its next event, so that a recent exact sequence is known."""

BUSY_BATCH_AGE_S: Final = 10.0
"""The same at full speed, where to wait for the commit costs some 20 ms."""

SHARED_BATCH_AGE_S: Final = 1.0
"""The same where others write: what they write to our subjects in this time may have to be read."""

FENCE_REST_S: Final = 0.5
"""A publisher that sends nothing for this long may have been stopped, and may have a successor:
each message of its next write is fenced. No lease is lost in less."""

CLOSE_TIMEOUT_S: Final = 5.0
"""An orderly close waits this long for the last acknowledgements."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishReport:
    """What is stored for certain: acknowledged rows, and the messages that hold them.

    `first_seq` and `last_seq` are stream sequences of our first and last message, `*_ts_event_ns`
    the event times (ns UTC) of their first and last row; None where there is none. `mode` is
    ``fast_ingest``, ``ack_window`` or, when nothing was published, None.
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
    rows_by_feed: dict[int, int] = field(default_factory=dict)
    """By index: a feed's rows are stored in its own order, so this is how far each is stored."""
    first_ts_event_ns: int | None = None
    last_ts_event_ns: int | None = None


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """Where in which stream a publisher stands, for one that may have to follow it.

    Our last acknowledged message has the sequence `floor_seq`, or a later one where others write.
    Up to `certain_seq` exactly these messages of ours, and rows by subject, are stored.
    """

    identity: str
    floor_seq: int
    certain_seq: int
    certain_messages: int
    certain_rows: dict[str, int]
    marks: tuple[str, ...]
    """See `Connection.marks`."""


class Publisher:
    """Publishes runs in order into one stream. Used on one event loop; `open` first.

    Nothing acknowledged for `give_up_after_s`, though something is due, ends the run.
    With `check_lease` the stream refuses what a process sends that was stopped, once another one
    writes instead, as long as these are the stream's only writers; the run then ends with what
    `check_lease` raises.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        connect_options: ConnectOptions,
        stream: StreamSettings,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        open_timeout_s: float = OPEN_TIMEOUT_S,
        check_lease: CheckLease | None = None,
    ) -> None:
        """Raises ConfigurationError for options that cannot work."""
        self._link = StreamLink(
            encoder,
            connect_options=connect_options,
            settings=stream,
            check_lease=check_lease,
            open_timeout_s=open_timeout_s,
        )
        self._connection = self._link.connection
        self._recovery = Recovery(self._link, give_up_after_s=give_up_after_s)
        self.statuses = StatusPublisher(self._connection)
        """Publishes feed statuses, beside the market's data."""
        self._ack_timer = AckTimer()
        self._lock = asyncio.Lock()
        self._recovering: asyncio.Task[None] | None = None
        self._question: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written_s = self._batch_began_s = 0.0
        self._batch_leader = ""

    def tell_stored(self, on_acknowledged: Callable[[int], None]) -> None:
        """Call this with how many rows, in order, have just become known to be stored; quickly."""
        self._link.on_acknowledged = on_acknowledged

    @property
    def acked_rows(self) -> int:
        """Rows known to be stored."""
        return self._link.ledger.window.acked_rows if self._link.is_open else 0

    @property
    def acked_messages(self) -> int:
        """Messages known to be stored."""
        return self._link.ledger.window.acked_messages if self._link.is_open else 0

    @property
    def unacked_rows(self) -> int:
        """Rows under way: sent and not known to be stored."""
        return self._link.ledger.window.rows if self._link.is_open else 0

    @property
    def last_ack_ns(self) -> int | None:
        """Wall clock of the newest acknowledgement."""
        return self._link.last_ack_ns

    @property
    def connected(self) -> bool:
        """Whether there is a server now."""
        return self._connection.up

    @property
    def failure(self) -> IngestorError | None:
        """Why nothing can be published any more; `send` and `flush` raise it."""
        return self._link.failure

    @property
    def trouble(self) -> str | None:
        """Why a server that is there stores nothing, once that lasts; None while it does."""
        stall = self._link.stall
        if stall.since_s is None or not self.connected or now_s() - stall.since_s < TROUBLE_S:
            return None
        return stall.reason or "it does not say why"

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made again."""
        return self._connection.reconnects

    @property
    def api(self) -> JetStreamApi:
        """What asks the stream's leader over this connection."""
        return self._link.leader

    @property
    def place(self) -> StreamPlace | None:
        """Where in the stream this publisher stands; None before it is open."""
        if not self._link.is_open:
            return None
        ledger = self._link.ledger
        return StreamPlace(
            ledger.stream.identity, ledger.floor_seq, *ledger.certain, self._connection.marks
        )

    async def open(self, settle: Settle | None = None) -> None:
        """Connect, set up the stream and find its end. To be closed also when it fails.

        A publisher that follows one that died first waits until that one is settled.
        Raises NatsUnreachableError, NatsRefusedError, StreamError.
        """
        await self._link.open(settle)
        self._recovering = asyncio.create_task(self._recovery_loop())

    async def send(self, runs: Runs) -> None:
        """Send all rows in order, as fast as the stream takes them.

        Returns when the last row is on its way. What a cancelled send was to publish may be
        published or not. Raises NatsUnreachableError, NatsRefusedError, StreamError, and what
        the encoder raises.
        """
        if self.statuses.gap_is_pending:
            await self.statuses.gap_stored()
        self._link.ledger.add(runs)
        self._link.wake()
        async with self._lock:
            await self._pump()

    async def flush(self) -> None:
        """Return when everything sent is known to be stored, and where in the stream.

        Raises as `send` does.
        """
        async with self._lock:
            await self._pump()
            while self._link.ledger.window.messages:
                # What is acknowledged by itself needs no question, which would cost a round trip.
                if not self._link.ledger.ack_is_coming:
                    await self._ask()
                if self._link.ledger.window.messages:
                    await self._link.wait(ACK_DELAY_S)
                await self._pump()
            deadline_s = now_s() + self._recovery.silence_s
            while not self._link.ledger.exact and now_s() < deadline_s:
                if not await self._ask():
                    await self._link.wait(RETRY_S)
                await self._pump()

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> PublishReport:
        """End the batch and the connection in bounded time; say what is stored for certain.

        `flush` is what says that all is stored: this drops rows that were handed over and not
        sent, waits only `timeout_s` for acknowledgements, and raises nothing.
        """
        statuses = asyncio.create_task(self.statuses.close())
        if self._recovering is not None:
            # First of all: it may hold the lock, in a wait as long as the server stays away.
            self._recovering.cancel()
            await asyncio.wait({self._recovering})
            self._link.ledger.drop_unsent()
            with contextlib.suppress(TimeoutError, IngestorError):
                async with asyncio.timeout(timeout_s):
                    await self.flush()
        if self._timer is not None:
            self._timer.cancel()
        if self._question is not None:
            self._question.cancel()
            await asyncio.wait({self._question})
        await statuses
        await self._connection.close()
        return self.report()

    def report(self) -> PublishReport:
        """Say what is stored for certain by now; some microseconds of work, at any time."""
        name = self._link.settings.name
        if not self.acked_messages:
            return PublishReport(name, reconnects=self.reconnects)
        ledger = self._link.ledger
        window = ledger.window
        return PublishReport(
            stream=name,
            rows_by_subject=ledger.stored_rows_by_subject(),
            messages=window.acked_messages,
            first_seq=ledger.first_seq,
            last_seq=ledger.floor_seq,
            mode=ledger.mode,
            reconnects=self.reconnects,
            lost_messages=ledger.lost_messages,
            # A feed's own order is never changed, so a count of its rows is a position.
            rows_by_feed=dict(window.acked_by_feed),
            first_ts_event_ns=window.first_ts_event_ns,
            last_ts_event_ns=window.last_ts_event_ns,
        )

    # Sending. The pump holds the lock.

    async def _recovery_loop(self) -> None:
        with contextlib.suppress(IngestorError):
            while True:
                await self._link.needs_recovery.wait()
                async with self._lock:
                    await self._pump()

    async def _pump(self) -> None:
        """Send what waits, and recover from what went wrong."""
        link, ledger = self._link, self._link.ledger
        try:
            link.raise_failure()
            while (runs := ledger.next_runs()) is not None or link.needs_recovery.is_set():
                # Recovering comes first: what is sent before it could only arrive in the wrong
                # order.
                if link.needs_recovery.is_set() or runs is None:
                    await self._recovery.run()
                elif (room := self._room()) > 0:
                    self._write(runs, room)
                else:
                    self._start_timer()
                    await link.wait()
        except IngestorError as error:
            link.fail(error)
            raise

    def _room(self) -> int:
        if now_s() - self._written_s > BATCH_IDLE_S:
            self._link.ledger.leave_batch()
        return self._link.ledger.room(rested=self._has_rested())

    def _has_rested(self) -> bool:
        return now_s() - self._written_s > FENCE_REST_S

    def _write(self, runs: Runs, room: int) -> None:
        ledger = self._link.ledger
        batch = ledger.batch
        frames = self._link.encoder.encode(runs, batch.reply, batch.sent + 1, room)
        # Whoever is stopped is most probably stopped while it encodes: look again.
        if self._has_rested() and not batch.rested:
            return
        written_s = now_s()
        # Nothing is noted before it is written: what was not sent is encoded again, for another
        # batch.
        if not self._connection.write(*frames.parts):
            self._link.needs_recovery.set()
            return
        # When it was begun: who is stopped amid the write has rested when it writes again.
        self._written_s = written_s
        # The age of a batch counts from its first message.
        if not batch.sent:
            self._batch_began_s, self._batch_leader = self._written_s, self._link.leader_name
        ledger.sent(frames)
        self._start_timer()

    # What is not acknowledged in time.

    def _start_timer(self) -> None:
        if self._timer is None:
            sent, acked = self._link.ledger.sent_messages, self.acked_messages
            self._set_timer(self._ack_timer.start(sent, acked, now_s()))

    def _set_timer(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_ack_timer)

    def _on_ack_timer(self) -> None:
        self._timer = None
        link, ledger, timer = self._link, self._link.ledger, self._ack_timer
        # The first message that is sent afterwards starts the timer again.
        if link.needs_recovery.is_set():
            return
        sent, acked = ledger.sent_messages, self.acked_messages
        action, next_s = timer.poll(sent, acked, now_s(), coming=ledger.ack_is_coming)
        outpaced = ledger.pace(round(timer.messages_per_s * FLOW_PERIOD_S))
        asks = action in (AckAction.ASK, AckAction.RECONCILE)
        oldest_s = BUSY_BATCH_AGE_S if ledger.batch.flow == FLOW_MESSAGES else BATCH_AGE_S
        oldest_s = oldest_s if ledger.alone else SHARED_BATCH_AGE_S
        is_old = now_s() - self._batch_began_s > oldest_s
        # Only the answer to a commit tells a stream sequence; acknowledgements in between tell
        # counts.
        if outpaced or action is AckAction.ASK or is_old:
            ledger.batch.closing = True
        if action is AckAction.REST and ledger.next_runs() is not None:
            # All is stored, and an answer without which no more may be sent is lost.
            link.wake(recover=True)
        elif (asks or (action is AckAction.REST and not ledger.exact)) and (
            self._question is None or self._question.done()
        ):
            recover = action is AckAction.RECONCILE
            self._question = asyncio.create_task(self._question_leader(recover))
        if action is not AckAction.REST:
            self._set_timer(next_s)

    async def _question_leader(self, recover: bool) -> None:
        """Ask; recover where nothing moves though it should, unless the same leader is at work.

        What waits in its queue will be stored, and to send it again would not make it faster. With
        another leader than the batch began with, or in another term, that queue is gone.
        """
        link = self._link
        acked = self.acked_messages
        try:
            answered = await self._ask()
        except IngestorError:
            return  # It has ended the run: whoever sends is told.
        if acked != self.acked_messages or not link.ledger.window.messages:
            return
        silent_s = now_s() - max(link.acked_s, self._batch_began_s)
        idle = recover and (not answered or silent_s > MAX_QUEUED_S)
        if idle or (answered and link.leader_name != self._batch_leader):
            log.info("nothing is acknowledged%s", "" if answered else " and nobody answers")
            link.wake(recover=True)

    async def _ask(self) -> bool:
        """Ask how much of the open batch is stored; False when nobody can tell just now."""
        link, ledger, began_s = self._link, self._link.ledger, now_s()
        batch, acked = ledger.batch, ledger.batch.acked
        try:
            stored = await link.find_stored()
        except StreamLostError:
            link.needs_recovery.set()
        except NatsRefusedError as error:
            link.fail(error)
            raise
        except (TimeoutError, RefusedError) as error:
            log.debug("cannot tell yet what is stored: %s", error)
        else:
            self._ack_timer.answered(now_s() - began_s)
            # The answer is about the batch that was open when it was asked.
            if batch is ledger.batch and not batch.broken:
                link.note_acknowledged(ledger.note_stored(stored, acked))
            link.wake()
            return True
        return False
