"""The ledger of a publisher: rows to be sent, rows under way, rows known to be stored.

No I/O: answers are handed in, and what may be sent is asked for. Everything under way belongs to
the open batch, since a batch is followed by another only when it is wholly acknowledged or
reconciled; so the order in the stream is the order of sending.

The *anchor* is a stream sequence known for certain: that of our last message before the open batch,
or where the stream ended before our first one. What is acknowledged is counted from there.

`ReconcileRequest` is the question how much of what is under way a stream holds, and `StoredPrefix`
the answer; `reconcile` says how it is found.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ingestor.model.blocks import Fence, Frames, Runs
from ingestor.model.errors import StreamError
from ingestor.model.records import EVENT_TYPE_BY_RTYPE
from ingestor.nats.answers import (
    FULL,
    NO_FAST_INGEST,
    NO_RESPONDERS,
    TRANSIENT,
    ApiError,
    parse_answer,
)
from ingestor.nats.stream import StreamState
from ingestor.publish.batches import FLOW_MESSAGES, AckBatch, FastBatch, PublishBatch, SendWindow

MAX_UNACKED_BYTES: Final = 32 * 1024 * 1024
"""Most bytes under way; the server drops messages once 128 MiB wait."""

MAX_WRITE_ROWS: Final = 4096
"""Rows encoded and written at a time: about four megabytes of the largest events."""

_LARGE_ACKS: Final = 8
"""Acknowledgements in `MAX_UNACKED_BYTES` of messages so large that these bytes are the bound."""

_FLOW_STEP: Final = 2
"""A batch is replaced when this many times its acknowledgements would do."""

MAX_FOREIGN_MESSAGES: Final = 2**32
"""Others store no more in the time of a batch: at a million a second it takes 71 minutes."""

FAST_INGEST: Final = "fast_ingest"
ACK_WINDOW: Final = "ack_window"

FENCE_EVERY: Final = 64
"""At most one message in this many is fenced: what a process had handed to its socket when it was
stopped gets no further. A fence costs the server 1 us, a third of a message: on each it takes 27 to
36 % of the throughput, on one in 64 nothing that can be measured (eight pairs of 300,000)."""

FENCE_EVERY_BYTES: Final = 65_536
"""The same in bytes: packed messages are large and few, and fenced each."""

MAX_UNFENCED_BATCHES: Final = 1_024
"""Where others write now and then, writing is fenced again after ever more batches, up to this many
(17 minutes of them): each time costs some 50 ms."""

_BATCH_ID_BYTES: Final = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReconcileRequest:
    """How many messages of `sent` does the stream of this identity hold?

    `acked` of ours are stored behind sequence `anchor`, `newest` being the last of them; each of
    the runs was encoded by itself. `alone` says that no foreign message was seen recently.
    """

    stream: str
    identity: str
    anchor: int
    acked: int
    newest: Runs | None
    sent: Sequence[Runs]
    alone: bool = True

    @property
    def floor(self) -> int:
        """Our newest acknowledged message has this sequence or, where others write, a later one."""
        return self.anchor + self.acked


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """The stream holds the first `count` messages; sequences where they are known.

    `end` is the stream's last sequence if all behind the anchor is ours, else None;
    `subject_ends` are the last sequences of our subjects where others write too.
    """

    count: int
    first_seq: int | None = None
    last_seq: int | None = None
    end: int | None = None
    subject_ends: dict[str, int] = field(default_factory=dict)
    leader: str = field(default="", compare=False)
    """The server that said so."""

    def guard(self, subject: str) -> tuple[str, str] | None:
        """Return the header that makes the server refuse if anything else was stored since."""
        if self.end is not None:
            return "Nats-Expected-Last-Sequence", str(self.end)
        if subject in self.subject_ends:
            return "Nats-Expected-Last-Subject-Sequence", str(self.subject_ends[subject])
        return None

    def is_next(self, seq: int) -> bool:
        """Whether a guarded message may have been stored at this sequence."""
        if self.end is not None:
            return seq == self.end + 1
        return seq > max(self.subject_ends.values(), default=0)


class Ledger:
    """The rows of one stream and one inbox; `fenced` fences them while nobody else writes."""

    def __init__(self, inbox: str, state: StreamState, *, fenced: bool = False) -> None:
        self._inbox = inbox
        self._fenced = fenced
        self._unfenced_batches, self._fence_pause = 0, 1
        self.stream = state
        """The stream as it was when counting began."""
        self._fast_ingest = state.fast_ingest
        self._proven = False
        self._anchor = state.last_seq
        self._at_anchor: tuple[int, dict[str, int]] = (0, {})
        self.alone = True
        """Whether no foreign message was seen recently."""
        self._others_seen = False
        self._first_told = 0
        self._message_bytes = 1
        self._flow = FLOW_MESSAGES
        self._unsent: deque[Runs] = deque()
        self._exact_acked = 0
        self._odd_answers = 0
        self.window = SendWindow()
        self.batch: PublishBatch = self._new_batch()
        self.first_seq: int | None = None
        """Stream sequence of the first message, once it is known to be stored."""
        self.lost_messages = 0
        """Acknowledged, and gone with a stream that was lost."""

    @property
    def mode(self) -> str:
        """How messages are published: `FAST_INGEST` or `ACK_WINDOW`."""
        return FAST_INGEST if self._fast_ingest else ACK_WINDOW

    @property
    def floor_seq(self) -> int:
        """Our last acknowledged message has this stream sequence, or a later one.

        Exact where no other publisher writes, and always where the stream told it.
        """
        return max(self._anchor + self.batch.acked, self.batch.last_seq or 0)

    @property
    def certain(self) -> tuple[int, int, dict[str, int]]:
        """A sequence known for certain, and our messages, and rows by subject, up to there."""
        if not self.exact:
            return self._anchor, *self._at_anchor
        return self.floor_seq, self.window.acked_messages, self.stored_rows_by_subject()

    @property
    def exact(self) -> bool:
        """Whether `floor_seq` is known to be the sequence of our last acknowledged message."""
        return not self.batch.acked or self._exact_acked == self.batch.acked

    @property
    def sent_messages(self) -> int:
        """Messages that are stored or under way."""
        return self.window.acked_messages + self.window.messages

    @property
    def ack_is_coming(self) -> bool:
        """Whether a full flow is under way, which the stream acknowledges unasked."""
        return self.window.messages >= self.batch.flow

    @property
    def unstored_rows(self) -> int:
        """Rows that are to be sent or under way."""
        return self.window.rows + sum(len(runs) for runs in self._unsent)

    @property
    def odd_answers(self) -> int:
        """Malformed answers on the inbox; they are ignored."""
        return self._odd_answers + self.batch.odd_answers

    @property
    def fatal(self) -> ApiError | None:
        """The refusal that trying again cannot help."""
        refusal = self.batch.refusal
        return None if refusal is None or refusal.number in TRANSIENT | FULL else refusal

    @property
    def full(self) -> ApiError | None:
        """The refusal that says there is no room."""
        refusal = self.batch.refusal
        return refusal if refusal is not None and refusal.number in FULL else None

    def add(self, runs: Runs) -> None:
        """Append rows."""
        if len(runs):
            self._unsent.append(runs)

    def next_runs(self) -> Runs | None:
        """Return the rows to send next, at most `MAX_WRITE_ROWS`; None when there are none."""
        if not self._unsent:
            return None
        if len(self._unsent[0]) > MAX_WRITE_ROWS:
            # Cut once and put back, so that each turn of the pump cuts a constant piece.
            front, rest = self._unsent.popleft().split(MAX_WRITE_ROWS)
            self._unsent.extendleft((rest, front))
        return self._unsent[0]

    def room(self, *, rested: bool = False) -> int:
        """Messages that may be sent now; opens the next batch when this one is complete.

        `rested` says that nothing was sent for a while.
        """
        batch = self.batch
        if batch.committed and batch.acked == batch.sent and self.exact:
            batch.ended = True  # By our own question: the answer to the commit may be lost.
        if batch.ended and not batch.broken:
            self._open()
        self.batch.rested = rested
        # Bytes are bounded after the fact: one write of at most 4,096 rows goes beyond.
        return self.batch.room if self.window.size_bytes < MAX_UNACKED_BYTES else 0

    def sent(self, frames: Frames) -> None:
        """Note that `frames`, made of the front of `next_runs`, are on their way."""
        front, rows = self._unsent.popleft(), int(frames.rows_stop[-1])
        if rows < len(front):
            front, rest = front.split(rows)
            self._unsent.appendleft(rest)
        self.window.push(front, frames)
        self.batch.note_sent(frames.messages)
        self._message_bytes = max(1, frames.size_bytes // frames.messages)

    def receive(self, subject: str, data: bytes | None) -> int:
        """Take an answer, None where nobody listened; return how many rows it acknowledges.

        Answers to batches of the past are left unheeded, as are those that make no sense, which
        `odd_answers` counts.
        """
        batch = self.batch
        if not subject.startswith(f"{batch.prefix}."):
            return 0
        try:
            answer = NO_RESPONDERS if data is None else parse_answer(data)
        except StreamError as error:
            log.debug("left unheeded: %s", error)
            self._odd_answers += 1
            return 0
        acked, last_seq = batch.acked, batch.last_seq
        batch.receive(subject[len(batch.prefix) + 1 :], answer)
        lowest, highest = self._credible(acked, last_seq)
        told = batch.last_seq
        if told is not None and told != last_seq and not lowest <= told <= highest:
            # Too low is a stream that was made anew. Too high is the first sign of others, or not
            # the stream's word: the true one follows, or the leader is asked.
            if batch.acked == 1 and not self.window.acked_messages:
                self._first_told = told
            batch.acked, batch.last_seq, batch.ended = acked, last_seq, False
            batch.broken = batch.broken or told < lowest
        if batch.last_seq != last_seq:
            self._note_exact()
        if batch.ended and isinstance(batch, FastBatch):
            self._fast_ingest = self._proven = batch.fast_ingest
        if self.first_seq is None and batch.acked == 1 and not self.window.acked_messages:
            self.first_seq = batch.last_seq
        return self.window.acknowledge(batch.acked - acked)

    def _credible(self, acked: int, last_seq: int | None) -> tuple[int, int]:
        """Return between which sequences the newest acknowledged message can be.

        Each of ours raises them by one; others may too, once they were seen.
        """
        floor = self._anchor + self.batch.acked
        lowest = max(floor, (last_seq or 0) + self.batch.acked - acked)
        return lowest, floor + (MAX_FOREIGN_MESSAGES if self._others_seen else 0)

    def reconcile_request(self) -> ReconcileRequest:
        """Return the question what the stream holds of the open batch."""
        window = self.window
        return ReconcileRequest(
            stream=self.stream.name,
            identity=self.stream.identity,
            anchor=self.floor_seq if self.exact else self._anchor,
            acked=0 if self.exact else self.batch.acked,
            newest=window.newest,
            sent=window.unacknowledged(),
            alone=self.alone,
        )

    def note_stored(self, stored: StoredPrefix, acked: int) -> int:
        """Note how much of what was under way is stored; return the number of rows.

        `acked` messages of the batch were acknowledged when the stream was asked. Answers may
        have come since, so the two are not added up: the greater says more.
        """
        batch = self.batch
        news = max(acked + stored.count - batch.acked, 0)
        # Never backwards: an answer that came while the stream was asked may know more.
        batch.acked += news
        if stored.last_seq is not None and batch.acked == acked + stored.count:
            batch.last_seq = max(stored.last_seq, batch.last_seq or 0)
            self._note_exact()
        if self.first_seq is None and not self.window.acked_messages:
            told = self._first_told if self._first_told <= (stored.last_seq or 0) else 0
            self.first_seq = stored.first_seq or told or None
        return self.window.acknowledge(news)

    def forget_refusal(self) -> None:
        """Note that what was refused is taken now."""
        if self.full or self.fatal:
            self.batch.refusal = None

    def pace(self, messages: int) -> bool:
        """Want an acknowledgement about every `messages`, from the next batch on.

        True when the open batch has far more of them than that: it is better replaced.
        """
        # With one flow of 500 for all, the timer asks for what a quiet feed has under way. Measured
        # at 100, 1,000 and 2,000 messages/s: half are known to be stored after 16, 14 and 12 ms
        # instead of 1, 5 and 5 (p99 56 to 113 instead of 12 to 16), for 20 to 45 requests a second
        # instead of one, and a fifth more of the server's CPU.
        self._flow = max(1, min(messages, FLOW_MESSAGES))
        batch = self.batch
        return isinstance(batch, FastBatch) and self._new_flow() >= batch.flow * _FLOW_STEP

    def leave_batch(self) -> None:
        """Leave the open batch, all of which is known to be stored, to expire."""
        if self.batch.sent and not self.window.messages and self.exact:
            self.batch.ended = True

    def restart(self) -> None:
        """Open a batch anew; what was under way is sent again first."""
        refusal = self.batch.refusal
        if refusal is not None and refusal.err_code in NO_FAST_INGEST:
            self._fast_ingest = False
        if self.batch.fenced_out:
            self._fence_pause = min(2 * self._fence_pause, MAX_UNFENCED_BATCHES)
            self._unfenced_batches, self.alone = self._fence_pause, False
        # What broke the batch may have been a server that does not know fast ingest.
        self._proven = False
        self._open()
        # `extendleft` puts them in front one by one: the last must go first.
        self._unsent.extendleft(reversed(self.window.take_back()))

    def go_on_in(self, state: StreamState, lost_messages: int) -> None:
        """Count from where a stream ends that has lost what it had acknowledged.

        What is under way is looked for behind that.
        """
        self.lost_messages += lost_messages
        self._odd_answers += self.batch.odd_answers
        self.stream = state
        self._fast_ingest = state.fast_ingest
        # A new stream is a new start: nobody else has been seen in it.
        self._proven, self.alone = False, True
        self._set_anchor(state.last_seq)
        self.batch = self._new_batch()
        self.batch.broken = True

    def drop_unsent(self) -> None:
        """Forget the rows that are to be sent."""
        self._unsent.clear()

    def stored_rows_by_subject(self) -> dict[str, int]:
        """Return how many rows of each subject are known to be stored."""
        stored = self.window.acked_by_rtype
        return {EVENT_TYPE_BY_RTYPE[rtype].subject: rows for rtype, rows in stored.items()}

    def _note_exact(self) -> None:
        self._exact_acked = self.batch.acked
        self.alone = self.batch.last_seq == self._anchor + self.batch.acked
        self._others_seen = self._others_seen or not self.alone

    def _open(self) -> None:
        self._odd_answers += self.batch.odd_answers
        self._set_anchor(self.floor_seq)
        self.batch = self._new_batch()

    def _set_anchor(self, seq: int) -> None:
        self._anchor, self._exact_acked = seq, 0
        self._at_anchor = self.window.acked_messages, self.stored_rows_by_subject()

    def _new_batch(self) -> PublishBatch:
        batch_id, fence = secrets.token_hex(_BATCH_ID_BYTES), self._new_fence()
        if not self._fast_ingest:
            return AckBatch(self._inbox, batch_id, fence=fence)
        return FastBatch(
            self._inbox, batch_id, flow=self._new_flow(), proof=not self._proven, fence=fence
        )

    def _new_fence(self) -> Fence | None:
        if self._unfenced_batches:
            self._unfenced_batches -= 1
            return None
        # Where others write too, their messages stand where ours are expected.
        if not (self._fenced and self.alone):
            return None
        every = min(FENCE_EVERY_BYTES // self._message_bytes, FENCE_EVERY)
        return Fence(self._anchor, max(every, 1))

    def _new_flow(self) -> int:
        """However large messages are, acknowledgements come while others are under way."""
        largest = MAX_UNACKED_BYTES // self._message_bytes // _LARGE_ACKS
        return max(1, min(largest, self._flow))
