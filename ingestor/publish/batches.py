"""What is under way: batches as the stream knows them, and the window of their records.

A batch is numbered messages under one reply prefix, and the unit in which order is guarded: the
stream's answers name those numbers, from 1, and the next batch opens only when this one is wholly
acknowledged or reconciled. There are two kinds. `FastBatch` is fast ingest in gap mode ``fail``:
stored in order or not at all, few answers. `AckBatch` is for servers without it: one answer per
message.

Every message of a batch is an event. Fast ingest knows commands without one, a commit and a ping,
and they would go out on a market subject, where a core subscriber takes them for data: so a batch
is committed with its last event, or left to expire, which the server does after ten seconds.

What is under way is kept as references to records, never as bytes (`SendWindow`): what must be sent
again is encoded again.

A batch may be *fenced* (`Fence`): the stream then refuses what does not follow what it is to
follow. It protects against ourselves: a process that was stopped for long, and whose work another
one has taken over, wakes up in the middle of whatever it was doing, and goes on sending.

No I/O here: what a message's reply subject is, and what an answer to it means.
Reply subjects: ``<prefix>.<flow>.fail.<sequence>.<operation>.$FI`` and ``<prefix>.<sequence>``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ingestor.model.blocks import SEQUENCE_DIGITS, Fence, Frames, Int64s, Reply, Runs
from ingestor.nats.answers import (
    BATCH_UNKNOWN,
    NO_RESPONDERS,
    WRONG_LAST_SEQUENCE,
    Answer,
    ApiError,
    FlowAck,
    FlowGap,
    PubAck,
)

FLOW_MESSAGES: Final = 500
"""Messages between two flow acknowledgements that we ask for; the server's own limit."""

OUTSTANDING: Final = 16
"""Flow acknowledgements under way at most. Two would do for a server that has nothing else to do;
where it shares its CPUs with us, it goes on working from what is under way while we wait for ours:
0.82, 0.87 and 0.93 of what it can take were measured with 4, 8 and 16."""

OPENING_MESSAGES: Final = 64
"""May be sent before the first flow acknowledgement of a batch, once fast ingest is proven."""

ACK_WINDOW_MESSAGES: Final = 2_000
"""Messages under way without fast ingest."""

A_WHOLE_WRITE: Final = sys.maxsize
"""The room of a window that is not full: a write is never cut to fit, since cutting costs us more
than one write beyond the window costs the server."""

_START, _APPEND, _STORE_AND_COMMIT = range(3)
_SUFFIX: Final = ".$FI"
_NUMBER: Final = re.compile(rf"[0-9]{{{SEQUENCE_DIGITS}}}", re.ASCII).fullmatch


class _Batch:
    """What the publisher knows of either kind."""

    def __init__(self, prefix: str, flow: int, fence: Fence | None) -> None:
        self.prefix = prefix
        self.flow = flow
        """The stream acknowledges by itself after this many messages, or fewer."""
        self.fence = fence
        self.rested = False
        """Nothing was sent for a while: what is sent next must be fenced, all of it."""
        self.sent = 0
        self.acked = 0
        self.last_seq: int | None = None
        """Stream sequence of the last acknowledged message, where the stream has told it."""
        self.refusal: ApiError | None = None
        """The first reason given against a message."""
        self.broken = False
        """No more of it may be sent: reconcile first."""
        self.ended = False
        """Nothing more of it will be stored, and it is known how much is."""
        self.out_of_order = 0
        """Number of a message said to be stored though one before it was refused; or 0."""
        self.committed = False
        """Its last message is on its way, or stored."""
        self.closing = False
        """Its next message is its last one."""
        self.odd_answers = 0
        """Answers that no server would give; ignored."""

    @property
    def fenced_out(self) -> bool:
        """Whether the stream holds something else where a message of ours was to stand."""
        refused = self.refusal is not None and self.refusal.number in WRONG_LAST_SEQUENCE
        return refused and self.fence is not None

    def note_sent(self, messages: int) -> None:
        """Note that `messages` messages were sent under `reply`."""
        self.sent += messages
        self.rested = False

    def _break(self, error: ApiError | None) -> None:
        self.broken = True
        self.refusal = self.refusal or error

    def _store(self, acked: int, seq: int) -> None:
        self.acked = acked
        self.last_seq = seq

    # All or nothing: see `A_WHOLE_WRITE`.
    def _room(self, limit: int) -> int:
        return A_WHOLE_WRITE if self.sent < limit else 0


class FastBatch(_Batch):
    """One batch of fast ingest.

    `flow` is how many messages between flow acknowledgements we ask for. `proof` makes it a batch
    of a single message, which is committed with it: the answer proves that the server knows fast
    ingest, and tells the message's stream sequence.
    """

    def __init__(
        self,
        inbox: str,
        batch_id: str,
        *,
        proof: bool = False,
        flow: int = FLOW_MESSAGES,
        fence: Fence | None = None,
    ) -> None:
        super().__init__(f"{inbox}.{batch_id}", flow, fence)
        self.closing = proof
        self._id = batch_id
        self._proof = proof
        self._granted = OPENING_MESSAGES
        self.fast_ingest = True
        """False when the proof was stored as an ordinary message."""
        self.unknown = False
        """The server has forgotten it, or never knew it: nothing more of it will be stored."""
        self._head = f"{self.prefix}.{flow}.fail.".encode()
        self._append = Reply(self._head, b".%d.$FI" % _APPEND, fence)

    @property
    def room(self) -> int:
        """Messages that may be sent now: none, one, or `A_WHOLE_WRITE`.

        The first and the last have operations of their own.
        """
        if self.broken or self.ended or self.committed:
            return 0
        return 1 if self.closing or not self.sent else self._room(self.acked + self._granted)

    @property
    def reply(self) -> Reply:
        """Reply subject of the next messages."""
        if self.closing:
            return self._fenced(_STORE_AND_COMMIT)
        if not self.sent:
            return self._fenced(_START)
        return self._fenced(_APPEND) if self.rested else self._append

    def note_sent(self, messages: int) -> None:
        """Note that `messages` messages were sent under `reply`."""
        super().note_sent(messages)
        # Only fast ingest knows commits: an `AckBatch` goes on however often it is closed.
        self.committed = self.closing

    @property
    def probe(self) -> tuple[int, Reply] | None:
        """Number and reply subject with which an event of it may be sent again to ask about it.

        Whatever the server holds of a living batch, the answer is its exact count: the next event
        is stored and commits it; one that was stored before is not stored again but, being a gap,
        ends the batch. A batch that the server does not know takes no event but the first, so the
        first one never asks. None where there is nothing to ask with, or about.
        """
        number = max(self.acked + 1, 2)
        # Nobody listening is no refusal: the batch may live on at another leader.
        refused = self.refusal is not None and self.refusal != NO_RESPONDERS.error
        if refused or self.unknown or self._proof or number > self.sent:
            return None
        return number, self._fenced(_STORE_AND_COMMIT)

    def receive(self, tail: str, answer: Answer) -> None:
        """Take an answer; `tail` is its subject after the prefix and a dot."""
        if not tail.endswith(_SUFFIX):
            self.odd_answers += 1
        elif isinstance(answer, FlowAck):
            self._flow_acknowledged(answer)
        elif isinstance(answer, PubAck):
            self._end(answer)
        else:
            error = None if isinstance(answer, FlowGap) else answer.error
            self.unknown = self.unknown or (error is not None and error.err_code == BATCH_UNKNOWN)
            self._break(error)

    def _flow_acknowledged(self, ack: FlowAck) -> None:
        if ack.sequence > self.sent:
            self.odd_answers += 1
            return
        # Answers may overtake each other through a cluster; the highest says all.
        self.acked = max(self.acked, ack.sequence)
        # As the server says, within bounds: 0 would stop us forever, and more than was asked is
        # none.
        self._granted = min(max(ack.messages, 1), FLOW_MESSAGES) * OUTSTANDING

    def _end(self, ack: PubAck) -> None:
        if ack.batch not in ("", self._id) or ack.count > self.sent:
            self.odd_answers += 1
            return
        self.fast_ingest = ack.batch == self._id
        if not self.fast_ingest and not self._proof:
            # The stream has moved to a server that stores each message by itself.
            self._break(None)
            return
        self.ended = True
        self._store(max(ack.count, self.acked) if self.fast_ingest else 1, ack.stream_seq)
        self.broken = self.broken or self.acked < self.sent

    def _fenced(self, operation: int) -> Reply:
        """Return the reply subject of messages that bear a fence each, if there is one."""
        fence = self.fence and self.fence._replace(every=1)
        return Reply(self._head, b".%d.$FI" % operation, fence)


class AckBatch(_Batch):
    """Messages that are acknowledged one by one, a bounded number of them under way.

    Of those that are under way together only one may be fenced: where the stream refuses it for
    another message that has come first, the next one follows as many as it is to follow, and would
    be stored. So a fenced one goes alone, and the next ones when it is acknowledged.
    """

    def __init__(
        self,
        inbox: str,
        batch_id: str,
        *,
        window: int = ACK_WINDOW_MESSAGES,
        fence: Fence | None = None,
    ) -> None:
        super().__init__(f"{inbox}.{batch_id}", 1, fence and fence._replace(every=1))
        self._window = window
        self._alone = 0
        """Number of the last message that went alone."""
        self._reply = Reply(f"{self.prefix}.".encode(), b"")

    @property
    def room(self) -> int:
        """Messages that may be sent now: none, one, or `A_WHOLE_WRITE`."""
        if self.broken or self.ended or self.acked < self._alone:
            return 0
        return 1 if self._goes_alone else self._room(self.acked + self._window)

    @property
    def reply(self) -> Reply:
        """Reply subject of the next messages."""
        return replace(self._reply, fence=self.fence) if self._goes_alone else self._reply

    def note_sent(self, messages: int) -> None:
        """Note that `messages` messages were sent under `reply`."""
        if self._goes_alone:
            self._alone = self.sent + messages
        super().note_sent(messages)

    @property
    def _goes_alone(self) -> bool:
        return self.fence is not None and (self.rested or not self.sent)

    def receive(self, tail: str, answer: Answer) -> None:
        """Take an answer, as of a `FastBatch`; answers come in the order of the messages."""
        number = int(tail) if _NUMBER(tail) else 0
        if not 0 < number <= self.sent:
            self.odd_answers += 1
        elif not isinstance(answer, PubAck):
            self._break(None if isinstance(answer, (FlowAck, FlowGap)) else answer.error)
        # Stored in order: an answer that skips a number tells of a message that was refused.
        elif number == self.acked + 1 and not self.broken:
            self._store(self.acked + 1, answer.stream_seq)
        elif number > self.acked:
            if self.refusal is not None:
                self.out_of_order = max(self.out_of_order, number)
            self._break(None)


PublishBatch = FastBatch | AckBatch


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Runs in one or more messages; `rows_stop` and so on as in their `Frames`."""

    runs: Runs
    rows_stop: Int64s
    size_bytes: int
    rows_by_rtype: Mapping[int, int]

    @property
    def messages(self) -> int:
        """Number of messages."""
        return len(self.rows_stop)

    def message(self, index: int) -> Runs:
        """Return the rows of one message."""
        return self.runs.part(self.rows_before(index), self.rows_before(index + 1))

    def rows_before(self, messages: int) -> int:
        """Number of rows in the first `messages` messages."""
        return int(self.rows_stop[messages - 1]) if messages else 0


class SendWindow:
    """Unacknowledged messages in the order they were sent. Its user keeps it within bounds."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._acked_of_first = 0
        self.messages = 0
        self.rows = 0
        self.size_bytes = 0
        """Bytes of the parts that are not wholly acknowledged."""
        self.acked_messages = 0
        self.acked_rows = 0
        self._newest: tuple[Part, int] | None = None
        self._rows_by_rtype: Counter[int] = Counter()
        self._rows_by_feed: Counter[int] = Counter()
        self.first_ts_event_ns: int | None = None
        """Event time of the first acknowledged row, ns UTC."""

    @property
    def newest(self) -> Runs | None:
        """Rows of the newest acknowledged message, None where there is none."""
        return self._newest and self._newest[0].message(self._newest[1])

    def message(self, number: int) -> Runs:
        """Return the rows of an unacknowledged message, the oldest being number 0."""
        index = self._acked_of_first + number
        for part in self._parts:
            if index < part.messages:
                return part.message(index)
            index -= part.messages
        raise IndexError(number)

    def push(self, runs: Runs, frames: Frames) -> None:
        """Add what was just sent: `frames` carry exactly the rows of `runs`."""
        part = Part(runs, frames.rows_stop, frames.size_bytes, frames.rows_by_rtype)
        self._parts.append(part)
        self.messages += part.messages
        self.rows += len(runs)
        self.size_bytes += part.size_bytes

    def acknowledge(self, messages: int) -> int:
        """Drop the oldest messages; return their rows. Raises ValueError for too many."""
        if messages > self.messages:
            raise ValueError(f"{messages} messages acknowledged of {self.messages} sent")
        if messages and not self.acked_messages:
            self.first_ts_event_ns = self.message(0).event_ns(0)
        self.messages -= messages
        self.acked_messages += messages
        rows_before = self.acked_rows
        while messages:
            part, before = self._parts[0], self._acked_of_first
            after = min(part.messages, before + messages)
            rows = part.rows_before(after) - part.rows_before(before)
            self.rows -= rows
            self.acked_rows += rows
            self._acked_of_first = after
            messages -= after - before
            self._newest = (part, after - 1)
            if after == part.messages:
                self._drop_first()
        return self.acked_rows - rows_before

    def unacknowledged(self) -> list[Runs]:
        """Return the rows of all messages, oldest first; those of one part stay together."""
        runs = [part.runs for part in self._parts]
        if self._acked_of_first:
            _, runs[0] = runs[0].split(self._parts[0].rows_before(self._acked_of_first))
        return runs

    def take_back(self) -> list[Runs]:
        """Empty the window and return its rows, oldest first: they are to be sent again."""
        runs = self.unacknowledged()
        self._rows_by_rtype, self._rows_by_feed = self.acked_by_rtype, self.acked_by_feed
        self._parts.clear()
        self._acked_of_first = 0
        self.messages = self.rows = self.size_bytes = 0
        return runs

    @property
    def last_ts_event_ns(self) -> int | None:
        """Event time of the newest acknowledged row, ns UTC."""
        newest = self.newest
        return None if newest is None else newest.event_ns(-1)

    @property
    def acked_by_rtype(self) -> Counter[int]:
        """Rows known to be stored, by the type of their records."""
        return self._rows_by_rtype + Counter(self._acked_rows_of_first().counts_by_rtype())

    @property
    def acked_by_feed(self) -> Counter[int]:
        """Rows known to be stored, by the index of their feed: how far each feed is stored."""
        return self._rows_by_feed + Counter(self._acked_rows_of_first().counts_by_feed())

    def _acked_rows_of_first(self) -> Runs:
        if not self._acked_of_first:
            return _NO_RUNS
        part = self._parts[0]
        return part.runs.part(0, part.rows_before(self._acked_of_first))

    def _drop_first(self) -> None:
        part = self._parts.popleft()
        self.size_bytes -= part.size_bytes
        self._acked_of_first = 0
        # Once a write, not once a row: acknowledgements come many at a time.
        self._rows_by_rtype.update(part.rows_by_rtype)
        self._rows_by_feed.update(part.runs.counts_by_feed())


_NOTHING: Final = np.array([], dtype=np.int64)
_NO_RUNS: Final = Runs([], _NOTHING, _NOTHING, _NOTHING, _NOTHING)
