"""Recovery: find out what is stored, take back the rest, and go on with a new batch.

Trouble (a lost connection, a gap, a refused message, a second of silence) always ends in the same
way. A living batch of fast ingest is asked first, with its own next event: its answer is exact
whatever the stream is like, and puts an end to all that is on its way. Then the stream is asked
what it holds (see `reconcile`); where somebody else has written, we ask whether we still may; and
the first message that is sent again carries a guard.

A stream that has lost what it acknowledged, with its server's memory or by somebody's hand, is gone
on with: made again where it is gone, and the loss is said and counted, never sent again.

What is not due cannot be late: time runs against a server only while something is to be stored.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from ingestor.model.errors import IngestorError, NatsUnreachableError, StreamError
from ingestor.nats.answers import (
    FULL,
    NO_RESPONDERS,
    TRANSIENT,
    WRONG_LAST_SEQUENCE,
    Answer,
    ApiError,
    NobodyListensError,
    PubAck,
    Refusal,
    RefusedError,
    parse_answer,
)
from ingestor.publish.ack_timer import MAX_RETRY_S
from ingestor.publish.batches import AckBatch, FastBatch, PublishBatch
from ingestor.publish.ledger import StoredPrefix
from ingestor.publish.link import ANSWER_S, StreamLink, now_s
from ingestor.publish.reconcile import NO_REPLY, StreamLostError, messages_of

REFUSED_REST_S: Final = 0.05
"""A batch that ends by a refused message tells its count behind the refusal, if it ever does."""

SILENCE_S: Final = 10.0
"""A connection that brings no answer for this long, though asked, is made anew."""

PONG_S: Final = 1.0
"""The same where the server, which nobody leads just now, does not answer a ping either."""

FORMER_S: Final = 2.0
"""How long the server may take to read what a lost connection left in its sockets."""

GUARD_BYTES: Final = 80
"""What the header of a guarded message takes at most."""

GUARDED_ATTEMPTS: Final = 5
"""This many refused guards in a row mean that others write the subject: send unguarded."""

_SILENT_STREAM: Final = (
    "the stream takes messages and stores none: a disk that was full may have stopped it, "
    "until its server is started again"
)

log = logging.getLogger(__name__)


class Recovery:
    """Recovers one link. Nothing else is sent meanwhile: its user sees to that."""

    def __init__(self, link: StreamLink, *, give_up_after_s: float) -> None:
        self._link = link
        self._give_up_after_s = give_up_after_s
        self._guards_held = 0
        self._probed: tuple[PublishBatch, int] | None = None
        self._disorder: tuple[PublishBatch, int] | None = None
        self.silence_s = min(SILENCE_S, give_up_after_s / 2)
        """A server that answers nothing for this long is dropped."""

    async def run(self) -> None:
        """Reconcile and restart, or fail to; to be called again as long as that is needed.

        Raises NatsUnreachableError, NatsRefusedError, StreamError when that is hopeless.
        """
        link = self._link
        if self._stalled_s() >= self._give_up_after_s:
            raise self._given_up()
        if link.stall.pause_s:
            await link.wait_for(lambda: False, link.stall.pause_s)
        link.stall.note_attempt()
        try:
            await self._connected()
            await self._reconcile()
        except StreamLostError as lost:
            await self._go_on_after(lost)
        except TimeoutError as error:
            link.stall.reason = str(error)
            await self._drop_if_silent()
        except RefusedError as refused:
            if not refused.transient:
                raise
            link.stall.reason = str(refused)
        else:
            self._restart()

    def _stalled_s(self) -> float:
        due = self._link.ledger.unstored_rows > 0
        return self._link.stall.lasts_s(now_s(), due=due)

    async def _connected(self) -> None:
        """Wait for a connection. Raises TimeoutError when something is late by then."""
        while not self._link.connection.up:
            left_s = self._give_up_after_s - self._stalled_s()
            if left_s <= 0:
                raise TimeoutError("the connection is lost")
            await self._link.wait(min(left_s, MAX_RETRY_S))

    async def _reconcile(self) -> None:
        """Find out what is stored. Raises TimeoutError when the server does not help."""
        link, ledger = self._link, self._link.ledger
        batch = ledger.batch
        # The stream's own count is exact where several equal payloads lie behind the floor.
        if isinstance(batch, FastBatch) and not batch.ended:
            await self._probe(batch)
        stored = None
        if not batch.ended:
            # A batch that lives is ended by its probe, and a dead one takes nothing. What does not
            # need one may still be read from a lost connection, behind what is sent on the next
            # (0.2 s late with a 2.10 server): single messages, and the first one of a batch.
            begins = isinstance(batch, AckBatch) or not batch.acked
            if begins and not await link.connection.former_closed(FORMER_S):
                log.debug("the server still reads from a lost connection: going on")
            # Answers go on coming while the stream is asked; see `Ledger.note_stored`.
            acked = batch.acked
            stored = await link.find_stored()
            link.note_acknowledged(ledger.note_stored(stored, acked))
        # Whoever was stopped for long comes here before it writes anything that is not fenced.
        if batch.fenced_out or (stored is not None and stored.end is None):
            await link.check_lease()
        if stored is not None and ledger.window.messages:
            await self._send_guarded(stored)

    async def _probe(self, batch: FastBatch) -> None:
        """Ask a living batch with an event of it; once a connection."""
        link = self._link
        question, attempt = batch.probe, (batch, link.connection.reconnects)
        # A second one could not be told from the first, and would end the batch as a gap.
        if question is None or self._probed == attempt:
            if batch.refusal is not None and not batch.unknown:
                await link.wait_for(lambda: batch.ended, REFUSED_REST_S)
            return
        self._probed = attempt
        number, reply = question
        rows = link.ledger.window.message(number - 1 - batch.acked)
        refusal = batch.refusal
        frames = link.encoder.encode(rows, reply, number, 1)
        if link.connection.write(*frames.parts):
            await link.wait_for(
                lambda: batch.ended or batch.unknown or batch.refusal is not refusal, ANSWER_S
            )
        if batch.fenced_out:
            await link.wait_for(lambda: batch.ended, REFUSED_REST_S)

    async def _send_guarded(self, stored: StoredPrefix) -> None:
        """Have the next message stored, if nothing has come in between since we asked.

        It waits behind all that was on its way: only when it is stored is anything sent again.
        Raises TimeoutError when it is not, StreamError when it never will be.
        """
        link, ledger = self._link, self._link.ledger
        frames = link.encoder.encode(ledger.window.message(0), NO_REPLY, 1, 1)
        subject, payload = messages_of(frames.data)[0]
        guard = None if self._guards_held >= GUARDED_ATTEMPTS else stored.guard(subject)
        # Without a guard we may send twice what is still on its way; with one on a subject that
        # others write we might never send at all.
        if guard is None or len(payload) + GUARD_BYTES > link.max_message_bytes:
            self._guards_held = 0
            return
        answer = await self._ask_with(subject, payload, guard)
        if isinstance(answer, Refusal):
            self._guard_refused(answer.error, contended=stored.end is None)
        if not isinstance(answer, PubAck) or not stored.is_next(answer.stream_seq):
            raise TimeoutError("the answer to a message makes no sense")
        self._guards_held = 0
        acked, seq = ledger.batch.acked, answer.stream_seq
        end = None if stored.end is None else seq
        link.note_acknowledged(ledger.note_stored(StoredPrefix(1, seq, seq, end), acked))
        ledger.forget_refusal()

    async def _ask_with(
        self, subject: str, payload: bytes, header: tuple[str, str]
    ) -> Answer | None:
        """Publish one message by itself; return the answer, None where it makes no sense."""
        try:
            answer = await self._link.connection.request(
                "a message", subject, payload, timeout_s=ANSWER_S, headers=dict([header])
            )
            return parse_answer(answer.data)
        except NobodyListensError:
            return NO_RESPONDERS
        except TimeoutError:
            raise TimeoutError(_SILENT_STREAM) from None
        except StreamError:
            return None

    def _guard_refused(self, error: ApiError, *, contended: bool) -> None:
        self._link.stall.reason = str(error)
        if error.number in WRONG_LAST_SEQUENCE:
            self._guards_held += contended
        elif error.number in FULL:
            self._bear_full(error)
        elif error.number not in TRANSIENT:
            self._bear_refusal(error)
        raise TimeoutError(str(error))

    def _bear_refusal(self, error: ApiError) -> None:
        # Once may be a stream whose settings are just being changed, or its leader.
        if self._link.stall.is_refused_again():
            raise StreamError(f"stream {self._link.settings.name} refuses messages: {error}")

    def _bear_full(self, full: ApiError) -> None:
        if self._link.stall.slow_down():
            name, limit_s = self._link.settings.name, self._give_up_after_s
            log.warning("stream %s takes nothing: %s; waiting for up to %g s", name, full, limit_s)

    async def _drop_if_silent(self) -> None:
        """Go to another server: nothing may be wrong but the one that we are at."""
        link = self._link
        # A frozen server keeps its socket open, and nats-py notices after two pings of ten seconds.
        silent_s = now_s() - max(link.heard_s, link.connected_s)
        if not link.connection.up or silent_s <= min(PONG_S, self.silence_s):
            return
        if silent_s > self.silence_s or not await link.connection.answers(PONG_S):
            log.warning("%s does not answer: reconnecting", link.connection.servers)
            link.connection.drop()

    async def _go_on_after(self, lost: StreamLostError) -> None:
        """Go on in what is left of the stream, or in one made again, and say what is lost."""
        link, ledger = self._link, self._link.ledger
        try:
            if lost.last_seq is None:
                # From 0: something of ours that was on its way may be in it already.
                state = replace(await link.set_up_again(), last_seq=0)
                gone = ledger.window.acked_messages - ledger.lost_messages
            else:
                state = replace(ledger.stream, last_seq=lost.last_seq)
                gone = ledger.floor_seq - lost.last_seq
        except (TimeoutError, RefusedError) as error:
            if isinstance(error, RefusedError) and not error.transient:
                raise
            link.stall.reason = str(error)
            return
        if gone:
            log.error(
                "%s: %d acknowledged messages of ours, up to sequence %d, are lost; going on",
                *(lost, gone, ledger.floor_seq),
            )
        else:
            log.warning("%s held none of our messages; continuing", lost)
        ledger.go_on_in(state, gone)

    def _given_up(self) -> IngestorError:
        link, left = self._link, f"for {self._give_up_after_s:g} s"
        servers, stall = link.connection.servers, link.stall
        # Silent is another exit code than full: a supervisor starts the one again, not the other.
        if not link.connection.up or link.heard_s < (stall.since_s or 0.0):
            rows = link.ledger.unstored_rows
            return NatsUnreachableError(
                f"no NATS server has answered at {servers} {left}: {rows} rows are not stored"
            )
        reason = f" ({stall.reason})" if stall.reason else ""
        name = link.settings.name
        return StreamError(f"stream {name} at {servers} has acknowledged nothing {left}{reason}")

    def _restart(self) -> None:
        link, ledger = self._link, self._link.ledger
        batch, name = ledger.batch, link.settings.name
        if not self._is_in_order(batch):
            return
        if ledger.fatal is not None:
            self._bear_refusal(ledger.fatal)
        if ledger.full is not None:
            self._bear_full(ledger.full)
        if batch.refusal is not None:
            link.stall.reason = str(batch.refusal)
        if ledger.window.rows:
            rows = ledger.window.rows
            log.info("%d rows that stream %s has not stored are sent again", rows, name)
        # Lost again meanwhile: the next turn reconciles anew.
        if link.connection.up:
            link.needs_recovery.clear()
        link.bound_messages()
        ledger.restart()

    def _is_in_order(self, batch: PublishBatch) -> bool:
        """Whether no message was stored whose predecessor was refused; False until that is sure.

        Raises StreamError when it is not in order.
        """
        seen, self._disorder = self._disorder, (batch, batch.out_of_order)
        if batch.out_of_order <= batch.acked:
            return True
        if seen != self._disorder:
            return False  # Those before it may have been stored by now.
        raise StreamError(
            f"stream {self._link.settings.name} refused a message ({batch.refusal}) and stored "
            "one behind it: the order is broken"
        )
