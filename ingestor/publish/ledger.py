"""The books of a publisher: rows to be sent, rows under way, rows known to be stored.

No I/O: answers are handed in, and what may be sent is asked for. Everything under way belongs to
the open batch, since a batch is followed by another only when it is wholly acknowledged or
settled; so the order in the stream is the order of sending.
"""

from __future__ import annotations

import secrets
from collections import Counter, deque
from typing import Final

from ingestor.blocks import Frames, Runs
from ingestor.errors import StreamError
from ingestor.publish.answers import NO_RESPONDERS, ApiError, parse_answer
from ingestor.publish.batches import FLOW_MESSAGES, AckBatch, Batch, FastBatch
from ingestor.publish.readback import Stored
from ingestor.publish.stream import StreamState
from ingestor.publish.window import Window
from ingestor.records import EVENT_TYPE_BY_RTYPE

MAX_UNACKED_BYTES: Final = 32 * 1024 * 1024
"""Nothing is sent while so much is under way; the server drops what comes when 128 MiB wait."""

MAX_WRITE_ROWS: Final = 4096
"""Rows encoded and written at a time: about four megabytes of the largest events."""

_LARGE_ACKS: Final = 8
"""Acknowledgements in `MAX_UNACKED_BYTES` of messages so large that these bytes are the bound."""

_FLOW_STEP: Final = 2
"""A batch is replaced when this many times its acknowledgements would do."""

FAST_INGEST: Final = "fast_ingest"
ACK_WINDOW: Final = "ack_window"

_BATCH_ID_BYTES: Final = 8
_STATUS_NO_RESPONDERS: Final = "503"
_NO_FAST_INGEST: Final = frozenset({10205, 10206})
"""Batch publish is disabled; its reply subject is not understood."""

_PASSING: Final = frozenset({503, 10008, 10009, 10167, 10208, 10211}) | _NO_FAST_INGEST
"""Refusals that end a batch and not the run: nobody listens (just now), no leader, too many
requests, batch unknown (it was silent for too long), too many batches."""


class Ledger:
    """Books over one stream and one inbox."""

    def __init__(self, inbox: str, state: StreamState) -> None:
        self._inbox = inbox
        self._fast_ingest = state.fast_ingest
        self._proven = False
        self._base_seq = state.last_seq
        self._message_bytes = 1
        self._flow = FLOW_MESSAGES
        self._unsent: deque[Runs] = deque()
        self._rows_by_rtype: Counter[int] = Counter()
        self.window = Window()
        self.batch = self._new_batch()
        self.subject = ""
        """A subject that was published to."""
        self.first_seq: int | None = None
        """Stream sequence of the first message, once it is known to be stored."""

    @property
    def mode(self) -> str:
        """How messages are published: `FAST_INGEST` or `ACK_WINDOW`."""
        return FAST_INGEST if self._fast_ingest else ACK_WINDOW

    @property
    def floor_seq(self) -> int:
        """Our last acknowledged message has this stream sequence, or a later one.

        Exact where no other publisher writes, and always where the stream told it.
        """
        return max(self._base_seq + self.batch.acked, self.batch.last_seq or 0)

    @property
    def sent_messages(self) -> int:
        """Messages that are stored or under way."""
        return self.window.acked_messages + self.window.messages

    @property
    def ack_is_coming(self) -> bool:
        """Whether so much is under way that the stream acknowledges without being asked."""
        return self.window.messages >= self.batch.flow

    @property
    def unstored_rows(self) -> int:
        """Rows that are to be sent or under way."""
        return self.window.rows + sum(len(runs) for runs in self._unsent)

    @property
    def fatal(self) -> ApiError | None:
        """The refusal that trying again cannot help."""
        refusal = self.batch.refusal
        if refusal is None or (refusal.err_code or refusal.code) in _PASSING:
            return None
        return refusal

    def add(self, runs: Runs) -> None:
        """Take rows that are to be sent after all others."""
        if len(runs):
            self._unsent.append(runs)

    def next_runs(self) -> Runs | None:
        """Return the rows to send next, at most `MAX_WRITE_ROWS`; None when there are none."""
        if not self._unsent:
            return None
        if len(self._unsent[0]) > MAX_WRITE_ROWS:
            front, rest = self._unsent.popleft().split(MAX_WRITE_ROWS)
            self._unsent.extendleft((rest, front))
        return self._unsent[0]

    def room(self) -> int:
        """Messages that may be sent now; opens the next batch when this one is complete."""
        if self.batch.ended and not self.batch.broken:
            self._open()
        return self.batch.room if self.window.size_bytes < MAX_UNACKED_BYTES else 0

    def sent(self, frames: Frames) -> None:
        """Note that `frames`, made of the front of `next_runs`, are on their way."""
        front, rows = self._unsent.popleft(), int(frames.rows_stop[-1])
        if rows < len(front):
            front, rest = front.split(rows)
            self._unsent.appendleft(rest)
        self.window.push(front, frames)
        for rtype, count in frames.rows_by_rtype.items():
            self._rows_by_rtype[rtype] += count
        self.batch.sent += frames.messages
        self._message_bytes = max(1, frames.size_bytes // frames.messages)
        self.subject = self.subject or _subject_of(bytes(frames.parts[0]))

    def receive(self, subject: str, data: bytes, status: str | None) -> int:
        """Take an answer; return how many rows it acknowledges.

        Answers to batches of the past are ignored. Raises StreamError when it cannot be read, or
        when the stream's sequences have fallen behind what it acknowledged.
        """
        batch = self.batch
        if not subject.startswith(f"{batch.prefix}."):
            return 0
        nobody = status == _STATUS_NO_RESPONDERS and not data
        answer = NO_RESPONDERS if nobody else parse_answer(data)
        acked = batch.acked
        batch.receive(subject[len(batch.prefix) + 1 :], answer)
        if batch.last_seq is not None and batch.last_seq < self._base_seq + batch.acked:
            raise StreamError(
                f"the stream stored a message at sequence {batch.last_seq} though it had "
                f"acknowledged others up to {self._base_seq}: it was made anew while we published"
            )
        if batch.ended and isinstance(batch, FastBatch):
            self._fast_ingest = self._proven = batch.fast_ingest
        if self.first_seq is None and batch.acked == 1:
            self.first_seq = batch.last_seq
        return self.window.acknowledge(batch.acked - acked)

    def settle(self, stored: Stored, acked: int) -> int:
        """Note how much of what was under way is stored; return the number of rows.

        `acked` messages of the batch were acknowledged when the stream was asked. Answers may
        have come since, so the two are not added up: the greater says more.
        """
        batch = self.batch
        news = max(acked + stored.count - batch.acked, 0)
        batch.acked += news
        batch.last_seq = max(stored.last_seq or 0, batch.last_seq or 0) or None
        if self.first_seq is None:
            self.first_seq = stored.first_seq
        return self.window.acknowledge(news)

    def pace(self, messages: int) -> bool:
        """Want an acknowledgement about every `messages`, from the next batch on.

        True when the open batch has far more of them than that: it is better replaced.
        """
        self._flow = max(1, min(messages, FLOW_MESSAGES))
        batch = self.batch
        return isinstance(batch, FastBatch) and self._new_flow() >= batch.flow * _FLOW_STEP

    def restart(self) -> None:
        """Open a batch anew; what was under way is to be sent again, before all else."""
        refusal = self.batch.refusal
        if refusal is not None and refusal.err_code in _NO_FAST_INGEST:
            self._fast_ingest = False
        self._proven = False
        self._open()
        back = self.window.take_back()
        for runs in back:
            self._rows_by_rtype.subtract(runs.counts_by_rtype())
        self._unsent.extendleft(reversed(back))

    def drop_unsent(self) -> None:
        """Forget the rows that are to be sent."""
        self._unsent.clear()

    def stored_rows_by_subject(self) -> dict[str, int]:
        """Return how many rows of each subject are known to be stored."""
        stored = Counter(self._rows_by_rtype)
        for runs in self.window.unacknowledged():
            stored.subtract(runs.counts_by_rtype())
        return {EVENT_TYPE_BY_RTYPE[rtype].subject: rows for rtype, rows in (+stored).items()}

    def _open(self) -> None:
        self._base_seq = self.floor_seq
        self.batch = self._new_batch()

    def _new_batch(self) -> Batch:
        batch_id = secrets.token_hex(_BATCH_ID_BYTES)
        if self._fast_ingest:
            flow = self._new_flow()
            return FastBatch(self._inbox, batch_id, flow=flow, proof=not self._proven)
        return AckBatch(self._inbox, batch_id)

    def _new_flow(self) -> int:
        """However large messages are, acknowledgements come while others are under way."""
        largest = MAX_UNACKED_BYTES // self._message_bytes // _LARGE_ACKS
        return max(1, min(largest, self._flow))


def _subject_of(frames: bytes) -> str:
    """Return the subject of the first ``PUB`` command."""
    return frames[4 : frames.index(b" ", 4)].decode()
