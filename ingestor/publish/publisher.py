"""The publisher: ordered runs in, acknowledged messages in a stream out.

One pump sends: it encodes as many rows as there is room for, writes them, and waits for answers
when there is no room. Answers move the window from the connection's read loop, without a task.

The stream acknowledges about every hundredth of a second: how many messages that is follows the
pace of the feed, down to each single one. What is still not acknowledged soon is asked for: the
open batch of fast ingest is committed, which the stream answers with an exact count, and the next
message opens a new batch. So a quiet feed knows soon what is stored, no batch is left idle until
the server drops it, and a lost acknowledgement heals itself.

Trouble (a lost connection, a gap, a refused message, silence) always ends in the same way: settle
with the stream what it holds (see `settle`), take back the rest, go on with a new batch. That is
the pump's work too, so nothing else can be sent meanwhile; a keeper task runs the pump when
trouble comes while nobody sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ingestor.blocks import Encoder, Runs
from ingestor.bounds import MAX_PAYLOAD_BYTES
from ingestor.clock import now_ns
from ingestor.errors import IngestorError, NatsUnreachableError, StreamError
from ingestor.publish.access import Access
from ingestor.publish.connection import Connection
from ingestor.publish.jetstream import JetStreamApi, RefusedError
from ingestor.publish.ledger import Ledger
from ingestor.publish.patience import SILENCE_S, Patience, Verdict
from ingestor.publish.settle import Question, find_stored
from ingestor.publish.status import StatusPublisher
from ingestor.publish.stream import StreamSettings, set_up

RETRY_S: Final = 0.1
"""Pause before trying again what has just failed."""

GIVE_UP_AFTER_S: Final = 60.0
"""How long nothing may be acknowledged, by default, before the run ends."""

FLOW_PERIOD_S: Final = 0.01
"""How often the stream is to acknowledge."""

CLOSE_TIMEOUT_S: Final = 5.0
"""An orderly close waits this long for the last acknowledgements."""

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
        self.statuses = StatusPublisher(self._connection)
        """Publishes what feeds tell about themselves, beside the market's data."""
        self._ledger: Ledger | None = None
        self._stream_bound = MAX_PAYLOAD_BYTES
        self._patience = Patience(self._silence_s)
        self._lock = asyncio.Lock()
        self._news = asyncio.Event()
        self._trouble = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stuck_since_s: float | None = None
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
            self._ledger = Ledger(inbox, state)
            await self._connection.listen(f"{inbox}.>", self._receive)
        except TimeoutError as error:
            raise self._connection.failure or NatsUnreachableError(
                f"the NATS server at {self._connection.servers} does not answer: {error}"
            ) from None
        self._keeper = asyncio.create_task(self._keep())

    async def send(self, runs: Runs) -> None:
        """Send all rows in order, as fast as the stream takes them.

        Returns when the last row is on its way. What a cancelled send was to publish may be
        published or not. Raises NatsUnreachableError, NatsRefusedError, StreamError, and what
        the encoder raises.
        """
        async with self._lock:
            self._books.add(runs)
            await self._pump()

    async def flush(self) -> None:
        """Return when everything sent is acknowledged and the open batch is committed.

        The answer to the commit is the one that names a stream sequence: only it can show that the
        stream is still the one that was published to. Raises as `send` does.
        """
        async with self._lock:
            await self._pump()
            while self._books.window.messages:
                self._commit()
                await self._wait()
                await self._pump()
            self._commit()
            batch = self._books.batch
            with contextlib.suppress(TimeoutError):
                await self._until(
                    lambda: batch.ended or not batch.committing or self._trouble.is_set(),
                    self._silence_s,
                )

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> PublishReport:
        """End the batch and the connection in bounded time; say what is stored for certain.

        `flush` is what says that all is stored: this drops rows that were handed over and not
        sent, waits only `timeout_s` for acknowledgements, and raises nothing.
        """
        statuses = asyncio.create_task(self.statuses.close())
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
            self._books.drop_unsent()
            with contextlib.suppress(TimeoutError, IngestorError):
                async with asyncio.timeout(timeout_s):
                    await self.flush()
        self._stop_timer()
        await statuses
        await self._connection.close()
        return self._report()

    def _report(self) -> PublishReport:
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
        )

    @property
    def _books(self) -> Ledger:
        if self._ledger is None:
            raise RuntimeError("the publisher is not open")
        return self._ledger

    # Sending. The lock is held by whoever pumps.

    async def _pump(self) -> None:
        """Send what is to be sent, and mend what is broken."""
        try:
            self._raise_failure()
            while (runs := self._books.next_runs()) is not None or self._trouble.is_set():
                if self._trouble.is_set() or runs is None:
                    await self._mend()
                elif (room := self._books.room()) > 0:
                    self._write(runs, room)
                else:
                    await self._wait()
        except IngestorError as error:
            self._fail(error)
            raise

    def _write(self, runs: Runs, room: int) -> None:
        ledger = self._books
        batch = ledger.batch
        frames = self._encoder.encode(runs, batch.reply, batch.sent + 1, room)
        if not self._connection.write(*frames.parts):
            self._trouble.set()
            return
        ledger.sent(frames)
        if self._timer is None:
            acked = ledger.window.acked_messages
            self._set_timer(self._patience.start(ledger.sent_messages, acked, _now_s()))

    async def _wait(self) -> None:
        """Wait for an answer, a change of the connection, or a failure, which is raised."""
        self._raise_failure()
        self._news.clear()
        await self._news.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _fail(self, error: IngestorError) -> None:
        self.failure = self.failure or error
        self._news.set()

    # Answers and changes: called from the client, which loses its read loop if they raise.

    def _receive(self, subject: str, data: bytes, status: str | None) -> None:
        try:
            self._take(subject, data, status)
        except IngestorError as error:
            self._fail(error)
        except Exception as error:
            log.exception("an acknowledgement cannot be dealt with")
            self._fail(IngestorError(f"an acknowledgement cannot be dealt with: {error}"))

    def _take(self, subject: str, data: bytes, status: str | None) -> None:
        ledger = self._books
        self._note_acknowledged(ledger.receive(subject, data, status))
        if ledger.batch.ended:
            self._patience.answered(_now_s())
            self._stop_timer()
        if ledger.batch.broken:
            self._trouble.set()
        self._news.set()

    def _note_acknowledged(self, rows: int) -> None:
        if rows:
            self.last_ack_ns = now_ns()
            self._stuck_since_s = None
            if self._on_acknowledged is not None:
                self._on_acknowledged(rows)

    def _connection_changed(self) -> None:
        if self._connection.failure is not None:
            self._fail(self._connection.failure)
        elif self._connection.up:
            log.info("connected to %s again", self._connection.servers)
        else:
            log.warning("the connection to %s is lost", self._connection.servers)
            self._trouble.set()
        self._news.set()

    # What is not acknowledged in time.

    def _set_timer(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        ledger = self._books
        if self._trouble.is_set():
            return
        sent, acked = ledger.sent_messages, ledger.window.acked_messages
        coming = ledger.ack_is_coming
        verdict, next_s = self._patience.judge(sent, acked, _now_s(), coming=coming)
        if verdict is Verdict.GIVE_UP:
            log.warning("%s says nothing: connecting anew", self._connection.servers)
            self._connection.drop()
            return
        outpaced = ledger.pace(round(self._patience.messages_per_s * FLOW_PERIOD_S))
        if outpaced or verdict in (Verdict.ASK, Verdict.REST):
            self._commit()
        if verdict is not Verdict.REST or ledger.batch.committing:
            self._set_timer(next_s)

    def _commit(self) -> None:
        """Ask for what is not acknowledged, where that can be asked for."""
        batch = self._books.batch
        if batch.can_commit and not self._trouble.is_set():
            batch.committing = True
            self._patience.asked(_now_s())
            if not self._connection.write(batch.fence(self._books.subject)):
                self._trouble.set()

    # Trouble.

    async def _keep(self) -> None:
        with contextlib.suppress(IngestorError):
            while True:
                await self._trouble.wait()
                async with self._lock:
                    await self._pump()

    async def _mend(self) -> None:
        """Settle and restart, or fail to; called again as long as there is trouble."""
        if self._stuck_since_s is None:
            self._stuck_since_s = _now_s()
        elif self._stuck_for_s() >= self._give_up_after_s:
            raise self._given_up()
        else:
            await asyncio.sleep(RETRY_S)
        try:
            await self._settle()
        except TimeoutError as error:
            self._reason = str(error)
        except RefusedError as refused:
            if not refused.passing:
                raise
            self._reason = str(refused)
        else:
            self._restart()

    async def _settle(self) -> None:
        """Find out what is stored. Raises TimeoutError when the server does not help."""
        ledger = self._books
        await self._until(lambda: self._connection.up, self._give_up_after_s - self._stuck_for_s())
        if ledger.window.messages and not ledger.batch.fenced:
            await self._fence()
        if not (ledger.batch.ended and ledger.batch.broken):
            acked = ledger.batch.acked
            question = Question(
                self._settings.name, ledger.floor_seq, ledger.window.unacknowledged()
            )
            stored = await find_stored(self._api, question, self._encoder)
            self._note_acknowledged(ledger.settle(stored, acked))

    async def _fence(self) -> None:
        batch = self._books.batch
        if self._connection.write(batch.fence(self._books.subject)):
            try:
                await self._until(lambda: batch.fenced or not self._connection.up, self._silence_s)
            except TimeoutError:
                self._connection.drop()
                raise
        if not batch.fenced:
            raise TimeoutError("the connection is lost again")

    def _stuck_for_s(self) -> float:
        return 0.0 if self._stuck_since_s is None else _now_s() - self._stuck_since_s

    def _given_up(self) -> IngestorError:
        servers, left = self._connection.servers, f"for {self._give_up_after_s:g} s"
        if not self._connection.up:
            return NatsUnreachableError(f"no NATS server has answered at {servers} {left}")
        reason = f" ({self._reason})" if self._reason else ""
        name = self._settings.name
        return StreamError(f"stream {name} at {servers} has acknowledged nothing {left}{reason}")

    def _restart(self) -> None:
        ledger = self._books
        batch = ledger.batch
        if batch.torn:
            raise StreamError(
                f"stream {self._settings.name} refused a message ({batch.refusal}) and stored "
                "one behind it: the order is broken"
            )
        if ledger.fatal is not None:
            raise StreamError(f"stream {self._settings.name} refuses messages: {ledger.fatal}")
        self._reason = str(batch.refusal or "")
        if ledger.window.rows:
            name, rows = self._settings.name, ledger.window.rows
            log.info("%d rows that stream %s has not stored are sent again", rows, name)
        self._trouble.clear()
        if not self._connection.up:
            self._trouble.set()
        self._bound_messages()
        ledger.restart()
        if not ledger.unstored_rows:
            self._stuck_since_s = None

    def _bound_messages(self) -> None:
        """Cut messages as this server and the stream take them, once all before is settled."""
        bound = min(self._connection.max_payload_bytes, self._stream_bound)
        self._encoder.max_payload_bytes = bound

    async def _until(self, done: Callable[[], bool], limit_s: float) -> None:
        """Wait until `done`. Raises TimeoutError."""
        async with asyncio.timeout(max(limit_s, 0.0)):
            while not done():
                await self._wait()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
